//! A driver for QEMU's teaching device, `edu`, over VFIO: the way of a page into a device's reach and out of it again.
//!
//! `edu ADDRESS` maps two pages at bus frames of an allocator's choice, has the device copy one into itself and out to the other,
//! takes its interrupts in the event loop, by line and by message, and takes the pages back while the device still has
//! their addresses: what it writes then arrives nowhere. Without an IOMMU it is interrupts only. Registers: QEMU's `docs/specs/edu.rst`.

#[path = "../../../ioreq-server/xen-ioreq/examples/judge/mod.rs"]
mod judge;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ioreq_server::GuestLoop;
use mediated_gpu::vfio::{
    Address, DmaFrames, DmaMemory, Interrupts, Iommu, IrqKind, MappedRegion, VfioDevice,
};
use xen_ioreq::{Bfn, PAGE_SIZE};

use self::judge::Judge;

/// `edu`'s registers in BAR0.
mod reg {
    /// What it is: revision in the upper half, 0xed in the lowest byte.
    pub(super) const IDENTIFICATION: u64 = 0x00;
    /// Reads the inverse of what was written.
    pub(super) const LIVENESS: u64 = 0x04;
    /// Which interrupts were raised.
    pub(super) const IRQ_STATUS: u64 = 0x24;
    /// Raises interrupts.
    pub(super) const IRQ_RAISE: u64 = 0x60;
    /// Takes them back.
    pub(super) const IRQ_ACK: u64 = 0x64;
    /// Where a copy begins.
    pub(super) const DMA_SOURCE: u64 = 0x80;
    /// Where it goes.
    pub(super) const DMA_DESTINATION: u64 = 0x88;
    /// Bytes.
    pub(super) const DMA_COUNT: u64 = 0x90;
    /// Starts it.
    pub(super) const DMA_COMMAND: u64 = 0x98;
    /// Where its own page is.
    pub(super) const BUFFER: u64 = 0x4_0000;
}

/// DMA command: go.
const DMA_RUN: u64 = 1 << 0;
/// DMA command: from the device to memory.
const DMA_TO_MEMORY: u64 = 1 << 1;
/// Bus addresses have 28 bits. The first MiB is left out: a mistake there should not look like an address.
const WINDOW: std::ops::Range<Bfn> = Bfn(0x100)..Bfn(0x1_0000);
/// Bytes of a copy: QEMU 7.2 takes one of the device's whole page for one beyond its end.
const COUNT: usize = PAGE_SIZE - 16;
/// A copy takes a tenth of a second of the device's time.
const PATIENCE: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The device, opened.
struct Edu {
    device: Arc<VfioDevice>,
    bar: MappedRegion,
}

