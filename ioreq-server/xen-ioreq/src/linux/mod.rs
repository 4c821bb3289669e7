//! Typed descriptors for what Linux offers of Xen, each opened once and closed on drop.
//!
//! [`Privcmd`] may make any hypercall; [`Privcmd::restrict`] gives a type that has only what the kernel still allows.
//! [`Evtchn`] is the caller's event channels, [`Gntalloc`] and [`Gntdev`] the two sides of shared pages, [`Xenbus`] the way to
//! XenStore. All are thin: what Xen answers is what the caller gets. A foreign mapping holds Xen's reference on each frame
//! until that page is dropped, whatever else was mapped in the same call. [`OwnRam`] is memory of a PV dom0's own at machine frames
//! that are known and stay.

mod eventfd;
mod evtchn;
mod foreign;
mod gntalloc;
mod gntdev;
mod hypercall;
mod ioctl;
mod own;
mod p2m;
mod privcmd;
mod restricted;
mod shape;
mod unmap;
mod xenbus;

pub use evtchn::Evtchn;
pub use gntalloc::{Gntalloc, Granted};
pub use gntdev::{CopyEnd, Gntdev, GrantCopy};
pub use own::{OwnRam, OwnRamError};
pub use privcmd::Privcmd;
pub use restricted::RestrictedPrivcmd;
pub use xenbus::Xenbus;

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::abi::gntdev::{UNMAP_NOTIFY_CLEAR_BYTE, UNMAP_NOTIFY_SEND_EVENT};
use crate::{Errno, Port};

/// Why a device of `/dev/xen` could not be opened, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The system does not run on Xen.
    #[error(
        "{path} is not there: this system does not run on Xen; start the program in dom0, or use the model"
    )]
    NoXen {
        /// The device.
        path: &'static str,
    },
    /// The system runs on Xen, but the device's driver is not there.
    #[error("{path} is not there: run `modprobe {module}`")]
    NoDriver {
        /// The device.
        path: &'static str,
        /// Its module.
        module: &'static str,
    },
    /// The user may not open it.
    #[error("{path}: permission denied: run as root, or give this user read and write access to it")]
    Permission {
        /// The device.
        path: &'static str,
    },
    /// Anything else.
    #[error("{path}: {errno}")]
    Other {
        /// The device.
        path: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
}

/// Opens a device of `/dev/xen`, closed on exec.
fn open(path: &'static str, module: &'static str, flags: OFlags) -> Result<OwnedFd, OpenError> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty())
        .map_err(|e| open_error(path, module, e.into(), Path::new("/sys/hypervisor/type").exists()))
}

fn open_error(path: &'static str, module: &'static str, errno: Errno, on_xen: bool) -> OpenError {
    match errno {
        // ENXIO, ENODEV: a node without a driver behind it.
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV if on_xen => OpenError::NoDriver { path, module },
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => OpenError::NoXen { path },
        Errno::EACCES | Errno::EPERM => OpenError::Permission { path },
        errno => OpenError::Other { path, errno },
    }
}

/// What the kernel does for the other side when a shared page goes, also when that is because its process has died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnmapNotify {
    /// Write a zero byte at this offset in the mapping (bytes). The page must be writable.
    pub clear_byte: Option<usize>,
    /// Send an event through this port, which must be bound through a descriptor of the same process.
    pub send_event: Option<Port>,
}

impl UnmapNotify {
    /// Index, action and port as both ioctls take them, if anything is to be done.
    fn arguments(self, index: u64) -> Option<(u64, u32, u32)> {
        let byte = self.clear_byte.map_or(0, |_| UNMAP_NOTIFY_CLEAR_BYTE);
        let event = self.send_event.map_or(0, |_| UNMAP_NOTIFY_SEND_EVENT);
        let at = index.checked_add(self.clear_byte.unwrap_or(0) as u64)?;
        (byte | event != 0).then(|| (at, byte | event, self.send_event.unwrap_or_default().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_for_a_failed_open_has_one_line_that_says_what_to_do() {
        let line = |errno, on_xen| open_error("/dev/xen/privcmd", "xen-privcmd", errno, on_xen).to_string();
        assert!(line(Errno::ENOENT, false).contains("does not run on Xen"));
        assert!(line(Errno::ENOENT, true).ends_with("run `modprobe xen-privcmd`"));
        assert!(line(Errno::EACCES, true).contains("run as root"));
        assert_eq!(line(Errno::EMFILE, true), "/dev/xen/privcmd: EMFILE");
        for errno in [Errno::ENOENT, Errno::EACCES, Errno::EMFILE] {
            assert_eq!(line(errno, true).lines().count(), 1);
        }
    }

    #[test]
    fn open_without_the_device_is_a_typed_error() {
        if !Path::new("/sys/hypervisor/type").exists() && !Path::new("/dev/xen").exists() {
            assert_eq!(Privcmd::open().err(), Some(OpenError::NoXen { path: "/dev/xen/privcmd" }));
            assert_eq!(Evtchn::open().err(), Some(OpenError::NoXen { path: "/dev/xen/evtchn" }));
            assert_eq!(Gntalloc::open().err(), Some(OpenError::NoXen { path: "/dev/xen/gntalloc" }));
            assert_eq!(Gntdev::open().err(), Some(OpenError::NoXen { path: "/dev/xen/gntdev" }));
            assert_eq!(Xenbus::open().err(), Some(OpenError::NoXen { path: "/dev/xen/xenbus" }));
        }
    }
    #[test]
    fn an_unmap_notice_names_the_byte_and_the_port_it_was_asked_for() {
        let notify = |clear_byte, send_event| UnmapNotify { clear_byte, send_event };
        assert_eq!(UnmapNotify::default().arguments(0x3000), None);
        assert_eq!(notify(Some(21), None).arguments(0x3000), Some((0x3015, UNMAP_NOTIFY_CLEAR_BYTE, 0)));
        assert_eq!(notify(None, Some(Port(7))).arguments(0x3000), Some((0x3000, UNMAP_NOTIFY_SEND_EVENT, 7)));
        assert_eq!(notify(Some(0), Some(Port(7))).arguments(0).map(|a| a.1), Some(3));
    }
}
