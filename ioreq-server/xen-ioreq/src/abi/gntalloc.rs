//! `sys/gntalloc.h`: Linux's `/dev/xen/gntalloc`, granting of own pages to others.
//!
//! Structs that end in an array are declared with one entry, as in C; more entries follow them.

abi_structs! {
    header "xen/sys/gntalloc.h";
    /// [`IOCTL_GNTALLOC_ALLOC_GREF`].
    struct ioctl_gntalloc_alloc_gref = "struct ioctl_gntalloc_alloc_gref" {
        /// Domain that may map.
        domid: u16,
        /// [`GNTALLOC_FLAG_WRITABLE`].
        flags: u16,
        /// Number of pages.
        count: u32,
        /// Out: offset for mmap.
        index: u64,
        /// Out: first of the references.
        gref_ids: u32,
        /// Padding to the C struct's alignment; the second reference lies here.
        _pad (""): u32,
    }
    /// [`IOCTL_GNTALLOC_DEALLOC_GREF`].
    struct ioctl_gntalloc_dealloc_gref = "struct ioctl_gntalloc_dealloc_gref" {
        /// The offset.
        index: u64,
        /// Number of pages.
        count: u32,
        /// Padding to the C struct's alignment.
        _pad (""): u32,
    }
    /// [`IOCTL_GNTALLOC_SET_UNMAP_NOTIFY`].
    struct ioctl_gntalloc_unmap_notify = "struct ioctl_gntalloc_unmap_notify" {
        /// Offset of a byte.
        index: u64,
        /// `UNMAP_NOTIFY_*`, see [`super::gntdev`].
        action: u32,
        /// Port to notify.
        event_channel_port: u32,
    }
}

abi_consts! {
    header "xen/sys/gntalloc.h";
    /// Make pages and grant them.
    IOCTL_GNTALLOC_ALLOC_GREF: u32 = super::ioc('G', 5, core::mem::size_of::<ioctl_gntalloc_alloc_gref>()),
    /// Take them back.
    IOCTL_GNTALLOC_DEALLOC_GREF: u32 = super::ioc('G', 6, core::mem::size_of::<ioctl_gntalloc_dealloc_gref>()),
    /// What happens at unmap.
    IOCTL_GNTALLOC_SET_UNMAP_NOTIFY: u32 = super::ioc('G', 7, core::mem::size_of::<ioctl_gntalloc_unmap_notify>()),
    /// The other domain may write.
    GNTALLOC_FLAG_WRITABLE: u16 = 1,
    /// Offset of the references in [`ioctl_gntalloc_alloc_gref`].
    ALLOC_GREF_HEAD ("offsetof(struct ioctl_gntalloc_alloc_gref, gref_ids)"): usize = core::mem::offset_of!(ioctl_gntalloc_alloc_gref, gref_ids),
}
