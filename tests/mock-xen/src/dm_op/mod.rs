//! `dm_op`: decodes the bytes as Xen's `dm.c` does, check by check, and acts.

mod interrupts;
mod memory;

pub use interrupts::InjectedEvent;

use std::sync::Arc;

use xen_ioreq::abi::dm_op::{
    PAYLOAD_OFFSET, XEN_DMOP_create_ioreq_server, XEN_DMOP_destroy_ioreq_server,
    XEN_DMOP_get_ioreq_server_info, XEN_DMOP_inject_event, XEN_DMOP_inject_msi,
    XEN_DMOP_map_io_range_to_ioreq_server, XEN_DMOP_map_mem_type_to_ioreq_server, XEN_DMOP_modified_memory,
    XEN_DMOP_no_gfns, XEN_DMOP_nr_vcpus, XEN_DMOP_pin_memory_cacheattr, XEN_DMOP_relocate_memory,
    XEN_DMOP_remote_shutdown, XEN_DMOP_set_ioreq_server_state, XEN_DMOP_set_isa_irq_level,
    XEN_DMOP_set_mem_type, XEN_DMOP_set_pci_intx_level, XEN_DMOP_set_pci_link_route,
    XEN_DMOP_track_dirty_vram, XEN_DMOP_unmap_io_range_from_ioreq_server, xen_dm_op_create_ioreq_server,
    xen_dm_op_destroy_ioreq_server, xen_dm_op_get_ioreq_server_info, xen_dm_op_inject_event,
    xen_dm_op_inject_msi, xen_dm_op_ioreq_server_range, xen_dm_op_map_mem_type_to_ioreq_server,
    xen_dm_op_modified_memory, xen_dm_op_nr_vcpus, xen_dm_op_pin_memory_cacheattr, xen_dm_op_relocate_memory,
    xen_dm_op_remote_shutdown, xen_dm_op_set_ioreq_server_state, xen_dm_op_set_isa_irq_level,
    xen_dm_op_set_mem_type, xen_dm_op_set_pci_intx_level, xen_dm_op_set_pci_link_route,
    xen_dm_op_track_dirty_vram,
};
use xen_ioreq::{DomId, Errno, IoServerId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::domain::Domain;
use crate::ioreq::{self, select::range_index};
use crate::machine::Machine;

/// Buffers that Xen takes on x86.
const MAX_BUFS: usize = 2;
/// Most operations that Xen knows; the Arm one in between has no struct here.
const OPS: u32 = XEN_DMOP_nr_vcpus + 1;

/// Length of an operation's struct, 0 where x86 has none.
fn payload_len(op: u32) -> usize {
    const SIZES: [usize; OPS as usize] = [
        0,
        size_of::<xen_dm_op_create_ioreq_server>(),
        size_of::<xen_dm_op_get_ioreq_server_info>(),
        size_of::<xen_dm_op_ioreq_server_range>(),
        size_of::<xen_dm_op_ioreq_server_range>(),
        size_of::<xen_dm_op_set_ioreq_server_state>(),
        size_of::<xen_dm_op_destroy_ioreq_server>(),
        size_of::<xen_dm_op_track_dirty_vram>(),
        size_of::<xen_dm_op_set_pci_intx_level>(),
        size_of::<xen_dm_op_set_isa_irq_level>(),
        size_of::<xen_dm_op_set_pci_link_route>(),
        size_of::<xen_dm_op_modified_memory>(),
        size_of::<xen_dm_op_set_mem_type>(),
        size_of::<xen_dm_op_inject_event>(),
        size_of::<xen_dm_op_inject_msi>(),
        size_of::<xen_dm_op_map_mem_type_to_ioreq_server>(),
        size_of::<xen_dm_op_remote_shutdown>(),
        size_of::<xen_dm_op_relocate_memory>(),
        size_of::<xen_dm_op_pin_memory_cacheattr>(),
        0,
        size_of::<xen_dm_op_nr_vcpus>(),
    ];
    usize::try_from(op).ok().and_then(|i| SIZES.get(i)).copied().unwrap_or(0)
}

/// Performs an operation of `caller` on `domid`.
pub(crate) fn dm_op(
    machine: &Arc<Machine>,
    caller: &Domain,
    domid: DomId,
    bufs: &mut [&mut [u8]],
) -> Result<(), Errno> {
    if bufs.len() > MAX_BUFS {
        return Err(Errno::E2BIG);
    }
    let domain = remote(machine, caller, domid)?;
    let Some((first, rest)) = bufs.split_first_mut() else { return Err(Errno::ENODATA) };
    let (head, payload) = first.split_at_mut_checked(PAYLOAD_OFFSET).ok_or(Errno::EFAULT)?;
    let (op, pad) =
        <[u32; 2]>::read_from_bytes(head).map(|[op, pad]| (op, pad)).map_err(|_| Errno::EFAULT)?;
    if op >= OPS {
        return Err(Errno::EOPNOTSUPP);
    }
    let payload = payload.get_mut(..payload_len(op)).ok_or(Errno::EFAULT)?;
    if pad != 0 {
        return Err(Errno::EINVAL);
    }
    let call = Call { machine, caller, domain: &domain };
    call.dispatch(op, payload, rest.first_mut().map(|b| &mut **b))
}

/// The domain that a device model may work on. ESRCH: no such domain; DOMID_SELF is the number of none. EPERM: the caller itself, or not its device
/// model. EINVAL: not a hardware-virtualised guest.
pub(crate) fn remote(machine: &Machine, caller: &Domain, domid: DomId) -> Result<Arc<Domain>, Errno> {
    if domid == caller.id {
        return Err(Errno::EPERM);
    }
    let domain = machine.domain(domid).ok_or(Errno::ESRCH)?;
    if !domain.hvm {
        return Err(Errno::EINVAL);
    }
    if !caller.controls(domid) {
        return Err(Errno::EPERM);
    }
    Ok(domain)
}

fn get<T: FromBytes>(payload: &[u8]) -> Result<T, Errno> {
    T::read_from_prefix(payload).map(|(t, _)| t).map_err(|_| Errno::EFAULT)
}

fn put<T: IntoBytes + Immutable + KnownLayout>(payload: &mut [u8], value: &T) -> Result<(), Errno> {
    value.write_to_prefix(payload).map_err(|_| Errno::EFAULT)
}

fn must(condition: bool) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(Errno::EINVAL) }
}

