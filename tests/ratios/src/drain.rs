//! The buffered ring: from a full ring to the last of its writes carried out by its device.
//!
//! The model's vCPU fills the ring, outside of the clock; then the guest is serviced once, on the same thread. The limit is
//! 50 million entries a second, or half of what a `memcpy` of the ring's page would bring if that is less.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ioreq_server::bus::Window;
use ioreq_server::{
    Access, BufferedMode, Bus, Connection, Device, Guest, MmioDevice, OnError, Outcome, Region, Server, Space,
};
use mock_xen::{Config, DomainConfig, Machine, Vcpu};
use xen_ioreq::{DomId, PAGE_SIZE, VcpuId};

use crate::harness::{Figure, Target, interleave, median, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["drain-atomic-4", "drain-atomic-8", "drain-legacy-4", "drain-legacy-8"];

const ROUNDS: usize = 31;
/// Full rings in a round.
const RINGS: usize = 100;
/// Entries a second.
const ENOUGH: f64 = 50e6;
/// The VGA window, whose writes Xen buffers.
const VGA: u64 = 0xa_0000;

/// Remembers how many writes there were, and their sum.
#[derive(Default)]
struct Sink {
    writes: AtomicU64,
    sum: AtomicU64,
}

impl Device for Sink {
    fn name(&self) -> &'static str {
        "sink"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

/// Adds where nobody else does.
fn add(to: &AtomicU64, more: u64) {
    to.store(to.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

impl MmioDevice for Sink {
    fn mmio_read(&self, _: &Access) -> Outcome<u64> {
        Outcome::Ok(0)
    }
    fn mmio_write(&self, access: &Access, value: u64) -> Outcome<()> {
        add(&self.writes, 1);
        add(&self.sum, value ^ access.offset);
        Outcome::Ok(())
    }
}

struct Rig {
    guest: Guest,
    vcpu: Vcpu,
    sink: Arc<Sink>,
    /// Bytes that a write has.
    size: usize,
    /// Writes until the ring is full.
    entries: u32,
    /// What the sink must have seen.
    writes: u64,
    sum: u64,
}

impl Rig {
    fn new(mode: BufferedMode, size: usize) -> Result<Self, String> {
        let say = |e: &dyn std::fmt::Display| e.to_string();
        let machine = Machine::new(Config::default()).map_err(|e| say(&e))?;
        let config = DomainConfig { stdvga: true, ..DomainConfig::default() };
        let domid = machine.create_domain(&config).map_err(|e| say(&e))?;
        let dom0 = Arc::new(machine.caller(DomId(0)).map_err(|e| say(&e))?);
        let conn = Connection::new(dom0.clone(), dom0);
        let server = Server::create(&conn, domid, mode).map_err(|e| say(&e))?;
        let server = server.map().map_err(|e| say(&e))?.enable().map_err(|e| say(&e))?;
        let bus = Bus::new(server.claims());
        let sink = Arc::new(Sink::default());
        let id = bus.attach(sink.clone());
        let window = Window { space: Space::Mmio, start: VGA, last: VGA + 0x1_ffff, region: Region(0) };
        bus.map(id, window).map_err(|e| say(&e))?;
        let guest = Guest::new(server, bus, Arc::new(()), OnError::AllOnes);
        let vcpu = machine.vcpu(domid, VcpuId(0)).map_err(|e| say(&e))?;
        // 511 slots, and a write of 8 bytes takes two.
        let entries = if size == 8 { 255 } else { 511 };
        Ok(Self { guest, vcpu, sink, size, entries, writes: 0, sum: 0 })
    }

    fn fill(&mut self) -> Result<(), String> {
        for i in 0..u64::from(self.entries) {
            let value = (self.writes + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 8 * self.size);
            self.vcpu.mmio_write(VGA + i * 8, self.size, value).map_err(|e| e.to_string())?;
            self.sum = self.sum.wrapping_add(value ^ (i * 8));
        }
        self.writes += u64::from(self.entries);
        Ok(())
    }

    /// Seconds that so many full rings take.
    fn drain(&mut self, rings: usize) -> Result<f64, String> {
        let mut time = 0.0;
        for _ in 0..rings {
            self.fill()?;
            let mut result = Ok(());
            time += seconds(|| result = self.guest.service().map(drop));
            result.map_err(|e| e.to_string())?;
        }
        let seen = (self.sink.writes.load(Ordering::Relaxed), self.sink.sum.load(Ordering::Relaxed));
        if seen == (self.writes, self.sum) { Ok(time) } else { Err("the device saw other writes".into()) }
    }
}

/// Seconds that as many copies of a ring's page take.
fn copies(rings: usize) -> f64 {
    let (from, mut to) = ([1u8; PAGE_SIZE], [0u8; PAGE_SIZE]);
    seconds(|| {
        for _ in 0..rings {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        }
    })
}

fn figure(name: &'static str, mode: BufferedMode, size: usize) -> Result<Figure, String> {
    let mut rig = Rig::new(mode, size)?;
    #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
    let entries = f64::from(rig.entries) * RINGS as f64;
    let (failed, copied) = (Cell::new(None), RefCell::new(Vec::new()));
    let (ratio, ours, _) = interleave(
        ROUNDS,
        || {
            rig.drain(RINGS).unwrap_or_else(|why| {
                failed.set(Some(why));
                f64::NAN
            })
        },
        || {
            let copied_in = copies(RINGS);
            copied.borrow_mut().push(copied_in);
            (entries / ENOUGH).max(2.0 * copied_in)
        },
    );
    if let Some(why) = failed.take() {
        return Err(why);
    }
    let million = |seconds: f64| entries / seconds / 1e6;
    let detail = format!(
        "{:.0} million entries/s; memcpy of the ring {:.0} million/s",
        million(ours),
        million(median(&mut copied.borrow_mut()))
    );
    Ok(Figure { name, ratio: 1.0 / ratio, target: Target::AtLeast(1.0), detail })
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    Ok(vec![
        figure("drain-atomic-4", BufferedMode::Atomic, 4)?,
        figure("drain-atomic-8", BufferedMode::Atomic, 8)?,
        figure("drain-legacy-4", BufferedMode::Legacy, 4)?,
        figure("drain-legacy-8", BufferedMode::Legacy, 8)?,
    ])
}
