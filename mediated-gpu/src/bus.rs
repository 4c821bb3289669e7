//! How a device reaches memory: by bus frame number, and only while it holds a pin.
//!
//! A pin stands for what a device's translation cache holds. A frame that goes back to the hypervisor while a
//! pin on it lives is a broken promise, and the model hypervisor's oracle says so.

mod heap;

use std::fmt;
use std::ptr::NonNull;

pub use heap::HeapBus;
use xen_ioreq::Bfn;

/// What a device wants to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaAccess {
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

/// A DMA that went nowhere: what an IOMMU reports as a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DMA fault: {access:?} at bus frame {bfn}")]
pub struct DmaFault {
    /// The bus frame.
    pub bfn: Bfn,
    /// The access.
    pub access: DmaAccess,
}

/// A device's port to memory.
pub trait BusMaster: Send + Sync {
    /// Translates `bfn` and keeps the translation alive until [`unpin`](Self::unpin) is called with the same page.
    /// Several pins may live on one frame. May be called by any thread, with a device's own locks held.
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault>;
    /// Ends the use of a translation.
    fn unpin(&self, pin: Pin);
}

/// A translation in use: 4096 bytes at `ptr`, page aligned, valid until it is given back to [`BusMaster::unpin`]. Others write
/// there at any time: raw pointers only.
#[must_use = "a pin that is lost keeps its frame for ever"]
pub struct Pin {
    /// First byte of the page.
    pub ptr: NonNull<u8>,
    /// The bus frame that was asked for.
    pub bfn: Bfn,
    /// What the bus needs to find it again.
    pub token: u64,
}

#[expect(unsafe_code, reason = "a pin is a raw pointer; using it is the unsafe act")]
mod send {
    // SAFETY: a Pin gives no safe access to the memory it points at.
    unsafe impl Send for super::Pin {}
    // SAFETY: as above.
    unsafe impl Sync for super::Pin {}
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("bfn", &self.bfn).field("ptr", &self.ptr).finish()
    }
}
