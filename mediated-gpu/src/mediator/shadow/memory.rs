//! Graphics memory of the slice, read and written by the mediator itself, through the shadow.
//!
//! A page is found and copied with the table locked, so that after a change nobody still copies what was there before.

use xen_ioreq::{Bfn, PAGE_MASK, PAGE_SIZE};

use super::ShadowGgtt;
use crate::bus::DmaFault;
use crate::vgpu::slice::index_of;

/// A GM address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("graphics memory at {0:#x} is not mapped")]
pub(crate) struct NotMapped(pub(crate) u64);

impl ShadowGgtt {
    /// Copies from graphics memory of the slice. On an error the rest of `buf` is as it was.
    pub(crate) fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), NotMapped> {
        let mut rest = buf;
        let mut at = addr;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(to_page_end(at).min(rest.len()));
            let count = now.len() as u64;
            self.with_page(at, |bfn, offset| self.parts.own.memory.read(bfn, offset, now))?;
            (at, rest) = (at.saturating_add(count), later);
        }
        Ok(())
    }

    /// Copies what is there, and calls `missing` with the address of each page that is not.
    pub(crate) fn read_present(&self, addr: u64, buf: &mut [u8], mut missing: impl FnMut(u64)) {
        let mut rest = buf;
        let mut at = addr;
        while !rest.is_empty() {
            let (now, later) = rest.split_at_mut(to_page_end(at).min(rest.len()));
            let count = now.len() as u64;
            if self.read(at, now).is_err() {
                missing(at & !PAGE_MASK);
            }
            (at, rest) = (at.saturating_add(count), later);
        }
    }

    /// Copies to graphics memory of the slice, up to the first page that is not there.
    pub(crate) fn write(&self, addr: u64, data: &[u8]) -> Result<(), NotMapped> {
        let mut rest = data;
        let mut at = addr;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(to_page_end(at).min(rest.len()));
            self.with_page(at, |bfn, offset| self.parts.own.memory.write(bfn, offset, now))?;
            (at, rest) = (at.saturating_add(now.len() as u64), later);
        }
        Ok(())
    }

    fn with_page(
        &self,
        addr: u64,
        f: impl FnOnce(Bfn, usize) -> Result<(), DmaFault>,
    ) -> Result<(), NotMapped> {
        let at = self.parts.slice.position(index_of(addr)).ok_or(NotMapped(addr))?;
        let table = self.table.read();
        let bfn = table.target(at).ok_or(NotMapped(addr))?;
        f(bfn, PAGE_SIZE - to_page_end(addr)).map_err(|e| {
            log::warn!("a mapped frame is out of reach: {e}");
            NotMapped(addr)
        })
    }
}

/// Bytes from `addr` to the end of its page: 1 to 4096.
pub(super) fn to_page_end(addr: u64) -> usize {
    PAGE_SIZE - usize::try_from(addr & PAGE_MASK).unwrap_or(0)
}
