//! Notices that frames have gone: recorded at once, worked off later, believed only after the hypervisor was asked.

use xen_ioreq::Bfn;

use super::{Announced, EVERYTHING, Guest, GuestInner, Notices, Slow};
use crate::backend::Verdict;
use crate::error::RevalidateError;
use crate::mapping::{Cause, Drained, Draining, Mapped, What};
use crate::sync::atomic::Ordering;
use crate::table::{Slot, State, Status};

/// Notices that are kept one by one; more become 'something changed'. Xen sends one a mapping, so a flood is no
/// honest one, and a batch of this size costs less than looking through everything.
const MAX_NOTICES: usize = 4096;
/// Mappings whose memory is fetched ahead.
const AHEAD: usize = 16;

impl Guest {
    /// Records what an `IOREQ_TYPE_INVALIDATE` said: a bus frame, or [`EVERYTHING`]. Quick, calls nobody: acknowledge the
    /// request after it, then let somebody call [`take_draining`](Self::take_draining).
    pub fn notice(&self, data: u64) {
        // It lies in memory that may not have been looked at for long, and will be needed soon.
        self.inner.client.records.prefetch(Bfn(data));
        self.inner.counts.notices.fetch_add(1, Ordering::Relaxed);
        let mut notices = self.inner.notices.lock();
        notices.came += 1;
        if data == EVERYTHING || notices.bfns.len() >= MAX_NOTICES {
            notices.everything = true;
            notices.bfns.clear();
        } else if !notices.everything {
            notices.bfns.push(Bfn(data));
        }
        self.inner.work.store(true, Ordering::Release);
    }

    /// Has the mapping at `bfn` looked at as if a notice of it had come: a guest can put another frame behind a gfn without
    /// any, and its words about that gfn are a good moment to ask.
    pub fn doubt(&self, bfn: Bfn) {
        self.inner.keep(1, false, vec![bfn]);
    }

    /// What has come until now: of notices, and of doubts.
    pub fn announced(&self) -> Announced {
        Announced(self.inner.notices.lock().came)
    }

    /// Whether all of it has been worked off by [`take_draining`](Self::take_draining), which has returned since: no mapping is
    /// live that it ended. More may have come since then.
    pub fn is_worked_off(&self, what: Announced) -> bool {
        self.inner.done.load(Ordering::Acquire) >= what.0
    }

    /// Whether the next [`take_draining`](Self::take_draining) will map afresh whatever is referred to then, since something has
    /// changed and nobody says what: references that are not needed now are better put before.
    pub fn renews_everything(&self) -> bool {
        self.inner.client.backend.asks_by_mapping() && self.inner.notices.lock().everything
    }

    /// Whether [`take_draining`](Self::take_draining) has something to do. One atomic load.
    pub fn has_work(&self) -> bool {
        self.inner.work.load(Ordering::Acquire)
    }

    /// Works the notices off: asks the hypervisor about the mappings concerned (those of the bus frames that were
    /// named, or all of this guest), in batches, and returns what must be drained, with what was dropped undrained
    /// before. Mappings that are still right stay as they are.
    ///
    /// On an error the notices are kept for the next call.
    pub fn take_draining(&self) -> Result<Vec<Draining>, RevalidateError> {
        let inner = &self.inner;
        let mut slow = inner.slow.lock();
        inner.work.store(false, Ordering::Release);
        let Notices { came, everything, bfns, orphans } = inner.notices.lock().take();
        let mut out: Vec<Draining> =
            orphans.into_iter().map(|d| self.draining(d)).filter(|d| !d.is_void()).collect();
        let slots = if everything { inner.by_gfn.slots() } else { self.slots_of(&bfns) };
        let slots = if everything { self.without_idle(slots, &mut out) } else { slots };
        if everything {
            slow.gone = 0;
        }
        match self.revalidate(&mut slow, &slots, &mut out) {
            Ok(again) => {
                if again {
                    self.inner.keep(0, true, Vec::new());
                } else {
                    inner.done.store(came, Ordering::Release);
                }
                Ok(out)
            }
            Err(e) => {
                // What is in `out` goes back to the orphans as it is dropped.
                self.inner.keep(0, everything, bfns);
                Err(e)
            }
        }
    }

    /// Asks the hypervisor about the next `at_most` mappings, in rounds over all of them, and returns what must be
    /// drained. To be called now and then: a guest can put another frame behind a gfn without any notice.
    pub fn sweep(&self, at_most: usize) -> Result<Vec<Draining>, RevalidateError> {
        let inner = &self.inner;
        let mut slow = inner.slow.lock();
        if slow.sweep.is_empty() {
            slow.sweep = inner.by_gfn.slots();
        }
        let rest = slow.sweep.len().saturating_sub(at_most);
        let slots = slow.sweep.split_off(rest);
        let mut out = Vec::new();
        self.revalidate(&mut slow, &slots, &mut out)?;
        Ok(out)
    }

    /// The domain is dead or dying: everything of it must go, and nothing of it is mapped any more. Returns what
    /// must be drained; what is draining elsewhere stays with whom it is.
    ///
    /// What is mapped keeps a dead domain's frames until it is released, but for lookups on a shipped hypervisor: that one frees
    /// them with the domain, whatever a device does there. There the device must be quiesced before the domain is
    /// destroyed.
    pub fn die(&self) -> Vec<Draining> {
        let inner = &self.inner;
        inner.dead.store(true, Ordering::Release);
        let _slow = inner.slow.lock();
        let Notices { orphans, .. } = inner.notices.lock().take();
        let mut out: Vec<Draining> =
            orphans.into_iter().map(|d| self.draining(d)).filter(|d| !d.is_void()).collect();
        out.extend(inner.by_gfn.slots().into_iter().filter_map(|slot| self.make_stale(slot, Cause::Death)));
        out
    }

