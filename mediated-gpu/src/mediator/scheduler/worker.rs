//! An engine's thread: takes the vGPU whose turn it is, runs its submissions, says what became of them.
//!
//! While a context runs, the next of the same vGPU is audited, copied and put behind it on the engine, if nobody else waits
//! for that ([`Shares::is_alone`](super::shares::Shares::is_alone)): so the engine goes on without us. A context is on the
//! engine, or behind one, of one vGPU only: a reset is noticed by nobody else.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::shares::Next;
use super::stint::{End, Job, News, Placed, Stint};
use super::{Queue, Scheduler};
use crate::gen8::context::{
    CSB_ACTIVE_TO_IDLE, CSB_COMPLETE, CSB_ELEMENT_SWITCH, CSB_IDLE_TO_ACTIVE, CSB_LITE_RESTORE, CSB_PREEMPTED,
};
use crate::gen8::regs::{GT_CONTEXT_SWITCH_INTERRUPT, engine as reg};
use crate::mediator::guest::Vgpu;
use crate::mediator::workload::{AREAS, EngineArea, PrepareError, Prepared};
use crate::physical::{CsbEntry, Engine, PhysicalGpu};
use crate::privilege::{ThreadKind, narrow};

/// How long an engine may take to stop.
const RESET_DEADLINE: Duration = Duration::from_secs(1);
/// How often a reset is tried before the engine is given up.
const RESET_TRIES: u32 = 3;

/// What an engine's thread owns.
pub(in crate::mediator) struct Worker {
    engine: Engine,
    gpu: Arc<dyn PhysicalGpu>,
    scheduler: Arc<Scheduler>,
    areas: [EngineArea; AREAS],
    /// Of a vGPU that has none of its own.
    deadline: Duration,
    /// What the engine has told and nobody has looked at.
    told: VecDeque<CsbEntry>,
}

impl Worker {
    pub(in crate::mediator) fn new(
        engine: Engine,
        gpu: Arc<dyn PhysicalGpu>,
        scheduler: Arc<Scheduler>,
        areas: [EngineArea; AREAS],
        deadline: Duration,
    ) -> Self {
        Self { engine, gpu, scheduler, areas, deadline, told: VecDeque::new() }
    }

    pub(in crate::mediator) fn spawn(mut self) -> std::io::Result<JoinHandle<()>> {
        let name = format!("engine {}", self.engine.name());
        std::thread::Builder::new().name(name).spawn(move || self.run())
    }

