//! `sys/privcmd.h`: Linux's `/dev/xen/privcmd`. Pointers are user-space addresses.

abi_structs! {
    header "xen/sys/privcmd.h";
    /// [`IOCTL_PRIVCMD_HYPERCALL`]; the hypercall's value is the ioctl's.
    struct privcmd_hypercall = "privcmd_hypercall_t" {
        /// `__HYPERVISOR_*`.
        op: u64,
        /// Arguments.
        arg: [u64; 5],
    }
    /// [`IOCTL_PRIVCMD_MMAPBATCH_V2`].
    struct privcmd_mmapbatch_v2 = "privcmd_mmapbatch_v2_t" {
        /// Number of frames.
        num: u32,
        /// Domain.
        dom: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// Where, within one mapping of the descriptor.
        addr: u64,
        /// Pointer to the frame numbers (u64 each).
        arr: u64,
        /// Pointer to the errors (i32 each): 0 or a negative errno.
        err: u64,
    }
    /// A buffer of [`privcmd_dm_op`].
    struct privcmd_dm_op_buf = "privcmd_dm_op_buf_t" {
        /// Pointer.
        uptr: u64,
        /// Length in bytes.
        size: u64,
    }
    /// [`IOCTL_PRIVCMD_DM_OP`].
    struct privcmd_dm_op = "privcmd_dm_op_t" {
        /// Domain.
        dom: u16,
        /// Number of buffers.
        num: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u32,
        /// Pointer to an array of [`privcmd_dm_op_buf`].
        ubufs: u64,
    }
    /// [`IOCTL_PRIVCMD_MMAP_RESOURCE`]; with `num` and `addr` 0 the kernel writes the resource's size to `num`.
    struct privcmd_mmap_resource = "privcmd_mmap_resource_t" {
        /// Domain.
        dom: u16,
        /// Padding to the C struct's alignment.
        _pad (""): u16,
        /// `XENMEM_resource_*`.
        r#type ("type"): u32,
        /// Which resource of that type.
        id: u32,
        /// First frame.
        idx: u32,
        /// Number of frames.
        num: u64,
        /// Where, the start of one mapping of the descriptor.
        addr: u64,
    }
}

abi_consts! {
    header "xen/sys/privcmd.h";
    /// Any hypercall.
    IOCTL_PRIVCMD_HYPERCALL: u32 = super::ioc('P', 0, core::mem::size_of::<privcmd_hypercall>()),
    /// Map frames of a domain.
    IOCTL_PRIVCMD_MMAPBATCH_V2: u32 = super::ioc('P', 4, core::mem::size_of::<privcmd_mmapbatch_v2>()),
    /// Device model operation.
    IOCTL_PRIVCMD_DM_OP: u32 = super::ioc('P', 5, core::mem::size_of::<privcmd_dm_op>()),
    /// Restrict the descriptor to one domain; points to its number (u16).
    IOCTL_PRIVCMD_RESTRICT: u32 = super::ioc('P', 6, core::mem::size_of::<u16>()),
    /// Map a resource of the hypervisor.
    IOCTL_PRIVCMD_MMAP_RESOURCE: u32 = super::ioc('P', 7, core::mem::size_of::<privcmd_mmap_resource>()),
}
