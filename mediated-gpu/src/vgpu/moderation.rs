//! Interrupt moderation: what may wait is held for some time, so that a driver which gives an engine one short batch after the
//! other is not interrupted for each, and gathers what it gives, too.
//!
//! The time is a few times what an interrupt costs the guest, from the message to the write that lets the next one out; and on an
//! engine that is done with each request long before the next, where those come so fast that each by itself would be a burden, long
//! enough for a few of them ([`pace`]). That more was taken is held only on an engine that works on one request for so long that a
//! few have time to come. Nothing is held for a guest that handles none, nor of an engine that was reset and is being probed, and ever
//! less often for one that gathers nothing meanwhile ([`trials`]).

mod pace;
mod trials;

use std::time::{Duration, Instant};

use crate::physical::Engine;
use pace::Pace;
use trials::Trials;

/// For how many times as long as an interrupt takes the next one waits: it has at most a sixth of the guest's time.
const COSTS: u32 = 6;
/// But no longer than this.
const MOST_SPARED: Duration = Duration::from_millis(60);
/// An interrupt takes no longer, whatever the guest does meanwhile.
const MOST: Duration = Duration::from_millis(40);
/// The last handling counts for one part in so many.
const MEMORY: u32 = 4;
/// So many requests are to come meanwhile.
const GATHERED: u32 = 4;
/// Requests that are further apart than so many interrupts are no burden: what is trapped of a submission and of its interrupt takes
/// about as long as three, a fifth of that.
const APART: u32 = 16;
/// An engine that takes more than one part in so many of that time is not the one that waits: its driver may give it more while it
/// works, and has to know that it may.
const DONE: u32 = 2;
/// It is held no longer than this for requests that are to come.
const MOST_HELD: Duration = Duration::from_millis(300);

/// When the last interrupt was sent, what one costs, how fast requests come, and whether it pays to hold it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moderation {
    last: Option<Instant>,
    /// The first that has not been handled yet.
    open: Option<Instant>,
    cost: Option<Duration>,
    paces: [Pace; Engine::ALL.len()],
    trials: Trials,
}

impl Moderation {
    fn pace(&mut self, e: Engine) -> &mut Pace {
        &mut self.paces[e.index()]
    }

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
        self.trials.tried(held);
    }

    /// The guest has waited for what was held.
    pub(super) fn was_useless(&mut self) {
        self.trials.was_useless();
    }

    /// An engine is given a submission, with so many requests in it.
    pub(super) fn gathered(&mut self, e: Engine, requests: u32, now: Instant) {
        let pace = self.pace(e);
        pace.came(now, requests.max(1));
        let streams = pace.streams();
        self.trials.gathered(requests, streams);
    }

    /// More of what runs was taken. It may be long before an engine is given that.
    pub(super) fn appended(&mut self, e: Engine) {
        let streams = self.pace(e).streams();
        self.trials.passed(streams);
    }

    /// Somebody waits for what an engine has done.
    pub(super) fn awaited(&mut self, e: Engine) {
        self.pace(e).awaited();
    }

    /// An engine is done with a request.
    pub(super) fn goes_on(&mut self, e: Engine, now: Instant) {
        self.pace(e).goes_on(now);
    }

    /// An engine has nothing more to do.
    pub(super) fn idle(&mut self, e: Engine, now: Instant) {
        self.pace(e).done(now);
    }

    /// An engine is reset: what it was given is void, and what comes next is something else.
    pub(super) fn reset(&mut self, e: Engine) {
        *self.pace(e) = Pace::default();
    }

    /// Until when it is held that an engine has begun or has nothing more to do, if it is.
    pub(super) fn holds(&self, e: Engine, now: Instant) -> Option<Instant> {
        let each = self.paces[e.index()].waits(DONE);
        self.until(e, now, self.gathers(now, each))
    }

    /// Until when it is held that more of what runs was taken, if it is.
    pub(super) fn holds_more(&self, e: Engine, now: Instant) -> Option<Instant> {
        let each = self.paces[e.index()].works(now, GATHERED);
        self.gathers(now, each).and_then(|more| self.until(e, now, Some(more)))
    }

    fn until(&self, e: Engine, now: Instant, more: Option<Instant>) -> Option<Instant> {
        let spared = self.last?.checked_add((self.cost? * COSTS).min(MOST_SPARED))?;
        let until = more.map_or(spared, |more| more.max(spared));
        (until > now && self.trials.pays() && self.paces[e.index()].is_probed()).then_some(until)
    }

    /// When so many have come as are to, if they come often enough to be a burden.
    fn gathers(&self, now: Instant, each: Option<Duration>) -> Option<Instant> {
        let (each, cost) = (each?, self.cost?);
        if each > cost * APART {
            return None;
        }
        now.checked_add((each * GATHERED).min(MOST_HELD))
    }
}

