//! Carries requests out: repetitions, data in guest memory, deferral, and what becomes of errors.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use xen_ioreq::DomId;
use xen_ioreq::abi::ioreq as abi;

use crate::bus::{self, Bus, Hint, Target};
use crate::device::Space;
use crate::dm::Dm;
use crate::guest::{Notices, OnError};
use crate::memory::{GuestMemory, Session};
use crate::outcome::{Defer, IoError, Outcome};
use crate::request::{Data, Malformed, Request, Run};
use crate::slot::{Parked, Taken};
use crate::stats::Stats;
use crate::traps::WriteTraps;

/// What is needed to carry out a guest's requests, from whatever thread.
pub(crate) struct Exec {
    pub(crate) bus: Arc<Bus>,
    pub(crate) memory: GuestMemory,
    pub(crate) dm: Dm,
    pub(crate) traps: Arc<WriteTraps>,
    pub(crate) notices: Arc<dyn Notices>,
    pub(crate) on_error: OnError,
    pub(crate) stats: Arc<Stats>,
}

/// How far a run of accesses has come.
#[derive(Clone, Copy)]
struct Progress {
    /// The repetition to do next, or, while it is deferred, the one that is being done.
    next: u32,
    /// What goes back to the slot.
    answer: u64,
}

/// A run that somebody else will go on with.
#[derive(Clone, Copy)]
struct Job {
    run: Run,
    progress: Progress,
}

enum Step {
    Done,
    Failed(IoError),
    Wait(Defer),
}

/// What the device gave, or how the run ends or pauses here.
fn settled<T>(outcome: Outcome<T>) -> Result<T, Step> {
    match outcome {
        Outcome::Ok(value) => Ok(value),
        Outcome::Err(e) => Err(Step::Failed(e)),
        Outcome::Defer(defer) => Err(Step::Wait(defer)),
    }
}

impl Run {
    /// Where repetition `i` goes.
    fn target(&self, i: u32) -> Target {
        let &Self { space, register, width, vcpu, .. } = self;
        Target { space, addr: self.addr_of(i), register, width, vcpu }
    }
}

impl Exec {
    /// Carries out a sync request and answers it, now or, if a device defers it, later.
    pub(crate) fn sync(self: &Arc<Self>, taken: Taken<'_>, bus: &mut bus::Session<'_>, hint: &Hint) {
        let raw = taken.request();
        self.traps.asks(taken.vcpu());
        let parsed = Request::parse(raw, Some(taken.vcpu()));
        self.count(&parsed);
        match &parsed {
            // Dropping answers all-ones.
            Err(_) => drop(taken),
            Ok(Request::Access(run)) => {
                let mut progress = Progress { next: 0, answer: raw.data };
                match self.advance(run, &mut progress, bus, hint) {
                    Step::Done => taken.answer(progress.answer),
                    Step::Failed(e) => {
                        self.failed(run.space, run.addr, &e);
                        drop(taken);
                    }
                    Step::Wait(defer) => {
                        self.stats.deferred();
                        self.wait(Job { run: *run, progress }, taken.park(), defer);
                    }
                }
            }
            Ok(other) => {
                let data = raw.data;
                self.notice(other);
                taken.answer(data);
            }
        }
    }

    /// Carries out requests of the buffered ring. Nobody waits for them.
    pub(crate) fn buffered(&self, batch: &[abi::ioreq], bus: &mut bus::Session<'_>, hint: &Hint) {
        self.stats.buffered(batch.len() as u64);
        let mut rest = batch.iter();
        let mut plain = 0;
        // All of them at once, and once more for those after one that panics.
        while catch_unwind(AssertUnwindSafe(|| {
            for raw in rest.by_ref() {
                // By far the most, and straight from the entry to its device.
                let Some((target, value)) = Request::plain_write(raw) else {
                    self.buffered_one(raw, bus, hint);
                    continue;
                };
                plain += 1;
                match bus.write(&target, value, hint) {
                    Outcome::Ok(()) => {}
                    other => self.unwritten(&target, other),
                }
            }
        }))
        .is_err()
        {
            let culprit = batch.len().checked_sub(rest.len() + 1).and_then(|i| batch.get(i));
            if let Some(Ok(Request::Access(run))) = culprit.map(|raw| Request::parse(raw, None)) {
                self.failed(run.space, run.addr, &IoError::Panicked);
            }
        }
        self.stats.mmio_all(plain);
    }

    #[cold]
    fn unwritten(&self, target: &Target, why: Outcome<()>) {
        match why {
            Outcome::Ok(()) => {}
            Outcome::Err(e) => self.failed(target.space, target.addr, &e),
            // The device finishes on its own; its answer goes nowhere.
            Outcome::Defer(defer) => drop(defer),
        }
    }

