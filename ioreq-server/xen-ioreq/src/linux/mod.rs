//! Typed descriptors for what Linux offers of Xen, each opened once and closed on drop.
//!
//! [`Privcmd`] may make any hypercall; [`Privcmd::restrict`] gives a type that has only what the kernel still allows.
//! [`Evtchn`] is the caller's event channels. All are thin: what Xen answers is what the caller gets. A mapping holds
//! Xen's reference on each frame until that page is dropped, whatever else was mapped in the same call.

mod evtchn;
mod foreign;
mod hypercall;
mod ioctl;
mod privcmd;
mod restricted;
mod shape;
mod unmap;

pub use evtchn::Evtchn;
pub use privcmd::Privcmd;
pub use restricted::RestrictedPrivcmd;

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::Errno;

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
        }
    }
}
