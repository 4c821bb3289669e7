//! An engine's translation cache: graphics page to pinned bus frame, two ways a set.
//!
//! Every entry is a live pin. An entry goes when its set needs the place, when a store finds a read-only one, and
//! all go at a flush. Two pages asked for together stay together, whatever sets they are in. Addresses are those of
//! the selected space: the GGTT's, or those of the running context's own tables (PPGTT).
#![expect(unsafe_code, reason = "pages are made from the pins held here")]

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::{Bfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};

use super::ggtt::Ggtt;
use super::page::Page;
use crate::bus::{BusMaster, DmaAccess, DmaFault, Pin};
use crate::gen8::ppgtt::{self, Entry, Root};

/// Sets: with two ways, room for two surfaces of 8 MiB.
const SETS: usize = 2048;

/// An access that led nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The table ends before the address.
    #[error("graphics address {0:#x} is beyond the table")]
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

/// Whose addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// The GPU's.
    Global,
    /// The running context's, if it has tables of its own, else the GPU's.
    Process,
}

/// Marks a page number as one of the context's own.
const PROCESS: u64 = 1 << 63;

/// What is written where nothing may be written.
#[repr(align(4096))]
struct Sink(UnsafeCell<[u8; PAGE_SIZE]>);

struct Way {
    /// Number of the page, and [`PROCESS`].
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
    /// Where the context's own tables begin, if it has any.
    root: Option<Root>,
    space: Space,
    sink: Box<Sink>,
    sets: Box<[Set]>,
    /// Sets that hold something.
    used: Vec<usize>,
}

impl Tlb {
    pub(super) fn new(bus: Arc<dyn BusMaster>, ggtt: Arc<Ggtt>) -> Self {
        let sets = (0..SETS).map(|_| Set::default()).collect();
        let sink = Box::new(Sink(UnsafeCell::new([0; PAGE_SIZE])));
        Self { bus, ggtt, root: None, space: Space::Global, sink, sets, used: Vec::new() }
    }

    /// The context that runs from now on has these tables. Translations of others go.
    pub(super) fn set_root(&mut self, root: Option<Root>) {
        if root != self.root {
            self.flush();
            self.root = root;
        }
    }

    /// Selects whose addresses the calls that follow mean. Returns what was selected before.
    pub(super) fn select(&mut self, space: Space) -> Space {
        std::mem::replace(&mut self.space, space)
    }

    /// A page's number, as the cache knows it.
    fn key(&self, addr: u64) -> u64 {
        let mark = if self.space == Space::Process && self.root.is_some() { PROCESS } else { 0 };
        addr >> PAGE_SHIFT | mark
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

    /// The pages of several addresses, all at once. `None`: one of them leads nowhere, may not be written, or has no place in
    /// the cache beside the others.
    pub(super) fn together(&mut self, asked: &[(u64, DmaAccess)]) -> Option<Vec<Page<'_>>> {
        for (addr, access) in asked {
            self.translate(*addr, *access).ok()?;
        }
        // A later one may have taken an earlier one's place, and ended its pin.
        asked.iter().map(|(addr, access)| self.held(*addr, *access)).collect()
    }

    /// The page that holds a graphics address, if the cache has it and it may be used so.
    fn held(&self, addr: u64, access: DmaAccess) -> Option<Page<'_>> {
        let page = self.key(addr);
        let set = self.sets.get(Self::set_of(page))?;
        let way = set.ways.iter().flatten().find(|w| w.page == page)?;
        let may = way.access == DmaAccess::Write || access == DmaAccess::Read;
        // SAFETY: as in `page`; what is held now stays so while `self` is borrowed.
        may.then(|| unsafe { Page::new(way.pin.ptr) })
    }

    /// The page that holds a graphics address, if the cache has it.
    pub(super) fn peek(&self, addr: u64) -> Option<Page<'_>> {
        self.held(addr, DmaAccess::Read)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a remainder of the number of sets")]
    fn set_of(page: u64) -> usize {
        (page % SETS as u64) as usize
    }

    fn translate(&mut self, addr: u64, access: DmaAccess) -> Result<NonNull<u8>, Fault> {
        let page = self.key(addr);
        let at = Self::set_of(page);
        let set = &mut self.sets[at];
        let hit = set.ways.iter().position(|w| w.as_ref().is_some_and(|w| w.page == page));
        if let Some((i, way)) = hit.and_then(|i| Some((i, set.ways[i].as_ref()?)))
            && (way.access == DmaAccess::Write || access == DmaAccess::Read)
        {
            set.recent = i;
            return Ok(way.pin.ptr);
        }
        let bfn = match self.root.filter(|_| page & PROCESS != 0) {
            Some(root) => {
                let leaf = self.walk(root, addr)?;
                if access == DmaAccess::Write && !leaf.writable {
                    return NonNull::new(self.sink.0.get().cast()).ok_or(Fault::Absent(addr & !PAGE_MASK));
                }
                Bfn(leaf.frame)
            }
            None => {
                let entry = self.ggtt.read(page).ok_or(Fault::Beyond(addr))?;
                entry.bfn().ok_or(Fault::Absent(addr & !PAGE_MASK))?
            }
        };
        let set = &mut self.sets[at];
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

    /// Walks the context's own tables. Each is pinned for the time of one look.
    fn walk(&self, root: Root, addr: u64) -> Result<ppgtt::Leaf, Fault> {
        let read = |frame, index| {
            let pin = self.bus.pin(Bfn(frame), DmaAccess::Read).map_err(|f| Fault::Dma(addr, f))?;
            // SAFETY: the pin is given back after the page was read.
            let entry = unsafe { Page::new(pin.ptr) }.load64(index * ppgtt::ENTRY_SIZE);
            self.bus.unpin(pin);
            Ok(Entry(entry))
        };
        if addr >> ppgtt::ADDRESS_BITS != 0 {
            return Err(Fault::Beyond(addr));
        }
        ppgtt::walk(root, addr, read)?.ok_or(Fault::Absent(addr & !PAGE_MASK))
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
