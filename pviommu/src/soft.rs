//! The soft IOMMU, for a hypervisor without PV-IOMMU and a device inside this process: bus frame to page.
//!
//! Promises: [`pin`](SoftIommu::pin) and `unpin` are a few atomic operations, without locks; a page stays mapped while a
//! pin on it lives; a page can be replaced behind its bus frame while it is pinned, then later pins get the new one
//! and the old one waits for its own pins. The mapping of a page is what holds the hypervisor's reference on it.
#![expect(clippy::cast_possible_truncation, reason = "u64 and usize are the same on every host of Xen's")]

use std::ptr::NonNull;

use xen_ioreq::Bfn;
use xen_ioreq::seam::MappedPage;

use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::sync::{Mutex, OnceLock};

const CHUNK: usize = 1024;
/// Most frames of a window: 256 GiB.
pub(crate) const MAX_WINDOW: u64 = 1 << 26;

/// There is a page.
const PRESENT: u64 = 1 << 63;
/// Which of the two pages new pins get.
const GENERATION: u64 = 1 << 62;
/// Pins of generation n: `PIN_BITS` bits from bit `n * PIN_BITS`.
const PIN_BITS: u32 = 28;
const PIN_MASK: u64 = (1 << PIN_BITS) - 1;

/// A translation table of this process.
pub struct SoftIommu {
    base: u64,
    chunks: Vec<OnceLock<Box<[Slot]>>>,
}

#[derive(Default)]
struct Slot {
    state: AtomicU64,
    /// The page of each generation; only looked at while that generation is pinned, so it does not change then.
    pages: [AtomicPtr<u8>; 2],
    /// What keeps the pages mapped. Not touched by pins.
    keeper: Mutex<Keeper>,
}

#[derive(Default)]
struct Keeper {
    /// The page that new pins get; `None` for own memory.
    current: Option<MappedPage>,
    /// The page of the other generation, replaced, which waits for its pins.
    old: Option<Box<MappedPage>>,
}

/// A translation in use: 4096 bytes, valid until it is given back to [`SoftIommu::unpin`]. Others write there at any
/// time: raw pointers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a pin that is lost keeps its page for ever"]
pub struct SoftPin {
    /// First byte of the page.
    pub ptr: NonNull<u8>,
    /// What [`SoftIommu::unpin`] needs: the bus frame and the page's generation.
    pub token: u64,
}

/// Nothing is mapped at this bus frame: what an IOMMU reports as a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no page at bus frame {bfn}")]
pub struct NotMapped {
    /// The bus frame.
    pub bfn: Bfn,
}

/// The page is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pinned;

impl SoftIommu {
    /// Translations for the bus frames `base .. base + frames`.
    pub(crate) fn new(base: Bfn, frames: u64) -> Self {
        let chunks = (frames.min(MAX_WINDOW) as usize).div_ceil(CHUNK);
        Self { base: base.0, chunks: (0..chunks).map(|_| OnceLock::new()).collect() }
    }

