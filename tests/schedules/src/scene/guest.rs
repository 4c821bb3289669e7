//! A domain of a scene: its entries by the header's protocol, with atomics on the page that the hypervisor reads meanwhile, and its
//! hypercalls in raw structs. Copies, mappings and revocations are made as a guest makes them; what must hold is the scenes' to say.
#![expect(unsafe_code, reason = "a guest's atomics on its own table")]

use std::sync::Arc;

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation, xen_memory_reservation};
use xen_ioreq::abi::revokable::*;
use xen_ioreq::seam::{GrantTableOp, Mapping, MemoryOp, OwnMemory};
use xen_ioreq::{DomId, Errno, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};
use crate::{Caller, Machine};

/// The hypervisor's marks in an entry.
pub(crate) const MARKS: u16 = GTF_reading | GTF_writing;
/// A grant that can be taken back.
pub(crate) const REVOKABLE: u16 = GTF_permit_access | GTF_revokable;

/// Of the entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Marks are in the entry itself.
    One,
    /// Marks are in a status word.
    Two,
}

/// Why an operation did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The operation's own status.
    Status(i16),
    /// The hypercall's.
    Call(Errno),
}

/// A mapping that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped {
    pub(crate) handle: u32,
    pub(crate) bus_addr: u64,
}

/// A domain with its hand on the hypervisor.
pub(crate) struct Dom {
    pub(crate) id: DomId,
    pub(crate) caller: Caller,
    version: Version,
    table: Option<Mapping>,
    status: Option<Mapping>,
}

/// One operation.
fn op<T: IntoBytes + FromBytes + Immutable>(c: &Caller, cmd: u32, arg: &mut T) -> Result<(), Refused> {
    c.grant_table_op(cmd, arg.as_mut_bytes(), 1).map(drop).map_err(Refused::Call)
}

fn status(status: i16) -> Result<(), Refused> {
    if status == GNTST_okay { Ok(()) } else { Err(Refused::Status(status)) }
}

/// One end of a copy: a grant of another's, or a page of one's own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Grant(DomId, u32),
    Own(u64),
}

impl Dom {
    pub(crate) fn new(machine: &Arc<Machine>, id: DomId) -> Self {
        let caller = machine.caller(id).expect("a domain that was just made");
        Self { id, caller, version: Version::One, table: None, status: None }
    }

    /// Has a table of one frame, and maps it.
    pub(crate) fn with_table(mut self, version: Version) -> Self {
        if version == Version::Two {
            self.set_version(2).expect("nothing is in use");
        }
        self.version = version;
        let map = |list: &[u64]| self.caller.map_table(list).expect("its own frames");
        let mut list = [0];
        let mut arg = gnttab_setup_table { dom: DomId::SELF.0, nr_frames: 1, ..Default::default() };
        let done = self.caller.grant_table_frames(GNTTABOP_setup_table, arg.as_mut_bytes(), &mut list);
        assert_eq!((done, arg.status), (Ok(0), GNTST_okay));
        let table = map(&list);
        let mut arg = gnttab_get_status_frames { dom: DomId::SELF.0, nr_frames: 1, ..Default::default() };
        let done = self.caller.grant_table_frames(GNTTABOP_get_status_frames, arg.as_mut_bytes(), &mut list);
        let status = (version == Version::Two).then(|| {
            assert_eq!((done, arg.status), (Ok(0), GNTST_okay));
            map(&list)
        });
        (self.table, self.status) = (Some(table), status);
        self
    }

    /// Keeps nothing of its table mapped any more.
    pub(crate) fn unmap_tables(&mut self) {
        (self.table, self.status) = (None, None);
    }

    fn at(mapping: Option<&Mapping>, offset: usize) -> *mut u8 {
        assert!(offset < PAGE_SIZE);
        mapping.expect("a domain with a table").base().as_ptr().wrapping_add(offset)
    }

    fn entry(&self, reference: u32) -> *mut u8 {
        let size = if self.version == Version::One { 8 } else { 16 };
        Self::at(self.table.as_ref(), usize::try_from(reference).expect("small") * size)
    }

