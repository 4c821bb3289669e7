//! What the guest writes to its table, by traps and otherwise, and the entries that stand for it.
//!
//! An entry that the guest writes is mapped before it is entered, after the notices that had come before. One whose frame
//! may be another by now is doubted. References that nothing needs any more are for the caller, or stale.

use std::sync::atomic::Ordering;

use pviommu::{Draining, Mapped};
use smallvec::SmallVec;
use xen_ioreq::{Bfn, Gfn};

use super::{ShadowGgtt, Writers};
use crate::gen8::gtt::{PTE_SIZE, Pte};
use crate::mediator::reverse::ReverseMap;

/// An entry, and what the guest wrote there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// In the whole table.
    pub(super) index: u32,
    /// In the slice.
    pub(super) at: usize,
    pub(super) guest: Pte,
}

/// References that an entry, or a frame, has given up.
type Spare = SmallVec<[Mapped; 2]>;

impl ShadowGgtt {
    /// A guest's read of its table: `size` bytes (1 to 8) at byte `offset`. Foreign entries read as 0.
    pub(crate) fn read_table(&self, offset: u32, size: u32) -> u64 {
        let mut value = 0;
        let table = self.table.read();
        for_entries(offset, size, |index, byte, count, shift| match self.parts.slice.position(index) {
            Some(at) => value |= (table.guest(at) >> (8 * byte) & mask(count)) << shift,
            None => self.parts.stats.foreign_accesses.add(1),
        });
        value
    }

    /// A guest's write to its table. Bytes that are not written keep what the entry held. Foreign entries take nothing.
    /// References that were the last of their mappings come back in `draining`.
    pub(crate) fn write_table(&self, offset: u32, size: u32, value: u64, draining: &mut Vec<Draining>) {
        for_entries(offset, size, |index, byte, count, shift| match self.parts.slice.position(index) {
            Some(at) => {
                let bits = mask(count) << (8 * byte);
                self.write_entry(index, at, bits, value >> shift << (8 * byte), draining);
            }
            None => self.parts.stats.foreign_accesses.add(1),
        });
    }

    fn write_entry(&self, index: u32, at: usize, bits: u64, value: u64, draining: &mut Vec<Draining>) {
        self.parts.stats.pte_writes.add(1);
        if self.write_known(index, at, bits, value, draining) {
            return;
        }
        self.doubt_swapped(at, bits, value);
        // A frame that went and came back before this write is another one. Its notice has come: carried out after
        // this write it would find this entry, and before that the guest would draw in the old frame.
        let mut writers = self.lock_after_notices();
        if writers.closed {
            return;
        }
        draining.append(&mut writers.stale);
        let guest = Pte(self.table.read().guest(at) & !bits | value & bits);
        let new = if guest.present() { self.map(Gfn(guest.frame())) } else { None };
        let spare = self.enter_one(&mut writers, &mut self.table.write(), Entry { index, at, guest }, new);
        drop(writers);
        draining.extend(spare.into_iter().filter_map(Mapped::put));
    }

    /// [`write_entry`](Self::write_entry) where no notice waits, and the entry leads nowhere, or to a frame that is mapped and of
    /// which there is no doubt: two locks, no allocation, nobody asked. The guest's vCPU waits for it. `false`: nothing was done.
    fn write_known(
        &self,
        index: u32,
        at: usize,
        bits: u64,
        value: u64,
        draining: &mut Vec<Draining>,
    ) -> bool {
        let mut writers = self.writers.lock();
        // Notices are worked off under the lock, so that none does now that had come before.
        if writers.closed || !writers.stale.is_empty() || self.parts.frames.has_work() {
            return false;
        }
        let mut table = self.table.write();
        let guest = Pte(table.guest(at) & !bits | value & bits);
        let new = match guest.present().then(|| self.parts.frames.lookup(Gfn(guest.frame()))) {
            Some(None) => return false,
            Some(Some(mapped)) if is_doubtful(&table, at, mapped.bfn()) => {
                draining.extend(mapped.put());
                return false;
            }
            Some(mapped) => mapped,
            None => None,
        };
        self.parts.stats.mappings.add(u64::from(new.is_some()));
        let spare = self.enter_one(&mut writers, &mut table, Entry { index, at, guest }, new);
        drop((table, writers));
        draining.extend(spare.into_iter().filter_map(Mapped::put));
        true
    }

    /// Makes an entry stand for what the guest wrote, and lead to `new`. The references that nothing needs any more.
    fn enter_one(
        &self,
        writers: &mut Writers,
        table: &mut ReverseMap<Mapped>,
        e: Entry,
        new: Option<Mapped>,
    ) -> Spare {
        let mut spare = Spare::new();
        let after = new.as_ref().map(Mapped::bfn);
        let moved = table.target(e.at) != after;
        table.set_guest(e.at, e.guest.0);
        match new {
            Some(mapped) => table.link(moved.then_some(e.at), mapped.bfn(), mapped, &mut spare),
            None => spare.extend(table.unlink(e.at)),
        }
        if moved {
            self.parts.own.gpu.ggtt_write(e.index, Some(after.unwrap_or(self.parts.scratch)));
            self.dirty.store(true, Ordering::Release);
            after.into_iter().for_each(|bfn| writers.ppgtt.reached(bfn));
        }
        self.parts.stats.live_mappings.set(table.linked());
        spare
    }

