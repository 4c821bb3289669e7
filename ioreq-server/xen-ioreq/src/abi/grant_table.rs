//! `grant_table.h`: entries of both versions, all operations, flags and statuses.
//!
//! Entries lie in pages that the granter writes while Xen reads: access them through atomics.

abi_structs! {
    header "xen/grant_table.h";
    /// Entry of version 1.
    struct grant_entry_v1 = "struct grant_entry_v1" {
        /// `GTF_*`.
        flags: u16,
        /// Domain that is granted access.
        domid: u16,
        /// Frame.
        frame: u32,
    }
    /// Head of an entry of version 2.
    struct grant_entry_header = "struct grant_entry_header" {
        /// `GTF_*`.
        flags: u16,
        /// Domain that is granted access.
        domid: u16,
    }
    /// Entry of version 2 for a whole page.
    struct grant_entry_v2_full_page = "union grant_entry_v2" {
        /// Flags and domain.
        hdr ("full_page.hdr"): grant_entry_header,
        /// Zero.
        pad0 ("full_page.pad0"): u32,
        /// Frame.
        frame ("full_page.frame"): u64,
    }
    /// Entry of version 2 for a part of a page, for copies only.
    struct grant_entry_v2_sub_page = "union grant_entry_v2" {
        /// Flags and domain.
        hdr ("sub_page.hdr"): grant_entry_header,
        /// First byte.
        page_off ("sub_page.page_off"): u16,
        /// Number of bytes.
        length ("sub_page.length"): u16,
        /// Frame.
        frame ("sub_page.frame"): u64,
    }
    /// Entry of version 2 that hands on somebody else's grant.
    struct grant_entry_v2_transitive = "union grant_entry_v2" {
        /// Flags and domain.
        hdr ("transitive.hdr"): grant_entry_header,
        /// Domain whose grant it is.
        trans_domid ("transitive.trans_domid"): u16,
        /// Zero.
        pad0 ("transitive.pad0"): u16,
        /// Its reference.
        gref ("transitive.gref"): u32,
        /// Rest of the union.
        _pad (""): u32,
    }
    /// [`GNTTABOP_map_grant_ref`].
    struct gnttab_map_grant_ref = "struct gnttab_map_grant_ref" {
        /// Where in the mapper's address space.
        host_addr: u64,
        /// `GNTMAP_*`.
        flags: u32,
        /// Reference.
        r#ref ("ref"): u32,
        /// Domain that granted.
        dom: u16,
        /// Out: `GNTST_*`.
        status: i16,
        /// Out: handle of the mapping.
        handle: u32,
        /// Out: address for a device.
        dev_bus_addr: u64,
    }
    /// [`GNTTABOP_unmap_grant_ref`].
    struct gnttab_unmap_grant_ref = "struct gnttab_unmap_grant_ref" {
        /// Where; 0 leaves the host mapping.
        host_addr: u64,
        /// Address for a device; 0 leaves the device mapping.
        dev_bus_addr: u64,
        /// Handle of the mapping.
        handle: u32,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
    }
    /// [`GNTTABOP_setup_table`].
    struct gnttab_setup_table = "struct gnttab_setup_table" {
        /// Domain.
        dom: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// Frames wanted.
        nr_frames: u32,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad2 (""): [u16; 3],
        /// Handle to the list of frame numbers.
        frame_list: u64,
    }
    /// [`GNTTABOP_dump_table`].
    struct gnttab_dump_table = "struct gnttab_dump_table" {
        /// Domain.
        dom: u16,
        /// Out: `GNTST_*`.
        status: i16,
    }
    /// [`GNTTABOP_transfer`].
    struct gnttab_transfer = "struct gnttab_transfer" {
        /// Frame given away.
        mfn: u64,
        /// Domain that gets it.
        domid: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// Reference by which that domain accepts.
        r#ref ("ref"): u32,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad2 (""): [u16; 3],
    }
    /// One end of a copy.
    struct gnttab_copy_ptr = "struct gnttab_copy_ptr" {
        /// Reference (low 32 bits) or frame.
        u: u64,
        /// Domain.
        domid: u16,
        /// First byte in the page.
        offset: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u32,
    }
    /// [`GNTTABOP_copy`].
    struct gnttab_copy = "struct gnttab_copy" {
        /// From.
        source: gnttab_copy_ptr,
        /// To.
        dest: gnttab_copy_ptr,
        /// Bytes.
        len: u16,
        /// `GNTCOPY_*`.
        flags: u16,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
    }
    /// [`GNTTABOP_query_size`].
    struct gnttab_query_size = "struct gnttab_query_size" {
        /// Domain.
        dom: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// Out: frames of its table.
        nr_frames: u32,
        /// Out: frames that it may have.
        max_nr_frames: u32,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad2 (""): u16,
    }
    /// [`GNTTABOP_unmap_and_replace`].
    struct gnttab_unmap_and_replace = "struct gnttab_unmap_and_replace" {
        /// Where.
        host_addr: u64,
        /// Address whose mapping takes the place.
        new_addr: u64,
        /// Handle of the mapping.
        handle: u32,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
    }
    /// [`GNTTABOP_set_version`].
    struct gnttab_set_version = "struct gnttab_set_version" {
        /// In: 1 or 2. Out: the version in use.
        version: u32,
    }
    /// [`GNTTABOP_get_status_frames`].
    struct gnttab_get_status_frames = "struct gnttab_get_status_frames" {
        /// Frames wanted.
        nr_frames: u32,
        /// Domain.
        dom: u16,
        /// Out: `GNTST_*`.
        status: i16,
        /// Handle to the list of frame numbers.
        frame_list: u64,
    }
    /// [`GNTTABOP_get_version`].
    struct gnttab_get_version = "struct gnttab_get_version" {
        /// Domain.
        dom: u16,
        /// Zero.
        pad: u16,
        /// Out: the version in use.
        version: u32,
    }
    /// [`GNTTABOP_swap_grant_ref`].
    struct gnttab_swap_grant_ref = "struct gnttab_swap_grant_ref" {
        /// One reference.
        ref_a: u32,
        /// The other.
        ref_b: u32,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
    }
    /// [`GNTTABOP_cache_flush`].
    struct gnttab_cache_flush = "struct gnttab_cache_flush" {
        /// Device address, or reference in the low 32 bits.
        a: u64,
        /// First byte in the page.
        offset: u16,
        /// Bytes.
        length: u16,
        /// `GNTTAB_CACHE_*`.
        op: u32,
    }
}

