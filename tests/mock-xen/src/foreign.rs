//! Mappings that a domain's CPU has of frames: each page holds a reference until it is released.
//!
//! A run of frames that lies in one piece is a pointer into the machine's own mapping; otherwise the frames are mapped
//! side by side into a reserved range, where a hole is inaccessible.
#![expect(unsafe_code, reason = "maps frames at fixed addresses and vouches for the mappings")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::mm::{MapFlags, ProtFlags};
use xen_ioreq::seam::{Mapping, MappingOwner, Prot};
use xen_ioreq::{DomId, Errno, Mfn, PAGE_SIZE};

use crate::frames::Hold;
use crate::machine::Machine;

/// Pages of one mapping; each entry is the frame that it holds, `None` for a hole.
struct Pages {
    machine: Arc<Machine>,
    by: DomId,
    frames: Vec<Option<Mfn>>,
    /// The reserved range, if there is one.
    range: Option<Range>,
}

struct Range(NonNull<u8>);

// SAFETY: the range is an address, unmapped page by page through `release`; nothing is reached through it here.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

// SAFETY: the machine's memory stays mapped while `machine` is held, and a reserved range until its pages are
// released; `release` touches only the pages that it is told of.
unsafe impl MappingOwner for Pages {
    fn release(&self, first: usize, count: usize) {
        let Some(frames) = self.frames.get(first..).map(|f| f.get(..count).unwrap_or(f)) else { return };
        if let Some(Range(base)) = &self.range {
            // SAFETY: these pages are part of the range that `map` reserved, and their user has let go of them.
            let _ = unsafe {
                rustix::mm::munmap(base.as_ptr().add(first * PAGE_SIZE).cast(), frames.len() * PAGE_SIZE)
            };
        }
        self.machine.frames(|t| {
            for mfn in frames.iter().flatten() {
                t.release(*mfn, Hold::HostMap(self.by));
            }
        });
    }
}

/// Maps frames, on each of which the caller has already taken a `HostMap` reference for `by`. On error the references
/// are given back.
pub(crate) fn map(
    machine: &Arc<Machine>,
    by: DomId,
    frames: Vec<Option<Mfn>>,
    prot: Prot,
) -> Result<Mapping, Errno> {
    let mut pages = Pages { machine: machine.clone(), by, frames, range: None };
    let count = pages.frames.len();
    if let Some(base) = in_one_piece(machine, &pages.frames).filter(|_| prot == Prot::ReadWrite) {
        return Ok(Mapping::new(base, count, Arc::new(pages)));
    }
    match reserve(count) {
        Ok(base) => pages.range = Some(Range(base)),
        Err(e) => {
            pages.release(0, count);
            return Err(e);
        }
    }
    let protection = match prot {
        Prot::Read => ProtFlags::READ,
        Prot::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
    };
    if let Some(Range(base)) = &pages.range {
        let base = *base;
        if let Err(e) = place(machine, base, &pages.frames, protection) {
            pages.release(0, count);
            return Err(e);
        }
        return Ok(Mapping::new(base, count, Arc::new(pages)));
    }
    Err(Errno::ENOMEM)
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
