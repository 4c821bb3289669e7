//! `xen.h`: hypercall numbers, reserved domain numbers, virtual interrupts, the time and vCPU areas.

abi_structs! {
    header "xen/xen.h";
    /// Paravirtual clock of a vCPU.
    struct vcpu_time_info = "struct vcpu_time_info" {
        /// Odd while Xen writes.
        version: u32,
        /// Zero.
        pad0: u32,
        /// TSC at the last update.
        tsc_timestamp: u64,
        /// Nanoseconds since boot at that time.
        system_time: u64,
        /// Multiplier from TSC to nanoseconds, 32.32 after the shift.
        tsc_to_system_mul: u32,
        /// Shift before the multiplication; right if negative.
        tsc_shift: i8,
        /// `XEN_PVCLOCK_*`.
        flags: u8,
        /// Zero.
        pad1: [u8; 2],
    }
    /// One call of [`__HYPERVISOR_multicall`].
    struct multicall_entry = "struct multicall_entry" {
        /// Number of the hypercall.
        op: u64,
        /// Out: its value.
        result: u64,
        /// Its arguments.
        args: [u64; 6],
    }
    /// What Xen shares with a vCPU. Both sides write it: access it through atomics.
    struct vcpu_info = "struct vcpu_info" {
        /// An event is pending.
        evtchn_upcall_pending: u8,
        /// Upcalls are masked (PV).
        evtchn_upcall_mask: u8,
        /// Padding to the C struct's alignment.
        _pad (""): [u8; 6],
        /// Which words of the pending bitmap to look at.
        evtchn_pending_sel: u64,
        /// `struct arch_vcpu_info`: CR2 and padding.
        arch: [u64; 2],
        /// The clock.
        time: vcpu_time_info,
    }
}

abi_consts! {
    header "xen/xen.h";
    /// memory.h.
    __HYPERVISOR_memory_op: u64 = 12,
    /// Several calls in one.
    __HYPERVISOR_multicall: u64 = 13,
    /// One-shot timer of the vCPU.
    __HYPERVISOR_set_timer_op: u64 = 15,
    /// version.h.
    __HYPERVISOR_xen_version: u64 = 17,
    /// The console.
    __HYPERVISOR_console_io: u64 = 18,
    /// grant_table.h.
    __HYPERVISOR_grant_table_op: u64 = 20,
    /// vcpu.h.
    __HYPERVISOR_vcpu_op: u64 = 24,
    /// sched.h.
    __HYPERVISOR_sched_op: u64 = 29,
    /// event_channel.h.
    __HYPERVISOR_event_channel_op: u64 = 32,
    /// physdev.h.
    __HYPERVISOR_physdev_op: u64 = 33,
    /// hvm/hvm_op.h.
    __HYPERVISOR_hvm_op: u64 = 34,
    /// sysctl.h.
    __HYPERVISOR_sysctl: u64 = 35,
    /// domctl.h.
    __HYPERVISOR_domctl: u64 = 36,
    /// argo.h.
    __HYPERVISOR_argo_op: u64 = 39,
    /// hvm/dm_op.h.
    __HYPERVISOR_dm_op: u64 = 41,
    /// First of the numbers that an architecture uses.
    __HYPERVISOR_arch_0: u64 = 48,
    /// Last of them; the first free one is the next.
    __HYPERVISOR_arch_7: u64 = 55,
    /// First reserved domain number.
    DOMID_FIRST_RESERVED: u16 = 0x7FF0,
    /// The caller.
    DOMID_SELF: u16 = 0x7FF0,
    /// Owner of I/O memory.
    DOMID_IO: u16 = 0x7FF1,
    /// Owner of Xen's frames.
    DOMID_XEN: u16 = 0x7FF2,
    /// Owner of frames shared copy-on-write.
    DOMID_COW: u16 = 0x7FF3,
    /// No domain.
    DOMID_INVALID: u16 = 0x7FF4,
    /// Xen's idle domain.
    DOMID_IDLE: u16 = 0x7FFF,
    /// Bits of a domain number.
    DOMID_MASK: u16 = 0x7FFF,
    /// The vCPU's timer.
    VIRQ_TIMER: u32 = 0,
    /// Debug key.
    VIRQ_DEBUG: u32 = 1,
    /// Console input for the hardware domain.
    VIRQ_CONSOLE: u32 = 2,
    /// A domain changed state.
    VIRQ_DOM_EXC: u32 = 3,
    /// Memory runs short.
    VIRQ_ENOMEM: u32 = 12,
    /// console_io: write bytes.
    CONSOLEIO_write: u32 = 0,
    /// console_io: read bytes.
    CONSOLEIO_read: u32 = 1,
    /// The clock is the same on all vCPUs.
    XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1,
    /// The domain was stopped.
    XEN_PVCLOCK_GUEST_STOPPED: u8 = 2,
    /// vCPUs that have their `vcpu_info` in the shared info page.
    XEN_LEGACY_MAX_VCPUS: u32 = 32,
    /// Offset of the pending bitmap in the shared info page.
    SHARED_INFO_EVTCHN_PENDING ("offsetof(struct shared_info, evtchn_pending)"): usize = 2048,
    /// Offset of the mask bitmap in the shared info page.
    SHARED_INFO_EVTCHN_MASK ("offsetof(struct shared_info, evtchn_mask)"): usize = 2560,
    /// Offset of the wallclock's version in the shared info page.
    SHARED_INFO_WC_VERSION ("offsetof(struct shared_info, wc_version)"): usize = 3072,
    /// Offset of the wallclock's seconds in the shared info page.
    SHARED_INFO_WC_SEC ("offsetof(struct shared_info, wc_sec)"): usize = 3076,
    /// Offset in the shared info page of the number of frames that a PV domain's table of its own frames has.
    SHARED_INFO_MAX_PFN ("offsetof(struct shared_info, arch.max_pfn)"): usize = 3088,
    /// Offset of the CR3 by which that table is to be found, 0 where the domain does not say.
    SHARED_INFO_P2M_CR3 ("offsetof(struct shared_info, arch.p2m_cr3)"): usize = 3112,
    /// Offset of the table's virtual address under that CR3.
    SHARED_INFO_P2M_VADDR ("offsetof(struct shared_info, arch.p2m_vaddr)"): usize = 3120,
}
