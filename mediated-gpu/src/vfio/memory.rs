//! Pages that a device may write to at any time.
#![expect(unsafe_code, reason = "memory that a device writes to: no Rust type owns such")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use xen_ioreq::{Errno, PAGE_SIZE};

/// Zeroed pages in a row. Shared with children of this process, so that none of them ever gets the pages in its parent's place.
pub struct DmaMemory {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: an address and a length; all accesses are atomic, and others' are expected at any time.
unsafe impl Send for DmaMemory {}
// SAFETY: as above.
unsafe impl Sync for DmaMemory {}

impl DmaMemory {
    /// `pages` pages.
    ///
    /// # Errors
    /// EINVAL: none, or more than there are addresses. ENOMEM: no memory.
    pub fn new(pages: usize) -> Result<Self, Errno> {
        let size = pages.checked_mul(PAGE_SIZE).filter(|s| *s != 0).ok_or(Errno::EINVAL)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), size, protection, MapFlags::SHARED) }?;
        Ok(Self { base: NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?, pages })
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.pages as u64 * PAGE_SIZE as u64
    }

    /// First byte of a page. The device writes there at any time: raw pointers only.
    pub fn page(&self, index: usize) -> Option<NonNull<u8>> {
        if index >= self.pages {
            return None;
        }
        // SAFETY: the page is inside the mapping.
        Some(unsafe { self.base.add(index * PAGE_SIZE) })
    }

    /// Its address, for the kernel.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    fn byte(&self, at: usize) -> Option<&AtomicU8> {
        if at >= self.pages * PAGE_SIZE {
            return None;
        }
        // SAFETY: inside the mapping, which lives as long as `self`, and accessed atomically only.
        Some(unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(at)) })
    }

    /// Copies from a byte offset on. What lies beyond the end is not copied.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        for (at, to) in (offset..).zip(bytes) {
            let Some(byte) = self.byte(at) else { return };
            *to = byte.load(Ordering::Relaxed);
        }
    }

    /// Copies to a byte offset on. What lies beyond the end is not copied.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        for (at, from) in (offset..).zip(bytes) {
            let Some(byte) = self.byte(at) else { return };
            byte.store(*from, Ordering::Relaxed);
        }
    }
}

impl Drop for DmaMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nobody has a pointer into it, and no device reaches it: a `Reach` keeps it.
        if let Err(e) = unsafe { munmap(self.base.as_ptr().cast(), self.pages * PAGE_SIZE) } {
            log::error!("munmap: {e}");
        }
    }
}

impl fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaMemory").field("base", &self.base).field("pages", &self.pages).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_it_was_written_and_ends_where_it_ends() {
        let memory = DmaMemory::new(2).unwrap();
        assert_eq!((memory.pages(), memory.bytes()), (2, 8192));
        memory.write(4094, &[1, 2, 3, 4]);
        memory.write(8190, &[5, 6, 7]);
        let mut bytes = [0xee; 4];
        memory.read(4094, &mut bytes);
        assert_eq!(bytes, [1, 2, 3, 4]);
        let mut end = [0xee; 4];
        memory.read(8189, &mut end);
        assert_eq!(end, [0, 5, 6, 0xee]);
        let distance = memory.page(1).unwrap().addr().get() - memory.page(0).unwrap().addr().get();
        assert_eq!((distance, memory.page(2)), (4096, None));
        assert_eq!(DmaMemory::new(0).unwrap_err(), Errno::EINVAL);
        assert_eq!(DmaMemory::new(usize::MAX).unwrap_err(), Errno::EINVAL);
    }
}
