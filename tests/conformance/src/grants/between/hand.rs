//! A hand on a guest that runs errands: its memory, its grant table and its hypercalls, each call of this an errand or two.
//!
//! Structs go through frames of the guest's RAM, which dom0 maps. What rows leave in the guest is taken away by
//! [`Hand::let_go`] and [`Hand::withdraw_all`]. A guest that does not answer any more is an error, never a row that waits for ever.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use guest::Width;
use guest::grants::{Args, Errand, PLACES, STATUS, TABLE};
use ioreq_server::GuestLoop;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{
    XENMAPIDX_grant_table_status, XENMAPSPACE_grant_table, XENMEM_add_to_physmap, xen_add_to_physmap,
};
use xen_ioreq::seam::{Mapping, Prot};
use xen_ioreq::{DomId, Errno, Gfn, PAGE_SIZE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::copies::{End, copy_of};
use super::ports::Ports;
use crate::bench::Bench;
use crate::grants::served::serving;
use crate::ioreq::access::AccessError;
use crate::patience::Patience;
use crate::shared::{put_bytes, take_bytes};

/// How often it is looked whether it lives.
const MOMENT: Duration = Duration::from_millis(50);
/// Frames through which structs go: 1024 of the longest.
const LETTERBOX: u64 = 10;
/// Between two looks whether dom0's kernel has let go.
const BETWEEN: Duration = Duration::from_millis(10);

/// A mapping of the guest's.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    handle: u32,
    at: Gfn,
    live: bool,
}

/// See the module.
pub(super) struct Hand {
    bench: Rc<Bench>,
    events: GuestLoop,
    ports: Arc<Ports>,
    /// It did not answer once, and is not waited for again.
    silent: bool,
    letterbox: Option<Mapping>,
    letterbox_at: Gfn,
    /// Version of its table.
    version: u32,
    entries: BTreeSet<u32>,
    maps: Vec<Mapped>,
}

impl Hand {
    /// Serves the guest of `bench`, which stands still, and lets it run.
    pub(super) fn new(bench: &Rc<Bench>) -> Result<Self, AccessError> {
        let ports = Arc::new(Ports::default());
        let events = serving(bench, ports.clone())?;
        let mut hand = Self {
            bench: bench.clone(),
            events,
            ports,
            silent: false,
            letterbox: None,
            letterbox_at: Gfn(0),
            version: 1,
            entries: BTreeSet::new(),
            maps: Vec::new(),
        };
        hand.open().map_err(AccessError::Start)?;
        Ok(hand)
    }

    fn open(&mut self) -> Result<(), Errno> {
        let ram = self.errand(&Errand::Ram)?;
        let (first, frames) = (ram >> 32, ram & u64::from(u32::MAX));
        self.letterbox_at = Gfn((first + frames).checked_sub(LETTERBOX).ok_or(Errno::ENOMEM)?);
        let gfns: Vec<_> = (0..LETTERBOX).map(|i| Gfn(self.letterbox_at.0 + i)).collect();
        let pages = self.bench.hypervisor.map_foreign(self.id(), &gfns, Prot::ReadWrite)?;
        if let Some(e) = (0..gfns.len()).find_map(|i| pages.error(i)) {
            return Err(e);
        }
        self.letterbox = Some(pages.mapping);
        Ok(())
    }

    /// Which guest.
    pub(super) fn id(&self) -> DomId {
        self.bench.guest
    }

    /// Has it run an errand. ESRCH: it is no more. ETIMEDOUT: it does not answer. EIO: it cannot be served.
    pub(super) fn errand(&mut self, errand: &Errand) -> Result<u64, Errno> {
        if self.silent {
            return Err(Errno::ETIMEDOUT);
        }
        self.ports.put(errand);
        let mut patience = Patience::new(0);
        loop {
            if let Some(answer) = self.ports.answer() {
                return Ok(answer);
            }
            if !self.bench.guest_lives() {
                return Err(Errno::ESRCH);
            }
            if !patience.lasts(self.ports.steps()) {
                self.silent = true;
                return Err(Errno::ETIMEDOUT);
            }
            self.events.turn(Some(MOMENT)).map_err(|_| Errno::EIO)?;
        }
    }

