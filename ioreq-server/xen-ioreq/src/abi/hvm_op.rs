//! `hvm/hvm_op.h`: operations on HVM and PVH guests, memory types, modes of the buffered ring.

abi_structs! {
    header "xen/hvm/hvm_op.h";
    /// [`HVMOP_set_param`], [`HVMOP_get_param`].
    struct xen_hvm_param = "struct xen_hvm_param" {
        /// Domain.
        domid: u16,
        /// Zero.
        pad: u16,
        /// `HVM_PARAM_*`, see [`super::params`].
        index: u32,
        /// In or out: the value.
        value: u64,
    }
    /// [`HVMOP_get_mem_type`].
    struct xen_hvm_get_mem_type = "struct xen_hvm_get_mem_type" {
        /// Domain.
        domid: u16,
        /// Out: `HVMMEM_*`.
        mem_type: u16,
        /// Zero.
        pad: [u16; 2],
        /// Frame.
        pfn: u64,
    }
    /// [`HVMOP_get_time`].
    struct xen_hvm_get_time = "struct xen_hvm_get_time" {
        /// Out: system time in nanoseconds.
        now: u64,
    }
    /// [`HVMOP_set_evtchn_upcall_vector`].
    struct xen_hvm_evtchn_upcall_vector = "struct xen_hvm_evtchn_upcall_vector" {
        /// vCPU.
        vcpu: u32,
        /// Interrupt vector.
        vector: u8,
        /// Padding to the C struct's alignment.
        _pad (""): [u8; 3],
    }
}

abi_consts! {
    header "xen/hvm/hvm_op.h";
    /// Set a parameter.
    HVMOP_set_param: u32 = 0,
    /// Read a parameter.
    HVMOP_get_param: u32 = 1,
    /// Flush the TLBs of all vCPUs.
    HVMOP_flush_tlbs: u32 = 5,
    /// System time.
    HVMOP_get_time: u32 = 10,
    /// Type of a frame.
    HVMOP_get_mem_type: u32 = 15,
    /// Vector by which a vCPU is told of events.
    HVMOP_set_evtchn_upcall_vector: u32 = 23,
    /// Notify a monitor.
    HVMOP_guest_request_vm_event: u32 = 24,
    /// Ordinary memory.
    HVMMEM_ram_rw: u16 = 0,
    /// Read-only; writes are dropped.
    HVMMEM_ram_ro: u16 = 1,
    /// Accesses go to the device model.
    HVMMEM_mmio_dm: u16 = 2,
    /// Was `HVMMEM_mmio_write_dm`; refused.
    HVMMEM_unused: u16 = 3,
    /// Writes go to the server that claimed the type.
    HVMMEM_ioreq_server: u16 = 4,
    /// No buffered ring.
    HVM_IOREQSRV_BUFIOREQ_OFF: u8 = 0,
    /// Buffered ring whose pointers only their owner writes.
    HVM_IOREQSRV_BUFIOREQ_LEGACY: u8 = 1,
    /// Buffered ring whose pointers are written atomically.
    HVM_IOREQSRV_BUFIOREQ_ATOMIC: u8 = 2,
}
