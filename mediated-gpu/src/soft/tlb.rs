//! An engine's translation cache: graphics page to pinned bus frame, two ways a set.
//!
//! Every entry is a live pin. An entry goes when its set needs the place, when a store finds a read-only one, and
//! all go at a flush. Two pages asked for together stay together, whatever sets they are in.
#![expect(unsafe_code, reason = "pages are made from the pins held here")]

use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::{PAGE_MASK, PAGE_SHIFT};

use super::ggtt::Ggtt;
use super::page::Page;
use crate::bus::{BusMaster, DmaAccess, DmaFault, Pin};

/// Sets: with two ways, room for two surfaces of 8 MiB.
const SETS: usize = 2048;

/// An access that led nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The table ends before the address.
    #[error("graphics address {0:#x} is beyond the GGTT")]
    Beyond(u64),
    /// The entry is not present.
    #[error("graphics address {0:#x} is not mapped")]
    Absent(u64),
    /// The bus refused.
    #[error("graphics address {0:#x}: {1}")]
    Dma(u64, DmaFault),
}

impl Fault {
    /// The graphics address.
    pub(super) fn addr(&self) -> u64 {
        match *self {
            Self::Beyond(a) | Self::Absent(a) | Self::Dma(a, _) => a,
        }
    }
}

struct Way {
    page: u64,
    access: DmaAccess,
    pin: Pin,
}

#[derive(Default)]
struct Set {
    ways: [Option<Way>; 2],
    /// The way used last; the other one is evicted.
    recent: usize,
}

pub(super) struct Tlb {
    bus: Arc<dyn BusMaster>,
    ggtt: Arc<Ggtt>,
    sets: Box<[Set]>,
    /// Sets that hold something.
    used: Vec<usize>,
}

impl Tlb {
    pub(super) fn new(bus: Arc<dyn BusMaster>, ggtt: Arc<Ggtt>) -> Self {
        let sets = (0..SETS).map(|_| Set::default()).collect();
        Self { bus, ggtt, sets, used: Vec::new() }
    }

    /// The page that holds a graphics address.
    pub(super) fn page(&mut self, addr: u64, access: DmaAccess) -> Result<Page<'_>, Fault> {
        let ptr = self.translate(addr, access)?;
        // SAFETY: the pin is held by a way of this cache, which nothing can change while `self` is borrowed.
        Ok(unsafe { Page::new(ptr) })
    }

    /// The pages that hold a destination, writable, and a source.
    pub(super) fn pair(&mut self, dst: u64, src: u64) -> Result<(Page<'_>, Page<'_>), Fault> {
        // The destination first: if both are one page, the source finds the writable entry and need not replace
        // it; if both fall in one set, the source takes the other way, since the destination was used last.
        let dst = self.translate(dst, DmaAccess::Write)?;
        let src = self.translate(src, DmaAccess::Read)?;
        // SAFETY: as in `page`; by the order above the second translation did not end the first one's pin.
        Ok(unsafe { (Page::new(dst), Page::new(src)) })
    }

    /// The page that holds a graphics address, if the cache has it.
    pub(super) fn peek(&self, addr: u64) -> Option<Page<'_>> {
        let page = addr >> PAGE_SHIFT;
        let set = self.sets.get(usize::try_from(page).ok()? % SETS)?;
        let way = set.ways.iter().flatten().find(|w| w.page == page)?;
        // SAFETY: as in `page`.
        Some(unsafe { Page::new(way.pin.ptr) })
    }

    fn translate(&mut self, addr: u64, access: DmaAccess) -> Result<NonNull<u8>, Fault> {
        let page = addr >> PAGE_SHIFT;
        let at = usize::try_from(page).map_err(|_| Fault::Beyond(addr))? % SETS;
        let set = &mut self.sets[at];
        let hit = set.ways.iter().position(|w| w.as_ref().is_some_and(|w| w.page == page));
        if let Some((i, way)) = hit.and_then(|i| Some((i, set.ways[i].as_ref()?)))
            && (way.access == DmaAccess::Write || access == DmaAccess::Read)
        {
            set.recent = i;
            return Ok(way.pin.ptr);
        }
        let bfn =
            self.ggtt.read(page).ok_or(Fault::Beyond(addr))?.bfn().ok_or(Fault::Absent(addr & !PAGE_MASK))?;
        let pin = self.bus.pin(bfn, access).map_err(|f| Fault::Dma(addr, f))?;
        let ptr = pin.ptr;
        if set.ways.iter().all(Option::is_none) {
            self.used.push(at);
        }
        // A read-only entry for this page is the one to replace; else an empty way; else the one not used last.
        let empty = set.ways.iter().position(Option::is_none);
        let i = hit.or(empty).unwrap_or(1 - set.recent);
        set.recent = i;
        if let Some(old) = set.ways[i].replace(Way { page, access, pin }) {
            self.bus.unpin(old.pin);
        }
        Ok(ptr)
    }

    /// Gives every pin back.
    pub(super) fn flush(&mut self) {
        for at in self.used.drain(..) {
            for way in &mut self.sets[at].ways {
                if let Some(way) = way.take() {
                    self.bus.unpin(way.pin);
                }
            }
        }
    }
}

impl Drop for Tlb {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
#[path = "tlb_tests.rs"]
mod tests;
