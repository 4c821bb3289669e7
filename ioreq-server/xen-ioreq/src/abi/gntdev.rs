//! `sys/gntdev.h`: Linux's `/dev/xen/gntdev`, mapping of grants that others gave.
//!
//! Structs that end in an array are declared with one entry, as in C; more entries follow them.

abi_structs! {
    header "xen/sys/gntdev.h";
    /// A grant of a domain.
    struct ioctl_gntdev_grant_ref = "struct ioctl_gntdev_grant_ref" {
        /// Domain that granted.
        domid: u32,
        /// Reference.
        r#ref ("ref"): u32,
    }
    /// [`IOCTL_GNTDEV_MAP_GRANT_REF`].
    struct ioctl_gntdev_map_grant_ref = "struct ioctl_gntdev_map_grant_ref" {
        /// Number of grants.
        count: u32,
        /// Zero.
        pad: u32,
        /// Out: offset for mmap.
        index: u64,
        /// First of the grants.
        refs: ioctl_gntdev_grant_ref,
    }
    /// [`IOCTL_GNTDEV_UNMAP_GRANT_REF`].
    struct ioctl_gntdev_unmap_grant_ref = "struct ioctl_gntdev_unmap_grant_ref" {
        /// The offset.
        index: u64,
        /// Number of grants.
        count: u32,
        /// Zero.
        pad: u32,
    }
    /// [`IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR`].
    struct ioctl_gntdev_get_offset_for_vaddr = "struct ioctl_gntdev_get_offset_for_vaddr" {
        /// Address of the mapping.
        vaddr: u64,
        /// Out: its offset.
        offset: u64,
        /// Out: number of grants.
        count: u32,
        /// Zero.
        pad: u32,
    }
    /// [`IOCTL_GNTDEV_SET_UNMAP_NOTIFY`].
    struct ioctl_gntdev_unmap_notify = "struct ioctl_gntdev_unmap_notify" {
        /// Offset of a byte.
        index: u64,
        /// `UNMAP_NOTIFY_*`.
        action: u32,
        /// Port to notify.
        event_channel_port: u32,
    }
    /// One copy of [`ioctl_gntdev_grant_copy`]. An end is a pointer, or `{ u32 ref; u16 offset; u16 domid }`.
    struct ioctl_gntdev_grant_copy_segment = "struct ioctl_gntdev_grant_copy_segment" {
        /// From.
        source: u64,
        /// To.
        dest: u64,
        /// Bytes.
        len: u16,
        /// `GNTCOPY_*`.
        flags: u16,
        /// Out: `GNTST_*`.
        status: i16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
    }
    /// [`IOCTL_GNTDEV_GRANT_COPY`].
    struct ioctl_gntdev_grant_copy = "struct ioctl_gntdev_grant_copy" {
        /// Number of copies.
        count: u32,
        /// Padding to the C struct's alignment.
        _pad (""): u32,
        /// Pointer to them.
        segments: u64,
    }
}

abi_consts! {
    header "xen/sys/gntdev.h";
    /// Prepare grants for mmap.
    IOCTL_GNTDEV_MAP_GRANT_REF: u32 = super::ioc('G', 0, core::mem::size_of::<ioctl_gntdev_map_grant_ref>()),
    /// Forget them.
    IOCTL_GNTDEV_UNMAP_GRANT_REF: u32 = super::ioc('G', 1, core::mem::size_of::<ioctl_gntdev_unmap_grant_ref>()),
    /// Which grants are mapped at an address.
    IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR: u32 = super::ioc('G', 2, core::mem::size_of::<ioctl_gntdev_get_offset_for_vaddr>()),
    /// What happens at unmap.
    IOCTL_GNTDEV_SET_UNMAP_NOTIFY: u32 = super::ioc('G', 7, core::mem::size_of::<ioctl_gntdev_unmap_notify>()),
    /// Copy without mapping.
    IOCTL_GNTDEV_GRANT_COPY: u32 = super::ioc('G', 8, core::mem::size_of::<ioctl_gntdev_grant_copy>()),
    /// Write a zero byte.
    UNMAP_NOTIFY_CLEAR_BYTE: u32 = 1,
    /// Send an event.
    UNMAP_NOTIFY_SEND_EVENT: u32 = 2,
    /// Length of [`ioctl_gntdev_map_grant_ref`] without its grants.
    MAP_GRANT_REF_HEAD ("offsetof(struct ioctl_gntdev_map_grant_ref, refs)"): usize = core::mem::offset_of!(ioctl_gntdev_map_grant_ref, refs),
}
