//! Whether to look at the slots a little longer before going to sleep.
//!
//! A guest that programs a device makes many accesses in a row; who stays awake for the next one saves both sides a
//! wake-up. It costs nothing while a guest is idle, and stops by itself where it does not pay: where accesses are far apart,
//! or where somebody else wants the processor.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Most times in a row that lingering is left out after it did not pay.
const MAX_PAUSE: u32 = 1 << 14;
/// Looks between two offers of the processor to others, which take longer than a look does.
const LOOKS: u32 = 16;
/// A session ends after this, or after nothing came for as long, so that the loop's other descriptors get their turn.
const SESSION: Duration = Duration::from_micros(500);

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Nothing,
    Something,
}

/// What passes while one looks.
pub(crate) trait Clock {
    /// Time since some moment.
    fn now(&self) -> Duration;
    /// Between two looks.
    fn pause(&self);
}

/// The processor's time.
#[derive(Debug)]
pub(crate) struct RealTime {
    start: Instant,
    pauses: Cell<u32>,
}

impl Clock for RealTime {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn pause(&self) {
        self.pauses.set(self.pauses.get().wrapping_add(1));
        if self.pauses.get().is_multiple_of(LOOKS) {
            // The guest's vCPU may want this very processor.
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

/// One guest's experience with lingering.
#[derive(Debug)]
pub(crate) struct Linger<C = RealTime> {
    /// How long to wait for the next request; zero for not at all.
    patience: Duration,
    /// How often to leave it out.
    pause: u32,
    /// How often it will still be left out.
    skip: u32,
    clock: C,
}

impl Linger {
    pub(crate) fn new(patience: Duration) -> Self {
        Self::with_clock(patience, RealTime { start: Instant::now(), pauses: Cell::new(0) })
    }

    /// Itself, leaving one that never looks. The clock is not asked: it may be a system call.
    pub(crate) fn take(&mut self) -> Self {
        let clock = RealTime { start: self.clock.start, pauses: Cell::new(0) };
        std::mem::replace(self, Self::with_clock(Duration::ZERO, clock))
    }
}

impl<C: Clock> Linger<C> {
    fn with_clock(patience: Duration, clock: C) -> Self {
        Self { patience, pause: 0, skip: 0, clock }
    }

    /// Whether the next session will look at all.
    pub(crate) fn is_due(&self) -> bool {
        !self.patience.is_zero() && self.skip == 0
    }

    /// Notes a time at which nobody looks, if this is one.
    pub(crate) fn is_left_out(&mut self) -> bool {
        let due = self.is_due();
        self.skip = self.skip.saturating_sub(1);
        !due
    }

    /// Calls `look` until it has found nothing for as long as patience lasts.
    pub(crate) fn session(&mut self, mut look: impl FnMut() -> Look) {
        if self.is_left_out() {
            return;
        }
        let start = self.clock.now();
        let mut found = false;
        let mut last = start;
        loop {
            match look() {
                Look::Something => {
                    found = true;
                    last = self.clock.now();
                    if last.saturating_sub(start) > SESSION {
                        break;
                    }
                }
                Look::Nothing => {
                    self.clock.pause();
                    let now = self.clock.now();
                    if now.saturating_sub(last) > self.patience.min(SESSION) {
                        // Whatever there is now came too late for this to have paid.
                        self.judge(found && look() == Look::Nothing);
                        return;
                    }
                }
            }
        }
        self.judge(true);
    }

    fn judge(&mut self, paid: bool) {
        self.pause = if paid { 0 } else { (self.pause * 2 + 1).min(MAX_PAUSE) };
        self.skip = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough that a yield between two looks never exhausts it.
    const PATIENCE: Duration = Duration::from_secs(3600);
    /// So short that any yield does.
    const IMPATIENCE: Duration = Duration::from_nanos(1);

    fn looks(linger: &mut Linger, answers: &[Look]) -> usize {
        let mut n = 0;
        linger.session(|| {
            n += 1;
            answers.get(n - 1).copied().unwrap_or(Look::Nothing)
        });
        n
    }

    #[test]
    fn it_says_beforehand_whether_it_will_look() {
        assert!(!Linger::new(Duration::ZERO).is_due());
        let mut linger = Linger::new(IMPATIENCE);
        assert!(linger.is_due());
        looks(&mut linger, &[]);
        assert!(!linger.is_due());
        assert_eq!(looks(&mut linger, &[]), 0);
        assert!(linger.is_due());
    }

    #[test]
    fn without_patience_it_never_looks() {
        assert_eq!(looks(&mut Linger::new(Duration::ZERO), &[]), 0);
    }

    #[test]
    fn what_does_not_pay_is_left_out_ever_longer() {
        let mut l = Linger::new(IMPATIENCE);
        let pauses: Vec<u32> = (0..18)
            .map(|_| {
                assert!(looks(&mut l, &[]) > 0);
                let mut left_out = 0;
                while l.skip > 0 {
                    assert_eq!(looks(&mut l, &[]), 0);
                    left_out += 1;
                }
                left_out
            })
            .collect();
        assert_eq!(pauses[..4], [1, 3, 7, 15]);
        assert_eq!(pauses[17], MAX_PAUSE);
    }

    #[test]
    fn what_paid_is_done_again_at_once() {
        let mut l = Linger::new(IMPATIENCE);
        assert!(looks(&mut l, &[]) > 0);
        assert_eq!(l.skip, 1);
        l.skip = 0;
        assert!(looks(&mut l, &[Look::Something; 3]) > 3);
        assert_eq!(l.skip, 0);
    }

    #[test]
    fn what_came_after_patience_was_over_has_not_paid() {
        let mut l = Linger::new(IMPATIENCE);
        assert_eq!(looks(&mut l, &[Look::Something, Look::Nothing, Look::Something]), 3);
        assert_eq!(l.skip, 1);
    }

    /// A clock that a look moves by a microsecond.
    #[derive(Default)]
    struct Simulated(std::cell::Cell<u64>);

    impl Clock for &Simulated {
        fn now(&self) -> Duration {
            Duration::from_micros(self.0.get())
        }
        fn pause(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    /// What became of a guest that makes an access `gap(n)` microseconds after it got the n-th answer.
    #[derive(Debug, Default)]
    struct Outcome {
        /// Requests for which the loop was asleep, and had to be woken.
        woken: u64,
        /// Requests that were found by looking.
        found: u64,
        /// Microseconds spent on looking.
        looked: u64,
        /// Microseconds in all.
        time: u64,
    }

    fn simulate(patience: u64, requests: u64, gap: impl Fn(u64) -> u64) -> Outcome {
        let clock = Simulated::default();
        let mut linger = Linger::with_clock(Duration::from_micros(patience), &clock);
        let mut out = Outcome::default();
        let (mut n, mut next) = (0, gap(0));
        while n < requests {
            // Asleep until it comes.
            clock.0.set(clock.0.get().max(next));
            out.woken += 1;
            n += 1;
            next = clock.0.get() + gap(n);
            let began = clock.0.get();
            linger.session(|| {
                if n < requests && clock.0.get() >= next {
                    out.found += 1;
                    n += 1;
                    next = clock.0.get() + gap(n);
                    Look::Something
                } else {
                    Look::Nothing
                }
            });
            out.looked += clock.0.get() - began;
        }
        out.time = clock.0.get();
        out
    }

    #[test]
    fn accesses_in_a_row_are_found_without_a_wake_up() {
        let out = simulate(20, 100_000, |_| 5);
        // A session ends after 500 microseconds, that is after 100 accesses, and the next event begins another.
        assert!(out.woken <= out.found / 99, "{out:?}");
        assert_eq!(out.woken + out.found, 100_000);
    }

    #[test]
    fn accesses_that_are_far_apart_cost_next_to_no_looking() {
        let out = simulate(20, 100_000, |_| 1000);
        assert_eq!((out.woken, out.found), (100_000, 0));
        // Twenty tries or so, of 20 microseconds each.
        assert!(out.looked <= 21 * 25, "{out:?}");
    }

    #[test]
    fn a_guest_that_is_idle_between_bursts_costs_a_little_after_each_burst_only() {
        // Bursts of 1000 accesses, a second between them.
        let out = simulate(20, 200_000, |n| if n % 1000 == 0 { 1_000_000 } else { 3 });
        assert!(out.woken <= 200_000 / 50, "{out:?}");
        // While it is idle nobody looks: what was looked in all is the bursts and a patience after each.
        assert!(out.looked <= 200 * (1000 * 4 + 25), "{out:?}");
        assert!(out.time >= 199 * 1_000_000);
    }

    #[test]
    fn looking_in_vain_is_bounded_by_what_looking_has_found() {
        // Whatever the pattern: between two tries that paid there are at most 15 that did not, with ever longer pauses, and
        // then one in 16384 events.
        for (seed, rare) in [(1, 2), (2, 5), (3, 50), (4, 1000)] {
            let out = simulate(20, 50_000, |n| {
                let x = (n + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                if x % rare == 0 { 4 } else { 300 }
            });
            assert!(out.found > 0 || rare > 5, "{out:?}");
            let tries = 15 * (out.found + 1) + out.woken / u64::from(MAX_PAUSE);
            assert!(out.looked <= out.found * 5 + tries * 22, "{out:?}");
        }
    }

    #[test]
    fn session_ends_for_the_sake_of_others_although_there_is_ever_more_or_patience_without_end() {
        let mut l = Linger::new(PATIENCE);
        l.session(|| Look::Something);
        assert_eq!(l.skip, 0);
        l.session(|| Look::Nothing);
        assert_eq!(l.skip, 1);
    }
}
