//! Who runs: a thread an engine, which gives the vGPUs that have work their turns, one submission each.
//!
//! No one's turn is longer than the deadline: an engine that has not come back by then is reset, and only the
//! context that was on it is banned. Idle vGPUs cost nobody anything.
//!
//! Lock order: an engine's `queue` is taken with no other lock held and never while calling the GPU, whose
//! interrupts take it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::guest::Vgpu;
use super::workload::{EngineArea, PrepareError, Prepared};
use crate::gen8::context::{
    CSB_ACTIVE_TO_IDLE, CSB_COMPLETE, CSB_ELEMENT_SWITCH, CSB_IDLE_TO_ACTIVE, CSB_PREEMPTED, Descriptor,
};
use crate::gen8::regs::GT_CONTEXT_SWITCH_INTERRUPT;
use crate::physical::{Engine, Interrupt, InterruptSink, PhysicalGpu};
use crate::privilege::{ThreadKind, narrow};
use crate::vgpu::{Submission, VgpuId};

/// How long an engine may take to stop.
const RESET_DEADLINE: Duration = Duration::from_secs(1);
/// How often a reset is tried before the engine is given up.
const RESET_TRIES: u32 = 3;

/// The scheduler: what vGPUs and the GPU's interrupts reach.
#[derive(Debug)]
pub(super) struct Scheduler {
    engines: [EngineQueue; 4],
    /// Number of the last context submitted: each has its own, so that no late news is mistaken.
    contexts: AtomicU32,
}

#[derive(Debug, Default)]
struct EngineQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Arc<Vgpu>>,
    /// Whose turn it is.
    current: Option<VgpuId>,
    /// What is on the engine for it must stop.
    stop: bool,
    /// The engine said that something happened, so often.
    news: u64,
    /// The engine said that it met an error.
    error: bool,
    /// No more turns.
    closed: bool,
}

/// What became of a context on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Error,
    Overrun,
    Stopped,
}

impl Scheduler {
    pub(super) fn new() -> Self {
        Self { engines: Default::default(), contexts: AtomicU32::new(0) }
    }

    fn engine(&self, e: Engine) -> &EngineQueue {
        let [rcs, bcs, vcs, vecs] = &self.engines;
        match e {
            Engine::Rcs => rcs,
            Engine::Bcs => bcs,
            Engine::Vcs => vcs,
            Engine::Vecs => vecs,
        }
    }

    /// A vGPU has work for an engine.
    pub(super) fn ready(&self, e: Engine, vgpu: &Arc<Vgpu>) {
        let engine = self.engine(e);
        let mut queue = engine.queue.lock();
        if !queue.closed && !queue.ready.iter().any(|v| Arc::ptr_eq(v, vgpu)) {
            queue.ready.push_back(vgpu.clone());
            engine.changed.notify_all();
        }
    }

    /// Stops what runs on an engine for a vGPU. Does not wait.
    pub(super) fn stop(&self, e: Engine, id: VgpuId) {
        let engine = self.engine(e);
        let mut queue = engine.queue.lock();
        if queue.current == Some(id) {
            queue.stop = true;
            engine.changed.notify_all();
        }
    }

    /// Waits until it is not the vGPU's turn on any engine. The vGPU is retired, so that no turn begins after.
    pub(super) fn drain(&self, id: VgpuId) {
        for engine in &self.engines {
            let mut queue = engine.queue.lock();
            queue.ready.retain(|v| v.id() != id);
            while queue.current == Some(id) {
                engine.changed.wait(&mut queue);
            }
        }
    }

    /// Ends the threads after the turn they are in, which is cut short.
    pub(super) fn close(&self) {
        for engine in &self.engines {
            let mut queue = engine.queue.lock();
            queue.closed = true;
            queue.stop = true;
            queue.ready.clear();
            engine.changed.notify_all();
        }
    }

    fn next_context(&self) -> u32 {
        // 20 bits, as i915 uses; 0 is left out.
        self.contexts.fetch_add(1, Ordering::Relaxed) % 0xf_ffff + 1
    }
}

