//! `memory.h`: the memory operations that we use.

use super::{abi_consts, abi_structs};

abi_structs! {
    header "xen/memory.h";
    /// increase_reservation, decrease_reservation, populate_physmap.
    struct xen_memory_reservation = "struct xen_memory_reservation" {
        /// Handle to the list of frame numbers: one an extent.
        extent_start: u64,
        /// Number of extents.
        nr_extents: u64,
        /// log2 of the frames in an extent.
        extent_order: u32,
        /// `XENMEMF_*`.
        mem_flags: u32,
        /// Domain, DOMID_SELF for the caller.
        domid: u16,
        /// Padding to the C struct's alignment.
        _pad (""): [u16; 3],
    }
}

abi_consts! {
    header "xen/memory.h";
    /// Give frames back.
    XENMEM_decrease_reservation: u32 = 1,
    /// Put frames behind holes.
    XENMEM_populate_physmap: u32 = 6,
}
