//! One vGPU, whole: its state, its shadow, what it asks of engines, what it is told.
//!
//! Locks: `state` is taken for the length of one register access or one report; an MSI is sent, work is announced and
//! memory is copied after it has been let go. What orders what the guest is told (`telling`) is taken before it.

mod bars;
mod memory;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use xen_ioreq::Gfn;

use super::accesses::{Accesses, RegisterAccesses};
use super::maintenance::Maintenance;
use super::saved::SavedEntries;
use super::scheduler::{Policy, Scheduler, Share};
use super::shadow::ShadowGgtt;
use super::shown::Registers;
use super::stats::{Snapshot, Stats};
use super::sweeping::Sweeping;
use super::telling::Teller;
use super::timetable::Timed;
use crate::gen8::regs::{GRDOM_FULL, gt};
use crate::physical::Engine;
use crate::vgpu::VgpuId;
use crate::vgpu::saved::SavedState;
use crate::vgpu::slice::Slice;

/// What sends a vGPU's interrupt to its guest. Called without locks, on engine threads and on vCPU paths.
pub trait MsiSink: Send + Sync {
    /// An interrupt is due. Whether MSI is enabled, and where it goes, is for the PCI function to know.
    fn interrupt(&self);
}

/// A vGPU's use of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// How long it has had it: from the choice of a context to the end of it, so that the audit counts.
    pub had: Duration,
    /// How long it has had work for it, waiting or running.
    pub wanted: Duration,
    /// Since it was made.
    pub of: Duration,
    /// What it may have at most now, in parts in a million. `None`: all of it.
    pub limit: Option<u32>,
}

/// One guest's GPU.
pub struct Vgpu {
    id: VgpuId,
    state: Registers,
    /// An engine that a guest's reset had to stop has stopped.
    reset_done: Condvar,
    ggtt: ShadowGgtt,
    stats: Arc<Stats>,
    accesses: Accesses,
    msi: Box<dyn MsiSink>,
    teller: Teller,
    sweeping: Sweeping,
    scheduler: Arc<Scheduler>,
    maintenance: Maintenance,
    /// No turn may begin, ever again.
    retired: AtomicBool,
    /// No turn may begin for now.
    paused: AtomicBool,
    share: Mutex<Share>,
    /// When it was made, by the scheduler's clock.
    since: Duration,
    /// Nanoseconds that it has had each engine.
    had: [AtomicU64; 4],
}

impl Vgpu {
    #[expect(clippy::too_many_arguments, reason = "the parts of a vGPU, put together in one place")]
    pub(super) fn new(
        id: VgpuId,
        state: Registers,
        ggtt: ShadowGgtt,
        stats: Arc<Stats>,
        msi: Box<dyn MsiSink>,
        teller: Teller,
        sweeping: Sweeping,
        scheduler: Arc<Scheduler>,
        maintenance: Maintenance,
        share: Share,
    ) -> Self {
        scheduler.set_share(id, share);
        Self {
            id,
            state,
            reset_done: Condvar::new(),
            ggtt,
            stats,
            accesses: Accesses::default(),
            msi,
            teller,
            sweeping,
            since: scheduler.now(),
            scheduler,
            maintenance,
            retired: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            share: Mutex::new(share),
            had: Default::default(),
        }
    }

    /// The vGPU's number.
    pub fn id(&self) -> VgpuId {
        self.id
    }

    /// Its share of graphics memory.
    pub fn slice(&self) -> Slice {
        *self.ggtt.slice()
    }

    /// What it has done.
    pub fn statistics(&self) -> Snapshot {
        self.stats.snapshot()
    }

    /// How often its guest has accessed which registers, the most frequent first.
    pub fn accesses(&self) -> Vec<RegisterAccesses> {
        self.accesses.get()
    }

    /// Stops its work and resets it, as its driver does by writing to [`gt::GDRST`]. Does not wait for what runs.
    pub fn reset(self: &Arc<Self>) {
        self.mmio_write(gt::GDRST, 4, GRDOM_FULL.into());
    }

