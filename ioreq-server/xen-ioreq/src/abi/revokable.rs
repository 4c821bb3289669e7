//! Revokable grants: draft B of January 2016, which no hypervisor has shipped.
//!
//! Structs are the draft's. It gives no numbers, so they are ours: the flag is the first bit that `grant_table.h` leaves free, the
//! operations follow its last one. The draft spells the names in three ways; these are the ones that fit the header.

use super::grant_table::gnttab_map_grant_ref;

abi_structs! {
    header "";
    /// [`GNTTABOP_map_revokable`].
    struct gnttab_map_revokable = "struct gnttab_map_revokable" {
        /// As of `GNTTABOP_map_grant_ref`.
        map: gnttab_map_grant_ref,
        /// Frame of the mapper's own that takes the place of the granted one when the grant is revoked.
        lgfn: u64,
    }
    /// [`GNTTABOP_revoke`]; one at a time, the answer is the hypercall's own.
    struct gnttab_revoke = "struct gnttab_revoke" {
        /// Reference of the caller's.
        r#ref ("ref"): u32,
    }
}

abi_consts! {
    header "";
    /// May be mapped by [`GNTTABOP_map_revokable`] only, and revoked while it is mapped.
    GTF_revokable: u16 = 1 << 9,
    /// Map a revokable grant.
    GNTTABOP_map_revokable: u32 = 13,
    /// Take a revokable grant back.
    GNTTABOP_revoke: u32 = 14,
    /// Mappings that a revokable grant may have at a time.
    GNTTAB_REVOKABLE_MAX_MAPS: u32 = 2,
}
