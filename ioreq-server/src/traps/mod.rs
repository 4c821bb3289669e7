//! Guest RAM whose writes come to its server first: the memory type of IOREQ servers, claimed once a guest.
//!
//! Reads go to RAM. A write becomes a request, which is carried out here, in RAM, whole and in order; then who watches the frame is
//! told, before the guest goes on. Devices' ranges come first: a write to one of them is the device's, whatever the type of its page.
//! A frame that nobody watches any more becomes RAM when it may (`letting`), and its writes are carried out until then. A server
//! that goes makes RAM of all frames; one that was killed leaves that to its successor ([`Server::succeed`](crate::Server)).

mod inherit;
mod left;
mod letting;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};
use xen_ioreq::seam::PausedDmOp;
use xen_ioreq::{DomId, Errno, Gfn, IoServerId, PAGE_MASK, PAGE_SIZE, VcpuId};

pub(crate) use self::left::carry_out;
use crate::device::Width;
use crate::dm::{Dm, DmError, MemType};
use crate::memory::{GuestMemory, MemoryError, Session};
use crate::slot::Slots;
use crate::stats::Stats;

/// Hears of writes to a frame.
pub trait Watcher: Send + Sync {
    /// The guest has written to the frame: its memory has changed, and it has not been told yet that it has. On the guest's loop, while
    /// a vCPU waits. [`WriteTraps::clear`] may be called; what the same instruction goes on to write is not told of then.
    fn written(&self, gfn: Gfn);
}

/// The type cannot be had, or not for a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrapError {
    /// Another server of the guest's has claimed it, or one that is gone has left frames of it.
    #[error("{0}: the memory type of IOREQ servers is somebody else's")]
    Taken(DomId),
    /// The guest runs without hardware-assisted paging, or Xen does not know the type.
    #[error("{0}: writes to its memory cannot be trapped")]
    Unsupported(DomId),
    /// The guest cannot be paused, as it must be for a frame to become RAM again: nobody has said how
    /// ([`Connection::with_pauses`](crate::Connection::with_pauses)), or Xen refuses it, as in a stub domain.
    #[error("{domid} cannot be paused ({errno}): a page whose writes are trapped could not be let go")]
    NoPause {
        /// The guest.
        domid: DomId,
        /// What Xen says. ENOSYS: it was not asked.
        errno: Errno,
    },
    /// It has been let go, and is not RAM yet: try again later.
    #[error("{0} is being let go")]
    Leaving(Gfn),
    /// The server has been taken down.
    #[error("the server is gone")]
    Gone,
    /// Xen refused otherwise. EINVAL of a frame: it is not ordinary RAM, or not there.
    #[error(transparent)]
    Xen(#[from] DmError),
}

#[derive(Default)]
struct State {
    claimed: bool,
    watched: HashMap<Gfn, Arc<dyn Watcher>>,
    /// Frames of the type that nobody watches: they become RAM when they may.
    leaving: BTreeSet<Gfn>,
    /// vCPUs whose write to RAM has been carried out, and that may not have made use of the answer.
    answered: BTreeSet<VcpuId>,
    /// The same, of a predecessor's answers: until they ask for something else.
    inherited: BTreeSet<VcpuId>,
    slots: Weak<Slots>,
    /// These are waited for: no other gets an answer meanwhile.
    shut: bool,
    /// The last frame that a pause has made RAM of.
    went_last: Option<Gfn>,
    /// Somebody lets frames go.
    has_thread: bool,
    /// The domain cannot be paused.
    refused: Option<Errno>,
    /// Nothing more is trapped.
    closed: bool,
    /// Nor let go.
    ended: bool,
}

/// The frames of one guest whose writes come to its server.
pub struct WriteTraps {
    dm: Dm,
    server: IoServerId,
    pauses: Option<Arc<dyn PausedDmOp>>,
    /// Some frame may be, or have been, of the type.
    used: AtomicBool,
    /// vCPUs that `answered` and `inherited` have: to be read without the lock.
    answered: AtomicUsize,
    stats: Arc<Stats>,
    /// Held while Xen is told, so that it and we say the same; not while a watcher is.
    state: Mutex<State>,
    /// `leaving`, or what the thread goes by, has changed.
    changed: Condvar,
}

