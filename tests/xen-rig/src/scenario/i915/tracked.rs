//! The page tables of a stock i915 are tracked almost at once, so that it writes to many that are, over and over, from two vCPUs.

use super::{
    Checks, STORES, STREAMS, bound, did, figure, install, interrupted, machine, none, painting, recorded,
    said, script_while, worked,
};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Tracked;

/// Uses after which a table is tracked: all but new ones are.
const AFTER: u32 = 1;
const VCPUS: &str = "2";
/// What two programs do at once, with tables of their own.
const BOTH: &str = "stores stream frames";

impl Scenario for I915Tracked {
    fn name(&self) -> &'static str {
        "i915-tracked"
    }

    fn about(&self) -> &'static str {
        "a stock i915 writes to page tables of its own that are trapped after the first use, draws right, and is not crashed"
    }

    fn machine(&self) -> Machine {
        machine()
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        let steps = format!(
            "say \"vcpus $(grep -c ^processor /proc/cpuinfo)\"\nwork first\n\
             work left {BOTH} & work right {BOTH} & wait\nwork third\npaint painter 3\n"
        );
        install(kit, files, Kind::Pvh, &steps)?;
        let options = format!(
            "--type V4_8 --deadline-ms {} --track-after {AFTER} --out /results/pictures --control /run/mgpu",
            painting::DEADLINE_MS
        );
        let picture = painting::taken("stock", "/run/mgpu");
        let meanwhile = format!("spoke stock 300 'painter pictures'\n{picture}");
        Ok(format!("VCPUS={VCPUS}\n{}", script_while("", &options, &meanwhile)))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let (log, out) = recorded(run, checks);
        bound(&log, &[], checks);
        worked(&log, "first", checks);
        checks.equal("the guest's vCPUs", said(&log, "vcpus "), Some(VCPUS));
        for side in ["left", "right"] {
            did(&log, side, &[STORES, STREAMS, &["frames BCS"]].concat(), checks);
        }
        worked(&log, "third", checks);
        checks.equal("painter: its pictures are right", said(&log, "painter pictures "), Some("3 wrong 0"));
        painting::shown(run, "stock", "painter", "pictures", checks);
        interrupted(&log, 40, checks);
        for name in ["ram_writes", "table_writes", "pauses"] {
            let n = figure(&out, name);
            checks.that(n > Some(0), format!("mgpu counts {name} ({n:?})"));
            checks
                .figure(format!("i915: {name} with tables tracked after {AFTER} use"), n.unwrap_or(0) as f64);
        }
        none(&out, &["refusals", "overruns", "resets", "unknown_registers", "pte_writes"], checks);
        Ok(())
    }
}
