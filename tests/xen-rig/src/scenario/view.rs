//! `mgpu view` in a domain that is not dom0: a stock Linux guest looks at what another guest shows, through pages that dom0 grants it.

use std::time::Duration;

use super::serve::{SEED, picture};
use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::{Kind, Linux};
use crate::qemu::Machine;

const INIT: &str = include_str!("../../linux/viewer");

/// What mapping takes; XenStore's device is part of the kernel.
const MODULES: &[(&str, &str)] = &[("xen-gntdev", "drivers/xen/xen-gntdev.ko")];

/// The number of the guest that draws: the fourth domain of this boot. Of each kind one has been there before frames are counted, for
/// which Xen allocates what it keeps.
const DRAWING: u16 = 4;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct View;

impl Scenario for View {
    fn name(&self) -> &'static str {
        "view"
    }

    fn about(&self) -> &'static str {
        "a stock Debian guest sees what another guest shows, by mgpu view and pages that dom0 grants it"
    }

    fn machine(&self) -> Machine {
        Machine { memory: 1280, dom0_memory: 640, timeout: Duration::from_secs(900), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        let mgpu = kit.program("mgpu")?;
        kit.install(files, &mgpu)?;
        kit.install_guest(files)?;
        let guest = [("guest", 0o644, DRAWING.to_string().into_bytes())];
        let extra: Vec<_> =
            guest.iter().map(|(path, mode, bytes)| (*path, *mode, bytes.as_slice())).collect();
        let linux = Linux { init: INIT, modules: MODULES, files: &extra, programs: &[mgpu] };
        kit.install_linux(files, Kind::Pvh, linux)?;
        let draws = format!("mode=draw seed={SEED} frames=2 balloon=4 poweroff=1");
        let serve = |name: &str, more: &str| {
            format!("mgpu serve --domid $DOMID --out /results/{name}-pictures --control /run/{name} {more}")
        };
        Ok(format!(
            "linux first 256 console=hvc0 loglevel=4\n\
             FIRST=$DOMID\n\
             guest warm 64 {draws}\n\
             background warm-server {}\n\
             ready warm-server 60 serving\n\
             xl unpause warm || say FAILED xl unpause\n\
             ended warm 120 warm-server\n\
             record warm-stop mgpu ask /run/warm stop\n\
             finish warm-server 20\n\
             xl destroy warm\n\
             xl destroy first\n\
             forgotten $DOMID 20\n\
             forgotten $FIRST 20\n\
             free_frames free-before\n\
             linux viewer 256 console=hvc0 loglevel=4\n\
             VIEWER=$DOMID\n\
             guest drawing 64 {draws}\n\
             echo $DOMID >/results/drawing.domid\n\
             background drawing-server {}\n\
             ready drawing-server 60 serving\n\
             xl unpause viewer || say FAILED xl unpause\n\
             xl unpause drawing || say FAILED xl unpause\n\
             ended drawing 120 drawing-server\n\
             record picture mgpu ask /run/drawing picture\n\
             sha256sum </results/drawing-pictures/dom{DRAWING}.png >/results/sum\n\
             spoke viewer 120 \"seen $(cut -d' ' -f1 /results/sum)\"\n\
             record stop mgpu ask /run/drawing stop\n\
             finish drawing-server 20\n\
             record nodes xenstore-ls /local/domain/0/data/mgpu\n\
             xl destroy drawing\n\
             xl destroy viewer\n\
             forgotten $DOMID 20\n\
             forgotten $VIEWER 20\n\
             free_frames free-after $(cat /results/free-before.out)\n\
             record domains xl list\n",
            serve("warm", "--viewer 0"),
            serve("drawing", "--viewer $VIEWER"),
        ))
    }

    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["drawing-server", "picture", "stop"] {
            checks.succeeded(run, command);
        }
        checks.equal("the guest's number", run.text("drawing.domid").trim(), &DRAWING.to_string());
        picture(kit, run, "drawing", checks)?;
        let sum = run.text("sum").split(' ').next().unwrap_or_default().to_owned();
        let log = run.text("guest-viewer.log");
        let seen = format!("GUEST: seen {sum}");
        checks.that(
            sum.len() == 64 && log.lines().any(|l| l.trim_end() == seen),
            "the other guest sees that picture, byte by byte",
        );
        checks.that(log.contains("GUEST: kernel 6.1"), "its kernel is Debian's");
        checks.that(!log.contains("GUEST: FAILED"), "nothing fails in it");
        checks.that(!run.text("nodes.out").contains('='), "nothing of it is left in XenStore");
        let free = |name: &str| run.text(&format!("{name}.out")).trim().parse::<u64>().ok();
        checks.that(free("free-before").is_some(), "the host's free frames can be counted");
        checks.equal("when all have gone no frame is missing", free("free-after"), free("free-before"));
        checks.equal("no domain is left", run.text("domains.out").lines().count(), 2);
        Ok(())
    }
}
