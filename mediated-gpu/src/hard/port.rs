//! What is known of an engine's execlists: what was submitted, what the engine has taken, what it said.
//!
//! i915's rule is kept: a submission is written only when the engine has taken the one before, since one more would be lost.

use std::collections::VecDeque;

use crate::gen8::context::{CSB_ACTIVE_TO_IDLE, CSB_ENTRIES, CSB_IDLE_TO_ACTIVE, CSB_PREEMPTED};
use crate::physical::CsbEntry;

/// The two elements of a submission; 0 is none.
pub(super) type Elements = [u64; 2];

/// An engine's port.
#[derive(Debug)]
pub(super) struct Port {
    waiting: VecDeque<Elements>,
    /// Written, and not yet taken by the engine.
    pending: bool,
    /// The engine has something that it has taken.
    active: bool,
    /// Place in the status buffer of the newest entry that was read.
    read: u32,
    csb: Vec<CsbEntry>,
}

impl Default for Port {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            pending: false,
            active: false,
            read: Self::RESET_POINTER,
            csb: Vec::new(),
        }
    }
}

impl Port {
    /// Where the pointers stand after a reset: the next entry goes to the first place.
    pub(super) const RESET_POINTER: u32 = CSB_ENTRIES - 1;

    pub(super) fn submit(&mut self, elements: Elements) {
        self.waiting.push_back(elements);
    }

    /// Nothing more is to be written: the engine will be reset.
    pub(super) fn hold(&mut self) {
        self.waiting.clear();
    }

    /// What is to be written to the engine now. It counts as written.
    pub(super) fn next(&mut self) -> Option<Elements> {
        if self.pending {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.pending = true;
        Some(next)
    }

    /// The places of entries that have come, up to the newest.
    pub(super) fn places(&self, newest: u32) -> impl Iterator<Item = u32> + use<> {
        // A pointer that is none leads nowhere.
        let new = if newest < CSB_ENTRIES { (newest + CSB_ENTRIES - self.read) % CSB_ENTRIES } else { 0 };
        let read = self.read;
        (1..=new).map(move |n| (read + n) % CSB_ENTRIES)
    }

    /// An entry was read at a place.
    pub(super) fn told(&mut self, place: u32, entry: CsbEntry) {
        self.read = place;
        if entry.status & (CSB_IDLE_TO_ACTIVE | CSB_PREEMPTED) != 0 {
            (self.pending, self.active) = (false, true);
        }
        if entry.status & CSB_ACTIVE_TO_IDLE != 0 {
            self.active = false;
        }
        self.csb.push(entry);
    }

    pub(super) fn take(&mut self) -> Vec<CsbEntry> {
        std::mem::take(&mut self.csb)
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.pending && !self.active && self.waiting.is_empty()
    }

    /// The engine was reset. What it said before stays to be taken.
    pub(super) fn reset(&mut self) {
        let csb = self.take();
        *self = Self { csb, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gen8::context::{CSB_COMPLETE, CSB_ELEMENT_SWITCH, CSB_LITE_RESTORE};

    fn tell(port: &mut Port, newest: u32, statuses: &[u32]) {
        let places: Vec<u32> = port.places(newest).collect();
        assert_eq!(places.len(), statuses.len());
        for (place, status) in places.into_iter().zip(statuses) {
            port.told(place, CsbEntry { status: *status, context_id: 7 });
        }
    }

    #[test]
    fn a_submission_waits_until_the_engine_has_taken_the_one_before() {
        let mut port = Port::default();
        assert!(port.is_idle());
        (1..=3).for_each(|n| port.submit([n, 0]));
        assert_eq!((port.next(), port.next()), (Some([1, 0]), None));
        tell(&mut port, 0, &[CSB_IDLE_TO_ACTIVE]);
        assert_eq!((port.next(), port.next()), (Some([2, 0]), None));
        tell(&mut port, 1, &[CSB_PREEMPTED | CSB_LITE_RESTORE]);
        assert_eq!(port.next(), Some([3, 0]));
        // The engine had become idle before it saw the third.
        tell(&mut port, 2, &[CSB_COMPLETE | CSB_ACTIVE_TO_IDLE]);
        assert!(!port.is_idle());
        tell(&mut port, 4, &[CSB_IDLE_TO_ACTIVE, CSB_COMPLETE | CSB_ACTIVE_TO_IDLE]);
        assert!(port.is_idle());
        assert_eq!(port.take().len(), 5);
    }

    #[test]
    fn an_engine_between_two_elements_is_not_idle() {
        let mut port = Port::default();
        port.submit([1, 2]);
        assert_eq!(port.next(), Some([1, 2]));
        tell(&mut port, 1, &[CSB_IDLE_TO_ACTIVE, CSB_COMPLETE | CSB_ELEMENT_SWITCH]);
        assert!(!port.is_idle());
        tell(&mut port, 2, &[CSB_COMPLETE | CSB_ACTIVE_TO_IDLE]);
        assert!(port.is_idle());
    }

    #[test]
    fn entries_are_read_round_the_buffer_and_a_wrong_pointer_reads_none() {
        let mut port = Port::default();
        assert_eq!(port.places(5).count(), 0);
        tell(&mut port, 4, &[CSB_IDLE_TO_ACTIVE; 5]);
        assert_eq!(port.places(1).collect::<Vec<_>>(), [5, 0, 1]);
        assert_eq!((port.places(6).count(), port.places(7).count()), (0, 0));
    }

    #[test]
    fn a_reset_forgets_what_was_submitted_and_keeps_what_was_said() {
        let mut port = Port::default();
        (1..=2).for_each(|n| port.submit([n, 0]));
        port.next();
        tell(&mut port, 0, &[CSB_IDLE_TO_ACTIVE]);
        port.reset();
        assert!(port.is_idle());
        assert_eq!((port.next(), port.take().len()), (None, 1));
        assert_eq!(port.places(0).collect::<Vec<_>>(), [0]);
    }
}
