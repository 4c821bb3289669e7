//! Letting go of frames: a thread a vGPU, which carries out invalidations and releases what nobody refers to.
//!
//! A notice is urgent. References that were merely put wait for company, so that a guest that rewrites its table
//! does not cost a flush an entry; with too many waiting, their writer waits too. A notice that
//! names nothing has all mappings asked about: it waits as long as that took the last time, since they come in hundreds.
//! With nothing to do the thread sleeps: what goes without a notice is for the [sweep](super::sweeping) to find.
//!
//! Order: no new references, entries to scratch, flush, release. The types of `pviommu` hold us to it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pviommu::{Draining, EVERYTHING, Guest};

use super::guest::Vgpu;
use super::shadow::ShadowGgtt;
use crate::privilege::{ThreadKind, narrow};

/// How many references wait for each other at most.
const COMPANY: usize = 64;
/// How many wait before their writer does.
const CROWD: usize = 4096;
/// How long a writer waits at most.
const CROWD_WAIT: Duration = Duration::from_millis(100);
/// How long a reference waits for company, and a release that failed for its next try.
const PATIENCE: Duration = Duration::from_millis(1);
/// Notices whose time of arrival is kept; there are never more than vCPUs and ring slots can bring at once.
const NOTICES: usize = 4096;
/// How long a round at most is put off that has to ask about everything.
const BREATH: Duration = Duration::from_secs(1);
/// Rounds in which a vGPU that goes must have let go of everything.
const LAST_ROUNDS: u32 = 100;

/// What the thread is told. The lock is held for moments, with no other taken.
pub(super) struct Maintenance {
    frames: Guest,
    todo: Mutex<Todo>,
    changed: Condvar,
}

/// What a round is to do.
struct Round {
    /// When the notices came that it carries out.
    came: VecDeque<Instant>,
    draining: Vec<Draining>,
}

#[derive(Debug)]
struct Todo {
    /// Rounds for notices that name nothing begin then.
    breathe_until: Instant,
    /// One that names a frame waits.
    named: bool,
    /// When the notices came that have not been carried out.
    notices: VecDeque<Instant>,
    /// What is draining, since when the longest.
    draining: Vec<Draining>,
    since: Option<Instant>,
    /// Rounds begun and done.
    begun: u64,
    done: u64,
    closed: bool,
}

impl Maintenance {
    pub(super) fn new(frames: Guest) -> Self {
        let todo = Todo {
            breathe_until: Instant::now(),
            named: false,
            notices: VecDeque::new(),
            draining: Vec::new(),
            since: None,
            begun: 0,
            done: 0,
            closed: false,
        };
        Self { frames, todo: Mutex::new(todo), changed: Condvar::new() }
    }

    /// Records an invalidation.
    pub(super) fn note(&self, data: u64) {
        let now = Instant::now();
        self.frames.notice(data);
        let mut todo = self.todo.lock();
        todo.named |= data != EVERYTHING;
        if todo.notices.len() < NOTICES {
            todo.notices.push_back(now);
        }
        self.changed.notify_all();
    }

    /// Takes over what is draining. Waits only if very much is.
    pub(super) fn drain(&self, draining: Vec<Draining>) {
        if draining.is_empty() {
            return;
        }
        let mut todo = self.todo.lock();
        let before = todo.draining.len();
        todo.draining.extend(draining);
        let after = todo.draining.len();
        if todo.since.is_none() || (before < COMPANY && after >= COMPANY) {
            todo.since.get_or_insert_with(Instant::now);
            self.changed.notify_all();
        }
        // A vCPU waits here, so not for ever, whatever holds the thread up.
        let crowded = |todo: &mut Todo| todo.draining.len() >= CROWD && !todo.closed;
        self.changed.wait_while_for(&mut todo, crowded, CROWD_WAIT);
    }

    /// Waits until what was announced or put before this call has been carried out, or could not be.
    pub(super) fn settle(&self) {
        let mut todo = self.todo.lock();
        let target = todo.begun + 1;
        while todo.done < target && !todo.closed {
            if todo.begun < target {
                todo.since = Some(Instant::now().checked_sub(PATIENCE).unwrap_or_else(Instant::now));
                self.changed.notify_all();
            }
            self.changed.wait(&mut todo);
        }
    }

    /// There is something to let go of that came with no call of these.
    pub(super) fn hurry(&self) {
        self.todo.lock().since.get_or_insert_with(Instant::now);
        self.changed.notify_all();
    }

    /// Ends the thread, after the round it is in.
    pub(super) fn close(&self) {
        self.todo.lock().closed = true;
        self.changed.notify_all();
    }

    /// Starts the thread.
    pub(super) fn spawn(vgpu: Arc<Vgpu>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("{} frames", vgpu.id())).spawn(move || {
            narrow(ThreadKind::Maintenance);
            let maintenance = vgpu.maintenance();
            while let Some(Round { came, draining }) = maintenance.next_round() {
                let began = Instant::now();
                let all = try_release(vgpu.ggtt(), draining);
                if !came.is_empty() {
                    maintenance.breathe(began.elapsed());
                }
                for at in came {
                    vgpu.stats().invalidated(at.elapsed());
                }
                // What registers are shown in may be another page now.
                drop(vgpu.state().lock());
                maintenance.end_round(all);
            }
        })
    }

    /// Waits until there is something to do. `None`: closed.
    fn next_round(&self) -> Option<Round> {
        let mut todo = self.todo.lock();
        loop {
            if todo.closed {
                return None;
            }
            if todo.named || todo.draining.len() >= COMPANY {
                break;
            }
            let notice = (!todo.notices.is_empty()).then_some(todo.breathe_until);
            // What failed is often a notice, which another came after.
            let company = todo.since.map(|since| (since + PATIENCE).max(todo.breathe_until));
            match [notice, company].into_iter().flatten().min() {
                Some(due) if due <= Instant::now() => break,
                Some(due) => {
                    self.changed.wait_until(&mut todo, due);
                }
                None => self.changed.wait(&mut todo),
            }
        }
        todo.begun += 1;
        todo.since = None;
        todo.named = false;
        Some(Round { came: std::mem::take(&mut todo.notices), draining: std::mem::take(&mut todo.draining) })
    }

    /// Carrying notices out took that long.
    fn breathe(&self, took: Duration) {
        self.todo.lock().breathe_until = Instant::now() + took.min(BREATH);
    }

    fn end_round(&self, all: bool) {
        let mut todo = self.todo.lock();
        todo.done += 1;
        if !all {
            todo.since.get_or_insert_with(Instant::now);
        }
        self.changed.notify_all();
    }

    /// Lets go of everything, on the caller's thread, after the vGPU's own has ended. `false`: the hypervisor has not taken
    /// all back.
    pub(super) fn last_rounds(&self, ggtt: &ShadowGgtt) -> bool {
        let mut rest = std::mem::take(&mut self.todo.lock().draining);
        ggtt.close(&mut rest);
        (0..LAST_ROUNDS).any(|round| {
            if round > 0 {
                std::thread::sleep(PATIENCE);
            }
            try_release(ggtt, std::mem::take(&mut rest))
        })
    }
}

/// A round. A panic in it is a mistake of ours: what was in hand has gone back to its guest's list, for the next round.
fn try_release(ggtt: &ShadowGgtt, draining: Vec<Draining>) -> bool {
    catch_unwind(AssertUnwindSafe(|| ggtt.release(draining))).unwrap_or_else(|_| {
        log::error!("{ggtt:?}: a round of releases panicked");
        false
    })
}

impl std::fmt::Debug for Maintenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maintenance").field("todo", &self.todo).finish_non_exhaustive()
    }
}
