//! The buffered ring: writes that nobody waits for, in a page that the hypervisor writes too.
//!
//! A drain looks at the pointers once, copies what is between them (never more than the ring holds, whatever the
//! pointers say), gives the space back, and only then are the copies carried out.
#![expect(unsafe_code, reason = "atomics in a page shared with the hypervisor")]

use std::fmt;
use std::ptr::NonNull;

use xen_ioreq::abi::ioreq as abi;
use xen_ioreq::seam::Mapping;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Slots in the ring.
const SLOTS: u32 = abi::IOREQ_BUFFER_SLOT_NUM;

/// What was wrong with a ring, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingFault {
    /// The pointers are further apart than the ring is long. All of it was dropped.
    Pointers { read: u32, write: u32 },
    /// An entry of two slots whose second is missing. It was dropped.
    Incomplete,
}

/// The buffered ring of a server.
pub(crate) struct Ring {
    page: Mapping,
    base: NonNull<u8>,
    atomic: bool,
}

// SAFETY: `base` points into `page`, which is valid wherever `self` is; all accesses are atomic.
unsafe impl Send for Ring {}

impl Ring {
    /// `None` if `page` is empty.
    pub(crate) fn new(page: Mapping, atomic: bool) -> Option<Self> {
        let base = page.page(0)?;
        Some(Self { page, base, atomic })
    }

    fn u64_at(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: callers give multiples of 8 below the page's size, and the page is mapped while `self` lives.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    fn read_pointer(&self) -> &AtomicU32 {
        // SAFETY: as above, of an aligned u32.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(abi::BUF_READ_POINTER_OFFSET).cast()) }
    }

    /// Both pointers at one moment (Xen may move both back by whole rings between two loads).
    fn pointers(&self) -> (u32, u32) {
        // Acquire: the entries below the write pointer are visible after it.
        let both = self.u64_at(abi::BUF_READ_POINTER_OFFSET).load(Ordering::Acquire);
        let [r0, r1, r2, r3, w0, w1, w2, w3] = both.to_le_bytes();
        (u32::from_le_bytes([r0, r1, r2, r3]), u32::from_le_bytes([w0, w1, w2, w3]))
    }

    /// Appends what is in the ring to `out`, as requests, oldest first. `Err` says what was dropped; what came before
    /// it is in `out`.
    pub(crate) fn drain(&self, out: &mut Vec<abi::ioreq>) -> Result<(), RingFault> {
        let (read, write) = self.pointers();
        if read == write {
            return Ok(());
        }
        let avail = write.wrapping_sub(read);
        if avail > SLOTS {
            self.advance(read, avail);
            return Err(RingFault::Pointers { read, write });
        }
        let mut result = Ok(());
        let mut at = 0;
        while at < avail {
            let [kind, b0, b1, b2, d0, d1, d2, d3] = self.slot(read, at);
            at += 1;
            let entry = abi::buf_ioreq {
                r#type: kind,
                bits: [b0, b1, b2],
                data: u32::from_le_bytes([d0, d1, d2, d3]),
            };
            let mut data = u64::from(entry.data);
            if entry.size() == 8 {
                if at == avail {
                    result = Err(RingFault::Incomplete);
                    break;
                }
                let [.., h0, h1, h2, h3] = self.slot(read, at);
                at += 1;
                data |= u64::from(u32::from_le_bytes([h0, h1, h2, h3])) << 32;
            }
            let bits = abi::Bits { read: entry.read(), ..Default::default() };
            out.push(abi::ioreq {
                addr: u64::from(entry.addr()),
                data,
                count: 1,
                size: u32::from(entry.size()),
                bits: bits.pack(),
                r#type: entry.r#type,
                ..Default::default()
            });
        }
        self.advance(read, avail);
        result
    }

    /// The bytes of the slot `at` after `read`, read once.
    fn slot(&self, read: u32, at: u32) -> [u8; 8] {
        // The pointers run free and wrap at 2^32, and so does Xen's index.
        let index = read.wrapping_add(at) % SLOTS;
        self.u64_at(abi::BUF_SLOTS_OFFSET + index as usize * 8).load(Ordering::Relaxed).to_le_bytes()
    }

    /// Gives `n` slots back; `read` is where the pointer was.
    fn advance(&self, read: u32, n: u32) {
        // Release: the entries have been read before Xen may overwrite them.
        if self.atomic {
            self.read_pointer().fetch_add(n, Ordering::Release);
        } else {
            self.read_pointer().store(read.wrapping_add(n), Ordering::Release);
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("page", &self.page).field("atomic", &self.atomic).finish()
    }
}

#[cfg(test)]
mod tests;
