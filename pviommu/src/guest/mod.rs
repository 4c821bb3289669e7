//! One guest's mappings: hits without a shared lock, misses in batches, notices recorded at once and worked off later.
//!
//! Lock order: the guest's `slow`, then the view's turn, then index shards, then those of allocator and soft IOMMU. `slow` is held by all
//! that changes which mappings exist; taking and putting references needs none of it.

mod invalidate;
mod map;
mod release;

use std::fmt;
use std::mem;
use std::sync::Arc;

use xen_ioreq::{Bfn, DomId, IoServerId};

use crate::client::ClientInner;
use crate::mapping::{Cause, Drained, Draining, What, rests};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::table::{Index, Key, Slot, State, Status};
use crate::wire::Peer;

/// What a notice says when it does not say what: re-validate everything.
pub const EVERYTHING: u64 = u64::MAX;

/// A guest whose frames are mapped. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    pub(crate) inner: Arc<GuestInner>,
}

pub(crate) struct GuestInner {
    pub(crate) client: Arc<ClientInner>,
    /// Number within the client; not used twice, unlike a domain's.
    id: u32,
    peer: Peer,
    by_gfn: Index,
    slow: Mutex<Slow>,
    notices: Mutex<Notices>,
    /// Whether [`Guest::take_draining`] would find something.
    work: AtomicBool,
    /// Of `Notices::came`, what has been carried out.
    done: AtomicU64,
    dead: AtomicBool,
    counts: Counts,
}

/// What only one thread at a time changes.
#[derive(Default)]
struct Slow {
    /// Mappings that exist, stale ones included.
    mappings: u32,
    /// What is left of the round of [`Guest::sweep`].
    sweep: Vec<Slot>,
    /// Pages that went since everything was last renewed: at most so many still hold frames, where they hold any.
    gone: u32,
}

/// Notices up to some moment: what [`Guest::announced`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announced(u64);

#[derive(Default)]
struct Notices {
    /// How many came.
    came: u64,
    everything: bool,
    bfns: Vec<Bfn>,
    /// Tokens that were dropped on the way.
    orphans: Vec<Drained>,
}

impl Notices {
    /// All that waits; how many came stays known.
    fn take(&mut self) -> Self {
        let came = self.came;
        mem::replace(self, Self { came, ..Self::default() })
    }
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    notices: AtomicU64,
    invalidated: AtomicU64,
    released: AtomicU64,
}

/// Figures of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Mappings that exist now, draining ones included.
    pub mappings: u64,
    /// Frames that were asked for and mapped already.
    pub hits: u64,
    /// Frames that were asked for and not.
    pub misses: u64,
    /// Notices from the hypervisor.
    pub notices: u64,
    /// Mappings that were found to be no longer the guest's.
    pub invalidated: u64,
    /// Mappings that were given back.
    pub released: u64,
}

impl Guest {
    pub(crate) fn new(client: Arc<ClientInner>, id: u32, peer: Peer, secret: u64) -> Self {
        let inner = GuestInner {
            client,
            id,
            peer,
            by_gfn: Index::new(Key::Gfn, secret),
            slow: Mutex::default(),
            notices: Mutex::default(),
            work: AtomicBool::new(false),
            done: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            counts: Counts::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The domain.
    pub fn domid(&self) -> DomId {
        self.inner.peer.domid
    }

    /// The IOREQ server that hears of its frames' end.
    pub fn ioserver(&self) -> IoServerId {
        self.inner.peer.ioserver
    }

    /// Whether no mapping of it exists any more, not even a draining one.
    pub fn is_empty(&self) -> bool {
        self.inner.slow.lock().mappings == 0
    }

    /// Its figures.
    pub fn stats(&self) -> GuestStats {
        let c = &self.inner.counts;
        GuestStats {
            mappings: u64::from(self.inner.slow.lock().mappings),
            hits: c.hits.load(Ordering::Relaxed),
            misses: c.misses.load(Ordering::Relaxed),
            notices: c.notices.load(Ordering::Relaxed),
            invalidated: c.invalidated.load(Ordering::Relaxed),
            released: c.released.load(Ordering::Relaxed),
        }
    }

    fn draining(&self, drained: Drained) -> Draining {
        Draining::new(self.inner.clone(), drained)
    }
}

impl GuestInner {
    /// Number within the client.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn domid(&self) -> DomId {
        self.peer.domid
    }

    /// Gives a reference back.
    pub(crate) fn put(self: Arc<Self>, slot: Slot, bfn: Bfn) -> Option<Draining> {
        let record = self.client.records.get(slot)?;
        let State { status: Status::Idle, epoch, .. } = record.state.put() else { return None };
        let what = What::Mapping { slot, epoch };
        let drained = Drained { what, gfn: record.gfn(), bfn, cause: Cause::LastPut };
        Some(Draining::new(self, drained))
    }

    /// Whether the mapping still rests in that epoch.
    pub(crate) fn rests(&self, slot: Slot, epoch: u32) -> bool {
        self.client
            .records
            .get(slot)
            .map(|r| r.state.get())
            .is_some_and(|s| rests(s.status) && s.epoch == epoch)
    }

    /// Whether it rests and has references.
    pub(crate) fn is_held(&self, slot: Slot, epoch: u32) -> bool {
        let state = self.client.records.get(slot).map(|r| r.state.get());
        state.is_some_and(|s| s.epoch == epoch && s.refs != 0)
    }
}

impl Drop for GuestInner {
    fn drop(&mut self) {
        let left = self.slow.get_mut().mappings;
        if left != 0 {
            log::warn!(
                "{}: {left} mappings were never released; they last as long as this process",
                self.peer.domid
            );
        }
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("domid", &self.domid())
            .field("ioserver", &self.ioserver())
            .field("gfns", &self.inner.by_gfn.len())
            .finish_non_exhaustive()
    }
}
