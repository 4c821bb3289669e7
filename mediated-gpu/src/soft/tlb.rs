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

use super::engine::in_page;
use super::ggtt::Ggtt;
use super::page::Page;
use super::stream::Ahead;
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
/// Marks what may be written through.
const WRITABLE: u64 = 1 << 62;
/// The tag of an empty way: no page's.
const EMPTY: u64 = u64::MAX;

/// What is written where nothing may be written.
#[repr(align(4096))]
struct Sink(UnsafeCell<[u8; PAGE_SIZE]>);

/// What a look needs of an entry. Pins, which only the entry's end needs, lie elsewhere: blits stream through the CPU's cache,
/// and what is looked at again and again has to be short.
#[derive(Clone, Copy)]
struct Way {
    /// Number of the page, [`PROCESS`] and [`WRITABLE`].
    tag: u64,
    ptr: NonNull<u8>,
}

// SAFETY: a pointer that nobody follows but by the pin that is held beside it.
unsafe impl Send for Way {}

/// Pages that were asked for together.
#[derive(Default)]
struct Found(Vec<NonNull<u8>>);

// SAFETY: as for `Way`.
unsafe impl Send for Found {}

impl Way {
    const fn empty() -> Self {
        Self { tag: EMPTY, ptr: NonNull::dangling() }
    }

    /// Whether this is the page `key`, to be used so. A writable one serves reads.
    fn serves(&self, key: u64, access: DmaAccess) -> bool {
        self.tag == key | WRITABLE || (access == DmaAccess::Read && self.tag == key)
    }
}

/// What the cache has, while it does not change.
#[derive(Clone, Copy)]
pub(super) struct Held<'t> {
    sets: &'t [[Way; 2]],
    /// [`PROCESS`], if the addresses are the context's own.
    mark: u64,
}

// SAFETY: a `Way` is a number and a pointer to a page that is pinned as long as the cache is borrowed, and nobody can change the ways
// meanwhile; what is made of it is a `Page`, which several threads may use.
unsafe impl Send for Held<'_> {}
// SAFETY: as above.
unsafe impl Sync for Held<'_> {}

impl<'t> Held<'t> {
    /// The page that holds a graphics address, if the cache has it and it may be used so.
    #[inline]
    pub(super) fn page(self, addr: u64, access: DmaAccess) -> Option<Page<'t>> {
        // SAFETY: the pin is held by a way of the cache, which nothing can change while it is borrowed.
        self.ptr(addr, access).map(|ptr| unsafe { Page::new(ptr) })
    }

    #[inline]
    fn ptr(self, addr: u64, access: DmaAccess) -> Option<NonNull<u8>> {
        let key = addr >> PAGE_SHIFT | self.mark;
        let set = self.sets.get(Tlb::set_of(key))?;
        set.iter().find(|w| w.serves(key, access)).map(|w| w.ptr)
    }
}

pub(super) struct Tlb {
    bus: Arc<dyn BusMaster>,
    ggtt: Arc<Ggtt>,
    /// Where the context's own tables begin, if it has any.
    root: Option<Root>,
    space: Space,
    sink: Box<Sink>,
    sets: Box<[[Way; 2]]>,
    /// Of each set, the way used last; the other one is evicted.
    recent: Box<[u8]>,
    /// What keeps each way's page.
    pins: Box<[[Option<Pin>; 2]]>,
    /// Sets that hold something.
    used: Vec<usize>,
    /// Entries that made room for others.
    evicted: u64,
    /// Pages that were asked for together last.
    found: Found,
}

impl Tlb {
    pub(super) fn new(bus: Arc<dyn BusMaster>, ggtt: Arc<Ggtt>) -> Self {
        Self {
            bus,
            ggtt,
            root: None,
            space: Space::Global,
            sink: Box::new(Sink(UnsafeCell::new([0; PAGE_SIZE]))),
            sets: vec![[Way::empty(); 2]; SETS].into(),
            recent: vec![0; SETS].into(),
            pins: (0..SETS).map(|_| [None, None]).collect(),
            used: Vec::new(),
            evicted: 0,
            found: Found::default(),
        }
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

    fn mark(&self) -> u64 {
        if self.space == Space::Process && self.root.is_some() { PROCESS } else { 0 }
    }

    /// A page's number, as the cache knows it.
    #[inline]
    fn key(&self, addr: u64) -> u64 {
        addr >> PAGE_SHIFT | self.mark()
    }

    /// What it has of the selected space.
    pub(super) fn held(&self) -> Held<'_> {
        Held { sets: &self.sets, mark: self.mark() }
    }

