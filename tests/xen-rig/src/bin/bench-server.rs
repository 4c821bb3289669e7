//! `bench-server DOMID`: our side of the speed ratio on real Xen; `src/c/baseline.c` is the other.
//!
//! Does what that does (ports, MMIO, markers, output) by the library as `mgpu serve` uses it: event loop, bus, devices.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ioreq_server::bus::Window;
use ioreq_server::{
    Access, BufferedMode, Bus, Connection, Device, Guest, GuestLoop, IoError, LoopHandle, MmioDevice,
    OnError, Outcome, PioDevice, Region, Server, Space,
};
use parking_lot::Mutex;
use xen_ioreq::DomId;
use xen_ioreq::linux::{Evtchn, Privcmd};

/// Register offsets from the first port, 0x1000.
const MARKER: u64 = 0x10;
const END: u64 = 0x1c;

struct Bench {
    count: AtomicU64,
    started: Mutex<Instant>,
    handle: LoopHandle,
}

impl Bench {
    fn read(&self) -> Outcome<u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        Outcome::Ok(0x1234_5678)
    }

    fn mark(&self, marker: u64) {
        let now = Instant::now();
        let mut started = self.started.lock();
        let count = self.count.swap(0, Ordering::Relaxed);
        let took = now.duration_since(*started).as_nanos();
        match marker {
            2 => println!("pio {count} {took}"),
            3 => println!("mmio {count} {took}"),
            _ => {}
        }
        *started = now;
    }
}

impl Device for Bench {
    fn name(&self) -> &str {
        "bench"
    }

    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }

    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl PioDevice for Bench {
    fn pio_read(&self, _access: &Access) -> Outcome<u64> {
        self.read()
    }

    fn pio_write(&self, access: &Access, value: u64) -> Outcome<()> {
        match access.offset {
            MARKER => self.mark(value),
            END => self.handle.stop(),
            _ => return Outcome::Err(IoError::NoRegister),
        }
        Outcome::Ok(())
    }
}

impl MmioDevice for Bench {
    fn mmio_read(&self, _access: &Access) -> Outcome<u64> {
        self.read()
    }

    fn mmio_write(&self, _access: &Access, _value: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

fn main() -> ExitCode {
    let Some(domid) = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).map(DomId) else {
        eprintln!("usage: bench-server DOMID");
        return ExitCode::from(2);
    };
    match serve(domid) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(domid: DomId) -> Result<(), Box<dyn std::error::Error>> {
    let privcmd = Privcmd::open()?.restrict(domid).map_err(|(_, errno)| format!("restrict: {errno}"))?;
    let conn = Connection::new(Arc::new(privcmd), Arc::new(Evtchn::open_blocking()?));
    let server = Server::create(&conn, domid, BufferedMode::Off)?.map()?.enable()?;
    let bus = Bus::new(server.claims());
    let mut guests = GuestLoop::new()?;
    let bench =
        Bench { count: AtomicU64::new(0), started: Mutex::new(Instant::now()), handle: guests.handle() };
    let device = bus.attach(Arc::new(bench));
    let region = Region::default();
    bus.map(device, Window { space: Space::Pio, start: 0x1000, last: 0x101f, region })?;
    bus.map(device, Window { space: Space::Mmio, start: 0xfe00_0000, last: 0xfe00_0fff, region })?;
    guests.add(Guest::new(server, bus, Arc::new(()), OnError::AllOnes))?;
    println!("ready");
    guests.run()?;
    Ok(())
}
