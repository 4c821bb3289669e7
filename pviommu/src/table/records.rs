//! The live mappings: found by number without a lock and by bus frame, never moved.
//!
//! Where we choose bus frames the number is the bus frame's place in the window, so that what is said of a bus frame is
//! one cache line away. Where the hypervisor tells them, they may lie anywhere: numbers are handed out, and an
//! index finds them.

use xen_ioreq::{Bfn, Gfn};

use super::chunks::Chunks;
use super::index::{Index, Key};
use super::prefetch::prefetch;
use super::{AtomicState, Status};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// log2 of the records in small chunks, in small pages, where we choose bus frames, and where they are told: there a mapping costs
/// more by the bus frame and the second index, so less can be in stock.
const CHOSEN_IN_SMALLS: u32 = 16;
const TOLD_IN_SMALLS: u32 = 18;
/// Mappings of told bus frames: 128 GiB of guest memory within a device's reach.
const MOST_TOLD: usize = 1 << 25;

/// Bits of a guest frame number: an x86 processor has 52 bits of physical address at most.
const GFN_BITS: u32 = 40;
/// Guests that a client can have had.
pub(crate) const MOST_GUESTS: u32 = 1 << (u64::BITS - GFN_BITS);

/// One mapping. 16 bytes, so that many of a million lie in a cache; the indices over it add a `u32` and a byte each.
#[derive(Debug, Default)]
#[repr(align(16))]
pub(crate) struct Record {
    pub(crate) state: AtomicState,
    /// The guest's number within the client, above its frame number.
    frame: AtomicU64,
}

impl Record {
    pub(crate) fn gfn(&self) -> Gfn {
        Gfn(self.frame.load(Ordering::Acquire) & ((1 << GFN_BITS) - 1))
    }

    /// The guest's number within the client.
    pub(crate) fn guest(&self) -> u32 {
        // So many bits are left of it.
        u32::try_from(self.frame.load(Ordering::Acquire) >> GFN_BITS).unwrap_or(u32::MAX)
    }

    /// Changes the key: only while no index refers to the record by it. `false`: neither number is that large.
    pub(crate) fn set_frame(&self, guest: u32, gfn: Gfn) -> bool {
        let fits = guest < MOST_GUESTS && gfn.0 >> GFN_BITS == 0;
        if fits {
            self.frame.store(u64::from(guest) << GFN_BITS | gfn.0, Ordering::Release);
        }
        fits
    }
}

/// A record's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u32);

pub(crate) struct Records {
    records: Chunks<Record>,
    places: Places,
}

/// Which number a bus frame's mapping has.
enum Places {
    /// Its distance from `base`.
    Window { base: u64, live: AtomicUsize },
    /// What `by_bfn` says.
    Told {
        by_bfn: Index,
        bfns: Chunks<AtomicU64>,
        /// Numbers that were used and are free again.
        free: Mutex<Vec<u32>>,
        /// Numbers that were ever used.
        used: AtomicUsize,
    },
}

impl Records {
    /// For the bus frames `base .. base + frames`.
    pub(crate) fn of_window(base: Bfn, frames: u64) -> Self {
        let most = usize::try_from(frames).unwrap_or(usize::MAX);
        let places = Places::Window { base: base.0, live: AtomicUsize::new(0) };
        Self { records: Chunks::new(most, CHOSEN_IN_SMALLS), places }
    }

    /// For bus frames that are told; see [`Index::new`] about the secret.
    pub(crate) fn of_told(secret: u64) -> Self {
        let (by_bfn, bfns) = (Index::new(Key::Bfn, secret), Chunks::new(MOST_TOLD, TOLD_IN_SMALLS));
        let places = Places::Told { by_bfn, bfns, free: Mutex::default(), used: AtomicUsize::new(0) };
        Self { records: Chunks::new(MOST_TOLD, TOLD_IN_SMALLS), places }
    }

    /// Where a mapping is in bus address space; `None` only for a number that was never in use.
    pub(crate) fn bfn(&self, slot: Slot) -> Option<Bfn> {
        match &self.places {
            Places::Window { base, .. } => Some(Bfn(base.checked_add(u64::from(slot.0))?)),
            Places::Told { bfns, .. } => Some(Bfn(bfns.get(slot.0 as usize)?.load(Ordering::Acquire))),
        }
    }

