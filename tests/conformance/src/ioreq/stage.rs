//! The calls that rows make, each one hypercall or ioctl; what a row leaves behind is taken down before the next.

use std::rc::Rc;

use xen_ioreq::abi::dm_op::*;
use xen_ioreq::abi::ioreq::{HVM_IOREQSRV_BUFIOREQ_ATOMIC, HVM_IOREQSRV_BUFIOREQ_OFF};
use xen_ioreq::abi::memory::*;
use xen_ioreq::seam::{ForeignPages, Mapping, Prot};
use xen_ioreq::{DomId, Errno, Gfn, Port};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::bench::{Bench, RAM, RAM_FRAMES};
use crate::case::{Answer, Unmade};
use crate::shared::Slot;

/// Highest server number that Xen gives.
const SERVERS: u16 = 8;

/// A bench while one row runs.
#[derive(Debug)]
pub struct Stage {
    /// Where the row runs.
    pub bench: Rc<Bench>,
    ports: Vec<Port>,
}

impl Stage {
    /// For one row. Events of rows before it are taken out of the way.
    pub fn new(bench: &Rc<Bench>) -> Self {
        while bench.events.pending(&mut [Port(0); 16]).is_ok_and(|n| n > 0) {}
        Self { bench: bench.clone(), ports: Vec::new() }
    }

    /// The guest.
    pub fn guest(&self) -> DomId {
        self.bench.guest
    }

    /// One dm_op with the whole struct; `payload` in and out.
    pub fn dm<T: IntoBytes + FromBytes + Immutable>(
        &self,
        domid: DomId,
        op: u32,
        pad: u32,
        payload: &mut T,
    ) -> Result<(), Errno> {
        let mut whole = xen_dm_op { op, pad, ..Default::default() };
        payload.write_to_prefix(whole.u.as_mut_bytes()).map_err(|_| Errno::E2BIG)?;
        self.bench.hypervisor.dm_op(domid, &mut [whole.as_mut_bytes()])?;
        *payload = T::read_from_prefix(whole.u.as_bytes()).map_err(|_| Errno::E2BIG)?.0;
        Ok(())
    }

    /// A dm_op on the guest that gives nothing back.
    pub fn tell<T: IntoBytes + FromBytes + Immutable>(&self, op: u32, mut payload: T) -> Answer {
        self.dm(self.guest(), op, 0, &mut payload).map(|()| 0)
    }

    /// A dm_op on the guest with a second buffer.
    pub fn tell_with<T: IntoBytes + FromBytes + Immutable>(
        &self,
        op: u32,
        payload: T,
        second: &mut [u8],
    ) -> Answer {
        let mut whole = xen_dm_op { op, ..Default::default() };
        payload.write_to_prefix(whole.u.as_mut_bytes()).map_err(|_| Errno::E2BIG)?;
        self.bench.hypervisor.dm_op(self.guest(), &mut [whole.as_mut_bytes(), second]).map(|()| 0)
    }

    /// dm_ops on a domain that is paused meanwhile: of those that were carried out, bit `i` of the answer for the `i`th.
    pub fn paused(&self, domid: DomId, ops: &mut [xen_dm_op]) -> Answer {
        let done = self.bench.hypervisor.paused_dm_op(domid, ops)?;
        Ok(done.iter().enumerate().map(|(i, d)| u64::from(d.is_ok()) << i).sum())
    }

    /// A dm_op of which only the first `len` bytes are handed over.
    pub fn short(&self, op: u32, len: usize) -> Answer {
        let mut whole = xen_dm_op { op, ..Default::default() };
        let bytes = whole.as_mut_bytes().get_mut(..len).unwrap_or_default();
        self.bench.hypervisor.dm_op(self.guest(), &mut [bytes]).map(|()| 0)
    }

    /// nr_vcpus of a domain, with a `pad` of the caller's.
    pub fn nr_vcpus(&self, domid: DomId, pad: u32) -> Answer {
        let mut data = xen_dm_op_nr_vcpus::default();
        self.dm(domid, XEN_DMOP_nr_vcpus, pad, &mut data).map(|()| data.vcpus.into())
    }

    /// create_ioreq_server; the answer is its number.
    pub fn create(&self, mode: u8) -> Answer {
        let mut data = xen_dm_op_create_ioreq_server { handle_bufioreq: mode, ..Default::default() };
        self.dm(self.guest(), XEN_DMOP_create_ioreq_server, 0, &mut data).map(|()| data.id.into())
    }

    /// State: a server with an atomic ring.
    pub fn server(&self) -> Result<u16, Unmade> {
        self.server_with(HVM_IOREQSRV_BUFIOREQ_ATOMIC)
    }

    /// State: a server of that mode.
    pub fn server_with(&self, mode: u8) -> Result<u16, Unmade> {
        u16::try_from(self.create(mode)?).map_err(|_| Unmade(Errno::ERANGE))
    }

    /// State: as many servers as there can be.
    pub fn all_servers(&self) -> Result<(), Unmade> {
        (0..SERVERS).try_for_each(|_| self.server_with(HVM_IOREQSRV_BUFIOREQ_OFF).map(drop))
    }

    /// destroy_ioreq_server.
    pub fn destroy(&self, id: u16) -> Answer {
        self.tell(XEN_DMOP_destroy_ioreq_server, xen_dm_op_destroy_ioreq_server { id, pad: 0 })
    }

    /// set_ioreq_server_state.
    pub fn set_state(&self, id: u16, enabled: u8) -> Answer {
        self.tell(XEN_DMOP_set_ioreq_server_state, xen_dm_op_set_ioreq_server_state { id, enabled, pad: 0 })
    }

