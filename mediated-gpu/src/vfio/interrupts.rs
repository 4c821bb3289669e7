//! A device's interrupts: eventfds in the event loop.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use ioreq_server::sources::EventSource;
use ioreq_server::{LoopHandle, Progress};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{EventfdFlags, eventfd};
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_AUTOMASKED, VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_MASKABLE, VFIO_IRQ_INFO_NORESIZE,
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_ACTION_UNMASK, VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
    vfio_irq_info,
};

use super::error::os;
use super::{VfioDevice, VfioError, ioctl};

/// How a device interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqKind {
    /// By a line, which the kernel masks when it fires.
    Intx,
    /// By messages.
    Msi,
    /// By messages of a table.
    Msix,
    /// The kernel tells of an error on the bus.
    Error,
    /// The kernel wants the device back.
    Request,
}

impl IrqKind {
    /// All of them, by VFIO's number.
    pub const ALL: [Self; 5] = [Self::Intx, Self::Msi, Self::Msix, Self::Error, Self::Request];

    const fn index(self) -> u32 {
        match self {
            Self::Intx => VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => VFIO_PCI_REQ_IRQ_INDEX,
        }
    }
}

impl fmt::Display for IrqKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::Msix => "MSI-X",
            Self::Error => "error",
            Self::Request => "request",
        })
    }
}

/// Interrupts of one kind, as the kernel describes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Irq {
    /// Which.
    pub kind: IrqKind,
    /// How many vectors there are.
    pub count: u32,
    flags: u32,
}

impl Irq {
    /// `None` for what the device does not have, and for kinds that we do not know.
    pub(super) fn of(info: vfio_irq_info) -> Option<Self> {
        let kind = IrqKind::ALL.into_iter().find(|k| k.index() == info.index)?;
        (info.count > 0).then_some(Self { kind, count: info.count, flags: info.flags })
    }

    /// They can be sent to eventfds.
    pub fn eventfd(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_EVENTFD != 0
    }

    /// They can be masked.
    pub fn maskable(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_MASKABLE != 0
    }

    /// The kernel masks one that fires.
    pub fn automasked(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_AUTOMASKED != 0
    }

    /// All vectors must be set up at once.
    pub fn fixed(&self) -> bool {
        self.flags & VFIO_IRQ_INFO_NORESIZE != 0
    }
}

/// Called for a vector that fired, with how often it did since the last time.
type Handler = Box<dyn FnMut(u32, u64, &LoopHandle) -> io::Result<()> + Send>;

/// Vectors of one kind, sent to an event loop until this is dropped.
pub struct Interrupts {
    device: Arc<VfioDevice>,
    irq: Irq,
    eventfds: Vec<OwnedFd>,
    handler: Handler,
}

impl Interrupts {
    /// Has the first `vectors` of a kind sent here. Messages come only from a device that is bus master. An error of the handler's takes them out of their loop.
    ///
    /// # Errors
    /// There are not so many, or the kernel refuses.
    pub fn new(
        device: &Arc<VfioDevice>,
        kind: IrqKind,
        vectors: u32,
        handler: impl FnMut(u32, u64, &LoopHandle) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, VfioError> {
        let found = device.irqs().iter().find(|i| i.kind == kind && i.eventfd());
        let has = found.map_or(0, |i| i.count);
        let wrong = VfioError::Vectors { address: device.address(), kind, has, wanted: vectors };
        let irq = *found.filter(|i| (1..=i.count).contains(&vectors)).ok_or(wrong)?;
        let new = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let eventfds = (0..vectors).map(new).collect::<Result<Vec<_>, _>>().map_err(os("eventfd"))?;
        ioctl::send_irqs(&device.fd, kind.index(), &eventfds)
            .map_err(os(format!("VFIO_DEVICE_SET_IRQS {kind}")))?;
        Ok(Self { device: device.clone(), irq, eventfds, handler: Box::new(handler) })
    }

    fn unmask(&self) -> rustix::io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
        ioctl::set_irqs(&self.device.fd, self.irq.kind.index(), flags, 1)
    }
}

impl EventSource for Interrupts {
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.eventfds
            .iter()
            .try_for_each(|fd| registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE))
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.eventfds.iter().try_for_each(|fd| registry.deregister(&mut SourceFd(&fd.as_raw_fd())))
    }

    fn ready(&mut self, handle: &LoopHandle) -> io::Result<Progress> {
        let mut fired = false;
        for (vector, fd) in (0..).zip(&self.eventfds) {
            let mut count = [0; 8];
            match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut count)) {
                Ok(_) => {
                    fired = true;
                    (self.handler)(vector, u64::from_ne_bytes(count), handle)?;
                }
                Err(rustix::io::Errno::AGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // Whoever was called has made the device take its line back.
        if fired && self.irq.automasked() {
            self.unmask()?;
        }
        Ok(Progress::Idle)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        if let Err(e) = ioctl::set_irqs(&self.device.fd, self.irq.kind.index(), flags, 0) {
            log::warn!("{}: {} cannot be switched off: {e}", self.device.address(), self.irq.kind);
        }
    }
}

impl fmt::Debug for Interrupts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupts")
            .field("device", &self.device.address())
            .field("irq", &self.irq)
            .field("vectors", &self.eventfds.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_that_a_device_lacks_or_that_nobody_knows_are_none() {
        let info = |index, count, flags| vfio_irq_info { argsz: 16, flags, index, count };
        let intx = Irq::of(info(0, 1, 7)).unwrap();
        assert_eq!((intx.kind, intx.count), (IrqKind::Intx, 1));
        assert!(intx.eventfd() && intx.maskable() && intx.automasked() && !intx.fixed());
        let msi = Irq::of(info(1, 4, 9)).unwrap();
        assert_eq!((msi.kind, msi.count), (IrqKind::Msi, 4));
        assert!(msi.eventfd() && msi.fixed() && !msi.automasked());
        assert_eq!(Irq::of(info(2, 0, 9)), None);
        assert_eq!(Irq::of(info(5, 1, 1)), None);
    }
}