    /// The slots but for those of mappings that nobody refers to, where asking about them costs more than they are worth: they
    /// must be drained.
    fn without_idle(&self, mut slots: Vec<Slot>, out: &mut Vec<Draining>) -> Vec<Slot> {
        let client = &self.inner.client;
        if client.backend.asks_by_mapping() {
            let idle = |slot: &Slot| {
                let record = client.records.get(*slot).filter(|r| r.guest() == self.inner.id);
                record.is_some_and(|r| r.state.get().status == Status::Idle)
            };
            // One that is taken into use just now ends all the same: its holder is told like any other.
            let mut end = |slot: &Slot| self.make_stale(*slot, Cause::LastPut).map(|d| out.push(d)).is_some();
            slots.extract_if(.., |slot| idle(slot) && end(slot)).for_each(drop);
        }
        slots
    }

    /// What may be mappings of this guest at these bus frames.
    fn slots_of(&self, bfns: &[Bfn]) -> Vec<Slot> {
        let records = &self.inner.client.records;
        let mut slots: Vec<Slot> = Vec::with_capacity(bfns.len());
        slots.extend(bfns.iter().filter_map(|bfn| records.slot(*bfn)));
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Asks the hypervisor about these mappings and adds what must be drained. Whether some could not be told yet.
    fn revalidate(
        &self,
        slow: &mut Slow,
        slots: &[Slot],
        out: &mut Vec<Draining>,
    ) -> Result<bool, RevalidateError> {
        let client = &self.inner.client;
        // Of many most will be right, and those that are not are released much later.
        let few = slots.len() <= AHEAD;
        slots.iter().take(AHEAD).for_each(|slot| client.records.prefetch_slot(*slot));
        out.reserve(slots.len().min(AHEAD));
        let mut asked: Vec<Slot> = Vec::with_capacity(slots.len());
        let mut mappings = Vec::with_capacity(slots.len());
        for (i, &slot) in slots.iter().enumerate() {
            slots.get(i + AHEAD).into_iter().for_each(|slot| client.records.prefetch_slot(*slot));
            let (Some(record), Some(bfn)) = (client.records.get(slot), client.records.bfn(slot)) else {
                continue;
            };
            match record.state.get().status {
                // The number may be that of another guest's mapping.
                _ if record.guest() != self.inner.id => {}
                // An idle one, too: it may be taken into use again.
                Status::Live | Status::Idle => {
                    if few {
                        // The release will look for it there. It comes while the hypervisor is asked.
                        self.inner.by_gfn.prefetch(record.gfn().0);
                    }
                    asked.push(slot);
                    mappings.push((record.gfn(), bfn));
                }
                Status::Stale | Status::Releasing | Status::Free => {}
            }
        }
        if mappings.is_empty() {
            return Ok(false);
        }
        let verdicts = client.backend.check(self.inner.peer, &mappings)?;
        let mut again = false;
        for ((slot, (gfn, bfn)), verdict) in asked.into_iter().zip(mappings).zip(verdicts) {
            match verdict {
                Verdict::Same => {}
                Verdict::Gone => out.extend(self.make_stale(slot, Cause::Invalidated)),
                Verdict::Moved(now) => {
                    out.extend(self.make_stale(slot, Cause::Invalidated));
                    // Mapped by asking, and nobody's yet: idle, unless some mapping has that frame, under another number.
                    if client.records.find(now, |_, _| ()).is_none() {
                        out.extend(self.enter(slow, gfn, now).ok().and_then(Mapped::put));
                    }
                }
                Verdict::Replaced => {
                    out.push(self.draining(Drained { what: What::Page, gfn, bfn, cause: Cause::Replaced }));
                }
                Verdict::Busy => again = true,
            }
        }
        Ok(again)
    }

    /// No new references; a later map of the gfn makes a new mapping, which takes the place of this one in the index if it
    /// is still there. `None` if it was so already. With `slow` locked.
    fn make_stale(&self, slot: Slot, cause: Cause) -> Option<Draining> {
        let inner = &self.inner;
        let (record, bfn) = (inner.client.records.get(slot)?, inner.client.records.bfn(slot)?);
        let State { epoch, .. } = record.state.make_stale()?;
        if cause == Cause::Invalidated {
            inner.counts.invalidated.fetch_add(1, Ordering::Relaxed);
        }
        let what = What::Mapping { slot, epoch };
        Some(self.draining(Drained { what, gfn: record.gfn(), bfn, cause }))
    }
}

impl GuestInner {
    /// Takes what was dropped on its way out, so that it is not lost.
    pub(crate) fn adopt(&self, drained: Drained) {
        if let What::Mapping { slot, epoch } = drained.what
            && !self.rests(slot, epoch)
        {
            return;
        }
        self.notices.lock().orphans.push(drained);
        self.work.store(true, Ordering::Release);
    }

    /// Has everything looked at.
    pub(super) fn renew(&self) {
        self.keep(0, true, Vec::new());
    }

    /// Adds notices, of which `new` have not been counted.
    fn keep(&self, new: u64, everything: bool, bfns: Vec<Bfn>) {
        let mut notices = self.notices.lock();
        notices.came += new;
        notices.everything |= everything;
        notices.bfns.extend(bfns);
        if notices.everything || notices.bfns.len() > MAX_NOTICES {
            notices.everything = true;
            notices.bfns.clear();
        }
        self.work.store(true, Ordering::Release);
    }
}
