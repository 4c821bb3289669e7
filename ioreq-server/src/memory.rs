//! Guest memory for the other side of an access (`data_is_ptr`) and for devices that copy.
//!
//! Pages are mapped when they are touched and let go when the [`Session`] ends, so nothing stale outlives an
//! invalidation. A hole is an error that names its frame. Copies only: no pointer leaves this module.
#![expect(unsafe_code, reason = "copies from and to pages that the guest writes at any time")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use xen_ioreq::seam::{ForeignMap, ForeignPages, Prot};
use xen_ioreq::{DomId, Errno, Gfn, PAGE_MASK, PAGE_SIZE};

use crate::device::Width;

/// Guest memory that could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Nothing is behind that frame number.
    #[error("{domid}: guest frame {gfn} cannot be mapped: {errno}")]
    Hole {
        /// The guest.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// What the hypervisor said of that frame.
        errno: Errno,
    },
    /// The mapping as a whole failed.
    #[error("{domid}: mapping guest frame {gfn}: {errno}")]
    Map {
        /// The guest.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// What the hypervisor said.
        errno: Errno,
    },
    /// The address range does not fit into 64 bits.
    #[error("{domid}: guest address range {addr:#x} + {len:#x} wraps")]
    Wraps {
        /// The guest.
        domid: DomId,
        /// First byte.
        addr: u64,
        /// Length in bytes.
        len: usize,
    },
}

/// A guest's memory, by guest physical address.
#[derive(Clone)]
pub struct GuestMemory {
    map: Arc<dyn ForeignMap>,
    domid: DomId,
}

impl GuestMemory {
    /// The memory of `domid`, mapped through `map`.
    pub fn new(map: Arc<dyn ForeignMap>, domid: DomId) -> Self {
        Self { map, domid }
    }

    /// Copies out `buf.len()` bytes from `addr`. On an error the part before the hole is in `buf`.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.session().read(addr, buf)
    }

    /// Copies `buf` to `addr`. On an error the part before the hole was written.
    pub fn write(&self, addr: u64, buf: &[u8]) -> Result<(), MemoryError> {
        self.session().write(addr, buf)
    }

    /// A run of accesses that keeps the page it last used. Drop it before anything waits.
    pub fn session(&self) -> Session<'_> {
        Session { memory: self, page: None }
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestMemory").field("domid", &self.domid).finish_non_exhaustive()
    }
}

struct Held {
    gfn: Gfn,
    writable: bool,
    pages: ForeignPages,
}

/// A run of accesses to one guest's memory.
pub struct Session<'a> {
    memory: &'a GuestMemory,
    page: Option<Held>,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("memory", self.memory).finish_non_exhaustive()
    }
}

