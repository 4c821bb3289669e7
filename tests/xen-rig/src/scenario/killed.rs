//! `mgpu serve` is killed while a guest draws, and started again: the guest, whose vCPU waits, goes on and ends with the right
//! picture, and nothing is lost.

use std::time::Duration;

use super::serve::{SEED, figure_of, picture};
use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::qemu::Machine;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Killed;

/// Enough that the last mgpu has some left to draw, whenever those before it are killed.
const FRAMES: u32 = 16;
/// How often mgpu is killed; the last one serves to the end.
const LIVES: [&str; 3] = ["life1", "life2", "life3"];
/// What a shell says of a program that SIGKILL has ended.
const KILLED: i32 = 128 + 9;

impl Scenario for Killed {
    fn name(&self) -> &'static str {
        "killed"
    }

    fn about(&self) -> &'static str {
        "mgpu is killed while a guest draws, and started again: the guest goes on, its picture is the model's"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(800), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("mgpu")?)?;
        kit.install_guest(files)?;
        let serve = |life: &str| {
            format!(
                "background {life} mgpu serve --domid $DOMID --out /results/drawing-pictures --control /run/{life}\n\
                 ready {life} 20 serving\n"
            )
        };
        let kill = |life: &str| {
            format!(
                "completed {life} || say FAILED nothing is drawn\n\
                 kill -KILL $(cat /tmp/{life}.pid)\n\
                 finish {life} 10\n\
                 cat /run/mediated-gpu/dom$DOMID >/results/{life}.record\n\
                 waits || say FAILED the guest does not wait\n\
                 record {life}-waits xl list\n"
            )
        };
        let [first, second, last] = LIVES;
        // Xen keeps what it allocates for dom0's first server, so frames are counted from the second on.
        Ok(format!(
            "waits() {{\n\
                 for i in $(seq 20); do\n\
                     sleep 1\n\
                     xl list drawing | grep -q ' ------ ' && return 0\n\
                 done\n\
                 return 1\n\
             }}\n\
             completed() {{\n\
                 for i in $(seq 100); do\n\
                     mgpu ask /run/$1 status | grep -Eq '\"completions\":([2-9]|[1-9][0-9])' && return 0\n\
                 done\n\
                 return 1\n\
             }}\n\
             guest warm 64 mode=draw frames=1 balloon=0 poweroff=1\n\
             background warm mgpu serve --domid $DOMID --no-state\n\
             ready warm 20 serving\n\
             xl unpause warm\n\
             ended warm 60 warm\n\
             finish warm 10 TERM\n\
             xl destroy warm\n\
             forgotten $DOMID 20\n\
             free_frames free\n\
             guest drawing 64 mode=draw seed={SEED} frames={FRAMES} balloon=8 poweroff=1\n\
             echo $DOMID >/results/drawing.domid\n\
             {}xl unpause drawing\n\
             {}{}{}{}\
             record second mgpu serve --domid $DOMID\n\
             ended drawing 120 {last}\n\
             finish {last} 10 TERM\n\
             cat /run/mediated-gpu/dom$DOMID >/results/{last}.record\n\
             echo nonsense >/run/mediated-gpu/dom$DOMID\n\
             record damaged mgpu serve --domid $DOMID\n\
             xl destroy drawing\n\
             forgotten $DOMID 20\n\
             free_frames free-after $(cat /results/free.out)\n",
            serve(first),
            kill(first),
            serve(second),
            kill(second),
            serve(last),
        ))
    }

    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["warm", "free", LIVES[2], "free-after"] {
            checks.succeeded(run, command);
        }
        for life in &LIVES[..2] {
            checks.that(run.status(life) == Some(KILLED), format!("{life} of mgpu ends by SIGKILL"));
            let servers = servers(&run.text(&format!("{life}.record")));
            checks.equal(&format!("servers that {life} leaves by its record"), servers, Some(1));
            let there = run.text(&format!("{life}-waits.out"));
            let state = there.lines().find(|l| l.starts_with("drawing ")).unwrap_or_default();
            // Neither running nor halted: in Xen, until its access is answered.
            let waits = state.split_whitespace().nth(4) == Some("------");
            checks.that(waits, format!("the guest waits while nobody serves it ({state})"));
        }
        for life in &LIVES[1..] {
            let buried =
                run.text(&format!("{life}.err")).contains("1 servers of a predecessor that was killed");
            checks.that(buried, format!("{life} of mgpu takes the place of the one before"));
        }
        let record = run.text(&format!("{}.record", LIVES[2]));
        checks.equal("servers that the one that ended well leaves", servers(&record), Some(0));

        let domid = run.text("drawing.domid").trim().parse().unwrap_or(0);
        let report =
            run.log.of_domain(domid).find(|said| said.starts_with("GUEST: frames")).unwrap_or_default();
        let whole = report.starts_with(&format!("GUEST: frames {FRAMES} "));
        checks.that(whole && report.ends_with("checks failed 0"), format!("the guest draws on ({report})"));
        let resets = report.split_once("resets ").and_then(|(_, r)| r.split(' ').next()?.parse::<u32>().ok());
        checks.that(resets >= Some(1), "it has met a GPU that was reset");
        let submissions = figure_of(&run.text(&format!("{}.out", LIVES[2])), "submissions");
        checks.that(submissions >= Some(1), format!("the last mgpu has drawn, too ({submissions:?})"));
        picture(kit, run, "drawing", checks)?;

        for (command, wanted) in [("second", "another process serves d"), ("damaged", "remove the file")] {
            let said = run.text(&format!("{command}.err"));
            let refused = run.status(command) == Some(1) && said.lines().count() == 1;
            checks.that(refused && said.contains(wanted), format!("{command}: refused in a line ({said})"));
        }
        let free = |name: &str| run.text(&format!("{name}.out")).trim().parse::<u64>().ok();
        checks.equal("free frames after the guest as before it", free("free-after"), free("free"));
        Ok(())
    }
}

/// How many servers stand in a record.
fn servers(record: &str) -> Option<usize> {
    Some(record.lines().find_map(|l| l.strip_prefix("servers"))?.split_whitespace().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_record_are_counted() {
        assert_eq!(servers("domid 7\nservers 1 3\nnote \n"), Some(2));
        assert_eq!(servers("domid 7\nservers\n"), Some(0));
        assert_eq!(servers(""), None);
    }
}