    /// A hypercall on structs, which come back as the hypervisor left them.
    fn call(&mut self, cmd: u32, bytes: &mut [u8], errand: impl Fn(Args) -> Errand) -> Result<(), Errno> {
        let letterbox = self.letterbox.as_ref().ok_or(Errno::ENXIO)?;
        put_bytes(letterbox, bytes).ok_or(Errno::E2BIG)?;
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
        let rc = self.errand(&errand(Args { cmd, at: self.letterbox_at.addr(), bytes: len }))?;
        let letterbox = self.letterbox.as_ref().ok_or(Errno::ENXIO)?;
        take_bytes(letterbox, bytes).ok_or(Errno::E2BIG)?;
        Errno::from_rc(rc.cast_signed()).map_or(Ok(()), Err)
    }

    /// `grant_table_op` on all of them in one hypercall.
    pub(super) fn many<T: IntoBytes + FromBytes + Immutable>(
        &mut self,
        cmd: u32,
        all: &mut [T],
    ) -> Result<(), Errno> {
        let count = u32::try_from(all.len()).map_err(|_| Errno::E2BIG)?;
        self.call(cmd, all.as_mut_bytes(), |args| Errand::GrantTable(args, count))
    }

    /// One operation.
    pub(super) fn op<T: IntoBytes + FromBytes + Immutable>(
        &mut self,
        cmd: u32,
        arg: &mut T,
    ) -> Result<(), Errno> {
        self.call(cmd, arg.as_mut_bytes(), |args| Errand::GrantTable(args, 1))
    }

    /// A frame of its RAM that rows may use, by a number.
    pub(super) fn frame(&self, n: u64) -> Gfn {
        Gfn(self.letterbox_at.0 - 1 - n)
    }

    /// Where it can map, by a number.
    pub(super) fn place(n: usize) -> Gfn {
        Gfn(PLACES.0 + n as u64)
    }

    /// The byte at an offset of a frame or place; all-ones where nothing is.
    pub(super) fn byte(&mut self, gfn: Gfn, offset: u64) -> Result<u8, Errno> {
        let [byte, ..] = self.errand(&Errand::Load(gfn.addr() + offset, Width::B1))?.to_le_bytes();
        Ok(byte)
    }

    /// Writes it.
    pub(super) fn set_byte(&mut self, gfn: Gfn, offset: u64, byte: u8) -> Result<(), Errno> {
        self.errand(&Errand::Store(gfn.addr() + offset, Width::B1, byte.into())).map(drop)
    }

    /// `set_version` of its table.
    pub(super) fn set_version(&mut self, version: u32) -> Result<(), Errno> {
        self.op(GNTTABOP_set_version, &mut gnttab_set_version { version })?;
        if version == 2 && self.version != 2 {
            let (domid, space) = (DomId::SELF.0, XENMAPSPACE_grant_table);
            let (idx, gpfn) = (XENMAPIDX_grant_table_status.into(), STATUS.0);
            let mut arg = xen_add_to_physmap { domid, space, idx, gpfn, ..Default::default() };
            self.call(XENMEM_add_to_physmap, arg.as_mut_bytes(), Errand::Memory)?;
        }
        self.version = version;
        Ok(())
    }

    /// Writes an entry of its table, the word with the flags last: who may use it, flags, and what follows in version 1 (the frame)
    /// or 2.
    fn write(&mut self, r: u32, to: DomId, flags: u16, second: u32, rest: Option<u64>) -> Result<(), Errno> {
        let head = u64::from(flags) | u64::from(to.0) << 16 | u64::from(second) << 32;
        self.entries.insert(r);
        let at = TABLE.addr() + u64::from(r) * if self.version == 1 { 8 } else { 16 };
        if let Some(rest) = rest {
            self.errand(&Errand::Store(at + 8, Width::B8, rest))?;
        }
        self.errand(&Errand::Store(at, Width::B8, head)).map(drop)
    }

