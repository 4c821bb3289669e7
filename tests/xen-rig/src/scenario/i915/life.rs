//! What happens to a driver in its life, with a vGPU of the largest type: it binds, lets its GPU sleep and wakes it, is removed
//! and comes back.
//!
//! Sleep is what i915 calls parked. From runtime suspension it keeps any GPU without RC6 (`intel_rc6_init`), as vGPUs are to it
//! whatever they can do (`rc6_supported`): the one reference that is left when nothing else holds the function.

use super::{Checks, PVH_BOOT, STORES, bound, did, install, machine, none, recorded, said, status, worked};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Life;

/// What the guest does, once dom0 has seen what its driver's probe cost.
const STEPS: &str =
    "sleep 3\nwork first stores\nparked 60\nruntime\nwork awake stores\nunload\nload\nwork last\n";
/// Trapped accesses of the driver's probe, which writes 655,360 entries of its translation table, at most.
const PROBE: u64 = 4000;
/// Submissions after which no engine has been given as many as a driver may try it out with, however they are spread: the probe has three
/// for each of the four.
const TRYING: u64 = 4 * 3 + 4;

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
        let runtime = said(&log, "runtime ").unwrap_or_default();
        checks.that(
            runtime.starts_with("auto active, Runtime power status: enabled,GPU idle: yes,")
                && runtime.contains("Usage count: 1,"),
            format!("nothing but the driver's own reference keeps it from runtime suspension ({runtime})"),
        );
        did(&log, "awake", STORES, checks);
        checks.equal("the driver goes", said(&log, "unloaded, nodes "), Some("."));
        worked(&log, "last", checks);
        checks.equal("it has come twice", log.matches("[drm] Initialized i915").count(), 2);
        none(&out, &["refusals", "overruns", "resets", "unknown_registers", "pte_writes"], checks);
        Ok(())
    }
}

/// How often the guest trapped until its driver was there, which has tried its engines out, and waits for no longer than 200 ms for
/// them: it does without a GPU then.
fn counted(run: &Run, checks: &mut Checks) {
    let probed = run.text("probed.out");
    let probe = status(&probed, "mmio");
    checks.figure("i915: trapped accesses of the probe, largest type", probe.unwrap_or(u64::MAX) as f64);
    checks.that(
        probe.is_some_and(|n| n <= PROBE),
        format!("the probe traps at most {PROBE} times ({probe:?})"),
    );
    let (held, submissions) = (status(&probed, "held"), status(&probed, "submissions"));
    checks.that(
        held == Some(0) || submissions > Some(TRYING),
        format!("nothing is held from a driver that tries its engines out ({held:?}, after {submissions:?})"),
    );
}