impl Edu {
    /// Copies, and waits until that is done.
    fn copy(&self, source: u64, destination: u64, command: u64) -> Result<()> {
        self.bar.write64(reg::DMA_SOURCE, source)?;
        self.bar.write64(reg::DMA_DESTINATION, destination)?;
        self.bar.write64(reg::DMA_COUNT, COUNT as u64)?;
        self.bar.write64(reg::DMA_COMMAND, command | DMA_RUN)?;
        let last = Instant::now() + PATIENCE;
        while self.bar.read64(reg::DMA_COMMAND)? & DMA_RUN != 0 {
            if Instant::now() > last {
                return Err("a copy does not end".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Raises interrupts of a kind one after the other, each when the one before has come. Gives what the device said of each.
    fn interrupts(&self, kind: IrqKind, raise: &[u32]) -> Result<Vec<u32>> {
        let (told, heard) = std::sync::mpsc::channel();
        let bar = MappedRegion::new(&self.device, 0)?;
        let source = Interrupts::new(&self.device, kind, 1, move |_, _, _| {
            let status = bar.read32(reg::IRQ_STATUS).map_err(io::Error::other)?;
            bar.write32(reg::IRQ_ACK, status).map_err(io::Error::other)?;
            told.send(status).map_err(io::Error::other)
        })?;
        let mut serving = GuestLoop::new()?;
        let key = serving.add_source(Box::new(source))?;
        let mut statuses = Vec::new();
        for bits in raise {
            self.bar.write32(reg::IRQ_RAISE, *bits)?;
            let last = Instant::now() + PATIENCE;
            while heard.try_recv().map(|status| statuses.push(status)).is_err() {
                if Instant::now() > last {
                    return Err(format!("{kind} {bits:#x} does not come").into());
                }
                serving.turn(Some(Duration::from_millis(100)))?;
            }
        }
        serving.remove_source(key);
        Ok(statuses)
    }
}

/// A page, filled.
fn page(value: u8) -> Result<Arc<DmaMemory>> {
    let memory = DmaMemory::new(1)?;
    memory.write(0, &[value; PAGE_SIZE]);
    Ok(Arc::new(memory))
}

/// Whether all that a copy may touch is this.
fn holds(memory: &DmaMemory, value: u8) -> bool {
    let mut bytes = [0; COUNT];
    memory.read(0, &mut bytes);
    bytes == [value; COUNT]
}

fn run(address: Address, judge: &mut Judge) -> Result<()> {
    let device = Arc::new(VfioDevice::open(address)?);
    let (vendor, id) = device.id()?;
    judge.that("the device is QEMU's edu", (vendor, id) == (0x1234, 0x11e8));
    let bar = MappedRegion::new(&device, 0)?;
    judge.that("its registers are mapped", bar.mapped() == bar.size() && bar.size() > reg::BUFFER);
    let edu = Edu { device: device.clone(), bar };
    judge.that("it says what it is", edu.bar.read32(reg::IDENTIFICATION)? & 0xff == 0xed);
    edu.bar.write32(reg::LIVENESS, 0x1234_5678)?;
    judge.that("it inverts what is written", edu.bar.read32(reg::LIVENESS)? == !0x1234_5678);
    let outside = [edu.bar.read32(edu.bar.size()).is_err(), edu.bar.read32(2).is_err()];
    judge.that("what is outside or not aligned is refused", outside == [true; 2]);

    let raised = [1, 0x10, 0x100];
    let lines = edu.interrupts(IrqKind::Intx, &raised)?;
    judge.that("its line fires again after each interrupt", lines == raised);
    // A message is a write to memory, too.
    device.set_bus_master(true)?;
    let messages = edu.interrupts(IrqKind::Msi, &raised)?;
    judge.that("its messages come to the loop", messages == raised);
    let more = Interrupts::new(&device, IrqKind::Msi, 2, |_, _, _| Ok(())).err();
    judge.that("more messages than it has are refused", more.is_some());

    match device.space() {
        Some(space) => reach(&edu, &DmaFrames::new(space.clone(), WINDOW), judge)?,
        // It could reach everything, at addresses that this kernel does not tell.
        None => judge.is("nothing can be mapped for it", device.iommu(), Iommu::None),
    }
    device.set_bus_master(false)?;
    judge.is("it is reset if it can be", device.reset()?, device.can_reset());
    Ok(())
}

/// The way of a page into the device's reach and out of it.
fn reach(edu: &Edu, frames: &DmaFrames, judge: &mut Judge) -> Result<()> {
    let device = &edu.device;
    let (source, target) = (page(7)?, page(0)?);
    let (from, to) = (frames.map(&source)?, frames.map(&target)?);
    println!("pages at bus frames {} and {}", from.first(), to.first());
    let inside = [&from, &to].map(|r| WINDOW.contains(&r.first()));
    judge.that("bus frames are those of the window", inside == [true; 2] && from.first() != to.first());
    device.set_bus_master(false)?;
    edu.copy(from.first().addr(), reg::BUFFER, 0)?;
    edu.copy(reg::BUFFER, to.first().addr(), DMA_TO_MEMORY)?;
    judge.that("a device that is no bus master reaches nothing", holds(&target, 0));
    device.set_bus_master(true)?;
    edu.copy(from.first().addr(), reg::BUFFER, 0)?;
    edu.copy(reg::BUFFER, to.first().addr(), DMA_TO_MEMORY)?;
    judge.that("a page goes into the device and out to another", holds(&target, 7));

    // The device knows what to write, and where: only the IOMMU stands between.
    let gone = to.first();
    drop(to);
    target.write(0, &[5; PAGE_SIZE]);
    edu.copy(reg::BUFFER, gone.addr(), DMA_TO_MEMORY)?;
    judge.that("a page that was taken back is not written any more", holds(&target, 5));
    println!("written to {gone}, where nothing is");

    let other = page(0)?;
    let again = frames.map(&other)?;
    judge.is("its bus frame is used again", again.first(), gone);
    edu.copy(reg::BUFFER, gone.addr(), DMA_TO_MEMORY)?;
    judge.that("what is written there is in the page that is there now", holds(&other, 7));
    judge.that("and not in the one that was", holds(&target, 5));

    // What the device gets instead is its IOMMU's matter; it must not be the page's.
    source.write(0, &[9; PAGE_SIZE]);
    let unread = from.first();
    drop(from);
    edu.copy(unread.addr(), reg::BUFFER, 0)?;
    edu.copy(reg::BUFFER, gone.addr(), DMA_TO_MEMORY)?;
    let mut bytes = [0; PAGE_SIZE];
    other.read(0, &mut bytes);
    judge.that("a page that was taken back is not read any more", !bytes.contains(&9));
    println!("read from {unread}, where nothing is");
    drop(again);
    Ok(())
}

fn main() -> ExitCode {
    let mut judge = Judge::default();
    let address = std::env::args().nth(1).unwrap_or_default();
    let done: Result<()> = address.parse::<Address>().map_err(Into::into).and_then(|a| run(a, &mut judge));
    if let Err(e) = done {
        judge.is("an error", e.to_string(), String::new());
    }
    judge.verdict()
}
