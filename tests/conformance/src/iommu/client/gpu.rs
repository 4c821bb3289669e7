//! The software GPU behind the soft IOMMU: one blitter context whose image and ring are own pages of the client.
//!
//! Graphics page [`TARGET`]` + n` is where rows put the n-th bus frame. A translation stays in the GPU's cache, and so
//! its page pinned, from the first access to the next [`flush`](DeviceFlush::flush), as in a GPU of silicon.
#![expect(unsafe_code, reason = "atomics in pages that the GPU reads and writes")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mediated_gpu::gen8::blt::{Depth, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XySrcCopyBlt};
use mediated_gpu::gen8::cmd;
use mediated_gpu::gen8::context::{Descriptor, state};
use mediated_gpu::gen8::regs::RING_VALID;
use mediated_gpu::physical::{Engine, Interrupt, InterruptSink, PhysicalGpu};
use mediated_gpu::soft::{ClockKind, SoftGpu, SoftGpuConfig};
use parking_lot::{Condvar, Mutex};
use pviommu::{Client, DeviceFlush, OwnError, OwnPages, ProcessMemory};
use xen_ioreq::{Bfn, PAGE_SIZE};

use crate::story::Failed;

/// Graphics page of the first own page. Page 0 stays unmapped.
const OWN: u32 = 1;
/// Own pages: two of the context image, the ring, and one that the GPU draws to.
const OWN_PAGES: usize = 4;
const STATE: usize = 1;
const RING: usize = 2;
/// The own page that rows read what the GPU has drawn from.
const SKETCH: usize = 3;
/// First graphics page of the bus frames that rows put there.
pub(super) const TARGET: u32 = 16;
/// How many there may be.
pub(super) const TARGETS: u32 = 1024;
/// Dwords of a page.
const DWORDS: usize = PAGE_SIZE / 4;
/// Bytes of a line: a page is one.
const PITCH: i16 = 4096;

/// The engine met something that it could not execute: for a row, a bus frame with no page behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the GPU stopped at an access that leads nowhere")]
pub(super) struct Stopped;

#[derive(Default)]
struct Events {
    stopped: Mutex<bool>,
    news: Condvar,
}

impl InterruptSink for Events {
    fn interrupt(&self, irq: Interrupt) {
        let mut stopped = self.stopped.lock();
        *stopped |= irq == Interrupt::Error(Engine::Bcs);
        self.news.notify_all();
    }
}

/// See the head of the module.
pub(super) struct Gpu {
    gpu: SoftGpu,
    own: OwnPages,
    events: Arc<Events>,
    tail: usize,
}

impl Gpu {
    /// A GPU that reaches what `client` maps.
    pub(super) fn new(client: &Client) -> Result<Self, Failed> {
        let bus = client.soft().ok_or("the client has no soft IOMMU here")?.clone();
        let config = SoftGpuConfig { ggtt_entries: TARGET + TARGETS, clock: ClockKind::Counted, helpers: 0 };
        let gpu = SoftGpu::new(bus, config)?;
        let events = Arc::new(Events::default());
        gpu.set_interrupt_sink(events.clone());
        let own = client.own(OWN_PAGES, &ProcessMemory)?;
        for (entry, page) in (OWN..).zip(0..OWN_PAGES) {
            gpu.ggtt_write(entry, own.bfn(page));
        }
        let this = Self { gpu, own, events, tail: 0 };
        this.put(STATE, state::RING_START, address(OWN + 2));
        // One page long: the field counts pages less one.
        this.put(STATE, state::RING_CTL, RING_VALID);
        Ok(this)
    }

    /// A dword of an own page. The GPU reads and writes there at any time.
    fn dword(&self, page: usize, index: usize) -> Option<&AtomicU32> {
        let base = self.own.ptr(page).filter(|_| index < DWORDS)?;
        // SAFETY: an own page is 4096 bytes, aligned, and lives as long as `self`; the index is within it.
        Some(unsafe { AtomicU32::from_ptr(base.as_ptr().cast::<u32>().add(index)) })
    }

    fn put(&self, page: usize, index: usize, value: u32) {
        if let Some(dword) = self.dword(page, index) {
            dword.store(value.to_le(), Ordering::Release);
        }
    }