    fn flags(&self, reference: u32) -> &AtomicU16 {
        // SAFETY: an aligned word of a page that is mapped as long as `self` lives.
        unsafe { AtomicU16::from_ptr(self.entry(reference).cast()) }
    }

    /// Introduces an entry.
    pub(crate) fn offer(&self, reference: u32, to: DomId, gfn: u64, flags: u16) {
        let entry = self.entry(reference);
        // SAFETY: as in `flags`; the frame's number stands in the second word or in the third.
        unsafe {
            AtomicU16::from_ptr(entry.wrapping_add(2).cast()).store(to.0, SeqCst);
            if self.version == Version::One {
                let low = u32::try_from(gfn).expect("small");
                AtomicU32::from_ptr(entry.wrapping_add(4).cast()).store(low, SeqCst);
            } else {
                AtomicU64::from_ptr(entry.wrapping_add(8).cast()).store(gfn, SeqCst);
            }
        }
        self.flags(reference).store(flags, SeqCst);
    }

    /// Introduces an entry of version 2 that hands on a grant of another's.
    pub(crate) fn hand_on(&self, reference: u32, to: DomId, whose: DomId, theirs: u32) {
        assert_eq!(self.version, Version::Two);
        let entry = self.entry(reference);
        // SAFETY: as in `flags`.
        unsafe {
            AtomicU16::from_ptr(entry.wrapping_add(2).cast()).store(to.0, SeqCst);
            AtomicU16::from_ptr(entry.wrapping_add(4).cast()).store(whose.0, SeqCst);
            AtomicU32::from_ptr(entry.wrapping_add(8).cast()).store(theirs, SeqCst);
        }
        self.flags(reference).store(GTF_transitive, SeqCst);
    }

    /// The hypervisor's marks.
    pub(crate) fn marks(&self, reference: u32) -> u16 {
        let word = match self.version {
            Version::One => self.flags(reference),
            Version::Two => {
                let at = Self::at(self.status.as_ref(), usize::try_from(reference).expect("small") * 2);
                // SAFETY: as in `flags`.
                unsafe { AtomicU16::from_ptr(at.cast()) }
            }
        };
        word.load(SeqCst) & MARKS
    }

    /// Withdraws an entry; whether it had not been in use.
    pub(crate) fn withdraw(&self, reference: u32) -> bool {
        let word = self.flags(reference);
        match self.version {
            Version::One => {
                let seen = word.load(SeqCst);
                seen & MARKS == 0 && word.compare_exchange(seen, 0, SeqCst, SeqCst).is_ok()
            }
            Version::Two => {
                word.store(0, SeqCst);
                self.marks(reference) == 0
            }
        }
    }

    /// Withdraws one that may be in use: nothing more is granted by it.
    pub(crate) fn close(&self, reference: u32) {
        self.flags(reference).fetch_and(!GTF_type_mask, SeqCst);
    }

    /// Of version 1: takes an acceptance back; whether nobody has committed to it.
    pub(crate) fn accept_no_more(&self, reference: u32) -> bool {
        self.flags(reference).compare_exchange(GTF_accept_transfer, 0, SeqCst, SeqCst).is_ok()
    }

    /// Of version 1: by which number the frame came that was accepted; `None`: it has not.
    pub(crate) fn came(&self, reference: u32) -> Option<u64> {
        let come = self.flags(reference).load(SeqCst) & GTF_transfer_completed != 0;
        // SAFETY: as in `flags`.
        let number = unsafe { AtomicU32::from_ptr(self.entry(reference).wrapping_add(4).cast()) };
        come.then(|| number.load(SeqCst).into())
    }