    /// The page that holds a graphics address.
    #[inline]
    pub(super) fn page(&mut self, addr: u64, access: DmaAccess) -> Result<Page<'_>, Fault> {
        let ptr = self.translate(addr, access)?;
        // SAFETY: the pin is held by a way of this cache, which nothing can change while `self` is borrowed.
        Ok(unsafe { Page::new(ptr) })
    }

    /// The pages that hold a destination, writable, and a source.
    #[inline]
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
    pub(super) fn together(&mut self, asked: &[(u64, DmaAccess)]) -> Option<&[Page<'_>]> {
        let before = self.evicted;
        // Its room is kept: it is needed some ten thousand times a second.
        let mut found = std::mem::take(&mut self.found);
        found.0.clear();
        let all = asked.iter().all(|(addr, access)| {
            self.translate(*addr, *access).is_ok_and(|ptr| {
                found.0.push(ptr);
                true
            })
        });
        // A later one may have taken an earlier one's place, and ended its pin.
        let lost = self.evicted != before
            && asked
                .iter()
                .zip(&found.0)
                .any(|((addr, access), ptr)| self.held().ptr(*addr, *access) != Some(*ptr));
        self.found = found;
        // SAFETY: as in `page`: all of them are held now, and stay so while `self` is borrowed.
        (all && !lost).then(|| unsafe { Page::all(&self.found.0) })
    }

    /// Where a graphics address lies, if the cache knows it: to be fetched ahead.
    #[inline]
    pub(super) fn ahead(&self, addr: u64) -> Option<Ahead> {
        self.held().page(addr, DmaAccess::Read).map(|page| page.ahead(in_page(addr, 1)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "a remainder of the number of sets")]
    #[inline]
    fn set_of(key: u64) -> usize {
        (key % SETS as u64) as usize
    }

    #[inline]
    fn translate(&mut self, addr: u64, access: DmaAccess) -> Result<NonNull<u8>, Fault> {
        let key = self.key(addr);
        let at = Self::set_of(key);
        for (i, way) in (0..).zip(&self.sets[at]) {
            if way.serves(key, access) {
                self.recent[at] = i;
                return Ok(way.ptr);
            }
        }
        self.fetch(addr, key, access)
    }

    /// Looks an address up in the tables, and keeps what it finds.
    #[cold]
    fn fetch(&mut self, addr: u64, key: u64, access: DmaAccess) -> Result<NonNull<u8>, Fault> {
        let bfn = match self.root.filter(|_| key & PROCESS != 0) {
            Some(root) => {
                let leaf = self.walk(root, addr)?;
                if access == DmaAccess::Write && !leaf.writable {
                    return NonNull::new(self.sink.0.get().cast()).ok_or(Fault::Absent(addr & !PAGE_MASK));
                }
                Bfn(leaf.frame)
            }
            None => {
                let entry = self.ggtt.read(key).ok_or(Fault::Beyond(addr))?;
                entry.bfn().ok_or(Fault::Absent(addr & !PAGE_MASK))?
            }
        };
        let at = Self::set_of(key);
        let pin = self.bus.pin(bfn, access).map_err(|f| Fault::Dma(addr, f))?;
        let ptr = pin.ptr;
        let set = &mut self.sets[at];
        if set.iter().all(|w| w.tag == EMPTY) {
            self.used.push(at);
        }
        // A read-only entry for this page is the one to replace; else an empty way; else the one not used last.
        let read_only = set.iter().position(|w| w.tag == key);
        let empty = set.iter().position(|w| w.tag == EMPTY);
        let i = read_only.or(empty).unwrap_or(usize::from(1 - self.recent[at]));
        self.recent[at] = u8::from(i == 1);
        set[i] = Way { tag: if access == DmaAccess::Write { key | WRITABLE } else { key }, ptr };
        if let Some(old) = self.pins[at][i].replace(pin) {
            self.evicted += 1;
            self.bus.unpin(old);
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
            self.sets[at] = [Way::empty(); 2];
            for pin in self.pins[at].iter_mut().filter_map(Option::take) {
                self.bus.unpin(pin);
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
