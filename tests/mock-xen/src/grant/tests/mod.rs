//! A granter and a mapper of either kind, who speak in raw structs; and what each operation does with them.

mod copy;
mod device;
mod life;
mod map;
mod revoke;
mod table;
mod threads;
mod transfer;
mod types;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{
    XENMAPIDX_grant_table_status, XENMAPSPACE_grant_table, XENMEM_add_to_physmap,
    XENMEM_decrease_reservation, xen_add_to_physmap, xen_memory_reservation,
};
use xen_ioreq::abi::revokable::*;
use xen_ioreq::seam::{GrantTableOp, Mapping, MemoryOp, OwnMemory};
use xen_ioreq::{DomId, Errno, Gfn, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::memory::Page;
use crate::{Caller, Config, DomainConfig, Machine};

pub(super) fn machine(config: Config) -> Arc<Machine> {
    crate::testing::machine(Config { fail_fast: true, ..config })
}

/// A domain with its hand on the hypervisor.
pub(super) struct Dom {
    pub(super) caller: Caller,
    pub(super) id: DomId,
    /// Its grant table, if it has asked for it.
    table: Option<Mapping>,
    status: Option<Mapping>,
    /// Where a translated domain has put its status words.
    status_at: Option<u64>,
}

/// RAM of a domain of these tests, from 0 on.
pub(super) const FRAMES: u64 = 16;

/// A PV domain whose frames from 0 on hold their number in the first byte, with a table of one frame.
pub(super) fn pv(m: &Arc<Machine>) -> Dom {
    domain(m, false, false)
}

/// A translated one, without a mapped table.
pub(super) fn hvm(m: &Arc<Machine>) -> Dom {
    domain(m, true, false)
}

/// A PV domain with a device.
pub(super) fn with_device(m: &Arc<Machine>) -> Dom {
    domain(m, false, true)
}

fn domain(m: &Arc<Machine>, hvm: bool, device_assigned: bool) -> Dom {
    let config = DomainConfig { max_pages: 32, hvm, device_assigned, ..DomainConfig::default() };
    let id = m.create_domain(&config).unwrap();
    m.populate(id, Gfn(0), FRAMES).unwrap();
    for gfn in 0..FRAMES {
        m.write_guest(id, gfn << 12, &[u8::try_from(gfn).unwrap()]).unwrap();
    }
    let mut d = Dom { caller: m.caller(id).unwrap(), id, table: None, status: None, status_at: None };
    if !hvm {
        d.map_tables();
    }
    d
}

/// One operation; what the hypercall says, and the struct afterwards.
pub(super) fn op<T: IntoBytes + FromBytes + Immutable>(
    c: &dyn GrantTableOp,
    cmd: u32,
    arg: &mut T,
) -> Result<(), Errno> {
    c.grant_table_op(cmd, arg.as_mut_bytes(), 1).map(drop)
}

impl Dom {
    pub(super) fn map_tables(&mut self) {
        let frames = self.frames(GNTTABOP_setup_table, 1).unwrap();
        self.table = Some(self.caller.map_table(&frames).unwrap());
        // A translated domain is not told where its status words are: it has put them there.
        let status = self.frames(GNTTABOP_get_status_frames, 1).ok().or(self.status_at.map(|gfn| vec![gfn]));
        self.status = status.and_then(|f| self.caller.map_table(&f).ok());
    }

    /// Has a translated domain put the first frame of its table at `gfn`.
    pub(super) fn put_table(&self, gfn: u64) {
        self.put(gfn, 0);
    }

    /// The same for its status words.
    pub(super) fn put_status(&mut self, gfn: u64) {
        self.put(gfn, u64::from(XENMAPIDX_grant_table_status));
        self.status_at = Some(gfn);
    }

    /// Its process ends, and another one begins.
    pub(super) fn restart(&mut self) {
        self.caller.kill();
        self.unmap_tables();
        self.caller = self.caller.machine().caller(self.id).unwrap();
        self.map_tables();
    }

    fn put(&self, gpfn: u64, idx: u64) {
        let (domid, space) = (DomId::SELF.0, XENMAPSPACE_grant_table);
        let mut put = xen_add_to_physmap { domid, space, idx, gpfn, ..Default::default() };
        self.caller.memory_op(XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).unwrap();
    }

    pub(super) fn unmap_tables(&mut self) {
        (self.table, self.status) = (None, None);
    }

    /// Gives a frame back; whether there was one.
    pub(super) fn balloon(&self, gfn: u64) -> bool {
        let mut arg = xen_memory_reservation { nr_extents: 1, domid: DomId::SELF.0, ..Default::default() };
        self.caller.memory_op(XENMEM_decrease_reservation, arg.as_mut_bytes(), &mut [gfn]) == Ok(1)
    }

    /// The frames of the own table, or the status.
    pub(super) fn frames(&self, cmd: u32, count: u32) -> Result<Vec<u64>, i16> {
        let mut list = vec![0; usize::try_from(count).unwrap()];
        let status = if cmd == GNTTABOP_setup_table {
            let mut arg = gnttab_setup_table { dom: DomId::SELF.0, nr_frames: count, ..Default::default() };
            self.caller.grant_table_frames(cmd, arg.as_mut_bytes(), &mut list).unwrap();
            arg.status
        } else {
            let mut arg =
                gnttab_get_status_frames { dom: DomId::SELF.0, nr_frames: count, ..Default::default() };
            match self.caller.grant_table_frames(cmd, arg.as_mut_bytes(), &mut list) {
                Ok(_) => arg.status,
                // Above all statuses there are.
                Err(Errno(n)) => i16::try_from(n).unwrap(),
            }
        };
        if status == GNTST_okay { Ok(list) } else { Err(status) }
    }

    fn page(&self) -> Page<'_> {
        Page::of_mapping(self.table.as_ref().unwrap(), 0)
    }

    /// Writes an entry of version 1 by the header's protocol.
    pub(super) fn grant(&self, reference: u32, to: DomId, gfn: u64, flags: u16) {
        let at = usize::try_from(reference).unwrap() * 8;
        self.page().u16(at + 2).store(to.0, Ordering::Relaxed);
        self.page().u32(at + 4).store(u32::try_from(gfn).unwrap(), Ordering::Relaxed);
        self.page().u16(at).store(flags, Ordering::Release);
    }

    /// Writes one of version 2: its second and third word.
    pub(super) fn grant_v2(&self, reference: u32, to: DomId, flags: u16, second: u32, third: u64) {
        let at = usize::try_from(reference).unwrap() * 16;
        self.page().u16(at + 2).store(to.0, Ordering::Relaxed);
        self.page().u32(at + 4).store(second, Ordering::Relaxed);
        self.page().u64(at + 8).store(third, Ordering::Relaxed);
        self.page().u16(at).store(flags, Ordering::Release);
    }

    /// The flags of an entry, of version 1.
    pub(super) fn flags(&self, reference: u32) -> u16 {
        self.page().u16(usize::try_from(reference).unwrap() * 8).load(Ordering::Acquire)
    }

    /// The frame of an entry, of version 1.
    pub(super) fn frame(&self, reference: u32) -> u32 {
        self.page().u32(usize::try_from(reference).unwrap() * 8 + 4).load(Ordering::Acquire)
    }

    /// The status word of an entry, of version 2.
    pub(super) fn marks(&self, reference: u32) -> u16 {
        let page = Page::of_mapping(self.status.as_ref().unwrap(), 0);
        page.u16(usize::try_from(reference).unwrap() * 2).load(Ordering::Acquire)
    }

    /// Withdraws an entry by compare-exchange; whether it had not been in use.
    pub(super) fn withdraw(&self, reference: u32) -> bool {
        let word = self.page().u16(usize::try_from(reference).unwrap() * 8);
        let flags = word.load(Ordering::SeqCst);
        flags & (GTF_reading | GTF_writing) == 0
            && word.compare_exchange(flags, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Withdraws an entry that may be in use: nothing more is granted by it.
    pub(super) fn close(&self, reference: u32) {
        let word = self.page().u16(usize::try_from(reference).unwrap() * 8);
        word.fetch_and(!GTF_type_mask, Ordering::SeqCst);
    }

    /// Maps; the struct afterwards, or its status.
    pub(super) fn map(
        &self,
        from: &Self,
        reference: u32,
        flags: u32,
        host_addr: u64,
    ) -> Result<gnttab_map_grant_ref, i16> {
        let mut arg =
            gnttab_map_grant_ref { host_addr, flags, r#ref: reference, dom: from.id.0, ..Default::default() };
        op(&self.caller, GNTTABOP_map_grant_ref, &mut arg).unwrap();
        if arg.status == GNTST_okay { Ok(arg) } else { Err(arg.status) }
    }

    /// The same for a revokable grant.
    pub(super) fn map_revokable(
        &self,
        from: &Self,
        reference: u32,
        flags: u32,
        host_addr: u64,
        lgfn: u64,
    ) -> Result<gnttab_map_grant_ref, i16> {
        let map =
            gnttab_map_grant_ref { host_addr, flags, r#ref: reference, dom: from.id.0, ..Default::default() };
        let mut arg = gnttab_map_revokable { map, lgfn };
        op(&self.caller, GNTTABOP_map_revokable, &mut arg).unwrap();
        if arg.map.status == GNTST_okay { Ok(arg.map) } else { Err(arg.map.status) }
    }

    pub(super) fn unmap(&self, handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
        let mut arg = gnttab_unmap_grant_ref { host_addr, dev_bus_addr, handle, ..Default::default() };
        op(&self.caller, GNTTABOP_unmap_grant_ref, &mut arg).unwrap();
        arg.status
    }

    /// Unmaps what is at `host_addr`, and moves what is at `new_addr` there.
    pub(super) fn replace(&self, handle: u32, host_addr: u64, new_addr: u64) -> i16 {
        let mut arg = gnttab_unmap_and_replace { host_addr, new_addr, handle, ..Default::default() };
        op(&self.caller, GNTTABOP_unmap_and_replace, &mut arg).unwrap();
        arg.status
    }

    pub(super) fn revoke(&self, reference: u32) -> Result<(), Errno> {
        op(&self.caller, GNTTABOP_revoke, &mut gnttab_revoke { r#ref: reference })
    }

    /// Copies between what `source` and `dest` say, with these flags.
    pub(super) fn copy(&self, source: gnttab_copy_ptr, dest: gnttab_copy_ptr, len: u16, flags: u16) -> i16 {
        let mut arg = gnttab_copy { source, dest, len, flags, ..Default::default() };
        op(&self.caller, GNTTABOP_copy, &mut arg).unwrap();
        arg.status
    }

    /// A byte of its own RAM, as the toolstack sees it.
    pub(super) fn byte(&self, address: u64) -> u8 {
        let mut b = [0];
        self.caller.machine().read_guest(self.id, address, &mut b).unwrap();
        b[0]
    }
}

/// One end of a copy.
pub(super) fn ptr(domid: DomId, u: u64, offset: u16) -> gnttab_copy_ptr {
    gnttab_copy_ptr { u, domid: domid.0, offset, ..Default::default() }
}

/// A reserved range, by page.
pub(super) struct Room(Mapping);

impl Room {
    pub(super) fn new(d: &Dom, pages: usize) -> Self {
        Self(d.caller.reserve(pages).unwrap())
    }

    pub(super) fn addr(&self, page: usize) -> u64 {
        (self.0.base().as_ptr().addr() + page * PAGE_SIZE) as u64
    }

    pub(super) fn page(&self, page: usize) -> Page<'_> {
        Page::of_mapping(&self.0, page)
    }

    pub(super) fn byte(&self, page: usize) -> u8 {
        self.page(page).u8(0).load(Ordering::SeqCst)
    }
}

/// The machine's books are right and the free frames are as many as before.
pub(super) fn all_back(m: &Machine, doms: Vec<Dom>, free: u64) {
    for d in doms {
        let id = d.id;
        drop(d);
        m.destroy_domain(id).unwrap();
    }
    m.assert_clean();
    assert_eq!(m.free_frames(), free);
}
