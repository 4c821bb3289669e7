//! Interrupt moderation: what may wait is held for some time, so that a driver which gives an engine one short batch after the
//! other is not interrupted for each, and gathers what it gives, too.
//!
//! The time is a few times what an interrupt costs the guest, from the message to the write that lets the next one out. Nothing
//! is held for a guest that handles none, and ever less often for one that gathers nothing meanwhile.

use std::time::{Duration, Instant};

/// For how many times as long as an interrupt takes the next one waits: it has at most a sixth of the guest's time.
const COSTS: u32 = 6;
/// An interrupt takes no longer, whatever the guest does meanwhile.
const MOST: Duration = Duration::from_millis(10);
/// The last handling counts for one part in so many.
const MEMORY: u32 = 4;
/// After a time that was waited for nothing nothing is held for two submissions, after the next one for four, and so on: for two
/// to the power of this at most.
const DOUBTS: u32 = 5;

/// When the last interrupt was sent, what one costs, and whether it pays to hold it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moderation {
    last: Option<Instant>,
    /// The first that has not been handled yet.
    open: Option<Instant>,
    cost: Option<Duration>,
    /// Something was held for all of its time: what is submitted next says what for.
    tried: bool,
    /// How often in a row it was for nothing.
    doubts: u32,
    /// Submissions for which nothing is held.
    free: u32,
}

impl Moderation {
    /// An interrupt is sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.last = Some(now);
        self.open.get_or_insert(now);
    }

    /// The guest has handled what was sent.
    pub(super) fn handled(&mut self, now: Instant) {
        let Some(since) = self.open.take() else { return };
        let took = now.saturating_duration_since(since).min(MOST);
        let cost = self.cost.map_or(took, |cost| (cost * (MEMORY - 1) + took) / MEMORY);
        self.cost = Some(cost);
    }

    /// The time has come, and something was held or not.
    pub(super) fn tried(&mut self, held: bool) {
        self.tried |= held;
    }

    /// A submission has run, with so many requests in it.
    pub(super) fn ran(&mut self, requests: u32) {
        let tried = std::mem::take(&mut self.tried);
        match requests {
            2.. => (self.doubts, self.free) = (0, 0),
            _ if tried => self.was_useless(),
            _ => self.free = self.free.saturating_sub(1),
        }
    }

    /// The guest has waited for what was held.
    pub(super) fn was_useless(&mut self) {
        self.tried = false;
        self.doubts = (self.doubts + 1).min(DOUBTS);
        self.free = 1 << self.doubts;
    }

    /// Until when what may wait is held, if it is.
    pub(super) fn holds(&self, now: Instant) -> Option<Instant> {
        let until = self.last?.checked_add(self.cost? * COSTS)?;
        (until > now && self.free == 0).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_is_held_for_a_guest_that_has_handled_nothing() {
        let (mut moderation, now) = (Moderation::default(), Instant::now());
        assert_eq!(moderation.holds(now), None);
        moderation.handled(now);
        moderation.sent(now);
        assert_eq!(moderation.holds(now), None);
    }

    #[test]
    fn what_may_wait_is_held_for_six_times_what_an_interrupt_costs() {
        let (mut moderation, start) = (Moderation::default(), Instant::now());
        moderation.sent(start);
        // One more before the guest has come to it.
        moderation.sent(start + MS);
        moderation.handled(start + 2 * MS);
        assert_eq!(moderation.holds(start + 2 * MS), Some(start + 13 * MS));
        assert_eq!(moderation.holds(start + 13 * MS), None);
        moderation.sent(start + 20 * MS);
        moderation.handled(start + 20 * MS + 6 * MS);
        assert_eq!(moderation.holds(start + 26 * MS), Some(start + 38 * MS), "it costs three by now");
    }

    #[test]
    fn a_guest_that_never_comes_to_it_is_not_waited_for() {
        let (mut moderation, start) = (Moderation::default(), Instant::now());
        moderation.sent(start);
        moderation.handled(start + 3600 * 1000 * MS);
        assert_eq!(moderation.holds(start), Some(start + 60 * MS));
        moderation.sent(start + 70 * MS);
        assert_eq!(moderation.holds(start + 130 * MS), None);
    }

    /// Submissions of one request each until something would be held again.
    fn until_held(moderation: &mut Moderation, now: Instant) -> u32 {
        (0..)
            .find(|_| {
                moderation.holds(now).is_some() || {
                    moderation.ran(1);
                    false
                }
            })
            .unwrap_or(0)
    }

    #[test]
    fn a_driver_that_gathers_nothing_is_tried_ever_less_often_until_it_does() {
        let (mut moderation, now) = (Moderation::default(), Instant::now());
        moderation.sent(now);
        moderation.handled(now + MS);
        let tries = [0, 1, 2, 3, 4, 5, 6].map(|_| {
            let submissions = until_held(&mut moderation, now);
            moderation.tried(true);
            moderation.ran(1);
            submissions
        });
        assert_eq!(tries, [0, 2, 4, 8, 16, 32, 32]);
        assert_eq!(until_held(&mut moderation, now), 32);
        moderation.tried(true);
        moderation.ran(3);
        assert_eq!(until_held(&mut moderation, now), 0);
        moderation.was_useless();
        assert_eq!(until_held(&mut moderation, now), 2, "who asks has waited");
    }
}
