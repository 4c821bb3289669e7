//! The stock i915 of a PVH guest binds, and runs work on every engine of its vGPU.

use super::{
    Checks, bound, figure, install, interrupted, machine, none, painting, recorded, said, script_while,
    worked,
};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Pvh;

/// The driver writes each of this type's 114,688 entries once, and the first flush looks at them all: the largest type has six
/// times as many, which an emulated machine that others share takes half a minute for.
const TYPE: &str = "V4_8";
/// Trapped accesses of the driver's probe and of all its work, at most.
const TRAPS: u64 = 4000;

impl Scenario for I915Pvh {
    fn name(&self) -> &'static str {
        "i915-pvh"
    }

    fn about(&self) -> &'static str {
        "a stock i915 binds to mgpu's vGPU in a stock Debian guest, and runs work on four engines"
    }

    fn machine(&self) -> Machine {
        machine()
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        install(kit, files, Kind::Pvh, "work first\npaint painter 3\n")?;
        let picture = painting::taken("stock", "/run/mgpu");
        let options = format!("--type {TYPE} --out /results/pictures --control /run/mgpu");
        Ok(script_while("", &options, &format!("spoke stock 300 painter.pictures\n{picture}")))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let (log, out) = recorded(run, checks);
        bound(&log, &[], checks);
        worked(&log, "first", checks);
        checks.equal("painter: its pictures are right", said(&log, "painter pictures "), Some("3 wrong 0"));
        painting::shown(run, "stock", "painter", "pictures", checks);
        interrupted(&log, 40, checks);
        served(&out, checks);
        Ok(())
    }
}

/// What mgpu counts.
fn served(out: &str, checks: &mut Checks) {
    checks.that(figure(out, "completions") >= Some(41), "mgpu counts the guest's contexts");
    let traps = figure(out, "mmio");
    checks.that(traps.is_some_and(|n| n <= TRAPS), format!("at most {TRAPS} accesses trap ({traps:?})"));
    checks.figure("i915: trapped accesses of probe and work", traps.unwrap_or(u64::MAX) as f64);
    none(out, &["refusals", "overruns", "resets", "unknown_registers", "pte_writes"], checks);
}
