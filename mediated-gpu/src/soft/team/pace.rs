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

/// How often the other way is tried: what it costs is a part of the difference then.
const TRY_EVERY: u32 = 64;
/// How much faster two ways must be told apart by, as one of so many parts.
const MARGIN: u64 = 10;
/// A time's weight beside those before it, as one of so many parts.
const WEIGHT: u64 = 4;

#[derive(Default)]
struct Known {
    /// Nanoseconds a MiB.
    alone: Option<u64>,
    shared: Option<u64>,
    /// Blits since the other way was tried.
    since: u32,
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
        let known = self.of(kind);
        let (Some(alone), Some(shared)) = (known.alone, known.shared) else { return known.alone.is_some() };
        let better = shared < alone.saturating_sub(alone / MARGIN);
        known.since += 1;
        if known.since < TRY_EVERY {
            return better;
        }
        known.since = 0;
        !better
    }

    /// A blit of so many bytes is done.
    pub(super) fn took(&mut self, kind: Kind, shared: bool, bytes: u64, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let pace = nanos.saturating_mul(1 << 10) / (bytes >> 10).max(1);
        let known = self.of(kind);
        let known = if shared { &mut known.shared } else { &mut known.alone };
        let old = known.unwrap_or(pace);
        *known = Some(old - old / WEIGHT + pace / WEIGHT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blits of 4 MiB of a kind, so long with help and so long alone. How many of them were shared.
    fn run(pace: &mut Pace, blits: u32, shared: u64, alone: u64) -> u32 {
        (0..blits)
            .map(|_| {
                let shares = pace.shares(Kind::Copy);
                let time = Duration::from_micros(if shares { shared } else { alone });
                pace.took(Kind::Copy, shares, 4 << 20, time);
                u32::from(shares)
            })
            .sum()
    }

    #[test]
    fn what_is_faster_is_done_and_the_other_tried_now_and_then() {
        let mut pace = Pace::default();
        assert_eq!(run(&mut pace, 2 + 10 * TRY_EVERY, 50, 80), 1 + 10 * TRY_EVERY - 10);
        let mut pace = Pace::default();
        assert_eq!(run(&mut pace, 2 + 10 * TRY_EVERY, 120, 80), 11);
    }

    #[test]
    fn what_makes_no_difference_is_done_alone() {
        assert_eq!(run(&mut Pace::default(), 2 + 10 * TRY_EVERY, 78, 80), 11);
    }

    #[test]
    fn what_changes_is_found_out() {
        let mut pace = Pace::default();
        run(&mut pace, 1000, 50, 80);
        run(&mut pace, 10 * TRY_EVERY, 120, 80);
        assert!(run(&mut pace, 10 * TRY_EVERY, 120, 80) <= 10);
        run(&mut pace, 10 * TRY_EVERY, 50, 80);
        assert!(run(&mut pace, 10 * TRY_EVERY, 50, 80) >= 9 * TRY_EVERY);
    }

    #[test]
    fn kinds_are_not_compared_with_each_other() {
        let mut pace = Pace::default();
        run(&mut pace, 1000, 120, 80);
        pace.took(Kind::Fill, false, 1 << 20, Duration::from_micros(20));
        assert!(pace.shares(Kind::Fill), "not known yet");
        assert!(!pace.shares(Kind::Tiles), "nothing is known");
    }
}
