//! A guest's processor: makes accesses and hypercalls on the thread that holds it, and blocks as a real one does.

mod access;
mod hypercall;
mod interrupt;
#[cfg(test)]
mod tests;
mod wake;

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use xen_ioreq::{DomId, Errno, VcpuId};

use self::interrupt::Vectors;
pub(crate) use self::wake::Wake;
use crate::dm_op::InjectedEvent;
use crate::domain::{Domain, ShutdownReason};
use crate::evtchn;
use crate::ioreq::Server;
use crate::ioreq::request::Request;
use crate::ioreq::slot::Progress;
use crate::machine::Machine;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLockReadGuard};

/// Why a vCPU cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VcpuError {
    /// the domain was destroyed
    #[error("the domain was destroyed")]
    Destroyed,
    /// the domain has shut down or crashed
    #[error("the domain has stopped: {0:?}")]
    Stopped(ShutdownReason),
    /// an access of a size that no instruction makes
    #[error("no instruction accesses {0} bytes")]
    Size(usize),
    /// there is no RAM at this guest physical address
    #[error("no RAM at guest physical address {0:#x}")]
    NotRam(u64),
    /// the hypercall failed
    #[error("hypercall: {0}")]
    Hypercall(Errno),
}

/// A notice that found no room in the buffered ring and goes by the vCPU's slot.
pub(crate) struct Notice {
    /// Itself, not its number: that may be another's by the time.
    pub(crate) server: Weak<Server>,
    pub(crate) bfn: u64,
}

/// What others may touch of a vCPU.
pub(crate) struct VcpuState {
    pub(crate) id: VcpuId,
    pub(crate) wake: Wake,
    /// Something below, or in the domain's state, wants to be looked at before the guest goes on.
    attention: AtomicBool,
    /// Something has changed in the guest's memory: tell every server (`mapcache_invalidate` in Xen).
    invalidate_all: AtomicBool,
    notices: Mutex<VecDeque<Notice>>,
    /// Interrupts that wait in its local APIC.
    requested: Vectors,
    /// Taken and not ended.
    in_service: Vectors,
    /// Those whose end the I/O APIC wants to know.
    level: Vectors,
    /// Whether the 8259s interrupt it.
    wired: AtomicBool,
    /// What a device model has injected and the guest has not met yet.
    event: Mutex<Option<InjectedEvent>>,
    taken: AtomicBool,
    /// It has run: from then on its local APIC is on, and notices are kept for it.
    ran: AtomicBool,
    /// Events that have come by the ports through which servers answer.
    events: AtomicU64,
}

impl VcpuState {
    pub(crate) fn new(id: u32) -> Self {
        Self {
            id: VcpuId(id),
            wake: Wake::default(),
            // So that the first resume is noticed.
            attention: AtomicBool::new(true),
            invalidate_all: AtomicBool::new(false),
            notices: Mutex::new(VecDeque::new()),
            requested: Vectors::default(),
            in_service: Vectors::default(),
            level: Vectors::default(),
            wired: AtomicBool::new(false),
            event: Mutex::new(None),
            taken: AtomicBool::new(false),
            ran: AtomicBool::new(false),
            events: AtomicU64::new(0),
        }
    }

    /// A server has sent an event.
    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        self.wake.notify();
    }

    pub(crate) fn has_run(&self) -> bool {
        self.ran.load(Ordering::SeqCst)
    }

    pub(crate) fn kick(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.wake.notify();
    }

    /// At its next resume the vCPU tells every server that something has changed.
    pub(crate) fn request_invalidate_all(&self) {
        self.invalidate_all.store(true, Ordering::SeqCst);
        self.attention.store(true, Ordering::SeqCst);
    }

    /// At its next resume the vCPU delivers this notice.
    pub(crate) fn queue_notice(&self, notice: Notice) {
        self.notices.lock().push_back(notice);
        self.attention.store(true, Ordering::SeqCst);
    }

    /// Whether there is something to be delivered at its next resume.
    #[cfg(test)]
    pub(crate) fn has_to_tell(&self) -> bool {
        self.invalidate_all.load(Ordering::SeqCst) || !self.notices.lock().is_empty()
    }

    /// Injects an event. `false`: there is one already.
    pub(crate) fn inject(&self, event: InjectedEvent) -> bool {
        let mut slot = self.event.lock();
        let free = slot.is_none();
        slot.get_or_insert(event);
        free
    }

    /// The number of its local APIC.
    pub(crate) fn apic(&self) -> u32 {
        self.id.0 * 2
    }

    /// Whether the 8259s interrupt it.
    pub(crate) fn is_wired(&self) -> bool {
        self.wired.load(Ordering::SeqCst)
    }

    /// An interrupt arrives at its local APIC, which drops vectors below 16.
    pub(crate) fn interrupt(&self, vector: u8, level: bool) {
        if vector < 16 {
            return;
        }
        if level {
            self.level.insert(vector);
        } else {
            self.level.remove(vector);
        }
        self.requested.insert(vector);
        self.wake.notify();
    }
}

