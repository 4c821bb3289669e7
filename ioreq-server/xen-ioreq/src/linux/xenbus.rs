//! `/dev/xen/xenbus`: bytes to and from XenStore. The messages are `abi::xs_wire`; who speaks them is above.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::{OpenError, open};

/// An open `/dev/xen/xenbus`; reads block. Transactions and watches end with it.
#[derive(Debug)]
pub struct Xenbus {
    fd: OwnedFd,
}

impl Xenbus {
    /// Opens the device. In dom0 it answers once xenstored runs.
    pub fn open() -> Result<Self, OpenError> {
        Ok(Self { fd: open("/dev/xen/xenbus", "xenfs", OFlags::empty())? })
    }
}

impl AsFd for Xenbus {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Read for Xenbus {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buf)?)
    }
}

impl Write for Xenbus {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.fd, buf)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