    #[inline(never)]
    fn buffered_one(&self, raw: &abi::ioreq, bus: &mut bus::Session<'_>, hint: &Hint) {
        let parsed = Request::parse(raw, None);
        self.count(&parsed);
        // By reference, as everywhere here: a copy of what was just put together from small fields stalls.
        match &parsed {
            Err(_) => {}
            Ok(Request::Access(run)) => {
                match self.accesses(run, &mut Progress { next: 0, answer: 0 }, bus, hint) {
                    Step::Done => {}
                    Step::Failed(e) => self.failed(run.space, run.addr, &e),
                    // The device finishes on its own; its answer goes nowhere.
                    Step::Wait(defer) => drop(defer),
                }
            }
            Ok(other) => self.notice(other),
        }
    }

    #[inline]
    fn count(&self, parsed: &Result<Request, Malformed>) {
        match parsed {
            Ok(Request::Access(run)) => match run.space {
                Space::Pio => self.stats.pio(),
                Space::Mmio => self.stats.mmio(),
                Space::Pci => self.stats.pci(),
            },
            Ok(Request::TimeOffset(_)) => self.stats.time_offset(),
            Ok(Request::Invalidate(_)) => self.stats.invalidate(),
            Err(e) => {
                self.stats.malformed();
                log::debug!("{}: malformed request: {e}", self.domid());
            }
        }
    }

    fn domid(&self) -> DomId {
        self.dm.domid()
    }

    fn notice(&self, request: &Request) {
        let told = catch_unwind(AssertUnwindSafe(|| match *request {
            Request::TimeOffset(seconds) => self.notices.time_offset(seconds),
            Request::Invalidate(what) => {
                // Which guest frame a bus frame is we do not know; all of them, then.
                self.memory.invalidate();
                self.notices.invalidate(what);
            }
            Request::Access(_) => {}
        }));
        if told.is_err() {
            self.stats.panics();
            self.broken(&IoError::Panicked);
        }
    }

    /// Goes on with a run until it ends or a device defers.
    fn advance(&self, run: &Run, progress: &mut Progress, bus: &mut bus::Session<'_>, hint: &Hint) -> Step {
        catch_unwind(AssertUnwindSafe(|| self.accesses(run, progress, bus, hint)))
            .unwrap_or_else(|_| Step::Failed(IoError::Panicked))
    }

    fn accesses(&self, run: &Run, progress: &mut Progress, bus: &mut bus::Session<'_>, hint: &Hint) -> Step {
        let done = match run.data {
            // By far the most, and straight on: what a loop keeps ready for its next turn would cost as much again.
            Data::Value(value) if run.count - progress.next == 1 => {
                self.with_value(run, value, progress, bus, hint)
            }
            Data::Value(value) => self.with_values(run, value, progress, bus, hint),
            Data::At(base) => self.with_memory(run, base, progress, bus, hint),
        };
        done.err().unwrap_or(Step::Done)
    }

    /// The value goes with the request, or comes back in it.
    #[inline(always)]
    fn with_value(
        &self,
        run: &Run,
        value: u64,
        progress: &mut Progress,
        bus: &mut bus::Session<'_>,
        hint: &Hint,
    ) -> Result<(), Step> {
        let target = run.target(progress.next);
        if run.read {
            progress.answer = settled(bus.read(&target, hint))?;
        } else {
            match bus.write(&target, value, hint) {
                Outcome::Err(IoError::NoDevice) if self.traps.is_used() => {
                    self.to_ram(&mut self.memory.session(), &target, value)?;
                }
                other => settled(other)?,
            }
        }
        progress.next += 1;
        Ok(())
    }

    /// A write that no device took is one to RAM, if such are trapped.
    #[cold]
    fn to_ram(&self, memory: &mut Session<'_>, target: &Target, value: u64) -> Result<(), Step> {
        if target.space != Space::Mmio {
            return Err(Step::Failed(IoError::NoDevice));
        }
        let &Target { addr, width, vcpu, .. } = target;
        self.traps.write(memory, vcpu, addr, width, value).map_err(|e| Step::Failed(e.into()))?;
        self.stats.ram_writes();
        Ok(())
    }

    #[inline(never)]
    fn with_values(
        &self,
        run: &Run,
        value: u64,
        progress: &mut Progress,
        bus: &mut bus::Session<'_>,
        hint: &Hint,
    ) -> Result<(), Step> {
        if run.read || !self.traps.is_used() {
            while progress.next < run.count {
                self.with_value(run, value, progress, bus, hint)?;
            }
            return Ok(());
        }
        let mut ram = self.memory.session();
        while progress.next < run.count {
            let target = run.target(progress.next);
            self.write(&mut ram, &target, value, bus, hint)?;
            progress.next += 1;
        }
        Ok(())
    }