    pub(crate) fn revoke(&self, reference: u32) -> Result<(), Errno> {
        match op(&self.caller, GNTTABOP_revoke, &mut gnttab_revoke { r#ref: reference }) {
            Ok(()) => Ok(()),
            Err(Refused::Call(e)) => Err(e),
            Err(Refused::Status(_)) => unreachable!("it has none"),
        }
    }

    /// Maps; `stand_in`: as a revokable grant.
    pub(crate) fn map(
        &self,
        from: DomId,
        reference: u32,
        flags: u32,
        host_addr: u64,
        stand_in: Option<u64>,
    ) -> Result<Mapped, Refused> {
        let map =
            gnttab_map_grant_ref { host_addr, flags, r#ref: reference, dom: from.0, ..Default::default() };
        let mut arg = gnttab_map_revokable { map, lgfn: stand_in.unwrap_or(0) };
        match stand_in {
            Some(_) => op(&self.caller, GNTTABOP_map_revokable, &mut arg)?,
            None => op(&self.caller, GNTTABOP_map_grant_ref, &mut arg.map)?,
        }
        status(arg.map.status)?;
        Ok(Mapped { handle: arg.map.handle, bus_addr: arg.map.dev_bus_addr })
    }

    /// Unmaps a part or all of it; zero is no address.
    pub(crate) fn unmap(&self, handle: u32, host_addr: u64, dev_bus_addr: u64) -> Result<(), Refused> {
        let mut arg = gnttab_unmap_grant_ref { host_addr, dev_bus_addr, handle, ..Default::default() };
        op(&self.caller, GNTTABOP_unmap_grant_ref, &mut arg)?;
        status(arg.status)
    }

    /// Copies so many bytes from the beginning of a page to that of another.
    pub(crate) fn copy(&self, from: End, to: End, len: u16) -> Result<(), Refused> {
        let ptr = |end| {
            let (domid, u) = match end {
                End::Grant(domid, reference) => (domid, reference.into()),
                End::Own(gfn) => (DomId::SELF, gfn),
            };
            gnttab_copy_ptr { u, domid: domid.0, ..Default::default() }
        };
        let flag = |end, flag| if matches!(end, End::Grant(..)) { flag } else { 0 };
        let flags = flag(from, GNTCOPY_source_gref) | flag(to, GNTCOPY_dest_gref);
        let mut arg = gnttab_copy { source: ptr(from), dest: ptr(to), len, flags, ..Default::default() };
        op(&self.caller, GNTTABOP_copy, &mut arg)?;
        status(arg.status)
    }

    pub(crate) fn transfer(&self, gfn: u64, to: DomId, reference: u32) -> Result<(), Refused> {
        let mut arg = gnttab_transfer { mfn: gfn, domid: to.0, r#ref: reference, ..Default::default() };
        op(&self.caller, GNTTABOP_transfer, &mut arg)?;
        status(arg.status)
    }

    /// Gives a page back; whether it had it.
    pub(crate) fn balloon(&self, gfn: u64) -> bool {
        let mut arg = xen_memory_reservation { nr_extents: 1, domid: DomId::SELF.0, ..Default::default() };
        self.caller.memory_op(XENMEM_decrease_reservation, arg.as_mut_bytes(), &mut [gfn]) == Ok(1)
    }

    pub(crate) fn set_version(&self, version: u32) -> Result<(), Refused> {
        op(&self.caller, GNTTABOP_set_version, &mut gnttab_set_version { version })
    }

    pub(crate) fn swap(&self, ref_a: u32, ref_b: u32) -> Result<(), Refused> {
        let mut arg = gnttab_swap_grant_ref { ref_a, ref_b, ..Default::default() };
        op(&self.caller, GNTTABOP_swap_grant_ref, &mut arg)?;
        status(arg.status)
    }

    /// Asks for frames of `of`'s table: what changes it, and waits for whoever is inside.
    pub(crate) fn setup(&self, of: DomId) -> Result<(), Refused> {
        let mut list = [0];
        let mut arg = gnttab_setup_table { dom: of.0, nr_frames: 1, ..Default::default() };
        let done = self.caller.grant_table_frames(GNTTABOP_setup_table, arg.as_mut_bytes(), &mut list);
        done.map_err(Refused::Call)?;
        status(arg.status)
    }
}
