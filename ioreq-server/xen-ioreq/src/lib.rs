//! What Xen's public headers say, in Rust, and typed descriptors for what Linux offers of it.
//!
//! [`abi`] holds the structs and numbers, for any environment; [`seam`] the traits through which a program
//! reaches a hypervisor, real or modelled, at the level of the bytes that cross the hypercall; [`linux`] the
//! descriptors behind `/dev/xen/*`. Nothing here interprets a request: that is left to the callers.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod abi;
mod errno;
mod frame;
#[cfg(feature = "std")]
pub mod seam;

pub use errno::Errno;
pub use frame::{Bfn, DomId, Gfn, IoServerId, Mfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Port, VcpuId};