abi_consts! {
    header "xen/grant_table.h";
    /// References that the toolstack fills.
    GNTTAB_NR_RESERVED_ENTRIES: u32 = 8,
    /// Reference of the console ring.
    GNTTAB_RESERVED_CONSOLE: u32 = 0,
    /// Reference of the XenStore ring.
    GNTTAB_RESERVED_XENSTORE: u32 = 1,
    /// Nothing is granted.
    GTF_invalid: u16 = 0,
    /// Access to a page.
    GTF_permit_access: u16 = 1,
    /// A page will be taken over.
    GTF_accept_transfer: u16 = 2,
    /// Somebody else's grant is handed on.
    GTF_transitive: u16 = 3,
    /// Bits of the type.
    GTF_type_mask: u16 = 3,
    /// No writing.
    GTF_readonly: u16 = 1 << 2,
    /// Mapped for reading.
    GTF_reading: u16 = 1 << 3,
    /// Mapped for writing.
    GTF_writing: u16 = 1 << 4,
    /// Cache attribute PWT.
    GTF_PWT: u16 = 1 << 5,
    /// Cache attribute PCD.
    GTF_PCD: u16 = 1 << 6,
    /// Cache attribute PAT.
    GTF_PAT: u16 = 1 << 7,
    /// Part of a page.
    GTF_sub_page: u16 = 1 << 8,
    /// A page is on its way.
    GTF_transfer_committed: u16 = 1 << 2,
    /// A page has come.
    GTF_transfer_completed: u16 = 1 << 3,
    /// Map grants.
    GNTTABOP_map_grant_ref: u32 = 0,
    /// Unmap them.
    GNTTABOP_unmap_grant_ref: u32 = 1,
    /// Frames of the table.
    GNTTABOP_setup_table: u32 = 2,
    /// Debug output.
    GNTTABOP_dump_table: u32 = 3,
    /// Give a frame away.
    GNTTABOP_transfer: u32 = 4,
    /// Copy bytes.
    GNTTABOP_copy: u32 = 5,
    /// Size of the table.
    GNTTABOP_query_size: u32 = 6,
    /// Unmap and put another mapping in its place.
    GNTTABOP_unmap_and_replace: u32 = 7,
    /// Choose the version of the entries.
    GNTTABOP_set_version: u32 = 8,
    /// Frames of the status words.
    GNTTABOP_get_status_frames: u32 = 9,
    /// Version of the entries.
    GNTTABOP_get_version: u32 = 10,
    /// Swap two entries.
    GNTTABOP_swap_grant_ref: u32 = 11,
    /// Clean or invalidate caches (Arm).
    GNTTABOP_cache_flush: u32 = 12,
    /// copy: the source is a reference.
    GNTCOPY_source_gref: u16 = 1,
    /// copy: the destination is a reference.
    GNTCOPY_dest_gref: u16 = 2,
    /// cache_flush: clean.
    GNTTAB_CACHE_CLEAN: u32 = 1,
    /// cache_flush: invalidate.
    GNTTAB_CACHE_INVAL: u32 = 2,
    /// cache_flush: the source is a reference.
    GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31,
    /// Map for devices.
    GNTMAP_device_map: u32 = 1,
    /// Map for the CPU.
    GNTMAP_host_map: u32 = 2,
    /// Read-only.
    GNTMAP_readonly: u32 = 4,
    /// Accessible in user mode (PV).
    GNTMAP_application_map: u32 = 8,
    /// `host_addr` is that of a page table entry (PV).
    GNTMAP_contains_pte: u32 = 16,
    /// Bits for the guest's use in the entry (PV).
    GNTMAP_guest_avail_mask: u32 = !0 << 16,
    /// Done.
    GNTST_okay: i16 = 0,
    /// Not possible.
    GNTST_general_error: i16 = -1,
    /// No such domain.
    GNTST_bad_domain: i16 = -2,
    /// No such reference.
    GNTST_bad_gntref: i16 = -3,
    /// No such handle.
    GNTST_bad_handle: i16 = -4,
    /// Bad address.
    GNTST_bad_virt_addr: i16 = -5,
    /// Bad device address.
    GNTST_bad_dev_addr: i16 = -6,
    /// No room in the IOMMU.
    GNTST_no_device_space: i16 = -7,
    /// Not allowed.
    GNTST_permission_denied: i16 = -8,
    /// Bad frame.
    GNTST_bad_page: i16 = -9,
    /// A copy crosses a page.
    GNTST_bad_copy_arg: i16 = -10,
    /// Frame number too large.
    GNTST_address_too_big: i16 = -11,
    /// Try again.
    GNTST_eagain: i16 = -12,
    /// Out of handles.
    GNTST_no_space: i16 = -13,
}
