//! `version.h` and `features.h`: who the hypervisor is and what it does for the caller.

abi_structs! {
    header "xen/version.h";
    /// [`XENVER_get_features`].
    struct xen_feature_info = "struct xen_feature_info" {
        /// In: which word.
        submap_idx: u32,
        /// Out: bits, `XENFEAT_*`.
        submap: u32,
    }
}

abi_consts! {
    header "xen/version.h";
    /// Returns major << 16 | minor.
    XENVER_version: u32 = 0,
    /// The rest of the version, 16 bytes.
    XENVER_extraversion: u32 = 1,
    /// Which guests it can run, 1024 bytes.
    XENVER_capabilities: u32 = 3,
    /// Changeset, 64 bytes.
    XENVER_changeset: u32 = 4,
    /// Feature words.
    XENVER_get_features: u32 = 6,
    /// Its command line, 1024 bytes.
    XENVER_commandline: u32 = 9,
    /// Bytes of XENVER_extraversion.
    XEN_EXTRAVERSION_LEN: usize = 16,
    /// Bytes of XENVER_capabilities.
    XEN_CAPABILITIES_INFO_LEN: usize = 1024,
    /// Page tables may be written directly.
    XENFEAT_writable_page_tables: u32 = 0,
    /// Descriptor tables may be written directly.
    XENFEAT_writable_descriptor_tables: u32 = 1,
    /// Guest frames are not machine frames: HVM, PVH.
    XENFEAT_auto_translated_physmap: u32 = 2,
    /// Events by a vector.
    XENFEAT_hvm_callback_vector: u32 = 8,
    /// The paravirtual clock works in HVM.
    XENFEAT_hvm_safe_pvclock: u32 = 9,
    /// The caller is the hardware domain.
    XENFEAT_dom0: u32 = 11,
}
