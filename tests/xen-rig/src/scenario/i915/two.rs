//! Two guests with a vGPU each: one with a stock i915, which paints, and one that does what it can to do harm.
//!
//! Each has an mgpu of its own, as each guest has; they share the processor, the hypervisor and dom0.

use std::time::Duration;

use super::{Checks, PVH_BOOT, bound, figure, install, machine, none, painting, status};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct TwoGuests;

/// What the hostile guest does in them, its seed decides: garbage in entries, registers, contexts and rings, batches without an
/// end, pages ballooned out that its GPU uses.
const ROUNDS: u32 = 60;
const SEED: u32 = 7;
/// Pictures that the other paints meanwhile, at least.
const MEANWHILE: u64 = 3;

impl Scenario for TwoGuests {
    fn name(&self) -> &'static str {
        "two-guests"
    }

    fn about(&self) -> &'static str {
        "a guest with a stock i915 paints beside one that submits garbage and endless batches and balloons; it notices nothing"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(1500), ..machine() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        install(kit, files, Kind::Pvh, "paint painter\n")?;
        kit.install_guest(files)?;
        let serve = "mgpu serve --domid $DOMID --pci-root";
        Ok(format!(
            "linux stock 256 {PVH_BOOT}\n\
             background server {serve} --deadline-ms {} --out /results/pictures --control /run/mgpu\n\
             ready server 60 serving\n\
             guest hostile 24 mode=hostile seed={SEED} rounds={ROUNDS} poweroff=1\n\
             echo $DOMID >/results/hostile.domid\n\
             background hostile-server {serve}\n\
             ready hostile-server 60 serving\n\
             xl unpause stock || say FAILED xl unpause\n\
             spoke stock 300 'painter rest'\n\
             record before mgpu ask /run/mgpu status\n\
             xl unpause hostile || say FAILED xl unpause\n\
             ended hostile 300 hostile-server\n\
             record after mgpu ask /run/mgpu status\n\
             finish hostile-server 20 TERM\n\
             xl destroy hostile\n\
             xl shutdown stock\n\
             {}\
             ended stock 60 server\n\
             finish server 10 TERM\n\
             record destroy xl destroy stock\n",
            painting::DEADLINE_MS,
            painting::taken("stock", "/run/mgpu"),
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["server", "hostile-server", "before", "after", "destroy"] {
            checks.succeeded(run, command);
        }
        let log = run.text("guest-stock.log");
        bound(&log, &[], checks);
        none(&run.text("server.out"), &["refusals", "overruns", "resets", "unknown_registers"], checks);
        painting::right(run, &log, "stock", "painter", "pictures", checks);
        let done = |name: &str| status(&run.text(&format!("{name}.out")), "submissions");
        let meanwhile = done("after").zip(done("before")).map(|(after, before)| after.saturating_sub(before));
        checks.that(
            meanwhile >= Some(MEANWHILE),
            format!("it paints while its neighbour does harm: {MEANWHILE} at least ({meanwhile:?})"),
        );

        let domid = run.text("hostile.domid").trim().parse().unwrap_or(0);
        let report =
            run.log.of_domain(domid).find(|said| said.starts_with("GUEST: hostile")).unwrap_or_default();
        checks.that(
            report.starts_with(&format!("GUEST: hostile rounds {ROUNDS} ")) && !report.ends_with("endless 0"),
            format!("the other does all the harm it knows ({report})"),
        );
        let out = run.text("hostile-server.out");
        // A batch that goes round is refused before it runs, or ended.
        for harm in ["refusals", "notices"] {
            checks.that(
                figure(&out, harm) > Some(0),
                format!("its mgpu counts {harm} ({:?})", figure(&out, harm)),
            );
        }
        Ok(())
    }
}