    /// Grants a frame, in whichever version its table is.
    pub(super) fn grant(&mut self, r: u32, to: DomId, flags: u16, frame: Gfn) -> Result<(), Errno> {
        if self.version == 1 {
            let frame = u32::try_from(frame.0).map_err(|_| Errno::ERANGE)?;
            return self.write(r, to, flags, frame, None);
        }
        self.write(r, to, flags, 0, Some(frame.0))
    }

    /// Grants so many bytes of a frame from an offset on; version 2.
    pub(super) fn grant_part(
        &mut self,
        r: u32,
        to: DomId,
        flags: u16,
        frame: Gfn,
        (first, length): (u16, u16),
    ) -> Result<(), Errno> {
        let part = u32::from(first) | u32::from(length) << 16;
        self.write(r, to, flags | GTF_sub_page, part, Some(frame.0))
    }

    /// Hands on a grant that another domain made to this one; version 2.
    pub(super) fn hand_on(&mut self, r: u32, to: DomId, from: DomId, inner: u32) -> Result<(), Errno> {
        self.hand_on_as(r, to, GTF_transitive, from, inner)
    }

    /// With flags.
    pub(super) fn hand_on_as(
        &mut self,
        r: u32,
        to: DomId,
        flags: u16,
        from: DomId,
        inner: u32,
    ) -> Result<(), Errno> {
        self.write(r, to, flags, from.0.into(), Some(inner.into()))
    }

    /// Withdraws an entry: nothing of it stays but, in version 1, the hypervisor's marks.
    pub(super) fn withdraw(&mut self, r: u32) -> Result<(), Errno> {
        let marks = if self.version == 1 { self.flags(r)? & (GTF_reading | GTF_writing) } else { 0 };
        self.write(r, DomId(0), marks, 0, None)
    }

    /// The flags word of an entry.
    pub(super) fn flags(&mut self, r: u32) -> Result<u16, Errno> {
        let at = TABLE.addr() + u64::from(r) * if self.version == 1 { 8 } else { 16 };
        self.word(at)
    }

    fn word(&mut self, at: u64) -> Result<u16, Errno> {
        let [a, b, ..] = self.errand(&Errand::Load(at, Width::B2))?.to_le_bytes();
        Ok(u16::from_le_bytes([a, b]))
    }

    /// The hypervisor's marks: in the entry, or in its status word.
    pub(super) fn marks(&mut self, r: u32) -> Result<u16, Errno> {
        let word = match self.version {
            1 => self.flags(r)?,
            _ => self.word(STATUS.addr() + u64::from(r) * 2)?,
        };
        Ok(word & (GTF_reading | GTF_writing))
    }

    /// The marks when there are none any more, since dom0's kernel unmaps when it comes to it; else as they stay.
    pub(super) fn marks_at_rest(&mut self, r: u32) -> Result<u16, Errno> {
        self.marks_without(r, GTF_reading | GTF_writing)
    }

    /// The same of some of them, whatever becomes of the others.
    pub(super) fn marks_without(&mut self, r: u32, some: u16) -> Result<u16, Errno> {
        let mut patience = Patience::new(0);
        loop {
            let marks = self.marks(r)?;
            if marks & some == 0 || !patience.lasts(marks) {
                return Ok(marks);
            }
            thread::sleep(BETWEEN);
        }
    }

