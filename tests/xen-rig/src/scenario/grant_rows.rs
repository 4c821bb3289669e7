//! The rows of grants on real Xen: what dom0 may ask, the same as on the model.

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct GrantRows;

impl Scenario for GrantRows {
    fn name(&self) -> &'static str {
        "grant-rows"
    }

    fn about(&self) -> &'static str {
        "the rows of conformance grants, the same as on the model"
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("conformance", "conformance")?)?;
        kit.install_guest(files)?;
        Ok("guest rows 16 mode=rows\n\
            record dom0 conformance grants --on xen --domid $DOMID\n"
            .to_owned())
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let out = run.text("dom0.out");
        for line in out.lines() {
            if let Some(row) = line.strip_prefix("ok     ") {
                checks.that(true, row);
            } else if let Some(row) = line.strip_prefix("FAILED ") {
                checks.that(false, row);
            }
        }
        checks.that(out.trim_end().ends_with(" passed, 0 failed"), "the rows come to their end");
        checks.succeeded(run, "dom0");
        Ok(())
    }
}
