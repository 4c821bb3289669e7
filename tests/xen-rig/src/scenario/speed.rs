//! Our IOREQ server against a minimal blocking C loop: the same guest, the same boot, short rounds in turn.

use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::qemu::Machine;

/// Reads of each kind that the guest makes in a round.
const READS: u64 = 800;
const ROUNDS: usize = 9;
/// What the guest reads from.
const PHASES: [&str; 2] = ["pio", "mmio"];

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Speed;

/// A side of the ratio: its program, and what its results are called.
const OURS: &str = "bench-server";
const PEER: &str = "baseline";

impl Scenario for Speed {
    fn name(&self) -> &'static str {
        "speed"
    }

    fn about(&self) -> &'static str {
        "port and MMIO round trips per second, our server and a minimal C loop in turn"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(600), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.c_baseline()?)?;
        kit.install(files, &kit.program(OURS)?)?;
        kit.install_guest(files)?;
        Ok(rounds().map(|(round, program)| one_round(round, program)).collect())
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for (round, program) in rounds() {
            let name = format!("{program}-{round}");
            checks.succeeded(run, &name);
            let out = run.text(&format!("{name}.out"));
            for phase in PHASES {
                let served = Phase::find(&out, phase).map(|p| p.count);
                checks.equal(&format!("{name}: {phase} reads served"), served, Some(READS));
            }
        }
        for phase in PHASES {
            let rates = |program: &str| -> Vec<f64> {
                let outs = (0..ROUNDS).map(|round| run.text(&format!("{program}-{round}.out")));
                outs.filter_map(|out| Phase::find(&out, phase)).map(Phase::per_second).collect()
            };
            let (ours, peer) = (rates(OURS), rates(PEER));
            if ours.len() == ROUNDS && peer.len() == ROUNDS {
                let ratios = ours.iter().zip(&peer).map(|(o, p)| o / p).collect();
                checks.figure(format!("{phase} ratio"), median(ratios));
                checks.figure(format!("{phase} round trips/s, ours"), median(ours));
                checks.figure(format!("{phase} round trips/s, C"), median(peer));
            }
        }
        Ok(())
    }
}

/// Who serves when. Who goes first changes, so that going second is nobody's advantage.
fn rounds() -> impl Iterator<Item = (usize, &'static str)> {
    (0..ROUNDS).flat_map(|round| {
        let order = if round % 2 == 0 { [OURS, PEER] } else { [PEER, OURS] };
        order.map(|program| (round, program))
    })
}

fn one_round(round: usize, program: &str) -> String {
    format!(
        "guest bench 16 mode=bench n={READS} poweroff=1\n\
         background {program}-{round} {program} $DOMID\n\
         ready {program}-{round} 10 ready\n\
         xl unpause bench || say FAILED xl unpause\n\
         finish {program}-{round} 60\n\
         ended bench 20\n\
         xl destroy bench || say FAILED xl destroy\n"
    )
}

/// The middle of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A line `PHASE COUNT NANOSECONDS` of a bench server.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Phase {
    count: u64,
    nanoseconds: u64,
}

impl Phase {
    fn find(out: &str, phase: &str) -> Option<Self> {
        out.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            if words.next() != Some(phase) {
                return None;
            }
            let count = words.next()?.parse().ok()?;
            let nanoseconds = words.next()?.parse().ok().filter(|&n| n > 0)?;
            Some(Self { count, nanoseconds })
        })
    }

    fn per_second(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts and times of one run are far below 2^52")]
        let (count, nanoseconds) = (self.count as f64, self.nanoseconds as f64);
        count * 1e9 / nanoseconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_read_and_becomes_a_rate() {
        let out = "ready\npio 2000 1000000000\nmmio 2000 500000000\n";
        assert_eq!(Phase::find(out, "pio"), Some(Phase { count: 2000, nanoseconds: 1_000_000_000 }));
        let rate = Phase::find(out, "mmio").map(Phase::per_second);
        assert!(rate.is_some_and(|r| (r - 4000.0).abs() < 1e-6));
    }

    #[test]
    fn a_missing_or_broken_phase_is_none() {
        assert_eq!(Phase::find("pio x 3\nmmio 4 0\n", "pio"), None);
        assert_eq!(Phase::find("pio x 3\nmmio 4 0\n", "mmio"), None);
        assert_eq!(Phase::find("", "pio"), None);
    }

    #[test]
    fn both_sides_go_first_in_turn_and_equally_often() {
        let order: Vec<_> = rounds().collect();
        assert_eq!(order.len(), 2 * ROUNDS);
        assert_eq!(order[..4], [(0, OURS), (0, PEER), (1, PEER), (1, OURS)]);
    }
}