    /// Puts a bus frame, or none, at the n-th place. In force for certain after a flush.
    pub(super) fn point(&self, n: u32, bfn: Option<Bfn>) {
        self.gpu.ggtt_write(TARGET + n, bfn);
    }

    /// Has the blitter execute commands and waits until it has.
    pub(super) fn run(&mut self, commands: &[u32]) -> Result<(), Stopped> {
        let padding = commands.len() % 2;
        for dword in commands.iter().chain(&[0][..padding]) {
            self.put(RING, self.tail, *dword);
            self.tail = (self.tail + 1) % DWORDS;
        }
        let tail = u32::try_from(self.tail * 4).unwrap_or(0);
        self.put(STATE, state::RING_TAIL, tail);
        self.gpu.submit(Engine::Bcs, Descriptor::ggtt(address(OWN), 0x20).0, None);
        let mut stopped = self.events.stopped.lock();
        loop {
            if *stopped {
                return Err(Stopped);
            }
            if self.gpu.is_idle(Engine::Bcs) {
                return Ok(());
            }
            // The interrupt that ends the work comes after the engine is idle: no news is missed for ever.
            self.events.news.wait(&mut stopped);
        }
    }

    /// A store command: `value` in the dword `index` of the n-th page.
    pub(super) fn store(&mut self, n: u32, index: u32, value: u32) -> Result<(), Stopped> {
        self.run(&cmd::store_dword(target(n) + u64::from(index) * 4, value))
    }

    /// A fill of `pages` pages from the n-th on, as one surface of that many lines.
    pub(super) fn fill(&mut self, n: u32, pages: i16, value: u32) -> Result<(), Stopped> {
        self.run(&XyColorBlt::fill(target(n), PITCH, lines(pages), value).encode())
    }

    /// A copy of `pages` pages from the n-th to the m-th on.
    pub(super) fn copy(&mut self, n: u32, m: u32, pages: i16) -> Result<(), Stopped> {
        self.blit(target(n), target(m), pages)
    }

    /// What the GPU reads: copies the n-th page to an own page and gives dword `index` of that.
    pub(super) fn load(&mut self, n: u32, index: usize) -> Result<u32, Stopped> {
        self.blit(target(n), address(OWN + 3).into(), 1)?;
        Ok(self.sketch(index))
    }

    /// A dword of the own page to which [`load`](Self::load) copies.
    pub(super) fn sketch(&self, index: usize) -> u32 {
        self.dword(SKETCH, index).map_or(0, |d| u32::from_le(d.load(Ordering::Acquire)))
    }

    fn blit(&mut self, from: u64, to: u64, pages: i16) -> Result<(), Stopped> {
        let at = |base| Surface { base, pitch: PITCH, tiled: false };
        let copy = XySrcCopyBlt {
            write_alpha: true,
            write_rgb: true,
            depth: Depth::Bpp32,
            rop: ROP_SRCCOPY,
            clip: false,
            dst: at(to),
            rect: lines(pages),
            src: at(from),
            src_x: 0,
            src_y: 0,
        };
        self.run(&copy.encode())
    }

    /// Stops the GPU and gives its own pages back.
    pub(super) fn end(self, client: &Client) -> Result<(), OwnError> {
        let Self { gpu, own, .. } = self;
        (OWN..TARGET + TARGETS).for_each(|entry| gpu.ggtt_write(entry, None));
        client.release_own(own, &Flush(&gpu))
    }
}

impl DeviceFlush for Gpu {
    fn flush(&self) {
        self.gpu.ggtt_flush();
    }
}

struct Flush<'g>(&'g SoftGpu);

impl DeviceFlush for Flush<'_> {
    fn flush(&self) {
        self.0.ggtt_flush();
    }
}

/// Graphics address of a graphics page.
const fn address(page: u32) -> u32 {
    page << 12
}

fn target(n: u32) -> u64 {
    address(TARGET + n).into()
}

/// `pages` lines of 1024 pixels of 4 bytes.
const fn lines(pages: i16) -> Rect {
    Rect { x1: 0, y1: 0, x2: 1024, y2: pages }
}
