//! One engine as a guest sees it: the submit port, what waits behind it, what became of a context.
//!
//! A submission that comes while another runs takes its place at once if it begins with the context that runs (a lite restore:
//! what has been appended follows without a switch); else it waits, as if the first had ended just before. A context that
//! broke the rules never completes, like a hang, until the guest resets the engine.

use std::collections::{BTreeSet, VecDeque};

use crate::gen8::context::Descriptor;

/// Submissions that wait at most. Hardware holds one; a guest that writes more without looking is told nothing.
pub(super) const WAITING: usize = 8;
/// Contexts that are remembered as banned; with more, the whole engine hangs for its guest until reset.
pub(super) const BANNED: usize = 64;
/// Writes that make one submission.
pub(super) const PORT_WRITES: usize = 4;

/// Up to two contexts, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    /// Element 0.
    pub(crate) first: Descriptor,
    /// Element 1, if valid.
    pub(crate) second: Option<Descriptor>,
}

/// What an engine's next turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// What runs.
    pub(crate) submission: Submission,
    /// The guest knows that element 0 is on the engine.
    pub(crate) begun: bool,
    /// In which epoch.
    pub(crate) epoch: u64,
}

/// What a write to the submit port did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortWrite {
    /// Not the last of its four.
    Latched,
    /// A submission is complete and waits.
    Queued,
    /// A submission is complete and is thrown away: element 0 not valid, or too many wait.
    Dropped,
}

/// The engine.
#[derive(Debug, Default)]
pub(crate) struct VirtualEngine {
    pub(super) port: [u32; PORT_WRITES],
    pub(super) written: usize,
    pub(super) waiting: VecDeque<Submission>,
    /// What has taken the place of what runs, and of which the guest knows: the same context goes on.
    pub(super) resumed: Option<Submission>,
    running: bool,
    /// What runs began before the last reset.
    outdated: bool,
    epoch: u64,
    pub(super) active: Option<u32>,
    pub(super) banned: BTreeSet<u64>,
    pub(super) hung: bool,
}

impl VirtualEngine {
    /// A write to the submit port.
    pub(crate) fn write_port(&mut self, value: u32) -> PortWrite {
        if let Some(dword) = self.port.get_mut(self.written) {
            *dword = value;
        }
        self.written += 1;
        if self.written < PORT_WRITES {
            return PortWrite::Latched;
        }
        self.written = 0;
        let [hi1, lo1, hi0, lo0] = self.port.map(u64::from);
        let (first, second) = (Descriptor(hi0 << 32 | lo0), Descriptor(hi1 << 32 | lo1));
        if !first.valid() || self.waiting.len() + usize::from(self.resumed.is_some()) >= WAITING {
            return PortWrite::Dropped;
        }
        self.waiting.push_back(Submission { first, second: Some(second).filter(|d| d.valid()) });
        PortWrite::Queued
    }

    /// Takes the next turn. `None` while one runs.
    pub(crate) fn take(&mut self) -> Option<Turn> {
        if self.running || self.hung {
            return None;
        }
        let resumed = self.resumed.take();
        let begun = resumed.is_some();
        let submission = resumed.or_else(|| self.waiting.pop_front())?;
        self.running = true;
        Some(Turn { submission, begun, epoch: self.epoch })
    }

    /// Lets what waits next take the place of what runs, as long as it begins with the context that runs (the ring goes on to a
    /// newer tail) and does not ask for its image to be read anew. How many did, one after the other.
    pub(crate) fn lite_restore(&mut self, running: Descriptor) -> usize {
        let same = |s: &Submission| {
            let same = (s.first.lrca(), s.first.id()) == (running.lrca(), running.id());
            same && s.first.0 & Descriptor::FORCE_RESTORE == 0
        };
        let mut newer = 0;
        while self.running && !self.outdated && self.waiting.front().is_some_and(same) {
            self.resumed = self.waiting.pop_front();
            newer += 1;
        }
        newer
    }

    /// Whether what runs goes on under a newer submission.
    pub(crate) fn goes_on(&self) -> bool {
        self.resumed.is_some()
    }

    /// Takes the next turn while one of this epoch runs, to follow that: the same context again, or another if nothing else is to
    /// come `after_all`. Not a pair, of which a newer one may replace what comes second. It must not begin in another epoch.
    pub(crate) fn take_behind(&mut self, epoch: u64, after_all: bool) -> Option<Turn> {
        if !self.running || self.hung || self.epoch != epoch {
            return None;
        }
        let begun = self.resumed.is_some();
        let next = if begun { self.resumed.as_ref() } else { self.waiting.front().filter(|_| after_all) };
        next.filter(|next| next.second.is_none())?;
        let submission = self.resumed.take().or_else(|| self.waiting.pop_front())?;
        Some(Turn { submission, begun, epoch })
    }

