//! `hvm/dm_op.h`: what a device model may do to its guest.
//!
//! `struct xen_dm_op` is `{ u32 op; u32 pad; union u }`; the structs below are the members of the union, placed at
//! [`PAYLOAD_OFFSET`]. Xen zero-extends a short first buffer to the whole struct and writes back as much as it was given.

abi_structs! {
    header "xen/hvm/dm_op.h";
    /// The whole of an operation, buffer 0 of the hypercall.
    struct xen_dm_op = "struct xen_dm_op" {
        /// `XEN_DMOP_*`.
        op: u32,
        /// Must be 0.
        pad: u32,
        /// The operation's struct, zero-extended.
        u: [u64; 3],
    }
    /// One buffer of the hypercall, as Xen sees it.
    struct xen_dm_op_buf = "struct xen_dm_op_buf" {
        /// Guest virtual address.
        h: u64,
        /// Length in bytes.
        size: u64,
    }
    /// [`XEN_DMOP_create_ioreq_server`].
    struct xen_dm_op_create_ioreq_server = "struct xen_dm_op_create_ioreq_server" {
        /// In: `HVM_IOREQSRV_BUFIOREQ_*`.
        handle_bufioreq: u8,
        /// Zero.
        pad: [u8; 3],
        /// Out: the server's number.
        id: u16,
    }
    /// [`XEN_DMOP_get_ioreq_server_info`].
    struct xen_dm_op_get_ioreq_server_info = "struct xen_dm_op_get_ioreq_server_info" {
        /// In: server.
        id: u16,
        /// In: [`XEN_DMOP_no_gfns`].
        flags: u16,
        /// Out: event channel of the buffered ring, to be bound by the emulator.
        bufioreq_port: u32,
        /// Out: frame of the sync slots, in the guest.
        ioreq_gfn: u64,
        /// Out: frame of the buffered ring, in the guest.
        bufioreq_gfn: u64,
    }
    /// [`XEN_DMOP_map_io_range_to_ioreq_server`] and [`XEN_DMOP_unmap_io_range_from_ioreq_server`].
    struct xen_dm_op_ioreq_server_range = "struct xen_dm_op_ioreq_server_range" {
        /// Server.
        id: u16,
        /// Zero.
        pad: u16,
        /// `XEN_DMOP_IO_RANGE_*`.
        r#type ("type"): u32,
        /// First port, byte address or SBDF.
        start: u64,
        /// Last one, inclusive.
        end: u64,
    }
    /// [`XEN_DMOP_set_ioreq_server_state`].
    struct xen_dm_op_set_ioreq_server_state = "struct xen_dm_op_set_ioreq_server_state" {
        /// Server.
        id: u16,
        /// 0 or 1.
        enabled: u8,
        /// Zero.
        pad: u8,
    }
    /// [`XEN_DMOP_destroy_ioreq_server`].
    struct xen_dm_op_destroy_ioreq_server = "struct xen_dm_op_destroy_ioreq_server" {
        /// Server.
        id: u16,
        /// Zero.
        pad: u16,
    }
    /// [`XEN_DMOP_track_dirty_vram`]; buffer 1 is the bitmap, one bit a frame.
    struct xen_dm_op_track_dirty_vram = "struct xen_dm_op_track_dirty_vram" {
        /// Number of frames; 0 stops tracking.
        nr: u32,
        /// Zero.
        pad: u32,
        /// First frame.
        first_pfn: u64,
    }
    /// [`XEN_DMOP_set_pci_intx_level`].
    struct xen_dm_op_set_pci_intx_level = "struct xen_dm_op_set_pci_intx_level" {
        /// PCI segment.
        domain: u16,
        /// Bus.
        bus: u8,
        /// Device.
        device: u8,
        /// Pin, 0 is INTA.
        intx: u8,
        /// 0 or 1.
        level: u8,
    }
    /// [`XEN_DMOP_set_isa_irq_level`].
    struct xen_dm_op_set_isa_irq_level = "struct xen_dm_op_set_isa_irq_level" {
        /// Line, 0 to 15.
        isa_irq: u8,
        /// 0 or 1.
        level: u8,
    }
    /// [`XEN_DMOP_set_pci_link_route`].
    struct xen_dm_op_set_pci_link_route = "struct xen_dm_op_set_pci_link_route" {
        /// Link, 0 to 3.
        link: u8,
        /// ISA line 1 to 15, or 0 to disable the link.
        isa_irq: u8,
    }
    /// [`XEN_DMOP_modified_memory`]; buffer 1 is an array of [`xen_dm_op_modified_memory_extent`].
    struct xen_dm_op_modified_memory = "struct xen_dm_op_modified_memory" {
        /// In: entries of the array. Out, on error: index + 1 of the entry that failed.
        nr_extents: u32,
        /// Zero; Xen keeps its progress here.
        opaque: u32,
    }
    /// One run of modified frames.
    struct xen_dm_op_modified_memory_extent = "struct xen_dm_op_modified_memory_extent" {
        /// Number of frames.
        nr: u32,
        /// Zero.
        pad: u32,
        /// First frame.
        first_pfn: u64,
    }
    /// [`XEN_DMOP_set_mem_type`].
    struct xen_dm_op_set_mem_type = "struct xen_dm_op_set_mem_type" {
        /// Number of frames.
        nr: u32,
        /// `HVMMEM_*`.
        mem_type: u16,
        /// Zero.
        pad: u16,
        /// First frame.
        first_pfn: u64,
    }
    /// [`XEN_DMOP_inject_event`].
    struct xen_dm_op_inject_event = "struct xen_dm_op_inject_event" {
        /// vCPU.
        vcpuid: u32,
        /// Vector.
        vector: u8,
        /// `XEN_DMOP_EVENT_*`.
        r#type ("type"): u8,
        /// Length of the instruction, for software interrupts.
        insn_len: u8,
        /// Zero.
        pad0: u8,
        /// Error code, or all ones for none.
        error_code: u32,
        /// Zero.
        pad1: u32,
        /// CR2 for a page fault, pending debug bits for #DB.
        cr2: u64,
    }
    /// [`XEN_DMOP_inject_msi`].
    struct xen_dm_op_inject_msi = "struct xen_dm_op_inject_msi" {
        /// MSI data.
        data: u32,
        /// Zero.
        pad: u32,
        /// MSI address, `0xfeexxxxx`.
        addr: u64,
    }
    /// [`XEN_DMOP_map_mem_type_to_ioreq_server`].
    struct xen_dm_op_map_mem_type_to_ioreq_server = "struct xen_dm_op_map_mem_type_to_ioreq_server" {
        /// Server.
        id: u16,
        /// `HVMMEM_ioreq_server`.
        r#type ("type"): u16,
        /// `XEN_DMOP_IOREQ_MEM_ACCESS_*`; 0 unmaps.
        flags: u32,
        /// Zero; Xen keeps its progress here.
        opaque: u64,
    }
    /// [`XEN_DMOP_remote_shutdown`].
    struct xen_dm_op_remote_shutdown = "struct xen_dm_op_remote_shutdown" {
        /// `SHUTDOWN_*`.
        reason: u32,
    }
    /// [`XEN_DMOP_relocate_memory`].
    struct xen_dm_op_relocate_memory = "struct xen_dm_op_relocate_memory" {
        /// Number of frames.
        size: u32,
        /// Zero.
        pad: u32,
        /// First frame at the old place.
        src_gfn: u64,
        /// First frame at the new place.
        dst_gfn: u64,
    }
    /// [`XEN_DMOP_pin_memory_cacheattr`].
    struct xen_dm_op_pin_memory_cacheattr = "struct xen_dm_op_pin_memory_cacheattr" {
        /// First frame.
        start: u64,
        /// Last frame, inclusive.
        end: u64,
        /// `XEN_DMOP_MEM_CACHEATTR_*` or [`XEN_DMOP_DELETE_MEM_CACHEATTR`].
        r#type ("type"): u32,
        /// Zero.
        pad: u32,
    }
    /// [`XEN_DMOP_set_irq_level`] (Arm).
    struct xen_dm_op_set_irq_level = "struct xen_dm_op_set_irq_level" {
        /// Interrupt.
        irq: u32,
        /// 0 or 1.
        level: u8,
        /// Zero.
        pad: [u8; 3],
    }
    /// [`XEN_DMOP_nr_vcpus`].
    struct xen_dm_op_nr_vcpus = "struct xen_dm_op_nr_vcpus" {
        /// Out: vCPUs of the domain.
        vcpus: u32,
    }
}

