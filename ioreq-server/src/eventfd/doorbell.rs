//! Doorbells: addresses that a guest writes to so that somebody wakes, without the program in between where the kernel can.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use xen_ioreq::DomId;

use super::{KernelBells, TieError, by_kernel};
use crate::bus::{Bus, DeviceId, Window};
use crate::connection::Connection;
use crate::device::{Access, Device, MmioDevice, Region, Space, Width};
use crate::dm::BufferedMode;
use crate::guest::{Guest, OnError};
use crate::outcome::{IoError, Outcome};
use crate::server::{Server, ServerError};

/// Where a guest rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Guest physical address.
    pub addr: u64,
    /// Width of the write.
    pub width: Width,
}

/// The doorbells of one guest, on an IOREQ server of their own.
///
/// Leave their addresses out of the windows of other servers, or create this server after those: of two servers that claim an
/// address, Xen asks the one with the higher number. A doorbell is write-only: reads, and values that no doorbell has, meet
/// nobody.
///
/// ```
/// use std::sync::Arc;
///
/// use ioreq_server::eventfd::{Doorbell, Doorbells};
/// use ioreq_server::{Connection, GuestLoop, Width};
/// # use mock_xen::{Config, DomainConfig, Machine};
/// # use rustix::event::{EventfdFlags, eventfd};
/// # use xen_ioreq::{DomId, VcpuId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let machine = Machine::new(Config::default())?;
/// # let domid = machine.create_domain(&DomainConfig::default())?;
/// # let xen = Arc::new(machine.caller(DomId(0))?);
/// let conn = Connection::new(xen.clone(), xen.clone()).with_eventfds(xen);
/// let (doorbells, guest) = Doorbells::create(&conn, domid)?;
/// let mut serving = GuestLoop::new()?;
/// serving.add(guest)?;
/// let handle = serving.handle();
/// let thread = std::thread::spawn(move || serving.run());
///
/// let queue = eventfd(0, EventfdFlags::CLOEXEC)?;
/// let bell = Doorbell { addr: 0xf000_0050, width: Width::Dword };
/// let _bell = doorbells.add(bell, vec![(1, queue.try_clone()?)])?;
///
/// machine.vcpu(domid, VcpuId(0))?.mmio_write(0xf000_0050, 4, 1)?;
/// rustix::io::read(&queue, &mut [0u8; 8])?;
/// # handle.stop();
/// # thread.join().expect("the loop does not panic")?;
/// # Ok(())
/// # }
/// ```
pub struct Doorbells {
    domid: DomId,
    bus: Arc<Bus>,
    kernel: Arc<KernelBells>,
}

/// A doorbell, until it is dropped.
#[must_use = "dropped, it rings no more"]
pub struct Bell {
    of: Arc<Doorbells>,
    doorbell: Doorbell,
    device: DeviceId,
    by_kernel: bool,
}

impl Doorbells {
    /// A server for the doorbells of `domid`, and the guest that a loop has to serve for it: it rings what the kernel leaves
    /// to us, which is everything where the kernel cannot.
    ///
    /// # Errors
    /// As those of a server.
    pub fn create(conn: &Connection, domid: DomId) -> Result<(Arc<Self>, Guest), ServerError> {
        let server = Server::create(conn, domid, BufferedMode::Off)?;
        let bus = Bus::new(server.claims());
        let server = server.map()?.enable()?;
        let kernel = server.kernel_bells().clone();
        let mut guest = Guest::new(server, bus.clone(), Arc::new(()), OnError::AllOnes);
        // What the kernel is about to take must not be looked at.
        guest.never_linger();
        Ok((Arc::new(Self { domid, bus, kernel }), guest))
    }

    /// From here on a write to the doorbell adds 1 to the eventfd that `rings` has for the lowest 16 bits of what is written (a
    /// queue's number), until what this gives is dropped, or the server ends. Each needs an eventfd of its own. What was a
    /// doorbell once and is again is rung by the loop.
    ///
    /// # Errors
    /// [`TieError`]: the address cannot be claimed, a value is there twice, or the kernel refuses.
    pub fn add(self: &Arc<Self>, doorbell: Doorbell, rings: Vec<(u16, OwnedFd)>) -> Result<Bell, TieError> {
        let Doorbell { addr, width } = doorbell;
        let mut by_value = BTreeMap::new();
        for (value, fd) in rings {
            if by_value.insert(value, Arc::new(fd)).is_some() {
                return Err(TieError::Twice { domid: self.domid, addr, value });
            }
        }
        let rings: Vec<_> = by_value.iter().map(|(value, fd)| (*value, fd.clone())).collect();
        let place = Place { width, rings: by_value };
        // The kernel first: it would not look at what came before.
        let tied = by_kernel(self.domid, "doorbell", self.kernel.assign(doorbell, &rings))?;
        let device = self.bus.attach(Arc::new(place));
        let bell = Bell { of: self.clone(), doorbell, device, by_kernel: tied.is_some() };
        let last = addr.saturating_add(u64::from(width.bytes()) - 1);
        let window = Window { space: Space::Mmio, start: addr, last, region: Region(0) };
        // Refused, the bell takes all back.
        self.bus.map(device, window)?;
        Ok(bell)
    }
}

impl Bell {
    /// Whether the kernel rings it, so that the loop only hears of it afterwards.
    pub fn is_rung_by_kernel(&self) -> bool {
        self.by_kernel
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // The address first: what still comes then would be nobody's.
        if let Err(e) = self.of.bus.detach(self.device) {
            log::debug!("{}: {e}", self.of.domid);
        }
        if self.by_kernel {
            self.of.kernel.release(self.doorbell);
        }
    }
}

/// A doorbell as a device that rings by itself.
struct Place {
    width: Width,
    rings: BTreeMap<u16, Arc<OwnedFd>>,
}

impl Device for Place {
    fn name(&self) -> &str {
        "doorbell"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Place {
    fn mmio_read(&self, _: &Access) -> Outcome<u64> {
        Outcome::Err(IoError::NoRegister)
    }

    fn mmio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        let [low, high, ..] = value.to_le_bytes();
        let value = u16::from_le_bytes([low, high]);
        match self.rings.get(&value).filter(|_| a.width == self.width) {
            // Full: who waits has enough to do.
            Some(fd) => match rustix::io::write(&**fd, &1u64.to_ne_bytes()) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => Outcome::Ok(()),
                Err(_) => Outcome::Err(IoError::Broken("a doorbell's eventfd")),
            },
            None => Outcome::Err(IoError::NoRegister),
        }
    }
}

impl fmt::Debug for Doorbells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbells")
            .field("domid", &self.domid)
            .field("bus", &self.bus)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doorbell, by_kernel, .. } = self;
        f.debug_struct("Bell")
            .field("doorbell", doorbell)
            .field("by_kernel", by_kernel)
            .finish_non_exhaustive()
    }
}
