//! A software GPU on plain memory, set up and ready to draw: for tests, benches and figures.
//!
//! One blitter context in a GGTT whose pages lie scattered over memory. [`Rig::run`] submits commands and waits
//! until they are done; [`Rig::queue`] keeps some submissions in flight.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use xen_ioreq::{Bfn, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};

use super::patience::Patience;
use super::{ClockKind, SoftGpu, SoftGpuConfig};
use crate::bus::HeapBus;
use crate::gen8::cmd;
use crate::gen8::context::{Descriptor, STATE_OFFSET, state};
use crate::gen8::ppgtt::Root;
use crate::gen8::regs::RING_VALID;
use crate::physical::{Engine, Interrupt, InterruptSink, PhysicalGpu};

/// Graphics address of the context image.
const IMAGE: u32 = 0x1000;
/// Graphics address of the number of the newest queued submission that is done.
const DONE: u64 = 0x8000;
/// Graphics address of the ring.
const RING: u32 = 0x10_0000;
/// Bytes of the ring.
const RING_SIZE: u32 = 0x1_0000;
/// How long it is looked whether the GPU is done before the thread sleeps: for what is measured, a wake-up is much.
const LOOK: Duration = Duration::from_millis(2);
/// The context's id.
const CONTEXT_ID: u32 = 0x20;

/// The engine stopped: a command or an address that it could not execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} stopped with an error")]
pub struct Stopped(pub Engine);

/// What the GPU's interrupts have told.
#[derive(Default)]
struct Events {
    seen: Mutex<Vec<Interrupt>>,
    /// For any.
    news: Condvar,
    /// For those that a batch asks for, and errors: a driver that waits for a batch is not woken when contexts switch.
    batches: Condvar,
}

impl InterruptSink for Events {
    fn interrupt(&self, irq: Interrupt) {
        self.seen.lock().push(irq);
        self.news.notify_all();
        if !matches!(irq, Interrupt::ContextSwitch(_)) {
            self.batches.notify_all();
        }
    }
}

/// The rig.
pub struct Rig {
    /// The memory.
    pub bus: Arc<HeapBus>,
    /// The GPU.
    pub gpu: SoftGpu,
    engine: Engine,
    events: Arc<Events>,
    patience: Mutex<Patience>,
    tail: u32,
    /// Submissions that were queued.
    queued: u32,
    /// What its descriptor says of its tables.
    tables: u64,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").field("engine", &self.engine).field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl Rig {
    /// Graphics address of the first byte that is free for surfaces.
    pub const FREE: u64 = (RING + RING_SIZE) as u64;

    /// A rig with `bytes` bytes (rounded up to pages) of free graphics memory from [`FREE`](Self::FREE) on, and one
    /// context on `engine`.
    pub fn new(engine: Engine, bytes: u64) -> io::Result<Self> {
        Self::with(engine, bytes, SoftGpuConfig { clock: ClockKind::Counted, ..SoftGpuConfig::default() })
    }

