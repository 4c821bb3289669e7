//! A guest whose stock i915 paints is saved by `xl save`, its vGPU by mgpu beside it; both go on in another domain and another mgpu.
//!
//! Linux is told to suspend itself: its driver waits for its GPU, and makes all of it anew when it is back. What was in its
//! memory before must be there afterwards, and what it was doing goes on.

use std::time::Duration;

use super::{Checks, PVH_BOOT, bound, install, machine, none, painting, said};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct SaveRestore;

/// Pictures that dom0 looks at before the guest is saved, and those amid which it is.
const STEPS: &str = "paint before 3\npaint painter\n";
/// The guest's memory, and what the domain that it is restored in is to have room for, in MiB: the vGPU's table as well.
const MEMORY: u64 = 256;
const ROOM: u64 = MEMORY + 8;

impl Scenario for SaveRestore {
    fn name(&self) -> &'static str {
        "save-restore"
    }

    fn about(&self) -> &'static str {
        "a stock i915's guest goes through xl save and xl restore while it paints, its vGPU in a file beside it, and paints on"
    }

    fn machine(&self) -> Machine {
        // dom0 holds the guest's memory in a file.
        Machine { memory: 1920, dom0_memory: 1152, timeout: Duration::from_secs(1200), ..machine() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        install(kit, files, Kind::Pvh, STEPS)?;
        let serve = format!("mgpu serve --pci-root --deadline-ms {}", painting::DEADLINE_MS);
        let before = painting::taken_as("stock", "before", "before-surface", "/run/first");
        let after = painting::taken_as("stock", "painter", "after-surface", "/run/second");
        Ok(format!(
            "linux stock {MEMORY} {PVH_BOOT}\n\
             echo $DOMID >/results/before.domid\n\
             background first {serve} --domid $DOMID --type V4_8 --out /results/first --control /run/first\n\
             ready first 60 serving\n\
             xl unpause stock || say FAILED xl unpause\n\
             spoke stock 100 'before shows '\n\
             {before}\
             spoke stock 100 'painter rest 0'\n\
             record xl-save xl save -p stock /tmp/memory\n\
             record save mgpu ask /run/first save\n\
             record paused mgpu ask /run/first status\n\
             record stop mgpu ask /run/first stop\n\
             finish first 10\n\
             xl destroy stock || say FAILED xl destroy\n\
             forgotten $DOMID 20\n\
             free_frames away\n\
             sed 's/^memory = .*/memory = {ROOM}/' /tmp/stock.cfg >/tmp/roomy.cfg\n\
             record xl-restore xl restore -p /tmp/roomy.cfg /tmp/memory\n\
             rm /tmp/memory\n\
             DOMID=$(xl domid stock)\n\
             echo $DOMID >/results/after.domid\n\
             background second {serve} --domid $DOMID --restore $(cat /results/save.out) --out /results/second --control /run/second\n\
             ready second 60 serving\n\
             record restored mgpu ask /run/second status\n\
             xl mem-set stock {MEMORY} || say FAILED xl mem-set\n\
             xl unpause stock || say FAILED xl unpause\n\
             left=100\n\
             until mgpu ask /run/second status | grep -q '\"submissions\":[1-9][0-9]'; do\n\
                 [ $left -gt 0 ] || {{ say FAILED the guest does not paint on; break; }}\n\
                 left=$((left - 1))\n\
                 sleep 1\n\
             done\n\
             record later mgpu ask /run/second status\n\
             xl shutdown stock\n\
             {after}\
             ended stock 90 second\n\
             finish second 10 TERM\n\
             record destroy xl destroy stock\n\
             forgotten $DOMID 20\n\
             free_frames back $(cat /results/away.out)\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["first", "xl-save", "save", "paused", "stop", "away", "xl-restore"] {
            checks.succeeded(run, command);
        }
        for command in ["second", "restored", "later", "destroy", "back"] {
            checks.succeeded(run, command);
        }
        let domid = |name: &str| run.text(&format!("{name}.domid")).trim().parse::<u16>().ok();
        let (before, after) = (domid("before"), domid("after"));
        checks.that(
            before.is_some() && after > before,
            format!("the domain is another ({before:?}, {after:?})"),
        );
        let log = run.text("guest-stock.log");
        bound(&log, &[], checks);
        checks.equal("its driver has come once", log.matches("[drm] Initialized i915").count(), 1);
        checks.that(log.contains("Freezing user space processes"), "the guest suspends itself");
        for out in ["first", "second"] {
            let counted = ["refusals", "overruns", "resets", "unknown_registers"];
            none(&run.text(&format!("{out}.out")), &counted, checks);
        }
        let kept = said(&log, "before pictures ");
        checks.equal("the pictures from before are right", kept, Some("3 wrong 0"));
        painting::shown_as(run, "stock", "before", "before-surface", "first", checks);
        painting::all_right(&log, "painter", checks);
        painting::shown_as(run, "stock", "painter", "after-surface", "second", checks);
        let free = |name: &str| run.text(&format!("{name}.out")).trim().parse::<u64>().ok();
        checks.that(free("away").is_some(), "the host's free frames are counted while the guest is away");
        checks.equal("free frames at the end, as while the guest was away", free("back"), free("away"));
        Ok(())
    }
}
