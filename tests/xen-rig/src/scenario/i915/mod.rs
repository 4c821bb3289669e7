//! Stock Debian guests whose unmodified i915 binds to `mgpu serve`: what their scenarios have in common, from the guest's
//! image and its steps (`linux/i915`) to what is judged of any of them.

mod balloon;
mod hang;
mod hvm;
mod killed;
mod life;
mod painting;
mod pvh;
mod saved;
mod tracked;
mod two;

use std::fs;
use std::time::Duration;

pub(super) use self::balloon::I915Balloon;
pub(super) use self::hang::{I915Hang, I915Reset};
pub(super) use self::hvm::I915Hvm;
pub(super) use self::killed::I915Killed;
pub(super) use self::life::I915Life;
pub(super) use self::pvh::I915Pvh;
pub(super) use self::saved::SaveRestore;
pub(super) use self::tracked::I915Tracked;
pub(super) use self::two::TwoGuests;
use super::{Checks, Run};
use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::kit::Kit;
use crate::linux::{Kind, Linux};
use crate::qemu::Machine;

const INIT: &str = include_str!("../../../linux/i915");

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

/// A PVH guest's command line: without `noacpi` Linux scans no bus of it, and with early accesses it looks for an AGP bridge.
const PVH_BOOT: &str = "console=hvc0 loglevel=7 pci=noacpi,noearly";

/// Puts `mgpu` into dom0, and the guest, which loads its driver, takes `steps` and ends.
fn install(kit: &Kit, files: &mut Tree, kind: Kind, steps: &str) -> Result<()> {
    install_with(kit, files, kind, steps, &[], &[])
}

/// The same with more modules, which are loaded last, and files.
fn install_with(
    kit: &Kit,
    files: &mut Tree,
    kind: Kind,
    steps: &str,
    modules: &[(&str, &str)],
    more: &[(&str, u32, &[u8])],
) -> Result<()> {
    kit.install(files, &kit.program("mgpu")?)?;
    let program = |name| {
        let path = kit.static_program(name)?;
        fs::read(&path).at(&path)
    };
    let (work, paint) = (program("i915-work")?, program("i915-paint")?);
    let own = [
        ("bin/i915-work", 0o755, work.as_slice()),
        ("bin/i915-paint", 0o755, paint.as_slice()),
        ("steps", 0o644, steps.as_bytes()),
    ];
    let later = modules.iter().filter(|module| !MODULES.contains(module));
    let modules: Vec<_> = MODULES.iter().chain(later).copied().collect();
    let files_of_guest = [&own, more].concat();
    kit.install_linux(
        files,
        kind,
        Linux { init: INIT, modules: &modules, files: &files_of_guest, programs: &[] },
    )
}

/// The machine for one such guest.
fn machine() -> Machine {
    Machine { memory: 1536, dom0_memory: 768, timeout: Duration::from_secs(840), ..Machine::default() }
}

/// What dom0 does with a PVH guest, with more on its command line, that mgpu serves with these options, until the guest has come
/// to its end.
fn script(boot: &str, options: &str) -> String {
    script_while(boot, options, "")
}

/// The same with what it does while the guest runs.
fn script_while(boot: &str, options: &str, meanwhile: &str) -> String {
    format!(
        "linux stock 320 {PVH_BOOT} {boot}\n\
         background server mgpu serve --domid $DOMID --pci-root {options}\n\
         ready server 20 serving\n\
         xl unpause stock || say FAILED xl unpause\n\
         {meanwhile}\
         ended stock 300 server\n\
         finish server 10 TERM\n\
         record destroy xl destroy stock\n"
    )
}

/// What that script recorded ended well; the guest's log, and what mgpu said.
fn recorded(run: &Run, checks: &mut Checks) -> (String, String) {
    for command in ["server", "destroy"] {
        checks.succeeded(run, command);
    }
    (run.text("guest-stock.log"), run.text("server.out"))
}

/// What the guest said after these words.
fn said<'a>(log: &'a str, text: &str) -> Option<&'a str> {
    log.lines().find_map(|l| l.trim_end().strip_prefix("GUEST: ")?.strip_prefix(text))
}

/// What the guest's kernel says of its driver; of its complaints, `expected` are none.
fn bound(log: &str, expected: &[&str], checks: &mut Checks) {
    checks.that(log.contains("[drm] Initialized i915"), "the stock i915 initialises");
    checks.that(
        said(log, "nodes ").is_some_and(|n| n.contains("card0") && n.contains("renderD128")),
        "the guest has /dev/dri/card0 and renderD128",
    );
    checks.that(said(log, "driver ").is_some_and(|d| d.ends_with("/i915")), "i915 drives the function");
    checks.equal("the guest's kernel complains of nothing", complaint(log, expected), None);
    checks.that(said(log, "the end").is_some(), "the guest comes to its end");
}

