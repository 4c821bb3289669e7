//! `mgpu serve` in dom0: a guest draws through it while its pages are ballooned out and in.
//!
//! The picture must be the model's, byte by byte, and at the end every frame must be back with the host.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::{At as _, Result};
use crate::host;
use crate::kit::Kit;
use crate::qemu::Machine;

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Serve;

/// Decides the pictures.
pub(super) const SEED: u64 = 7;
const FRAMES: u32 = 5;
const BALLOON: u32 = 8;

impl Scenario for Serve {
    fn name(&self) -> &'static str {
        "serve"
    }

    fn about(&self) -> &'static str {
        "a guest draws through mgpu while it balloons; its picture is the model's, all frames come back"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(600), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.program("mgpu")?)?;
        kit.install_guest(files)?;
        // Xen keeps what it allocates for dom0's first server, so frames are counted from the second on.
        let session = |name: &str, options: &str, control: &str, end: &str, counted: &str| {
            format!(
                "guest {name} 64 mode=draw seed={SEED} {options} poweroff=1\n\
                 echo $DOMID >/results/{name}.domid\n\
                 background {name}-server mgpu serve --domid $DOMID --out /results/{name}-pictures {control}\n\
                 ready {name}-server 10 serving\n\
                 cat /proc/$(cat /tmp/{name}-server.pid)/status >/results/{name}.process\n\
                 xl unpause {name} || say FAILED xl unpause\n\
                 ended {name} 90 {name}-server\n\
                 {end}\n\
                 record {name}-held mgpu probe --free-pages\n\
                 xl destroy {name} || say FAILED xl destroy\n\
                 forgotten $DOMID 20\n\
                 free_frames {counted}\n"
            )
        };
        // A viewer of RFB 3.3, which says all it has to say at once: its version, that others may look, and what it wants.
        let look = "(printf 'RFB 003.003\\n\\1\\3\\0\\0\\0\\0\\0\\0\\100\\0\\100'; sleep 3) | nc 127.0.0.1 5900 >/results/viewer\n";
        // The second one is looked at, asked, and ended, by an operator.
        let ask = |what: &str| format!("record {what} mgpu ask /run/mgpu {what}\n");
        let asked =
            format!("{look}{}{}{}finish drawing-server 10", ask("status"), ask("picture"), ask("stop"));
        // The first one is seen by another domain, for which dom0 must stand here.
        // It is up to half a second behind.
        let seen = "sleep 2\n\
                    record view mgpu view --domid $DOMID --out /results/viewed.png\n\
                    finish first-server 10 TERM";
        let options = format!("frames={FRAMES} balloon={BALLOON}");
        Ok(format!(
            "ip link set lo up\n\
             record probe mgpu probe\n\
             {}{}",
            session("first", "frames=1 balloon=0", "--viewer 0", seen, "free"),
            session(
                "drawing",
                &options,
                "--control /run/mgpu --vnc 127.0.0.1:5900",
                &asked,
                "drawing-after $(cat /results/free.out)"
            ),
        ))
    }

    fn judge(&self, kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        for command in ["probe", "free", "first-server", "drawing-server", "drawing-held", "drawing-after"] {
            checks.succeeded(run, command);
        }
        checks.that(run.text("probe.out").contains("soft"), "mgpu says that it has a soft IOMMU");
        for name in ["first", "drawing"] {
            picture(kit, run, name, checks)?;
            let process = run.text(&format!("{name}.process"));
            let filtered = ["Seccomp:\t2", "NoNewPrivs:\t1"].iter().all(|l| process.lines().any(|m| m == *l));
            checks.that(filtered, format!("{name} is served from within a sandbox"));
            let line = run.text(&format!("{name}-server.out"));
            let line = line.lines().next().unwrap_or_default();
            checks.that(line.starts_with("sandbox: uid 655"), format!("mgpu says what is in force: {line}"));
        }

        let domid = run.text("drawing.domid").trim().parse().unwrap_or(0);
        let report =
            run.log.of_domain(domid).find(|said| said.starts_with("GUEST: frames")).unwrap_or_default();
        let drawn = format!("GUEST: frames {FRAMES} ");
        checks.that(report.starts_with(&drawn), format!("the guest draws {FRAMES} frames ({report})"));
        checks.that(
            report.ends_with("checks failed 0"),
            format!("no frame differs from its reference ({report})"),
        );
        let out = run.text("drawing-server.out");
        for (figure, least) in [("invalidate", 1), ("notices", 1), ("submissions", FRAMES.into())] {
            let value = figure_of(&out, figure);
            checks.that(value >= Some(least), format!("mgpu counts {figure}: at least {least} ({value:?})"));
        }
        // A page that is back by the time its notice is worked on is replaced, one that is not is revoked.
        operated(run, domid, checks);
        viewed(run, checks);
        checks.succeeded(run, "view");
        let first = run.text("first.domid");
        let written = run.results.get(&format!("first-pictures/dom{}.png", first.trim()));
        let seen = run.results.get("viewed.png");
        checks.that(
            seen.is_some() && seen == written,
            "what a viewer copies from granted pages is the picture",
        );
        let found = figure_of(&out, "revoked").unwrap_or(0) + figure_of(&out, "replaced").unwrap_or(0);
        checks.that(found >= 1, "mgpu finds pages that went");
        let free = |name: &str| run.text(&format!("{name}.out")).trim().parse::<u64>().ok();
        checks.equal("free frames after the guest as before it", free("drawing-after"), free("free"));
        checks.that(free("drawing-held") < free("free"), "while the guest is there, it has frames");
        Ok(())
    }
}

