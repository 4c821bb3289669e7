//! The software GPU: gen8's engines on threads of their own, reaching memory by bus frame only.
//!
//! Each engine is a core behind a lock, with its own translation cache. Its thread holds the lock for one step
//! (tens of microseconds) and then lets anybody who waits have it first. So a flush or a reset takes the lock
//! between two steps, however long the batch: it gives back the pins, and the next step translates afresh. A large blit's
//! steps are drawn by several threads (`team`), all of which have let go when the step is over.

mod alu;
mod atomic;
mod blit;
mod device;
mod engine;
mod exec;
mod ggtt;
mod mi;
mod page;
mod patience;
mod port;
mod regs;
pub mod rig;
mod rop;
mod space;
mod stream;
mod strip;
mod team;
mod tlb;

use std::fmt;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use xen_ioreq::Bfn;

pub use device::ClockKind;
use device::Device;
use engine::{Core, Step};
use ggtt::Ggtt;
use patience::Patience;
use team::Team;
use tlb::Tlb;

use crate::bus::BusMaster;
use crate::gen8::context::Descriptor;
use crate::gen8::gtt::{GGTT_ENTRIES, Pte};
use crate::gen8::regs::{
    GFX_FLSH_CNTL_EN, GRDOM_FULL, MASTER_IRQ_CONTROL, MODE_IDLE, RESET_CTL_READY_TO_RESET,
    RESET_CTL_REQUEST_RESET, STOP_RING, engine as reg, gt, irq,
};
use crate::physical::{CsbEntry, Engine, InterruptSink, PhysicalGpu, ResetFailed};
use crate::privilege::{ThreadKind, narrow};

/// How long a reset by register waits for an engine, which needs some microseconds.
const RESET_DEADLINE: Duration = Duration::from_secs(1);

/// Helpers of a blitter, unless told otherwise: memory is not faster with more.
const MAX_HELPERS: usize = 3;

/// How a software GPU is made.
#[derive(Clone, Copy, Debug)]
pub struct SoftGpuConfig {
    /// Entries of the GGTT.
    pub ggtt_entries: u32,
    /// Where timestamps come from.
    pub clock: ClockKind,
    /// Threads that help the blitter with large blits. Without any, nothing that a blit draws depends on time; with some, what it
    /// draws through two addresses that lead to one frame may.
    pub helpers: usize,
}

impl Default for SoftGpuConfig {
    /// 4 GiB of graphics memory, timestamps of the wall clock, a helper for each processor but two, at most three: one is the
    /// blitter's own, and one is left to those who give it work.
    fn default() -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let helpers = processors.saturating_sub(2).min(MAX_HELPERS);
        Self { ggtt_entries: GGTT_ENTRIES, clock: ClockKind::default(), helpers }
    }
}

struct Shared {
    dev: Device,
    ggtt: Arc<Ggtt>,
    cores: [Mutex<Core>; 4],
    shutdown: AtomicBool,
}

impl Shared {
    fn core(&self, engine: Engine) -> &Mutex<Core> {
        &self.cores[engine.index()]
    }

    /// An engine's thread.
    fn run(&self, engine: Engine) {
        narrow(ThreadKind::Engine);
        let mut patience = Patience::default();
        let mut core = self.core(engine).lock();
        while !self.shutdown.load(Ordering::Acquire) {
            let step = core.step(&self.dev);
            let irqs = core.take_irqs();
            if !irqs.is_empty() {
                MutexGuard::unlocked(&mut core, || self.dev.deliver(&irqs));
            }
            match step {
                Step::Worked => MutexGuard::bump(&mut core),
                Step::Idle(wait) => {
                    MutexGuard::unlocked(&mut core, || self.dev.port(engine).wait(wait, &mut patience));
                }
            }
        }
    }

    fn reset(&self, engine: Engine, deadline: Duration) -> Result<(), ResetFailed> {
        let mut core = self.core(engine).try_lock_for(deadline).ok_or(ResetFailed { engine, deadline })?;
        core.reset(&self.dev);
        Ok(())
    }

    fn flush(&self, engine: Engine) {
        self.core(engine).lock().tlb.flush();
    }
}

/// A gen8 GPU in software. Dropping it stops the engines and gives every pin back.
///
/// Blits other than XY_COLOR_BLT, XY_SRC_COPY_BLT and XY_FAST_COPY_BLT, and what a driver of an execlist GPU has no use
/// for (MI_SET_CONTEXT, MI_DISPLAY_FLIP and their like), stop the engine with an error. 3D and media commands are skipped.
pub struct SoftGpu {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl fmt::Debug for SoftGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftGpu").field("ggtt_entries", &self.ggtt_entries()).finish_non_exhaustive()
    }
}

impl SoftGpu {
    /// Makes the GPU and starts its engines. All GGTT entries are not present, interrupts are enabled. An error is
    /// the system's refusal of a thread.
    pub fn new(bus: Arc<dyn BusMaster>, config: SoftGpuConfig) -> io::Result<Self> {
        let ggtt = Arc::new(Ggtt::new(config.ggtt_entries));
        // Blits are the blitter's.
        let mut team = Team::new(config.helpers)?;
        let core = |e: Engine| {
            let team = if e == Engine::Bcs { std::mem::take(&mut team) } else { Team::default() };
            Mutex::new(Core::new(e, Tlb::new(Arc::clone(&bus), Arc::clone(&ggtt)), team))
        };
        let shared = Arc::new(Shared {
            dev: Device::new(config.clock),
            cores: Engine::ALL.map(core),
            ggtt,
            shutdown: AtomicBool::new(false),
        });
        let mut this = Self { shared, threads: Vec::new() };
        for e in Engine::ALL {
            let shared = Arc::clone(&this.shared);
            let name = format!("gpu-{}", e.name().to_lowercase());
            // If this fails, dropping `this` ends those that have started.
            this.threads.push(thread::Builder::new().name(name).spawn(move || shared.run(e))?);
        }
        Ok(this)
    }

