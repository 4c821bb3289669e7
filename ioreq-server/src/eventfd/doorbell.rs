//! Doorbells: addresses that a guest writes to so that somebody wakes, without the program in between where the kernel can.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use xen_ioreq::DomId;

use super::{KernelBells, TieError, by_kernel};
use crate::bus::{Bus, BusError, DeviceId, Window};
use crate::connection::Connection;
use crate::device::{Access, Device, MmioDevice, Region, Space, Width};
use crate::dm::BufferedMode;
use crate::guest::{Guest, OnError};
use crate::outcome::{IoError, Outcome};
use crate::server::{Server, ServerError};

/// A write that rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Guest physical address.
    pub addr: u64,
    /// Width of the write.
    pub width: Width,
    /// The lowest 16 bits of what is written (a queue's number); the others may be anything.
    pub value: u16,
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
/// let bell = Doorbell { addr: 0xf000_0050, width: Width::Dword, value: 1 };
/// let _bell = doorbells.add(bell, queue.try_clone()?)?;
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
    /// By address.
    places: Mutex<BTreeMap<u64, (DeviceId, Arc<Place>)>>,
    kernel: Arc<KernelBells>,
}

/// A doorbell, until it is dropped.
#[must_use = "dropped, it rings no more"]
pub struct Bell {
    of: Arc<Doorbells>,
    doorbell: Doorbell,
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
        Ok((Arc::new(Self { domid, bus, places: Mutex::default(), kernel }), guest))
    }

    /// From here on a write that is `doorbell` adds 1 to the eventfd `fd`, until what this gives is dropped, or the server
    /// ends. Needs an eventfd of its own.
    ///
    /// # Errors
    /// [`TieError`]: the address cannot be claimed, or the kernel refuses.
    pub fn add(self: &Arc<Self>, doorbell: Doorbell, fd: OwnedFd) -> Result<Bell, TieError> {
        let fd = Arc::new(fd);
        self.ring(doorbell, fd.clone())?;
        let tied = by_kernel(self.domid, "doorbell", self.kernel.assign(doorbell, &fd));
        let by_kernel = tied.inspect_err(|_| self.hush(doorbell))?.is_some();
        Ok(Bell { of: self.clone(), doorbell, by_kernel })
    }

    /// Rings it ourselves.
    fn ring(&self, doorbell: Doorbell, fd: Arc<OwnedFd>) -> Result<(), TieError> {
        let Doorbell { addr, width, value } = doorbell;
        let mut places = self.places.lock();
        let (id, place) = places.entry(addr).or_insert_with(|| {
            let place = Arc::new(Place { addr, rings: RwLock::default() });
            (self.bus.attach(place.clone()), place)
        });
        let mut rings = place.rings.write();
        if rings.iter().any(|r| r.is(width, value)) {
            return Err(TieError::Taken { domid: self.domid, bell: doorbell });
        }
        rings.push(Ring { width, value, fd });
        drop(rings);
        let fitted = place.fit(&self.bus, *id);
        drop(places);
        Ok(fitted.inspect_err(|_| self.hush(doorbell))?)
    }

    fn hush(&self, doorbell: Doorbell) {
        let Doorbell { addr, width, value } = doorbell;
        let mut places = self.places.lock();
        let Some((id, place)) = places.get(&addr) else { return };
        place.rings.write().retain(|r| !r.is(width, value));
        let gone = if place.rings.read().is_empty() {
            let gone = self.bus.detach(*id);
            places.remove(&addr);
            gone
        } else {
            place.fit(&self.bus, *id)
        };
        if let Err(e) = gone {
            log::debug!("{}: {e}", self.domid);
        }
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
        if self.by_kernel {
            self.of.kernel.release(self.doorbell);
        }
        self.of.hush(self.doorbell);
    }
}

/// The doorbells of one address, as a device that rings them itself.
struct Place {
    addr: u64,
    rings: RwLock<Vec<Ring>>,
}

struct Ring {
    width: Width,
    value: u16,
    fd: Arc<OwnedFd>,
}

impl Ring {
    fn is(&self, width: Width, value: u16) -> bool {
        (self.width, self.value) == (width, value)
    }
}

impl Place {
    /// Makes its window as wide as its widest doorbell needs, or takes it away.
    fn fit(&self, bus: &Bus, id: DeviceId) -> Result<(), BusError> {
        let widest = self.rings.read().iter().map(|r| r.width.bytes()).max();
        let wanted = widest.map(|bytes| self.addr.saturating_add(u64::from(bytes) - 1));
        let now = bus.windows(id).first().map(|w| w.last);
        if wanted == now {
            return Ok(());
        }
        if now.is_some() {
            bus.unmap(id, Space::Mmio, self.addr)?;
        }
        match wanted {
            Some(last) => {
                bus.map(id, Window { space: Space::Mmio, start: self.addr, last, region: Region(0) })
            }
            None => Ok(()),
        }
    }
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
        let rings = self.rings.read();
        match rings.iter().find(|r| a.offset == 0 && r.is(a.width, value)) {
            // Full: who waits has enough to do.
            Some(ring) => match rustix::io::write(&*ring.fd, &1u64.to_ne_bytes()) {
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
