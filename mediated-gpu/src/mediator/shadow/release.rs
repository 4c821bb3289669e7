//! Letting go of frames: what notices announced and what a sweep finds goes out of every table, is flushed, and is released.
//!
//! Promises that no reference is taken of a frame whose notice had come before, and that what is released is reached by no
//! device any more. What could not be released is kept for the next time.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::MutexGuard;
use pviommu::{DeviceFlush, Draining, Mapped};

use super::lent::Lent;
use super::{ShadowGgtt, Writers};
use crate::mediator::reverse::ReverseMap;

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

impl ShadowGgtt {
    /// Locks `writers` in a state in which no notice waits that had come before. One that comes meanwhile is for who comes after
    /// it: on a hypervisor that only says 'something changed', a guest that balloons brings the next one before this one is done.
    pub(super) fn lock_after_notices(&self) -> MutexGuard<'_, Writers> {
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
        // Not before: of all that were worked off, and of what may still wait.
        writers.ppgtt.noticed(self.parts.frames.stats().notices);
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
}

/// Flushes the GPU's translations: entries that changed before are not used any more when it returns.
impl DeviceFlush for ShadowGgtt {
    fn flush(&self) {
        let _flushing = self.flushing.lock();
        self.flush_locked();
    }
}

/// A flush that did not come to its end has flushed nothing.
struct Undone<'a>(&'a AtomicBool);

impl Drop for Undone<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