abi_consts! {
    header "xen/hvm/dm_op.h";
    /// Create an IOREQ server.
    XEN_DMOP_create_ioreq_server: u32 = 1,
    /// Where its shared pages and its port are.
    XEN_DMOP_get_ioreq_server_info: u32 = 2,
    /// Register a range of ports, addresses or PCI functions.
    XEN_DMOP_map_io_range_to_ioreq_server: u32 = 3,
    /// Take a range back.
    XEN_DMOP_unmap_io_range_from_ioreq_server: u32 = 4,
    /// Enable or disable a server.
    XEN_DMOP_set_ioreq_server_state: u32 = 5,
    /// Destroy a server.
    XEN_DMOP_destroy_ioreq_server: u32 = 6,
    /// Which frames of a framebuffer were written since the last call.
    XEN_DMOP_track_dirty_vram: u32 = 7,
    /// Level of a PCI interrupt pin.
    XEN_DMOP_set_pci_intx_level: u32 = 8,
    /// Level of an ISA interrupt line.
    XEN_DMOP_set_isa_irq_level: u32 = 9,
    /// Route a PCI link to an ISA line.
    XEN_DMOP_set_pci_link_route: u32 = 10,
    /// Tell that the emulator wrote to frames (live migration).
    XEN_DMOP_modified_memory: u32 = 11,
    /// Change the type of frames.
    XEN_DMOP_set_mem_type: u32 = 12,
    /// Inject an exception or interrupt into a vCPU.
    XEN_DMOP_inject_event: u32 = 13,
    /// Inject an MSI.
    XEN_DMOP_inject_msi: u32 = 14,
    /// Send accesses to frames of a type to a server.
    XEN_DMOP_map_mem_type_to_ioreq_server: u32 = 15,
    /// Shut the domain down.
    XEN_DMOP_remote_shutdown: u32 = 16,
    /// Move frames.
    XEN_DMOP_relocate_memory: u32 = 17,
    /// Fix the caching type of frames.
    XEN_DMOP_pin_memory_cacheattr: u32 = 18,
    /// Level of an interrupt (Arm).
    XEN_DMOP_set_irq_level: u32 = 19,
    /// Number of vCPUs.
    XEN_DMOP_nr_vcpus: u32 = 20,
    /// get_ioreq_server_info: do not put the pages into the guest, they are mapped as a resource.
    XEN_DMOP_no_gfns: u16 = 1,
    /// Range of I/O ports.
    XEN_DMOP_IO_RANGE_PORT: u32 = 0,
    /// Range of guest physical byte addresses.
    XEN_DMOP_IO_RANGE_MEMORY: u32 = 1,
    /// Range of PCI functions, see [`pci_sbdf`].
    XEN_DMOP_IO_RANGE_PCI: u32 = 2,
    /// External interrupt.
    XEN_DMOP_EVENT_ext_int: u8 = 0,
    /// NMI.
    XEN_DMOP_EVENT_nmi: u8 = 2,
    /// Hardware exception.
    XEN_DMOP_EVENT_hw_exc: u8 = 3,
    /// Software interrupt (`int n`).
    XEN_DMOP_EVENT_sw_int: u8 = 4,
    /// `icebp`.
    XEN_DMOP_EVENT_pri_sw_exc: u8 = 5,
    /// `int3`, `into`.
    XEN_DMOP_EVENT_sw_exc: u8 = 6,
    /// Reads of frames of the type go to the server (Xen refuses it today).
    XEN_DMOP_IOREQ_MEM_ACCESS_READ: u32 = 1,
    /// Writes to frames of the type go to the server.
    XEN_DMOP_IOREQ_MEM_ACCESS_WRITE: u32 = 2,
    /// Uncached.
    XEN_DMOP_MEM_CACHEATTR_UC: u32 = 0,
    /// Write-combining.
    XEN_DMOP_MEM_CACHEATTR_WC: u32 = 1,
    /// Write-through.
    XEN_DMOP_MEM_CACHEATTR_WT: u32 = 4,
    /// Write-protected.
    XEN_DMOP_MEM_CACHEATTR_WP: u32 = 5,
    /// Write-back.
    XEN_DMOP_MEM_CACHEATTR_WB: u32 = 6,
    /// Uncached unless an MTRR says write-combining.
    XEN_DMOP_MEM_CACHEATTR_UCM: u32 = 7,
    /// Remove the pin.
    XEN_DMOP_DELETE_MEM_CACHEATTR: u32 = !0,
    /// Offset of the operation's struct in [`xen_dm_op`].
    PAYLOAD_OFFSET ("offsetof(struct xen_dm_op, u)"): usize = core::mem::offset_of!(xen_dm_op, u),
}

/// The number under which a PCI function is registered (`XEN_DMOP_PCI_SBDF`); fields that are too large are cut to
/// their 16, 8, 5 and 3 bits.
pub const fn pci_sbdf(segment: u16, bus: u8, device: u8, function: u8) -> u32 {
    (segment as u32) << 16 | (bus as u32) << 8 | ((device & 0x1f) as u32) << 3 | (function & 7) as u32
}