/// Asks for as long as patience lasts; tells whether it became true.
fn look(patience: Duration, mut over: impl FnMut() -> bool) -> bool {
    /// Looks between two at the clock, which costs more than they do.
    const LOOKS: u32 = 32;
    if patience.is_zero() {
        return false;
    }
    let start = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if over() {
                return true;
            }
            crate::sync::spin_loop();
        }
        if start.elapsed() > patience {
            return false;
        }
        // Who is to answer may want this very processor.
        crate::sync::yield_now();
    }
}

/// A vCPU of a guest. One handle exists at a time for each; it may move between threads.
///
/// Guest code is what happens between the calls; each call is a point at which the hypervisor has the vCPU in its
/// hands, so pauses, deaths and notices that others caused take effect at the next call.
pub struct Vcpu {
    machine: Arc<Machine>,
    domain: Arc<Domain>,
    state: Arc<VcpuState>,
    /// A request, and its answer, for which the instruction that made it has not come back: the page to which it wrote had become RAM,
    /// and took it. The next request is taken for that one. Not to be shared by threads: one request at a time.
    left_over: Cell<Option<LeftOver>>,
}

#[derive(Clone, Copy)]
struct LeftOver {
    request: Request,
    answer: u64,
    /// How often the domain had been paused.
    pauses: u64,
}

/// Somebody who pauses the domain waits for the end of this.
pub(crate) type OnTheWay<'a> = RwLockReadGuard<'a, ()>;

impl Vcpu {
    pub(crate) fn new(machine: Arc<Machine>, domain: Arc<Domain>, id: VcpuId) -> Result<Self, Errno> {
        let index = usize::try_from(id.0).map_err(|_| Errno::ENOENT)?;
        let state = domain.vcpus.get(index).ok_or(Errno::ENOENT)?.clone();
        if state.taken.swap(true, Ordering::AcqRel) {
            return Err(Errno::EBUSY);
        }
        Ok(Self { machine, domain, state, left_over: Cell::new(None) })
    }

    /// The domain's number.
    pub fn domid(&self) -> DomId {
        self.domain.id
    }

    /// The vCPU's number.
    pub fn id(&self) -> VcpuId {
        self.state.id
    }

    fn stop_error(&self) -> VcpuError {
        match self.domain.shutdown_reason() {
            Some(reason) => VcpuError::Stopped(reason),
            None => VcpuError::Destroyed,
        }
    }

    /// Where the hypervisor resumes the guest: stops it, holds it, or first delivers what is due.
    fn resume(&self) -> Result<(), VcpuError> {
        if self.domain.stopped() {
            return Err(self.stop_error());
        }
        if !self.state.attention.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.state.attention.store(false, Ordering::SeqCst);
        self.state.wake.wait(None, || self.domain.may_run());
        if self.left_over.get().is_some_and(|l| l.pauses != self.domain.pauses.load(Ordering::SeqCst)) {
            // It is scheduled anew.
            self.left_over.set(None);
        }
        if self.domain.stopped() {
            return Err(self.stop_error());
        }
        self.state.ran.store(true, Ordering::SeqCst);
        if self.state.invalidate_all.swap(false, Ordering::SeqCst) {
            self.broadcast(&Request::invalidate_all())?;
        }
        loop {
            let Some(notice) = self.state.notices.lock().pop_front() else { return Ok(()) };
            self.deliver(notice)?;
        }
    }

    /// Sends a notice by this vCPU's slot and waits for the answer. A server that has gone or is disabled gets none.
    fn deliver(&self, notice: Notice) -> Result<(), VcpuError> {
        if let Some(server) = notice.server.upgrade().filter(|s| s.is_enabled()) {
            self.send(&server, &Request::invalidate_bfn(notice.bfn))?;
        }
        Ok(())
    }

    /// Sends to every enabled server at once, then waits for all answers.
    fn broadcast(&self, r: &Request) -> Result<(), VcpuError> {
        let servers: Vec<_> =
            self.domain.servers.read().newest_first().filter(|s| s.is_enabled()).cloned().collect();
        let mut asked = Vec::new();
        for server in &servers {
            asked.extend(self.post(server, r)?.map(|events| (server, events)));
        }
        asked.into_iter().try_for_each(|(server, events)| self.finish(server, events).map(drop))
    }

