//! `dm_op`: decodes the bytes as Xen's `dm.c` does, check by check, and acts.

use std::sync::Arc;

use xen_ioreq::abi::dm_op::{
    PAYLOAD_OFFSET, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE, XEN_DMOP_create_ioreq_server,
    XEN_DMOP_destroy_ioreq_server, XEN_DMOP_get_ioreq_server_info, XEN_DMOP_inject_msi,
    XEN_DMOP_map_io_range_to_ioreq_server, XEN_DMOP_map_mem_type_to_ioreq_server, XEN_DMOP_modified_memory,
    XEN_DMOP_no_gfns, XEN_DMOP_nr_vcpus, XEN_DMOP_relocate_memory, XEN_DMOP_remote_shutdown,
    XEN_DMOP_set_ioreq_server_state, XEN_DMOP_set_isa_irq_level, XEN_DMOP_set_mem_type,
    XEN_DMOP_set_pci_intx_level, XEN_DMOP_set_pci_link_route, XEN_DMOP_unmap_io_range_from_ioreq_server,
    xen_dm_op_create_ioreq_server, xen_dm_op_destroy_ioreq_server, xen_dm_op_get_ioreq_server_info,
    xen_dm_op_inject_event, xen_dm_op_inject_msi, xen_dm_op_ioreq_server_range,
    xen_dm_op_map_mem_type_to_ioreq_server, xen_dm_op_modified_memory, xen_dm_op_nr_vcpus,
    xen_dm_op_pin_memory_cacheattr, xen_dm_op_relocate_memory, xen_dm_op_remote_shutdown,
    xen_dm_op_set_ioreq_server_state, xen_dm_op_set_isa_irq_level, xen_dm_op_set_mem_type,
    xen_dm_op_set_pci_intx_level, xen_dm_op_set_pci_link_route, xen_dm_op_track_dirty_vram,
};
use xen_ioreq::abi::hvm_op::{HVMMEM_ioreq_server, HVMMEM_mmio_dm, HVMMEM_ram_ro, HVMMEM_ram_rw};
use xen_ioreq::{DomId, Errno, Gfn, IoServerId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::domain::Domain;
use crate::ioreq::{self, select::range_index};
use crate::machine::Machine;
use crate::memory_op;
use crate::p2m::P2mType;

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
    let Some(first) = bufs.first_mut() else { return Err(Errno::ENODATA) };
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
    call.dispatch(op, payload)
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
    fn dispatch(&self, op: u32, payload: &mut [u8]) -> Result<(), Errno> {
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
            // Nothing logs dirty pages here; Xen too looks at no extent while no migration runs.
            XEN_DMOP_modified_memory => Ok(()),
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
            XEN_DMOP_relocate_memory => {
                let data: xen_dm_op_relocate_memory = get(payload)?;
                must(data.pad == 0)?;
                let places = [Gfn(data.src_gfn), Gfn(data.dst_gfn)];
                memory_op::relocate(self.machine, self.caller, self.domain, places, data.size.into())
            }
            // track_dirty_vram, inject_event, pin_memory_cacheattr: not modelled.
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

    fn map_mem_type(&self, data: &xen_dm_op_map_mem_type_to_ioreq_server) -> Result<(), Errno> {
        must(data.r#type == HVMMEM_ioreq_server)?;
        must(data.flags & !XEN_DMOP_IOREQ_MEM_ACCESS_WRITE == 0)?;
        let mut servers = self.domain.servers.write();
        let server = servers.of_emulator(IoServerId(data.id), self.caller.id)?.clone();
        if data.flags != 0 {
            if servers.mem_type.is_some() {
                return Err(Errno::EBUSY);
            }
            servers.mem_type = Some(server);
            return Ok(());
        }
        must(servers.mem_type.as_ref().is_some_and(|s| Arc::ptr_eq(s, &server)))?;
        servers.mem_type = None;
        self.domain.p2m.write().retype_all(P2mType::IoreqServer, P2mType::RamRw);
        Ok(())
    }

    fn set_mem_type(&self, data: &xen_dm_op_set_mem_type) -> Result<(), Errno> {
        must(data.pad == 0)?;
        let count = u64::from(data.nr);
        let last = data.first_pfn.checked_add(count.wrapping_sub(1)).filter(|_| count > 0);
        let last = last.ok_or(Errno::EINVAL)?;
        let servers = self.domain.servers.read();
        let mut p2m = self.domain.p2m.write();
        must(p2m.max_gfn().is_some_and(|max| last <= max.0))?;
        let new = match data.mem_type {
            HVMMEM_ram_rw => P2mType::RamRw,
            HVMMEM_ram_ro => P2mType::RamRo,
            HVMMEM_mmio_dm => P2mType::MmioDm,
            HVMMEM_ioreq_server => P2mType::IoreqServer,
            // HVMMEM_unused and whatever Xen does not know.
            _ => return Err(Errno::EINVAL),
        };
        must(new != P2mType::IoreqServer || servers.mem_type.is_some())?;
        for gfn in data.first_pfn..=last {
            let Some((mfn, old)) = p2m.get(Gfn(gfn)) else {
                // A hole is MMIO already, and can be nothing else.
                must(new == P2mType::MmioDm)?;
                continue;
            };
            must(match (old, new) {
                (_, P2mType::IoreqServer) => old == P2mType::RamRw,
                (P2mType::IoreqServer, _) => new == P2mType::RamRw,
                (P2mType::RamRw | P2mType::RamRo, _) => true,
                (P2mType::MmioDm, _) => new == P2mType::MmioDm,
            })?;
            p2m.set(Gfn(gfn), mfn, new);
        }
        Ok(())
    }

    fn intx(&self, data: &xen_dm_op_set_pci_intx_level) -> Result<(), Errno> {
        must(data.domain == 0 && data.bus == 0 && data.device < 32 && data.intx < 4 && data.level < 2)?;
        let mut lines = self.domain.lines.lock();
        if let Some(pin) = lines.intx.get_mut(usize::from(data.intx)) {
            *pin = *pin & !(1 << data.device) | u32::from(data.level) << data.device;
        }
        Ok(())
    }

    fn isa(&self, data: &xen_dm_op_set_isa_irq_level) -> Result<(), Errno> {
        must(data.isa_irq < 16 && data.level < 2)?;
        let mut lines = self.domain.lines.lock();
        lines.isa = lines.isa & !(1 << data.isa_irq) | u16::from(data.level) << data.isa_irq;
        Ok(())
    }

    fn link(&self, data: &xen_dm_op_set_pci_link_route) -> Result<(), Errno> {
        must(data.isa_irq < 16)?;
        let mut lines = self.domain.lines.lock();
        *lines.link_route.get_mut(usize::from(data.link)).ok_or(Errno::EINVAL)? = data.isa_irq;
        Ok(())
    }

    /// Delivers a message-signalled interrupt: fixed or lowest-priority, physical destination; the APIC id of a vCPU
    /// is twice its number.
    fn msi(&self, addr: u64, data: u32) -> Result<(), Errno> {
        let [vector, mode, ..] = data.to_le_bytes();
        let destination = addr >> 12 & 0xff;
        // Vector 0 stands for an event channel of the guest's, of which it has none here.
        must(vector >= 16 && mode & 7 < 2)?;
        let lowest_priority = mode & 7 == 1;
        for v in &self.domain.vcpus {
            if destination == 0xff || destination == u64::from(v.id.0) * 2 {
                v.interrupt(vector);
                if lowest_priority {
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
