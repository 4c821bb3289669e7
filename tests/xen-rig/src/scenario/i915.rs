//! A stock Debian guest whose unmodified i915 binds to `mgpu serve` and runs work on every engine of its vGPU.

use std::fs;
use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::kit::Kit;
use crate::linux::{Kind, Linux};
use crate::qemu::Machine;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct I915Pvh;

const INIT: &str = include_str!("../../linux/i915");

/// i915 with what it needs, in the order in which they can be loaded.
const MODULES: &[(&str, &str)] = &[
    ("drm", "drivers/gpu/drm/drm.ko"),
    ("drm_kms_helper", "drivers/gpu/drm/drm_kms_helper.ko"),
    ("ttm", "drivers/gpu/drm/ttm/ttm.ko"),
    ("rc-core", "drivers/media/rc/rc-core.ko"),
    ("cec", "drivers/media/cec/core/cec.ko"),
    ("drm_display_helper", "drivers/gpu/drm/display/drm_display_helper.ko"),
    ("wmi", "drivers/platform/x86/wmi.ko"),
    ("video", "drivers/acpi/video.ko"),
    ("drm_buddy", "drivers/gpu/drm/drm_buddy.ko"),
    ("i2c-algo-bit", "drivers/i2c/algos/i2c-algo-bit.ko"),
    ("i915", "drivers/gpu/drm/i915/i915.ko"),
];

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
        Machine { memory: 1536, dom0_memory: 768, timeout: Duration::from_secs(420), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("mediated-gpu", "mgpu")?)?;
        let work = kit.static_program("i915-work")?;
        let work = fs::read(&work).at(&work)?;
        let extra = [("bin/i915-work", 0o755, work.as_slice())];
        kit.install_linux(files, Kind::Pvh, Linux { init: INIT, modules: MODULES, files: &extra })?;
        // Without `noacpi` Linux scans no bus of a PVH guest, and with early accesses it looks for an AGP bridge.
        Ok(format!(
            "linux stock 320 console=hvc0 loglevel=7 pci=noacpi,noearly\n\
             background server mgpu serve --domid $DOMID --pci-root --type {TYPE}\n\
             ready server 20 serving\n\
             xl unpause stock || say FAILED xl unpause\n\
             ended stock 300 server\n\
             finish server 10 TERM\n\
             record destroy xl destroy stock\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["server", "destroy"] {
            checks.succeeded(run, command);
        }
        let log = run.text("guest-stock.log");
        bound(&log, checks);
        worked(&log, checks);
        served(&run.text("server.out"), checks);
        Ok(())
    }
}

fn said<'a>(log: &'a str, text: &str) -> Option<&'a str> {
    log.lines().find_map(|l| l.trim_end().strip_prefix("GUEST: ")?.strip_prefix(text))
}

/// What the guest's kernel says of its driver.
fn bound(log: &str, checks: &mut Checks) {
    checks.that(log.contains("[drm] Initialized i915"), "the stock i915 initialises");
    checks.that(
        said(log, "nodes ").is_some_and(|n| n.contains("card0") && n.contains("renderD128")),
        "the guest has /dev/dri/card0 and renderD128",
    );
    checks.that(said(log, "driver ").is_some_and(|d| d.ends_with("/i915")), "i915 drives the function");
    checks.equal("the guest's kernel complains of nothing", complaint(log), None);
}

/// The first line in which the kernel complains. The warning of fpu/xstate.c is about the CPU that QEMU shows it.
fn complaint(log: &str) -> Option<&str> {
    const SIGNS: &[&str] =
        &["*ERROR*", "WARNING: CPU", "BUG:", "Oops", "GPU HANG", "wedged", "FAILED", "Call Trace"];
    // A trace that belongs to that warning ends with its registers.
    let mut known = false;
    log.lines().find(|line| {
        known |= line.contains("fpu/xstate.c");
        known &= !line.contains("end trace");
        !known && SIGNS.iter().any(|sign| line.contains(sign))
    })
}

/// What the guest's program says of its work.
fn worked(log: &str, checks: &mut Checks) {
    checks.equal("the program finds the GPU", said(log, "chipset "), Some("0x1616"));
    for part in ["store RCS", "store VCS", "store BCS", "store VECS", "fill BCS", "copy BCS"] {
        checks.equal(&format!("{part} is right"), said(log, &format!("{part} ")), Some("ok"));
    }
    checks.equal("all work is done", said(log, "work "), Some("done"));
    checks.that(said(log, "the end").is_some(), "the guest comes to its end");
    let interrupts = said(log, "interrupts ").unwrap_or_default();
    let taken = interrupts.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    checks.that(taken >= Some(40), format!("its work ends by interrupts ({interrupts})"));
}

/// What mgpu counts.
fn served(out: &str, checks: &mut Checks) {
    let figure = |name: &str| out.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
    checks.that(figure("completions ") >= Some(41), "mgpu counts the guest's contexts");
    let traps = figure("mmio ");
    checks.that(traps.is_some_and(|n| n <= TRAPS), format!("at most {TRAPS} accesses trap ({traps:?})"));
    checks.figure("i915: trapped accesses of probe and work", traps.unwrap_or(u64::MAX) as f64);
    for nothing in ["refusals ", "overruns ", "resets ", "unknown_registers ", "pte_writes "] {
        checks.equal(&format!("mgpu counts no {}", nothing.trim()), figure(nothing), Some(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_of_the_driver_is_found_and_the_known_one_is_not() {
        let known =
            "WARNING: CPU: 0 PID: 0 at arch/x86/kernel/fpu/xstate.c:1\nCall Trace:\n---[ end trace 0 ]---\n";
        assert_eq!(complaint(known), None);
        let error = "i915 0000:00:02.0: [drm] *ERROR* rcs0 reset request timed out";
        assert_eq!(complaint(&format!("{known}{error}\n")), Some(error));
        let warning = "WARNING: CPU: 0 PID: 9 at drivers/gpu/drm/i915/intel_uncore.c:1";
        assert_eq!(complaint(&format!("{warning}\n{known}")), Some(warning));
    }

    #[test]
    fn work_that_is_wrong_or_missing_is_found_out() {
        let good = "GUEST: chipset 0x1616\r\nGUEST: store RCS ok\r\nGUEST: store VCS ok\r\nGUEST: store BCS ok\r\n\
            GUEST: store VECS ok\r\nGUEST: fill BCS ok\r\nGUEST: copy BCS ok\r\nGUEST: work done\r\n\
            GUEST: interrupts 25: 93 xen-pirq -msi i915\r\nGUEST: the end after 20 s\r\n";
        let failed = |log: &str| {
            let mut checks = Checks::default();
            worked(log, &mut checks);
            checks.failed().len()
        };
        assert_eq!(failed(good), 0);
        assert_eq!(failed(&good.replace("store VCS ok", "store VCS WRONG")), 1);
        assert_eq!(failed(&good.replace("copy BCS ok", "")), 1);
        assert_eq!(failed(&good.replace(" 93 ", " 12 ")), 1);
        assert_eq!(failed(""), 10);
    }
}