/// A viewer is shown a tile of what the guest shows, also from within the sandbox.
fn viewed(run: &Run, checks: &mut Checks) {
    // Version, security, size and format, name; an update of one raw tile of 64 by 64 pixels.
    const BEFORE: usize = 12 + 4 + 24 + 4;
    let said = run.results.get("viewer").map_or(&[][..], Vec::as_slice);
    checks.that(said.starts_with(b"RFB 003.008\n\0\0\0\x01"), "a VNC viewer is let in");
    let update = said.get(BEFORE..).unwrap_or_default();
    checks.equal("what it is shown", update.get(..16), Some(b"\0\0\0\x01\0\0\0\0\0\x40\0\x40\0\0\0\0"));
    let pixels = update.get(16..).unwrap_or_default();
    checks.equal("bytes of pixels", pixels.len(), 64 * 64 * 4);
    checks.that(pixels.iter().any(|b| *b != pixels[0]), "it is a picture");
}

/// What an operator asks comes back, also from within the sandbox.
fn operated(run: &Run, domid: u16, checks: &mut Checks) {
    for command in ["status", "picture", "stop"] {
        checks.succeeded(run, command);
    }
    let status = run.text("status.out");
    checks.that(
        status.starts_with(&format!("{{\"domid\":{domid},")) && status.trim_end().ends_with('}'),
        format!("status is a line of JSON ({})", status.trim_end()),
    );
    let submissions = status
        .split_once("\"submissions\":")
        .and_then(|(_, rest)| rest.split([',', '}']).next()?.parse::<u64>().ok());
    checks.that(
        submissions >= Some(FRAMES.into()),
        format!("status counts submissions: at least {FRAMES} ({submissions:?})"),
    );
    let picture = run.text("picture.out");
    checks.that(
        picture.starts_with(&format!("/results/drawing-pictures/dom{domid}.png ")),
        format!("picture says where it is ({})", picture.trim_end()),
    );
    let ended = run.text("drawing-server.out").contains("stopped by an operator");
    checks.that(ended, "mgpu ends because an operator says so");
}

/// The PNG that mgpu wrote must be the one that the model's guest of that number and seed ends with.
pub(super) fn picture(kit: &Kit, run: &Run, name: &str, checks: &mut Checks) -> Result<()> {
    let domid = run.text(&format!("{name}.domid")).trim().to_owned();
    // Whether it can be written is found out by making the file, empty.
    let png = run.results.get(&format!("{name}-pictures/dom{domid}.png")).filter(|png| !png.is_empty());
    checks.that(png.is_some(), format!("mgpu writes {name}'s picture"));
    let Some(png) = png else { return Ok(()) };
    let dir = kit.places.work.join("pictures");
    fs::create_dir_all(&dir).at(&dir)?;
    let ours = dir.join(format!("{name}-xen.png"));
    fs::write(&ours, png).at(&ours)?;
    let models = dir.join(format!("{name}-model.png"));
    let mgpu = kit.program("mgpu")?;
    host::output(
        Command::new(mgpu).args(["picture", "--domid", &domid, "--seed", &SEED.to_string()]).arg(&models),
    )?;
    let same = fs::read(&models).at(&models)? == *png;
    checks.that(same, format!("{} and {} are equal", ours.display(), models.display()));
    Ok(())
}

/// The value in a line `NAME VALUE`.
pub(super) fn figure_of(out: &str, name: &str) -> Option<u64> {
    out.lines().filter_map(|line| line.split_once(' ')).find(|(n, _)| *n == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_whole_name() {
        let out = "serving d1: V4_8\npte_writes 12\nwrites 3\nbroken x\n";
        assert_eq!(figure_of(out, "writes"), Some(3));
        assert_eq!(figure_of(out, "broken"), None);
        assert_eq!(figure_of(out, "mappings"), None);
    }
}
