//! Whether help helps: how long large blits have taken with helpers and without.
//!
//! Two processors may be the halves of one core, or wanted by others; then two threads are slower than one, and it can change at
//! any time. So what has been faster is done, and once in a while the other. All that it costs is in the times: wake-ups, too.

use std::time::Duration;

/// What is compared with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    Fill,
    Copy,
    Tiles,
}

/// Blits after which the other way is tried: so soon after a change, and with each trial that changes nothing after twice as many, until
/// it is so many. A trial may have met with something that says nothing of either way.
const TRY_SOON: u32 = 32;
const TRY_EVERY: u32 = 256;
/// Blits for which a way is tried.
pub(super) const TRIAL: u32 = 8;
/// Blits after a change that say nothing: what they draw lies in another processor's cache, and each thread has more of it with every
/// blit.
const WARM: u32 = 4;
/// How much faster two ways must be told apart by, as one of so many parts.
const MARGIN: u64 = 10;
/// A time's weight beside those before it, as one of so many parts.
const WEIGHT: u64 = 4;

/// What is known of a kind of blit. At first it is drawn alone, on trial.
struct Known {
    /// Nanoseconds a MiB: alone, and shared.
    times: [Option<u64>; 2],
    /// The way in which it is drawn.
    shared: bool,
    /// That way is being tried.
    trial: bool,
    /// Blits since it was chosen.
    done: u32,
    /// Blits after which the other one is tried.
    every: u32,
    /// What the first one of a pair took. Of two the faster one counts: whoever was held up by others says nothing.
    first: Option<u64>,
}

impl Default for Known {
    fn default() -> Self {
        Self { times: [None; 2], shared: false, trial: true, done: 0, every: TRY_SOON, first: None }
    }
}

impl Known {
    fn choose(&mut self, shared: bool, trial: bool) {
        if shared != self.shared {
            (self.shared, self.first) = (shared, None);
        }
        (self.trial, self.done) = (trial, 0);
        if trial {
            // A trial says what is so now.
            self.times[usize::from(shared)] = None;
        }
    }

    fn next(&mut self) -> bool {
        if self.done >= if self.trial { TRIAL } else { self.every } {
            match self.times {
                [Some(alone), Some(shared)] if self.trial => {
                    let better = shared < alone.saturating_sub(alone / MARGIN);
                    let changes = better == self.shared;
                    self.every = if changes { TRY_SOON } else { (2 * self.every).min(TRY_EVERY) };
                    self.choose(better, false);
                }
                _ => self.choose(!self.shared, true),
            }
        }
        self.shared
    }

    fn took(&mut self, pace: u64) {
        self.done += 1;
        if self.done <= WARM {
            return;
        }
        let Some(first) = self.first.take() else {
            self.first = Some(pace);
            return;
        };
        let (pace, known) = (first.min(pace), &mut self.times[usize::from(self.shared)]);
        *known = Some(match *known {
            None => pace,
            // A trial is short: what held all of a pair up counts no more than what held up one.
            Some(old) if self.trial => old.min(pace),
            Some(old) => old - old / WEIGHT + pace / WEIGHT,
        });
    }
}

#[derive(Default)]
pub(super) struct Pace([Known; 3]);

impl Pace {
    fn of(&mut self, kind: Kind) -> &mut Known {
        let [fill, copy, tiles] = &mut self.0;
        match kind {
            Kind::Fill => fill,
            Kind::Copy => copy,
            Kind::Tiles => tiles,
        }
    }

    /// Whether the next blit of this kind is to be shared.
    pub(super) fn shares(&mut self, kind: Kind) -> bool {
        self.of(kind).next()
    }

