//! An engine's thread: takes the vGPU whose turn it is, runs one submission of its, says what became of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::shares::Next;
use super::{Queue, Scheduler};
use crate::gen8::context::{
    CSB_ACTIVE_TO_IDLE, CSB_COMPLETE, CSB_ELEMENT_SWITCH, CSB_IDLE_TO_ACTIVE, CSB_LITE_RESTORE,
    CSB_PREEMPTED, Descriptor,
};
use crate::gen8::regs::{GT_CONTEXT_SWITCH_INTERRUPT, engine as reg};
use crate::mediator::guest::Vgpu;
use crate::mediator::workload::{EngineArea, PrepareError, Prepared};
use crate::physical::{Engine, PhysicalGpu};
use crate::privilege::{ThreadKind, narrow};
use crate::vgpu::{Submission, Turn};

/// How long an engine may take to stop.
const RESET_DEADLINE: Duration = Duration::from_secs(1);
/// How often a reset is tried before the engine is given up.
const RESET_TRIES: u32 = 3;

/// What became of a context on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Error,
    Overrun,
    Stopped,
}

/// What an engine's thread owns.
pub(in crate::mediator) struct Worker {
    pub(in crate::mediator) engine: Engine,
    pub(in crate::mediator) gpu: Arc<dyn PhysicalGpu>,
    pub(in crate::mediator) scheduler: Arc<Scheduler>,
    pub(in crate::mediator) area: EngineArea,
    /// Of a vGPU that has none of its own.
    pub(in crate::mediator) deadline: Duration,
}

impl Worker {
    pub(in crate::mediator) fn spawn(mut self) -> std::io::Result<JoinHandle<()>> {
        let name = format!("engine {}", self.engine.name());
        std::thread::Builder::new().name(name).spawn(move || self.run())
    }

    fn run(&mut self) {
        narrow(ThreadKind::Device);
        while let Some((vgpu, began)) = self.next_turn() {
            let mut usable = true;
            if let Some(turn) = vgpu.take_work(self.engine) {
                let Turn { submission, epoch, .. } = turn;
                let work = AssertUnwindSafe(|| self.submission(&vgpu, turn));
                usable = catch_unwind(work).unwrap_or_else(|_| {
                    // A mistake of ours that this guest has found. It loses its context; the others go on.
                    log::error!("{}: a turn on {} panicked", vgpu.id(), self.engine.name());
                    vgpu.failed(self.engine, epoch, submission.first);
                    self.reset()
                });
                vgpu.work_ended(self.engine);
            }
            self.end_turn(vgpu, began);
            if !usable {
                log::error!("engine {} does not stop; it is not used any more", self.engine.name());
                self.queue().lock().closed = true;
            }
        }
    }

    fn queue(&self) -> &Mutex<Queue> {
        &self.scheduler.engine(self.engine).queue
    }

