//! What Linux's `/dev/xen/privcmd` has beyond Xen's `sys/privcmd.h`: eventfds that the kernel serves. From Linux's
//! `include/uapi/xen/privcmd.h`: irqfds since 6.6, ioeventfds since 6.7, with `CONFIG_XEN_PRIVCMD_EVENTFD`.

abi_structs! {
    header "";
    /// [`IOCTL_PRIVCMD_IRQFD`].
    struct privcmd_irqfd = "struct privcmd_irqfd" {
        /// Pointer to the buffer of the `dm_op`; read once, when it is assigned.
        dm_op: u64,
        /// Length of that in bytes.
        size: u32,
        /// The eventfd.
        fd: u32,
        /// [`PRIVCMD_IRQFD_FLAG_DEASSIGN`] or 0.
        flags: u32,
        /// Domain.
        dom: u16,
        /// Padding.
        pad: [u8; 2],
    }
    /// [`IOCTL_PRIVCMD_IOEVENTFD`].
    struct privcmd_ioeventfd = "struct privcmd_ioeventfd" {
        /// Pointer to the sync slots, the start of their mapping.
        ioreq: u64,
        /// Pointer to the local ports (u32 each) of the vCPUs from 0 on.
        ports: u64,
        /// [`VIRTIO_MMIO_QUEUE_NOTIFY`] bytes below the guest physical address.
        addr: u64,
        /// Bytes of a write: 1, 2, 4 or 8.
        addr_len: u32,
        /// The eventfd.
        event_fd: u32,
        /// Number of ports.
        vcpus: u32,
        /// What [`QUEUE_NOTIFY_VQ_MASK`] leaves of the value written.
        vq: u32,
        /// [`PRIVCMD_IOEVENTFD_FLAG_DEASSIGN`] or 0.
        flags: u32,
        /// Domain.
        dom: u16,
        /// Padding.
        pad: [u8; 2],
    }
}

abi_consts! {
    header "";
    /// Take an irqfd back.
    PRIVCMD_IRQFD_FLAG_DEASSIGN: u32 = 1 << 0,
    /// Take an ioeventfd back.
    PRIVCMD_IOEVENTFD_FLAG_DEASSIGN: u32 = 1 << 0,
    /// A write to the eventfd makes the kernel send a `dm_op`.
    IOCTL_PRIVCMD_IRQFD: u32 = super::iow('P', 8, core::mem::size_of::<privcmd_irqfd>()),
    /// A write by the guest makes the kernel write to the eventfd.
    IOCTL_PRIVCMD_IOEVENTFD: u32 = super::iow('P', 9, core::mem::size_of::<privcmd_ioeventfd>()),
    /// The kernel takes every device for a virtio-mmio one, whose doorbell has this offset (`linux/virtio_mmio.h`).
    VIRTIO_MMIO_QUEUE_NOTIFY: u64 = 0x50,
    /// Bits of the value written that the kernel compares (`drivers/xen/privcmd.c`).
    QUEUE_NOTIFY_VQ_MASK: u32 = 0xffff,
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    /// Counted by hand from the C structs, whose fields are aligned to their sizes.
    #[test]
    fn layouts_and_numbers_are_those_of_the_kernels_header() {
        assert_eq!(size_of::<privcmd_irqfd>(), 24);
        let irqfd = [
            offset_of!(privcmd_irqfd, size),
            offset_of!(privcmd_irqfd, fd),
            offset_of!(privcmd_irqfd, flags),
            offset_of!(privcmd_irqfd, dom),
        ];
        assert_eq!(irqfd, [8, 12, 16, 20]);
        assert_eq!(size_of::<privcmd_ioeventfd>(), 48);
        let ioeventfd = [
            offset_of!(privcmd_ioeventfd, ports),
            offset_of!(privcmd_ioeventfd, addr),
            offset_of!(privcmd_ioeventfd, addr_len),
            offset_of!(privcmd_ioeventfd, event_fd),
            offset_of!(privcmd_ioeventfd, vcpus),
            offset_of!(privcmd_ioeventfd, vq),
            offset_of!(privcmd_ioeventfd, flags),
            offset_of!(privcmd_ioeventfd, dom),
        ];
        assert_eq!(ioeventfd, [8, 16, 24, 28, 32, 36, 40, 44]);
        assert_eq!((IOCTL_PRIVCMD_IRQFD, IOCTL_PRIVCMD_IOEVENTFD), (0x4018_5008, 0x4030_5009));
    }
}
