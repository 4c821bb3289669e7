//! What the GPU's registers are told, and what they answer.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use xen_ioreq::Bfn;

use super::port::Port;
use super::{HardError, LAST_LIMIT, LEAST_ENTRIES, Mmio, RESET_LIMIT, StatusPages, TLB_LIMIT, WAKE_LIMIT};
use crate::gen8::cmd::split;
use crate::gen8::gtt::{GGTT_ENTRIES, GTT_OFFSET, PTE_SIZE, Pte};
use crate::gen8::regs::{
    BDW_PPAT, FORCEWAKE_KERNEL, GFX_FLSH_CNTL_EN, GRDOM_FULL, gt, masked_disable, masked_enable,
};
use crate::physical::{CsbEntry, Engine, Interrupt, InterruptSink, PhysicalGpu, ResetFailed};

/// How long an engine's state is in flux after a reset.
const SETTLE: Duration = Duration::from_micros(50);
/// How long something is looked at without a sleep.
const SPIN: Duration = Duration::from_micros(50);

/// A GPU of gen8, as its driver and its interrupts share it. Dropping it ends its DMA.
pub(super) struct Core {
    mmio: Arc<dyn Mmio>,
    /// Entries that are the mediator's. The status pages have those behind.
    table: Range<u32>,
    ports: [Mutex<Port>; 4],
    sink: RwLock<Option<Arc<dyn InterruptSink>>>,
    /// One flush, and one reset of the GT, at a time. Taken before a port, never after.
    whole: Mutex<()>,
    /// No bus master any more.
    dead: AtomicBool,
    _status: StatusPages,
}

impl Core {
    /// As [`HardGpu::new`](super::HardGpu::new).
    pub(super) fn new(
        mmio: Arc<dyn Mmio>,
        table: Range<u32>,
        status: StatusPages,
    ) -> Result<Self, HardError> {
        if table.len() < LEAST_ENTRIES || table.end > GGTT_ENTRIES {
            return Err(HardError::Table(table.start, table.end));
        }
        let own = u32::try_from(Engine::ALL.len()).unwrap_or(0);
        let gpu = Self {
            mmio,
            table: table.start..table.end.saturating_sub(own),
            ports: Engine::ALL.map(|_| Mutex::default()),
            sink: RwLock::new(None),
            whole: Mutex::new(()),
            dead: AtomicBool::new(false),
            _status: status,
        };
        gpu.wake()?;
        gpu.mask_interrupts();
        if !gpu.reset_domain(GRDOM_FULL, RESET_LIMIT) {
            return Err(HardError::NoReset);
        }
        // A reset lets the GT sleep again.
        gpu.wake()?;
        for index in gpu.table.clone() {
            gpu.set_entry(index, Pte::ABSENT);
        }
        for (e, bfn) in Engine::ALL.into_iter().zip(gpu._status.bfns()) {
            gpu.set_entry(gpu.status_entry(e), Pte::new(bfn).unwrap_or(Pte::ABSENT));
        }
        let [low, high] = split(u64::from_le_bytes(BDW_PPAT));
        gpu.write(gt::GEN8_PRIVATE_PAT_LO, low);
        gpu.write(gt::GEN8_PRIVATE_PAT_HI, high);
        gpu.ggtt_flush();
        for e in Engine::ALL {
            gpu.enable(e, &mut gpu.port(e).lock());
        }
        gpu.enable_interrupts();
        Ok(gpu)
    }

    pub(super) fn read(&self, offset: u32) -> u32 {
        self.mmio.read32(offset)
    }

    pub(super) fn write(&self, offset: u32, value: u32) {
        self.mmio.write32(offset, value);
    }

    pub(super) fn port(&self, e: Engine) -> &Mutex<Port> {
        let [rcs, bcs, vcs, vecs] = &self.ports;
        match e {
            Engine::Rcs => rcs,
            Engine::Bcs => bcs,
            Engine::Vcs => vcs,
            Engine::Vecs => vecs,
        }
    }

    /// Keeps the GT awake from here on. Asleep it answers with zeros and forgets what it is told.
    fn wake(&self) -> Result<(), HardError> {
        let ack = || self.read(gt::FORCEWAKE_ACK_HSW);
        // Whoever has had the GPU before does not want it any more.
        self.write(gt::FORCEWAKE_MT, masked_disable(u16::MAX));
        wait(WAKE_LIMIT, || ack() & u32::from(FORCEWAKE_KERNEL) == 0);
        self.write(gt::FORCEWAKE_MT, masked_enable(FORCEWAKE_KERNEL));
        let awake = wait(WAKE_LIMIT, || ack() & u32::from(FORCEWAKE_KERNEL) != 0);
        if awake { Ok(()) } else { Err(HardError::Asleep(ack())) }
    }

    /// Resets what a bit of GDRST stands for. Twice, since an engine's state is in flux for a moment when the first says that it is
    /// done; and that moment is waited for (i915 `gen6_hw_domain_reset`).
    pub(super) fn reset_domain(&self, bit: u32, limit: Duration) -> bool {
        let done = (0..2).all(|_| {
            self.write(gt::GDRST, bit);
            wait(limit, || self.read(gt::GDRST) & bit == 0)
        });
        thread::sleep(SETTLE);
        done
    }

    /// Where an engine's status page is in the table.
    pub(super) fn status_entry(&self, e: Engine) -> u32 {
        self.table.end.saturating_add(u32::try_from(e.index()).unwrap_or(0))
    }

    fn set_entry(&self, index: u32, pte: Pte) {
        self.mmio.write64(GTT_OFFSET + index * PTE_SIZE, pte.0);
    }

