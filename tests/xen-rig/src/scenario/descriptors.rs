//! The typed descriptors of xen-ioreq, each call tried on a guest and on domains and servers that are not there.

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Descriptors;

impl Scenario for Descriptors {
    fn name(&self) -> &'static str {
        "descriptors"
    }

    fn about(&self) -> &'static str {
        "privcmd and evtchn through xen-ioreq: maps, holes, hypercalls, ports, eventfds, a ballooned frame, restriction; own frames"
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.example("on-xen")?)?;
        kit.install(files, &kit.example("own-ram")?)?;
        kit.install(files, &kit.program("kept")?)?;
        kit.install_guest(files)?;
        // The second run has no /dev/xen/hypercall and takes locked memory for its buffers.
        Ok("guest held 16 mode=hello\n\
            record device-buffers on-xen $DOMID\n\
            record own-ram own-ram\n\
            record kept kept xen\n\
            rm /dev/xen/hypercall\n\
            record locked-buffers on-xen $DOMID\n\
            mv /dev/xen/privcmd /dev/xen/elsewhere\n\
            record no-device on-xen $DOMID\n\
            mv /dev/xen/elsewhere /dev/xen/privcmd\n\
            record destroy xl destroy held\n"
            .to_owned())
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["device-buffers", "own-ram", "kept", "locked-buffers"] {
            checks.succeeded(run, command);
            checks.facts(run, command);
        }
        checks.equal("without the device: status", run.status("no-device"), Some(1));
        checks.equal(
            "without the device: one line says what to do",
            run.text("no-device.err").as_str(),
            "on-xen: /dev/xen/privcmd is not there: run `modprobe xen-privcmd`\n",
        );
        checks.succeeded(run, "destroy");
        Ok(())
    }
}