impl InterruptSink for Scheduler {
    fn interrupt(&self, irq: Interrupt) {
        let (e, error) = match irq {
            Interrupt::Error(e) => (e, true),
            Interrupt::User(e) | Interrupt::ContextSwitch(e) => (e, false),
        };
        let engine = self.engine(e);
        let mut queue = engine.queue.lock();
        queue.news = queue.news.wrapping_add(1);
        queue.error |= error;
        engine.changed.notify_all();
    }
}

/// What an engine's thread owns.
pub(super) struct Worker {
    pub(super) engine: Engine,
    pub(super) gpu: Arc<dyn PhysicalGpu>,
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) area: EngineArea,
    pub(super) deadline: Duration,
}

impl Worker {
    pub(super) fn spawn(mut self) -> std::io::Result<JoinHandle<()>> {
        let name = format!("engine {}", self.engine.name());
        std::thread::Builder::new().name(name).spawn(move || self.run())
    }

    fn run(&mut self) {
        narrow(ThreadKind::Device);
        while let Some(vgpu) = self.next_turn() {
            let mut usable = true;
            if let Some((submission, epoch)) = vgpu.take_work(self.engine) {
                let turn = AssertUnwindSafe(|| self.submission(&vgpu, submission, epoch));
                usable = catch_unwind(turn).unwrap_or_else(|_| {
                    // A mistake of ours that this guest has found. It loses its context; the others go on.
                    log::error!("{}: a turn on {} panicked", vgpu.id(), self.engine.name());
                    vgpu.failed(self.engine, epoch, submission.first);
                    self.reset()
                });
                vgpu.work_ended(self.engine);
            }
            self.end_turn(vgpu);
            if !usable {
                log::error!("engine {} does not stop; it is not used any more", self.engine.name());
                self.queue().lock().closed = true;
            }
        }
    }

    fn queue(&self) -> &Mutex<Queue> {
        &self.scheduler.engine(self.engine).queue
    }