    /// The record of a number; `None` only for one that was never in use.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Record> {
        self.records.get(slot.0 as usize)
    }

    /// Calls `f` with the mapping at a bus frame, if there is one that is not being released.
    pub(crate) fn find<R>(&self, bfn: Bfn, f: impl FnOnce(Slot, &Record) -> R) -> Option<R> {
        match &self.places {
            Places::Told { by_bfn, .. } => by_bfn.find(self, bfn.0, f),
            Places::Window { base, .. } => {
                let slot = slot_in(*base, bfn)?;
                let record = self.get(slot)?;
                let there = !matches!(record.state.get().status, Status::Free | Status::Releasing);
                there.then(|| f(slot, record))
            }
        }
    }

    /// The number of the mapping at a bus frame, if there is one. There need not be one any more, or not yet: the record
    /// is not looked at.
    pub(crate) fn slot(&self, bfn: Bfn) -> Option<Slot> {
        match &self.places {
            Places::Told { by_bfn, .. } => by_bfn.find(self, bfn.0, |slot, _| slot),
            Places::Window { base, .. } => slot_in(*base, bfn),
        }
    }

    /// Fetches the lines in which [`find`](Self::find) will look.
    pub(crate) fn prefetch(&self, bfn: Bfn) {
        match &self.places {
            Places::Told { by_bfn, .. } => by_bfn.prefetch(bfn.0),
            Places::Window { base, .. } => {
                slot_in(*base, bfn).into_iter().for_each(|s| self.prefetch_slot(s))
            }
        }
    }

    /// Fetches the line of a record.
    pub(crate) fn prefetch_slot(&self, slot: Slot) {
        if let Some(record) = self.get(slot) {
            prefetch(record);
        }
    }

    /// A mapping that is live and has one reference; `None` if there is one at that bus frame, or no room, or no guest has such
    /// a frame.
    pub(crate) fn insert(&self, guest: u32, gfn: Gfn, bfn: Bfn) -> Option<Slot> {
        let slot = match &self.places {
            Places::Window { base, .. } => slot_in(*base, bfn)?,
            Places::Told { free, used, .. } => {
                let mut free = free.lock();
                free.pop().map_or_else(
                    || {
                        let next = used.load(Ordering::Relaxed);
                        let slot = u32::try_from(next).ok().filter(|_| next < MOST_TOLD)?;
                        used.store(next + 1, Ordering::Relaxed);
                        Some(Slot(slot))
                    },
                    |slot| Some(Slot(slot)),
                )?
            }
        };
        let record = self.records.get_or_make(slot.0 as usize)?;
        if record.state.get().status != Status::Free || !record.set_frame(guest, gfn) {
            return None;
        }
        if let Places::Told { bfns, .. } = &self.places {
            bfns.get_or_make(slot.0 as usize)?.store(bfn.0, Ordering::Release);
        }
        record.state.occupy();
        self.found_by_bfn(slot);
        Some(slot)
    }

    /// Takes a mapping out that is being released, before the hypervisor is told: its bus frame may be another's at
    /// once. Either [`forget`](Self::forget) or [`restore`](Self::restore) is next.
    pub(crate) fn withdraw(&self, slot: Slot) {
        match &self.places {
            Places::Told { by_bfn, .. } => by_bfn.remove(self, slot),
            Places::Window { live, .. } => {
                live.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if let Some(record) = self.get(slot) {
            record.state.vacate();
        }
    }

    /// The hypervisor has been told. In a window the number may be in use again already.
    pub(crate) fn forget(&self, slot: Slot) {
        if let Places::Told { free, .. } = &self.places {
            free.lock().push(slot.0);
        }
    }

    /// The hypervisor has not taken it: the mapping is there as before, stale, in the epoch that is returned.
    pub(crate) fn restore(&self, slot: Slot) -> u32 {
        let epoch = self.get(slot).map_or(0, |r| r.state.occupy_stale());
        self.found_by_bfn(slot);
        epoch
    }

    fn found_by_bfn(&self, slot: Slot) {
        match &self.places {
            Places::Told { by_bfn, .. } => {
                by_bfn.insert(self, slot);
            }
            Places::Window { live, .. } => {
                live.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many mappings there are that are not being released.
    pub(crate) fn len(&self) -> usize {
        match &self.places {
            Places::Told { by_bfn, .. } => by_bfn.len(),
            Places::Window { live, .. } => live.load(Ordering::Relaxed),
        }
    }
}

fn slot_in(base: u64, bfn: Bfn) -> Option<Slot> {
    u32::try_from(bfn.0.checked_sub(base)?).ok().map(Slot)
}
