//! Address space in which grants are mapped: ranges that a caller reserved, and what each page of them shows. A PV domain's addresses are
//! those of the model's own process; a translated domain has them at guest physical addresses, of which a range is a window.
//!
//! A page is switched from one frame to another by one mapping over the other, so that who reads there sees the old frame or the
//! new one and never a fault. A page without a mapping is inaccessible; with the end of its process or domain it reads as zeros.
#![expect(unsafe_code, reason = "maps frames at fixed addresses of ranges that it reserved")]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use rustix::mm::{MapFlags, ProtFlags};
use xen_ioreq::seam::{Mapping, MappingOwner};
use xen_ioreq::{Errno, Gfn, Mfn, PAGE_SIZE};

use crate::domain::Domain;
use crate::machine::Machine;
use crate::p2m::{P2m, P2mType};
use crate::process::{Held, Process};
use crate::sync::Mutex;

/// What a page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) handle: u32,
    pub(super) frame: Mfn,
    pub(super) readonly: bool,
}

/// A reserved range.
pub(crate) struct Space {
    machine: Arc<Machine>,
    domain: Arc<Domain>,
    base: Base,
    /// The domain's own address of the first page.
    first: u64,
    pages: Mutex<Vec<Page>>,
}

#[derive(Clone, Copy)]
struct Base(NonNull<u8>);

// SAFETY: an address; what is done there is done by system calls.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    shown: Option<Shown>,
    /// Its holder has let go of it, and the addresses may be somebody else's.
    released: bool,
}

/// The ranges of a domain, by their first address.
pub(crate) type Spaces = Mutex<BTreeMap<u64, Weak<Space>>>;

/// How a page looks that shows no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blank {
    Inaccessible,
    Zeros,
}

/// Reserves `count` pages for `domain`; for a translated domain those of its address space from `at` on. EINVAL: none, or none that
/// could be. EBUSY: there is something at `at`, or it is reserved. ENOMEM.
pub(crate) fn reserve(
    machine: &Arc<Machine>,
    domain: &Arc<Domain>,
    process: &Arc<Process>,
    at: Option<Gfn>,
    count: usize,
) -> Result<Mapping, Errno> {
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    let end = at.map(|first| first.checked_add(count as u64).ok_or(Errno::EINVAL)).transpose()?;
    if let (Some(first), Some(end)) = (at, end) {
        if !P2m::addressable(Gfn(end.0 - 1)) {
            return Err(Errno::EINVAL);
        }
        let p2m = domain.p2m.read();
        if (first.0..end.0).any(|gfn| p2m.get(Gfn(gfn)).is_some()) {
            return Err(Errno::EBUSY);
        }
    }
    let len = count.checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh range at an address of the kernel's choice.
    let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) };
    let base = NonNull::new(base.map_err(|_| Errno::ENOMEM)?.cast::<u8>()).ok_or(Errno::ENOMEM)?;
    let first = at.map_or(base.as_ptr().addr() as u64, Gfn::addr);
    let space = Arc::new(Space {
        machine: machine.clone(),
        domain: domain.clone(),
        base: Base(base),
        first,
        pages: Mutex::new(vec![Page::default(); count]),
    });
    let mapping = Mapping::new(base, count, space.clone());
    {
        let mut spaces = domain.grants.spaces.lock();
        if let Some(end) = end
            && reserved(&spaces, first, end.addr())
        {
            drop(spaces);
            return Err(Errno::EBUSY);
        }
        spaces.insert(first, Arc::downgrade(&space));
    }
    process.keep(&space);
    Ok(mapping)
}

/// Whether any page of `first .. end` is in a range that has not been released.
fn reserved(spaces: &BTreeMap<u64, Weak<Space>>, first: u64, end: u64) -> bool {
    let below = spaces.range(..end).rev().filter_map(|(_, space)| space.upgrade());
    below.take_while(|space| space.first + space.bytes() > first).next().is_some()
}

/// Puts frames of a translated domain's own at its lowest numbers at which nothing is and no range is reserved. ENOMEM: not enough such
/// numbers. ESRCH: the domain is dying. Either way nothing is put.
pub(crate) fn put_anywhere(domain: &Domain, frames: &[Mfn]) -> Result<Vec<Gfn>, Errno> {
    let spaces = domain.grants.spaces.lock();
    let mut p2m = domain.p2m.write();
    if domain.dying() {
        return Err(Errno::ESRCH);
    }
    let free =
        |gfn: &Gfn| p2m.get(*gfn).is_none() && !reserved(&spaces, gfn.addr(), gfn.addr() + PAGE_SIZE as u64);
    let numbers = (0..).map(Gfn).take_while(|gfn| P2m::addressable(*gfn));
    let gfns: Vec<Gfn> = numbers.filter(free).take(frames.len()).collect();
    if gfns.len() < frames.len() {
        return Err(Errno::ENOMEM);
    }
    for (gfn, mfn) in gfns.iter().zip(frames) {
        p2m.set(*gfn, *mfn, P2mType::RamRw);
    }
    Ok(gfns)
}

