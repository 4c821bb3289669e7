//! What Xen's public headers say, in Rust, and typed descriptors for what Linux offers of it.
//!
//! [`abi`] holds the structs and numbers, for any environment; [`seam`] the traits through which a program
//! reaches a hypervisor, real or modelled, at the level of the bytes that cross the hypercall; [`linux`] the
//! descriptors behind `/dev/xen/*`. Nothing here interprets a request: that is left to the callers.
//!
//! # Where the numbers come from
//!
//! Everything under [`abi`] is in the public headers of Xen 4.17 (Debian's libxen-dev), and a test compares it with
//! them, but for the extensions that stock headers lack:
//!
//! | what | number or layout | source |
//! |---|---|---|
//! | `__HYPERVISOR_iommu_op` | 56 | XenServer's Xen, `public/xen.h`: the first number after `arch_7`. The draft gives none |
//! | `IOMMUOP_*` (sub-operations) | 1 to 6 | XenServer's Xen, `public/iommu_op.h`; the draft gives the names |
//! | `struct pv_iommu_op` | 32 bytes | the same header, on x86-64; fixed at that size on every width |
//! | `IOMMUOP_readable`, `_writeable`, `_swap_mfn` | bits 0, 1, 2 | draft B, flags of map_foreign_page; no shipped code knows `swap_mfn` |
//! | `IOMMU_OP_*`, `IOMMU_MAP_OP_*`, `IOMMU_UNMAP_OP_*` | bits 0 to 3 | the shipped code; a bit's meaning depends on the sub-operation |
//! | `IOMMU_QUERY_*` | bits 0, 1 | the shipped code |
//! | `IOMMU_page_order_mask` | bits 10 to 15 | draft B |
//! | `IOMMU_page_order_mask_xs` | 0xC400 | the shipped code: `0xf1 << 10` in 16 bits |
#![cfg_attr(not(feature = "std"), no_std)]

pub mod abi;
mod errno;
mod frame;
#[cfg(all(feature = "std", target_os = "linux"))]
pub mod linux;
#[cfg(feature = "std")]
pub mod seam;

pub use errno::Errno;
pub use frame::{Bfn, DomId, Gfn, GrantRef, IoServerId, Mfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Port, VcpuId};
