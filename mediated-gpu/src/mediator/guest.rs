//! One vGPU, whole: its state, its shadow, what it asks of engines, what it is told.
//!
//! Locks: `state` is taken for the length of one register access or one report; an MSI is sent, work is announced and
//! memory is copied after it has been let go. What orders what the guest is told (`telling`) is taken before it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pviommu::{Draining, Mapped};
use xen_ioreq::{Gfn, PAGE_SIZE};

use super::accesses::{Accesses, RegisterAccesses};
use super::audit::Refused;
use super::maintenance::Maintenance;
use super::ppgtt::QUIET;
use super::saved::SavedEntries;
use super::scheduler::{Policy, Scheduler, Share};
use super::shadow::ShadowGgtt;
use super::shown::Registers;
use super::stats::{Snapshot, Stats};
use super::sweeping::Sweeping;
use super::telling::Teller;
use super::timetable::Timed;
use super::tracker::PageTracker;
use super::workload::GuestContext;
use crate::gen8::context::{CSB_LITE_RESTORE, CSB_PREEMPTED, Descriptor};
use crate::gen8::fence;
use crate::gen8::gtt::{GTT_OFFSET, PTE_SIZE};
use crate::gen8::ppgtt::Root;
use crate::gen8::regs::{self, GRDOM_FULL, gt};
use crate::physical::Engine;
use crate::vgpu::display::{MAX_SIDE, PIXEL_BYTES, Scanout, Surface, SurfaceError};
use crate::vgpu::saved::SavedState;
use crate::vgpu::slice::Slice;
use crate::vgpu::{Effect, EngineError, State, Turn, VgpuId};

