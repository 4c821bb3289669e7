//! How long the structs of raw hypercalls are, and where they hold addresses.
#![allow(non_upper_case_globals, reason = "patterns with the names of Xen's headers")]

use std::mem::offset_of;

use zerocopy::FromBytes;

use crate::Errno;
use crate::abi::grant_table::*;
use crate::abi::memory::*;
use crate::abi::xen::DOMID_SELF;

/// What a memory operation's struct looks like.
#[derive(Debug)]
pub(super) struct Shape {
    /// Bytes.
    pub(super) size: usize,
    /// Offset of the handle to a list of u64.
    pub(super) handle: Option<usize>,
    /// Offset and width in bytes of the number of entries of the list.
    entries: Option<(usize, usize)>,
}

impl Shape {
    /// How many entries of the list `arg` tells Xen to use.
    pub(super) fn entries(&self, arg: &[u8]) -> Result<u64, Errno> {
        let Some((offset, width)) = self.entries else { return Ok(0) };
        let bytes = arg.get(offset..offset + width).ok_or(Errno::EINVAL)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }
}

/// The shape of `XENMEM_*`, of those that are known here.
pub(super) fn memory_op(cmd: u32) -> Option<Shape> {
    let plain = |size| Some(Shape { size, handle: None, entries: None });
    match cmd {
        XENMEM_increase_reservation | XENMEM_decrease_reservation | XENMEM_populate_physmap => Some(Shape {
            size: size_of::<xen_memory_reservation>(),
            handle: Some(offset_of!(xen_memory_reservation, extent_start)),
            entries: Some((offset_of!(xen_memory_reservation, nr_extents), 8)),
        }),
        XENMEM_acquire_resource => Some(Shape {
            size: size_of::<xen_mem_acquire_resource>(),
            handle: Some(offset_of!(xen_mem_acquire_resource, frame_list)),
            entries: Some((offset_of!(xen_mem_acquire_resource, nr_frames), 4)),
        }),
        XENMEM_current_reservation | XENMEM_maximum_reservation | XENMEM_maximum_gpfn => {
            plain(size_of::<xen_memory_domain>())
        }
        XENMEM_maximum_ram_page => plain(0),
        XENMEM_add_to_physmap => plain(size_of::<xen_add_to_physmap>()),
        XENMEM_remove_from_physmap => plain(size_of::<xen_remove_from_physmap>()),
        _ => None,
    }
}

/// Whether a memory operation would change the address space of this domain, which is its kernel's.
pub(super) fn changes_own_memory(cmd: u32, arg: &[u8]) -> bool {
    let domid_at = match cmd {
        XENMEM_increase_reservation | XENMEM_decrease_reservation | XENMEM_populate_physmap => {
            offset_of!(xen_memory_reservation, domid)
        }
        XENMEM_add_to_physmap => offset_of!(xen_add_to_physmap, domid),
        XENMEM_remove_from_physmap => offset_of!(xen_remove_from_physmap, domid),
        _ => return false,
    };
    arg.get(domid_at..domid_at + 2).is_none_or(|d| d == DOMID_SELF.to_le_bytes())
}

/// The size of one struct of `GNTTABOP_*`, of those that hold no handle and leave the caller's page tables alone.
pub(super) fn grant_table_op(cmd: u32) -> Option<usize> {
    Some(match cmd {
        GNTTABOP_dump_table => size_of::<gnttab_dump_table>(),
        GNTTABOP_copy => size_of::<gnttab_copy>(),
        GNTTABOP_query_size => size_of::<gnttab_query_size>(),
        GNTTABOP_set_version => size_of::<gnttab_set_version>(),
        GNTTABOP_get_version => size_of::<gnttab_get_version>(),
        GNTTABOP_swap_grant_ref => size_of::<gnttab_swap_grant_ref>(),
        GNTTABOP_cache_flush => size_of::<gnttab_cache_flush>(),
        _ => return None,
    })
}

/// Whether all of these copies go to a grant: to a frame of its own the caller has better ways.
pub(super) fn copies_to_grants(args: &[u8]) -> bool {
    args.chunks(size_of::<gnttab_copy>())
        .all(|c| gnttab_copy::read_from_bytes(c).is_ok_and(|c| c.flags & GNTCOPY_dest_gref != 0))
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn the_number_of_entries_is_read_from_the_struct() {
        let r = xen_memory_reservation { nr_extents: 1 << 40 | 7, ..Default::default() };
        let shape = memory_op(XENMEM_decrease_reservation).expect("known");
        assert_eq!(shape.entries(r.as_bytes()), Ok(1 << 40 | 7));
        assert_eq!(shape.entries(&[0; 8]), Err(Errno::EINVAL));
        let a = xen_mem_acquire_resource { nr_frames: 3, pad: 9, ..Default::default() };
        assert_eq!(memory_op(XENMEM_acquire_resource).expect("known").entries(a.as_bytes()), Ok(3));
    }

    #[test]
    fn operations_with_handles_of_unknown_length_are_unknown() {
        assert!(memory_op(XENMEM_memory_map).is_none());
        assert!(memory_op(XENMEM_access_op).is_none());
        assert!(memory_op(XENMEM_decrease_reservation | 1 << 6).is_none(), "a continuation");
        assert!(grant_table_op(GNTTABOP_setup_table).is_none());
        assert!(grant_table_op(GNTTABOP_get_status_frames).is_none());
    }

    #[test]
    fn what_would_change_the_callers_own_memory_is_known() {
        let own = xen_memory_reservation { domid: DOMID_SELF, ..Default::default() };
        assert!(changes_own_memory(XENMEM_decrease_reservation, own.as_bytes()));
        let other = xen_memory_reservation { domid: 3, ..Default::default() };
        assert!(!changes_own_memory(XENMEM_decrease_reservation, other.as_bytes()));
        assert!(!changes_own_memory(XENMEM_maximum_gpfn, &DOMID_SELF.to_le_bytes()));
        let to_frame = gnttab_copy { flags: GNTCOPY_source_gref, ..Default::default() };
        let to_grant = gnttab_copy { flags: GNTCOPY_dest_gref, ..Default::default() };
        assert!(copies_to_grants([to_grant, to_grant].as_bytes()));
        assert!(!copies_to_grants([to_grant, to_frame].as_bytes()));
        assert!(grant_table_op(GNTTABOP_map_grant_ref).is_none());
    }
}