    /// get_ioreq_server_info.
    pub fn info(&self, id: u16, flags: u16) -> Result<xen_dm_op_get_ioreq_server_info, Errno> {
        let mut data = xen_dm_op_get_ioreq_server_info { id, flags, ..Default::default() };
        self.dm(self.guest(), XEN_DMOP_get_ioreq_server_info, 0, &mut data).map(|()| data)
    }

    /// map_io_range_to_ioreq_server.
    pub fn map(&self, id: u16, kind: u32, start: u64, end: u64) -> Answer {
        self.tell(XEN_DMOP_map_io_range_to_ioreq_server, range(id, kind, start, end))
    }

    /// unmap_io_range_from_ioreq_server.
    pub fn unmap(&self, id: u16, kind: u32, start: u64, end: u64) -> Answer {
        self.tell(XEN_DMOP_unmap_io_range_from_ioreq_server, range(id, kind, start, end))
    }

    /// State: 256 ports of the server, no two of them neighbours; the last is 0x11fe.
    pub fn all_ranges(&self, id: u16) -> Result<(), Unmade> {
        (0..256).try_for_each(|i| {
            let port = 0x1000 + 2 * i;
            self.map(id, XEN_DMOP_IO_RANGE_PORT, port, port)?;
            Ok(())
        })
    }

    /// Frames of a server's resource.
    pub fn size(&self, domid: DomId, id: u16) -> Answer {
        let r = self.bench.hypervisor.resource_size(domid, XENMEM_resource_ioreq_server, id.into());
        r.map(u64::from)
    }

    /// Maps frames of a server's resource.
    pub fn pages(&self, domid: DomId, id: u16, first: u32, nr: u32) -> Result<Mapping, Errno> {
        self.bench.hypervisor.map_resource(domid, XENMEM_resource_ioreq_server, id.into(), first, nr)
    }

    /// The event channel that stands in the first vCPU's slot.
    pub fn slot_port(&self, slots: &Mapping) -> Result<Port, Unmade> {
        // `slots` begins with the page of slots.
        let slot = Slot::first(slots).ok_or(Errno::EFAULT)?;
        Ok(slot.port())
    }

    /// State: an enabled server and the port of its first vCPU, to be bound.
    pub fn enabled(&self) -> Result<(u16, Port), Unmade> {
        let id = self.server()?;
        let slots = self.pages(self.guest(), id, 1, 1)?;
        self.set_state(id, 1)?;
        Ok((id, self.slot_port(&slots)?))
    }

    /// Binds to a port of a domain; the new port is closed after the row.
    pub fn bind(&mut self, domid: DomId, remote: Port) -> Result<Port, Errno> {
        let port = self.bench.events.bind_interdomain(domid, remote)?;
        self.ports.push(port);
        Ok(port)
    }

    /// A new port for a domain to bind to; closed after the row.
    pub fn unbound(&mut self, domid: DomId) -> Result<Port, Errno> {
        let port = self.bench.events.bind_unbound(domid)?;
        self.ports.push(port);
        Ok(port)
    }

    /// Maps frames of a domain.
    pub fn foreign(&self, domid: DomId, gfns: &[Gfn]) -> Result<ForeignPages, Errno> {
        self.bench.hypervisor.map_foreign(domid, gfns, Prot::ReadWrite)
    }

    /// A reservation of single frames, made by the toolstack; the answer is how many were done.
    pub fn reserve(&self, cmd: u32, domid: DomId, gfns: &[Gfn]) -> Answer {
        let mut list: Vec<u64> = gfns.iter().map(|g| g.0).collect();
        let mut arg = xen_memory_reservation {
            nr_extents: list.len() as u64,
            domid: domid.0,
            ..xen_memory_reservation::default()
        };
        let done = self.bench.hypervisor.memory_op(cmd, arg.as_mut_bytes(), &mut list)?;
        u64::try_from(done).map_err(|_| Errno::ERANGE)
    }

    /// An operation that asks for a number about a domain.
    pub fn ask(&self, cmd: u32, domid: DomId) -> Answer {
        let mut arg = xen_memory_domain { domid: domid.0 };
        let value = self.bench.hypervisor.memory_op(cmd, arg.as_mut_bytes(), &mut [])?;
        u64::try_from(value).map_err(|_| Errno::ERANGE)
    }

    /// By how much the host's free frames grew while `f` ran.
    pub fn freed(&self, f: impl FnOnce() -> Result<(), Unmade>) -> Result<u64, Unmade> {
        let before = self.bench.free_frames()?;
        f()?;
        Ok(self.bench.free_frames()?.wrapping_sub(before))
    }
}

fn range(id: u16, kind: u32, start: u64, end: u64) -> xen_dm_op_ioreq_server_range {
    xen_dm_op_ioreq_server_range { id, r#type: kind, start, end, ..Default::default() }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What the row has closed, destroyed or never taken answers with an error, which is no news.
        for id in 0..SERVERS {
            let _ = self.destroy(id);
        }
        for port in self.ports.drain(..) {
            let _ = self.bench.events.unbind(port);
        }
        for i in 0..RAM_FRAMES {
            let gfn = Gfn(RAM.0 + i);
            let there = self.foreign(self.guest(), &[gfn]).is_ok_and(|p| p.error(0).is_none());
            if !there {
                let _ = self.reserve(XENMEM_populate_physmap, self.guest(), &[gfn]);
            }
        }
    }
}