    fn run(&mut self) {
        narrow(ThreadKind::Device);
        while let Some((vgpu, mut began)) = self.next_turn() {
            let mut usable = true;
            if let Some(turn) = vgpu.take_work(self.engine) {
                let mut stint = Stint {
                    vgpu: &vgpu,
                    began,
                    last: (turn.submission.first, turn.epoch),
                    begun: false,
                    jobs: Job::all(turn).collect(),
                    behind: None,
                };
                usable = catch_unwind(AssertUnwindSafe(|| self.stint(&mut stint))).unwrap_or_else(|_| {
                    // A mistake of ours that this guest has found. It loses its context; the others go on.
                    log::error!("{}: a turn on {} panicked", vgpu.id(), self.engine.name());
                    let (descriptor, epoch) = stint.last;
                    vgpu.failed(self.engine, epoch, descriptor);
                    let stopped = self.reset();
                    // An engine that has not stopped may go on using its tables.
                    if let Some(behind) = stint.behind.take_if(|_| !stopped) {
                        std::mem::forget(behind);
                    }
                    stopped
                });
                began = stint.began;
                self.leave(stint);
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

    /// Runs what a turn has, and what comes to it. `false`: the engine cannot be used any more.
    fn stint<'v>(&mut self, stint: &mut Stint<'v>) -> bool {
        loop {
            let current = match stint.behind.take() {
                Some(placed) => {
                    self.begin(stint, placed.job);
                    placed
                }
                None => {
                    let Some(job) = stint.jobs.pop_front() else { return true };
                    if !self.may_begin(stint, job) {
                        stint.jobs.push_front(job);
                        return true;
                    }
                    self.begin(stint, job);
                    let Some(placed) = self.place(stint.vgpu, job) else { return true };
                    if !placed.prepared.is_empty() {
                        self.told.clear();
                        stint.vgpu.stats().submissions.add(1);
                        self.gpu.submit(self.engine, placed.prepared.descriptor.0, None);
                    }
                    placed
                }
            };
            let (vgpu, epoch) = (stint.vgpu, current.job.epoch);
            let Prepared { guest, .. } = current.prepared;
            vgpu.show_ring(self.engine, epoch, &guest, guest.head);
            match self.run_one(stint, &current) {
                End::Complete => {}
                end => return self.broken(stint.vgpu, current, stint.behind.take(), end),
            }
            if let Some(refused) = current.prepared.refused {
                vgpu.show_ring(self.engine, epoch, &guest, current.prepared.stands);
                vgpu.raise(self.engine, epoch, current.prepared.effects.interrupts);
                vgpu.refused(self.engine, epoch, current.job.descriptor, refused);
                return true;
            }
            let had = self.complete(stint, &current);
            let next = stint.behind.as_mut();
            if let Some(next) = next.filter(|next| next.prepared.guest.lrca == guest.lrca) {
                next.had = Some(had);
            }
            // It has the engine already, and must not if a reset has come between.
            if stint.behind.is_some() && !vgpu.is_of_now(self.engine, epoch) {
                return self.broken(vgpu, current, stint.behind.take(), End::Stopped);
            }
        }
    }

    /// Whether a job that is not on the engine may begin: the first one may, and what comes after it if nobody waits.
    fn may_begin(&self, stint: &Stint<'_>, job: Job) -> bool {
        let vgpu = stint.vgpu;
        let goes_on = || vgpu.is_of_now(self.engine, job.epoch) && vgpu.may_run();
        let alone = || self.queue().lock().shares.is_alone(vgpu.id());
        job.opens.is_none() || !stint.begun || goes_on() && alone()
    }

    /// Tells the guest that a context of its has the engine, unless it knows.
    fn begin(&self, stint: &mut Stint<'_>, job: Job) {
        let Job { descriptor, epoch, opens, .. } = job;
        (stint.last, stint.begun) = ((descriptor, epoch), true);
        let before = stint.vgpu.on_engine(self.engine, epoch, Some(descriptor.id()));
        let Some(turn) = opens else { return };
        if !turn.begun {
            let status = match before {
                None => CSB_IDLE_TO_ACTIVE,
                // A context that hangs there goes on hanging, or is put aside for the new one.
                Some(id) if id == descriptor.id() => CSB_LITE_RESTORE | CSB_PREEMPTED,
                Some(_) => CSB_PREEMPTED,
            };
            stint.vgpu.push_status(self.engine, epoch, status, before.unwrap_or(descriptor.id()));
        }
        self.charge(stint);
    }

    /// Charges the vGPU with the time since the turn began, or since this was done before.
    fn charge(&self, stint: &mut Stint<'_>) {
        let (id, now) = (stint.vgpu.id(), self.scheduler.clock.now());
        let time = now.saturating_sub(stint.began);
        stint.began = now;
        stint.vgpu.had(self.engine, time);
        self.queue().lock().shares.charge(id, time, now);
    }

    /// What has not begun waits again.
    fn leave(&self, stint: Stint<'_>) {
        let left = stint.behind.map(|placed| placed.job).into_iter().chain(stint.jobs);
        let left: Vec<_> = left.filter_map(|job| job.opens).collect();
        left.into_iter().rev().for_each(|turn| stint.vgpu.put_back(self.engine, turn));
    }

    /// Readies a context. `None`: it does not complete and never will.
    fn place<'v>(&mut self, vgpu: &'v Vgpu, job: Job) -> Option<Placed<'v>> {
        let Job { descriptor, epoch, .. } = job;
        if vgpu.is_banned(self.engine, descriptor) {
            return None;
        }
        let id = self.scheduler.next_context();
        let [area, ..] = &mut self.areas;
        let mut prepared = area.prepare(vgpu.ggtt(), descriptor, id, None);
        let refused = match &prepared {
            Ok((prepared, _)) => prepared.refused.is_some(),
            Err(e) => matches!(e, PrepareError::Refused(_)),
        };
        if refused && vgpu.ggtt().is_lent() {
            // Entries that were absent are in no cache of hardware's, so that it needs no flush for them.
            drop(prepared);
            vgpu.compare_table();
            prepared = area.prepare(vgpu.ggtt(), descriptor, id, None);
        }
        // What its tables let go.
        vgpu.maintenance().drain(vgpu.ggtt().take_stale());
        match prepared {
            Ok((prepared, tables)) => {
                self.gathered(vgpu, &prepared);
                vgpu.ggtt().flush_if_dirty();
                return Some(Placed { job, prepared, tables, area: 0, had: None });
            }
            Err(PrepareError::Refused(refused)) => vgpu.refused(self.engine, epoch, descriptor, refused),
            Err(e @ (PrepareError::NoPages(_) | PrepareError::Tables(_) | PrepareError::TooEarly)) => {
                log::error!("{}: a context is dropped: {e}", vgpu.id());
                vgpu.failed(self.engine, epoch, descriptor);
            }
        }
        None
    }