    /// A blit of so many bytes is done, in the way that [`shares`](Self::shares) has told.
    pub(super) fn took(&mut self, kind: Kind, bytes: u64, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.of(kind).took(nanos.saturating_mul(1 << 10) / (bytes >> 10).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blits of 4 MiB of a kind, so long with help and so long alone; three times that after a change. How many were shared.
    fn run(pace: &mut Pace, blits: u32, shared: u64, alone: u64) -> u32 {
        let mut last = None;
        (0..blits)
            .map(|_| {
                let shares = pace.shares(Kind::Copy);
                let time = if shares { shared } else { alone };
                let time = if last.replace(shares) == Some(shares) { time } else { 3 * time };
                pace.took(Kind::Copy, 4 << 20, Duration::from_micros(time));
                u32::from(shares)
            })
            .sum()
    }

    /// Until both ways are known, and trials that change nothing are as rare as they come.
    const FIRST: u32 = 2 * TRIAL + (TRY_SOON + TRIAL) + (2 * TRY_SOON + TRIAL) + (4 * TRY_SOON + TRIAL);
    /// From one trial to the next, then.
    const PERIOD: u32 = TRY_EVERY + TRIAL;

    #[test]
    fn what_is_faster_is_done_and_the_other_tried_now_and_then() {
        let mut pace = Pace::default();
        run(&mut pace, FIRST, 50, 80);
        assert_eq!(run(&mut pace, 10 * PERIOD, 50, 80), 10 * TRY_EVERY);
        let mut pace = Pace::default();
        run(&mut pace, FIRST, 120, 80);
        assert_eq!(run(&mut pace, 10 * PERIOD, 120, 80), 10 * TRIAL);
    }

    #[test]
    fn what_makes_no_difference_is_done_alone() {
        let mut pace = Pace::default();
        run(&mut pace, FIRST, 78, 80);
        assert_eq!(run(&mut pace, 10 * PERIOD, 78, 80), 10 * TRIAL);
    }

    #[test]
    fn what_changes_is_found_out_by_one_trial() {
        let mut pace = Pace::default();
        run(&mut pace, FIRST, 50, 80);
        // A trial, then those that come soon after a change.
        let soon = 3 * TRIAL;
        assert_eq!(run(&mut pace, PERIOD, 120, 80), TRY_EVERY);
        assert_eq!(run(&mut pace, FIRST + 8 * PERIOD, 120, 80), 8 * TRIAL + soon);
        run(&mut pace, PERIOD, 50, 80);
        let all = FIRST + 8 * PERIOD;
        assert_eq!(run(&mut pace, all, 50, 80), all - 8 * TRIAL - soon);
    }

    #[test]
    fn trial_that_met_with_something_is_made_good_soon() {
        let mut pace = Pace::default();
        run(&mut pace, FIRST, 50, 80);
        // All was slow while the other way was as fast as ever.
        run(&mut pace, TRY_EVERY - 8, 50, 80);
        run(&mut pace, 8 + TRIAL, 300, 80);
        assert_eq!(run(&mut pace, TRY_SOON + TRIAL, 50, 80), TRIAL, "alone until it is tried again");
        assert_eq!(run(&mut pace, TRY_SOON, 50, 80), TRY_SOON);
    }

    #[test]
    fn blit_that_was_held_up_changes_nothing() {
        let mut pace = Pace::default();
        let mut run = |blits: u32| {
            (0..blits)
                .filter(|n| {
                    let shares = pace.shares(Kind::Copy);
                    let time = if n % 2 == 0 {
                        1000
                    } else if shares {
                        50
                    } else {
                        80
                    };
                    pace.took(Kind::Copy, 4 << 20, Duration::from_micros(time));
                    shares
                })
                .count()
        };
        run(FIRST);
        assert_eq!(run(5 * PERIOD), 5 * TRY_EVERY as usize);
    }

    #[test]
    fn kinds_are_not_compared_with_each_other() {
        let mut pace = Pace::default();
        run(&mut pace, FIRST + 100, 120, 80);
        for _ in 0..TRIAL {
            assert!(!pace.shares(Kind::Fill), "not known yet");
            pace.took(Kind::Fill, 1 << 20, Duration::from_micros(20));
        }
        assert!(pace.shares(Kind::Fill), "how it is with help is not known");
        assert!(!pace.shares(Kind::Tiles), "nothing is known");
    }
}