struct Call<'a> {
    machine: &'a Arc<Machine>,
    caller: &'a Domain,
    domain: &'a Arc<Domain>,
}

impl Call<'_> {
    /// `second` is the hypercall's other buffer, if it has one.
    fn dispatch(&self, op: u32, payload: &mut [u8], second: Option<&mut [u8]>) -> Result<(), Errno> {
        match op {
            XEN_DMOP_create_ioreq_server => {
                let mut data: xen_dm_op_create_ioreq_server = get(payload)?;
                must(data.pad == [0; 3])?;
                data.id = ioreq::create(self.machine, self.domain, self.caller.id, data.handle_bufioreq)?.0;
                put(payload, &data)
            }
            XEN_DMOP_get_ioreq_server_info => self.get_info(payload),
            XEN_DMOP_map_io_range_to_ioreq_server => self.range(&get(payload)?, true),
            XEN_DMOP_unmap_io_range_from_ioreq_server => self.range(&get(payload)?, false),
            XEN_DMOP_set_ioreq_server_state => {
                let data: xen_dm_op_set_ioreq_server_state = get(payload)?;
                must(data.pad == 0)?;
                let id = IoServerId(data.id);
                ioreq::set_state(self.machine, self.domain, self.caller.id, id, data.enabled != 0)
            }
            XEN_DMOP_destroy_ioreq_server => {
                let data: xen_dm_op_destroy_ioreq_server = get(payload)?;
                must(data.pad == 0)?;
                ioreq::destroy(self.domain, self.caller.id, IoServerId(data.id))
            }
            XEN_DMOP_map_mem_type_to_ioreq_server => self.map_mem_type(&get(payload)?),
            XEN_DMOP_set_mem_type => self.set_mem_type(&get(payload)?),
            XEN_DMOP_track_dirty_vram => self.track_dirty_vram(&get(payload)?, second),
            // Nothing logs dirty pages here; Xen too looks at no extent while no migration runs.
            XEN_DMOP_modified_memory => must(second.is_some()),
            XEN_DMOP_relocate_memory => self.relocate(&get(payload)?),
            XEN_DMOP_pin_memory_cacheattr => self.pin_cacheattr(&get(payload)?),
            XEN_DMOP_inject_event => self.inject_event(&get(payload)?),
            XEN_DMOP_set_pci_intx_level => self.intx(&get(payload)?),
            XEN_DMOP_set_isa_irq_level => self.isa(&get(payload)?),
            XEN_DMOP_set_pci_link_route => self.link(&get(payload)?),
            XEN_DMOP_inject_msi => {
                let data: xen_dm_op_inject_msi = get(payload)?;
                must(data.pad == 0)?;
                self.msi(data.addr, data.data)
            }
            XEN_DMOP_remote_shutdown => {
                let data: xen_dm_op_remote_shutdown = get(payload)?;
                self.domain.shut_down(data.reason);
                Ok(())
            }
            XEN_DMOP_nr_vcpus => {
                let vcpus = u32::try_from(self.domain.vcpus.len()).map_err(|_| Errno::ERANGE)?;
                put(payload, &xen_dm_op_nr_vcpus { vcpus })
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn get_info(&self, payload: &mut [u8]) -> Result<(), Errno> {
        let mut data: xen_dm_op_get_ioreq_server_info = get(payload)?;
        must(data.flags & !XEN_DMOP_no_gfns == 0)?;
        let servers = self.domain.servers.read();
        let server = servers.of_emulator(IoServerId(data.id), self.caller.id)?;
        if data.flags & XEN_DMOP_no_gfns == 0 {
            // The pages are a resource here and have no guest frames: either they are mapped as such already, or there
            // is no frame to put them at.
            let mapped = server.page(ioreq::Shared::Sync(0)).is_some();
            return Err(if mapped { Errno::EPERM } else { Errno::ENOMEM });
        }
        if let Some(port) = server.buffered_port() {
            data.bufioreq_port = port.0;
        }
        put(payload, &data)
    }

    fn range(&self, data: &xen_dm_op_ioreq_server_range, map: bool) -> Result<(), Errno> {
        must(data.pad == 0)?;
        must(data.start <= data.end)?;
        let servers = self.domain.servers.read();
        let server = servers.of_emulator(IoServerId(data.id), self.caller.id)?;
        let table = range_index(data.r#type).and_then(|i| server.ranges.get(i)).ok_or(Errno::EINVAL)?;
        let mut table = table.write();
        if map { table.insert(data.start, data.end) } else { table.remove(data.start, data.end) }
    }
}

#[cfg(test)]
mod tests;