/// The range of a domain in which an address lies, and the page.
pub(super) fn find(domain: &Domain, address: u64) -> Option<(Arc<Space>, usize)> {
    let spaces = domain.grants.spaces.lock();
    let (first, space) = spaces.range(..=address).next_back()?;
    let index = usize::try_from((address - first) / PAGE_SIZE as u64).ok()?;
    let space = space.upgrade()?;
    let there = space.pages.lock().get(index).is_some_and(|p| !p.released);
    there.then_some((space, index))
}

impl Space {
    fn bytes(&self) -> u64 {
        (self.pages.lock().len() * PAGE_SIZE) as u64
    }

    fn at(&self, index: usize) -> *mut std::ffi::c_void {
        self.base.0.as_ptr().wrapping_add(index * PAGE_SIZE).cast()
    }

    /// What a page shows.
    pub(super) fn shown(&self, index: usize) -> Option<Shown> {
        self.pages.lock().get(index)?.shown
    }

    /// Shows a frame, in the place of whatever the page showed. ENOMEM: the host does not map it, and nothing has changed.
    /// EINVAL: the page has been released.
    pub(super) fn show(&self, index: usize, shown: Shown) -> Result<(), Errno> {
        let mut pages = self.pages.lock();
        let page = pages.get_mut(index).filter(|p| !p.released).ok_or(Errno::EINVAL)?;
        let prot = if shown.readonly { ProtFlags::READ } else { ProtFlags::READ | ProtFlags::WRITE };
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let (fd, offset) = (self.machine.memory().fd(), shown.frame.addr());
        // SAFETY: a page of our range that is still ours: `released` changes under the lock that is held.
        let done = unsafe { rustix::mm::mmap(self.at(index), PAGE_SIZE, prot, flags, fd, offset) };
        done.map_err(|_| Errno::ENOMEM)?;
        page.shown = Some(shown);
        Ok(())
    }

    /// Shows nothing any more.
    pub(super) fn hide(&self, index: usize, blank: Blank) {
        let mut pages = self.pages.lock();
        let Some(page) = pages.get_mut(index).filter(|p| !p.released) else { return };
        page.shown = None;
        let prot = match blank {
            Blank::Inaccessible => ProtFlags::empty(),
            Blank::Zeros => ProtFlags::READ | ProtFlags::WRITE,
        };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: as in `show`. It can fail only where the host is out of mappings; then the frame stays visible to its
        // mapper, who must not look there any more.
        let done = unsafe { rustix::mm::mmap_anonymous(self.at(index), PAGE_SIZE, prot, flags) };
        if let Err(e) = done {
            log::error!("{}: a page stays mapped: {e}", self.domain.id);
        }
    }

    /// Every mapping in it ends.
    fn empty(&self, blank: Blank) {
        let shown: Vec<_> = self.pages.lock().iter().filter_map(|p| p.shown).collect();
        for shown in shown {
            super::unmap::by_force(&self.machine, &self.domain, shown.handle, blank);
        }
    }
}

impl Held for Space {
    fn let_go(&self) {
        self.empty(Blank::Zeros);
    }
}

// SAFETY: pages are unmapped in `release` only, each once, after it was marked as released: nothing is mapped there then.
unsafe impl MappingOwner for Space {
    fn release(&self, first: usize, count: usize) {
        let mine: Vec<_> = self.pages.lock().iter().skip(first).take(count).filter_map(|p| p.shown).collect();
        for shown in mine {
            super::unmap::by_force(&self.machine, &self.domain, shown.handle, Blank::Inaccessible);
        }
        let all = {
            let mut pages = self.pages.lock();
            let count = count.min(pages.len().saturating_sub(first));
            pages.iter_mut().skip(first).take(count).for_each(|p| p.released = true);
            // SAFETY: pages of our range, of which the holder has let go.
            let _ = unsafe { rustix::mm::munmap(self.at(first), count * PAGE_SIZE) };
            pages.iter().all(|p| p.released)
        };
        // Unless the kernel has given these addresses to a new range already.
        let mut spaces = self.domain.grants.spaces.lock();
        if all && spaces.get(&self.first).is_some_and(|s| std::ptr::eq(s.as_ptr(), self)) {
            spaces.remove(&self.first);
        }
    }
}
