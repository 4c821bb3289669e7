//! Mappings that a domain's CPU has of frames: each page holds a reference until it is released.
//!
//! A run of frames that lies in one piece is a pointer into the machine's own mapping; otherwise the frames are mapped
//! side by side into a reserved range, where a hole is inaccessible.
#![expect(unsafe_code, reason = "maps frames at fixed addresses and vouches for the mappings")]

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};
use xen_ioreq::seam::{Mapping, MappingOwner, Prot};
use xen_ioreq::{DomId, Errno, Mfn, PAGE_SIZE};

use crate::faults::Site;
use crate::frames::Hold;
use crate::machine::Machine;
use crate::process::{Held, Process};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Pages of one mapping; each entry is the frame that it holds, `None` for a hole and for what has been released.
pub(crate) struct Pages {
    machine: Arc<Machine>,
    by: DomId,
    process: Arc<Process>,
    frames: Mutex<Vec<Option<Mfn>>>,
    /// The reserved range, if there is one.
    range: Option<Range>,
}

#[derive(Clone, Copy)]
struct Range(NonNull<u8>);

// SAFETY: the range is an address, unmapped page by page through `release`; nothing is reached through it here.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

// SAFETY: the machine's memory stays mapped while `machine` is held, and a reserved range until its pages are
// released; `release` touches only the pages that it is told of.
unsafe impl MappingOwner for Pages {
    fn release(&self, first: usize, count: usize) {
        let let_go = |_| {
            if let Some(Range(base)) = &self.range {
                let count = count.min(self.frames.lock().len().saturating_sub(first));
                // SAFETY: these pages are part of the range that `map` reserved, and their user has let go of them.
                let _ = unsafe {
                    rustix::mm::munmap(base.as_ptr().add(first * PAGE_SIZE).cast(), count * PAGE_SIZE)
                };
            }
            self.give_back(first, count);
            Ok(())
        };
        // A thread that unwinds is not killed once more. What a dead process held has been given back; its range has not, since
        // it is part of this one.
        if std::thread::panicking() || self.process.dead() {
            let _ = let_go(None);
        } else {
            let _ = self.process.call(&self.machine.faults, Site::ForeignUnmap, let_go);
        }
    }
}

impl Pages {
    fn give_back(&self, first: usize, count: usize) {
        let mut frames = self.frames.lock();
        let held: Vec<Mfn> = frames.iter_mut().skip(first).take(count).filter_map(Option::take).collect();
        self.machine.frames(|t| {
            for mfn in held {
                t.release(mfn, Hold::HostMap(self.by));
            }
        });
    }
}

impl Held for Pages {
    fn let_go(&self) {
        self.give_back(0, usize::MAX);
    }
}

/// Maps frames, on each of which the caller has already taken a `HostMap` reference for `by`. On error the references
/// are given back.
pub(crate) fn map(
    machine: &Arc<Machine>,
    by: DomId,
    process: &Arc<Process>,
    frames: Vec<Option<Mfn>>,
    prot: Prot,
) -> Result<Mapping, Errno> {
    let count = frames.len();
    let one_piece = in_one_piece(machine, &frames).filter(|_| prot == Prot::ReadWrite);
    let (machine, process) = (machine.clone(), process.clone());
    let mut pages = Pages { machine, by, process, frames: Mutex::new(frames), range: None };
    let kept = |pages: Pages, base| {
        let pages = Arc::new(pages);
        pages.process.keep(&pages);
        Ok(Mapping::new(base, count, pages))
    };
    if let Some(base) = one_piece {
        return kept(pages, base);
    }
    match reserve(count) {
        Ok(base) => pages.range = Some(Range(base)),
        Err(e) => {
            pages.let_go();
            return Err(e);
        }
    }
    let protection = match prot {
        Prot::Read => ProtFlags::READ,
        Prot::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
    };
    let Some(Range(base)) = pages.range else { return Err(Errno::ENOMEM) };
    let placed = place(&pages.machine, base, &pages.frames.lock(), protection);
    if let Err(e) = placed {
        pages.let_go();
        return Err(e);
    }
    kept(pages, base)
}

/// Keeps what `kept` has mapped until the last of its pages is released.
struct Kept<T> {
    kept: Mutex<Option<T>>,
    left: AtomicUsize,
}

// SAFETY: the pages are those of the value inside, which goes only when each has been released once.
unsafe impl<T: Send> MappingOwner for Kept<T> {
    fn release(&self, _first: usize, count: usize) {
        if self.left.fetch_sub(count, Ordering::AcqRel) == count {
            drop(self.kept.lock().take());
        }
    }
}

/// `pages` pages at `base`, which stay mapped while `what` lives, as a mapping that owns it.
pub(crate) fn kept<T: Send + 'static>(base: NonNull<u8>, pages: usize, what: T) -> Mapping {
    let owner = Kept { kept: Mutex::new(Some(what)), left: AtomicUsize::new(pages) };
    Mapping::new(base, pages, Arc::new(owner))
}

/// Where the frames lie, if they are neighbours in the right order and without holes.
fn in_one_piece(machine: &Machine, frames: &[Option<Mfn>]) -> Option<NonNull<u8>> {
    let first = (*frames.first()?)?;
    let neighbours = (0u64..).zip(frames).all(|(i, f)| *f == first.checked_add(i));
    Some(machine.memory().page(first).filter(|_| neighbours)?.ptr())
}

fn reserve(count: usize) -> Result<NonNull<u8>, Errno> {
    let len = count.max(1).checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh range at an address of the kernel's choice.
    let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) };
    NonNull::new(base.map_err(|_| Errno::ENOMEM)?.cast()).ok_or(Errno::ENOMEM)
}

/// Puts each run of neighbouring frames at its place in the range.
fn place(machine: &Machine, base: NonNull<u8>, frames: &[Option<Mfn>], prot: ProtFlags) -> Result<(), Errno> {
    let mut at = 0;
    while let Some(frame) = frames.get(at) {
        let Some(first) = *frame else {
            at += 1;
            continue;
        };
        let run = (0u64..)
            .zip(frames.get(at..).unwrap_or(&[]))
            .take_while(|(i, f)| **f == first.checked_add(*i))
            .count();
        // SAFETY: the pages lie inside the range that `reserve` made and nobody uses yet.
        let mapped = unsafe {
            let to = base.as_ptr().add(at * PAGE_SIZE).cast();
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            rustix::mm::mmap(to, run * PAGE_SIZE, prot, flags, machine.memory().fd(), first.addr())
        };
        mapped.map_err(|_| Errno::ENOMEM)?;
        at += run;
    }
    Ok(())
}
