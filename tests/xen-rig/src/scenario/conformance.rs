//! The conformance rows on real Xen: calls from dom0, accesses from the guest's kernel; and the model's beside them.

use std::fs;
use std::process::Command;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::host;
use crate::kit::Kit;

/// Areas that have rows for real Xen; each ends its guest.
const AREAS: &[&str] = &["ioreq", "iommu"];

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Conformance;

impl Scenario for Conformance {
    fn name(&self) -> &'static str {
        "conformance"
    }

    fn about(&self) -> &'static str {
        "the rows of conformance ioreq and iommu, the same as on the model"
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("conformance")?)?;
        kit.install_guest(files)?;
        let on = "--on xen --domid";
        Ok(format!(
            "VCPUS=2\n\
             guest pair 16 mode=rows\n\
             PAIR=$DOMID VCPUS=3\n\
             guest_hvm hvm 16\n\
             HVM=$DOMID VCPUS=1\n\
             guest rows 16 mode=rows\n\
             record ioreq conformance ioreq {on} $DOMID --pair $PAIR --hvm $HVM --log /results/accesses\n\
             xl destroy pair\n\
             xl destroy hvm\n\
             record nobody conformance ioreq {on} 999\n\
             record dom0 conformance ioreq {on} 0\n\
             guest frames 16 mode=rows\n\
             xl unpause frames\n\
             record runs conformance ioreq {on} $DOMID\n\
             xl pause frames\n\
             record iommu conformance iommu {on} $DOMID --destroy\n\
             record gone xl list frames\n"
        ))
    }

    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for area in AREAS {
            let out = run.text(&format!("{area}.out"));
            for line in out.lines() {
                if let Some(row) = line.strip_prefix("ok     ") {
                    checks.that(true, row);
                } else if let Some(row) = line.strip_prefix("FAILED ") {
                    checks.that(false, format!("{area}: {row}"));
                }
            }
            checks.that(out.trim_end().ends_with(" passed, 0 failed"), format!("{area} comes to its end"));
            checks.succeeded(run, area);
        }
        let log = kit.places.work.join("accesses-on-the-model");
        let mut model = Command::new(kit.program("conformance")?);
        host::output(model.args(["ioreq", "--on", "model", "--log"]).arg(&log))?;
        let model = fs::read_to_string(&log).at(&log)?;
        checks.that(!model.is_empty(), "the guest's accesses are logged on the model");
        checks.that(run.text("accesses") == model, "the log on Xen is that on the model, byte for byte");
        for (name, says) in [
            ("nobody", "d999 is not there: create the guest first"),
            ("dom0", "d0 is no HVM"),
            ("runs", "d4 runs: rows begin with a guest that does not"),
        ] {
            checks.equal(&format!("{name}: status"), run.status(name), Some(1));
            checks.that(
                run.text(&format!("{name}.out")).contains(says),
                format!("{name}: one line says what to do"),
            );
        }
        checks.that(run.text("gone.err").contains("invalid domain"), "the rows have destroyed their guest");
        Ok(())
    }
}
