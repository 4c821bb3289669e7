//! The promise on real Xen: a guest gives pages back that its GPU can reach, while `mgpu serve` is stopped dead.
//!
//! The host's free frames are counted before, while the notice is unanswered, after our unmap, and when all have gone.
//! The picture is compared with what the model's GPU drew.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::sandbox::{confined, threads};
use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::host;
use crate::kit::Kit;
use crate::qemu::Machine;

const SEED: u32 = 7;
const FRAMES: u32 = 6;
/// Pages that the guest gives back while its GPU can reach them.
const GIVEN: u64 = 16;
/// mgpu serves guest N as this user + N, with this group.
const FIRST_USER: u32 = 65536;
/// The guest's number: it is the second of this boot. The first only makes Xen allocate what it keeps.
const DOMAIN: u32 = 2;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Promise;

impl Scenario for Promise {
    fn name(&self) -> &'static str {
        "promise"
    }

    fn about(&self) -> &'static str {
        "pages given back while the GPU can reach them come to the host after our unmap and not before; nothing is lost"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(600), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("mgpu")?)?;
        kit.install_guest(files)?;
        Ok(format!(
            "record probe mgpu probe\n\
             record nobody mgpu serve --domid 77\n\
             record dom0 mgpu serve --domid 0\n\
             guest first 16 mode=hello poweroff=1\n\
             record physical mgpu serve --domid $DOMID --gpu vfio:0000:00:02.0\n\
             xl unpause first\n\
             ended first 20\n\
             xl destroy first\n\
             forgotten $DOMID 20\n\
             free_frames free-before\n\
             guest draw 24 mode=draw seed={SEED} frames={FRAMES} balloon=8 give={GIVEN}\n\
             background serve mgpu serve --domid $DOMID --out /results/pictures --pci-root\n\
             ready serve 20 serving\n\
             cat /proc/$(cat /tmp/serve.pid)/task/*/status >/results/threads\n\
             xl unpause draw\n\
             heard 90 'GUEST: holding'\n\
             xl pause draw\n\
             kill -USR1 $(cat /tmp/serve.pid)\n\
             ready serve 20 wrote\n\
             mv /results/pictures/dom$DOMID.png /results/picture.png\n\
             kill -STOP $(cat /tmp/serve.pid)\n\
             record free-drawn mgpu probe --free-pages\n\
             xl unpause draw\n\
             heard 60 'GUEST: giving'\n\
             sleep 1\n\
             record free-held mgpu probe --free-pages\n\
             xl dmesg | grep -q 'GUEST: gave' && say FAILED the guest went on before its notice was answered\n\
             kill -CONT $(cat /tmp/serve.pid)\n\
             heard 20 'GUEST: gave {GIVEN}'\n\
             free_frames free-given $(($(cat /results/free-drawn.out) + {GIVEN}))\n\
             xl destroy draw\n\
             finish serve 20\n\
             forgotten $DOMID 20\n\
             free_frames free-after $(cat /results/free-before.out)\n\
             record console xl dmesg\n\
             record kernel dmesg\n\
             record domains xl list\n"
        ))
    }

    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        checks.succeeded(run, "probe");
        checks.that(
            run.text("probe.out").contains("soft: no iommu_op here"),
            "stock Xen is known for what it is",
        );
        checks.equal(
            "no such domain: one line says what to do",
            run.text("nobody.err").as_str(),
            "mgpu: there is no domain 77: `xl list` shows those there are\n",
        );
        checks.equal("a PV domain is refused", run.status("dom0"), Some(1));
        // All else that a physical GPU needs there is (scenario `descriptors`), so this is the only reason.
        checks.equal("a physical GPU is refused", run.status("physical"), Some(1));
        checks.equal(
            "one line says what is missing",
            run.text("physical.err").as_str(),
            "mgpu: this hypervisor has no iommu_op, so a physical device cannot reach guest memory safely: use the software device\n",
        );

        checks.succeeded(run, "serve");
        confined(&threads(&run.text("threads")), (FIRST_USER + DOMAIN, FIRST_USER), checks);
        let console = run.text("console.out");
        let report = console.lines().find(|l| l.contains("GUEST: frames")).unwrap_or_default();
        checks.that(
            report.contains(&format!("frames {FRAMES} ")) && report.contains("checks failed 0"),
            format!("the guest drew every frame, each as it must be ({})", report.trim()),
        );
        let figure = |name: &str| figure(&run.text("serve.out"), name);
        checks.that(figure("notices") > Some(0), "Xen announced what the guest ballooned");
        checks.that(figure("submissions") > Some(0), "the GPU was given work");
        checks.equal("contexts refused or stopped", figure("refusals").zip(figure("overruns")), Some((0, 0)));

        let free = |name: &str| run.text(&format!("{name}.out")).trim().parse::<u64>().ok();
        let (drawn, held, given) = (free("free-drawn"), free("free-held"), free("free-given"));
        checks.that(drawn.is_some(), "the host's free frames can be counted");
        checks.equal(
            "while the GPU can reach what the guest gave back, the host has none of it",
            held,
            drawn,
        );
        checks.equal("after our unmap the host has it all", given, drawn.map(|d| d + GIVEN));
        checks.equal(
            "after guest and server have gone nothing is missing",
            free("free-after"),
            free("free-before"),
        );
        checks.equal("no domain is left", run.text("domains.out").lines().count(), 2);

        let model = kit.places.work.join("model");
        let mut demo = Command::new(kit.program("mgpu")?);
        demo.args([
            "demo",
            "--seconds",
            "1",
            "--guests",
            &DOMAIN.to_string(),
            "--seed",
            &SEED.to_string(),
            "--out",
        ]);
        host::output(demo.arg(&model))?;
        let name = format!("dom{DOMAIN}.png");
        let path = model.join(&name);
        let wanted = fs::read(&path).at(&path)?;
        let found = run.results.get("picture.png");
        checks.that(
            found == Some(&wanted),
            format!("the picture from real Xen is the model's, all {} bytes", wanted.len()),
        );
        Ok(())
    }
}

/// The value of a line `NAME VALUE`.
fn figure(out: &str, name: &str) -> Option<u64> {
    out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_whole_name() {
        assert_eq!(figure("pte_writes 5\nnotices 12\n", "notices"), Some(12));
        assert_eq!(figure("notices_x 12\n", "notices"), None);
        assert_eq!(figure("", "notices"), None);
    }
}