    /// The page at `bfn`, kept until it is unpinned.
    pub fn pin(&self, bfn: Bfn) -> Result<SoftPin, NotMapped> {
        let fault = NotMapped { bfn };
        let slot = self.slot(bfn).ok_or(fault)?;
        let mut state = slot.state.load(Ordering::Acquire);
        loop {
            let generation = generation(state);
            if state & PRESENT == 0 || pins(state, generation) == PIN_MASK {
                return Err(fault);
            }
            let next = state + one_pin(generation);
            match slot.state.compare_exchange_weak(state, next, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    let page = slot.page(generation).load(Ordering::Acquire);
                    let token = bfn.0 << 1 | u64::from(generation);
                    return NonNull::new(page).map(|ptr| SoftPin { ptr, token }).ok_or(fault);
                }
                Err(now) => state = now,
            }
        }
    }

    /// Ends the use of a translation. Each pin is given back once.
    pub fn unpin(&self, token: u64) {
        let generation = u32::from(token & 1 != 0);
        let Some(slot) = self.slot(Bfn(token >> 1)) else { return };
        let less = |s: u64| (pins(s, generation) != 0).then(|| s - one_pin(generation));
        if slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_err() {
            log::error!("bus frame {:#x}: unpinned more often than pinned", token >> 1);
        }
    }

    /// Puts a page behind `bfn`, which has none. `ptr` stays valid while `keeper` lives, or, without one, until
    /// [`remove`](Self::remove) has succeeded.
    pub(crate) fn insert(&self, bfn: Bfn, ptr: NonNull<u8>, keeper: Option<MappedPage>) -> bool {
        let Some(slot) = self.slot_or_new(bfn) else { return false };
        let mut kept = slot.keeper.lock();
        if slot.state.load(Ordering::Acquire) != 0 {
            return false;
        }
        kept.current = keeper;
        slot.page(0).store(ptr.as_ptr(), Ordering::Release);
        slot.state.store(PRESENT, Ordering::Release);
        true
    }

    /// Puts a fresh page behind `bfn`; pins from now on are of it. The old one stays until it is
    /// [retired](Self::retire). `false`, and the fresh one is unmapped: there is no foreign page, or it has a predecessor
    /// that is still pinned.
    pub(crate) fn replace(&self, bfn: Bfn, page: MappedPage) -> bool {
        let Some(slot) = self.slot(bfn) else { return false };
        let mut kept = slot.keeper.lock();
        let state = slot.state.load(Ordering::Acquire);
        let new = generation(state) ^ 1;
        if state & PRESENT == 0 || kept.current.is_none() || pins(state, new) != 0 {
            return false;
        }
        // Nobody looks at this generation's page: it has no pins and gets none before the flip below.
        slot.page(new).store(page.ptr().as_ptr(), Ordering::Release);
        kept.old = kept.current.replace(page).map(Box::new);
        slot.state.fetch_xor(GENERATION, Ordering::AcqRel);
        true
    }

    /// Takes the page that was replaced, if there is one, unless pins on it live.
    pub(crate) fn retire(&self, bfn: Bfn) -> Result<Option<MappedPage>, Pinned> {
        let Some(slot) = self.slot(bfn) else { return Ok(None) };
        let mut kept = slot.keeper.lock();
        let state = slot.state.load(Ordering::Acquire);
        if kept.old.is_some() && pins(state, generation(state) ^ 1) != 0 {
            return Err(Pinned);
        }
        Ok(kept.old.take().map(|page| *page))
    }

    /// Takes the page away, with its predecessor, unless one of them is pinned. Later pins fault.
    pub(crate) fn remove(&self, bfn: Bfn) -> Result<impl Iterator<Item = MappedPage> + use<>, Pinned> {
        let mut pages = [None, None];
        if let Some(slot) = self.slot(bfn) {
            let mut kept = slot.keeper.lock();
            let empty = |s: u64| (pins(s, 0) == 0 && pins(s, 1) == 0).then_some(0);
            slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, empty).map_err(|_| Pinned)?;
            let Keeper { current, old } = std::mem::take(&mut *kept);
            pages = [current, old.map(|page| *page)];
        }
        Ok(pages.into_iter().flatten())
    }

    /// Takes a foreign page away, unless it is pinned; own memory stays. Later pins fault.
    pub(crate) fn evict(&self, bfn: Bfn) -> Result<Option<MappedPage>, Pinned> {
        let Some(slot) = self.slot(bfn) else { return Ok(None) };
        let mut kept = slot.keeper.lock();
        if kept.current.is_none() {
            return Ok(None);
        }
        let empty = |s: u64| (pins(s, 0) == 0 && pins(s, 1) == 0).then_some(0);
        slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, empty).map_err(|_| Pinned)?;
        Ok(kept.current.take())
    }

    fn place(&self, bfn: Bfn) -> Option<(&OnceLock<Box<[Slot]>>, usize)> {
        let i = bfn.0.checked_sub(self.base)? as usize;
        Some((self.chunks.get(i / CHUNK)?, i % CHUNK))
    }

    fn slot(&self, bfn: Bfn) -> Option<&Slot> {
        let (chunk, i) = self.place(bfn)?;
        chunk.get()?.get(i)
    }

    fn slot_or_new(&self, bfn: Bfn) -> Option<&Slot> {
        let (chunk, i) = self.place(bfn)?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect()).get(i)
    }
}

impl Slot {
    fn page(&self, generation: u32) -> &AtomicPtr<u8> {
        let [zero, one] = &self.pages;
        if generation == 0 { zero } else { one }
    }
}

fn generation(state: u64) -> u32 {
    u32::from(state & GENERATION != 0)
}

fn one_pin(generation: u32) -> u64 {
    1 << (generation * PIN_BITS)
}

fn pins(state: u64, generation: u32) -> u64 {
    state >> (generation * PIN_BITS) & PIN_MASK
}

impl std::fmt::Debug for SoftIommu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftIommu").field("base", &Bfn(self.base)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