/// The frames that an item of memory is in.
fn frames_of(addr: u64, width: Width) -> impl Iterator<Item = Gfn> {
    let first = Gfn::of_addr(addr);
    let crosses = (addr & PAGE_MASK) + u64::from(width.bytes()) > PAGE_SIZE as u64;
    std::iter::once(first).chain(first.checked_add(1).filter(|_| crosses))
}

impl WriteTraps {
    pub(crate) fn new(dm: Dm, server: IoServerId, pauses: Option<Arc<dyn PausedDmOp>>) -> Self {
        let (used, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (stats, state, changed) = (Arc::default(), Mutex::default(), Condvar::new());
        Self { dm, server, pauses, used, answered, stats, state, changed }
    }

    /// Claims the type for the server, if it has not been.
    pub fn claim(&self) -> Result<(), TrapError> {
        self.claim_locked(&mut self.state.lock())
    }

    fn claim_locked(&self, state: &mut State) -> Result<(), TrapError> {
        if state.closed {
            return Err(TrapError::Gone);
        }
        if state.claimed {
            return Ok(());
        }
        let domid = self.dm.domid();
        self.dm.claim_mem_type(self.server).map_err(|e| match e.errno {
            Errno::EBUSY => TrapError::Taken(domid),
            Errno::EOPNOTSUPP => TrapError::Unsupported(domid),
            _ => e.into(),
        })?;
        state.claimed = true;
        Ok(())
    }

    /// Whether the type is the server's.
    pub fn is_claimed(&self) -> bool {
        self.state.lock().claimed
    }

    /// From here on writes to the frame come here, and `watcher` hears of them, and nobody else; claims the type first, if need be.
    pub fn set(&self, gfn: Gfn, watcher: Arc<dyn Watcher>) -> Result<(), TrapError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(TrapError::Gone);
        }
        if !state.has_thread || state.refused.is_some() {
            let errno = state.refused.unwrap_or(Errno::ENOSYS);
            return Err(TrapError::NoPause { domid: self.dm.domid(), errno });
        }
        // Whether it still is of the type nobody knows: the guest may have given it up, and have another in its place.
        if state.leaving.contains(&gfn) {
            return Err(TrapError::Leaving(gfn));
        }
        self.claim_locked(&mut state)?;
        self.used.store(true, Ordering::Release);
        // Before Xen knows: a write may come as soon as it does.
        if state.watched.insert(gfn, watcher).is_some() {
            return Ok(());
        }
        let set = self.dm.set_mem_type(gfn, 1, MemType::IoreqServer);
        if set.is_err() {
            state.watched.remove(&gfn);
        }
        Ok(set?)
    }

    /// Nobody hears of writes to the frame any more, and it becomes RAM soon, which takes a pause of the guest's: see
    /// [`settle`](Self::settle). Writes are carried out until then. A frame that is not there any more, or is not trapped, is no error.
    pub fn clear(&self, gfn: Gfn) {
        let mut state = self.state.lock();
        if state.watched.remove(&gfn).is_some() && !state.closed {
            state.leaving.insert(gfn);
            self.changed.notify_all();
        }
    }

    /// What the server's guest is counted in.
    pub(crate) fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Frames whose writes come here.
    pub fn watched(&self) -> usize {
        self.state.lock().watched.len()
    }

    /// Whether a write that no device took may be one to RAM. Xen sends what it has taken for such a write also when the frame is
    /// ordinary again since.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// A vCPU asks for something: it has made use of the answer that it had before.
    #[inline]
    pub(crate) fn asks(&self, vcpu: VcpuId) {
        if self.answered.load(Ordering::Relaxed) > 0 {
            let mut state = self.state.lock();
            state.answered.remove(&vcpu);
            state.inherited.remove(&vcpu);
            self.count_answered(&state);
        }
    }

    fn count_answered(&self, state: &State) {
        self.answered.store(state.answered.len() + state.inherited.len(), Ordering::Relaxed);
    }

    /// Carries out one write to RAM, a vCPU's, which is to be answered afterwards.
    pub(crate) fn write(
        &self,
        memory: &mut Session<'_>,
        vcpu: Option<VcpuId>,
        addr: u64,
        width: Width,
        value: u64,
    ) -> Result<(), MemoryError> {
        memory.write_item(addr, width, value)?;
        for (gfn, watcher) in self.is_answered(vcpu, frames_of(addr, width)) {
            watcher.written(gfn);
        }
        Ok(())
    }

    /// A vCPU's write to these frames has been carried out, and it will have its answer: until it has made use of that, they stay of
    /// the type. Who is to be told.
    fn is_answered(
        &self,
        vcpu: Option<VcpuId>,
        frames: impl IntoIterator<Item = Gfn>,
    ) -> Vec<(Gfn, Arc<dyn Watcher>)> {
        let mut state = self.state.lock();
        if let Some(vcpu) = vcpu {
            self.await_turn(&mut state, vcpu);
            state.answered.insert(vcpu);
        }
        self.count_answered(&state);
        frames
            .into_iter()
            .filter_map(|gfn| {
                self.hold(&mut state, gfn);
                Some((gfn, state.watched.get(&gfn)?.clone()))
            })
            .collect()
    }

    /// A frame to which a write goes that is not answered yet is of the type until it is: it may have become RAM after Xen had
    /// made a request of the write.
    fn hold(&self, state: &mut State, gfn: Gfn) {
        let is_trapped = state.watched.contains_key(&gfn) || state.leaving.contains(&gfn);
        if !is_trapped && state.claimed && self.dm.set_mem_type(gfn, 1, MemType::IoreqServer).is_ok() {
            state.leaving.insert(gfn);
            self.changed.notify_all();
        }
    }

    /// We have written to RAM, for a device from which the guest reads.
    pub(crate) fn wrote(&self, addr: u64, width: Width) {
        for gfn in frames_of(addr, width) {
            let watcher = self.state.lock().watched.get(&gfn).cloned();
            if let Some(watcher) = watcher {
                watcher.written(gfn);
            }
        }
    }

    /// Makes RAM of all frames, and refuses what comes later. Answers the requests in `slots`, of which nobody else takes any more:
    /// writes to RAM are carried out, what else there is gets all-ones.
    pub(crate) fn close(&self, slots: Option<&Arc<Slots>>, memory: &GuestMemory) {
        let mut state = self.state.lock();
        state.closed = true;
        let watched = std::mem::take(&mut state.watched);
        state.leaving.extend(watched.into_keys());
        self.changed.notify_all();
        drop(state);
        if let Some(slots) = slots.filter(|_| self.is_used()) {
            self.settle_serving(|| self.serve_left(slots, memory));
        }
        let mut state = self.state.lock();
        if !state.leaving.is_empty() {
            log::debug!("{}: {} frames become RAM while the guest runs", self.server, state.leaving.len());
        }
        if std::mem::take(&mut state.claimed)
            && let Err(e) = self.dm.release_mem_type(self.server)
        {
            log::debug!("{}: {e}", self.server);
        }
        state.ended = true;
        self.changed.notify_all();
    }

    fn serve_left(&self, slots: &Arc<Slots>, memory: &GuestMemory) -> bool {
        let mut some = false;
        for taken in (0..slots.vcpus().len()).filter_map(|index| slots.take(index)) {
            some = true;
            let raw = *taken.request();
            // No range is a device's any more.
            if let Some(run) = left::to_ram(&raw, |_| false).filter(|run| left::write_all(run, memory)) {
                self.is_answered(Some(taken.vcpu()), left::frames(&run));
                taken.answer(raw.data);
            }
        }
        some
    }
}

impl fmt::Debug for WriteTraps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("WriteTraps")
            .field("server", &self.server)
            .field("claimed", &state.claimed)
            .field("watched", &state.watched.len())
            .field("leaving", &state.leaving.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
