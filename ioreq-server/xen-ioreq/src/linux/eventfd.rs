//! Eventfds that privcmd ties to a guest: irqfds (Linux 6.6) and ioeventfds (6.7), where the kernel has them.
#![expect(unsafe_code, reason = "ioctls")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::foreign::Device;
use super::ioctl::ioctl;
use super::{Privcmd, RestrictedPrivcmd};
use crate::abi::ioreq::SLOTS_PER_PAGE;
use crate::abi::privcmd_eventfd::*;
use crate::seam::{Doorbell, EventFdError, EventFds};
use crate::{DomId, Errno};

const NO_IRQFD: &str = "this kernel's privcmd has no irqfds; Linux 6.6 with CONFIG_XEN_PRIVCMD_EVENTFD has";
const NO_IOEVENTFD: &str =
    "this kernel's privcmd has no ioeventfds; Linux 6.7 with CONFIG_XEN_PRIVCMD_EVENTFD has";
/// `alloc_ioreq` in `drivers/xen/privcmd.c` follows the pages of the mapping, which in a PV domain are not pages but a mark.
const PV: &str = "in a PV domain Linux would follow a pointer that is none; a PVH dom0 can";

/// A flag that no kernel knows: who has the ioctl says EINVAL to it, before anything else.
const NO_SUCH_FLAG: u32 = 1 << 31;

/// Tells a kernel without the ioctl, or built without the feature, from one that refuses.
fn sort(errno: Errno, without: &'static str) -> EventFdError {
    match errno {
        Errno::ENOTTY | Errno::ENOSYS | Errno::EOPNOTSUPP => EventFdError::Unsupported(without),
        errno => EventFdError::Refused(errno),
    }
}

/// What came of a call with [`NO_SUCH_FLAG`].
fn probed(result: Result<(), EventFdError>) -> Result<(), EventFdError> {
    match result {
        Err(EventFdError::Refused(Errno::EINVAL)) => Ok(()),
        // No kernel does.
        Ok(()) => Err(EventFdError::Refused(Errno::EIO)),
        other => other,
    }
}

/// A descriptor's number for the kernel; a descriptor has no negative one.
fn number(fd: BorrowedFd<'_>) -> Result<u32, EventFdError> {
    u32::try_from(fd.as_raw_fd()).map_err(|_| EventFdError::Refused(Errno::EBADF))
}

impl Device {
    fn irqfd(&self, mut arg: privcmd_irqfd) -> Result<(), EventFdError> {
        // SAFETY: the opcode goes with this struct; its address is 0 or that of a buffer of `size` bytes, which the kernel reads
        // before it comes back.
        unsafe { ioctl(self.fd.as_fd(), IOCTL_PRIVCMD_IRQFD, &mut arg) }.map_err(|e| sort(e, NO_IRQFD))?;
        Ok(())
    }

    /// # Safety
    /// `arg.ioreq` is 0 or a mapping of sync slots by privcmd with one for each of the `vcpus` ports at `arg.ports`; it stays
    /// until the eventfd is deassigned, since the kernel writes there.
    unsafe fn ioeventfd(&self, mut arg: privcmd_ioeventfd) -> Result<(), EventFdError> {
        // SAFETY: the opcode goes with this struct; the addresses are the caller's promise.
        unsafe { ioctl(self.fd.as_fd(), IOCTL_PRIVCMD_IOEVENTFD, &mut arg) }
            .map_err(|e| sort(e, NO_IOEVENTFD))?;
        Ok(())
    }

    fn has_ioeventfd(&self) -> Result<(), EventFdError> {
        let arg = privcmd_ioeventfd { flags: NO_SUCH_FLAG, ..Default::default() };
        // SAFETY: refused for its flags; its addresses are 0.
        probed(unsafe { self.ioeventfd(arg) })?;
        if self.not_pv { Ok(()) } else { Err(EventFdError::Unsupported(PV)) }
    }