    fn write_engine(&self, e: Engine, rel: u32, offset: u32, value: u32) {
        let s = &self.shared;
        match rel {
            reg::RING_ELSP => s.dev.port(e).elsp(value),
            reg::RING_MI_MODE => {
                s.dev.regs.write(offset, value);
                s.dev.port(e).kick();
            }
            reg::RING_RESET_CTL => {
                s.dev.regs.write(offset, value);
                // The engine stops between any two steps, so it is ready as soon as it is asked.
                let bank = s.dev.regs.engine(e);
                let asked = bank.get(rel) & RESET_CTL_REQUEST_RESET != 0;
                bank.set(rel, if asked { RESET_CTL_REQUEST_RESET | RESET_CTL_READY_TO_RESET } else { 0 });
            }
            _ => s.dev.regs.write(offset, value),
        }
    }

    fn read_engine(&self, e: Engine, rel: u32, stored: u32) -> u32 {
        let dev = &self.shared.dev;
        match rel {
            reg::RING_MI_MODE if stored & STOP_RING != 0 || dev.port(e).is_idle() => stored | MODE_IDLE,
            reg::RING_TIMESTAMP | reg::RING_TIMESTAMP_UDW => dev.timestamp(rel == reg::RING_TIMESTAMP_UDW),
            _ => stored,
        }
    }
}

impl PhysicalGpu for SoftGpu {
    fn read32(&self, offset: u32) -> u32 {
        let regs = &self.shared.dev.regs;
        let Some(stored) = regs.read(offset) else { return u32::MAX };
        if let Some((e, rel)) = Engine::of_mmio(offset) {
            return self.read_engine(e, rel & !3, stored);
        }
        match offset & !3 {
            irq::GEN8_MASTER_IRQ => stored & MASTER_IRQ_CONTROL | regs.pending(),
            gt::FORCEWAKE_ACK_HSW => regs.gt.get(gt::FORCEWAKE_MT),
            _ => stored,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let offset = offset & !3;
        if let Some((e, rel)) = Engine::of_mmio(offset) {
            return self.write_engine(e, rel, offset, value);
        }
        let s = &self.shared;
        match offset {
            gt::GDRST => {
                for e in Engine::ALL {
                    if value & (GRDOM_FULL | e.reset_bit()) != 0
                        && let Err(error) = s.reset(e, RESET_DEADLINE)
                    {
                        log::error!("GDRST: {error}");
                    }
                }
            }
            gt::GFX_FLSH_CNTL_GEN6 if value & GFX_FLSH_CNTL_EN != 0 => self.ggtt_flush(),
            gt::GEN8_RTCR | gt::GEN8_M1TCR | gt::GEN8_BTCR | gt::GEN8_VTCR if value & 1 != 0 => {
                Engine::ALL.into_iter().filter(|e| e.tlb_reg() == offset).for_each(|e| s.flush(e));
            }
            _ => s.dev.regs.write(offset, value),
        }
    }

    fn ggtt_entries(&self) -> u32 {
        self.shared.ggtt.len()
    }

    fn ggtt_write(&self, index: u32, bfn: Option<Bfn>) {
        self.shared.ggtt.write(index, bfn);
    }

    fn ggtt_read(&self, index: u32) -> Option<Bfn> {
        self.shared.ggtt.read(index.into()).and_then(Pte::bfn)
    }

    fn ggtt_flush(&self) {
        // A step that began before the lock is taken is over, with its accesses; one that begins after it finds no
        // entry and reads the table, whose older writes the lock makes visible.
        Engine::ALL.into_iter().for_each(|e| self.shared.flush(e));
    }

    fn submit(&self, engine: Engine, first: u64, second: Option<u64>) {
        self.shared.dev.port(engine).submit([Some(Descriptor(first)), second.map(Descriptor)]);
    }

    fn take_csb(&self, engine: Engine) -> Vec<CsbEntry> {
        self.shared.dev.port(engine).take_csb()
    }

    fn is_idle(&self, engine: Engine) -> bool {
        self.shared.dev.port(engine).is_idle()
    }

    fn reset_engine(&self, engine: Engine, deadline: Duration) -> Result<(), ResetFailed> {
        self.shared.reset(engine, deadline)
    }

    fn has_fast_copy(&self) -> bool {
        true
    }

    fn set_interrupt_sink(&self, sink: Arc<dyn InterruptSink>) {
        *self.shared.dev.sink.write() = Some(sink);
    }
}

impl Drop for SoftGpu {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::Release);
        for e in Engine::ALL {
            self.shared.dev.port(e).shutdown();
        }
        for t in self.threads.drain(..) {
            // An interrupt sink may hold the last reference: its thread ends by itself.
            if t.thread().id() != thread::current().id() && t.join().is_err() {
                log::error!("an engine's thread had panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests;
