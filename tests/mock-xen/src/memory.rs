//! The machine's RAM: one memfd, mapped once for the machine's life.
//!
//! A [`Page`] gives copies and atomics only, never a reference: guests, devices and device models write here at
//! any time. Further mappings of the same frames are made by [`crate::foreign`].
#![expect(unsafe_code, reason = "maps the memory and touches it through raw pointers")]

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};
use xen_ioreq::{Mfn, PAGE_SIZE};

use crate::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// All frames, in one mapping.
pub(crate) struct HostMemory {
    fd: OwnedFd,
    base: NonNull<u8>,
    frames: usize,
}

// SAFETY: the memory is reached through raw pointers that impose their own rules; the handle is a plain number.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    pub(crate) fn new(frames: usize) -> rustix::io::Result<Self> {
        let len = frames.checked_mul(PAGE_SIZE).ok_or(rustix::io::Errno::NOMEM)?;
        let fd = rustix::fs::memfd_create("mock-xen", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { fd, base, frames })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The frame, or `None` where there is no RAM.
    pub(crate) fn page(&self, mfn: Mfn) -> Option<Page<'_>> {
        let index = usize::try_from(mfn.0).ok().filter(|&i| i < self.frames)?;
        // SAFETY: index < frames, so the offset is inside the mapping.
        let ptr = unsafe { self.base.add(index * PAGE_SIZE) };
        Some(Page { ptr, memory: PhantomData })
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no Page outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.frames * PAGE_SIZE) };
    }
}

/// One frame's bytes.
#[derive(Clone, Copy)]
pub(crate) struct Page<'m> {
    ptr: NonNull<u8>,
    memory: PhantomData<&'m HostMemory>,
}

#[cfg(test)]
impl<'m> Page<'m> {
    /// A page of a mapping, as its holder sees it.
    pub(crate) fn of_mapping(mapping: &'m xen_ioreq::seam::Mapping, index: usize) -> Self {
        assert!(index < mapping.pages());
        // SAFETY: inside the mapping.
        Self { ptr: unsafe { mapping.base().add(index * PAGE_SIZE) }, memory: PhantomData }
    }

    /// The page that a device has a translation of.
    pub(crate) fn of_pin(pin: &'m crate::BusPin) -> Self {
        Self { ptr: pin.ptr, memory: PhantomData }
    }
}

impl<'m> Page<'m> {
    pub(crate) fn ptr(self) -> NonNull<u8> {
        self.ptr
    }

    /// Copies out; `offset + out.len()` must not exceed a page.
    pub(crate) fn read(self, offset: usize, out: &mut [u8]) {
        assert!(offset <= PAGE_SIZE && out.len() <= PAGE_SIZE - offset, "copy inside a page");
        // SAFETY: inside the page; `out` is private memory, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.as_ptr().add(offset), out.as_mut_ptr(), out.len()) }
    }

    /// Copies in; `offset + data.len()` must not exceed a page.
    pub(crate) fn write(self, offset: usize, data: &[u8]) {
        assert!(offset <= PAGE_SIZE && data.len() <= PAGE_SIZE - offset, "copy inside a page");
        // SAFETY: inside the page; `data` is private memory, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.ptr.as_ptr().add(offset), data.len()) }
    }

    /// Copies `len` bytes from `offset` on to `at` in another page, or the same. Both ranges must lie inside their page.
    pub(crate) fn copy_to(self, offset: usize, to: Page<'_>, at: usize, len: usize) {
        assert!(offset.max(at) <= PAGE_SIZE && len <= PAGE_SIZE - offset.max(at), "copy inside a page");
        // SAFETY: inside both pages, which may be one.
        unsafe { std::ptr::copy(self.ptr.as_ptr().add(offset), to.ptr.as_ptr().add(at), len) }
    }

    /// Fills with zeros.
    pub(crate) fn clear(self) {
        // SAFETY: the whole page and no more.
        unsafe { std::ptr::write_bytes(self.ptr.as_ptr(), 0, PAGE_SIZE) }
    }

    pub(crate) fn u8(self, offset: usize) -> &'m AtomicU8 {
        assert!(offset < PAGE_SIZE);
        // SAFETY: inside the page, which outlives `self`; whoever shares it uses atomics of this width here.
        unsafe { AtomicU8::from_ptr(self.ptr.as_ptr().add(offset)) }
    }

    pub(crate) fn u16(self, offset: usize) -> &'m AtomicU16 {
        assert!(offset.is_multiple_of(2) && offset < PAGE_SIZE);
        // SAFETY: inside the page and aligned; as for `u8`.
        unsafe { AtomicU16::from_ptr(self.ptr.as_ptr().add(offset).cast()) }
    }

    pub(crate) fn u32(self, offset: usize) -> &'m AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < PAGE_SIZE);
        // SAFETY: inside the page and aligned; as for `u8`.
        unsafe { AtomicU32::from_ptr(self.ptr.as_ptr().add(offset).cast()) }
    }

    pub(crate) fn u64(self, offset: usize) -> &'m AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < PAGE_SIZE);
        // SAFETY: inside the page and aligned; as for `u8`.
        unsafe { AtomicU64::from_ptr(self.ptr.as_ptr().add(offset).cast()) }
    }

    /// Reads 1, 2, 4 or 8 bytes as one access where they are aligned, else byte by byte.
    pub(crate) fn read_scalar(self, offset: usize, size: usize) -> u64 {
        match size {
            4 if offset.is_multiple_of(4) => u64::from(self.u32(offset).load(Ordering::Acquire)),
            8 if offset.is_multiple_of(8) => self.u64(offset).load(Ordering::Acquire),
            _ => {
                let mut b = [0; 8];
                if let Some(part) = b.get_mut(..size) {
                    self.read(offset, part);
                }
                u64::from_le_bytes(b)
            }
        }
    }

    /// Writes the low 1, 2, 4 or 8 bytes of `value` as one access where they are aligned, else byte by byte.
    pub(crate) fn write_scalar(self, offset: usize, size: usize, value: u64) {
        let b = value.to_le_bytes();
        match size {
            4 if offset.is_multiple_of(4) => {
                let [b0, b1, b2, b3, ..] = b;
                self.u32(offset).store(u32::from_le_bytes([b0, b1, b2, b3]), Ordering::Release);
            }
            8 if offset.is_multiple_of(8) => self.u64(offset).store(value, Ordering::Release),
            _ => {
                if let Some(part) = b.get(..size) {
                    self.write(offset, part);
                }
            }
        }
    }
}

/// First byte of a page that a test has a pointer to.
#[cfg(test)]
pub(crate) fn peek(ptr: NonNull<u8>) -> u8 {
    // SAFETY: tests pass pointers that a machine they hold has handed out.
    unsafe { ptr.as_ptr().read_volatile() }
}
