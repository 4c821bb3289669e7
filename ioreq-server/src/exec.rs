//! Carries requests out: repetitions, data in guest memory, deferral, and what becomes of errors.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use xen_ioreq::DomId;
use xen_ioreq::abi::ioreq as abi;

use crate::bus::{Bus, Hint, Target};
use crate::device::Space;
use crate::dm::Dm;
use crate::guest::{Notices, OnError};
use crate::memory::GuestMemory;
use crate::outcome::{Defer, IoError, Outcome};
use crate::request::{Data, Request, Run};
use crate::slot::{Parked, Taken};
use crate::stats::Stats;

/// What is needed to carry out a guest's requests, from whatever thread.
pub(crate) struct Exec {
    pub(crate) bus: Arc<Bus>,
    pub(crate) memory: GuestMemory,
    pub(crate) dm: Dm,
    pub(crate) notices: Arc<dyn Notices>,
    pub(crate) on_error: OnError,
    pub(crate) stats: Arc<Stats>,
}

/// A run of accesses and how far it has come.
#[derive(Clone, Copy)]
struct Job {
    run: Run,
    /// The repetition to do next, or, while it is deferred, the one that is being done.
    next: u32,
    /// What goes back to the slot.
    answer: u64,
}

enum Step {
    Done,
    Failed(IoError),
    Wait(Defer),
}

impl Exec {
    /// Carries out a sync request and answers it, now or, if a device defers it, later.
    pub(crate) fn sync(self: &Arc<Self>, taken: Taken<'_>, hint: &Hint) {
        let raw = *taken.request();
        match self.parse(&raw, Some(&taken)) {
            // Dropping answers all-ones.
            None => drop(taken),
            Some(Request::Access(run)) => {
                let mut job = Job { run, next: 0, answer: raw.data };
                match self.advance(&mut job, hint) {
                    Step::Done => taken.answer(job.answer),
                    Step::Failed(e) => {
                        self.failed(&run, &e);
                        drop(taken);
                    }
                    Step::Wait(defer) => {
                        self.stats.deferred();
                        self.wait(job, taken.park(), defer);
                    }
                }
            }
            Some(other) => {
                self.notice(other);
                taken.answer(raw.data);
            }
        }
    }

    /// Carries out a request of the buffered ring. Nobody waits for it.
    pub(crate) fn buffered(&self, raw: &abi::ioreq, hint: &Hint) {
        self.stats.buffered();
        match self.parse(raw, None) {
            None => {}
            Some(Request::Access(run)) => {
                let mut job = Job { run, next: 0, answer: 0 };
                match self.advance(&mut job, hint) {
                    Step::Done => {}
                    Step::Failed(e) => self.failed(&run, &e),
                    // The device finishes on its own; its answer goes nowhere.
                    Step::Wait(defer) => drop(defer),
                }
            }
            Some(other) => self.notice(other),
        }
    }

    fn parse(&self, raw: &abi::ioreq, taken: Option<&Taken<'_>>) -> Option<Request> {
        match Request::parse(raw, taken.map(Taken::vcpu)) {
            Ok(request) => {
                match request {
                    Request::Access(Run { space: Space::Pio, .. }) => self.stats.pio(),
                    Request::Access(Run { space: Space::Mmio, .. }) => self.stats.mmio(),
                    Request::Access(Run { space: Space::Pci, .. }) => self.stats.pci(),
                    Request::TimeOffset(_) => self.stats.time_offset(),
                    Request::Invalidate(_) => self.stats.invalidate(),
                }
                Some(request)
            }
            Err(e) => {
                self.stats.malformed();
                log::debug!("{}: malformed request: {e}", self.domid());
                None
            }
        }
    }

    fn domid(&self) -> DomId {
        self.dm.domid()
    }

    fn notice(&self, request: Request) {
        let told = catch_unwind(AssertUnwindSafe(|| match request {
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
    fn advance(&self, job: &mut Job, hint: &Hint) -> Step {
        catch_unwind(AssertUnwindSafe(|| self.accesses(job, hint)))
            .unwrap_or_else(|_| Step::Failed(IoError::Panicked))
    }

    fn accesses(&self, job: &mut Job, hint: &Hint) -> Step {
        let run = job.run;
        let mut memory = self.memory.session();
        while job.next < run.count {
            let i = job.next;
            let target = Target {
                space: run.space,
                addr: run.addr_of(i),
                register: run.register,
                width: run.width,
                vcpu: run.vcpu,
            };
            if run.read {
                let value = match self.bus.read(&target, hint) {
                    Outcome::Ok(value) => value,
                    Outcome::Err(e) => return Step::Failed(e),
                    Outcome::Defer(d) => return Step::Wait(d),
                };
                match run.data {
                    Data::Value(_) => job.answer = value,
                    Data::At(base) => {
                        if let Err(e) = memory.write_item(run.step(base, i), run.width, value) {
                            return Step::Failed(e.into());
                        }
                    }
                }
            } else {
                let value = match run.data {
                    Data::Value(value) => value,
                    Data::At(base) => match memory.read_item(run.step(base, i), run.width) {
                        Ok(value) => value,
                        Err(e) => return Step::Failed(e.into()),
                    },
                };
                match self.bus.write(&target, value, hint) {
                    Outcome::Ok(()) => {}
                    Outcome::Err(e) => return Step::Failed(e),
                    Outcome::Defer(d) => return Step::Wait(d),
                }
            }
            job.next = i + 1;
        }
        Step::Done
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
        let run = job.run;
        let stored = result.and_then(|value| {
            let value = value & run.width.mask();
            match (run.read, run.data) {
                (true, Data::Value(_)) => job.answer = value,
                (true, Data::At(base)) => {
                    self.memory.session().write_item(run.step(base, job.next), run.width, value)?;
                }
                (false, _) => {}
            }
            Ok(())
        });
        let step = match stored {
            Err(e) => Step::Failed(e),
            Ok(()) => {
                job.next = job.next.saturating_add(1);
                self.advance(job, &Hint::default())
            }
        };
        match step {
            Step::Done => parked.answer(job.answer),
            Step::Failed(e) => {
                self.failed(&run, &e);
                drop(parked);
            }
            Step::Wait(defer) => return Some((parked, defer)),
        }
        None
    }

    fn failed(&self, run: &Run, e: &IoError) {
        match e {
            IoError::NoDevice => self.stats.unclaimed(),
            IoError::NoRegister => self.stats.unknown_register(),
            IoError::Panicked => self.stats.panics(),
            _ => self.stats.failed(),
        }
        log::debug!("{}: {} {:#x}: {e}", self.domid(), run.space, run.addr);
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
