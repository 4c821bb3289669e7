//! Slots that hold the live mappings: found by number without a lock, never moved, used again when free.

use xen_ioreq::{Bfn, Gfn};

use super::AtomicState;
use crate::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, OnceLock};

const CHUNK: usize = 4096;
/// 2^25 slots: 128 GiB of guest memory within a device's reach.
const CHUNKS: usize = 8192;

/// One mapping. 32 bytes; the indices over it add a `u32` each.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) state: AtomicState,
    bfn: AtomicU64,
    gfn: AtomicU64,
    guest: AtomicU32,
}

impl Record {
    pub(crate) fn bfn(&self) -> Bfn {
        Bfn(self.bfn.load(Ordering::Acquire))
    }

    pub(crate) fn gfn(&self) -> Gfn {
        Gfn(self.gfn.load(Ordering::Acquire))
    }

    /// Changes the key: only while no index refers to the record by it.
    pub(crate) fn set_gfn(&self, gfn: Gfn) {
        self.gfn.store(gfn.0, Ordering::Release);
    }

    /// The guest's number within the client.
    pub(crate) fn guest(&self) -> u32 {
        self.guest.load(Ordering::Acquire)
    }
}

/// A slot's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u32);

pub(crate) struct Arena {
    chunks: Vec<OnceLock<Box<[Record]>>>,
    /// Slots that were used and are free again.
    free: Mutex<Vec<u32>>,
    /// Slots that were ever used.
    used: AtomicUsize,
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            free: Mutex::default(),
            used: AtomicUsize::new(0),
        }
    }

    /// The record of a slot; `None` only for a number that was never handed out.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Record> {
        let i = slot.0 as usize;
        self.chunks.get(i / CHUNK)?.get()?.get(i % CHUNK)
    }

    /// A slot for a mapping, live and with one reference; `None` when all are taken.
    pub(crate) fn insert(&self, guest: u32, gfn: Gfn, bfn: Bfn) -> Option<Slot> {
        let slot = self.take()?;
        let record = self.get(slot)?;
        record.bfn.store(bfn.0, Ordering::Relaxed);
        record.gfn.store(gfn.0, Ordering::Relaxed);
        record.guest.store(guest, Ordering::Relaxed);
        record.state.occupy();
        Some(slot)
    }

    /// Frees a slot to which no index refers any more.
    pub(crate) fn remove(&self, slot: Slot) {
        if let Some(record) = self.get(slot) {
            record.state.vacate();
            self.free.lock().push(slot.0);
        }
    }

    fn take(&self) -> Option<Slot> {
        let mut free = self.free.lock();
        if let Some(slot) = free.pop() {
            return Some(Slot(slot));
        }
        let next = self.used.load(Ordering::Relaxed);
        self.chunks.get(next / CHUNK)?.get_or_init(|| (0..CHUNK).map(|_| Record::default()).collect());
        self.used.store(next + 1, Ordering::Relaxed);
        u32::try_from(next).ok().map(Slot)
    }
}
