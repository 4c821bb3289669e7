//! The shadow GGTT of one slice: what the guest wrote, with every guest frame replaced by the bus frame behind it.
//!
//! An entry is a function of the guest's entry alone: the frame's bus address if it is present and there is such a
//! frame, the scratch page otherwise. Order of a change: new mapping, way back, physical entry, old reference put;
//! the flush and the release are for the caller.
//!
//! Locks, in this order: `releasing`, one release at a time; `writers`, so that what a notice announced is gone before
//! the next reference is taken, and no reference is entered that was taken before; `table`, held for reading while a
//! page is copied, so that after a change nobody still copies.

mod lent;
mod process;
mod saved;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};
use pviommu::{DeviceFlush, Draining, Guest, Mapped};
use smallvec::SmallVec;
use xen_ioreq::{Bfn, Gfn, PAGE_MASK, PAGE_SIZE};

use self::lent::Lent;
pub(crate) use self::process::Tables;
use super::ppgtt::Ppgtt;
use super::reserve::Own;
use super::reverse::ReverseMap;
use super::shown::ShownPages;
use super::stats::Stats;
use crate::bus::DmaFault;
use crate::gen8::gtt::{PTE_SIZE, Pte};
use crate::vgpu::slice::{Slice, index_of};

/// A GM address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graphics memory at {0:#x} is not mapped")]
pub(crate) struct NotMapped(pub(crate) u64);

/// What a slice's entries are made of.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) slice: Slice,
    /// Where entries lead that lead nowhere.
    pub(super) scratch: Bfn,
    pub(super) own: Own,
    pub(super) frames: Guest,
    pub(super) stats: Arc<Stats>,
    pub(super) shown: Arc<ShownPages>,
}

/// How often an entry's writer looks whether notices have been carried out. Once is enough, unless what others use is in the way
/// or the hypervisor fails.
const NOTICE_TRIES: u32 = 100;

/// A sweep asks about this part of the mappings, so that all have had their turn after as many sweeps, or more if there are
/// very many.
const SWEEP_ROUNDS: usize = 16;
/// Mappings that one sweep asks about: at least.
const SWEEP_LEAST: usize = 64;
/// At most, since writers of entries wait meanwhile: one hypercall, or one foreign mapping.
const SWEEP_MOST: usize = 256;

/// An entry, and what the guest wrote there.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// In the whole table.
    index: u32,
    /// In the slice.
    at: usize,
    guest: Pte,
}

/// Who changes entries.
struct Writers {
    /// The slice is about to be somebody else's: entries are not changed any more.
    closed: bool,
    /// What notices have ended, out of every table.
    stale: Vec<Draining>,
    /// The tables of the guest's processes.
    ppgtt: Ppgtt,
    /// The slice's table, if it is memory of the guest's.
    lent: Option<Lent>,
}

/// The shadow.
pub(crate) struct ShadowGgtt {
    parts: Parts,
    /// Physical entries have changed since the last flush began.
    dirty: AtomicBool,
    /// Entries of the guest's processes have, that led to one page and lead to another now.
    moved: AtomicBool,
    /// Held during a flush: who finds nothing dirty has waited for the flush that made it so. Nothing else is locked under it.
    flushing: Mutex<()>,
    releasing: Mutex<()>,
    writers: Mutex<Writers>,
    table: RwLock<ReverseMap<Mapped>>,
}

impl ShadowGgtt {
    /// Points the whole slice at scratch. The caller flushes.
    pub(super) fn new(parts: Parts) -> Self {
        for index in parts.slice.indexes() {
            parts.own.gpu.ggtt_write(index, Some(parts.scratch));
        }
        let table = RwLock::new(ReverseMap::new(parts.slice.entries()));
        let Parts { own, frames, stats, scratch, .. } = parts.clone();
        let ppgtt = Ppgtt::new(own, frames, stats, scratch);
        let writers = Mutex::new(Writers { closed: false, stale: Vec::new(), ppgtt, lent: None });
        Self {
            parts,
            dirty: AtomicBool::new(true),
            moved: AtomicBool::new(false),
            flushing: Mutex::default(),
            releasing: Mutex::default(),
            writers,
            table,
        }
    }

