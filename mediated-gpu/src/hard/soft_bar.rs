//! The software GPU behind the registers of a device: what [`HardGpu`] writes there is what a driver would write to silicon.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use super::{HardError, HardGpu, LAST_LIMIT, Mmio, StatusPages};
use crate::gen8::cmd::split;
use crate::gen8::gtt::{GTT_OFFSET, PTE_SIZE, Pte};
use crate::gen8::regs::{MASTER_IRQ_CONTROL, engine as reg, irq};
use crate::physical::{Engine, Interrupt, InterruptSink, PhysicalGpu};

/// What goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// The device interrupts.
    Raised,
    /// Nobody listens any more.
    End,
}

/// BAR0 of a device that is a GPU of this process: registers, execlist ports, status buffers, interrupts, the table.
pub struct SoftBar {
    gpu: Arc<dyn PhysicalGpu>,
    wire: Sender<Message>,
    cut: AtomicBool,
}

impl SoftBar {
    /// A GPU that is driven through the registers of another, with a thread that takes its interrupts.
    ///
    /// # Errors
    /// As [`HardGpu::new`], and the system's refusal of a thread.
    pub fn drive(gpu: Arc<dyn PhysicalGpu>, status: StatusPages) -> Result<HardGpu, HardError> {
        let entries = gpu.ggtt_entries();
        let (wire, interrupts) = channel();
        gpu.set_interrupt_sink(Arc::new(Wire { gpu: Arc::downgrade(&gpu), wire: wire.clone() }));
        let end = wire.clone();
        let bar = Self { gpu, wire, cut: AtomicBool::new(false) };
        HardGpu::new(Arc::new(bar), 0..entries, status, |interrupt| {
            let thread = thread::Builder::new().name("gpu-irq".into()).spawn(move || {
                while interrupts.recv() == Ok(Message::Raised) {
                    interrupt();
                }
            })?;
            Ok(Listening { end, thread: Some(thread) })
        })
    }

    /// Whether the registers ask for an interrupt.
    fn asserted(&self) -> bool {
        let master = self.gpu.read32(irq::GEN8_MASTER_IRQ);
        master & MASTER_IRQ_CONTROL != 0 && master & !MASTER_IRQ_CONTROL != 0
    }

    fn interrupt(&self) {
        // Nobody listens any more when the driver has gone.
        let _ = self.wire.send(Message::Raised);
    }
}

/// The thread that takes interrupts.
struct Listening {
    end: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.end.send(Message::End);
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            log::error!("the thread of a GPU's interrupts had panicked");
        }
    }
}

/// What the GPU raises.
struct Wire {
    gpu: Weak<dyn PhysicalGpu>,
    wire: Sender<Message>,
}

impl InterruptSink for Wire {
    fn interrupt(&self, irq: Interrupt) {
        // They are in the registers, where the driver looks for them.
        if let (Interrupt::ContextSwitch(e), Some(gpu)) = (irq, self.gpu.upgrade()) {
            gpu.take_csb(e);
        }
        let _ = self.wire.send(Message::Raised);
    }
}

impl Mmio for SoftBar {
    fn read32(&self, offset: u32) -> u32 {
        match offset.checked_sub(GTT_OFFSET) {
            Some(at) => split(self.read64(GTT_OFFSET + at / PTE_SIZE * PTE_SIZE))[(at / 4 % 2) as usize],
            None => self.gpu.read32(offset),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let port = Engine::of_mmio(offset).is_some_and(|(_, rel)| rel == reg::RING_ELSP);
        if offset >= GTT_OFFSET || port && self.cut.load(Ordering::Acquire) {
            return;
        }
        self.gpu.write32(offset, value);
        // A message goes out when there is something to tell and it is let out anew.
        if offset == irq::GEN8_MASTER_IRQ && self.asserted() {
            self.interrupt();
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        let entry = offset.checked_sub(GTT_OFFSET).and_then(|at| self.gpu.ggtt_read(at / PTE_SIZE));
        entry.and_then(Pte::new).unwrap_or(Pte::ABSENT).0
    }

    fn write64(&self, offset: u32, value: u64) {
        if let Some(at) = offset.checked_sub(GTT_OFFSET) {
            self.gpu.ggtt_write(at / PTE_SIZE, Pte(value).bfn());
        }
    }

    fn cut_off(&self) {
        self.cut.store(true, Ordering::Release);
        for e in Engine::ALL {
            if let Err(error) = self.gpu.reset_engine(e, LAST_LIMIT) {
                log::error!("{error}");
            }
        }
    }
}

impl fmt::Debug for SoftBar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftBar").field("cut", &self.cut).finish_non_exhaustive()
    }
}