    /// Tells the sink, which takes no lock that is held while calling us.
    pub(super) fn tell(&self, irq: Interrupt) {
        let sink = self.sink.read().clone();
        if let Some(sink) = sink {
            sink.interrupt(irq);
        }
    }

    /// Has an engine forget its translations. `false`: it does not.
    fn forget(&self, e: Engine) -> bool {
        self.write(e.tlb_reg(), 1);
        wait(TLB_LIMIT, || self.read(e.tlb_reg()) & 1 == 0)
    }

    /// An engine that does not let go of its translations: stopped by the mildest means that helps. Its owner is told; so are the
    /// others' if theirs are stopped with it.
    fn force(&self, e: Engine) {
        let gone = |e| matches!(self.reset(e, RESET_LIMIT), Ok(())) && self.forget(e);
        if gone(e) {
            log::error!("{} did not let go of its translations and was reset", e.name());
            return self.tell(Interrupt::Error(e));
        }
        log::error!("{} lets go of nothing: all engines are reset", e.name());
        if !self.reset_all() {
            self.cut_off();
        }
        Engine::ALL.into_iter().for_each(|e| self.tell(Interrupt::Error(e)));
    }

    /// Resets the whole GT. `false`: it does not come back, or does not forget.
    fn reset_all(&self) -> bool {
        let mut ports = Engine::ALL.map(|e| self.port(e).lock());
        if !self.reset_domain(GRDOM_FULL, RESET_LIMIT) || self.wake().is_err() {
            return false;
        }
        for (e, port) in Engine::ALL.into_iter().zip(&mut ports) {
            port.reset();
            self.enable(e, port);
        }
        drop(ports);
        self.enable_interrupts();
        Engine::ALL.into_iter().all(|e| self.forget(e))
    }

    fn cut_off(&self) {
        if !self.dead.swap(true, Ordering::AcqRel) {
            log::error!("the GPU does not come back: it is no bus master any more, and of no use");
            self.mmio.cut_off();
        }
    }
}

impl PhysicalGpu for Core {
    fn read32(&self, offset: u32) -> u32 {
        if offset < GTT_OFFSET { self.read(offset & !3) } else { u32::MAX }
    }

    fn write32(&self, offset: u32, value: u32) {
        if offset < GTT_OFFSET {
            self.write(offset & !3, value);
        }
    }

    fn ggtt_entries(&self) -> u32 {
        self.table.end
    }

    fn ggtt_write(&self, index: u32, bfn: Option<Bfn>) {
        if self.table.contains(&index) {
            self.set_entry(index, bfn.and_then(Pte::new).unwrap_or(Pte::ABSENT));
        }
    }

    fn ggtt_read(&self, index: u32) -> Option<Bfn> {
        if !self.table.contains(&index) {
            return None;
        }
        Pte(self.mmio.read64(GTT_OFFSET + index * PTE_SIZE)).bfn()
    }

    fn ggtt_flush(&self) {
        let _one = self.whole.lock();
        if self.dead.load(Ordering::Acquire) {
            return;
        }
        // A write to the device, behind those of entries: when it can be read back, they are there.
        self.write(gt::GFX_FLSH_CNTL_GEN6, GFX_FLSH_CNTL_EN);
        self.read(gt::GFX_FLSH_CNTL_GEN6);
        for e in Engine::ALL {
            if !self.forget(e) {
                self.force(e);
            }
        }
    }

    fn submit(&self, engine: Engine, first: u64, second: Option<u64>) {
        if self.dead.load(Ordering::Acquire) {
            return self.tell(Interrupt::Error(engine));
        }
        let mut port = self.port(engine).lock();
        port.submit([first, second.unwrap_or(0)]);
        self.go_on(engine, &mut port);
    }

    fn take_csb(&self, engine: Engine) -> Vec<CsbEntry> {
        let mut port = self.port(engine).lock();
        self.go_on(engine, &mut port);
        port.take()
    }

    fn is_idle(&self, engine: Engine) -> bool {
        let mut port = self.port(engine).lock();
        self.go_on(engine, &mut port);
        port.is_idle()
    }

    fn reset_engine(&self, engine: Engine, deadline: Duration) -> Result<(), ResetFailed> {
        let failed = ResetFailed { engine, deadline };
        let end = Instant::now() + deadline;
        let _one = self.whole.try_lock_for(deadline).ok_or(failed)?;
        if self.dead.load(Ordering::Acquire) {
            return Err(failed);
        }
        let left = end.saturating_duration_since(Instant::now());
        self.reset(engine, left).map_err(|_| failed)?;
        if self.forget(engine) { Ok(()) } else { Err(failed) }
    }

    fn set_interrupt_sink(&self, sink: Arc<dyn InterruptSink>) {
        *self.sink.write() = Some(sink);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.mask_interrupts();
        for e in Engine::ALL {
            if let Err(error) = self.reset(e, LAST_LIMIT) {
                log::warn!("{error}");
            }
        }
        // The status pages are somebody else's memory afterwards.
        if !self.dead.load(Ordering::Acquire) {
            self.mmio.cut_off();
        }
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("table", &self.table).field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// Waits until something is so, for at most `limit`.
pub(super) fn wait(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        // Looked at once more after the time is up: this thread may not have run.
        let late = start.elapsed() >= limit;
        if so() {
            return true;
        }
        if late {
            return false;
        }
        // Most of what is waited for takes some microseconds, which no sleep is so short as.
        if start.elapsed() < SPIN {
            std::hint::spin_loop();
        } else {
            thread::sleep(SPIN);
        }
    }
}
