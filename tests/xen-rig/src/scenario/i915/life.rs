//! What happens to a driver in its life, with a vGPU of the largest type: it binds, lets its GPU sleep and wakes it, is removed
//! and comes back.
//!
//! Sleep is what i915 calls parked. From runtime suspension it keeps any GPU without RC6 (`intel_rc6_init`), as vGPUs are.

use super::{Checks, PVH_BOOT, STORES, bound, did, install, machine, none, recorded, said, worked};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Life;

/// What the guest does.
const STEPS: &str = "work first stores\nparked 60\nwork awake stores\nunload\nload\nwork last\n";
/// Trapped accesses of the driver's probe, which writes 655,360 entries of its translation table, at most.
const PROBE: u64 = 4000;

impl Scenario for I915Life {
    fn name(&self) -> &'static str {
        "i915-life"
    }

    fn about(&self) -> &'static str {
        "a stock i915 on the largest vGPU: few traps; it sleeps, wakes, is removed and comes back"
    }

    fn machine(&self) -> Machine {
        machine()
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        install(kit, files, Kind::Pvh, STEPS)?;
        Ok(format!(
            "linux stock 320 {PVH_BOOT}\n\
             background server mgpu serve --domid $DOMID --pci-root --type V4_1 --control /run/mgpu\n\
             ready server 20 serving\n\
             xl unpause stock || say FAILED xl unpause\n\
             spoke stock 200 'probed after'\n\
             record probed mgpu ask /run/mgpu status\n\
             ended stock 300 server\n\
             finish server 10 TERM\n\
             record destroy xl destroy stock\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let (log, out) = recorded(run, checks);
        bound(&log, &[], checks);
        did(&log, "first", STORES, checks);
        counted(run, checks);
        checks.equal("the GPU sleeps", said(&log, "parked"), Some(""));
        did(&log, "awake", STORES, checks);
        checks.equal("the driver goes", said(&log, "unloaded, nodes "), Some("."));
        worked(&log, "last", checks);
        checks.equal("it has come twice", log.matches("[drm] Initialized i915").count(), 2);
        none(&out, &["refusals", "overruns", "resets", "unknown_registers", "pte_writes"], checks);
        Ok(())
    }
}

/// How often the guest trapped until its driver was there.
fn counted(run: &Run, checks: &mut Checks) {
    let probe = status(&run.text("probed.out"), "mmio");
    checks.figure("i915: trapped accesses of the probe, largest type", probe.unwrap_or(u64::MAX) as f64);
    checks.that(
        probe.is_some_and(|n| n <= PROBE),
        format!("the probe traps at most {PROBE} times ({probe:?})"),
    );
}

/// A figure of mgpu's status, which is a line of JSON without anything nested.
fn status(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    rest.split([',', '}']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_gives_its_figures_by_their_whole_names() {
        let line = r#"{"domid":1,"type":"V4_1","mmio":490,"mmio_more":3}"#;
        assert_eq!((status(line, "mmio"), status(line, "mmio_more")), (Some(490), Some(3)));
        assert_eq!((status(line, "type"), status(line, "io"), status("", "mmio")), (None, None, None));
    }
}
