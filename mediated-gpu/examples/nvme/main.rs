//! A driver for an NVMe controller over VFIO, as far as it takes to ask the controller who it is: queues in memory within its reach,
//! a message of its table for the answer, and a reset.
//!
//! `nvme ADDRESS` asks twice: where the answer may go, and where it was allowed to go before. Registers, queues and commands: NVM
//! Express base specification 1.4, sections 3.1, 4.2, 4.6 and 5.15.

#[path = "../../../ioreq-server/xen-ioreq/examples/judge/mod.rs"]
mod judge;

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ioreq_server::GuestLoop;
use mediated_gpu::vfio::{Address, DmaFrames, DmaMemory, Interrupts, IrqKind, MappedRegion, VfioDevice};
use xen_ioreq::{Bfn, PAGE_SIZE};

use self::judge::Judge;

/// Registers in BAR0.
mod reg {
    /// Capabilities: 35:32 distance of the doorbells.
    pub(super) const CAP: u64 = 0x00;
    /// Configuration: b0 enable, 19:16 and 23:20 log2 of the entries' sizes.
    pub(super) const CC: u64 = 0x14;
    /// Status: b0 ready.
    pub(super) const CSTS: u64 = 0x1c;
    /// Admin queues: entries less one, of completions in 27:16, of submissions in 11:0.
    pub(super) const AQA: u64 = 0x24;
    /// Where admin submissions are.
    pub(super) const ASQ: u64 = 0x28;
    /// Where admin completions go.
    pub(super) const ACQ: u64 = 0x30;
    /// Doorbells: the tail of submissions, then the head of completions.
    pub(super) const DOORBELLS: u64 = 0x1000;
}

const CC_ENABLE: u32 = 1 << 0;
/// Entries of 64 and of 16 bytes.
const CC_ENTRIES: u32 = 6 << 16 | 4 << 20;
const CSTS_READY: u32 = 1 << 0;
/// Entries of either queue.
const ENTRIES: u32 = 16;
/// Identify; and of what: the controller.
const IDENTIFY: u32 = 0x06;
const CNS_CONTROLLER: u32 = 0x01;
/// Any bus frame but those of the first MiB: a mistake there should not look like an address.
const WINDOW: std::ops::Range<Bfn> = Bfn(0x100)..Bfn(1 << 27);
const PATIENCE: Duration = Duration::from_secs(30);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The controller, with its admin queues.
struct Nvme {
    bar: MappedRegion,
    serving: GuestLoop,
    fired: Receiver<u32>,
    queues: Arc<DmaMemory>,
    /// Commands so far.
    commands: u32,
}

impl Nvme {
    /// Enables it. The queues are two pages from bus frame `at` on.
    fn enable(device: &Arc<VfioDevice>, queues: Arc<DmaMemory>, at: Bfn) -> Result<Self> {
        let bar = MappedRegion::new(device, 0)?;
        let (told, fired) = channel();
        let source = Interrupts::new(device, IrqKind::Msix, 2, move |vector, _, _| {
            told.send(vector).map_err(io::Error::other)
        })?;
        let mut serving = GuestLoop::new()?;
        serving.add_source(Box::new(source))?;
        let nvme = Self { bar, serving, fired, queues, commands: 0 };
        nvme.bar.write32(reg::CC, 0)?;
        nvme.ready(false)?;
        nvme.bar.write32(reg::AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1))?;
        nvme.bar.write64(reg::ASQ, at.addr())?;
        nvme.bar.write64(reg::ACQ, at.addr() + PAGE_SIZE as u64)?;
        nvme.bar.write32(reg::CC, CC_ENTRIES | CC_ENABLE)?;
        nvme.ready(true)?;
        Ok(nvme)
    }

    fn ready(&self, wanted: bool) -> Result<()> {
        let last = Instant::now() + PATIENCE;
        while (self.bar.read32(reg::CSTS)? & CSTS_READY != 0) != wanted {
            if Instant::now() > last {
                return Err("the controller does not change its mind".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Has the controller write who it is to a page; its status, 0 if it has, and the vector that told.
    fn identify(&mut self, page: Bfn) -> Result<(u32, u32)> {
        let n = self.commands;
        self.commands += 1;
        let [low, high] =
            [page.addr() & 0xffff_ffff, page.addr() >> 32].map(|d| u32::try_from(d).unwrap_or(0));
        // dwords 6 and 7 are the first page's address, 10 says of what
        let mut command = [0; 16];
        (command[0], command[6], command[7], command[10]) = (IDENTIFY | n << 16, low, high, CNS_CONTROLLER);
        let slot = usize::try_from(n % ENTRIES)?;
        self.queues.write(64 * slot, &command.map(u32::to_le_bytes).concat());
        let distance = 4u64 << (self.bar.read64(reg::CAP)? >> 32 & 0xf);
        self.bar.write32(reg::DOORBELLS, (n + 1) % ENTRIES)?;
        let last = Instant::now() + PATIENCE;
        let vector = loop {
            if let Ok(vector) = self.fired.try_recv() {
                break vector;
            }
            if Instant::now() > last {
                return Err("nothing comes of a command".into());
            }
            self.serving.turn(Some(Duration::from_millis(100)))?;
        };
        let mut completion = [0; 4];
        self.queues.read(PAGE_SIZE + 16 * slot + 12, &mut completion);
        let last = u32::from_le_bytes(completion);
        self.bar.write32(reg::DOORBELLS + distance, (n + 1) % ENTRIES)?;
        if last & 0xffff != n || last >> 16 & 1 != 1 {
            return Err(format!("completion {last:#x} of command {n}").into());
        }
        Ok((last >> 17, vector))
    }
}

fn run(address: Address, judge: &mut Judge) -> Result<()> {
    let device = Arc::new(VfioDevice::open(address)?);
    let messages = device.irqs().iter().find(|i| i.kind == IrqKind::Msix).map_or(0, |i| i.count);
    judge.that("it has a table of messages", messages > 2);
    let frames = DmaFrames::new(device.space().cloned().ok_or("no IOMMU")?, WINDOW);
    let queues = Arc::new(DmaMemory::new(2)?);
    let answer = Arc::new(DmaMemory::new(1)?);
    let (queues_at, answer_at) = (frames.map(&queues)?, frames.map(&answer)?);
    device.set_bus_master(true)?;
    let mut nvme = Nvme::enable(&device, queues.clone(), queues_at.first())?;

    judge.is("it answers, by the first message", nvme.identify(answer_at.first())?, (0, 0));
    let mut model = [0; 40];
    answer.read(24, &mut model);
    judge.is("with its name", String::from_utf8_lossy(&model).trim_end(), "QEMU NVMe Ctrl");

    let gone = answer_at.first();
    drop(answer_at);
    answer.write(0, &[5; PAGE_SIZE]);
    // Whether it notices is its own matter.
    nvme.identify(gone)?;
    println!("written to {gone}, where nothing is");
    let mut bytes = [0; PAGE_SIZE];
    answer.read(0, &mut bytes);
    judge.that("a page that was taken back is not written any more", bytes == [5; PAGE_SIZE]);
    let again = frames.map(&answer)?;
    judge.is("it answers again where it may", nvme.identify(again.first())?, (0, 0));

    judge.that("its reset is one", device.can_reset() && device.reset()?);
    let enabled = MappedRegion::new(&device, 0)?.read32(reg::CC)? & CC_ENABLE;
    judge.is("after which it does nothing", enabled, 0);
    drop((nvme, again, queues_at));
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
