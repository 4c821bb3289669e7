//! Xen, dom0 and its tools come up, and a PVH guest of ours runs and ends.

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Boot;

impl Scenario for Boot {
    fn name(&self) -> &'static str {
        "boot"
    }

    fn about(&self) -> &'static str {
        "Xen 4.17 with a Linux dom0 comes up; our PVH kernel says hello and shuts itself down"
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install_guest(files)?;
        Ok("record info xl info\n\
            record capabilities cat /proc/xen/capabilities\n\
            record devices ls /dev/xen\n\
            guest hello 16 mode=hello seed=1 poweroff=1\n\
            record unpause xl unpause hello\n\
            ended hello 20\n\
            record list xl list hello\n\
            record destroy xl destroy hello\n"
            .to_owned())
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["info", "capabilities", "devices", "unpause", "list", "destroy"] {
            checks.succeeded(run, command);
        }
        let info = run.text("info.out");
        checks.that(has_field(&info, "xen_version", "4.17"), "xl info names Xen 4.17");
        checks.that(has_field(&info, "virt_caps", "hap"), "HVM guests have nested paging");
        checks.that(run.text("capabilities.out").contains("control_d"), "dom0 is the control domain");
        let devices = run.text("devices.out");
        for device in ["privcmd", "evtchn", "gntdev", "gntalloc"] {
            checks.that(devices.lines().any(|d| d == device), format!("dom0 has /dev/xen/{device}"));
        }
        let said = |line: &str| run.log.of_domain(1).any(|said| said == line);
        checks.that(
            said("GUEST: domain 1 seed 1 mode hello"),
            "the guest knows its domain and its command line",
        );
        checks.that(said("GUEST: done"), "the guest comes to its end");
        Ok(())
    }
}

/// Whether a line of xl info `name : value` starts its value so, or has it as a word.
fn has_field(info: &str, name: &str, wanted: &str) -> bool {
    info.lines().filter_map(|line| line.split_once(':')).any(|(field, value)| {
        let value = value.trim();
        field.trim() == name && (value.starts_with(wanted) || value.split(' ').any(|word| word == wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_xl_info_is_matched_by_name_and_value() {
        let info =
            "host : (none)\nxen_version            : 4.17.6-pre\nvirt_caps              : pv hvm hap\n";
        assert!(has_field(info, "xen_version", "4.17"));
        assert!(has_field(info, "virt_caps", "hap"));
        assert!(!has_field(info, "xen_version", "4.18"));
        assert!(!has_field(info, "host", "4.17"));
    }
}