    /// # Safety
    /// As [`EventFds::assign_ioeventfd`], unless the flags take it back.
    unsafe fn bell(&self, bell: &Doorbell<'_>, fd: BorrowedFd<'_>, flags: u32) -> Result<(), EventFdError> {
        self.has_ioeventfd()?;
        // The kernel counts the slots of the first page without looking where it ends.
        if bell.slots.pages() == 0 || bell.ports.is_empty() || bell.ports.len() > SLOTS_PER_PAGE {
            return Err(Errno::EINVAL.into());
        }
        let ports: Vec<u32> = bell.ports.iter().map(|p| p.0).collect();
        let addr = bell.addr.checked_sub(VIRTIO_MMIO_QUEUE_NOTIFY).ok_or(Errno::EINVAL)?;
        let arg = privcmd_ioeventfd {
            ioreq: bell.slots.base().as_ptr().addr() as u64,
            ports: ports.as_ptr().addr() as u64,
            addr,
            addr_len: bell.width,
            event_fd: number(fd)?,
            vcpus: u32::try_from(ports.len()).map_err(|_| Errno::EINVAL)?,
            vq: u32::from(bell.value),
            flags,
            dom: bell.domid.0,
            pad: [0; 2],
        };
        // SAFETY: the slots are a mapping of at least a page, which has a slot for each of the ports; it stays by the caller's
        // promise.
        unsafe { self.ioeventfd(arg) }
    }

    fn assign_irqfd(&self, domid: DomId, op: &mut [u8], fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.irqfd(privcmd_irqfd {
            dm_op: op.as_mut_ptr().addr() as u64,
            size: u32::try_from(op.len()).map_err(|_| Errno::E2BIG)?,
            fd: number(fd)?,
            flags: 0,
            dom: domid.0,
            pad: [0; 2],
        })
    }
}

macro_rules! event_fds {
    ($who:ty) => {
        impl EventFds for $who {
            fn has_irqfd(&self) -> Result<(), EventFdError> {
                probed(self.device.irqfd(privcmd_irqfd { flags: NO_SUCH_FLAG, ..Default::default() }))
            }

            fn assign_irqfd(
                &self,
                domid: DomId,
                op: &mut [u8],
                fd: BorrowedFd<'_>,
            ) -> Result<(), EventFdError> {
                self.device.assign_irqfd(domid, op, fd)
            }

            fn deassign_irqfd(&self, domid: DomId, fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
                self.device.irqfd(privcmd_irqfd {
                    fd: number(fd)?,
                    flags: PRIVCMD_IRQFD_FLAG_DEASSIGN,
                    dom: domid.0,
                    ..Default::default()
                })
            }

            fn has_ioeventfd(&self) -> Result<(), EventFdError> {
                self.device.has_ioeventfd()
            }

            unsafe fn assign_ioeventfd(
                &self,
                bell: &Doorbell<'_>,
                fd: BorrowedFd<'_>,
            ) -> Result<(), EventFdError> {
                // SAFETY: the caller's promise.
                unsafe { self.device.bell(bell, fd, 0) }
            }

            fn deassign_ioeventfd(
                &self,
                bell: &Doorbell<'_>,
                fd: BorrowedFd<'_>,
            ) -> Result<(), EventFdError> {
                // SAFETY: takes it back.
                unsafe { self.device.bell(bell, fd, PRIVCMD_IOEVENTFD_FLAG_DEASSIGN) }
            }
        }
    };
}

event_fds!(Privcmd);
event_fds!(RestrictedPrivcmd);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_the_ioctl_is_told_from_one_that_refuses() {
        for errno in [Errno::ENOTTY, Errno::ENOSYS, Errno::EOPNOTSUPP] {
            let e = sort(errno, NO_IRQFD);
            assert!(e.to_string().starts_with("not supported: this kernel's privcmd has no irqfds"), "{e}");
            assert_eq!(probed(Err(e)), Err(e));
        }
        assert_eq!(sort(Errno::EBUSY, NO_IRQFD), EventFdError::Refused(Errno::EBUSY));
        assert_eq!(probed(Err(EventFdError::Refused(Errno::EINVAL))), Ok(()));
        assert!(probed(Ok(())).is_err());
        assert!(probed(Err(EventFdError::Refused(Errno::EPERM))).is_err());
    }
}