    /// A write to a device, or to RAM.
    fn write(
        &self,
        ram: &mut Session<'_>,
        target: &Target,
        value: u64,
        bus: &mut bus::Session<'_>,
        hint: &Hint,
    ) -> Result<(), Step> {
        match bus.write(target, value, hint) {
            Outcome::Err(IoError::NoDevice) if self.traps.is_used() => self.to_ram(ram, target, value),
            other => settled(other),
        }
    }

    /// The values are in the guest's memory.
    #[inline(never)]
    fn with_memory(
        &self,
        run: &Run,
        base: u64,
        progress: &mut Progress,
        bus: &mut bus::Session<'_>,
        hint: &Hint,
    ) -> Result<(), Step> {
        let (mut memory, mut ram) = (self.memory.session(), self.memory.session());
        while progress.next < run.count {
            let (target, at) = (run.target(progress.next), run.step(base, progress.next));
            if run.read {
                let value = settled(bus.read(&target, hint))?;
                memory.write_item(at, run.width, value).map_err(|e| Step::Failed(e.into()))?;
                if self.traps.is_used() {
                    self.traps.wrote(at, run.width);
                }
            } else {
                let value = memory.read_item(at, run.width).map_err(|e| Step::Failed(e.into()))?;
                self.write(&mut ram, &target, value, bus, hint)?;
            }
            progress.next += 1;
        }
        Ok(())
    }

    /// Leaves the rest of a run to the answer of `defer`, or does it now if that is there already.
    fn wait(self: &Arc<Self>, mut job: Job, mut parked: Parked, mut defer: Defer) {
        loop {
            // An answer that never comes must keep nothing that the guest's end waits for: mappings, devices, the promise.
            let left = defer.then((Arc::downgrade(self), job, parked), |(exec, mut job, parked), result| {
                let Some(exec) = exec.upgrade() else { return };
                if let Some((parked, defer)) = exec.resume(&mut job, parked, result) {
                    exec.wait(job, parked, defer);
                }
            });
            let Some(((_, old, waits), result)) = left else { return };
            job = old;
            match self.resume(&mut job, waits, result) {
                Some(next) => (parked, defer) = next,
                None => return,
            }
        }
    }

    /// The repetition that was deferred has its answer: stores it and goes on with the rest. Completes the request, unless
    /// another repetition is deferred.
    fn resume(&self, job: &mut Job, parked: Parked, result: Result<u64, IoError>) -> Option<(Parked, Defer)> {
        let Job { run, progress } = job;
        let stored = result.and_then(|value| {
            let value = value & run.width.mask();
            match (run.read, run.data) {
                (true, Data::Value(_)) => progress.answer = value,
                (true, Data::At(base)) => {
                    let at = run.step(base, progress.next);
                    self.memory.session().write_item(at, run.width, value)?;
                    if self.traps.is_used() {
                        self.traps.wrote(at, run.width);
                    }
                }
                (false, _) => {}
            }
            Ok(())
        });
        let step = match stored {
            Err(e) => Step::Failed(e),
            Ok(()) => {
                progress.next = progress.next.saturating_add(1);
                self.advance(run, progress, &mut self.bus.session(), &Hint::default())
            }
        };
        match step {
            Step::Done => parked.answer(progress.answer),
            Step::Failed(e) => {
                self.failed(run.space, run.addr, &e);
                drop(parked);
            }
            Step::Wait(defer) => return Some((parked, defer)),
        }
        None
    }

    fn failed(&self, space: Space, addr: u64, e: &IoError) {
        match e {
            IoError::NoDevice => self.stats.unclaimed(),
            IoError::NoRegister => self.stats.unknown_register(),
            IoError::Panicked => self.stats.panics(),
            _ => self.stats.failed(),
        }
        log::debug!("{}: {space} {addr:#x}: {e}", self.domid());
        if e.is_broken() {
            self.broken(e);
        }
    }

    /// A device of ours is at fault: the operator's choice for this guest.
    fn broken(&self, e: &IoError) {
        match self.on_error {
            OnError::AllOnes => log::warn!("{}: answered with all-ones: {e}", self.domid()),
            OnError::CrashGuest => {
                log::error!("{}: crashing the guest: {e}", self.domid());
                if let Err(e) = self.dm.crash() {
                    log::error!("{e}");
                }
            }
        }
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("domid", &self.domid()).field("bus", &self.bus).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
