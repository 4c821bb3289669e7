//! Memory that a hypercall may be given: page-aligned, written to before, never moved by the kernel.
//!
//! Xen does not fault pages in: it answers EFAULT for memory that was never written, and for memory that the kernel
//! moves meanwhile. `/dev/xen/hypercall` has the right kind; without it, locked anonymous memory serves. Used buffers
//! are kept for the next call.
#![expect(unsafe_code, reason = "memory maps")]

use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::{Errno, PAGE_SIZE};

/// Buffers up to this many pages are kept.
const KEEP_PAGES: usize = 16;
/// And no more than this many of them.
const KEEP: usize = 8;

/// Where buffers come from.
#[derive(Debug)]
pub(super) struct Pool {
    /// `/dev/xen/hypercall`, where the kernel has it.
    device: Option<OwnedFd>,
    free: Mutex<Vec<Pages>>,
}

/// A buffer in use; it goes back to the pool on drop.
#[derive(Debug)]
pub(super) struct Buffer<'a> {
    pool: &'a Pool,
    pages: Option<Pages>,
    len: usize,
}

/// A mapping of our own, shared with nobody but the hypervisor, and with that only during a call.
#[derive(Debug)]
struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory, owned.
unsafe impl Send for Pages {}

impl Pool {
    pub(super) fn new() -> Self {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/xen/hypercall", flags, Mode::empty()).ok();
        Self { device, free: Mutex::default() }
    }

    /// A buffer of `len` bytes, which hold anything. Errors: ENOMEM, and EAGAIN where RLIMIT_MEMLOCK is exhausted.
    pub(super) fn get(&self, len: usize) -> Result<Buffer<'_>, Errno> {
        let size = len.max(1).checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let mut free = self.free();
        let found = free.iter().position(|p| p.len >= size).map(|i| free.swap_remove(i));
        drop(free);
        let pages = match found {
            Some(pages) => pages,
            None => self.allocate(size)?,
        };
        Ok(Buffer { pool: self, pages: Some(pages), len })
    }

    fn allocate(&self, size: usize) -> Result<Pages, Errno> {
        // The device limits how much it gives to one descriptor, so its refusal is not the end.
        match self.device.as_ref().map(|fd| Pages::of_device(fd, size)) {
            Some(Ok(pages)) => Ok(pages),
            Some(Err(_)) | None => Pages::locked(size),
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Pages>> {
        // A list of buffers is never half changed, so a panic elsewhere does not spoil it.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer<'_> {
    /// The address to give to the hypervisor.
    pub(super) fn addr(&self) -> u64 {
        self.pages.as_ref().map_or(0, |p| p.base.as_ptr().expose_provenance() as u64)
    }

    /// The contents, between calls.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let Some(pages) = &self.pages else { return &mut [] };
        // SAFETY: `len` bytes or more are mapped and initialised, and no call is under way while `self` is borrowed.
        unsafe { slice::from_raw_parts_mut(pages.base.as_ptr(), self.len) }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let Some(pages) = self.pages.take() else { return };
        let mut free = self.pool.free();
        if pages.len <= KEEP_PAGES * PAGE_SIZE && free.len() < KEEP {
            free.push(pages);
        }
    }
}

impl Pages {
    fn of_device(fd: &OwnedFd, len: usize) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }?;
        Ok(Self { base: NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?, len })
    }

    fn locked(len: usize) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::PRIVATE) }?;
        let pages = Self { base: NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?, len };
        // A child's copy-on-write would move the page from under a call.
        // SAFETY: the mapping just made.
        unsafe { rustix::mm::madvise(base, len, Advice::LinuxDontFork) }?;
        // SAFETY: the mapping just made.
        unsafe { rustix::mm::mlock(base, len) }?;
        // SAFETY: the mapping just made, `len` bytes.
        unsafe { ptr::write_bytes(base.cast::<u8>(), 0, len) };
        Ok(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // It can fail only by splitting a mapping, which a whole one is not.
        // SAFETY: our own mapping, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_long_enough_and_used_again() {
        let pool = Pool { device: None, free: Mutex::default() };
        let first = {
            let mut b = pool.get(PAGE_SIZE + 1).expect("memory");
            assert_eq!(b.bytes().len(), PAGE_SIZE + 1);
            assert_eq!(b.addr() % PAGE_SIZE as u64, 0);
            b.bytes().fill(0x5a);
            b.addr()
        };
        let mut small = pool.get(0).expect("memory");
        assert_eq!(small.addr(), first);
        assert!(small.bytes().is_empty());
        let other = pool.get(1).expect("memory");
        assert_ne!(other.addr(), first);
        assert_eq!(pool.get(usize::MAX).err(), Some(Errno::ENOMEM));
    }

    #[test]
    fn the_pool_keeps_a_bounded_number_of_bounded_buffers() {
        let pool = Pool { device: None, free: Mutex::default() };
        let many: Vec<_> = (0..KEEP + 3).map(|_| pool.get(1).expect("memory")).collect();
        drop(many);
        assert_eq!(pool.free().len(), KEEP);
        pool.free().clear();
        drop(pool.get(KEEP_PAGES * PAGE_SIZE + 1).expect("memory"));
        assert!(pool.free().is_empty());
    }
}
