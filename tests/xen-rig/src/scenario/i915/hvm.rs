//! The same as in a PVH guest, in an HVM guest beside QEMU: hvmloader places the BARs, QEMU has the bridges. The vGPU has a
//! display beside it, on which the guest's own bochs-drm draws its console.

use std::time::Duration;

use super::{Checks, bound, figure, install_with, interrupted, machine, none, recorded, said, worked};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::stock_linux::{self, GREEN, GREY, Written, terminal};
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Hvm;

/// Trapped accesses of the driver's probe and of all its work, at most.
const TRAPS: u64 = 4000;

/// What the guest writes to its console.
const TEXT: &[Written] = &[
    ("The stock bochs-drm of Debian's kernel draws this console,", GREY),
    ("and its stock i915 drives the GPU beside it.", GREEN),
];

impl Scenario for I915Hvm {
    fn name(&self) -> &'static str {
        "i915-hvm"
    }

    fn about(&self) -> &'static str {
        "the same beside QEMU, in an HVM guest whose BARs hvmloader places, and a console"
    }

    fn machine(&self) -> Machine {
        Machine { memory: 1792, dom0_memory: 1024, timeout: Duration::from_secs(1200), ..machine() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        let text = format!("{}{}", stock_linux::CLEARED, terminal(TEXT));
        let text = [("text", 0o644, text.as_bytes())];
        let steps = "say \"fb0 is $(cat /sys/class/graphics/fb0/name)\"\ncat /text >/dev/tty1\nwork first\n";
        install_with(kit, files, Kind::Hvm, steps, stock_linux::MODULES, &text)?;
        Ok("PLATFORM=0 linux_hvm stock 320 console=hvc0 loglevel=7 pci=noearly\n\
            background server mgpu serve --domid $DOMID --type V4_8 --console --no-state --out /results/pictures\n\
            ready server 20 serving\n\
            xl unpause stock || say FAILED xl unpause\n\
            ended stock 450 server\n\
            finish server 10 TERM\n\
            mv /results/pictures/dom*-console.png /results/console.png\n\
            record destroy xl destroy stock\n"
            .into())
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let (log, out) = recorded(run, checks);
        bound(&log, &[], checks);
        // QEMU's bridge, which the driver takes for a virtual machine's.
        checks.that(log.contains("[8086:7000]"), "the guest has QEMU's ISA bridge");
        checks.equal("its console is on the display", said(&log, "fb0 is "), Some("bochs-drmdrmfb"));
        stock_linux::shown(run, "console.png", TEXT, checks);
        worked(&log, "first", checks);
        interrupted(&log, 40, checks);
        let traps = figure(&out, "mmio");
        checks.that(traps.is_some_and(|n| n <= TRAPS), format!("at most {TRAPS} accesses trap ({traps:?})"));
        none(&out, &["refusals", "overruns", "resets", "unknown_registers", "pte_writes"], checks);
        Ok(())
    }
}