impl Session<'_> {
    /// See [`GuestMemory::read`].
    pub fn read(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.check(addr, buf.len())?;
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            let (ptr, room) = self.page_at(at, false)?;
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            for (i, b) in now.iter_mut().enumerate() {
                // SAFETY: `page_at` gave `room` valid bytes, and `now` is no longer than that.
                *b = unsafe { byte(ptr, i) }.load(Ordering::Relaxed);
            }
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// See [`GuestMemory::write`].
    pub fn write(&mut self, addr: u64, buf: &[u8]) -> Result<(), MemoryError> {
        self.check(addr, buf.len())?;
        let mut at = addr;
        let mut rest = buf;
        while !rest.is_empty() {
            let (ptr, room) = self.page_at(at, true)?;
            let (now, later) = rest.split_at(room.min(rest.len()));
            for (i, b) in now.iter().enumerate() {
                // SAFETY: as in `read`, and the page was mapped writable.
                unsafe { byte(ptr, i) }.store(*b, Ordering::Relaxed);
            }
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Reads one item of a string instruction; without tearing where it is aligned.
    pub fn read_item(&mut self, addr: u64, width: Width) -> Result<u64, MemoryError> {
        if addr.is_multiple_of(u64::from(width.bytes())) {
            let (ptr, _) = self.page_at(addr, false)?;
            // SAFETY: an aligned item does not leave its page, and the page is valid while `self.page` holds it.
            return Ok(unsafe {
                match width {
                    Width::Byte => u64::from(byte(ptr, 0).load(Ordering::Relaxed)),
                    Width::Word => {
                        u64::from(AtomicU16::from_ptr(ptr.as_ptr().cast()).load(Ordering::Relaxed))
                    }
                    Width::Dword => {
                        u64::from(AtomicU32::from_ptr(ptr.as_ptr().cast()).load(Ordering::Relaxed))
                    }
                    Width::Qword => AtomicU64::from_ptr(ptr.as_ptr().cast()).load(Ordering::Relaxed),
                }
            });
        }
        let mut bytes = [0; 8];
        let (used, _) = bytes.split_at_mut(width.bytes() as usize);
        self.read(addr, used)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes one item of a string instruction; without tearing where it is aligned.
    #[expect(clippy::cast_possible_truncation, reason = "an item is the low bytes of the value")]
    pub fn write_item(&mut self, addr: u64, width: Width, value: u64) -> Result<(), MemoryError> {
        if addr.is_multiple_of(u64::from(width.bytes())) {
            let (ptr, _) = self.page_at(addr, true)?;
            // SAFETY: as in `read_item`, and the page was mapped writable.
            unsafe {
                match width {
                    Width::Byte => byte(ptr, 0).store(value as u8, Ordering::Relaxed),
                    Width::Word => {
                        AtomicU16::from_ptr(ptr.as_ptr().cast()).store(value as u16, Ordering::Relaxed);
                    }
                    Width::Dword => {
                        AtomicU32::from_ptr(ptr.as_ptr().cast()).store(value as u32, Ordering::Relaxed);
                    }
                    Width::Qword => AtomicU64::from_ptr(ptr.as_ptr().cast()).store(value, Ordering::Relaxed),
                }
            }
            return Ok(());
        }
        let bytes = value.to_le_bytes();
        let (used, _) = bytes.split_at(width.bytes() as usize);
        self.write(addr, used)
    }

    fn check(&self, addr: u64, len: usize) -> Result<(), MemoryError> {
        match (len as u64).checked_sub(1) {
            Some(more) if addr.checked_add(more).is_none() => {
                Err(MemoryError::Wraps { domid: self.memory.domid, addr, len })
            }
            _ => Ok(()),
        }
    }

    /// The byte at `addr` and how many more follow in its page.
    fn page_at(&mut self, addr: u64, write: bool) -> Result<(NonNull<u8>, usize), MemoryError> {
        let gfn = Gfn::of_addr(addr);
        let offset = (addr & PAGE_MASK) as usize;
        let domid = self.memory.domid;
        if !self.page.as_ref().is_some_and(|p| p.gfn == gfn && (p.writable || !write)) {
            // Let go of the old page first, so that a session never holds more than one.
            self.page = None;
            let prot = if write { Prot::ReadWrite } else { Prot::Read };
            let pages = self
                .memory
                .map
                .map_foreign(domid, &[gfn], prot)
                .map_err(|errno| MemoryError::Map { domid, gfn, errno })?;
            if let Some(errno) = pages.error(0) {
                return Err(MemoryError::Hole { domid, gfn, errno });
            }
            self.page = Some(Held { gfn, writable: write, pages });
        }
        let ptr = self
            .page
            .as_ref()
            .and_then(|p| p.pages.mapping.page(0))
            .and_then(|p| NonNull::new(p.as_ptr().wrapping_add(offset)))
            .ok_or(MemoryError::Map { domid, gfn, errno: Errno::EFAULT })?;
        Ok((ptr, PAGE_SIZE - offset))
    }
}

/// # Safety
/// `ptr + i` must be valid for the result's life, and only accessed atomically by us.
unsafe fn byte<'a>(ptr: NonNull<u8>, i: usize) -> &'a AtomicU8 {
    // SAFETY: by the caller; an AtomicU8 has no alignment to keep.
    unsafe { AtomicU8::from_ptr(ptr.as_ptr().add(i)) }
}