#[cfg(test)]
impl Moderation {
    /// Of a guest whose driver has probed all its engines.
    pub(super) fn of_probed() -> Self {
        Self { paces: [Pace::probed(); Engine::ALL.len()], ..Self::default() }
    }

    /// As if an engine worked on something long, and requests came without pause for an hour.
    pub(super) fn works_long(&mut self, e: Engine) {
        *self.pace(e) = Pace::without_pause(Instant::now(), Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const E: Engine = Engine::Vcs;

    #[test]
    fn nothing_is_held_for_a_guest_that_has_handled_nothing() {
        let (mut moderation, now) = (Moderation::of_probed(), Instant::now());
        assert_eq!(moderation.holds(E, now), None);
        moderation.handled(now);
        moderation.sent(now);
        assert_eq!(moderation.holds(E, now), None);
    }

    #[test]
    fn what_may_wait_is_held_for_six_times_what_an_interrupt_costs() {
        let (mut moderation, start) = (Moderation::of_probed(), Instant::now());
        moderation.sent(start);
        // One more before the guest has come to it.
        moderation.sent(start + MS);
        moderation.handled(start + 2 * MS);
        assert_eq!(moderation.holds(E, start + 2 * MS), Some(start + 13 * MS));
        assert_eq!(moderation.holds(E, start + 13 * MS), None);
        moderation.sent(start + 20 * MS);
        moderation.handled(start + 20 * MS + 6 * MS);
        assert_eq!(moderation.holds(E, start + 26 * MS), Some(start + 38 * MS), "it costs three by now");
    }

    #[test]
    fn a_guest_that_never_comes_to_it_is_not_waited_for() {
        let (mut moderation, start) = (Moderation::of_probed(), Instant::now());
        moderation.sent(start);
        moderation.handled(start + 3600 * 1000 * MS);
        assert_eq!(moderation.holds(E, start), Some(start + 60 * MS));
        moderation.sent(start + 70 * MS);
        assert_eq!(moderation.holds(E, start + 130 * MS), None);
    }

    /// A guest whom an interrupt costs a millisecond, and the last was long ago.
    fn interrupted_before(now: Instant) -> Moderation {
        let mut moderation = Moderation::of_probed();
        moderation.sent(now);
        moderation.handled(now + MS);
        moderation
    }

    /// An engine is given so many requests, and is done with them in a moment.
    fn given(moderation: &mut Moderation, requests: u32, now: Instant) {
        moderation.gathered(E, requests, now);
        moderation.idle(E, now + MS / 100);
    }

    #[test]
    fn nothing_more_is_held_of_an_engine_that_works_until_the_next_request_comes() {
        let start = Instant::now();
        for (takes, holds) in [(2, true), (3, false), (5, false)] {
            let (mut moderation, mut now) = (interrupted_before(start), start + 100 * MS);
            for _ in 0..3 {
                moderation.gathered(E, 1, now);
                moderation.idle(E, now + takes * MS);
                now += 5 * MS;
            }
            assert_eq!(moderation.holds(E, now).is_some(), holds, "{takes} of 5 ms");
        }
        let (mut moderation, now) = (interrupted_before(start), start + 100 * MS);
        given(&mut moderation, 1, now);
        moderation.gathered(E, 1, now + 5 * MS);
        moderation.gathered(E, 3, now + 20 * MS);
        moderation.idle(E, now + 45 * MS);
        assert_eq!(
            moderation.holds(E, now + 45 * MS),
            None,
            "ten each, of what was given while it worked, too"
        );
    }

    #[test]
    fn of_an_engine_whose_requests_come_fast_it_is_held_until_four_have_come() {
        let start = Instant::now();
        let (mut moderation, now) = (interrupted_before(start), start + 100 * MS);
        given(&mut moderation, 1, now);
        assert_eq!(moderation.holds(E, now), None, "one alone");
        given(&mut moderation, 1, now + 5 * MS);
        let now = now + 5 * MS;
        assert_eq!(moderation.holds(E, now), Some(now + 20 * MS));
        assert_eq!(moderation.holds(Engine::Bcs, now), None, "another engine");
        // Four that have come together were as far apart, or nearer.
        given(&mut moderation, 4, now + 12 * MS);
        assert_eq!(moderation.holds(E, now + 12 * MS), Some(now + 28 * MS));
        given(&mut moderation, 1, now + 1000 * MS);
        assert_eq!(moderation.holds(E, now + 1000 * MS), None, "it has had nothing for a while");
    }

    #[test]
    fn behind_a_request_for_which_four_could_come_four_are_waited_for() {
        let start = Instant::now();
        let (mut moderation, now) = (interrupted_before(start), start + 100 * MS);
        moderation.gathered(E, 1, now);
        assert_eq!(moderation.holds_more(E, now + 40 * MS), None, "nobody knows how fast they come");
        moderation.gathered(E, 1, now + 5 * MS);
        assert_eq!(moderation.holds_more(E, now + 19 * MS), None, "it may be done with that soon");
        assert_eq!(moderation.holds_more(E, now + 20 * MS), Some(now + 40 * MS));
        assert_eq!(moderation.holds_more(Engine::Bcs, now + 20 * MS), None, "another engine");
        moderation.goes_on(E, now + 30 * MS);
        assert_eq!(moderation.holds_more(E, now + 49 * MS), None, "it works on the next since then");
        assert_eq!(moderation.holds_more(E, now + 50 * MS), Some(now + 70 * MS));
        moderation.idle(E, now + 50 * MS);
        assert_eq!(moderation.holds_more(E, now + 90 * MS), None);
        moderation.goes_on(E, now + 90 * MS);
        assert_eq!(moderation.holds_more(E, now + 500 * MS), None, "it had nothing to do");
    }

    #[test]
    fn what_is_appended_counts_though_the_engine_is_not_given_it() {
        let start = Instant::now();
        let (mut moderation, now) = (interrupted_before(start), start + 100 * MS);
        (0..3).for_each(|_| moderation.was_useless());
        moderation.gathered(E, 1, now);
        moderation.gathered(E, 1, now + 5 * MS);
        // Eight, of which those two are the first.
        for _ in 0..6 {
            assert_eq!(moderation.holds_more(E, now + 100 * MS), None);
            moderation.appended(E);
        }
        assert!(moderation.holds_more(E, now + 100 * MS).is_some());
    }

    #[test]
    fn requests_that_are_far_apart_are_not_waited_for() {
        let start = Instant::now();
        for (apart, holds) in [(16, true), (17, false)] {
            let (mut moderation, now) = (interrupted_before(start), start + 100 * MS);
            given(&mut moderation, 1, now);
            given(&mut moderation, 1, now + apart * MS);
            assert_eq!(moderation.holds(E, now + apart * MS).is_some(), holds, "{apart} ms apart");
        }
    }

    #[test]
    fn however_slow_a_guest_is_it_is_held_for_a_bounded_time() {
        let start = Instant::now();
        let mut moderation = Moderation::of_probed();
        moderation.sent(start);
        moderation.handled(start + 1000 * MS);
        let now = start + 2000 * MS;
        given(&mut moderation, 1, now);
        given(&mut moderation, 1, now + 100 * MS);
        assert_eq!(moderation.holds(E, now + 100 * MS), Some(now + 400 * MS));
        moderation.was_useless();
        assert_eq!(moderation.holds(E, now + 100 * MS), None);
    }

    /// Submissions of one request each until something would be held again; somebody waits for each, or nobody for any.
    fn until_held(moderation: &mut Moderation, now: Instant, awaited: bool) -> u32 {
        let submitted = |moderation: &mut Moderation| {
            moderation.gathered(E, 1, now);
            if awaited {
                moderation.awaited(E);
            }
        };
        let mut submissions = 0..;
        submissions
            .find(|_| {
                moderation.holds(E, now).is_some() || {
                    submitted(moderation);
                    false
                }
            })
            .unwrap_or(0)
    }

    /// Held for nothing, so often that it is hardly ever tried again.
    fn doubtful(moderation: &mut Moderation, now: Instant) -> [u32; 7] {
        [0, 1, 2, 3, 4, 5, 6].map(|_| {
            let submissions = until_held(moderation, now, true);
            moderation.tried(true);
            moderation.gathered(E, 1, now);
            moderation.awaited(E);
            submissions
        })
    }

    #[test]
    fn when_nobody_waits_any_more_it_is_tried_again_soon() {
        let now = Instant::now();
        let mut moderation = interrupted_before(now);
        doubtful(&mut moderation, now);
        // The first two count for one, and 30 for eight.
        assert_eq!(until_held(&mut moderation, now, false), 10);
    }

    #[test]
    fn who_waits_for_every_other_submission_does_not_stream() {
        let (mut moderation, now) = (Moderation::of_probed(), Instant::now());
        for _ in 0..10 {
            moderation.gathered(E, 1, now);
            assert!(!moderation.pace(E).streams());
            moderation.gathered(E, 1, now);
            moderation.awaited(E);
        }
        moderation.gathered(E, 1, now);
        moderation.gathered(E, 1, now);
        moderation.gathered(E, 1, now);
        assert!(moderation.pace(E).streams());
        moderation.gathered(E, 1, now + 1000 * MS);
        assert!(!moderation.pace(E).streams(), "there was a pause");
    }

    #[test]
    fn nothing_is_held_of_an_engine_that_is_probed_after_its_reset() {
        let start = Instant::now();
        let (mut moderation, mut now) = (interrupted_before(start), start + 100 * MS);
        let mut next = |moderation: &mut Moderation| {
            now += 5 * MS;
            moderation.sent(now);
            moderation.handled(now + MS);
            given(moderation, 1, now + MS);
            [moderation.holds(E, now + MS), moderation.holds_more(E, now + 100 * MS)]
        };
        next(&mut moderation);
        assert_ne!(next(&mut moderation)[0], None);
        moderation.reset(E);
        for nth in 1..8 {
            assert_eq!(next(&mut moderation), [None, None], "submission {nth}");
        }
        assert_ne!(next(&mut moderation)[0], None);
    }

    #[test]
    fn a_driver_that_gathers_nothing_is_tried_ever_less_often_until_it_does() {
        let now = Instant::now();
        let mut moderation = interrupted_before(now);
        assert_eq!(doubtful(&mut moderation, now), [0, 2, 4, 8, 16, 32, 32]);
        assert_eq!(until_held(&mut moderation, now, true), 32);
        moderation.tried(true);
        moderation.gathered(E, 3, now);
        assert_eq!(until_held(&mut moderation, now, true), 0);
        moderation.was_useless();
        assert_eq!(until_held(&mut moderation, now, true), 2, "who asks has waited");
    }
}
