//! The stock i915 of a PVH guest binds, and runs work on every engine of its vGPU.

use super::{
    Checks, STORES, STREAMS, bound, did, figure, install, interrupted, machine, none, painting, recorded,
    said, script_while, status, worked,
};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::Kind;
use crate::qemu::Machine;
use crate::scenario::{Run, Scenario};

/// See [`Scenario::about`].
#[derive(Debug)]
pub(in crate::scenario) struct I915Pvh;

/// The driver writes each of this type's 114,688 entries once, and the first flush looks at them all: the largest type has six
/// times as many, which an emulated machine that others share takes half a minute for.
const TYPE: &str = "V4_8";
/// Before and after each of these, dom0 asks what mgpu counts: batches that are waited for one by one, some that are not, and some
/// that wait behind one that takes long, and pictures as a user's driver draws them.
const COUNTED: &str = "sleep 4\nwork alone stores\nsleep 4\nwork stream stream\nsleep 4\nwork piled piled\nsleep 4\n\
                       work frames frames\nsleep 4\n";
/// As in `c/i915-work.c`: batches on four engines.
const ALONE: u64 = 4 * 10;
const STREAM: u64 = 4 * 32;
/// On one engine, with the one that takes long.
const PILED: u64 = 32 + 1;
/// Four a picture.
const FRAMES: u64 = 4 * 32;
/// Trapped accesses of a batch, at most: of all that run, and of each kind that is not waited for one by one. (One that is has nine of
/// its own with a stock driver, and what lets its engine sleep has more: docs/performance.md.)
const A_BATCH: f64 = 6.0;
/// Pages of registers that the guest reads in memory: their first bytes, in hexadecimal without the last three digits.
const IN_MEMORY: [&str; 2] = ["0x004", "0x044"];
/// Trapped accesses of the driver's probe and of its first work, at most.
const TRAPS: u64 = 4000;

impl Scenario for I915Pvh {
    fn name(&self) -> &'static str {
        "i915-pvh"
    }

    fn about(&self) -> &'static str {
        "a stock i915 binds to mgpu's vGPU in a stock Debian guest, and runs work on four engines"
    }

    fn machine(&self) -> Machine {
        machine()
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        install(kit, files, Kind::Pvh, &format!("work first\n{COUNTED}paint painter 3\n"))?;
        let picture = painting::taken("stock", "/run/mgpu");
        let options = format!(
            "--type {TYPE} --deadline-ms {} --out /results/pictures --control /run/mgpu",
            painting::DEADLINE_MS
        );
        let counted: String = ["first", "alone", "stream", "piled", "frames"]
            .map(|work| {
                format!(
                    "spoke stock 300 '{work} work done'\nsleep 1\nrecord {work} mgpu ask /run/mgpu status\n\
                     record {work}-accesses mgpu ask /run/mgpu accesses\n"
                )
            })
            .concat();
        let meanwhile = format!("{counted}spoke stock 300 'painter pictures'\n{picture}");
        Ok(script_while("", &options, &meanwhile))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let (log, out) = recorded(run, checks);
        bound(&log, &[], checks);
        worked(&log, "first", checks);
        checks.equal("painter: its pictures are right", said(&log, "painter pictures "), Some("3 wrong 0"));
        painting::shown(run, "stock", "painter", "pictures", checks);
        interrupted(&log, 40, checks);
        did(&log, "alone", STORES, checks);
        did(&log, "stream", STREAMS, checks);
        did(&log, "piled", &["piled BCS"], checks);
        did(&log, "frames", &["frames BCS"], checks);
        a_batch(run, checks);
        served(run, &out, checks);
        Ok(())
    }
}

/// Trapped accesses from one look to the next, in which so many batches ran, by their number: all of the driver's, also those
/// by which it wakes its GPU before and lets it sleep afterwards.
fn a_batch(run: &Run, checks: &mut Checks) {
    let counted = |name: &str| status(&run.text(&format!("{name}.out")), "mmio");
    let each = |from: &str, to: &str, batches: u64| {
        let accesses = counted(to)?.checked_sub(counted(from)?)?;
        Some(accesses as f64 / batches as f64)
    };
    let kinds = [
        ("each waited for", "first", "alone", ALONE, None),
        ("not waited for", "alone", "stream", STREAM, Some(A_BATCH)),
        ("behind one that takes long", "stream", "piled", PILED, Some(A_BATCH)),
        ("of a picture's four", "piled", "frames", FRAMES, Some(A_BATCH)),
        ("of all", "first", "frames", ALONE + STREAM + PILED + FRAMES, Some(A_BATCH)),
    ];
    for (which, from, to, batches, most) in kinds {
        let traps = each(from, to, batches);
        checks.figure(format!("i915: trapped accesses a batch, {which}"), traps.unwrap_or(f64::MAX));
        if let Some(most) = most {
            checks.that(
                traps.is_some_and(|n| n <= most),
                format!("a batch, {which}, traps at most {most} times ({traps:?})"),
            );
        }
    }
    let [reads, writes] = in_memory(&run.text("frames-accesses.out"));
    checks.that(
        reads == 0 && writes > 0,
        format!("of registers that are memory writes trap ({writes}), and no read ({reads})"),
    );
}

/// Trapped reads and writes of registers that the guest reads in memory. A line says a register's offset, and how often it was read
/// and written.
fn in_memory(accesses: &str) -> [u64; 2] {
    accesses.lines().filter(|line| IN_MEMORY.iter().any(|page| line.starts_with(page))).fold(
        [0, 0],
        |sum, line| {
            let mut counts = line.split_whitespace().skip(1).map_while(|n| n.parse::<u64>().ok());
            sum.map(|n| n + counts.next().unwrap_or(0))
        },
    )
}

/// What mgpu counts: the traps until the first program's end, the rest when it ends.
fn served(run: &Run, out: &str, checks: &mut Checks) {
    checks.that(figure(out, "completions") >= Some(41), "mgpu counts the guest's contexts");
    let traps = status(&run.text("first.out"), "mmio");
    checks.that(traps.is_some_and(|n| n <= TRAPS), format!("at most {TRAPS} accesses trap ({traps:?})"));
    checks.figure("i915: trapped accesses of probe and first work", traps.unwrap_or(u64::MAX) as f64);
    none(out, &["refusals", "overruns", "resets", "unknown_registers", "pte_writes"], checks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trapped_read_of_what_is_memory_is_found_out() {
        let accesses = "0x022230        0      248 BCS RING_ELSP\n0x044200        0      474 GEN8_MASTER_IRQ\n\
            0x0223a0       68        6 BCS RING_CONTEXT_STATUS_PTR\n0x004024        0        1 \n";
        assert_eq!(in_memory(accesses), [0, 475]);
        assert_eq!(in_memory(&accesses.replace("0x004024        0", "0x004024        3")), [3, 475]);
        assert_eq!(in_memory(""), [0, 0]);
    }
}
