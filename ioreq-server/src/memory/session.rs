//! A run of accesses to one guest's memory, which keeps the page it last used.

use std::fmt;

use xen_ioreq::seam::MappedPage;
use xen_ioreq::{Gfn, PAGE_MASK, PAGE_SIZE};

use super::cache::Held;
use super::copy::Page;
use super::{GuestMemory, MemoryError};
use crate::device::Width;

struct Last<'a> {
    gfn: Gfn,
    writable: bool,
    held: Held<'a, MappedPage>,
}

/// A run of accesses to one guest's memory. It holds at most one page, which an invalidation cannot take from it before the
/// next access.
pub struct Session<'a> {
    memory: &'a GuestMemory,
    last: Option<Last<'a>>,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("memory", self.memory).finish_non_exhaustive()
    }
}

/// Offset in the page and bytes up to its end.
fn split(addr: u64) -> (usize, usize) {
    let offset = (addr & PAGE_MASK) as usize;
    (offset, PAGE_SIZE - offset)
}

impl<'a> Session<'a> {
    pub(super) fn new(memory: &'a GuestMemory) -> Self {
        Self { memory, last: None }
    }

    /// See [`GuestMemory::read`].
    pub fn read(&mut self, addr: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.check(addr, buf.len())?;
        let (mut at, mut rest) = (addr, buf);
        while !rest.is_empty() {
            let (offset, room) = split(at);
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            self.page(at, false)?.read(offset, now);
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// See [`GuestMemory::write`].
    pub fn write(&mut self, addr: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.check(addr, data.len())?;
        let (mut at, mut rest) = (addr, data);
        while !rest.is_empty() {
            let (offset, room) = split(at);
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.page(at, true)?.write(offset, now);
            at = at.wrapping_add(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// Reads one item of a string instruction; without tearing where it is aligned.
    pub fn read_item(&mut self, addr: u64, width: Width) -> Result<u64, MemoryError> {
        if addr.is_multiple_of(u64::from(width.bytes()))
            && let Some(value) = self.page(addr, false)?.load(split(addr).0, width)
        {
            return Ok(value);
        }
        let mut bytes = [0; 8];
        let (used, _) = bytes.split_at_mut(width.bytes() as usize);
        self.read(addr, used)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes one item of a string instruction; without tearing where it is aligned.
    pub fn write_item(&mut self, addr: u64, width: Width, value: u64) -> Result<(), MemoryError> {
        if addr.is_multiple_of(u64::from(width.bytes()))
            && self.page(addr, true)?.store(split(addr).0, width, value)
        {
            return Ok(());
        }
        let bytes = value.to_le_bytes();
        let (used, _) = bytes.split_at(width.bytes() as usize);
        self.write(addr, used)
    }

    fn check(&self, addr: u64, len: usize) -> Result<(), MemoryError> {
        match (len as u64).checked_sub(1) {
            Some(more) if addr.checked_add(more).is_none() => {
                Err(MemoryError::Wraps { domid: self.memory.domid(), addr, len })
            }
            _ => Ok(()),
        }
    }

    /// The page at `addr`.
    fn page(&mut self, addr: u64, write: bool) -> Result<Page<'_>, MemoryError> {
        let gfn = Gfn::of_addr(addr);
        let memory = self.memory;
        let fits = |l: &Last<'_>| l.gfn == gfn && (l.writable || !write) && memory.is_current(&l.held);
        let last = match self.last.take().filter(fits) {
            Some(last) => last,
            // The old page has gone, so that a session never holds more than one.
            None => Last { gfn, writable: write, held: memory.page(gfn, write)? },
        };
        Ok(Page::of(self.last.insert(last).held.page()))
    }
}