    /// The guest's clock is set to host time plus `seconds`, as a guest does by writing its RTC. Every enabled server hears of
    /// it by its buffered ring, if it has one with room; 0 is told to nobody.
    pub fn set_time_offset(&self, seconds: i64) -> Result<(), VcpuError> {
        self.resume()?;
        if seconds != 0 {
            for server in self.domain.servers.read().newest_first().filter(|s| s.is_enabled()) {
                // What finds no room is lost, as in Xen.
                let _ = server.send_buffered(&self.machine, &self.domain, &Request::time_offset(seconds));
            }
        }
        Ok(())
    }

    /// One request, from slot to answer; all-ones if the server has just gone or been disabled.
    fn send(&self, server: &Server, r: &Request) -> Result<u64, VcpuError> {
        match self.post(server, r)? {
            Some(events) => self.finish(server, events).map(|(data, _)| data),
            None => Ok(u64::MAX),
        }
    }

    /// Waits while the domain is paused; whoever pauses it waits for the end of what this gives.
    fn set_out(&self) -> Result<OnTheWay<'_>, VcpuError> {
        loop {
            self.resume()?;
            if let Some(on_the_way) = self.try_set_out() {
                return Ok(on_the_way);
            }
        }
    }

    fn try_set_out(&self) -> Option<OnTheWay<'_>> {
        let on_the_way = self.domain.on_the_way.read();
        self.domain.may_run().then_some(on_the_way)
    }

    /// A request is to be made. `Some`: it is taken for one whose answer was left over. One that is not like it crashes the domain.
    fn answered_before(&self, r: &Request) -> Result<Option<u64>, VcpuError> {
        let Some(left) = self.left_over.take() else { return Ok(None) };
        let same = |r: &Request| (r.ty, r.addr, r.size, r.read, r.df, r.data_is_ptr);
        if same(r) == same(&left.request) {
            Ok(Some(left.answer))
        } else {
            Err(self.crash("a request is answered that another one was"))
        }
    }

    fn crash(&self, why: &str) -> VcpuError {
        self.domain.crash(why);
        self.stop_error()
    }

    /// Puts a request into the slot and tells the server; gives the number of events that had come before. `None` if it is
    /// not enabled: Xen pauses the domain while it disables or destroys a server, so that after that no request comes
    /// which was on its way.
    fn post(&self, server: &Server, r: &Request) -> Result<Option<u64>, VcpuError> {
        let gate = self.domain.servers.read();
        if !server.is_enabled() {
            return Ok(None);
        }
        let events = self.state.events.load(Ordering::SeqCst);
        let port = server.port_of(self.state.id).ok_or_else(|| self.crash("no port for this vCPU"))?;
        // A server that was enabled before its pages were mapped has told its emulator no port either.
        let slot = server
            .slot(&self.machine, self.state.id)
            .ok_or_else(|| self.crash("device model has no slots"))?;
        slot.post(port, r, || server.bells.ring(self.state.id, r)).map_err(|why| self.crash(why))?;
        drop(gate);
        // A server that is being destroyed has no port any more; `finish` sees that.
        let _ = evtchn::notify(&self.domain, port, None);
        Ok(Some(events))
    }

    /// Waits for the answer, and while the domain is paused; the answer is made use of before the end of what comes with it.
    fn finish(&self, server: &Server, mut events: u64) -> Result<(u64, Option<OnTheWay<'_>>), VcpuError> {
        let slot = server
            .slot(&self.machine, self.state.id)
            .ok_or_else(|| self.crash("device model has no slots"))?;
        let (mut seen, mut orphaned) = (0, false);
        let mut outcome = Ok(0);
        let mut here = None;
        let mut over = || {
            let now = self.state.events.load(Ordering::SeqCst);
            // The destruction of a server completes its requests with the data that they were sent with: zero for a read. But it wakes
            // nobody: who waits already sees it at the next event, whoever sends that.
            orphaned |= std::mem::replace(&mut events, now) != now && server.is_gone();
            if slot.waits() && !orphaned && !self.domain.dying() {
                return false;
            }
            let Some(on_the_way) = self.try_set_out() else { return false };
            match slot.progress(&mut seen) {
                Progress::Done(data) => outcome = Ok(data),
                Progress::Broken(why) => outcome = Err(Some(why)),
                Progress::Waiting if orphaned => outcome = Ok(0),
                // Only death ends the wait; a shutdown waits for outstanding I/O.
                Progress::Waiting if self.domain.dying() => outcome = Err(None),
                Progress::Waiting => return false,
            }
            here = Some(on_the_way);
            true
        };
        if !look(self.domain.vcpu_patience, &mut over) {
            self.state.wake.wait(None, over);
        }
        match outcome {
            Ok(data) => Ok((data, here)),
            Err(Some(why)) => Err(self.crash(why)),
            Err(None) => Err(VcpuError::Destroyed),
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.state.taken.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu")
            .field("domain", &self.domain.id)
            .field("id", &self.state.id)
            .finish_non_exhaustive()
    }
}
