//! A guest gives pages back after its vGPU was written to a file and before `xl save` takes its memory; restored, it takes them back.
//!
//! What the file says of those pages leads nowhere, and neither does a file whose every entry leads elsewhere. Nothing waits for a
//! time: the guest holds still until its device has gone, and after its save until it is back.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::serve::figure_of;
use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::host;
use crate::kit::Kit;
use crate::qemu::Machine;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct SaveBalloon;

const SEED: u64 = 7;
/// Whose picture is drawn, whatever number the domain has.
const NUMBER: u16 = 5;
/// Pages of the picture that it gives back.
const PAGES: u64 = 16;
/// How many frames further a changed file's entries lead: behind all memory of the guest's, near and far.
const ASTRAY: [u64; 2] = [0x1_0000, 0x40_0000];

impl Scenario for SaveBalloon {
    fn name(&self) -> &'static str {
        "save-balloon"
    }

    fn about(&self) -> &'static str {
        "pages that a guest gives back while its vGPU is in a file are the host's; the file leads to none, nor does a changed one"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(900), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("mgpu")?)?;
        kit.install(files, &kit.program("astray")?)?;
        kit.install_guest(files)?;
        let serve = |name: &str, rest: &str| {
            format!(
                "background {name} mgpu serve --domid $DOMID --pci-root --deadline-ms 60000 --control /run/{name} --out /results/{name}-pictures {rest}\n\
                 ready {name} 60 serving\n"
            )
        };
        let stop = |name: &str| format!("record {name}-stop mgpu ask /run/{name} stop\nfinish {name} 20\n");
        let count = |name: &str| format!("free_frames free-{name}\n");
        let hostile: String = ASTRAY
            .iter()
            .enumerate()
            .map(|(n, frames)| {
                let name = format!("hostile{n}");
                format!(
                    "record {name}-file astray $FILE {frames} /tmp/{name}\n{}record {name}-status mgpu ask /run/{name} status\n{}{}",
                    serve(&name, &format!("--restore /tmp/{name}")),
                    stop(&name),
                    count(&name)
                )
            })
            .collect();
        // The guest does not speak to XenStore: that it has heard that it is to be saved is said in its place, when it is asked.
        let answer = "(until [ \"$(xenstore-read /local/domain/$DOMID/control/shutdown)\" = suspend ]; do sleep 0.2; done; \
                      xenstore-write /local/domain/$DOMID/control/shutdown '') &\n";
        Ok(format!(
            "guest away 24 mode=draw seed={SEED} number={NUMBER} frames=4 balloon=8 away={PAGES}\n\
             {first}xl unpause away || say FAILED xl unpause\n\
             heard 90 'GUEST: holding'\n\
             xl pause away || say FAILED xl pause\n\
             record save mgpu ask /run/first save\n\
             FILE=$(head -n 1 /results/save.out)\n\
             {first_stop}{before}\
             xl unpause away || say FAILED xl unpause\n\
             heard 60 'GUEST: gave {PAGES}'\n\
             ended away 60\n\
             {given}{answer}\
             record xl-save xl save -p away /tmp/memory\n\
             xl destroy away || say FAILED xl destroy\n\
             forgotten $DOMID 20\n\
             {away}\
             record xl-restore xl restore -p /tmp/away.cfg /tmp/memory\n\
             rm /tmp/memory\n\
             DOMID=$(xl domid away)\n\
             {restored}{hostile}{second}{served}\
             record missing mgpu ask /run/second picture\n\
             xl unpause away || say FAILED xl unpause\n\
             heard 90 'GUEST: done'\n\
             record last mgpu ask /run/second picture\n\
             cp /results/second-pictures/dom$DOMID.png /results/last.png\n\
             {taken}{second_stop}\
             record destroy xl destroy away\n\
             forgotten $DOMID 20\n\
             {back}\
             record console xl dmesg\n",
            // What a table of the guest's own memory says comes with that; here the file says it.
            first = serve("first", "--trap-table"),
            first_stop = stop("first"),
            before = count("before"),
            given = count("given"),
            away = count("away"),
            restored = count("restored"),
            second = serve("second", "--restore $FILE"),
            served = count("served"),
            taken = count("taken"),
            second_stop = stop("second"),
            back = count("back $(cat /results/free-away.out)"),
        ))
    }

    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["first", "save", "xl-save", "xl-restore", "second", "missing", "last", "destroy"] {
            checks.succeeded(run, command);
        }
        let free = |name: &str| run.text(&format!("free-{name}.out")).trim().parse::<u64>().ok();
        let more = |name: &str, pages: u64| free(name).map(|f| f + pages);
        checks.that(free("before").is_some(), "the host's free frames can be counted");
        checks.equal("what it gave back is the host's, to the frame", free("given"), more("before", PAGES));
        for n in 0..ASTRAY.len() {
            let name = format!("hostile{n}");
            for what in ["-file", "", "-status", "-stop"] {
                checks.succeeded(run, &format!("{name}{what}"));
            }
            let mapped = "\"mappings\":0,";
            let status = run.text(&format!("{name}-status.out"));
            checks.that(
                status.contains(mapped),
                format!("a changed file leads nowhere ({})", status.trim_end()),
            );
            checks.equal("and takes nothing", free(&name), free("restored"));
        }
        for (name, pages) in [("missing", PAGES), ("last", 0)] {
            let said = run.text(&format!("{name}.out"));
            let right = said.contains(&format!("({pages} pages ballooned out)"));
            checks.that(right, format!("{pages} pages of the picture are missing ({})", said.trim_end()));
        }
        checks.equal("taken back, they are the host's no longer", more("taken", PAGES), free("served"));
        checks.equal(
            "at the end the host has what it had while the guest was away",
            free("back"),
            free("away"),
        );
        for figure in ["refusals", "overruns"] {
            let found = figure_of(&run.text("second.out"), figure);
            checks.equal(&format!("after the restore: {figure}"), found, Some(0));
        }
        let console = run.text("console.out");
        let report = console.lines().rev().find(|l| l.contains("GUEST: frames")).unwrap_or_default();
        let right = report.contains("frames 6 ") && report.contains("checks failed 0");
        checks.that(right, format!("the guest drew on, and every frame as it must be ({})", report.trim()));
        checks.that(console.contains("GUEST: resumed"), "it went on where it was stopped");

        let model = kit.places.work.join("pictures");
        fs::create_dir_all(&model).at(&model)?;
        let model = model.join("save-balloon-model.png");
        let mut mgpu = Command::new(kit.program("mgpu")?);
        mgpu.args(["picture", "--domid", &NUMBER.to_string(), "--seed", &SEED.to_string()]);
        host::output(mgpu.arg(&model))?;
        let wanted = fs::read(&model).at(&model)?;
        checks.that(
            run.results.get("last.png") == Some(&wanted),
            format!("the last picture is the model's, all {} bytes", wanted.len()),
        );
        Ok(())
    }
}
