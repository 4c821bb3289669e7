//! The GPU as this guest's driver holds it: found, its BARs placed, its GGTT slice filled, its display on.
//!
//! [`Gpu::bring_up`] does what a kernel's probe does; the engine is in [`crate::engine`].

use core::fmt;

use xen_ioreq::PAGE_SIZE;

use crate::layout::{Layout, Region, Slice, frame};
use crate::pci::{Bar, Function, Placer};
use crate::platform::{Platform, RamFault, Width};
use crate::regs::{self, pvinfo};
use crate::scene::{HEIGHT, PITCH, Texture, WIDTH};
use crate::words::lo32;

/// Why the driver gave up. Nothing in here is expected of a device that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverError {
    /// No 8086:1616 on bus 0.
    NoDevice,
    /// A BAR could not be placed, or did not stay where it was put. Its index.
    Bar(u8),
    /// The PVINFO page does not begin with the magic number: this.
    NoVgpu(u64),
    /// The mediator lacks a capability that the driver needs. What it has.
    Capabilities(u32),
    /// A slice of the GGTT is too small for the driver's objects.
    SliceTooSmall,
    /// The platform's RAM is too small for them. Frames needed.
    TooLittleRam(u64),
    /// RAM that should be there is not.
    Ram(RamFault),
    /// Pages that were ballooned out did not come back. How many.
    Starved(usize),
    /// The engine did not acknowledge a reset.
    ResetFailed,
    /// A frame was not finished, however often the engine was reset. The frame.
    Stuck(u32),
    /// The caller's buffer for the reference picture is too short. Pixels needed.
    ShortBuffer(usize),
    /// The scene does not fit into the batch buffer. A mistake in this crate.
    BatchTooLong,
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str("no 8086:1616 on PCI bus 0"),
            Self::Bar(i) => write!(f, "BAR{i} could not be placed"),
            Self::NoVgpu(m) => write!(f, "PVINFO magic is {m:#x}: not a vGPU"),
            Self::Capabilities(c) => write!(f, "vGPU capabilities {c:#x} lack HWSP emulation"),
            Self::SliceTooSmall => f.write_str("the GGTT slice is too small"),
            Self::TooLittleRam(n) => write!(f, "{n} frames of RAM are needed"),
            Self::Ram(e) => e.fmt(f),
            Self::Starved(n) => write!(f, "{n} ballooned pages did not come back"),
            Self::ResetFailed => f.write_str("the engine did not acknowledge a reset"),
            Self::Stuck(n) => write!(f, "frame {n} was never finished"),
            Self::ShortBuffer(n) => write!(f, "the reference needs a buffer of {n} pixels"),
            Self::BatchTooLong => f.write_str("the scene does not fit into the batch"),
        }
    }
}

impl core::error::Error for DriverError {}

impl From<RamFault> for DriverError {
    fn from(e: RamFault) -> Self {
        Self::Ram(e)
    }
}

/// What a plane that shows a framebuffer has in its registers, in the order in which they are written.
const PLANE: [(u32, u32); 3] = [
    (regs::PIPEASRC, (WIDTH as u32 - 1) << 16 | (HEIGHT as u32 - 1)),
    (regs::DSPASTRIDE, PITCH as u32),
    (regs::DSPACNTR, regs::DISPLAY_PLANE_ENABLE | regs::DISPPLANE_BGRX888),
];

/// The GPU.
#[derive(Debug)]
pub struct Gpu {
    /// Where it is on the bus.
    pub function: Function,
    /// Registers and GTT.
    pub bar0: Bar,
    /// Aperture.
    pub bar2: Bar,
    /// Where the driver's objects are.
    pub layout: Layout,
    /// Whether it interrupts; else the driver polls.
    pub msi: bool,
    pub(crate) engine: crate::engine::Engine,
}

impl Gpu {
    /// Finds the GPU, places its BARs, learns its slice, fills the GGTT and starts the engine. `clear_entries` is how
    /// many entries of the slice beyond those in use are cleared, as a stock driver does with all of them.
    pub fn bring_up(platform: &mut impl Platform, clear_entries: u64) -> Result<Self, DriverError> {
        let function = Function::find(platform).ok_or(DriverError::NoDevice)?;
        function.set_decode(platform, false);
        let mut placer = Placer::new(platform);
        // the larger one first: no gap between them
        let bar2 = placer.place(platform, function, 2).ok_or(DriverError::Bar(2))?;
        let bar0 = placer.place(platform, function, 0).ok_or(DriverError::Bar(0))?;
        let msi = platform.msi().is_some_and(|m| function.enable_msi(platform, m));
        function.set_decode(platform, true);

        let [mappable, nonmappable] = slices(platform, bar0)?;
        let layout = Layout::new(mappable, nonmappable).ok_or(DriverError::SliceTooSmall)?;
        if frame(platform, layout.pages - 1).is_none() {
            return Err(DriverError::TooLittleRam(layout.pages));
        }
        let mut gpu = Self { function, bar0, bar2, layout, msi, engine: crate::engine::Engine::new() };
        (0..layout.pages).for_each(|page| gpu.map_page(platform, page));
        gpu.clear_entries(platform, mappable, clear_entries);
        gpu.flush_gtt(platform);
        gpu.reset_engine(platform)?;
        gpu.init_engine(platform)?;
        Ok(gpu)
    }

