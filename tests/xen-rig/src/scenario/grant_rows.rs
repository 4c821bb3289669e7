//! The rows of grants on real Xen: what dom0 may ask, what a guest with a kernel of ours may, and what
//! passes between dom0 and two of them, what a PV guest's pages are; and the model's beside them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::host;
use crate::kit::Kit;
use crate::linux::{Kind, Linux};
use crate::qemu::Machine;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct GrantRows;

impl Scenario for GrantRows {
    fn name(&self) -> &'static str {
        "grant-rows"
    }

    fn about(&self) -> &'static str {
        "the rows of conformance grants, from dom0, inside a guest and between the three, the same as on the model"
    }

    fn machine(&self) -> Machine {
        Machine { memory: 1280, dom0_memory: 640, timeout: Duration::from_secs(900), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("conformance")?)?;
        kit.install_guest(files)?;
        // It never runs: only its page tables are looked at.
        let never = Linux { init: "", modules: &[], files: &[], programs: &[] };
        kit.install_linux(files, Kind::Pvh, never)?;
        // The limits are those of the model's guests.
        Ok("linux_pv pages 128\n\
            PV=$DOMID\n\
            guest other 36 mode=grants\n\
            PAIR=$DOMID\n\
            MORE='max_grant_frames = 2\nmax_maptrack_frames = 1'\n\
            guest lines 36 mode=grants\n\
            record grants conformance grants --on xen --domid $DOMID --pair $PAIR --pv $PV --log /results/told\n"
            .to_owned())
    }

    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let out = run.text("grants.out");
        for line in out.lines() {
            if let Some(row) = line.strip_prefix("ok     ") {
                checks.that(true, row);
            } else if let Some(row) = line.strip_prefix("FAILED ") {
                checks.that(false, row);
            }
        }
        checks.that(out.trim_end().ends_with(" passed, 0 failed"), "the rows come to their end");
        checks.succeeded(run, "grants");
        let log = kit.places.work.join("told-on-the-model");
        let mut model = Command::new(kit.program("conformance")?);
        host::output(model.args(["grants", "--on", "model", "--log"]).arg(&log))?;
        let model = fs::read_to_string(&log).at(&log)?;
        checks.that(!model.is_empty(), "the guest's lines are logged on the model");
        checks.that(run.text("told") == model, "the log on Xen is that on the model, byte for byte");
        Ok(())
    }
}