    /// What is about to be submitted says how many requests the driver had gathered.
    fn gathered(&self, vgpu: &Vgpu, prepared: &Prepared) {
        if !prepared.is_empty() {
            vgpu.state().lock().gathered(self.engine, prepared.effects.requests);
        }
    }

    /// Puts what comes next behind the context that runs, if it can be. What cannot be is left for when that has ended. Whether
    /// something newer still may be put there.
    fn place_behind<'v>(&mut self, stint: &mut Stint<'v>, current: &Placed<'v>) -> bool {
        let vgpu = stint.vgpu;
        let after_all = stint.jobs.is_empty();
        let Some(turn) = vgpu.take_behind(self.engine, current.job.epoch, after_all) else { return true };
        // What goes on takes the place of all that was submitted before.
        stint.jobs = Job::all(turn).collect();
        let Some(&job) = stint.jobs.front() else { return true };
        // Its image is to be read anew, and is not written yet.
        let too_early = !job.goes_on() && job.descriptor.lrca() == current.job.descriptor.lrca();
        if too_early || vgpu.is_banned(self.engine, job.descriptor) {
            return false;
        }
        let area = (current.area + 1) % AREAS;
        let id = self.scheduler.next_context();
        let (Some(free), ggtt) = (self.areas.get_mut(area), vgpu.ggtt()) else { return false };
        let prepared = free.prepare(ggtt, job.descriptor, id, Some(&current.prepared));
        vgpu.maintenance().drain(ggtt.take_stale());
        let Ok((prepared, tables)) = prepared else { return false };
        if prepared.refused.is_some() {
            return false;
        }
        if prepared.is_empty() {
            // What runs was read when this had been appended already. What is appended next takes its place, and is new.
            return job.goes_on();
        }
        if job.goes_on() {
            ggtt.flush_for_more();
        } else {
            ggtt.flush_if_dirty();
        }
        self.gathered(vgpu, &prepared);
        vgpu.stats().submissions.add(1);
        stint.jobs.pop_front();
        let Some(again) = self.areas.get(current.area).map(|area| area.again(&current.prepared)) else {
            return false;
        };
        self.gpu.submit(self.engine, again.0, Some(prepared.descriptor.0));
        stint.behind = Some(Placed { job, prepared, tables, area, had: None });
        false
    }

    /// Waits for the end of the context that runs, and sees to it that another follows it.
    fn run_one<'v>(&mut self, stint: &mut Stint<'v>, current: &Placed<'v>) -> End {
        if current.prepared.is_empty() {
            return End::Complete;
        }
        let deadline = stint.vgpu.deadline().unwrap_or(self.deadline);
        let deadline = self.scheduler.clock.now().saturating_add(deadline);
        let mut ask = current.prepared.can_be_followed();
        loop {
            match self.wait(stint, current, deadline, ask) {
                News::Ended(end) => return end,
                News::More => {
                    // What was taken and not placed has its turn afterwards.
                    ask = self.place_behind(stint, current);
                }
            }
        }
    }

    /// Waits until the context that runs is on the engine no more, or, if asked for, until something could follow it. Meanwhile
    /// the guest may submit more of the same.
    fn wait(&mut self, stint: &Stint<'_>, current: &Placed<'_>, deadline: Duration, ask: bool) -> News {
        let scheduler = self.scheduler.clone();
        let (engine, clock) = (scheduler.engine(self.engine), &scheduler.clock);
        let (id, vgpu) = (current.prepared.descriptor.id(), stint.vgpu.id());
        let Job { descriptor, epoch, .. } = current.job;
        let mut seen = engine.queue.lock().news;
        loop {
            if self.is_over(id, stint.behind.is_some()) {
                return News::Ended(End::Complete);
            }
            if clock.now() >= deadline {
                return News::Ended(End::Overrun);
            }
            if !stint.has_other() {
                stint.vgpu.lite_restore(self.engine, epoch, descriptor);
            }
            let mut queue = engine.queue.lock();
            if queue.stop {
                return News::Ended(End::Stopped);
            }
            if std::mem::take(&mut queue.error) {
                drop(queue);
                // One that was on its way when the engine was reset is not this context's. It is if the engine shows it, or
                // knows nothing of the context any more.
                let shown = self.gpu.read32(self.engine.mmio_base() + reg::RING_EIR) != 0;
                let over = shown || self.gpu.is_idle(self.engine);
                if self.is_over(id, stint.behind.is_some()) {
                    // It is for who follows.
                    engine.queue.lock().error |= stint.behind.is_some();
                    return News::Ended(End::Complete);
                }
                if over {
                    return News::Ended(End::Error);
                }
                continue;
            }
            if ask && queue.shares.is_alone(vgpu) && stint.vgpu.may_run() {
                // It has said that there is more, and will say so again if there is.
                if queue.ready.remove(&vgpu).is_some() {
                    return News::More;
                }
            }
            if queue.news == seen && clock.wait(&engine.changed, &mut queue, Some(deadline)) {
                return News::Ended(End::Overrun);
            }
            seen = queue.news;
        }
    }

    /// Whether the engine has told that a context ran to its tail. With one behind it, that it went on to that: it may have ended
    /// just before it was submitted again, and then it comes to its end a second time.
    fn is_over(&mut self, id: u32, followed: bool) -> bool {
        self.told.extend(self.gpu.take_csb(self.engine));
        while let Some(entry) = self.told.pop_front() {
            let switched = entry.status & CSB_ELEMENT_SWITCH != 0;
            if entry.context_id == id && entry.complete() && (switched || !followed) {
                return true;
            }
        }
        false
    }

    /// Stops the engine, since the context that runs does not come to its end or must not. What stood behind it goes back.
    /// `false`: the engine cannot be used any more.
    fn broken(&mut self, vgpu: &Vgpu, current: Placed<'_>, behind: Option<Placed<'_>>, end: End) -> bool {
        vgpu.stats().resets.add(1);
        let stopped = self.reset();
        let Job { descriptor, epoch, .. } = current.job;
        let next = behind.as_ref().and_then(|next| next.job.opens);
        // An engine that has not stopped may go on using them.
        for tables in [Some(current), behind].into_iter().flatten().filter_map(|placed| placed.tables) {
            if stopped { drop(tables) } else { std::mem::forget(tables) }
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
        if let Some(turn) = next {
            vgpu.put_back(self.engine, turn);
        }
        stopped
    }

    /// Stops the engine and forgets what it said. `false`: it did not stop.
    fn reset(&mut self) -> bool {
        let stopped = (0..RESET_TRIES).any(|_| match self.gpu.reset_engine(self.engine, RESET_DEADLINE) {
            Ok(()) => true,
            Err(e) => {
                log::warn!("{e}");
                false
            }
        });
        self.gpu.take_csb(self.engine);
        self.told.clear();
        self.queue().lock().error = false;
        stopped
    }

    /// Tells the guest that a context ran to its tail: image, status entry, then the interrupt. That tail may not be the last any
    /// more: then there is no entry, and it is on the engine still. The time that it has had.
    fn complete(&self, stint: &mut Stint<'_>, placed: &Placed<'_>) -> u32 {
        let Placed { job, prepared, area, had, .. } = placed;
        let (vgpu, Job { descriptor, epoch, more, .. }) = (stint.vgpu, *job);
        vgpu.stats().completions.add(1);
        let finish = |area: &EngineArea| area.finish(vgpu.ggtt(), prepared, *had);
        let had = self.areas.get(*area).map_or(0, finish);
        vgpu.show_ring(self.engine, epoch, &prepared.guest, prepared.guest.tail);
        let follows = stint.taken().any(Job::goes_on);
        let goes_on = follows || !stint.has_other() && vgpu.lite_restore(self.engine, epoch, descriptor);
        if goes_on {
            vgpu.raise(self.engine, epoch, prepared.effects.interrupts);
            if !follows {
                // The next turn begins with what has taken their place.
                stint.jobs.clear();
            }
            return had;
        }
        let status = CSB_COMPLETE | if more { CSB_ELEMENT_SWITCH } else { CSB_ACTIVE_TO_IDLE };
        vgpu.push_status(self.engine, epoch, status, descriptor.id());
        vgpu.raise(self.engine, epoch, prepared.effects.interrupts | GT_CONTEXT_SWITCH_INTERRUPT);
        vgpu.on_engine(self.engine, epoch, None);
        had
    }
}