    /// What was taken to follow, and has not begun, waits again.
    pub(crate) fn put_back(&mut self, turn: Turn) {
        let Turn { submission, begun, epoch } = turn;
        if self.epoch != epoch {
            return;
        }
        if begun {
            // A newer one has what it had.
            self.resumed.get_or_insert(submission);
        } else {
            self.waiting.push_front(submission);
        }
    }

    /// What was taken runs no more, whatever became of it.
    pub(crate) fn ended(&mut self) {
        self.running = false;
        if std::mem::take(&mut self.outdated) {
            self.active = None;
        }
    }

    /// Whether something runs.
    pub(crate) fn running(&self) -> bool {
        self.running
    }

    /// Whether something waits that could run.
    pub(crate) fn has_work(&self) -> bool {
        !self.hung && (self.goes_on() || !self.waiting.is_empty())
    }

    /// Submissions that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Counts the resets: what ran before the last one has no more to tell.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The context that the guest believes is on the engine.
    pub(crate) fn active(&self) -> Option<u32> {
        self.active
    }

    /// Sets it.
    pub(crate) fn set_active(&mut self, id: Option<u32>) {
        self.active = id;
    }

    /// Runs nothing of this context until the next reset.
    pub(crate) fn ban(&mut self, lrca: u64) {
        if self.banned.len() < BANNED {
            self.banned.insert(lrca);
        } else {
            self.hung = true;
        }
    }

    /// Whether the context is banned.
    pub(crate) fn is_banned(&self, lrca: u64) -> bool {
        self.hung || self.banned.contains(&lrca)
    }

