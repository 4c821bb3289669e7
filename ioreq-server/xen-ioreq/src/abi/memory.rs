//! `memory.h`: the memory operations that a guest, a device model or a test of either uses.
//!
//! A `handle` field is a virtual address in the caller; through [`crate::seam::MemoryOp`] the implementation fills it in.

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
    /// Argument of current_reservation, maximum_reservation, maximum_gpfn.
    struct xen_memory_domain = "struct xen_memory_domain" {
        /// Domain.
        domid: u16,
    }
    /// add_to_physmap.
    struct xen_add_to_physmap = "struct xen_add_to_physmap" {
        /// Domain whose address space changes.
        domid: u16,
        /// Number of frames, gmfn_range only.
        size: u16,
        /// `XENMAPSPACE_*`: where the frame comes from.
        space: u32,
        /// Index in that space.
        idx: u64,
        /// Frame at which it shall appear.
        gpfn: u64,
    }
    /// remove_from_physmap.
    struct xen_remove_from_physmap = "struct xen_remove_from_physmap" {
        /// Domain.
        domid: u16,
        /// Padding to the C struct's alignment.
        _pad (""): [u16; 3],
        /// Frame to remove.
        gpfn: u64,
    }
    /// memory_map; the buffer holds e820 entries.
    struct xen_memory_map = "struct xen_memory_map" {
        /// In: room in the buffer. Out: entries.
        nr_entries: u32,
        /// Padding to the C struct's alignment.
        _pad (""): u32,
        /// Handle to the buffer.
        buffer: u64,
    }
    /// access_op.
    struct xen_mem_access_op = "struct xen_mem_access_op" {
        /// `XENMEM_access_op_*`.
        op: u8,
        /// `XENMEM_access_*`.
        access: u8,
        /// Domain.
        domid: u16,
        /// Number of frames.
        nr: u32,
        /// First frame; all ones sets the default.
        pfn: u64,
        /// Handle to a list of frames, set_access_multi only.
        pfn_list: u64,
        /// Handle to their access types, set_access_multi only.
        access_list: u64,
    }
    /// acquire_resource.
    struct xen_mem_acquire_resource = "struct xen_mem_acquire_resource" {
        /// Domain that the resource belongs to.
        domid: u16,
        /// `XENMEM_resource_*`.
        r#type ("type"): u16,
        /// Which resource of that type.
        id: u32,
        /// In: frames wanted. Out, with 0 frames and a null list: size of the resource.
        nr_frames: u32,
        /// Zero.
        pad: u32,
        /// First frame of the resource.
        frame: u64,
        /// Handle to the list of frame numbers.
        frame_list: u64,
    }
    /// One range of reserved device memory.
    struct xen_reserved_device_memory = "struct xen_reserved_device_memory" {
        /// First frame.
        start_pfn: u64,
        /// Number of frames.
        nr_pages: u64,
    }
}

abi_consts! {
    header "xen/memory.h";
    /// More frames, anywhere (PV).
    XENMEM_increase_reservation: u32 = 0,
    /// Give frames back.
    XENMEM_decrease_reservation: u32 = 1,
    /// Put frames behind holes.
    XENMEM_populate_physmap: u32 = 6,
    /// Highest frame of the machine.
    XENMEM_maximum_ram_page: u32 = 2,
    /// Frames that a domain has.
    XENMEM_current_reservation: u32 = 3,
    /// Frames that a domain may have.
    XENMEM_maximum_reservation: u32 = 4,
    /// Highest frame number in use in a domain's address space.
    XENMEM_maximum_gpfn: u32 = 14,
    /// Put a frame of another space at a guest frame.
    XENMEM_add_to_physmap: u32 = 7,
    /// Empty a guest frame.
    XENMEM_remove_from_physmap: u32 = 15,
    /// The caller's e820.
    XENMEM_memory_map: u32 = 9,
    /// Access types of guest frames.
    XENMEM_access_op: u32 = 21,
    /// Reserved device memory (RMRRs).
    XENMEM_reserved_device_memory_map: u32 = 27,
    /// Frames of a resource of the hypervisor.
    XENMEM_acquire_resource: u32 = 28,
    /// Extents need not be backed at once.
    XENMEMF_populate_on_demand: u32 = 1 << 16,
    /// From the given NUMA node or not at all.
    XENMEMF_exact_node_request: u32 = 1 << 17,
    /// The node number is virtual.
    XENMEMF_vnode: u32 = 1 << 18,
    /// The domain's shared info page.
    XENMAPSPACE_shared_info: u32 = 0,
    /// A frame of its grant table.
    XENMAPSPACE_grant_table: u32 = 1,
    /// One of its own frames.
    XENMAPSPACE_gmfn: u32 = 2,
    /// A range of its own frames.
    XENMAPSPACE_gmfn_range: u32 = 3,
    /// Frames of another domain.
    XENMAPSPACE_gmfn_foreign: u32 = 4,
    /// Device memory.
    XENMAPSPACE_dev_mmio: u32 = 5,
    /// In the index of XENMAPSPACE_grant_table: a status frame.
    XENMAPIDX_grant_table_status: u32 = 0x8000_0000,
    /// Pages of an IOREQ server; the id is the server's.
    XENMEM_resource_ioreq_server: u32 = 0,
    /// Pages of a grant table.
    XENMEM_resource_grant_table: u32 = 1,
    /// Trace buffer of a vCPU.
    XENMEM_resource_vmtrace_buf: u32 = 2,
    /// id: the grant entries.
    XENMEM_resource_grant_table_id_shared: u32 = 0,
    /// id: the status words.
    XENMEM_resource_grant_table_id_status: u32 = 1,
    /// Frame of the buffered ring.
    XENMEM_resource_ioreq_server_frame_bufioreq: u32 = 0,
    /// First frame of the sync slots.
    XENMEM_resource_ioreq_server_frame_ioreq0 ("XENMEM_resource_ioreq_server_frame_ioreq(0)"): u32 = 1,
    /// access_op: set.
    XENMEM_access_op_set_access: u8 = 0,
    /// access_op: get.
    XENMEM_access_op_get_access: u8 = 1,
    /// access_op: set for a list.
    XENMEM_access_op_set_access_multi: u8 = 4,
    /// No access.
    XENMEM_access_n: u8 = 0,
    /// Read.
    XENMEM_access_r: u8 = 1,
    /// Write.
    XENMEM_access_w: u8 = 2,
    /// Read, write.
    XENMEM_access_rw: u8 = 3,
    /// Execute.
    XENMEM_access_x: u8 = 4,
    /// Read, execute.
    XENMEM_access_rx: u8 = 5,
    /// Write, execute.
    XENMEM_access_wx: u8 = 6,
    /// All.
    XENMEM_access_rwx: u8 = 7,
    /// Read, execute; a write makes it read, write.
    XENMEM_access_rx2rw: u8 = 8,
    /// No access; the first one is reported and makes it all.
    XENMEM_access_n2rwx: u8 = 9,
    /// The domain's default.
    XENMEM_access_default: u8 = 10,
}
