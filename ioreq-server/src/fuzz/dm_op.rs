//! A hypervisor that answers anything to anything: a server that is created, mapped, enabled, given ranges and taken down
//! under it panics nowhere, and destroys what it has created.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use xen_ioreq::abi::dm_op::{XEN_DMOP_create_ioreq_server, XEN_DMOP_destroy_ioreq_server};
use xen_ioreq::abi::ioreq::ioreq;
use xen_ioreq::seam::{DmOp, EventChannels, ForeignMap, ForeignPages, Mapping, Prot, ResourceMap};
use xen_ioreq::{DomId, Errno, Gfn, Port};

use super::Input;
use crate::bus::Window;
use crate::connection::Connection;
use crate::device::{Access, Device, MmioDevice, Region, Space};
use crate::dm::{BufferedMode, Dm};
use crate::outcome::Outcome;
use crate::server::Server;
use crate::testing::Pages;

/// Pages of a resource that are worth mapping here.
const MAX_PAGES: u32 = 8;

/// Answers from the input.
struct Any {
    input: Mutex<Vec<u8>>,
    /// Servers created less servers destroyed.
    servers: Mutex<i64>,
    /// Event channels bound less those closed.
    ports: Mutex<i64>,
}

impl Any {
    fn take<const N: usize>(&self) -> [u8; N] {
        let mut bytes = self.input.lock();
        let mut input = Input(&bytes);
        let out = input.take();
        let used = bytes.len() - input.0.len();
        bytes.drain(..used);
        out
    }

    fn u8(&self) -> u8 {
        self.take::<1>()[0]
    }

    fn u32(&self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// Most calls succeed, so that there is something to see.
    fn result(&self) -> Result<(), Errno> {
        match self.u8() {
            0..=199 => Ok(()),
            n => Err(Errno(i32::from(n) - 199)),
        }
    }
}

impl DmOp for Any {
    fn dm_op(&self, _: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        let code = bufs.first().and_then(|b| b.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b));
        let result = self.result();
        for buf in bufs.iter_mut() {
            for byte in buf.iter_mut().skip(4) {
                *byte ^= self.u8();
            }
        }
        if code == Some(XEN_DMOP_create_ioreq_server) && result.is_ok() {
            *self.servers.lock() += 1;
        } else if code == Some(XEN_DMOP_destroy_ioreq_server) {
            *self.servers.lock() -= 1;
        }
        result
    }
}

impl ResourceMap for Any {
    fn map_resource(&self, _: DomId, _: u32, _: u32, _: u32, nr: u32) -> Result<Mapping, Errno> {
        self.result()?;
        if nr == 0 || nr > MAX_PAGES {
            return Err(Errno::ENOMEM);
        }
        let pages = Pages::new(nr as usize);
        // Without a word against it there are vCPUs, each with a port of its own.
        for n in 0..=self.u8() % 16 {
            let mut slot = self.take::<32>();
            slot[std::mem::offset_of!(ioreq, vp_eport)] ^= n + 1;
            pages.write(usize::from(n) * slot.len(), &slot);
        }
        Ok(pages.mapping())
    }

    fn resource_size(&self, _: DomId, _: u32, _: u32) -> Result<u32, Errno> {
        self.result()?;
        Ok(match self.u8() {
            n @ 0..=250 => (u32::from(n) + 2) % 5,
            _ => self.u32(),
        })
    }
}

impl ForeignMap for Any {
    fn map_foreign(&self, _: DomId, gfns: &[Gfn], _: Prot) -> Result<ForeignPages, Errno> {
        self.result()?;
        // As many errors as it likes, not as many as there are pages.
        let errors = (0..self.u8() % 4).map(|_| self.result().err()).collect();
        Ok(ForeignPages { mapping: Pages::new(gfns.len().max(1)).mapping(), errors })
    }
}

impl EventChannels for Any {
    fn pollable(&self) -> BorrowedFd<'_> {
        unreachable!("nobody polls here")
    }
    fn bind_interdomain(&self, _: DomId, _: Port) -> Result<Port, Errno> {
        self.result()?;
        *self.ports.lock() += 1;
        Ok(Port(self.u32()))
    }
    fn bind_unbound(&self, _: DomId) -> Result<Port, Errno> {
        self.result().map(|()| Port(1))
    }
    fn unbind(&self, _: Port) -> Result<(), Errno> {
        *self.ports.lock() -= 1;
        self.result()
    }
    fn notify(&self, _: Port) -> Result<(), Errno> {
        self.result()
    }
    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.result()?;
        let n = usize::from(self.u8()).min(out.len());
        out.iter_mut().take(n).for_each(|p| *p = Port(self.u8().into()));
        Ok(n)
    }
    fn unmask(&self, _: &[Port]) -> Result<(), Errno> {
        self.result()
    }
    fn reset_ring(&self) -> Result<(), Errno> {
        self.result()
    }
}

struct Nothing;

impl Device for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Nothing {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        Outcome::Ok(a.offset)
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

/// A byte for the ring's mode; then what the hypervisor answers.
pub fn dm_op(data: &[u8]) {
    dm_op_serves(data);
}

/// The same; tells whether it came as far as serving.
pub(super) fn dm_op_serves(data: &[u8]) -> bool {
    let Some((how, rest)) = data.split_first() else { return false };
    let xen = Arc::new(Any {
        input: Mutex::new(rest.to_vec()),
        servers: Mutex::default(),
        ports: Mutex::default(),
    });
    let conn = Connection::new(xen.clone(), xen.clone());
    let mode = [BufferedMode::Off, BufferedMode::Legacy, BufferedMode::Atomic][usize::from(how % 3)];
    let domid = DomId(u16::from(how / 3));
    let served = live(&xen, &conn, domid, mode);
    // Whatever was answered, all that was made was given back, as far as that was tried.
    assert_eq!((*xen.servers.lock(), *xen.ports.lock()), (0, 0));
    served
}

/// Whether it came as far as serving.
fn live(xen: &Any, conn: &Connection, domid: DomId, mode: BufferedMode) -> bool {
    let dm: Dm = conn.dm(domid);
    let _ = (dm.nr_vcpus(), dm.inject_msi(xen.u64(), xen.u32()), dm.crash());
    let memory = conn.guest_memory(domid).cached(usize::from(xen.u8()));
    let _ = memory.write(xen.u64(), &[1; 100]);
    let _ = memory.read(xen.u64(), &mut [0; 100]);
    memory.invalidate();

    let Ok(server) = Server::create(conn, domid, mode) else { return false };
    let bus = crate::bus::Bus::new(server.claims());
    let id = bus.attach(Arc::new(Nothing));
    let mut windows = Vec::new();
    for _ in 0..xen.u8() % 8 {
        let start = u64::from(xen.u8()) << 8;
        let window = Window { space: Space::Mmio, start, last: start + 0xff, region: Region(0) };
        if bus.map(id, window).is_ok() {
            windows.push(start);
        }
    }
    for start in windows.iter().step_by(2) {
        let _ = bus.unmap(id, Space::Mmio, *start);
    }
    let Ok(server) = server.map() else { return false };
    let Ok(server) = server.enable() else { return false };
    let mut guest = crate::guest::Guest::new(server, bus, Arc::new(()), crate::guest::OnError::CrashGuest);
    guest.set_patience(std::time::Duration::ZERO);
    for _ in 0..4 {
        if guest.service().is_err() {
            break;
        }
    }
    true
}
