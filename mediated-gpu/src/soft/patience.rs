//! Whether to look for work a little longer before going to sleep.
//!
//! A wake-up takes as long as a large blit, and a driver that keeps its GPU busy submits again within some microseconds. So an
//! engine looks for as long as a wake-up or two. Who looks in vain twice in a row leaves it out ever longer, so that an idle
//! engine costs nothing, and one whose processor others want next to nothing.

use std::time::{Duration, Instant};

/// How long an engine looks for work.
const LOOK: Duration = Duration::from_micros(50);
/// Looks between two offers of the processor to others, which take longer than a look does.
const LOOKS: u32 = 8;
/// A processor that was away for longer had other work.
const AWAY: Duration = Duration::from_micros(20);
/// What that counts for: so many times in vain.
const WANTED: u32 = 5;
/// Most times in a row that looking is left out after it did not pay, as a power of two: then a look in vain adds a microsecond
/// or so to what each submission costs.
const MAX_PAUSE: u32 = 6;

/// What passes while one looks.
trait Clock {
    /// Time since some moment.
    fn now(&self) -> Duration;
    /// Between two looks.
    fn pause(&self);
    /// Lets others have the processor, if they want it.
    fn offer(&self);
}

/// The processor's time.
struct RealTime(Instant);

impl Clock for RealTime {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn pause(&self) {
        std::hint::spin_loop();
    }

    fn offer(&self) {
        std::thread::yield_now();
    }
}

/// A thread's experience with looking.
#[derive(Debug)]
pub(super) struct Patience {
    /// How long to look.
    lasts: Duration,
    /// Times in a row that it was in vain.
    vain: u32,
    /// How often it will still be left out.
    skip: u32,
}

impl Default for Patience {
    /// An engine's.
    fn default() -> Self {
        Self::new(LOOK)
    }
}

impl Patience {
    /// It lasts so long each time.
    pub(super) const fn new(lasts: Duration) -> Self {
        Self { lasts, vain: 0, skip: 0 }
    }

    /// Looks until `came` says so, patience is over or somebody else wants the processor; not at all where that has not paid.
    /// Whether it came.
    pub(super) fn look(&mut self, came: impl FnMut() -> bool) -> bool {
        !self.left_out() && self.look_by(&RealTime(Instant::now()), came)
    }

    /// Whether looking is left out this time, which has not paid.
    pub(super) fn left_out(&mut self) -> bool {
        let left_out = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        left_out
    }

    /// The same where it is known that it comes soon: never left out, and no experience.
    pub(super) fn look_anyway(&self, came: impl FnMut() -> bool) -> bool {
        let (found, _) = self.watch(&RealTime(Instant::now()), came);
        found
    }

    fn look_by(&mut self, clock: &impl Clock, came: impl FnMut() -> bool) -> bool {
        let (found, wanted) = self.watch(clock, came);
        let least = if wanted { WANTED } else { 0 };
        self.vain = if found { 0 } else { (self.vain + 1).max(least).min(MAX_PAUSE + 1) };
        // The first in vain is free: it is the end of every burst.
        self.skip = (1 << self.vain.saturating_sub(1)) - 1;
        found
    }

    /// Looks. Whether it came, and whether others want the processor.
    fn watch(&self, clock: &impl Clock, mut came: impl FnMut() -> bool) -> (bool, bool) {
        let start = clock.now();
        let (mut looks, mut wanted) = (0u32, false);
        let found = loop {
            let now = clock.now();
            let over = now.saturating_sub(start) > self.lasts;
            if came() {
                // What came while others had the processor would have been here as soon by a wake-up.
                break looks == 0 || !over;
            }
            if wanted || over {
                break false;
            }
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                clock.offer();
                wanted = clock.now().saturating_sub(now) > AWAY;
            } else {
                clock.pause();
            }
        };
        (found, wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A clock that a pause moves by a microsecond, and an offer by as much as others take.
    struct Simulated {
        now: Cell<Duration>,
        others: Duration,
    }

    impl Simulated {
        fn new(others: u64) -> Self {
            Self { now: Cell::default(), others: Duration::from_micros(others) }
        }

        fn pass(&self, time: Duration) {
            self.now.set(self.now.get() + time);
        }
    }

    impl Clock for Simulated {
        fn now(&self) -> Duration {
            self.now.get()
        }
        fn pause(&self) {
            self.pass(Duration::from_micros(1));
        }
        fn offer(&self) {
            self.pass(self.others);
        }
    }

    #[test]
    fn what_is_there_is_found_every_time() {
        let mut p = Patience::default();
        for _ in 0..100 {
            assert!(p.look(|| true));
        }
    }

    #[test]
    fn what_never_comes_is_looked_for_ever_more_rarely() {
        let (mut p, clock) = (Patience::default(), Simulated::new(1));
        let mut left_out = vec![];
        for _ in 0..19 {
            let start = clock.now();
            assert!(!p.look_by(&clock, || false));
            let took = clock.now() - start;
            assert!(took > LOOK && took < LOOK * 2, "{took:?}");
            left_out.push(p.skip);
        }
        assert_eq!(left_out[..5], [0, 1, 3, 7, 15]);
        assert_eq!(left_out[18], (1 << MAX_PAUSE) - 1);
        assert!(!p.look(|| unreachable!("left out")));
        assert_eq!(p.skip, (1 << MAX_PAUSE) - 2);
    }

    #[test]
    fn one_find_makes_up_for_all_that_was_in_vain() {
        let (mut p, clock) = (Patience { vain: 6, ..Patience::default() }, Simulated::new(1));
        assert!(p.look_by(&clock, || clock.now() > Duration::from_micros(30)));
        assert!(!p.look_by(&clock, || false));
        assert_eq!(p.skip, 0, "the first in vain is free");
    }

    #[test]
    fn processor_that_others_want_is_left_to_them_for_long() {
        let (mut p, clock) = (Patience::new(Duration::from_secs(1)), Simulated::new(3000));
        let mut looks = 0;
        assert!(!p.look_by(&clock, || {
            looks += 1;
            false
        }));
        assert_eq!((looks, p.skip), (LOOKS + 1, 15));
    }

    #[test]
    fn look_that_is_known_to_end_is_never_left_out() {
        let p = Patience { vain: 6, skip: 31, ..Patience::default() };
        assert!(p.look_anyway(|| true));
        assert_eq!((p.vain, p.skip), (6, 31), "and teaches nothing");
    }

    #[test]
    fn what_others_bring_who_had_the_processor_is_found_if_patience_lasts() {
        let clock = Simulated::new(300);
        let came = || clock.now() > Duration::from_micros(250);
        let mut p = Patience::new(Duration::from_millis(2));
        assert!(p.look_by(&clock, came));
        clock.now.set(Duration::ZERO);
        // A wake-up would have been as soon.
        assert!(!Patience::default().look_by(&clock, came));
    }
}
