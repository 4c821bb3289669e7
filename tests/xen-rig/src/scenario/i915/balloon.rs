//! A guest with a stock i915 gives half of its memory back and takes it again, ten times, while it paints without pause.
//!
//! At each point of rest the host's free frames are counted: they are exact only if mgpu has let go of every frame that the
//! guest gave back, whatever its driver has left in its tables, and of none that it has not.

use std::time::Duration;

use super::{Checks, PVH_BOOT, bound, figure, install, machine, none, painting};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Balloon;

const TIMES: usize = 10;
/// The guest's memory, and half of it, in MiB.
const FULL: u64 = 256;
const HALF: u64 = FULL / 2;
/// Frames of the difference.
const GIVEN: u64 = (FULL - HALF) << 8;
/// Frames that Linux gives back with one hypercall, after which Xen sends a notice: at most (`frame_list` of its balloon.c).
const A_CALL: u64 = 512;

impl Scenario for I915Balloon {
    fn name(&self) -> &'static str {
        "i915-balloon"
    }

    fn about(&self) -> &'static str {
        "a stock i915's guest shrinks and grows by half ten times while it paints; frames are exact, pictures right"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(1500), ..machine() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        // What these programs leave behind in the driver's global table leads to pages that the balloon takes sooner or later: not
        // each time, since the painter may get some of them first.
        install(
            kit,
            files,
            Kind::Pvh,
            "work first\nfor time in 1 2 3 4 5 6; do sleep 12; work again others; done &\npaint painter\n",
        )?;
        Ok(format!(
            "linux stock {FULL} {PVH_BOOT}\n\
             background server mgpu serve --domid $DOMID --pci-root --deadline-ms {} --out /results/pictures --control /run/mgpu\n\
             ready server 60 serving\n\
             xl unpause stock || say FAILED xl unpause\n\
             # rests WANTED: the guest comes to rest, and the host has that many free frames, or does not\n\
             rests() {{\n\
                 spoke stock 200 \"rest $rest at\" || return 1\n\
                 local left=50\n\
                 while free=$(mgpu probe --free-pages) && [ $free != \"${{1:-$free}}\" ] && [ $left -gt 0 ]; do\n\
                     sleep 0.2\n\
                     left=$((left - 1))\n\
                 done\n\
                 echo $(cut -d' ' -f1 /proc/uptime) $free >>/results/rests\n\
                 say rest $rest: $free frames free after $(up) s\n\
                 rest=$((rest + 1))\n\
             }}\n\
             rest=0\n\
             rests && full=$free && for time in $(seq {TIMES}); do\n\
                 xl mem-set stock {HALF} && rests $((full + {GIVEN})) && xl mem-set stock {FULL} && rests $full || break\n\
             done\n\
             record status mgpu ask /run/mgpu status\n\
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
        for command in ["server", "status", "destroy"] {
            checks.succeeded(run, command);
        }
        let log = run.text("guest-stock.log");
        bound(&log, &[], checks);
        let out = run.text("server.out");
        none(&out, &["refusals", "overruns", "resets", "unknown_registers", "pte_writes"], checks);
        rested(&Rest::all(&log, "painter", &run.text("rests")), checks);

        painting::right(run, &log, "stock", "painter", "pictures", checks);

        let notices = figure(&out, "notices");
        let least = TIMES as u64 * GIVEN / A_CALL;
        checks.that(
            notices >= Some(least),
            format!("Xen sends a notice a call: {least} at least ({notices:?})"),
        );
        checks.equal("mgpu hears of each that came", figure(&out, "invalidate"), notices);
        // Whether the driver leaves any depends on which pages its kernel gives back: in some runs there are a thousand, in some
        // none. The model's tests have some for certain.
        let stale = figure(&out, "revoked");
        checks
            .that(stale.is_some(), "mgpu counts the entries that the driver had left to lead to such pages");
        checks.figure("i915-balloon: entries that led to pages that had gone", stale.unwrap_or(0) as f64);
        checks.figure(
            "i915-balloon: ms to the end of a notice, 99 %",
            figure(&out, "invalidation_p99_us").unwrap_or(u64::MAX) as f64 / 1000.0,
        );
        Ok(())
    }
}

