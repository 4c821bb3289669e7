//! Batches that do not end, in a PVH guest with a stock i915, whose own reset gets it going again: the mediator ends them first,
//! or the driver does.

use super::{Checks, STORES, bound, did, figure, install, machine, none, recorded, script, worked};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Hang;

/// A batch that goes round for ever, and one that is over its deadline; work before, between and after.
const STEPS: &str =
    "work first stores\nwork looping loop\nwork second stores\nwork lengthy long\nwork last\n";

/// When the engine hangs i915 keeps what it held: it reads that through the aperture, byte by byte, of which each is a trapped
/// access, 4096 a page, some 20 pages. That is a fifth of a second on hardware and minutes on an emulated machine.
pub(super) const NO_CAPTURE: &str = "i915.error_capture=0";

impl Scenario for I915Hang {
    fn name(&self) -> &'static str {
        "i915-hang"
    }

    fn about(&self) -> &'static str {
        "batches that never end are ended, and a stock i915 recovers by its own reset"
    }

    fn machine(&self) -> Machine {
        machine()
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        install(kit, files, Kind::Pvh, STEPS)?;
        Ok(script(NO_CAPTURE, "--type V4_8 --deadline-ms 1000"))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let (log, out) = recorded(run, checks);
        bound(&log, &[], checks);
        did(&log, "first", STORES, checks);
        did(&log, "looping", &["loop BCS ended"], checks);
        did(&log, "second", STORES, checks);
        did(&log, "lengthy", &["long BCS ended"], checks);
        worked(&log, "last", checks);
        hung(&log, 2, checks);
        checks.equal("mgpu refuses the batch that goes round", figure(&out, "refusals"), Some(1));
        checks.equal("and ends the one that is over its deadline", figure(&out, "overruns"), Some(1));
        Ok(())
    }
}

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Reset;

/// A batch that takes minutes, and work on the other engines meanwhile.
const RESET_STEPS: &str = "work first stores\nwork lengthy long &\nwork beside others\nwait\nwork last\n";
const OTHERS: &[&str] = &["store RCS", "store VCS", "store VECS"];

impl Scenario for I915Reset {
    fn name(&self) -> &'static str {
        "i915-reset"
    }

    fn about(&self) -> &'static str {
        "a stock i915 ends a batch that takes too long to it while it runs, by its own reset; other engines go on"
    }

    fn machine(&self) -> Machine {
        machine()
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        install(kit, files, Kind::Pvh, RESET_STEPS)?;
        Ok(script(NO_CAPTURE, "--type V4_8 --deadline-ms 60000"))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let (log, out) = recorded(run, checks);
        bound(&log, &[], checks);
        did(&log, "first", STORES, checks);
        did(&log, "beside", OTHERS, checks);
        did(&log, "lengthy", &["long BCS ended"], checks);
        let place = |text: &str| log.find(text);
        checks.that(
            place("GUEST: beside work done") < place("Resetting bcs0 for "),
            "other engines work while the blitter hangs",
        );
        worked(&log, "last", checks);
        checks.that(
            log.contains("stopped heartbeat on bcs0"),
            "the driver has found the hang by its heartbeat",
        );
        hung(&log, 1, checks);
        checks.equal("it resets no other engine", log.matches("Resetting ").count(), 1);
        none(&out, &["refusals", "overruns", "unknown_registers"], checks);
        checks.equal("the engine was reset amid that batch", figure(&out, "resets"), Some(1));
        Ok(())
    }
}

/// What i915 says of so many hangs of its blitter.
pub(super) fn hung(log: &str, times: usize, checks: &mut Checks) {
    for (text, what) in [
        ("Resetting bcs0 for ", "the driver resets the engine at each hang"),
        ("context reset due to GPU hang", "it blames the context"),
    ] {
        checks.equal(what, log.lines().filter(|l| l.contains(text)).count(), times);
    }
}