    /// Makes entries stand for what the guest wrote, and lead to whatever is there. What nothing needs any more is stale.
    pub(super) fn enter_all(&self, writers: &mut Writers, mut changed: Vec<Entry>) {
        // Entries that lead to the same frame, as most do to a driver's own scratch page, are entered together.
        let frame = |e: &Entry| e.guest.present().then(|| Gfn(e.guest.frame()));
        changed.sort_by_key(frame);
        let groups: Vec<_> = changed.chunk_by(|a, b| frame(a) == frame(b)).collect();
        let gfns: Vec<_> = groups.iter().filter_map(|group| group.first().and_then(frame)).collect();
        let mut mapped = self.parts.frames.map(&gfns).into_iter();
        let mut table = self.table.write();
        let mut spare = Vec::new();
        for group in groups {
            let present = group.first().is_some_and(|e| e.guest.present());
            let new = if present { mapped.next().and_then(Result::ok) } else { None };
            self.parts.stats.mappings.add(u64::from(new.is_some()));
            if present && new.is_none() {
                self.parts.stats.map_failures.add(group.len() as u64);
            }
            self.enter(writers, &mut table, group, new, &mut spare);
        }
        drop(table);
        writers.stale.extend(spare.into_iter().filter_map(Mapped::put));
    }

    /// Makes entries stand for what the guest wrote, and lead to `new`. References that nothing needs any more are added to
    /// `spare`.
    fn enter(
        &self,
        writers: &mut Writers,
        table: &mut ReverseMap<Mapped>,
        entries: &[Entry],
        new: Option<Mapped>,
        spare: &mut Vec<Mapped>,
    ) {
        let after = new.as_ref().map(Mapped::bfn);
        let mut moved = Vec::new();
        for e in entries {
            table.set_guest(e.at, e.guest.0);
            if table.target(e.at) != after {
                moved.push(*e);
            }
        }
        let places = moved.iter().map(|e| e.at);
        match new {
            Some(mapped) => table.link(places, mapped.bfn(), mapped, spare),
            None => spare.extend(places.filter_map(|at| table.unlink(at))),
        }
        for e in &moved {
            self.parts.own.gpu.ggtt_write(e.index, Some(after.unwrap_or(self.parts.scratch)));
        }
        if !moved.is_empty() {
            self.dirty.store(true, Ordering::Release);
            after.into_iter().for_each(|bfn| writers.ppgtt.reached(bfn));
        }
        self.parts.stats.live_mappings.set(table.linked());
    }

    /// A guest can put another frame behind a number and tell nobody; then it writes the entry anew, with the value that it
    /// had. So a mapping that only this entry, or none, refers to is asked about. One with more entries is not: a
    /// driver that points its whole slice at one page would have a hypercall for each.
    fn doubt_swapped(&self, at: usize, bits: u64, value: u64) {
        let table = self.table.read();
        let guest = Pte(table.guest(at) & !bits | value & bits);
        if guest.present()
            && let Some(bfn) = self.parts.frames.bus_frame(Gfn(guest.frame()))
            && is_doubtful(&table, at, bfn)
        {
            self.parts.frames.doubt(bfn);
        }
    }

    /// What keeps a frame where registers are shown.
    pub(in crate::mediator) fn map_shown(&self, gfn: Gfn) -> Option<Mapped> {
        // One that was mapped before the page was moved there is not meant.
        let _writers = self.lock_after_notices();
        self.map(gfn)
    }

    fn map(&self, gfn: Gfn) -> Option<Mapped> {
        match self.parts.frames.map_one(gfn) {
            Ok(mapped) => {
                self.parts.stats.mappings.add(1);
                Some(mapped)
            }
            Err(e) => {
                self.parts.stats.map_failures.add(1);
                log::debug!("an entry goes to scratch: {e}");
                None
            }
        }
    }
}

/// Whether only this entry, or none, refers to a bus frame.
fn is_doubtful(table: &ReverseMap<Mapped>, at: usize, bfn: Bfn) -> bool {
    match table.count(bfn) {
        0 => true,
        1 => table.target(at) == Some(bfn),
        _ => false,
    }
}

/// Calls `f(entry index, first byte in it, bytes, shift in the access)` for each entry that an access touches.
fn for_entries(offset: u32, size: u32, mut f: impl FnMut(u32, u32, u32, u32)) {
    let size = size.min(8);
    let mut done = 0;
    while done < size {
        let at = offset.saturating_add(done);
        let byte = at % PTE_SIZE;
        let count = (PTE_SIZE - byte).min(size - done);
        f(at / PTE_SIZE, byte, count, 8 * done);
        done += count;
    }
}

/// Ones for `bytes` (up to 8) low bytes.
fn mask(bytes: u32) -> u64 {
    u64::MAX.checked_shr(64u32.saturating_sub(8 * bytes)).unwrap_or(0)
}
