//! `iommu_op`: PV-IOMMU, draft B of June 2015 and the numbers of the one hypervisor that shipped it.
//!
//! No stock header has it. Layout, sub-operation numbers and the hypercall number are those of XenServer's Xen
//! (hypercall 56); flags and statuses are the draft's, with the shipped spellings where they differ in meaning.

abi_structs! {
    header "";
    /// One operation. 32 bytes on every width; `u` is what the sub-operation defines.
    struct pv_iommu_op = "struct pv_iommu_op" {
        /// `IOMMUOP_*`.
        subop_id: u16,
        /// Flags of the sub-operation; bits 10-15 the page order.
        flags: u16,
        /// Out: 0 or a negative errno.
        status: i32,
        /// bfn of every sub-operation but query_caps, where it is `offset`.
        bfn ("u.map_foreign_page.bfn"): u64,
        /// gfn of map_page, map_foreign_page, lookup_foreign_page; `ioserver` of unmap_foreign_page in bits 0-15.
        gfn ("u.map_foreign_page.gfn"): u64,
        /// Domain of map_foreign_page and lookup_foreign_page.
        domid ("u.map_foreign_page.domid"): u16,
        /// IOREQ server of map_foreign_page and lookup_foreign_page.
        ioserver ("u.map_foreign_page.ioserver"): u16,
        /// Padding to 32 bytes.
        _pad (""): u32,
    }
}

abi_consts! {
    header "";
    /// Offset of `ioserver` in an unmap_foreign_page.
    UNMAP_FOREIGN_IOSERVER_OFFSET ("offsetof(struct pv_iommu_op, u.unmap_foreign_page.ioserver)"): usize = core::mem::offset_of!(pv_iommu_op, gfn),
    /// Offset of the foreign offset (in frames) that query_caps gives.
    QUERY_CAPS_OFFSET_OFFSET ("offsetof(struct pv_iommu_op, u.query_caps.offset)"): usize = core::mem::offset_of!(pv_iommu_op, bfn),
    /// The hypercall's number on XenServer, and in our draft profile.
    __HYPERVISOR_iommu_op: u64 = 56,
    /// What the caller may do.
    IOMMUOP_query_caps: u16 = 1,
    /// Map an own frame at a BFN.
    IOMMUOP_map_page: u16 = 2,
    /// Undo map_page.
    IOMMUOP_unmap_page: u16 = 3,
    /// Map a frame of another domain at a BFN that the caller chose.
    IOMMUOP_map_foreign_page: u16 = 4,
    /// Ask at which BFN a frame of another domain is reachable.
    IOMMUOP_lookup_foreign_page: u16 = 5,
    /// Undo map_foreign_page or lookup_foreign_page.
    IOMMUOP_unmap_foreign_page: u16 = 6,
    /// query_caps out: the caller may choose BFNs.
    IOMMU_QUERY_map_cap: u16 = 1,
    /// query_caps out: all machine frames are mapped 1:1.
    IOMMU_QUERY_map_all_mfns: u16 = 2,
    /// The device may read.
    IOMMUOP_readable: u16 = 1,
    /// The device may write.
    IOMMUOP_writeable: u16 = 2,
    /// map_foreign_page: Xen may swap the frame for a scratch page at any time.
    IOMMUOP_swap_mfn: u16 = 4,
    /// map_page, unmap_page (shipped code): take no reference.
    IOMMU_MAP_OP_no_ref_cnt: u16 = 4,
    /// unmap_page (shipped code): forget the premapped entry.
    IOMMU_UNMAP_OP_remove_m2b: u16 = 1,
    /// `IOMMUOP_readable` as the shipped code spells it.
    IOMMU_OP_readable: u16 = 1,
    /// `IOMMUOP_writeable` as the shipped code spells it.
    IOMMU_OP_writeable: u16 = 2,
    /// map_page (shipped code up to 2018): enter the mapping into the premap table.
    IOMMU_MAP_OP_add_m2b: u16 = 8,
    /// Mask of the page order in flags, by the draft: bits 10 to 15.
    IOMMU_page_order_mask: u16 = 0xFC00,
    /// The same mask as the shipped code computes it: bits 11 to 13 are lost.
    IOMMU_page_order_mask_xs: u16 = 0xC400,
    /// Shift of the page order in flags.
    IOMMU_page_order_shift: u16 = 10,
}

impl pv_iommu_op {
    /// A zeroed operation of sub-operation `subop` with the given flags.
    pub fn new(subop: u16, flags: u16) -> Self {
        Self { subop_id: subop, flags, ..Self::default() }
    }

    /// `ioserver` of an unmap_foreign_page, which lies where other sub-operations have their gfn.
    pub fn unmap_ioserver(&self) -> u16 {
        (self.gfn & 0xffff) as u16
    }

    /// Sets the `ioserver` of an unmap_foreign_page.
    pub fn set_unmap_ioserver(&mut self, id: u16) {
        self.gfn = u64::from(id);
    }

    /// The page order in `flags`.
    pub fn order(&self) -> u16 {
        (self.flags & IOMMU_page_order_mask) >> IOMMU_page_order_shift
    }
}