    /// The slice.
    pub(crate) fn slice(&self) -> &Slice {
        &self.parts.slice
    }

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
    fn enter_all(&self, writers: &mut Writers, mut changed: Vec<Entry>) {
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
    pub(super) fn map_shown(&self, gfn: Gfn) -> Option<Mapped> {
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

    /// Locks `writers` in a state in which no notice waits that had come before. One that comes meanwhile is for who comes after
    /// it: on a hypervisor that only says 'something changed', a guest that balloons brings the next one before this one is done.
    fn lock_after_notices(&self) -> MutexGuard<'_, Writers> {
        let frames = &self.parts.frames;
        let announced = frames.announced();
        for _ in 0..NOTICE_TRIES {
            let mut writers = self.writers.lock();
            if frames.is_worked_off(announced) {
                return writers;
            }
            self.carry_out(&mut writers);
            if frames.is_worked_off(announced) {
                return writers;
            }
            // A page cannot be replaced again before its predecessor is gone.
            drop(writers);
            self.release(Vec::new());
        }
        log::warn!("a notice waits, and an entry may lead to a frame that has gone");
        self.writers.lock()
    }

    /// What waits for the next release: for who sees to it that there is one.
    pub(crate) fn take_stale(&self) -> Vec<Draining> {
        std::mem::take(&mut self.writers.lock().stale)
    }

    /// Carries out what notices announced, and gives back what is `draining` and what they have ended, after a
    /// flush. `false`: some of it must be tried again.
    pub(crate) fn release(&self, mut draining: Vec<Draining>) -> bool {
        let _one = self.releasing.lock();
        {
            let mut writers = self.writers.lock();
            self.carry_out(&mut writers);
            draining.append(&mut writers.stale);
        }
        let (quiesced, held) = self.parts.own.client.quiesce(draining, self);
        let released = self.parts.own.client.release(quiesced);
        self.parts.stats.released.add(released.mappings as u64);
        self.parts.stats.replaced.add(released.pages as u64);
        for (_, e) in &released.failed {
            log::warn!("a release is tried again: {e}");
        }
        let mut writers = self.writers.lock();
        writers.stale.extend(held);
        writers.stale.extend(released.failed.into_iter().map(|(d, _)| d));
        writers.stale.is_empty() && !self.parts.frames.has_work()
    }

    /// Points every entry that leads to a frame of which a notice has come at scratch. What the guest wrote stays.
    fn carry_out(&self, writers: &mut Writers) {
        if !self.parts.frames.has_work() {
            return;
        }
        // What a notice means for pages of tables, it does not say.
        writers.ppgtt.doubt();
        if self.parts.frames.renews_everything() {
            let unneeded = writers.lent.iter_mut().flat_map(Lent::rest);
            writers.stale.extend(unneeded.filter_map(Mapped::put));
        }
        match self.parts.frames.take_draining() {
            Ok(stale) => self.revoke(writers, stale),
            Err(e) => log::warn!("invalidations wait: {e}"),
        }
        self.parts.shown.renewed();
    }

    /// Asks about some of the mappings, by turns, and points the entries of those at scratch that lead to what is not the
    /// guest's frame any more. The flush and the release are for the caller; whether there is something to release.
    pub(crate) fn sweep(&self) -> bool {
        let stats = &self.parts.stats;
        let live = stats.live_mappings.get().saturating_add(stats.live_process_mappings.get());
        let live = usize::try_from(live).unwrap_or(usize::MAX);
        if live == 0 {
            return false;
        }
        self.parts.stats.sweeps.add(1);
        let mut writers = self.writers.lock();
        writers.ppgtt.doubt();
        match self.parts.frames.sweep((live / SWEEP_ROUNDS).clamp(SWEEP_LEAST, SWEEP_MOST)) {
            Ok(stale) => self.revoke(&mut writers, stale),
            Err(e) => log::warn!("a sweep waits: {e}"),
        }
        !writers.stale.is_empty() || self.parts.frames.has_work()
    }

    /// Points every entry that leads to what is stale at scratch, and keeps that for the next release.
    fn revoke(&self, writers: &mut Writers, stale: Vec<Draining>) {
        if stale.is_empty() {
            return;
        }
        let (entries, gone) = {
            let mut table = self.table.write();
            // One that was put and is in use again is not to be revoked. Asked in this order: a mapping that is held
            // because it was revived is void from then on.
            let must_go = |d: &&Draining| d.ends_use() && d.is_held() && !d.is_void();
            let bfns: Vec<_> = stale.iter().filter(must_go).map(Draining::bfn).collect();
            let of_processes: usize = bfns.iter().map(|bfn| writers.ppgtt.revoke(*bfn)).sum();
            let lent = writers.lent.as_mut().map(|lent| lent.revoke(&bfns)).unwrap_or_default();
            let others = of_processes + lent.len();
            writers.ppgtt.put.extend(lent);
            writers.ppgtt.put.extend(self.parts.shown.revoke(&bfns));
            let entries: Vec<_> = bfns.iter().flat_map(|bfn| table.entries(*bfn)).collect();
            (entries.len() + others, self.to_scratch(&mut table, entries))
        };
        self.parts.stats.revoked.add(entries as u64);
        self.settle_tables(writers);
        // Behind a bus frame that stays there may be a new page now.
        self.dirty.store(true, Ordering::Release);
        writers.stale.extend(stale);
        writers.stale.extend(gone.into_iter().filter_map(Mapped::put));
    }

    /// Points everything at scratch, puts all references, and changes no entry ever again. The caller flushes.
    pub(crate) fn close(&self, draining: &mut Vec<Draining>) {
        let mut writers = self.writers.lock();
        if std::mem::replace(&mut writers.closed, true) {
            return;
        }
        let gone = {
            let mut table = self.table.write();
            let all = table.all();
            table.clear_guest();
            self.to_scratch(&mut table, all)
        };
        draining.extend(gone.into_iter().filter_map(Mapped::put));
        writers.ppgtt.close();
        let lent = writers.lent.take().into_iter().flat_map(Lent::into_pages);
        draining.extend(lent.filter_map(Mapped::put));
        draining.extend(self.parts.shown.close().into_iter().filter_map(Mapped::put));
        self.settle_tables(&mut writers);
        draining.append(&mut writers.stale);
    }

    /// Points entries at scratch. What kept them comes back.
    fn to_scratch(&self, table: &mut ReverseMap<Mapped>, entries: Vec<usize>) -> Vec<Mapped> {
        let mut gone = Vec::new();
        for at in entries {
            if let Some(index) = self.parts.slice.index(at) {
                self.parts.own.gpu.ggtt_write(index, Some(self.parts.scratch));
            }
            gone.extend(table.unlink(at));
        }
        if !gone.is_empty() {
            self.dirty.store(true, Ordering::Release);
        }
        self.parts.stats.live_mappings.set(table.linked());
        gone
    }

    /// Flushes if entries have changed since the last time.
    pub(crate) fn flush_if_dirty(&self) {
        let _flushing = self.flushing.lock();
        if self.dirty.load(Ordering::Acquire) || self.moved.load(Ordering::Acquire) {
            self.flush_locked();
        }
    }

    /// The same before the context that runs goes on with what its guest has added: of entries of its own that have led from one
    /// page to another since, hardware is told by the guest's commands, and by nothing else. What nobody may reach any more is
    /// flushed for all before it is released.
    pub(crate) fn flush_for_more(&self) {
        let _flushing = self.flushing.lock();
        if self.dirty.load(Ordering::Acquire) {
            self.flush_locked();
        }
    }

    fn flush_locked(&self) {
        self.dirty.store(false, Ordering::Release);
        self.moved.store(false, Ordering::Release);
        let undone = Undone(&self.dirty);
        self.parts.own.gpu.ggtt_flush();
        std::mem::forget(undone);
        self.parts.stats.flushes.add(1);
    }

    /// Copies from graphics memory of the slice. On an error the rest of `buf` is as it was.
    pub(crate) fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), NotMapped> {
        let mut rest = buf;
        let mut at = addr;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(to_page_end(at).min(rest.len()));
            let count = now.len() as u64;
            self.with_page(at, |bfn, offset| self.parts.own.memory.read(bfn, offset, now))?;
            (at, rest) = (at.saturating_add(count), later);
        }
        Ok(())
    }

    /// Copies what is there, and calls `missing` with the address of each page that is not.
    pub(crate) fn read_present(&self, addr: u64, buf: &mut [u8], mut missing: impl FnMut(u64)) {
        let mut rest = buf;
        let mut at = addr;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(to_page_end(at).min(rest.len()));
            let count = now.len() as u64;
            if self.read(at, now).is_err() {
                missing(at & !PAGE_MASK);
            }
            (at, rest) = (at.saturating_add(count), later);
        }
    }

    /// Copies to graphics memory of the slice, up to the first page that is not there.
    pub(crate) fn write(&self, addr: u64, data: &[u8]) -> Result<(), NotMapped> {
        let mut rest = data;
        let mut at = addr;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(to_page_end(at).min(rest.len()));
            self.with_page(at, |bfn, offset| self.parts.own.memory.write(bfn, offset, now))?;
            (at, rest) = (at.saturating_add(now.len() as u64), later);
        }
        Ok(())
    }

    fn with_page(
        &self,
        addr: u64,
        f: impl FnOnce(Bfn, usize) -> Result<(), DmaFault>,
    ) -> Result<(), NotMapped> {
        let at = self.parts.slice.position(index_of(addr)).ok_or(NotMapped(addr))?;
        let table = self.table.read();
        let bfn = table.target(at).ok_or(NotMapped(addr))?;
        f(bfn, PAGE_SIZE - to_page_end(addr)).map_err(|e| {
            log::warn!("a mapped frame is out of reach: {e}");
            NotMapped(addr)
        })
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> parking_lot::RwLockReadGuard<'_, ReverseMap<Mapped>> {
        self.table.read()
    }
}

/// Flushes the GPU's translations: entries that changed before are not used any more when it returns.
impl DeviceFlush for ShadowGgtt {
    fn flush(&self) {
        let _flushing = self.flushing.lock();
        self.flush_locked();
    }
}

impl std::fmt::Debug for ShadowGgtt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShadowGgtt")
            .field("slice", &self.parts.slice)
            .field("scratch", &self.parts.scratch)
            .finish_non_exhaustive()
    }
}

/// References that an entry, or a frame, has given up.
type Spare = SmallVec<[Mapped; 2]>;

/// Whether only this entry, or none, refers to a bus frame.
fn is_doubtful(table: &ReverseMap<Mapped>, at: usize, bfn: Bfn) -> bool {
    match table.count(bfn) {
        0 => true,
        1 => table.target(at) == Some(bfn),
        _ => false,
    }
}

/// A flush that did not come to its end has flushed nothing.
struct Undone<'a>(&'a AtomicBool);

impl Drop for Undone<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Bytes from `addr` to the end of its page: 1 to 4096.
fn to_page_end(addr: u64) -> usize {
    PAGE_SIZE - usize::try_from(addr & PAGE_MASK).unwrap_or(0)
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
