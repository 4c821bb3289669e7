//! Guest RAM whose writes come to its server first: the memory type of IOREQ servers, claimed once a guest.
//!
//! Reads go to RAM. A write becomes a request, which is carried out here, in RAM, whole and in order; then who watches the frame is
//! told, before the guest goes on. Devices' ranges come first: a write to one of them is the device's, whatever the type of its page.
//! A server that goes makes RAM of all frames; one that was killed leaves that to its successor ([`Server::succeed`](crate::Server)).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use xen_ioreq::abi::ioreq as abi;
use xen_ioreq::{DomId, Errno, Gfn, IoServerId, PAGE_MASK, PAGE_SIZE};

use crate::device::{Space, Width};
use crate::dm::{Dm, DmError, MemType};
use crate::memory::{GuestMemory, MemoryError, Session};
use crate::request::{Data, Request, Run};

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
    closed: bool,
}

/// The frames of one guest whose writes come to its server.
pub struct WriteTraps {
    dm: Dm,
    server: IoServerId,
    /// Some frame may be, or have been, of the type.
    used: AtomicBool,
    /// Held while Xen is told, so that it and we say the same; not while a watcher is.
    state: Mutex<State>,
}

impl WriteTraps {
    pub(crate) fn new(dm: Dm, server: IoServerId) -> Self {
        Self { dm, server, used: AtomicBool::new(false), state: Mutex::default() }
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

    /// Writes to the frame go to RAM again. A frame that is not there any more, or is not trapped, is no error; writes that were on
    /// their way are carried out.
    pub fn clear(&self, gfn: Gfn) {
        let mut state = self.state.lock();
        if state.watched.remove(&gfn).is_none() || state.closed {
            return;
        }
        if let Err(e) = self.dm.set_mem_type(gfn, 1, MemType::RamRw) {
            log::debug!("{gfn} has gone, or is something else: {e}");
        }
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

    /// Carries out one write to RAM.
    pub(crate) fn write(
        &self,
        memory: &mut Session<'_>,
        addr: u64,
        width: Width,
        value: u64,
    ) -> Result<(), MemoryError> {
        memory.write_item(addr, width, value)?;
        self.wrote(addr, width);
        Ok(())
    }

    /// We have written to RAM, for a device from which the guest reads.
    pub(crate) fn wrote(&self, addr: u64, width: Width) {
        let first = Gfn::of_addr(addr);
        self.tell(first);
        if (addr & PAGE_MASK) + u64::from(width.bytes()) > PAGE_SIZE as u64 {
            first.checked_add(1).into_iter().for_each(|next| self.tell(next));
        }
    }

    fn tell(&self, gfn: Gfn) {
        let watcher = self.state.lock().watched.get(&gfn).cloned();
        if let Some(watcher) = watcher {
            watcher.written(gfn);
        }
    }

    /// Makes RAM of all frames, and refuses what comes later.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.watched.clear();
        if std::mem::take(&mut state.claimed)
            && let Err(e) = self.dm.release_mem_type(self.server)
        {
            log::debug!("{}: {e}", self.server);
        }
    }
}

/// Carries out the writes to RAM among requests that nobody answers: a server that goes must not take them along. Those in ranges
/// of devices (`claimed`) are not, nor is what has no RAM.
pub(crate) fn carry_out(
    requests: &[abi::ioreq],
    memory: &GuestMemory,
    claimed: impl Fn(u64) -> bool,
) -> usize {
    let to_ram = |raw: &&abi::ioreq| {
        let run = match Request::parse(raw, Some(xen_ioreq::VcpuId(0))) {
            Ok(Request::Access(run)) if run.space == Space::Mmio && !run.read => run,
            _ => return false,
        };
        !claimed(run.addr)
            && write_all(&run, memory).inspect_err(|e| log::debug!("a write to nowhere: {e}")).is_ok()
    };
    requests.iter().filter(to_ram).count()
}

fn write_all(run: &Run, memory: &GuestMemory) -> Result<(), MemoryError> {
    let (mut from, mut to) = (memory.session(), memory.session());
    (0..run.count).try_for_each(|i| {
        let value = match run.data {
            Data::Value(value) => value,
            Data::At(base) => from.read_item(run.step(base, i), run.width)?,
        };
        to.write_item(run.addr_of(i), run.width, value)
    })
}

impl fmt::Debug for WriteTraps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("WriteTraps")
            .field("server", &self.server)
            .field("claimed", &state.claimed)
            .field("watched", &state.watched.len())
            .finish_non_exhaustive()
    }
}
