//! A minimal blocking C loop serves a guest: what a round trip costs on this machine, whoever serves.

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;

/// Reads of each kind that the guest makes.
const READS: u64 = 2000;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Baseline;

impl Scenario for Baseline {
    fn name(&self) -> &'static str {
        "baseline"
    }

    fn about(&self) -> &'static str {
        "a minimal C server answers a guest's port and MMIO reads: round trips per second"
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.c_baseline()?)?;
        kit.install_guest(files)?;
        Ok(format!(
            "guest bench 16 mode=bench n={READS} poweroff=1\n\
             background server baseline $DOMID\n\
             ready server 10 ready\n\
             record unpause xl unpause bench\n\
             finish server 60\n\
             ended bench 20\n\
             record destroy xl destroy bench\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["unpause", "server", "destroy"] {
            checks.succeeded(run, command);
        }
        let out = run.text("server.out");
        for phase in ["pio", "mmio"] {
            let measured = Phase::find(&out, phase);
            checks.equal(&format!("{phase} reads served"), measured.map(|m| m.count), Some(READS));
            if let Some(measured) = measured {
                checks.figure(format!("{phase} round trips/s, C"), measured.per_second());
            }
        }
        Ok(())
    }
}

/// A line `PHASE COUNT NANOSECONDS` of a bench server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Phase {
    pub(super) count: u64,
    pub(super) nanoseconds: u64,
}

impl Phase {
    pub(super) fn find(out: &str, phase: &str) -> Option<Self> {
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

    pub(super) fn per_second(self) -> f64 {
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
}
