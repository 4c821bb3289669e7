//! The two sides: a guest whose every access to its vGPU is trapped, and a process that has a GPU of the same kind to itself.

use std::sync::Arc;

use guest::layout::frame;
use guest::model::ModelCpu;
use guest::regs::{GEN8_GT_IIR0, GEN8_MASTER_IRQ, GEN8_MASTER_IRQ_CONTROL, GEN8_PAGE_PRESENT};
use guest::{Gpu, Platform};
use integration::world::Native;
use mediated_gpu::physical::{Interrupt, InterruptSink, PhysicalGpu};
use parking_lot::{Condvar, Mutex};
use xen_ioreq::{Gfn, PAGE_SIZE};

use super::driver::Device;

/// Moments for which an interrupt is waited for: far more than anything takes.
const PATIENCE: u32 = 5_000;

/// A guest of the model's.
pub(super) struct Mediated {
    cpu: ModelCpu,
    gpu: Gpu,
    base: u64,
    frames: Vec<Gfn>,
}

impl Mediated {
    /// Takes so many pages of the guest's RAM behind the driver's own, and maps them from this graphics address on.
    pub(super) fn new(mut cpu: ModelCpu, base: u64, pages: usize) -> Result<Self, String> {
        let gpu = Gpu::bring_up(&mut cpu, 0).map_err(|e| e.to_string())?;
        let first = gpu.layout.pages;
        let frames: Vec<_> = (first..first + pages as u64).filter_map(|page| frame(&cpu, page)).collect();
        if frames.len() != pages {
            return Err("the guest has too little RAM".into());
        }
        for (n, gfn) in (0u64..).zip(&frames) {
            gpu.write_pte(&mut cpu, base + n * PAGE_SIZE as u64, gfn.addr() | GEN8_PAGE_PRESENT);
        }
        gpu.flush_gtt(&mut cpu);
        Ok(Self { cpu, gpu, base, frames })
    }
}

impl Device for Mediated {
    fn base(&self) -> u64 {
        self.base
    }

    fn address(&self, page: usize) -> u64 {
        self.frames[page].addr()
    }

    fn write(&mut self, page: usize, offset: usize, bytes: &[u8]) {
        let at = self.address(page) + offset as u64;
        self.cpu.ram_write(at, bytes).expect("a page of the guest's");
    }

    fn read(&mut self, page: usize, offset: usize, bytes: &mut [u8]) {
        let at = self.address(page) + offset as u64;
        self.cpu.ram_read(at, bytes).expect("a page of the guest's");
    }

    fn write_register(&mut self, register: u32, value: u32) {
        self.gpu.write32(&mut self.cpu, register, value);
    }

    fn wait(&mut self) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if self.cpu.take_interrupts() > 0 {
                let Self { cpu, gpu, .. } = self;
                gpu.write32(cpu, GEN8_MASTER_IRQ, 0);
                let identity = gpu.read32(cpu, GEN8_GT_IIR0);
                gpu.write32(cpu, GEN8_GT_IIR0, identity);
                gpu.write32(cpu, GEN8_MASTER_IRQ, GEN8_MASTER_IRQ_CONTROL);
                return Ok(());
            }
            self.cpu.wait();
        }
        Err("the vGPU does not interrupt".into())
    }
}

/// What a GPU's interrupts have told, and what of it has been served.
#[derive(Default)]
struct News {
    told: Mutex<(u64, bool)>,
    more: Condvar,
}

impl InterruptSink for News {
    fn interrupt(&self, irq: Interrupt) {
        let mut told = self.told.lock();
        told.0 += 1;
        told.1 |= matches!(irq, Interrupt::Error(_));
        self.more.notify_all();
    }
}

/// A process of dom0's with a GPU.
pub(super) struct Alone {
    native: Native,
    news: Arc<News>,
    served: u64,
}

impl Alone {
    /// Maps all its pages, from graphics address 1 MiB on.
    pub(super) fn new(native: Native) -> Self {
        let news = Arc::new(News::default());
        native.gpu.set_interrupt_sink(news.clone());
        let first = u32::try_from(Self::BASE / PAGE_SIZE as u64).unwrap_or(0);
        for (index, page) in (first..).zip(0..native.pages()) {
            native.gpu.ggtt_write(index, Some(native.bfn(page)));
        }
        native.gpu.ggtt_flush();
        Self { native, news, served: 0 }
    }

    const BASE: u64 = 1 << 20;

    /// Gives everything back.
    pub(super) fn end(self) {
        self.native.end();
    }
}

impl Device for Alone {
    fn base(&self) -> u64 {
        Self::BASE
    }

    fn address(&self, page: usize) -> u64 {
        self.native.bfn(page).0 * PAGE_SIZE as u64
    }

    fn write(&mut self, page: usize, offset: usize, bytes: &[u8]) {
        self.native.write(page, offset, bytes);
    }

    fn read(&mut self, page: usize, offset: usize, bytes: &mut [u8]) {
        self.native.read(page, offset, bytes);
    }

    fn write_register(&mut self, register: u32, value: u32) {
        self.native.gpu.write32(register, value);
    }

    fn wait(&mut self) -> Result<(), String> {
        let mut told = self.news.told.lock();
        while told.0 == self.served {
            self.news.more.wait(&mut told);
        }
        self.served = told.0;
        if told.1 { Err("the GPU has stopped".into()) } else { Ok(()) }
    }
}