    /// Waits for the vGPU whose turn it is; also when that begins. `None`: no more turns.
    fn next_turn(&self) -> Option<(Arc<Vgpu>, Duration)> {
        let (engine, clock) = (self.scheduler.engine(self.engine), &self.scheduler.clock);
        let mut queue = engine.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            let now = clock.now();
            let until = match queue.shares.next(now) {
                Next::Run(id) => match queue.ready.remove(&id).filter(|v| v.may_run()) {
                    Some(vgpu) => {
                        queue.current = Some(id);
                        queue.stop = false;
                        return Some((vgpu, now));
                    }
                    None => {
                        queue.shares.set_busy(id, false, now);
                        continue;
                    }
                },
                Next::At(time) => Some(time),
                Next::Nobody => None,
            };
            clock.wait(&engine.changed, &mut queue, until);
        }
    }

    /// Ends a turn. Who waits for that finds that nothing of the vGPU's is held here any more: its domain can be served
    /// anew at once.
    fn end_turn(&self, vgpu: Arc<Vgpu>, began: Duration) {
        let id = vgpu.id();
        let now = self.scheduler.clock.now();
        let time = now.saturating_sub(began);
        vgpu.had(self.engine, time);
        let next = Some(vgpu).filter(|v| v.has_work(self.engine));
        let engine = self.scheduler.engine(self.engine);
        let mut queue = engine.queue.lock();
        queue.shares.charge(id, time, now);
        match next {
            Some(vgpu) if vgpu.may_run() && !queue.closed => {
                queue.ready.insert(id, vgpu);
            }
            // It may have got work since it was asked.
            _ if !queue.ready.contains_key(&id) => queue.shares.set_busy(id, false, now),
            _ => {}
        }
        queue.current = None;
        engine.changed.notify_all();
    }

    /// Executes one submission, or as much of it as comes before a newer one takes its place. `false`: the engine cannot be used
    /// any more.
    fn submission(&mut self, vgpu: &Vgpu, turn: Turn) -> bool {
        let Turn { submission: Submission { first, second }, mut begun, epoch } = turn;
        let elements = [Some((first, second.is_some())), second.map(|d| (d, false))];
        for (descriptor, more) in elements.into_iter().flatten() {
            let before = vgpu.on_engine(self.engine, epoch, Some(descriptor.id()));
            if !std::mem::replace(&mut begun, true) {
                let status = match before {
                    None => CSB_IDLE_TO_ACTIVE,
                    // A context that hangs there goes on hanging, or is put aside for the new one.
                    Some(id) if id == descriptor.id() => CSB_LITE_RESTORE | CSB_PREEMPTED,
                    Some(_) => CSB_PREEMPTED,
                };
                vgpu.push_status(self.engine, epoch, status, before.unwrap_or(descriptor.id()));
            }
            let context = self.context(vgpu, descriptor, epoch);
            // What its tables let go.
            vgpu.maintenance().drain(vgpu.ggtt().take_stale());
            match context {
                Ok(Some(prepared)) if self.complete(vgpu, epoch, descriptor, &prepared, more) => {}
                // It is on the engine still, and its next turn goes on with it.
                Ok(Some(_)) => return true,
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
        let refused = match &prepared {
            Ok((prepared, _)) => prepared.refused.is_some(),
            Err(e) => matches!(e, PrepareError::Refused(_)),
        };
        if refused && vgpu.ggtt().is_lent() {
            // Entries that were absent are in no cache of hardware's, so that it needs no flush for them.
            drop(prepared);
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
        let end = self.execute(vgpu, epoch, descriptor, prepared.descriptor);
        if end == End::Complete {
            let Some(refused) = prepared.refused else { return Ok(Some(prepared)) };
            vgpu.show_ring(self.engine, epoch, &prepared.guest, prepared.stands);
            vgpu.raise(self.engine, epoch, prepared.effects.interrupts);
            vgpu.refused(self.engine, epoch, descriptor, refused);
            return Ok(None);
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

    /// Submits what stands for the guest's context, and waits for the end. Meanwhile the guest may submit more of the same.
    fn execute(&self, vgpu: &Vgpu, epoch: u64, guest: Descriptor, descriptor: Descriptor) -> End {
        let (engine, clock) = (self.scheduler.engine(self.engine), &self.scheduler.clock);
        let deadline = clock.now().saturating_add(vgpu.deadline().unwrap_or(self.deadline));
        let mut seen = engine.queue.lock().news;
        self.gpu.submit(self.engine, descriptor.0, None);
        loop {
            let complete = |e: &crate::physical::CsbEntry| e.context_id == descriptor.id() && e.complete();
            if self.gpu.take_csb(self.engine).iter().any(complete) {
                return End::Complete;
            }
            if clock.now() >= deadline {
                return End::Overrun;
            }
            vgpu.lite_restore(self.engine, epoch, guest);
            let mut queue = engine.queue.lock();
            if queue.stop {
                return End::Stopped;
            }
            if std::mem::take(&mut queue.error) {
                drop(queue);
                // One that was on its way when the engine was reset is not this context's. It is if the engine shows it, or
                // knows nothing of the context any more.
                let shown = self.gpu.read32(self.engine.mmio_base() + reg::RING_EIR) != 0;
                let over = shown || self.gpu.is_idle(self.engine);
                if self.gpu.take_csb(self.engine).iter().any(complete) {
                    return End::Complete;
                }
                if over {
                    return End::Error;
                }
                continue;
            }
            if queue.news == seen && clock.wait(&engine.changed, &mut queue, Some(deadline)) {
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

    /// Tells the guest that a context ran to its tail: image, status entry, then the interrupt. `false`: that tail is not the last
    /// any more, so that there is no entry.
    fn complete(
        &self,
        vgpu: &Vgpu,
        epoch: u64,
        descriptor: Descriptor,
        prepared: &Prepared,
        more: bool,
    ) -> bool {
        vgpu.stats().completions.add(1);
        self.area.finish(vgpu.ggtt(), prepared);
        vgpu.show_ring(self.engine, epoch, &prepared.guest, prepared.guest.tail);
        if vgpu.lite_restore(self.engine, epoch, descriptor) {
            vgpu.raise(self.engine, epoch, prepared.effects.interrupts);
            return false;
        }
        let status = CSB_COMPLETE | if more { CSB_ELEMENT_SWITCH } else { CSB_ACTIVE_TO_IDLE };
        vgpu.push_status(self.engine, epoch, status, descriptor.id());
        vgpu.raise(self.engine, epoch, prepared.effects.interrupts | GT_CONTEXT_SWITCH_INTERRUPT);
        true
    }
}