    /// From now on none of its work is taken up, and none runs when this returns: that may take twice as long as its deadline, since
    /// one context may stand behind the one that runs. Its guest finds the registers as before; what it submits waits.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        self.scheduler.pause(self.id, true);
        self.scheduler.drain(self.id);
        // A guest is saved or moved while its vGPU is paused, which Xen refuses with pages that are tracked.
        self.ggtt.let_tables_go();
        self.tell();
    }

    /// Its work goes on.
    pub fn resume(self: &Arc<Self>) {
        self.paused.store(false, Ordering::SeqCst);
        self.scheduler.pause(self.id, false);
        for e in Engine::ALL.into_iter().filter(|e| self.has_work(*e)) {
            self.scheduler.ready(e, self);
        }
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// What it is to have of each engine.
    pub fn share(&self) -> Share {
        *self.share.lock()
    }

    /// Changes that, from the next turn on. What makes no sense is made the nearest that does.
    pub fn set_share(&self, share: Share) {
        let share = share.sane();
        *self.share.lock() = share;
        self.scheduler.set_share(self.id, share);
    }

    /// How engines are shared.
    pub fn policy(&self) -> Policy {
        self.scheduler.policy()
    }

    /// What it has had of an engine, and what it may have.
    pub fn usage(&self, e: Engine) -> Usage {
        let nanos = self.had.get(e.index()).map_or(0, |had| had.load(Ordering::Relaxed));
        Usage {
            had: Duration::from_nanos(nanos),
            wanted: self.scheduler.wanted(e, self.id),
            of: self.scheduler.now().saturating_sub(self.since),
            limit: self.scheduler.limit(e, self.id),
        }
    }

    /// An invalidation has arrived: the bus frame that is stale, or `!0` for "anything may be". Recorded, and
    /// answered at once; the work follows on the vGPU's own thread.
    pub fn invalidate(&self, data: u64) {
        self.stats.notices.add(1);
        self.maintenance.note(data);
    }

    /// Waits until all invalidations that were announced, and all references that were put, have been carried out
    /// and released, or could not be. For tests and orderly ends; nothing in an access waits for it.
    pub fn settle(&self) {
        self.maintenance.settle();
    }

    pub(super) fn interrupt(&self) {
        self.stats.interrupts.add(1);
        self.msi.interrupt();
    }

    pub(super) fn state(&self) -> &Registers {
        &self.state
    }

    pub(super) fn teller(&self) -> &Teller {
        &self.teller
    }

    pub(super) fn sweeping(&self) -> &Sweeping {
        &self.sweeping
    }

    pub(super) fn ggtt(&self) -> &ShadowGgtt {
        &self.ggtt
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(super) fn maintenance(&self) -> &Maintenance {
        &self.maintenance
    }

    /// Its registers and engines.
    pub(super) fn save_state(&self) -> SavedState {
        self.state.lock().save()
    }

    /// Enters what was saved of its table, and goes on with what it was doing.
    pub(super) fn load(self: &Arc<Self>, table: &[SavedEntries], lent: Option<Gfn>) {
        self.ggtt.load(table);
        self.maintenance.drain(self.ggtt.take_stale());
        if let Some(first) = lent {
            self.lend_table(first);
        }
        for e in Engine::ALL.into_iter().filter(|e| self.has_work(*e)) {
            self.scheduler.ready(e, self);
        }
        // Whether it was told before is not known: once too often does no harm.
        let due = self.state.lock().interrupt_due();
        if due {
            self.interrupt();
        }
    }

    /// The vGPU goes: no turn begins any more, and what runs is stopped and waited for.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        Engine::ALL.into_iter().for_each(|e| self.scheduler.stop(e, self.id));
        self.scheduler.drain(self.id);
        self.scheduler.forget(self.id);
    }
}

/// What is done with a vGPU at times of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// It is told what was held.
    Tell,
    /// Some of its mappings are asked about.
    Sweep,
}

impl Timed for Vgpu {
    type Task = Task;

    fn do_in_time(&self, task: Task) -> Option<Instant> {
        match task {
            Task::Tell => {
                self.tell_in_time();
                None
            }
            Task::Sweep => self.sweep_in_time(Instant::now()),
        }
    }
}

impl std::fmt::Debug for Vgpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vgpu").field("id", &self.id).field("ggtt", &self.ggtt).finish_non_exhaustive()
    }
}
