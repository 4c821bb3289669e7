//! `elfnote.h`: what a kernel image tells its loader.

abi_structs! {
    header "xen/elfnote.h";
}

abi_consts! {
    header "xen/elfnote.h";
    /// Virtual entry point (PV).
    XEN_ELFNOTE_ENTRY: u32 = 1,
    /// Where the hypercall page goes.
    XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2,
    /// Interface version, a string.
    XEN_ELFNOTE_XEN_VERSION: u32 = 5,
    /// Name of the system.
    XEN_ELFNOTE_GUEST_OS: u32 = 6,
    /// Its version.
    XEN_ELFNOTE_GUEST_VERSION: u32 = 7,
    /// Loader, `generic`.
    XEN_ELFNOTE_LOADER: u32 = 8,
    /// Features, a string.
    XEN_ELFNOTE_FEATURES: u32 = 10,
    /// Features, a bitmap.
    XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17,
    /// Physical entry point in 32-bit mode: the image can be started as PVH.
    XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18,
}
