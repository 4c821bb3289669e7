//! Which processor a thread runs on.
//!
//! What two threads take to wake each other depends several times more on whether they share a processor than on what they
//! do, and the scheduler decides that anew now and then. So both sides of such a ratio are told where to run.

use std::fs;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Where the calling thread may run, put back when this is dropped.
pub(crate) struct Processors(CpuSet);

impl Processors {
    /// Where the calling thread may run now.
    pub(crate) fn of_this_thread() -> Result<Self, String> {
        sched_getaffinity(None).map(Self).map_err(|e| format!("sched_getaffinity: {e}"))
    }

    /// Two of them.
    pub(crate) fn two(&self) -> Result<[usize; 2], String> {
        let mut all = (0..CpuSet::MAX_CPU).filter(|cpu| self.0.is_set(*cpu));
        match (all.next(), all.next()) {
            (Some(a), Some(b)) => Ok([a, b]),
            _ => Err("two threads that wait for each other need two processors".into()),
        }
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Makes the calling thread run on `cpu` alone.
pub(crate) fn stay_on(cpu: usize) -> Result<(), String> {
    sched_setaffinity(None, &only(cpu)).map_err(|e| format!("sched_setaffinity to {cpu}: {e}"))
}

/// Makes those of this process's threads whose names begin so run on `cpu` alone. How many there are.
pub(crate) fn named_stay_on(name: &str, cpu: usize) -> Result<usize, String> {
    let mut moved = 0;
    for task in fs::read_dir("/proc/self/task").map_err(|e| format!("/proc/self/task: {e}"))? {
        let task = task.map_err(|e| e.to_string())?.path();
        // One that has ended meanwhile has no name.
        if !fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name)) {
            continue;
        }
        let id = task.file_name().and_then(|n| n.to_str()?.parse().ok()).and_then(Pid::from_raw);
        let id = id.ok_or_else(|| format!("{}: no thread's number", task.display()))?;
        sched_setaffinity(Some(id), &only(cpu)).map_err(|e| format!("sched_setaffinity of {name}: {e}"))?;
        moved += 1;
    }
    Ok(moved)
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}
