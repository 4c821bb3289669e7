//! One guest and all that serves it: an enabled server, a bus, and who hears of notices.
//!
//! [`Guest::service`] does what an event asks for; [`GuestLoop`](crate::GuestLoop) calls it, and so may a loop of
//! somebody else's.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use xen_ioreq::abi::ioreq as abi;
use xen_ioreq::seam::EventChannels;
use xen_ioreq::{DomId, Errno, IoServerId, Port};

use crate::bus::{self, Bus, Hint};
use crate::exec::Exec;
use crate::linger::{Linger, Look};
use crate::memory::GuestMemory;
use crate::request::Invalidation;
use crate::ring::RingFault;
use crate::server::{Enabled, Server};
use crate::stats::Stats;

/// Ports taken from the event channel device at once.
const BATCH: usize = 64;
/// Batches before other guests of the loop get their turn.
const BATCHES: usize = 4;

/// What a guest meets when a device of ours is broken: it panicked, says so, or lost a deferred access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Reads give all-ones, as from a device that is not there.
    #[default]
    AllOnes,
    /// The guest is crashed.
    CrashGuest,
}

/// Hears of what is no access. Called on the guest's loop, while a vCPU (for an invalidation on stock Xen also every other
/// server) waits: record it and return.
pub trait Notices: Send + Sync {
    /// Mappings of guest frames may be stale. Acknowledged when this returns.
    fn invalidate(&self, what: Invalidation) {
        let _ = what;
    }
    /// The guest has set its clock to host time plus `seconds`.
    fn time_offset(&self, seconds: i64) {
        let _ = seconds;
    }
    /// The loop had to give the guest up. Its server is gone when this is called.
    fn lost(&self, reason: &GuestError) {
        let _ = reason;
    }
}

/// For a server that keeps no mappings.
impl Notices for () {}

/// What makes a guest impossible to serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The event channels failed.
    #[error("{domid} {server}: {op} of its event channels: {errno}")]
    Events {
        /// The guest.
        domid: DomId,
        /// Its server.
        server: IoServerId,
        /// What was tried.
        op: &'static str,
        /// How it failed.
        errno: Errno,
    },
}

/// One guest, served.
pub struct Guest {
    // Dropped first: no request comes any more when bus and handlers go.
    server: Server<Enabled>,
    exec: Arc<Exec>,
    /// Port to index among the server's slots, sorted by port.
    by_port: Vec<(Port, usize)>,
    hints: Vec<Hint>,
    ring: RingReader,
    linger: Linger,
    may_linger: bool,
    fresh: bool,
}

/// What reading the ring needs beside the ring.
struct RingReader {
    /// Requests copied out.
    batch: Vec<abi::ioreq>,
    hint: Hint,
}

impl RingReader {
    /// Carries out what is in the ring now; tells whether that was anything. New entries may come meanwhile; their event
    /// is still to come.
    fn drain(&mut self, server: &Server<Enabled>, exec: &Exec, bus: &mut bus::Session<'_>) -> bool {
        let Some(ring) = server.ring() else { return false };
        self.batch.clear();
        if let Err(fault) = ring.drain(&mut self.batch) {
            exec.stats.ring_faults();
            match fault {
                RingFault::Pointers { read, write } => {
                    log::warn!("{}: buffered ring: pointers {read} and {write}", server.domid());
                }
                RingFault::Incomplete => log::warn!("{}: buffered ring: half an entry", server.domid()),
            }
        }
        exec.buffered(&self.batch, bus, &self.hint);
        !self.batch.is_empty()
    }
}

/// Whether there is more to do for a guest at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The descriptor will say when there is more.
    Idle,
    /// Ports are left: call again after others had their turn.
    More,
}

impl Guest {
    /// Joins a server and a bus whose ranges are claimed through it.
    pub fn new(server: Server<Enabled>, bus: Arc<Bus>, notices: Arc<dyn Notices>, on_error: OnError) -> Self {
        let memory = server.guest_memory();
        Self::with_memory(server, bus, memory, notices, on_error)
    }

