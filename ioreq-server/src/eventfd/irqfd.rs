//! Interrupts that are raised by a write to an eventfd, from whatever thread or process.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use xen_ioreq::DomId;
use xen_ioreq::seam::EventFds;
use zerocopy::IntoBytes;

use super::{TieError, by_kernel};
use crate::connection::Connection;
use crate::dm::{Dm, Interrupt};
use crate::event_loop::LoopHandle;
use crate::guest::Progress;
use crate::sources::EventSource;

/// An interrupt tied to an eventfd, until it is dropped.
#[derive(Debug)]
#[must_use = "dropped, it is tied no more"]
pub enum Irqfd {
    /// The kernel raises it.
    Kernel(KernelIrqfd),
    /// A loop has to: add it as a source.
    Loop(LoopIrqfd),
}

/// An irqfd of the kernel's.
#[must_use = "dropped, it is tied no more"]
pub struct KernelIrqfd {
    eventfds: Arc<dyn EventFds>,
    domid: DomId,
    fd: OwnedFd,
}

/// An irqfd that a loop serves. Writes that come while the loop is busy are one interrupt, as edges are.
pub struct LoopIrqfd {
    dm: Dm,
    interrupt: Interrupt,
    fd: OwnedFd,
}

impl Connection {
    /// Ties `interrupt` of `domid` to the eventfd `fd`: each write to it raises the interrupt. Nothing lowers a level again
    /// but [`Dm`]. By the kernel where the connection [has it](Self::with_eventfds) and it can.
    ///
    /// An interrupt that Xen refuses, such as an MSI that the guest has not set up, is nobody's to hear of.
    ///
    /// # Errors
    /// [`TieError::Refused`]: EBUSY if the eventfd is tied already, EINVAL if it is none, EPERM for another domain.
    pub fn irqfd(&self, domid: DomId, interrupt: Interrupt, fd: OwnedFd) -> Result<Irqfd, TieError> {
        if let Some(eventfds) = &self.eventfds {
            let mut op = interrupt.operation();
            let tied = eventfds.assign_irqfd(domid, op.as_mut_bytes(), fd.as_fd());
            if by_kernel(domid, "irqfd", tied)?.is_some() {
                return Ok(Irqfd::Kernel(KernelIrqfd { eventfds: eventfds.clone(), domid, fd }));
            }
        }
        Ok(Irqfd::Loop(LoopIrqfd { dm: self.dm(domid), interrupt, fd }))
    }
}

impl Drop for KernelIrqfd {
    fn drop(&mut self) {
        if let Err(e) = self.eventfds.deassign_irqfd(self.domid, self.fd.as_fd()) {
            log::debug!("{}: taking back an irqfd: {e}", self.domid);
        }
    }
}

impl EventSource for LoopIrqfd {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    fn ready(&mut self, _: &LoopHandle) -> io::Result<Progress> {
        // One read takes the whole count; a write after it is a new edge.
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut [0u8; 8])) {
            Ok(_) => {
                if let Err(e) = self.dm.raise(self.interrupt) {
                    log::debug!("{e}");
                }
            }
            Err(rustix::io::Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(Progress::Idle)
    }
}

impl fmt::Debug for KernelIrqfd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelIrqfd")
            .field("domid", &self.domid)
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LoopIrqfd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopIrqfd")
            .field("interrupt", &self.interrupt)
            .field("fd", &self.fd)
            .finish_non_exhaustive()
    }
}
