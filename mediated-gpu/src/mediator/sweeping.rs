//! Asks about guests' mappings now and then: a guest can put another frame behind a number, and nobody is told.
//!
//! Promises each vGPU a share of its mappings ([`ShadowGgtt::sweep`](super::shadow::ShadowGgtt::sweep)) a tick. A vGPU that does
//! not work has the shares of [`TOGETHER`] ticks at once. Ticks are the same for all, so that idle ones cost one wake-up of
//! the [`timetable`](super::timetable)'s thread together. What it finds is for the vGPU's own thread to let go.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::guest::Vgpu;

/// Ticks whose shares are done at once for a vGPU that does not work. What is stale is found that much later at most.
pub(super) const TOGETHER: u32 = 4;

/// When ticks are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks {
    since: Instant,
    every: Duration,
}

impl Ticks {
    pub(super) fn new(every: Duration) -> Self {
        Self { since: Instant::now(), every }
    }

    /// The next tick whose number so many divides, after `now`. `None`: beyond all times.
    pub(super) fn after(&self, now: Instant, many: u32) -> Option<Instant> {
        let step = self.every.checked_mul(many)?.as_nanos().max(1);
        let steps = now.saturating_duration_since(self.since).as_nanos() / step + 1;
        let nanos = u64::try_from(steps.checked_mul(step)?).ok()?;
        self.since.checked_add(Duration::from_nanos(nanos))
    }
}

/// One vGPU's sweeps.
pub(super) struct Sweeping {
    ticks: Ticks,
    last: Mutex<Last>,
}

struct Last {
    /// What its vGPU had done by then.
    work: u64,
    /// How many ticks' shares the next one does.
    next: u32,
}

impl Sweeping {
    pub(super) fn new(ticks: Ticks) -> Self {
        Self { ticks, last: Mutex::new(Last { work: 0, next: 1 }) }
    }
}

impl Vgpu {
    /// Asks about the shares that are due. When that is to be done again.
    pub(super) fn sweep_in_time(&self, now: Instant) -> Option<Instant> {
        let sweeping = self.sweeping();
        let (shares, next) = {
            let mut last = sweeping.last.lock();
            let work = self.stats().work();
            let works = std::mem::replace(&mut last.work, work) != work;
            let next = if works { 1 } else { TOGETHER };
            (std::mem::replace(&mut last.next, next), next)
        };
        if (0..shares).fold(false, |found, _| self.ggtt().sweep() || found) {
            self.maintenance().hurry();
        }
        sweeping.ticks.after(now, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_come_together_whenever_they_are_asked_for() {
        let ticks = Ticks::new(Duration::from_secs(1));
        let at = |ms| ticks.since + Duration::from_millis(ms);
        let after = |ms, many| ticks.after(at(ms), many).unwrap();
        assert_eq!([0, 1, 999, 1000, 1001].map(|ms| after(ms, 1)), [1000, 1000, 1000, 2000, 2000].map(at));
        assert_eq!([0, 3999, 4000, 9500].map(|ms| after(ms, 4)), [4000, 4000, 8000, 12000].map(at));
        let before = ticks.since.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(ticks.after(before, 1), Some(at(1000)));
    }

    #[test]
    fn ticks_that_are_longer_than_all_times_never_come_and_those_that_take_no_time_do() {
        for every in [Duration::MAX, Duration::MAX / 4, Duration::from_secs(u64::MAX / 8)] {
            assert_eq!(Ticks::new(every).after(Instant::now(), 4), None);
        }
        let now = Instant::now();
        assert!(Ticks::new(Duration::ZERO).after(now, 1).unwrap() > now);
    }
}