    /// As [`new`](Self::new), with the memory that string instructions use: one with a cache, which may be shared with
    /// devices. It is [invalidated](GuestMemory::invalidate) at each notice, before that is acknowledged.
    pub fn with_memory(
        server: Server<Enabled>,
        bus: Arc<Bus>,
        memory: GuestMemory,
        notices: Arc<dyn Notices>,
        on_error: OnError,
    ) -> Self {
        let (dm, traps) = (server.dm().clone(), server.write_traps());
        let stats = traps.stats();
        let exec = Arc::new(Exec { bus, memory, dm, traps, notices, on_error, stats });
        let vcpus = server.slots().vcpus();
        let mut by_port: Vec<_> = vcpus.iter().enumerate().map(|(i, v)| (v.port, i)).collect();
        by_port.sort_unstable();
        let hints = vcpus.iter().map(|_| Hint::default()).collect();
        let batch = Vec::with_capacity(abi::IOREQ_BUFFER_SLOT_NUM as usize);
        Self {
            server,
            exec,
            by_port,
            hints,
            ring: RingReader { batch, hint: Hint::default() },
            linger: Linger::new(Duration::ZERO),
            may_linger: true,
            fresh: true,
        }
    }

    /// The guest's number.
    pub fn domid(&self) -> DomId {
        self.server.domid()
    }

    /// Its server.
    pub fn server(&self) -> &Server<Enabled> {
        &self.server
    }