/// How long a read of the reset register waits for an engine that is being stopped: as long as that may take. Hardware takes
/// microseconds, and a driver gives it half a millisecond (i915 `gen6_hw_domain_reset`) before it resets more than the one
/// engine; time in which its vCPU waits is none that it sees.
const RESET_READ_WAIT: Duration = Duration::from_secs(1);

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

    /// A read of 1 to 8 bytes of BAR0. Never fails: what nobody knows reads as ones.
    pub fn mmio_read(&self, offset: u32, size: u32) -> u64 {
        self.stats.mmio_accesses.add(1);
        if offset >= GTT_OFFSET {
            return self.ggtt.read_table(offset - GTT_OFFSET, size);
        }
        self.accesses.add(offset, false);
        if State::asks(offset) {
            self.tell_who_asks();
        }
        let mut state = self.state.lock();
        let mut unknown = |e| self.count(e);
        let value = state.read(offset, size, &mut unknown);
        if offset == gt::GDRST && value != 0 {
            state.wait_for(&self.reset_done, RESET_READ_WAIT);
            return state.read(offset, size, &mut unknown);
        }
        value
    }

    /// A write of 1 to 8 bytes of BAR0. Never fails: what nobody knows takes nothing.
    pub fn mmio_write(self: &Arc<Self>, offset: u32, size: u32, value: u64) {
        self.stats.mmio_accesses.add(1);
        if offset >= GTT_OFFSET {
            let mut draining = Vec::new();
            self.ggtt.write_table(offset - GTT_OFFSET, size, value, &mut draining);
            return self.maintenance.drain(draining);
        }
        self.accesses.add(offset, true);
        if State::asks(offset) {
            self.tell_who_asks();
        }
        let mut effects = Vec::new();
        self.state.lock().write(offset, size, value, &mut |e| effects.push(e));
        effects.into_iter().for_each(|e| self.act(e));
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

    fn act(self: &Arc<Self>, effect: Effect) {
        self.count(effect);
        match effect {
            Effect::Work(e) => self.scheduler.ready(e, self),
            Effect::Stop(e) => self.scheduler.stop(e, self.id),
            Effect::Interrupt => self.interrupt(),
            Effect::FlushGgtt => {
                self.compare_table();
                self.ggtt.flush_if_dirty();
            }
            Effect::Notify(what, pointers) => self.notified(what, pointers),
            Effect::Reset(_) | Effect::Dropped(_) | Effect::Unknown(_) => {}
        }
    }

    /// A notification through PVINFO. Tables and contexts are looked at when they are submitted, so that one comes
    /// in time which says that something was made; what goes is let go at once.
    fn notified(&self, what: u32, pointers: [u64; 4]) {
        match what {
            regs::G2V_PPGTT_L3_DESTROY | regs::G2V_PPGTT_L4_DESTROY => {
                let four_level = what == regs::G2V_PPGTT_L4_DESTROY;
                self.ggtt.tables_destroyed(Root::of_pointers(four_level, pointers));
                self.maintenance.drain(self.ggtt.take_stale());
            }
            regs::G2V_PPGTT_L3_CREATE
            | regs::G2V_PPGTT_L4_CREATE
            | regs::G2V_EXECLIST_CONTEXT_CREATE
            | regs::G2V_EXECLIST_CONTEXT_DESTROY => {}
            _ => log::debug!("{}: nobody knows notification {what}", self.id),
        }
    }

    fn count(&self, effect: Effect) {
        match effect {
            Effect::Unknown(offset) => {
                self.stats.unknown_registers.add(1);
                log::trace!("{}: nobody knows register {offset:#x}", self.id);
            }
            Effect::Dropped(e) => {
                self.stats.dropped.add(1);
                log::debug!("{}: a submission to {} was dropped", self.id, e.name());
            }
            Effect::Reset(_) => self.stats.guest_resets.add(1),
            _ => {}
        }
    }

    /// A read of 1 to 8 bytes of the aperture: by the guest's fences, through the shadow, into the page. Ones where nothing
    /// is mapped.
    pub fn aperture_read(&self, offset: u64, size: u32) -> u64 {
        self.stats.aperture_accesses.add(1);
        let mut bytes = [0; 8];
        for (at, piece) in self.aperture_pieces(offset, size) {
            if let Some(part) = bytes.get_mut(piece)
                && (!self.owns(at, part.len()) || self.ggtt.read(at, part).is_err())
            {
                part.fill(0xff);
            }
        }
        u64::from_le_bytes(bytes)
    }

    /// A write of 1 to 8 bytes of the aperture. Ignored where nothing is mapped.
    pub fn aperture_write(&self, offset: u64, size: u32, value: u64) {
        self.stats.aperture_accesses.add(1);
        let bytes = value.to_le_bytes();
        for (at, piece) in self.aperture_pieces(offset, size) {
            if let Some(part) = bytes.get(piece)
                && self.owns(at, part.len())
                && self.ggtt.write(at, part).is_err()
            {
                log::trace!("{}: write to unmapped aperture at {at:#x}", self.id);
            }
        }
    }

    /// Where the bytes of an access to the aperture lie in graphics memory.
    fn aperture_pieces(&self, offset: u64, size: u32) -> Vec<(u64, Range<usize>)> {
        let fences = self.state.lock().fences();
        fence::pieces(&fences, offset, usize::try_from(size.min(8)).unwrap_or(0)).collect()
    }

    /// Whether bytes behind the aperture are the guest's. If not, it is counted.
    fn owns(&self, at: u64, len: usize) -> bool {
        let own = self.ggtt.slice().low.contains(at, len as u64);
        self.stats.foreign_accesses.add(u64::from(!own));
        own
    }

    /// From now on the guest's translation table is memory of its own, from this frame on: writes there do not trap, and are
    /// looked at when the guest flushes (`GFX_FLSH_CNTL`), as hardware does. For tables at another place this is called again.
    pub fn lend_table(&self, first: Gfn) {
        self.ggtt.lend_table(first);
    }

    /// From now on page tables of its contexts are not compared at each use while they are quiet: `tracker` tells when one is
    /// written. Without one, and where it cannot track a page, they are compared.
    pub fn track_tables(&self, tracker: Arc<dyn PageTracker>) {
        self.ggtt.track_tables(tracker, QUIET);
    }

    /// From now on a page of registers ([`PAGES`](crate::vgpu::shown::PAGES)) is this frame of the guest's too, and holds what they
    /// read as. `false`: the frame is not there.
    pub(super) fn show_registers(&self, page: usize, at: Gfn) -> bool {
        let Some(mapped) = self.ggtt.map_shown(at) else { return false };
        self.let_go(self.state.show(page, mapped));
        true
    }

    /// Whether there is such a frame of the guest's.
    pub(super) fn has_frame(&self, gfn: Gfn) -> bool {
        let mapped = self.ggtt.map_shown(gfn);
        let found = mapped.is_some();
        self.let_go(mapped.and_then(Mapped::put));
        found
    }

    /// Whether none of its entries lies behind the table's first `frames` frames.
    pub(super) fn leaves_room_behind(&self, frames: u32) -> bool {
        let entries = u64::from(frames) * (PAGE_SIZE as u64 / u64::from(PTE_SIZE));
        let Slice { low, high, .. } = self.slice();
        low.end().max(high.end()) <= entries * PAGE_SIZE as u64
    }

    /// From now on it is not.
    pub(super) fn hide_registers(&self, page: usize) {
        self.let_go(self.state.hide(page));
    }

    fn let_go(&self, draining: Option<Draining>) {
        self.maintenance.drain(draining.into_iter().collect());
    }

    pub(super) fn has_lent_table(&self) -> bool {
        self.ggtt.is_lent()
    }

    pub(super) fn compare_table(&self) {
        self.ggtt.compare_table();
        self.maintenance.drain(self.ggtt.take_stale());
    }

    /// An invalidation has arrived: the bus frame that is stale, or `!0` for "anything may be". Recorded, and
    /// answered at once; the work follows on the vGPU's own thread.
    pub fn invalidate(&self, data: u64) {
        self.stats.notices.add(1);
        self.maintenance.note(data);
    }

    /// Copies what the guest shows. The copy takes as long as it takes; the guest is not stopped for it.
    pub fn surface(&self) -> Result<Surface, SurfaceError> {
        let scanout = self.state.lock().scanout()?;
        Ok(copied(scanout, |at, row, missing| self.ggtt.read_present(at, row, missing)))
    }

    /// Copies a picture from the memory of a process of the guest's: of those that have memory there, the one that last gave the
    /// GPU work. It is in the pages that the GPU reached then, or in what has taken their place. At most [`MAX_SIDE`] pixels a
    /// side; `None` if there is no such process.
    pub fn process_surface(&self, picture: Scanout) -> Option<Surface> {
        let Scanout { width, height, stride, address } = picture;
        let lines = u64::from(height.saturating_sub(1)) * u64::from(stride);
        let bytes = lines.saturating_add(u64::from(width) * u64::from(PIXEL_BYTES));
        let last = address.saturating_add(bytes.saturating_sub(1));
        let root = self.ggtt.latest_process(address, last)?;
        Some(copied(picture, |at, row, missing| self.ggtt.read_process(root, at, row, missing)))
    }

    pub(super) fn interrupt(&self) {
        self.stats.interrupts.add(1);
        self.msi.interrupt();
    }

    // What follows is called by the scheduler's threads and by maintenance.

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

    /// Whether a turn may begin.
    pub(super) fn may_run(&self) -> bool {
        !self.retired.load(Ordering::SeqCst) && !self.paused.load(Ordering::SeqCst)
    }

    /// How long its contexts may run, if that has been said.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.share.lock().deadline
    }

    /// It has had an engine for so long.
    pub(super) fn had(&self, e: Engine, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(had) = self.had.get(e.index()) {
            had.fetch_add(nanos, Ordering::Relaxed);
        }
        self.stats.busy_us.add(nanos / 1000);
    }

    /// The vGPU goes: no turn begins any more, and what runs is stopped and waited for.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        Engine::ALL.into_iter().for_each(|e| self.scheduler.stop(e, self.id));
        self.scheduler.drain(self.id);
        self.scheduler.forget(self.id);
    }

    /// Waits until all invalidations that were announced, and all references that were put, have been carried out
    /// and released, or could not be. For tests and orderly ends; nothing in an access waits for it.
    pub fn settle(&self) {
        self.maintenance.settle();
    }

    pub(super) fn take_work(&self, e: Engine) -> Option<Turn> {
        self.state.lock().take(e)
    }

    /// Lets newer submissions of the context that runs take the place of what was submitted, and tells the guest. Whether it
    /// goes on under one.
    pub(super) fn lite_restore(&self, e: Engine, epoch: u64, running: Descriptor) -> bool {
        let (newer, goes_on) = {
            let mut state = self.state.lock();
            let engine = state.engine(e);
            if engine.epoch() != epoch {
                return false;
            }
            (engine.lite_restore(running), engine.goes_on())
        };
        for _ in 0..newer {
            // No interrupt: it comes with what is done, and a driver that has more to submit looks before.
            self.push_status(e, epoch, CSB_LITE_RESTORE | CSB_PREEMPTED, running.id());
        }
        goes_on
    }

    /// The next turn, to follow one of this epoch that runs.
    pub(super) fn take_behind(&self, e: Engine, epoch: u64, after_all: bool) -> Option<Turn> {
        self.state.lock().engine(e).take_behind(epoch, after_all)
    }

    pub(super) fn put_back(&self, e: Engine, turn: Turn) {
        self.state.lock().engine(e).put_back(turn);
    }

    /// Whether what was submitted in an epoch may begin: no reset has come since.
    pub(super) fn is_of_now(&self, e: Engine, epoch: u64) -> bool {
        self.state.lock().engine(e).epoch() == epoch
    }

    pub(super) fn work_ended(&self, e: Engine) {
        self.state.lock().ended(e);
        self.reset_done.notify_all();
    }

    pub(super) fn has_work(&self, e: Engine) -> bool {
        self.state.lock().engine(e).has_work()
    }

    pub(super) fn is_banned(&self, e: Engine, context: Descriptor) -> bool {
        self.state.lock().engine(e).is_banned(context.lrca())
    }

    /// Sets the context that the guest believes is on the engine; returns the one before.
    pub(super) fn on_engine(&self, e: Engine, epoch: u64, id: Option<u32>) -> Option<u32> {
        let mut state = self.state.lock();
        let engine = state.engine(e);
        if engine.epoch() != epoch {
            return None;
        }
        let before = engine.active();
        engine.set_active(id);
        before
    }

    pub(super) fn show_ring(&self, e: Engine, epoch: u64, context: &GuestContext, head: u32) {
        let GuestContext { tail, start, control, .. } = *context;
        self.state.lock().show_ring(e, epoch, head, tail, start, control);
    }

    /// The audit refused a context.
    pub(super) fn refused(&self, e: Engine, epoch: u64, context: Descriptor, refused: Refused) {
        self.stats.refusals.add(1);
        let Refused { why, header, addr } = refused;
        log::info!("{}: {} at {addr:#x}, command {header:#010x}: {why}", self.id, e.name());
        self.ban(e, epoch, context, EngineError { header, address: addr });
    }

    /// A context did not come to its end.
    pub(super) fn failed(&self, e: Engine, epoch: u64, context: Descriptor) {
        self.ban(e, epoch, context, EngineError::default());
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

/// A picture, read line by line with `read(address, line, missing page)`.
fn copied(picture: Scanout, read: impl Fn(u64, &mut [u8], &mut dyn FnMut(u64))) -> Surface {
    let Scanout { width, height, stride, address } = picture;
    let line = width.min(MAX_SIDE) as usize * PIXEL_BYTES as usize;
    let mut bgrx = vec![0; line * height.min(MAX_SIDE) as usize];
    let mut missing = std::collections::BTreeSet::new();
    for (y, row) in (0u64..).zip(bgrx.chunks_exact_mut(line.max(1))) {
        let start = address.saturating_add(y * u64::from(stride));
        read(start, row, &mut |page| {
            missing.insert(page);
        });
    }
    let missing_pages = u32::try_from(missing.len()).unwrap_or(u32::MAX);
    Surface { width, height, bgrx, missing_pages }
}

impl std::fmt::Debug for Vgpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vgpu").field("id", &self.id).field("ggtt", &self.ggtt).finish_non_exhaustive()
    }
}
