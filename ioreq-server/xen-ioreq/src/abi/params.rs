//! `hvm/params.h`: parameters of HVM and PVH guests.

abi_structs! {
    header "xen/hvm/params.h";
}

abi_consts! {
    header "xen/hvm/params.h";
    /// How the guest is told of events.
    HVM_PARAM_CALLBACK_IRQ: u32 = 0,
    /// Bits of its type.
    HVM_PARAM_CALLBACK_IRQ_TYPE_MASK: u64 = 0xFF00_0000_0000_0000,
    /// By a GSI.
    HVM_PARAM_CALLBACK_TYPE_GSI: u64 = 0,
    /// By a PCI pin.
    HVM_PARAM_CALLBACK_TYPE_PCI_INTX: u64 = 1,
    /// By a vector.
    HVM_PARAM_CALLBACK_TYPE_VECTOR: u64 = 2,
    /// Frame of the XenStore ring.
    HVM_PARAM_STORE_PFN: u32 = 1,
    /// Its port.
    HVM_PARAM_STORE_EVTCHN: u32 = 2,
    /// PAE (deprecated).
    HVM_PARAM_PAE_ENABLED: u32 = 4,
    /// Frame of the default server's sync slots.
    HVM_PARAM_IOREQ_PFN: u32 = 5,
    /// Frame of its buffered ring.
    HVM_PARAM_BUFIOREQ_PFN: u32 = 6,
    /// Viridian features.
    HVM_PARAM_VIRIDIAN: u32 = 9,
    /// How missed timer ticks are made up for.
    HVM_PARAM_TIMER_MODE: u32 = 10,
    /// HPET.
    HVM_PARAM_HPET_ENABLED: u32 = 11,
    /// Frame of the identity page directory.
    HVM_PARAM_IDENT_PT: u32 = 12,
    /// Domain of the device model (deprecated).
    HVM_PARAM_DM_DOMAIN: u32 = 13,
    /// ACPI sleep state.
    HVM_PARAM_ACPI_S_STATE: u32 = 14,
    /// TSS for virtual 8086 mode.
    HVM_PARAM_VM86_TSS: u32 = 15,
    /// Align periodic timers.
    HVM_PARAM_VPT_ALIGN: u32 = 16,
    /// Frame of the console ring.
    HVM_PARAM_CONSOLE_PFN: u32 = 17,
    /// Its port.
    HVM_PARAM_CONSOLE_EVTCHN: u32 = 18,
    /// Where the ACPI ports are.
    HVM_PARAM_ACPI_IOPORTS_LOCATION: u32 = 19,
    /// Report CR0 (deprecated).
    HVM_PARAM_MEMORY_EVENT_CR0: u32 = 20,
    /// Report CR3 (deprecated).
    HVM_PARAM_MEMORY_EVENT_CR3: u32 = 21,
    /// Report CR4 (deprecated).
    HVM_PARAM_MEMORY_EVENT_CR4: u32 = 22,
    /// Report breakpoints (deprecated).
    HVM_PARAM_MEMORY_EVENT_INT3: u32 = 23,
    /// Report single steps (deprecated).
    HVM_PARAM_MEMORY_EVENT_SINGLE_STEP: u32 = 25,
    /// Report MSRs (deprecated).
    HVM_PARAM_MEMORY_EVENT_MSR: u32 = 30,
    /// Nested virtualisation (deprecated).
    HVM_PARAM_NESTEDHVM: u32 = 24,
    /// Port of the default server's buffered ring.
    HVM_PARAM_BUFIOREQ_EVTCHN: u32 = 26,
    /// Frame of the paging ring.
    HVM_PARAM_PAGING_RING_PFN: u32 = 27,
    /// Frame of the monitor ring.
    HVM_PARAM_MONITOR_RING_PFN: u32 = 28,
    /// Frame of the sharing ring.
    HVM_PARAM_SHARING_RING_PFN: u32 = 29,
    /// What a triple fault does.
    HVM_PARAM_TRIPLE_FAULT_REASON: u32 = 31,
    /// First frame for further servers.
    HVM_PARAM_IOREQ_SERVER_PFN: u32 = 32,
    /// Number of such frames.
    HVM_PARAM_NR_IOREQ_SERVER_PAGES: u32 = 33,
    /// Address of the generation id.
    HVM_PARAM_VM_GENERATION_ID_ADDR: u32 = 34,
    /// Alternate address spaces.
    HVM_PARAM_ALTP2M: u32 = 35,
    /// Width of FPU instruction pointers.
    HVM_PARAM_X87_FIP_WIDTH: u32 = 36,
    /// TSS and its size.
    HVM_PARAM_VM86_TSS_SIZED: u32 = 37,
    /// MCA capabilities.
    HVM_PARAM_MCA_CAP: u32 = 38,
    /// Number of parameters.
    HVM_NR_PARAMS: u32 = 39,
}
