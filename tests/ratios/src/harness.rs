//! Rounds, medians and verdicts.
//!
//! The two sides of a ratio run in turn, in short rounds; a round gives one ratio, and the figure is the median of the
//! rounds' ratios. So what disturbs the machine disturbs both sides, and one bad round moves nothing.

use std::fmt;
use std::time::{Duration, Instant};

/// What the figure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// Ours costs at most this many times what the peer costs.
    AtMost(f64),
    /// Ours does at least this many times what the peer does.
    AtLeast(f64),
    /// Nothing: it says what another figure has in it.
    Told,
}

impl Target {
    /// Whether `ratio` holds. A ratio that is no number does not.
    pub(crate) fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
            Self::Told => !ratio.is_nan(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(l) => write!(f, "at most {l}"),
            Self::AtLeast(l) => write!(f, "at least {l}"),
            Self::Told => f.write_str("no target"),
        }
    }
}

/// One line of the output.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Its name, by which it can be asked for.
    pub(crate) name: &'static str,
    /// Median of the rounds' ratios.
    pub(crate) ratio: f64,
    /// What it must be.
    pub(crate) target: Target,
    /// What was divided by what, with the medians of both sides.
    pub(crate) detail: String,
}

impl Figure {
    /// Whether the target is met.
    pub(crate) fn holds(&self) -> bool {
        self.target.holds(self.ratio)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.holds(), self.target) {
            (true, Target::Told) => "is told",
            (true, _) => "holds",
            (false, _) => "falls short",
        };
        write!(
            f,
            "{:<24} {:>7.3}   {:<14} {verdict:<12} {}",
            self.name,
            self.ratio,
            self.target.to_string(),
            self.detail
        )
    }
}

/// The middle of `values`; `NaN` of none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// Seconds that one call of `work` takes.
pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    // A clock too coarse for the work must not divide by nothing.
    start.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}

/// Runs `ours` and `peer` in turn, `rounds` times, after one round that is not counted, and gives the medians of
/// (ours / peer, ours, peer). Both return the seconds they took for the same amount of work.
pub(crate) fn interleave(
    rounds: usize,
    mut ours: impl FnMut() -> f64,
    mut peer: impl FnMut() -> f64,
) -> (f64, f64, f64) {
    peer();
    ours();
    let (mut o, mut p) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Who goes first changes, so that going second is nobody's advantage.
        if round % 2 == 0 {
            o.push(ours());
            p.push(peer());
        } else {
            p.push(peer());
            o.push(ours());
        }
    }
    (median(&mut ratios(&o, &p)), median(&mut o), median(&mut p))
}

/// The ratios of rounds, each with the one after it: whoever goes first in a round comes after itself, and finds the caches as it
/// left them. Of single rounds the ratios are of two kinds, and the median is now of the one, now of the other.
fn ratios(ours: &[f64], peer: &[f64]) -> Vec<f64> {
    let two = 2.min(ours.len()).max(1);
    let sum = |v: &[f64]| v.iter().sum::<f64>();
    ours.windows(two).zip(peer.windows(two)).map(|(o, p)| sum(o) / sum(p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_bad_round() {
        assert_eq!(median(&mut [1.0, 9.0, 1.1]), 1.1);
        assert_eq!(median(&mut [1.0, 2.0]), 1.5);
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn going_first_is_nobodys_advantage() {
        // Half as long for whoever comes after itself.
        let last = std::cell::Cell::new(0);
        let time = |who| if last.replace(who) == who { 0.5 } else { 1.0 };
        for rounds in [2, 3, 40, 41] {
            let (ratio, ..) = interleave(rounds, || time(1), || time(2));
            assert_eq!(ratio, 1.0, "{rounds} rounds");
        }
    }

    #[test]
    fn a_figure_without_rounds_falls_short() {
        assert!(!Target::AtMost(1.0).holds(f64::NAN));
        assert!(!Target::AtLeast(1.0).holds(f64::NAN));
        assert!(Target::AtMost(1.3).holds(1.3));
        assert!(!Target::AtLeast(0.7).holds(0.69));
    }

    #[test]
    fn the_ratio_is_ours_over_the_peers() {
        let (ratio, ours, peer) = interleave(3, || 2.0, || 4.0);
        assert_eq!((ratio, ours, peer), (0.5, 2.0, 4.0));
    }
}