    /// Waits for a vGPU with work. `None`: no more turns.
    fn next_turn(&self) -> Option<Arc<Vgpu>> {
        let engine = self.scheduler.engine(self.engine);
        let mut queue = engine.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            match queue.ready.pop_front() {
                Some(vgpu) if !vgpu.is_retired() => {
                    queue.current = Some(vgpu.id());
                    queue.stop = false;
                    return Some(vgpu);
                }
                Some(_) => {}
                None => engine.changed.wait(&mut queue),
            }
        }
    }

    /// Ends a turn. Who waits for that finds that nothing of the vGPU's is held here any more: its domain can be served
    /// anew at once.
    fn end_turn(&self, vgpu: Arc<Vgpu>) {
        let next = Some(vgpu).filter(|v| v.has_work(self.engine));
        let engine = self.scheduler.engine(self.engine);
        let mut queue = engine.queue.lock();
        if let Some(vgpu) = next
            && !vgpu.is_retired()
            && !queue.closed
            && !queue.ready.iter().any(|v| Arc::ptr_eq(v, &vgpu))
        {
            queue.ready.push_back(vgpu);
        }
        queue.current = None;
        engine.changed.notify_all();
    }

    /// Executes one submission. `false`: the engine cannot be used any more.
    fn submission(&mut self, vgpu: &Vgpu, submission: Submission, epoch: u64) -> bool {
        let Submission { first, second } = submission;
        let elements = [Some((first, second.is_some())), second.map(|d| (d, false))];
        let mut begun = false;
        for (descriptor, more) in elements.into_iter().flatten() {
            let before = vgpu.on_engine(self.engine, epoch, Some(descriptor.id()));
            if !std::mem::replace(&mut begun, true) {
                // A context that hangs there is put aside for the new one.
                let status = if before.is_some() { CSB_PREEMPTED } else { CSB_IDLE_TO_ACTIVE };
                vgpu.push_status(self.engine, epoch, status, before.unwrap_or(descriptor.id()));
            }
            let context = self.context(vgpu, descriptor, epoch);
            // What its tables let go.
            vgpu.maintenance().drain(vgpu.ggtt().take_stale());
            match context {
                Ok(Some(prepared)) => self.complete(vgpu, epoch, descriptor, &prepared, more),
                Ok(None) => return true,
                Err(()) => return false,
            }
            vgpu.on_engine(self.engine, epoch, None);
        }
        true
    }

    /// Executes one context. `Ok(None)`: it did not complete and never will. `Err`: the engine is lost.
    fn context(&mut self, vgpu: &Vgpu, descriptor: Descriptor, epoch: u64) -> Result<Option<Prepared>, ()> {
        if vgpu.is_banned(self.engine, descriptor) {
            return Ok(None);
        }
        let id = self.scheduler.next_context();
        let mut prepared = self.area.prepare(vgpu.ggtt(), descriptor, id);
        if matches!(prepared, Err(PrepareError::Refused(_))) && vgpu.ggtt().is_lent() {
            // Entries that were absent are in no cache of hardware's, so that it needs no flush for them.
            vgpu.compare_table();
            prepared = self.area.prepare(vgpu.ggtt(), descriptor, id);
        }
        let (prepared, tables) = match prepared {
            Ok(prepared) => prepared,
            Err(PrepareError::Refused(refused)) => {
                vgpu.refused(self.engine, epoch, descriptor, refused);
                return Ok(None);
            }
            Err(e @ (PrepareError::NoPages(_) | PrepareError::Tables(_))) => {
                log::error!("{}: a context is dropped: {e}", vgpu.id());
                vgpu.failed(self.engine, epoch, descriptor);
                return Ok(None);
            }
        };
        vgpu.show_ring(self.engine, epoch, &prepared.guest, prepared.guest.head);
        vgpu.ggtt().flush_if_dirty();
        vgpu.stats().submissions.add(1);
        let end = self.execute(prepared.descriptor);
        if end == End::Complete {
            return Ok(Some(prepared));
        }
        vgpu.stats().resets.add(1);
        let stopped = self.reset();
        // An engine that has not stopped may go on using them.
        if stopped {
            drop(tables)
        } else {
            std::mem::forget(tables)
        }
        match end {
            End::Complete | End::Stopped => {}
            End::Error => vgpu.stats().gpu_errors.add(1),
            End::Overrun => vgpu.stats().overruns.add(1),
        }
        if end != End::Stopped {
            log::info!("{}: a context on {} was ended: {end:?}", vgpu.id(), self.engine.name());
            vgpu.failed(self.engine, epoch, descriptor);
        }
        if stopped { Ok(None) } else { Err(()) }
    }

    /// Submits, and waits for the end.
    fn execute(&self, descriptor: Descriptor) -> End {
        let engine = self.scheduler.engine(self.engine);
        let deadline = Instant::now() + self.deadline;
        let mut seen = engine.queue.lock().news;
        self.gpu.submit(self.engine, descriptor.0, None);
        loop {
            let complete = |e: &crate::physical::CsbEntry| e.context_id == descriptor.id() && e.complete();
            if self.gpu.take_csb(self.engine).iter().any(complete) {
                return End::Complete;
            }
            let mut queue = engine.queue.lock();
            if queue.stop {
                return End::Stopped;
            }
            if queue.error {
                return End::Error;
            }
            if queue.news == seen && engine.changed.wait_until(&mut queue, deadline).timed_out() {
                return End::Overrun;
            }
            seen = queue.news;
        }
    }

    /// Stops the engine and forgets what it said. `false`: it did not stop.
    fn reset(&self) -> bool {
        let stopped = (0..RESET_TRIES).any(|_| match self.gpu.reset_engine(self.engine, RESET_DEADLINE) {
            Ok(()) => true,
            Err(e) => {
                log::warn!("{e}");
                false
            }
        });
        self.gpu.take_csb(self.engine);
        self.queue().lock().error = false;
        stopped
    }

    /// Tells the guest that a context ran to its tail: image, status entry, then the interrupt.
    fn complete(&self, vgpu: &Vgpu, epoch: u64, descriptor: Descriptor, prepared: &Prepared, more: bool) {
        vgpu.stats().completions.add(1);
        self.area.finish(vgpu.ggtt(), prepared);
        vgpu.show_ring(self.engine, epoch, &prepared.guest, prepared.guest.tail);
        let status = CSB_COMPLETE | if more { CSB_ELEMENT_SWITCH } else { CSB_ACTIVE_TO_IDLE };
        vgpu.push_status(self.engine, epoch, status, descriptor.id());
        vgpu.raise(self.engine, epoch, prepared.effects.interrupts | GT_CONTEXT_SWITCH_INTERRUPT);
    }
}