    /// Maps a grant at that place; the status.
    pub(super) fn map(&mut self, dom: DomId, r: u32, flags: u32, place: usize) -> Result<i16, Errno> {
        let at = Self::place(place);
        let mut arg =
            gnttab_map_grant_ref { host_addr: at.addr(), flags, r#ref: r, dom: dom.0, ..Default::default() };
        self.op(GNTTABOP_map_grant_ref, &mut arg)?;
        self.keep(&arg);
        Ok(arg.status)
    }

    /// Maps all of them in one hypercall: each a domain, a reference, flags; at places from the first on. The statuses.
    pub(super) fn map_many(&mut self, all: &[(DomId, u32, u32)]) -> Result<Vec<i16>, Errno> {
        let one = |(n, (dom, r, flags)): (usize, &(DomId, u32, u32))| gnttab_map_grant_ref {
            host_addr: Self::place(n).addr(),
            flags: *flags,
            r#ref: *r,
            dom: dom.0,
            // What is not written must not look like a success.
            status: 1,
            ..Default::default()
        };
        let mut args: Vec<_> = all.iter().enumerate().map(one).collect();
        self.many(GNTTABOP_map_grant_ref, &mut args)?;
        args.iter().for_each(|arg| self.keep(arg));
        Ok(args.iter().map(|arg| arg.status).collect())
    }

    fn keep(&mut self, arg: &gnttab_map_grant_ref) {
        if arg.status == GNTST_okay {
            let at = Gfn::of_addr(arg.host_addr);
            self.maps.push(Mapped { handle: arg.handle, at, live: true });
        }
    }

    /// How many mappings it has made and not undone.
    pub(super) fn mapped(&self) -> usize {
        self.maps.iter().filter(|m| m.live).count()
    }

    /// Undoes the n-th mapping that came about; the status.
    pub(super) fn unmap(&mut self, n: usize) -> Result<i16, Errno> {
        let m = self.maps.get(n).copied().ok_or(Errno::ENOENT)?;
        Ok(self.unmap_many(&[(m.handle, m.at)])?.first().copied().unwrap_or(1))
    }

    /// What undoes all mappings that came about: their handles and places.
    pub(super) fn mappings(&self) -> Vec<(u32, Gfn)> {
        self.maps.iter().filter(|m| m.live).map(|m| (m.handle, m.at)).collect()
    }

    /// Undoes all of them in one hypercall; the statuses.
    pub(super) fn unmap_many(&mut self, all: &[(u32, Gfn)]) -> Result<Vec<i16>, Errno> {
        let one = |(handle, at): &(u32, Gfn)| gnttab_unmap_grant_ref {
            host_addr: at.addr(),
            handle: *handle,
            status: 1,
            ..Default::default()
        };
        let mut args: Vec<_> = all.iter().map(one).collect();
        self.many(GNTTABOP_unmap_grant_ref, &mut args)?;
        for arg in args.iter().filter(|arg| arg.status == GNTST_okay) {
            let mut maps = self.maps.iter_mut();
            if let Some(m) = maps.find(|m| m.live && m.handle == arg.handle) {
                m.live = false;
            }
        }
        Ok(args.iter().map(|arg| arg.status).collect())
    }

    /// One copy; the status.
    pub(super) fn copy(&mut self, source: End, dest: End, len: u16) -> Result<i16, Errno> {
        let mut arg = copy_of(source, dest, len);
        self.op(GNTTABOP_copy, &mut arg)?;
        Ok(arg.status)
    }

    /// Gives a frame up.
    pub(super) fn give_up(&mut self, frame: Gfn) -> Result<(), Errno> {
        if self.errand(&Errand::GiveUp(frame))? == 1 { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Undoes every mapping. EBUSY: one is not undone.
    pub(super) fn let_go(&mut self) -> Result<(), Errno> {
        let all = self.mappings();
        for part in all.chunks(512) {
            if self.unmap_many(part)?.iter().any(|status| *status != GNTST_okay) {
                return Err(Errno::EBUSY);
            }
        }
        self.maps.clear();
        Ok(())
    }

    /// Withdraws every entry, which nobody uses any more, and makes its table one of version 1. EBUSY: somebody uses one.
    pub(super) fn withdraw_all(&mut self) -> Result<(), Errno> {
        for r in std::mem::take(&mut self.entries) {
            if self.marks_at_rest(r)? != 0 {
                return Err(Errno::EBUSY);
            }
            let rest = if self.version == 1 { None } else { Some(0) };
            self.write(r, DomId(0), 0, 0, rest)?;
        }
        if self.version == 1 { Ok(()) } else { self.set_version(1) }
    }
}

/// The letterbox has room for as many structs as the guest can hand over at once.
const _: () = assert!(1024 * size_of::<gnttab_copy>() == 10 * PAGE_SIZE);