    /// Reads a register.
    pub fn read32(&self, platform: &mut impl Platform, reg: u32) -> u32 {
        lo32(platform.mmio_read(self.bar0.base + u64::from(reg), Width::B4))
    }

    /// Writes one.
    pub fn write32(&self, platform: &mut impl Platform, reg: u32, value: u32) {
        platform.mmio_write(self.bar0.base + u64::from(reg), Width::B4, u64::from(value));
    }

    /// Writes the GGTT entry for GGTT address `gm`.
    pub fn write_pte(&self, platform: &mut impl Platform, gm: u64, entry: u64) {
        let at = regs::GTT_OFFSET + gm / PAGE_SIZE as u64 * 8;
        platform.mmio_write(self.bar0.base + at, Width::B8, entry);
    }

    /// Makes the GGTT entry of page number `page` point at its frame.
    pub fn map_page(&self, platform: &mut impl Platform, page: u64) {
        if let (Some((_, gm)), Some(gfn)) = (self.layout.page(page), frame(platform, page)) {
            self.write_pte(platform, gm, gfn.addr() | regs::GEN8_PAGE_PRESENT);
        }
    }

    /// Makes it not present.
    pub fn unmap_page(&self, platform: &mut impl Platform, page: u64) {
        if let Some((_, gm)) = self.layout.page(page) {
            self.write_pte(platform, gm, 0);
        }
    }

    /// Makes GGTT writes take effect.
    pub fn flush_gtt(&self, platform: &mut impl Platform) {
        self.write32(platform, regs::GFX_FLSH_CNTL_GEN6, regs::GFX_FLSH_CNTL_EN);
    }

    /// Uploads a texture's picture, as it is for this seed and number.
    pub fn upload(
        &self,
        platform: &mut impl Platform,
        seed: u64,
        number: u16,
        texture: Texture,
    ) -> Result<(), RamFault> {
        let region = self.layout.texture(texture);
        let mut line = [0; 4 * Texture::MAX_WIDTH as usize];
        let pitch = usize::from(texture.pitch());
        for y in 0..texture.height() {
            for (x, pixel) in (0..texture.width()).zip(line.chunks_exact_mut(4)) {
                pixel.copy_from_slice(&texture.pixel(seed, number, x, y).to_le_bytes());
            }
            region.write(platform, u64::from(y) * pitch as u64, &line[..pitch])?;
        }
        Ok(())
    }

    /// Shows a framebuffer.
    pub fn flip(&self, platform: &mut impl Platform, frame: Region) {
        self.write32(platform, regs::DSPASURF, lo32(frame.gm));
    }

    /// Turns the display on, showing `frame`.
    pub fn display_on(&self, platform: &mut impl Platform, frame: Region) {
        for (reg, value) in PLANE {
            self.write32(platform, reg, value);
        }
        self.flip(platform, frame);
        self.write32(platform, pvinfo::DISPLAY_READY, 1);
    }

    /// Whether it is on, as [`display_on`](Self::display_on) has set it up: a part of that may have been lost.
    pub fn is_display_on(&self, platform: &mut impl Platform) -> bool {
        PLANE.into_iter().all(|(reg, value)| self.read32(platform, reg) == value)
    }

    fn clear_entries(&self, platform: &mut impl Platform, slice: Slice, count: u64) {
        let page = PAGE_SIZE as u64;
        let last = self.layout.frames.last().map_or(slice.base, |r| r.gm + r.pages * page);
        let used = self
            .layout
            .textures
            .iter()
            .map(|r| r.gm + r.pages * page)
            .filter(|&end| end <= slice.base + slice.size);
        let from = used.fold(last, u64::max);
        let free = (slice.base + slice.size).saturating_sub(from) / page;
        (0..count.min(free)).for_each(|n| self.write_pte(platform, from + n * page, 0));
    }
}

/// Asks the mediator for this guest's parts of the GGTT: mappable and not.
fn slices(platform: &mut impl Platform, bar0: Bar) -> Result<[Slice; 2], DriverError> {
    let mut read = |reg: u32, width| platform.mmio_read(bar0.base + u64::from(reg), width);
    let magic = read(pvinfo::MAGIC, Width::B8);
    if magic != pvinfo::VGT_MAGIC || read(pvinfo::VERSION_MAJOR, Width::B2) != 1 {
        return Err(DriverError::NoVgpu(magic));
    }
    let caps = lo32(read(pvinfo::VGT_CAPS, Width::B4));
    if caps & pvinfo::VGT_CAPS_HWSP_EMULATION == 0 {
        return Err(DriverError::Capabilities(caps));
    }
    let mut slice = |base, size| Slice { base: read(base, Width::B4), size: read(size, Width::B4) };
    Ok([
        slice(pvinfo::MAPPABLE_BASE, pvinfo::MAPPABLE_SIZE),
        slice(pvinfo::NONMAPPABLE_BASE, pvinfo::NONMAPPABLE_SIZE),
    ])
}