    /// The same with a GPU that is made so, but for the size of its table.
    pub fn with(engine: Engine, bytes: u64, config: SoftGpuConfig) -> io::Result<Self> {
        let pages = (Self::FREE + bytes).div_ceil(PAGE_SIZE as u64);
        let entries = u32::try_from(pages).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bus = Arc::new(HeapBus::new(usize::try_from(pages).map_err(|_| io::ErrorKind::InvalidInput)?));
        let config = SoftGpuConfig { ggtt_entries: entries, ..config };
        let gpu = SoftGpu::new(Arc::clone(&bus) as _, config)?;
        let events = Arc::new(Events::default());
        gpu.set_interrupt_sink(Arc::clone(&events) as _);
        let mut frames: Vec<u64> = (0..pages).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut frames);
        for (index, frame) in (0..).zip(frames) {
            gpu.ggtt_write(index, Some(Bfn(frame)));
        }
        gpu.ggtt_flush();
        let patience = Mutex::new(Patience::new(LOOK));
        let rig = Self { bus, gpu, engine, events, patience, tail: 0, queued: 0, tables: 0 };
        rig.set_state(state::RING_START, RING);
        rig.set_state(state::RING_CTL, (RING_SIZE - 4096) | RING_VALID);
        Ok(rig)
    }

    /// The descriptor of its context.
    pub fn descriptor(&self) -> Descriptor {
        let global = Descriptor::ggtt(IMAGE, CONTEXT_ID).0;
        match self.tables {
            0 => Descriptor(global),
            tables => Descriptor(global & !Descriptor::ADDRESSING_MODE | tables),
        }
    }

    /// Gives its context tables of its own, which begin there.
    pub fn set_root(&mut self, root: Root) {
        let mode = match root {
            Root::FourLevel(_) => Descriptor::LEGACY_64B,
            Root::ThreeLevel(_) => Descriptor::LEGACY_32B,
        };
        self.tables = Descriptor::PPGTT | mode;
        for ((upper, lower), pointer) in state::PDPS.into_iter().zip(root.pointers()) {
            let [low, high] = crate::gen8::cmd::split(pointer);
            self.set_state(upper, high);
            self.set_state(lower, low);
        }
    }

    /// Writes a dword of the context image's register state, by its index ([`state`]).
    pub fn set_state(&self, index: usize, value: u32) {
        self.write(u64::from(IMAGE) + STATE_OFFSET + index as u64 * 4, &value.to_le_bytes());
    }

    /// Reads a dword of the context image's register state.
    pub fn state(&self, index: usize) -> u32 {
        self.read32(u64::from(IMAGE) + STATE_OFFSET + index as u64 * 4)
    }

    /// Puts commands at the ring's tail, padded to a quadword, without telling the GPU.
    ///
    /// # Panics
    /// If they fill the ring.
    pub fn emit(&mut self, commands: &[u32]) {
        assert!(commands.len() < RING_SIZE as usize / 4 - 2, "{} dwords fill the ring", commands.len());
        let padding = commands.len() % 2;
        for dword in commands.iter().chain(&[0][..padding]) {
            self.write(u64::from(RING + self.tail), &dword.to_le_bytes());
            self.tail = (self.tail + 4) % RING_SIZE;
        }
    }

    /// Submits what has been emitted.
    pub fn submit(&mut self) {
        self.events.seen.lock().clear();
        self.set_state(state::RING_TAIL, self.tail);
        self.gpu.submit(self.engine, self.descriptor().0, None);
    }

    /// Waits until all that was submitted is done or the engine has stopped. It looks a little before it sleeps, as drivers do.
    pub fn wait(&self) -> Result<(), Stopped> {
        self.patience.lock().look(|| self.gpu.is_idle(self.engine));
        let mut seen = self.events.seen.lock();
        loop {
            if seen.contains(&Interrupt::Error(self.engine)) {
                return Err(Stopped(self.engine));
            }
            if self.gpu.is_idle(self.engine) {
                return Ok(());
            }
            // The interrupt that ends the work comes after the engine is idle, so that no news is missed for long.
            self.events.news.wait(&mut seen);
        }
    }

    /// Submits commands behind those that are in flight, after it has waited until fewer than `most` submissions are. It sleeps
    /// meanwhile, and is woken by an interrupt at the end of each.
    pub fn queue(&mut self, commands: &[u32], most: u32) -> Result<(), Stopped> {
        self.wait_queued(most.saturating_sub(1))?;
        self.queued = self.queued.wrapping_add(1);
        self.emit(commands);
        self.emit(&cmd::store_dword(DONE, self.queued));
        self.emit(&[cmd::MI_USER_INTERRUPT]);
        self.set_state(state::RING_TAIL, self.tail);
        self.gpu.submit(self.engine, self.descriptor().0, None);
        Ok(())
    }

    /// Sleeps until at most so many queued submissions are in flight.
    pub fn wait_queued(&self, left: u32) -> Result<(), Stopped> {
        let mut seen = self.events.seen.lock();
        while self.queued.wrapping_sub(self.read32(DONE)) > left {
            if seen.contains(&Interrupt::Error(self.engine)) {
                return Err(Stopped(self.engine));
            }
            seen.clear();
            // What the number says is there before the interrupt, which takes the lock.
            self.events.batches.wait(&mut seen);
        }
        Ok(())
    }

    /// Submits commands and waits until they are done.
    pub fn run(&mut self, commands: &[u32]) -> Result<(), Stopped> {
        self.emit(commands);
        self.submit();
        self.wait()
    }

    /// After a stop: resets the engine and starts its ring anew. `false`: the engine did not stop.
    pub fn reset(&mut self) -> bool {
        (self.tail, self.queued) = (0, 0);
        self.write(DONE, &[0; 4]);
        let done = self.gpu.reset_engine(self.engine, Duration::from_secs(60)).is_ok();
        self.set_state(state::RING_HEAD, 0);
        done
    }

    /// Waits until an interrupt has come since the last submission.
    pub fn wait_for(&self, irq: Interrupt) {
        let mut seen = self.events.seen.lock();
        while !seen.contains(&irq) {
            self.events.news.wait(&mut seen);
        }
    }

    /// The interrupts since the last submission.
    pub fn interrupts(&self) -> Vec<Interrupt> {
        self.events.seen.lock().clone()
    }

    fn pieces(addr: u64, len: usize, mut f: impl FnMut(u64, usize, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let at = addr + done as u64;
            let offset = usize::try_from(at & PAGE_MASK).unwrap_or(0);
            let n = (len - done).min(PAGE_SIZE - offset);
            f(at >> PAGE_SHIFT, offset, done..done + n);
            done += n;
        }
    }

    fn frame(&self, page: u64) -> Bfn {
        let bfn = u32::try_from(page).ok().and_then(|i| self.gpu.ggtt_read(i));
        bfn.unwrap_or_else(|| panic!("graphics page {page:#x} is not mapped"))
    }

    /// Writes graphics memory as a CPU. Panics if it is not mapped.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        Self::pieces(addr, bytes.len(), |page, offset, r| {
            self.bus.write(self.frame(page), offset, &bytes[r])
        });
    }

    /// Reads graphics memory as a CPU. Panics if it is not mapped.
    pub fn read(&self, addr: u64, bytes: &mut [u8]) {
        Self::pieces(addr, bytes.len(), |page, offset, r| {
            self.bus.read(self.frame(page), offset, &mut bytes[r])
        });
    }

    /// Reads a dword of graphics memory.
    pub fn read32(&self, addr: u64) -> u32 {
        let mut b = [0; 4];
        self.read(addr, &mut b);
        u32::from_le_bytes(b)
    }
}