    /// Forgets everything but what runs, which reports to an older epoch from now on. It is on the engine until it has
    /// stopped: a driver for which that takes too long resets more, and still asks whom to blame.
    pub(crate) fn reset(&mut self) {
        let running = self.running;
        *self = Self {
            running,
            outdated: running,
            epoch: self.epoch.wrapping_add(1),
            active: self.active.filter(|_| running),
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submit(e: &mut VirtualEngine, words: [u32; 4]) -> PortWrite {
        words.map(|w| e.write_port(w))[3]
    }

    fn next(e: &mut VirtualEngine) -> Option<u64> {
        e.take().map(|turn| turn.submission.first.lrca())
    }

    #[test]
    fn what_begins_with_the_context_that_runs_takes_its_place() {
        let mut e = VirtualEngine::default();
        let running = Descriptor(6 << 32 | 0x1001);
        submit(&mut e, [7, 0x2001, 6, 0x1001]);
        assert_eq!(e.lite_restore(running), 0, "nothing runs");
        assert_eq!(e.take().map(|t| t.begun), Some(false));
        submit(&mut e, [8, 0x3001, 6, 0x1001]);
        submit(&mut e, [0, 0, 6, 0x1001]);
        submit(&mut e, [0, 0, 7, 0x2001]);
        assert_eq!((e.lite_restore(running), e.goes_on(), e.waiting()), (2, true, 1));
        e.ended();
        assert!(e.has_work());
        let turn = e.take().unwrap();
        assert!(turn.begun && turn.submission.second.is_none(), "the newest counts: {turn:?}");
        e.ended();
        assert_eq!(next(&mut e), Some(0x2000));
    }

    #[test]
    fn another_context_or_a_forced_restore_waits() {
        let mut e = VirtualEngine::default();
        let running = Descriptor(6 << 32 | 0x1001);
        submit(&mut e, [0, 0, 6, 0x1001]);
        e.take().unwrap();
        for first in [[5, 0x1001], [6, 0x2001], [6, 0x1005]] {
            submit(&mut e, [0, 0, first[0], first[1]]);
            assert_eq!(e.lite_restore(running), 0, "{first:x?}");
            e.waiting.clear();
        }
        submit(&mut e, [0, 0, 6, 0x1001]);
        e.reset();
        submit(&mut e, [0, 0, 6, 0x1001]);
        assert_eq!(e.lite_restore(running), 0, "what runs is from before the reset");
    }

    #[test]
    fn four_writes_make_a_submission_element_one_first() {
        let mut e = VirtualEngine::default();
        assert_eq!(e.write_port(7), PortWrite::Latched);
        assert_eq!(e.take(), None);
        for (value, done) in
            [(0x2001, PortWrite::Latched), (6, PortWrite::Latched), (0x1001, PortWrite::Queued)]
        {
            assert_eq!(e.write_port(value), done);
        }
        let s = e.take().unwrap().submission;
        assert_eq!((s.first.lrca(), s.first.id()), (0x1000, 6));
        assert_eq!(s.second.map(|d| (d.lrca(), d.id())), Some((0x2000, 7)));
    }

    #[test]
    fn second_submission_waits_for_the_first() {
        let mut e = VirtualEngine::default();
        submit(&mut e, [0, 0, 0, 0x1001]);
        submit(&mut e, [0, 0, 0, 0x2001]);
        assert!(e.take().is_some());
        assert_eq!(e.take(), None);
        e.ended();
        assert_eq!(next(&mut e), Some(0x2000));
    }

    #[test]
    fn what_was_taken_to_follow_waits_again_unless_a_reset_came_between() {
        let mut e = VirtualEngine::default();
        let running = Descriptor(6 << 32 | 0x1001);
        for lrca in [0x1001, 0x2001, 0x1001] {
            submit(&mut e, [0, 0, 6, lrca]);
        }
        assert_eq!(e.take_behind(e.epoch(), true), None, "nothing runs");
        let epoch = e.take().unwrap().epoch;
        assert_eq!(e.take_behind(epoch, false), None, "something else comes first");
        let other = e.take_behind(epoch, true).unwrap();
        assert_eq!((other.submission.first.lrca(), other.begun), (0x2000, false));
        e.put_back(other);
        assert_eq!(e.lite_restore(running), 0, "before what came after it");
        assert_eq!(e.take_behind(epoch, true), Some(other));
        assert_eq!(e.lite_restore(running), 1);
        let more = e.take_behind(epoch, false).unwrap();
        assert_eq!((more.submission.first.lrca(), more.begun), (0x1000, true));
        e.put_back(more);
        assert!(e.goes_on());
        submit(&mut e, [7, 0x2001, 6, 0x1001]);
        assert_eq!((e.lite_restore(running), e.take_behind(epoch, true)), (1, None), "a pair");
        e.put_back(more);
        e.ended();
        assert!(e.take().is_some_and(|turn| turn.submission.second.is_some()), "the newest counts");
        e.reset();
        e.put_back(other);
        assert!(!e.has_work());
        submit(&mut e, [0, 0, 0, 0x4001]);
        assert_eq!(e.take_behind(epoch, true), None, "what runs is of an older epoch");
    }

    #[test]
    fn invalid_element_and_flood_are_dropped() {
        let mut e = VirtualEngine::default();
        assert_eq!(submit(&mut e, [0, 0x1001, 0, 0x1000]), PortWrite::Dropped);
        for _ in 0..WAITING {
            assert_eq!(submit(&mut e, [0, 0, 0, 0x1001]), PortWrite::Queued);
        }
        assert_eq!(submit(&mut e, [0, 0, 0, 0x1001]), PortWrite::Dropped);
    }

    #[test]
    fn reset_forgets_bans_and_what_waits_but_not_what_runs() {
        let mut e = VirtualEngine::default();
        submit(&mut e, [0, 0, 0, 0x1001]);
        submit(&mut e, [0, 0, 0, 0x2001]);
        let epoch = e.take().unwrap().epoch;
        e.ban(0x1000);
        e.write_port(1);
        e.reset();
        assert!(e.running() && e.waiting() == 0 && !e.is_banned(0x1000));
        assert_ne!(e.epoch(), epoch);
        assert_eq!(
            submit(&mut e, [0, 0, 0, 0x3001]),
            PortWrite::Queued,
            "half a submission is forgotten too"
        );
        assert_eq!(e.take(), None);
        e.ended();
        assert_eq!(next(&mut e), Some(0x3000));
    }

    #[test]
    fn what_is_being_stopped_is_on_the_engine_until_it_has() {
        let mut e = VirtualEngine::default();
        submit(&mut e, [0, 0, 6, 0x1001]);
        e.take().unwrap();
        e.set_active(Some(6));
        e.reset();
        assert_eq!(e.active(), Some(6));
        e.reset();
        assert_eq!(e.active(), Some(6), "however often it is reset");
        e.ended();
        assert_eq!(e.active(), None);
        // One that hangs although nothing runs any more is gone at once.
        e.set_active(Some(7));
        e.reset();
        assert_eq!(e.active(), None);
    }

    #[test]
    fn too_many_bans_hang_the_engine_until_reset() {
        let mut e = VirtualEngine::default();
        for n in 0..=BANNED as u64 {
            e.ban(n << 12);
        }
        submit(&mut e, [0, 0, 0, 0xfff0_0001]);
        assert!(!e.has_work() && e.take().is_none());
        e.reset();
        assert_eq!(submit(&mut e, [0, 0, 0, 0xfff0_0001]), PortWrite::Queued);
        assert!(e.take().is_some());
    }
}
