//! `mgpu serve` is killed beside a stock guest, which has put its shared info page somewhere by then: the next one finds what was left,
//! what the driver accesses waits for it, and the driver's own reset gets the GPU going that it finds.

use super::{Checks, PVH_BOOT, bound, hang::NO_CAPTURE, install, machine, none, painting, said};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Killed;

/// While nobody serves it the guest stands still, however long that takes: its kernel is not to complain of it.
const STANDS_STILL: &str = "nosoftlockup rcupdate.rcu_cpu_stall_suppress=1";
/// Pictures before and after.
const PICTURES: u32 = 3;
/// What a shell says of a program that SIGKILL has ended.
const KILLED: i32 = 128 + 9;

impl Scenario for I915Killed {
    fn name(&self) -> &'static str {
        "i915-killed"
    }

    fn about(&self) -> &'static str {
        "mgpu is killed beside a stock guest, and started again: its i915 resets the GPU that it finds, and works on"
    }

    fn machine(&self) -> Machine {
        machine()
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        // The first painter is told to end, and its tables go, while nobody serves the guest.
        let steps = format!("paint before {PICTURES}\npaint after {PICTURES}\n");
        install(kit, files, Kind::Pvh, &steps)?;
        let serve = format!(
            "mgpu serve --domid $DOMID --pci-root --type V4_8 --deadline-ms {} --out /results/pictures",
            painting::DEADLINE_MS
        );
        let picture = painting::taken_as("stock", "after", "surface", "/run/second");
        Ok(format!(
            "linux stock 320 {PVH_BOOT} {NO_CAPTURE} {STANDS_STILL}\n\
             background first {serve} --control /run/first\n\
             ready first 20 serving\n\
             xl unpause stock || say FAILED xl unpause\n\
             spoke stock 300 'before shows '\n\
             kill -KILL $(cat /tmp/first.pid)\n\
             finish first 10\n\
             xl shutdown stock\n\
             background second {serve} --control /run/second\n\
             ready second 20 serving\n\
             spoke stock 300 'after shows '\n\
             {picture}\
             ended stock 120 second\n\
             finish second 10 TERM\n\
             record destroy xl destroy stock\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["second", "destroy"] {
            checks.succeeded(run, command);
        }
        checks.that(run.status("first") == Some(KILLED), "the first mgpu ends by SIGKILL");
        let buried = run.text("second.err").contains("1 servers of a predecessor that was killed");
        checks.that(buried, "the second takes the place of the one that was killed");
        let log = run.text("guest-stock.log");
        bound(&log, &[], checks);
        checks.equal("its driver has come once", log.matches("[drm] Initialized i915").count(), 1);
        for painter in ["before", "after"] {
            let pictures = said(&log, &format!("{painter} pictures "));
            checks.equal(
                &format!("{painter}: its pictures are right"),
                pictures,
                Some(&*format!("{PICTURES} wrong 0")),
            );
        }
        painting::shown_as(run, "stock", "after", "surface", "pictures", checks);
        let out = run.text("second.out");
        none(&out, &["refusals", "overruns", "unknown_registers"], checks);
        checks.that(log.contains("Resetting "), "the driver resets the GPU that it finds");
        Ok(())
    }
}
