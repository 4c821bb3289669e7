//! What must hold beside pictures and pages: nobody has more of the blitter than the policy allows, nobody is kept from what it
//! gives, and every notice has been carried out. And what the whole run came to, in a few lines.

use std::time::Duration;

use mediated_gpu::mediator::{Share, Snapshot, Usage};

use super::guests::Done;
use crate::cli::Schedule;

/// How far a share may be from what the policy says, as a part of it.
const TOLERANCE: f64 = 0.03;

/// What is wrong with a guest's use of the blitter, if a policy with limits says anything about it. One that does harm may
/// have less than it wants.
pub(super) fn share(usage: Usage, schedule: Schedule, hostile: bool) -> Option<String> {
    let Usage { had, wanted, of, limit } = usage;
    let rate = f64::from(limit?) / 1e6;
    // No turn is interrupted before its deadline, and what was missed before is made up for.
    let once = Duration::from_millis(schedule.deadline_ms + schedule.slice_ms) + Share::MADE_UP;
    let [had, wanted, of, once] = [had, wanted, of, once].map(|d| d.as_secs_f64());
    let (most, least) = (rate * of, rate * wanted);
    if had > most * (1.0 + TOLERANCE) + once {
        return Some(format!("it had {had:.2} s of the blitter, and may have {most:.2} s"));
    }
    if !hostile && had < least * (1.0 - TOLERANCE) - once {
        return Some(format!(
            "it had {had:.2} s of the blitter in the {wanted:.2} s in which it wanted it, which are worth {least:.2} s"
        ));
    }
    None
}

/// What is wrong with what became of the notices to a guest's vGPU, when no more can come and all should be settled.
pub(super) fn notices(vgpu: &Snapshot) -> Option<String> {
    let (came, done) = (vgpu.notices, vgpu.invalidations);
    (came != done).then(|| format!("{came} notices came, {done} were carried out"))
}

/// What was sent against what came.
pub(super) fn sent(sent: u64, done: &[Done]) -> Option<String> {
    let came: u64 = done.iter().map(|g| g.requests.invalidate).sum();
    (sent != came).then(|| format!("{sent} notices were sent, {came} came"))
}

/// What all that means harm have done, those of their vGPUs that were taken away included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Harm {
    pub(super) unplugged: u64,
    submissions: u64,
    refusals: u64,
    overruns: u64,
    errors: u64,
    resets: u64,
    pte_writes: u64,
    invalidations: u64,
}

impl Harm {
    /// One more vGPU has come to its end.
    pub(super) fn add(&mut self, vgpu: &Snapshot) {
        self.submissions += vgpu.submissions;
        self.refusals += vgpu.refusals;
        self.overruns += vgpu.overruns;
        self.errors += vgpu.gpu_errors;
        self.resets += vgpu.resets;
        self.pte_writes += vgpu.pte_writes;
        self.invalidations += vgpu.invalidations;
    }
}

/// What the run came to.
pub(super) fn summary(done: &[Done], resident: [u64; 2]) -> String {
    let (bad, good): (Vec<_>, Vec<_>) = done.iter().partition(|g| g.hostile);
    let sum = |f: fn(&Done) -> u64| good.iter().map(|g| f(g)).sum::<u64>();
    let mut out = format!(
        "{} guests drew {} frames and compared each of them; {} pages went out and came back, {} notices were carried out, \
         {} resets\n",
        good.len(),
        sum(|g| g.report.frames_drawn.into()),
        sum(|g| g.report.ballooned_out),
        sum(|g| g.vgpu.invalidations),
        sum(|g| g.report.resets.into()),
    );
    let harm = |f: fn(&Harm) -> u64| bad.iter().map(|g| f(&g.harm)).sum::<u64>();
    if !bad.is_empty() {
        out += &format!(
            "{} hostile ones: {} entries written, {} contexts given to the GPU, {} refused, {} stopped at their deadline, \
             {} ended by an error, {} resets, {} notices carried out; {} times a vGPU was taken away while it worked\n",
            bad.len(),
            harm(|h| h.pte_writes),
            harm(|h| h.submissions),
            harm(|h| h.refusals),
            harm(|h| h.overruns),
            harm(|h| h.errors),
            harm(|h| h.resets),
            harm(|h| h.invalidations),
            harm(|h| h.unplugged),
        );
    }
    let [early, late] = resident;
    out += &format!("resident memory: {early} MiB after the first tenth, {late} MiB at the end\n");
    out
}

/// What this process has resident, in MiB; 0 where nobody says.
pub(super) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    (pages * xen_ioreq::PAGE_SIZE as u64) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::PolicyName;

    const SCHEDULE: Schedule = Schedule { policy: PolicyName::EqualShare, slice_ms: 2, deadline_ms: 1000 };

    fn used(had: u64, wanted: u64, limit: Option<u32>) -> Usage {
        let [had, wanted, of] = [had, wanted, 600].map(Duration::from_secs);
        Usage { had, wanted, of, limit }
    }

    #[test]
    fn who_has_more_than_it_may_or_less_than_it_is_given_is_named() {
        // A fifteenth of ten minutes is 40 seconds.
        let fifteenth = Some(1_000_000 / 15);
        assert_eq!(share(used(40, 600, fifteenth), SCHEDULE, false), None);
        assert!(share(used(44, 600, fifteenth), SCHEDULE, true).is_some_and(|s| s.contains("44.00 s")));
        assert!(share(used(36, 600, fifteenth), SCHEDULE, false).is_some_and(|s| s.contains("36.00 s")));
        assert_eq!(share(used(36, 600, fifteenth), SCHEDULE, true), None, "harm brings nothing");
        assert_eq!(share(used(10, 100, fifteenth), SCHEDULE, false), None, "it wanted no more");
        assert_eq!(share(used(500, 600, None), SCHEDULE, true), None, "there is no limit");
    }

    #[test]
    fn a_notice_that_was_not_carried_out_is_told() {
        let one = Snapshot { notices: 3, invalidations: 2, ..Snapshot::default() };
        assert_eq!(notices(&one).as_deref(), Some("3 notices came, 2 were carried out"));
        assert_eq!(notices(&Snapshot { invalidations: 3, ..one }), None);
    }
}
