//! PV-IOMMU client: at which bus frame a device reaches a guest's frame, and when it must stop.
//!
//! So far the allocator of bus frames.

mod bfn;

pub use bfn::{BfnAllocator, BfnBlock, BfnSpace};