/// The first line in which the kernel complains. The warning of fpu/xstate.c is about the CPU that QEMU shows it.
fn complaint<'a>(log: &'a str, expected: &[&str]) -> Option<&'a str> {
    // A driver that gives up on its GPU at once says no more than that it is tainted.
    const SIGNS: &[&str] = &[
        "*ERROR*",
        "WARNING: CPU",
        "BUG:",
        "Oops",
        "GPU HANG",
        "wedged",
        "CI tainted",
        "FAILED",
        "Call Trace",
    ];
    // A trace that belongs to that warning ends with its registers.
    let mut known = false;
    log.lines().find(|line| {
        known |= line.contains("fpu/xstate.c");
        known &= !line.contains("end trace");
        let complains = !known && SIGNS.iter().any(|sign| line.contains(sign));
        complains && !expected.iter().any(|text| line.contains(text))
    })
}

/// Parts of the guest's work.
const STORES: &[&str] = &["store RCS", "store VCS", "store BCS", "store VECS"];
const STREAMS: &[&str] = &["stream RCS", "stream VCS", "stream BCS", "stream VECS"];
const BLITS: &[&str] = &["fill BCS", "copy BCS"];

/// What came of these parts of the guest's work that its steps called `name`.
fn did(log: &str, name: &str, parts: &[&str], checks: &mut Checks) {
    let said = |text: &str| said(log, &format!("{name} {text} "));
    for part in parts {
        checks.equal(&format!("{name}: {part} is right"), said(part), Some("ok"));
    }
    checks.equal(&format!("{name}: all work is done"), said("work"), Some("done"));
}

/// What came of all of it.
fn worked(log: &str, name: &str, checks: &mut Checks) {
    let chipset = said(log, &format!("{name} chipset "));
    checks.equal(&format!("{name}: the program finds the GPU"), chipset, Some("0x1616"));
    did(log, name, &[STORES, BLITS].concat(), checks);
}

/// The guest's work ends by interrupts: at least so many.
fn interrupted(log: &str, least: u64, checks: &mut Checks) {
    let interrupts = said(log, "interrupts ").unwrap_or_default();
    let taken = interrupts.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    checks.that(taken >= Some(least), format!("its work ends by interrupts ({interrupts})"));
}

/// A figure that mgpu gives at its end.
fn figure(out: &str, name: &str) -> Option<u64> {
    out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A figure of mgpu's status, which is a line of JSON without anything nested.
fn status(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    rest.split([',', '}']).next()?.parse().ok()
}

/// mgpu counts none of these.
fn none(out: &str, names: &[&str], checks: &mut Checks) {
    for name in names {
        checks.equal(&format!("mgpu counts no {name}"), figure(out, name), Some(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_of_the_driver_is_found_and_known_and_expected_ones_are_not() {
        let known =
            "WARNING: CPU: 0 PID: 0 at arch/x86/kernel/fpu/xstate.c:1\nCall Trace:\n---[ end trace 0 ]---\n";
        assert_eq!(complaint(known, &[]), None);
        let error = "i915 0000:00:02.0: [drm] *ERROR* rcs0 reset request timed out";
        assert_eq!(complaint(&format!("{known}{error}\n"), &[]), Some(error));
        assert_eq!(complaint(&format!("{known}{error}\n"), &["reset request"]), None);
        let warning = "WARNING: CPU: 0 PID: 9 at drivers/gpu/drm/i915/intel_uncore.c:1";
        assert_eq!(complaint(&format!("{warning}\n{known}"), &["reset request"]), Some(warning));
    }

    #[test]
    fn work_that_is_wrong_or_missing_is_found_out() {
        let good = "GUEST: first chipset 0x1616\r\nGUEST: first store RCS ok\r\nGUEST: first store VCS ok\r\n\
            GUEST: first store BCS ok\r\nGUEST: first store VECS ok\r\nGUEST: first fill BCS ok\r\n\
            GUEST: first copy BCS ok\r\nGUEST: first work done\r\n\
            GUEST: interrupts 25: 93 xen-pirq -msi i915\r\n";
        let failed = |log: &str| {
            let mut checks = Checks::default();
            worked(log, "first", &mut checks);
            interrupted(log, 40, &mut checks);
            checks.failed().len()
        };
        assert_eq!(failed(good), 0);
        assert_eq!(failed(&good.replace("store VCS ok", "store VCS WRONG")), 1);
        assert_eq!(failed(&good.replace("first copy BCS ok", "second copy BCS ok")), 1);
        assert_eq!(failed(&good.replace(" 93 ", " 12 ")), 1);
        assert_eq!(failed(""), 9);
    }

    #[test]
    fn a_figure_is_found_by_its_whole_name() {
        let out = "pci 3\nmmio 17\nmmio_more 4\n";
        assert_eq!(
            (figure(out, "mmio"), figure(out, "mmio_more"), figure(out, "mm")),
            (Some(17), Some(4), None)
        );
    }

    #[test]
    fn a_status_gives_its_figures_by_their_whole_names() {
        let line = r#"{"domid":1,"type":"V4_1","mmio":490,"mmio_more":3}"#;
        assert_eq!((status(line, "mmio"), status(line, "mmio_more")), (Some(490), Some(3)));
        assert_eq!((status(line, "type"), status(line, "io"), status("", "mmio")), (None, None, None));
    }
}