/// A point of rest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rest {
    /// What the guest says that it has.
    kib: u64,
    /// Pictures it has painted by then.
    pictures: u64,
    /// Tries that the balloon needed, 1 if each succeeded at once.
    tries: u64,
    /// When dom0 counted, in seconds.
    at: f64,
    /// The host's free frames.
    free: u64,
}

impl Rest {
    /// All that both guest and dom0 speak of.
    fn all(log: &str, painter: &str, counted: &str) -> Vec<Self> {
        let prefix = format!("GUEST: {painter} rest ");
        let said = log.lines().filter_map(|line| line.trim_end().strip_prefix(&prefix));
        said.zip(counted.lines()).filter_map(|(said, counted)| Self::one(said, counted)).collect()
    }

    fn one(said: &str, counted: &str) -> Option<Self> {
        let mut numbers = said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        let (_, kib, pictures, tries) = (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()?);
        let (at, free) = counted.split_once(' ')?;
        Some(Self { kib, pictures, tries, at: at.parse().ok()?, free: free.trim().parse().ok()? })
    }
}

/// Frames are exact at each rest, and the guest painted on between them.
fn rested(rests: &[Rest], checks: &mut Checks) {
    checks.equal("points of rest", rests.len(), 2 * TIMES + 1);
    let Some(first) = rests.first() else { return };
    for (n, rest) in rests.iter().enumerate() {
        let given = if n % 2 == 1 { GIVEN } else { 0 };
        checks.equal(&format!("rest {n}: the guest's frames"), rest.kib + 4 * given, first.kib);
        checks.equal(&format!("rest {n}: the host's free frames"), rest.free, first.free + given);
    }
    let mut slowest = [0f64; 2];
    for (n, pair) in rests.windows(2).enumerate() {
        let [before, after] = pair else { continue };
        checks.that(
            after.pictures > before.pictures,
            format!("it paints while it goes from rest {n} to the next"),
        );
        if let Some(slowest) = slowest.get_mut(n % 2) {
            *slowest = slowest.max(after.at - before.at);
        }
        if n % 2 == 1 {
            checks.equal(&format!("rest {}: tries of the balloon to grow", n + 1), after.tries, 1);
        }
    }
    let [out, back] = slowest;
    checks.figure("i915-balloon: seconds to shrink by half, slowest", out);
    checks.figure("i915-balloon: seconds to grow back, slowest", back);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(rests: usize) -> (String, String) {
        let line = |n: usize| {
            let kib = if n % 2 == 1 { 131_000 } else { 131_000 + 4 * GIVEN };
            format!("GUEST: p rest {n} at {kib} kB, pictures {}, tries 1\r\n", 10 * n + 1)
        };
        let counted = |n: usize| format!("{n}.50 {}\n", if n % 2 == 1 { 1000 + GIVEN } else { 1000 });
        ((0..rests).map(line).collect(), (0..rests).map(counted).collect())
    }

    fn failed(log: &str, counted: &str) -> usize {
        let mut checks = Checks::default();
        rested(&Rest::all(log, "p", counted), &mut checks);
        checks.failed().len()
    }

    #[test]
    fn a_frame_too_few_a_picture_too_few_and_a_second_try_are_found_out() {
        let (said, counted) = log(2 * TIMES + 1);
        assert_eq!(failed(&said, &counted), 0);
        assert_eq!(failed(&said, &counted.replacen("3.50 33768", "3.50 33767", 1)), 1);
        assert_eq!(failed(&said.replacen("pictures 41", "pictures 31", 1), &counted), 1);
        assert_eq!(failed(&said.replacen("pictures 41, tries 1", "pictures 41, tries 3", 1), &counted), 1);
        assert_eq!(failed(&said.replacen("rest 3 at 131000", "rest 3 at 131004", 1), &counted), 1);
        let (said, counted) = log(2 * TIMES);
        assert_eq!(failed(&said, &counted), 1, "one rest is missing");
    }
}
