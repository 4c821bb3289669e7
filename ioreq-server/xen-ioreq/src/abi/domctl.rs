//! `domctl.h`: the little that a device model's tests need of the toolstack's interface to domains.

abi_structs! {
    header "xen/domctl.h";
    /// The whole of an operation.
    struct xen_domctl = "struct xen_domctl" {
        /// `XEN_DOMCTL_*`.
        cmd: u32,
        /// [`XEN_DOMCTL_INTERFACE_VERSION`], or EACCES.
        interface_version: u32,
        /// Domain.
        domain: u16,
        /// Zero.
        _pad: [u16; 3],
        /// The operation's struct.
        u: [u64; 16],
    }
    /// [`XEN_DOMCTL_getdomaininfo`], and an entry of the domain list.
    struct xen_domctl_getdomaininfo = "struct xen_domctl_getdomaininfo" {
        /// Out: domain.
        domain: u16,
        /// Zero.
        pad1: u16,
        /// `XEN_DOMINF_*`.
        flags: u32,
        /// Frames that it has.
        tot_pages: u64,
        /// Frames that it may have.
        max_pages: u64,
        /// Frames claimed and not yet had.
        outstanding_pages: u64,
        /// Shared frames.
        shr_pages: u64,
        /// Frames paged out.
        paged_pages: u64,
        /// Frame of its shared info page.
        shared_info_frame: u64,
        /// Nanoseconds run.
        cpu_time: u64,
        /// vCPUs on line.
        nr_online_vcpus: u32,
        /// Highest vCPU number.
        max_vcpu_id: u32,
        /// Security label.
        ssidref: u32,
        /// UUID.
        handle: [u8; 16],
        /// CPU pool.
        cpupool: u32,
        /// Width of guest physical addresses.
        gpaddr_bits: u8,
        /// Zero.
        pad2: [u8; 7],
        /// Emulated devices.
        emulation_flags ("arch_config.emulation_flags"): u32,
        /// Options of the architecture.
        misc_flags ("arch_config.misc_flags"): u32,
    }
    /// [`XEN_DOMCTL_getpageframeinfo3`].
    struct xen_domctl_getpageframeinfo3 = "struct xen_domctl_getpageframeinfo3" {
        /// Frames that are asked about, at most 1024.
        num: u64,
        /// Address of their numbers, 8 bytes each; out: `XEN_DOMCTL_PFINFO_*` in place of each.
        array: u64,
    }
    /// [`XEN_DOMCTL_max_mem`].
    struct xen_domctl_max_mem = "struct xen_domctl_max_mem" {
        /// Limit in KiB.
        max_memkb: u64,
    }
}

abi_consts! {
    header "xen/domctl.h";
    /// Version of the interface in Xen 4.17.
    XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15,
    /// Destroy a domain.
    XEN_DOMCTL_destroydomain: u32 = 2,
    /// Stop its vCPUs.
    XEN_DOMCTL_pausedomain: u32 = 3,
    /// Let them run.
    XEN_DOMCTL_unpausedomain: u32 = 4,
    /// About a domain.
    XEN_DOMCTL_getdomaininfo: u32 = 5,
    /// Limit its memory.
    XEN_DOMCTL_max_mem: u32 = 11,
    /// What kinds of pages frames of a domain are.
    XEN_DOMCTL_getpageframeinfo3: u32 = 61,
    /// No page table.
    XEN_DOMCTL_PFINFO_NOTAB: u32 = 0,
    /// A page table of the lowest level.
    XEN_DOMCTL_PFINFO_L1TAB: u32 = 1 << 28,
    /// One of the level above.
    XEN_DOMCTL_PFINFO_L2TAB: u32 = 2 << 28,
    /// One of the level above that.
    XEN_DOMCTL_PFINFO_L3TAB: u32 = 3 << 28,
    /// One of the highest level.
    XEN_DOMCTL_PFINFO_L4TAB: u32 = 4 << 28,
    /// Mask of the level.
    XEN_DOMCTL_PFINFO_LTABTYPE_MASK: u32 = 7 << 28,
    /// It is pinned.
    XEN_DOMCTL_PFINFO_LPINTAB: u32 = 1 << 31,
    /// No frame of the domain's.
    XEN_DOMCTL_PFINFO_XTAB: u32 = 0xf << 28,
    /// It is being destroyed.
    XEN_DOMINF_dying: u32 = 1,
    /// It is HVM or PVH.
    XEN_DOMINF_hvm_guest: u32 = 2,
    /// It has shut down.
    XEN_DOMINF_shutdown: u32 = 4,
    /// Paused by the toolstack.
    XEN_DOMINF_paused: u32 = 8,
    /// All vCPUs blocked.
    XEN_DOMINF_blocked: u32 = 16,
    /// A vCPU runs.
    XEN_DOMINF_running: u32 = 32,
    /// Under a debugger.
    XEN_DOMINF_debugged: u32 = 64,
    /// It is the XenStore domain.
    XEN_DOMINF_xs_domain: u32 = 128,
    /// Hardware-assisted paging.
    XEN_DOMINF_hap: u32 = 256,
    /// Mask of the shutdown reason after the shift.
    XEN_DOMINF_shutdownmask: u32 = 255,
    /// Shift of the shutdown reason in the flags.
    XEN_DOMINF_shutdownshift: u32 = 16,
}
