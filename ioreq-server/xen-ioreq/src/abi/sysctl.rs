//! `sysctl.h`: what a toolstack asks about the host. For tools, so tied to one version of Xen.

abi_structs! {
    header "xen/sysctl.h";
    /// The whole of an operation.
    struct xen_sysctl = "struct xen_sysctl" {
        /// `XEN_SYSCTL_*`.
        cmd: u32,
        /// [`XEN_SYSCTL_INTERFACE_VERSION`], or EACCES.
        interface_version: u32,
        /// The operation's struct.
        u: [u64; 16],
    }
    /// [`XEN_SYSCTL_physinfo`].
    struct xen_sysctl_physinfo = "struct xen_sysctl_physinfo" {
        /// Threads of a core.
        threads_per_core: u32,
        /// Cores of a socket.
        cores_per_socket: u32,
        /// CPUs on line.
        nr_cpus: u32,
        /// Highest possible CPU number.
        max_cpu_id: u32,
        /// NUMA nodes on line.
        nr_nodes: u32,
        /// Highest possible node number.
        max_node_id: u32,
        /// Frequency in kHz.
        cpu_khz: u32,
        /// `XEN_SYSCTL_PHYSCAP_*`.
        capabilities: u32,
        /// Zero on x86.
        arch_capabilities: u32,
        /// Zero.
        pad: u32,
        /// Frames of the host.
        total_pages: u64,
        /// Frames that nobody owns.
        free_pages: u64,
        /// Frames still to be scrubbed.
        scrub_pages: u64,
        /// Frames claimed by domains that do not have them yet.
        outstanding_pages: u64,
        /// Highest frame number.
        max_mfn: u64,
        /// CPUID feature words.
        hw_cap: [u32; 8],
    }
    /// [`XEN_SYSCTL_getdomaininfolist`].
    struct xen_sysctl_getdomaininfolist = "struct xen_sysctl_getdomaininfolist" {
        /// First domain to report.
        first_domain: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// Room in the buffer, in domains.
        max_domains: u32,
        /// Handle to an array of [`super::domctl::xen_domctl_getdomaininfo`].
        buffer: u64,
        /// Out: domains written.
        num_domains: u32,
        /// Padding to the C struct's alignment.
        _pad2 (""): u32,
    }
}

abi_consts! {
    header "xen/sysctl.h";
    /// Version of the interface in Xen 4.17.
    XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15,
    /// About the host.
    XEN_SYSCTL_physinfo: u32 = 3,
    /// About its domains.
    XEN_SYSCTL_getdomaininfolist: u32 = 6,
    /// The host can run HVM guests.
    XEN_SYSCTL_PHYSCAP_hvm: u32 = 1,
    /// The host can run PV guests.
    XEN_SYSCTL_PHYSCAP_pv: u32 = 2,
    /// The host has an IOMMU in use.
    XEN_SYSCTL_PHYSCAP_directio: u32 = 4,
    /// Hardware-assisted paging.
    XEN_SYSCTL_PHYSCAP_hap: u32 = 8,
    /// Shadow paging.
    XEN_SYSCTL_PHYSCAP_shadow: u32 = 16,
    /// IOMMU shares page tables with HAP.
    XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share: u32 = 32,
    /// Processor trace.
    XEN_SYSCTL_PHYSCAP_vmtrace: u32 = 64,
    /// Virtual performance counters.
    XEN_SYSCTL_PHYSCAP_vpmu: u32 = 128,
    /// Grant tables version 1.
    XEN_SYSCTL_PHYSCAP_gnttab_v1: u32 = 256,
    /// Grant tables version 2.
    XEN_SYSCTL_PHYSCAP_gnttab_v2: u32 = 512,
    /// Highest known capability.
    XEN_SYSCTL_PHYSCAP_MAX: u32 = 512,
}