    /// Its bus.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.exec.bus
    }

    /// Its memory, as string instructions use it.
    pub fn memory(&self) -> &GuestMemory {
        &self.exec.memory
    }

    /// Its counters.
    pub fn stats(&self) -> Arc<Stats> {
        self.exec.stats.clone()
    }

    /// Readable when [`service`](Self::service) has something to do. Edge-triggered polling is fine.
    pub fn pollable(&self) -> BorrowedFd<'_> {
        self.server.events().pollable()
    }

    /// Its event channels, if a thread can sleep on them.
    pub(crate) fn sleeps_on(&self) -> Option<Arc<dyn EventChannels>> {
        let events = self.server.events_shared();
        events.blocking().is_some().then_some(events)
    }

    /// How long [`service`](Self::service) may wait for the next request after one, without sleeping; zero, as at
    /// first, for not at all. It adapts: where waiting does not pay it is left out.
    pub fn set_patience(&mut self, patience: Duration) {
        self.linger = Linger::new(if self.may_linger { patience } else { Duration::ZERO });
    }

    /// From here on it looks at a slot only when an event has come for it.
    pub(crate) fn never_linger(&mut self) {
        self.may_linger = false;
        self.set_patience(Duration::ZERO);
    }

    /// Takes what is pending, carries it out, lets the ports fire again. Does not block.
    pub fn service(&mut self) -> Result<Progress, GuestError> {
        self.begin();
        let mut ports = [Port(0); BATCH];
        for _ in 0..BATCHES {
            let taken = match self.server.events().pending(&mut ports) {
                Ok(n) => ports.get(..n).unwrap_or(&ports),
                Err(Errno::EFBIG) => {
                    self.recover()?;
                    continue;
                }
                Err(errno) => return Err(self.error("reading", errno)),
            };
            // Not before: see `EventChannels::pending`.
            if taken.is_empty() {
                return Ok(Progress::Idle);
            }
            self.carry_out(taken)?;
        }
        Ok(Progress::More)
    }

    /// As [`service`](Self::service), but sleeps until something is pending or somebody
    /// [wakes](xen_ioreq::seam::BlockingEvents::wake) it. `None`: the event channels can only be polled.
    pub fn service_blocking(&mut self) -> Option<Result<Progress, GuestError>> {
        if self.fresh {
            self.begin();
        }
        let mut ports = [Port(0); BATCH];
        let waited = self.server.events().blocking()?.wait(&mut ports);
        self.exec.stats.wakeups();
        Some(match waited {
            Ok(0) => Ok(Progress::Idle),
            Ok(n) => self.carry_out(ports.get(..n).unwrap_or(&ports)),
            Err(Errno::EFBIG) => self.recover().map(|()| Progress::More),
            Err(errno) => Err(self.error("reading", errno)),
        })
    }

    fn begin(&mut self) {
        self.exec.stats.wakeups();
        if std::mem::take(&mut self.fresh) {
            // What came before anybody listened.
            self.everything();
        }
    }

    /// Carries out what these ports announce. `More`: there may be further ports.
    fn carry_out(&mut self, taken: &[Port]) -> Result<Progress, GuestError> {
        // Fewer than asked for: there were no more, and the next one makes the descriptor readable anew.
        let more = taken.len() == BATCH;
        // Before the answers: a vCPU that has its answer may come back before we run again, and a port that is
        // pending when it is unmasked costs a hypercall. But while we look at the slots ourselves, nobody need tell us.
        let stay = !more && self.linger.is_due();
        let unmask =
            |guest: &Self| guest.server.events().unmask(taken).map_err(|e| guest.error("unmasking", e));
        if !stay {
            unmask(self)?;
        }
        let exec = self.exec.clone();
        let bus = &mut exec.bus.session();
        // Also with no port of its own in the batch: see `sync`.
        self.ring.drain(&self.server, &self.exec, bus);
        for port in taken {
            if let Ok(found) = self.by_port.binary_search_by_key(port, |(p, _)| *p)
                && let Some(&(_, index)) = self.by_port.get(found)
            {
                self.sync(index, bus);
            }
        }
        if !more {
            self.stay(bus);
        }
        if stay {
            unmask(self)?;
        }
        Ok(if more { Progress::More } else { Progress::Idle })
    }

    /// Looks at the slots for a while, if that has paid lately.
    fn stay(&mut self, bus: &mut bus::Session<'_>) {
        if !self.linger.is_due() {
            self.linger.is_left_out();
            return;
        }
        let mut linger = self.linger.take();
        linger.session(|| {
            self.exec.stats.looks();
            let drained = self.ring.drain(&self.server, &self.exec, bus);
            let mut look = if drained { Look::Something } else { Look::Nothing };
            for index in 0..self.hints.len() {
                if self.sync(index, bus) {
                    self.exec.stats.unannounced();
                    look = Look::Something;
                }
            }
            look
        });
        self.linger = linger;
    }

    /// One vCPU's request, if it has one.
    fn sync(&mut self, index: usize, bus: &mut bus::Session<'_>) -> bool {
        let Some(taken) = self.server.slots().take(index) else { return false };
        // What this vCPU wrote to the ring before it sent the request comes first.
        self.ring.drain(&self.server, &self.exec, bus);
        if let Some(hint) = self.hints.get(index) {
            self.exec.sync(taken, bus, hint);
        }
        true
    }

    fn everything(&mut self) {
        let exec = self.exec.clone();
        let bus = &mut exec.bus.session();
        self.ring.drain(&self.server, &self.exec, bus);
        for index in 0..self.hints.len() {
            self.sync(index, bus);
        }
    }

    /// After an overflow it is not known which ports had fired: all of them, then.
    fn recover(&mut self) -> Result<(), GuestError> {
        self.exec.stats.event_ring_resets();
        self.server.events().reset_ring().map_err(|e| self.error("resetting the ring", e))?;
        let ports: Vec<_> = self.by_port.iter().map(|(p, _)| *p).chain(self.server.ring_port()).collect();
        self.server.events().unmask(&ports).map_err(|e| self.error("unmasking", e))?;
        self.everything();
        Ok(())
    }

    fn error(&self, op: &'static str, errno: Errno) -> GuestError {
        GuestError::Events { domid: self.domid(), server: self.server.id(), op, errno }
    }

    /// Takes the server down, then tells who wants to know.
    pub(crate) fn give_up(self, reason: &GuestError) {
        let Self { server, exec, .. } = self;
        drop(server);
        exec.notices.lost(reason);
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("server", &self.server)
            .field("exec", &self.exec)
            .finish_non_exhaustive()
    }
}
