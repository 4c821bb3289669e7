//! The run: frames drawn while pages of theirs are ballooned out and in again.
//!
//! A frame whose pages went away is repaired and drawn again until it is whole, then compared with the reference and
//! shown. The run ends with the picture of [`scene::FINAL`], drawn undisturbed, however many frames came before.

mod away;

use xen_ioreq::Gfn;

pub use self::away::{Step, run_away};
use crate::cmd;
use crate::gpu::{DriverError, Gpu};
use crate::layout::{BATCH_PAGES, FIRST_FRAME_PAGE, FRAMES, Purpose, Region, frame};
use crate::platform::Platform;
use crate::rng::Rng;
use crate::scene::{self, Blit, FINAL, PITCH, PIXELS, Source, Texture, WIDTH};

/// Most pages that one frame balloons.
pub const MAX_BALLOON: usize = 64;
/// How often an undisturbed drawing is tried again after a reset.
const ATTEMPTS: u32 = 10;
/// How often a refused `populate_physmap` is tried again: a frame that the device model still holds counts against the
/// domain's limit until it lets go. Far longer than any deadline of the device model on a host that starves it: in
/// moments of 2 ms, more than a minute and a half.
const POPULATE_TRIES: u32 = 50_000;

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Decides the pictures and what is ballooned.
    pub seed: u64,
    /// Number to draw; the domain's own where `None`.
    pub number: Option<u16>,
    /// Frames to draw, the final one included (there is always that one); until the platform says stop where `None`.
    pub frames: Option<u32>,
    /// Pages ballooned out and in during each frame, at most [`MAX_BALLOON`].
    pub balloon: usize,
    /// Every how many frames the pixels are compared with the reference; 0: only those of the last.
    pub check_every: u32,
    /// Moments waited for a frame before the engine is reset, see [`Platform::wait`].
    pub patience: u32,
    /// Entries of the slice to clear at the start beyond those in use.
    pub clear_entries: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 1,
            number: None,
            frames: Some(10),
            balloon: 8,
            check_every: 1,
            patience: 400,
            clear_entries: 64,
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames finished and shown, the last included.
    pub frames_drawn: u32,
    /// Of these, how many had lost pages and were repaired and drawn again.
    pub damaged_redrawn: u32,
    /// Engine resets, that of the start not counted.
    pub resets: u32,
    /// Pages given to the hypervisor.
    pub ballooned_out: u64,
    /// Pages taken back.
    pub ballooned_in: u64,
    /// Times that the hypervisor had no page for us and was asked again.
    pub starved: u32,
    /// Frames compared with the reference.
    pub checks: u32,
    /// Of these, how many differed.
    pub checks_failed: u32,
    /// User interrupts taken.
    pub interrupts: u64,
    /// Digest of the last picture as read from memory, see [`scene::digest`]; 0 until there is one.
    pub picture: u64,
}

/// Draws until the configured number of frames is reached or the platform wants an end, then the final picture.
/// `buffer` takes reference pictures: at least [`PIXELS`] long.
pub fn run<P: Platform>(
    platform: &mut P,
    config: &Config,
    buffer: &mut [u32],
) -> Result<Report, DriverError> {
    Drawn::new(platform, config, buffer).map(|drawn| drawn.report)
}

/// After a [`run`]: gives the first `pages` pages of a framebuffer to the hypervisor and leaves the GGTT entries that lead
/// to them as they are, as careless drivers do. How many were taken.
pub fn give_back(platform: &mut impl Platform, pages: usize) -> usize {
    let mut gfns = [Gfn(0); MAX_BALLOON];
    let mut count = 0;
    for (page, slot) in (FIRST_FRAME_PAGE..).zip(gfns.iter_mut().take(pages)) {
        let Some(gfn) = frame(platform, page) else { break };
        *slot = gfn;
        count += 1;
    }
    platform.decrease_reservation(&gfns[..count])
}

/// A run that has come to its final picture.
struct Drawn<'a, P> {
    platform: &'a mut P,
    gpu: Gpu,
    config: &'a Config,
    number: u16,
    buffer: &'a mut [u32],
    rng: Rng,
    report: Report,
    /// Framebuffer that is not shown.
    back: usize,
}

impl<'a, P: Platform> Drawn<'a, P> {
    fn new(platform: &'a mut P, config: &'a Config, buffer: &'a mut [u32]) -> Result<Self, DriverError> {
        let buffer = buffer.get_mut(..PIXELS).ok_or(DriverError::ShortBuffer(PIXELS))?;
        let number = config.number.unwrap_or(platform.domid().0);
        let gpu = Gpu::bring_up(platform, config.clear_entries)?;
        for texture in Texture::ALL {
            gpu.upload(platform, config.seed, number, texture)?;
        }
        gpu.display_on(platform, gpu.layout.frames[0]);
        let rng = Rng::new(config.seed ^ u64::from(platform.domid().0) << 32, 0xba11);
        let mut run = Self { platform, gpu, config, number, buffer, rng, report: Report::default(), back: 1 };
        let mut n = 0;
        while config.frames.is_none_or(|frames| n + 1 < frames) && !run.platform.stop_requested() {
            n += 1;
            let check = config.check_every > 0 && n % config.check_every == 0;
            run.frame(n, config.balloon.min(MAX_BALLOON), check)?;
        }
        run.frame(FINAL, 0, true)?;
        Ok(run)
    }

    /// Draws one frame whole and shows it.
    fn frame(&mut self, n: u32, balloon: usize, check: bool) -> Result<(), DriverError> {
        let target = self.gpu.layout.frames[self.back];
        self.write_batch(n, target)?;
        if balloon > 0 {
            self.disturbed(n, target, balloon)?;
        }
        self.draw(n)?;
        if check {
            self.check(n, target)?;
        }
        self.gpu.flip(self.platform, target);
        self.back = (self.back + 1) % FRAMES;
        self.report.frames_drawn += 1;
        self.report.interrupts = self.gpu.engine.interrupts;
        self.platform.progress(&self.report);
        Ok(())
    }

    /// Submits and waits; after a reset once more.
    fn draw(&mut self, n: u32) -> Result<(), DriverError> {
        for _ in 0..ATTEMPTS {
            self.gpu.submit(self.platform)?;
            if self.gpu.wait(self.platform, self.config.patience)? {
                return Ok(());
            }
            self.reset()?;
        }
        Err(DriverError::Stuck(n))
    }

    fn reset(&mut self) -> Result<(), DriverError> {
        self.report.resets += 1;
        self.gpu.reset_engine(self.platform)?;
        self.gpu.init_engine(self.platform)?;
        // The whole device may have been reset: then its display is off, too. Looked at last: where the device has been
        // replaced by then, its engine is not set up, and the next drawing ends in a reset that finds it.
        if !self.gpu.is_display_on(self.platform) {
            let shown = self.gpu.layout.frames[(self.back + FRAMES - 1) % FRAMES];
            self.gpu.display_on(self.platform, shown);
        }
        Ok(())
    }

    /// Draws while pages go away under the GPU, then repairs what was lost.
    fn disturbed(&mut self, n: u32, target: Region, balloon: usize) -> Result<(), DriverError> {
        self.gpu.submit(self.platform)?;
        if self.rng.one_in(3) {
            // now and then it has got somewhere before the pages go
            let _begun = self.gpu.wait(self.platform, 1)?;
        }
        let mut victims = [0; MAX_BALLOON];
        let victims = self.choose(&mut victims, balloon);
        // a polite driver clears the entries first; many do not
        let polite = self.rng.one_in(4);
        if polite {
            victims.iter().for_each(|&page| self.gpu.unmap_page(self.platform, page));
            self.gpu.flush_gtt(self.platform);
        }
        let gone = self.balloon_out(victims);
        for _ in 0..self.rng.below(3) {
            self.platform.wait();
        }
        let lost = victims.get(..gone).unwrap_or(victims);
        self.balloon_in(lost)?;
        for &page in if polite { victims } else { lost } {
            self.gpu.map_page(self.platform, page);
        }
        self.gpu.flush_gtt(self.platform);
        self.repair(n, target, lost)
    }

    /// Waits until the engine is done with the disturbed drawing, then renews the content of the lost pages.
    fn repair(&mut self, n: u32, target: Region, lost: &[u64]) -> Result<(), DriverError> {
        let purposes = lost.iter().filter_map(|&page| self.gpu.layout.page(page)).map(|(purpose, _)| purpose);
        let (mut engine, mut batch, mut textures) = (false, false, [false; Texture::ALL.len()]);
        for purpose in purposes {
            match purpose {
                Purpose::Engine => engine = true,
                Purpose::Batch => batch = true,
                Purpose::Texture(t) => textures[t as usize] = true,
                // drawn again anyway
                Purpose::Frame(_) => {}
            }
        }
        // a completion whose status page, ring or batch is gone may never be seen
        let patience = if engine || batch { self.config.patience.min(8) } else { self.config.patience };
        if !self.gpu.wait(self.platform, patience)? {
            self.reset()?;
        } else if engine {
            self.gpu.init_engine(self.platform)?;
        }
        if batch {
            self.write_batch(n, target)?;
        }
        for texture in Texture::ALL.into_iter().filter(|&t| textures[t as usize]) {
            self.gpu.upload(self.platform, self.config.seed, self.number, texture)?;
        }
        self.report.damaged_redrawn += u32::from(!lost.is_empty());
        Ok(())
    }

    /// Page numbers, all different: mostly of framebuffers, some of textures, now and then of what the engine lives on.
    fn choose<'v>(&mut self, victims: &'v mut [u64; MAX_BALLOON], want: usize) -> &'v [u64] {
        let layout = self.gpu.layout;
        let mut count = 0;
        for _ in 0..want.min(MAX_BALLOON) {
            let region = match self.rng.below(100) {
                0..=2 => layout.ring,
                3..=4 => layout.context,
                5..=6 => layout.hwsp,
                7..=11 => layout.batch,
                12..=29 => layout.textures[self.rng.below(4) as usize % layout.textures.len()],
                _ => layout.frames[self.rng.below(2) as usize % FRAMES],
            };
            let page = region.first + u64::from(self.rng.below(u32::try_from(region.pages).unwrap_or(1)));
            if !victims[..count].contains(&page) {
                victims[count] = page;
                count += 1;
            }
        }
        &victims[..count]
    }

    /// Gives pages away; how many went, from the first on.
    fn balloon_out(&mut self, pages: &[u64]) -> usize {
        let mut gfns = [Gfn(0); MAX_BALLOON];
        let list = self.frames(pages, &mut gfns);
        let gone = self.platform.decrease_reservation(list).min(list.len());
        self.report.ballooned_out += gone as u64;
        gone
    }

    /// Takes pages back, all of them.
    fn balloon_in(&mut self, pages: &[u64]) -> Result<(), DriverError> {
        let mut gfns = [Gfn(0); MAX_BALLOON];
        let mut list = self.frames(pages, &mut gfns);
        for _ in 0..POPULATE_TRIES {
            let back = self.platform.populate_physmap(list).min(list.len());
            self.report.ballooned_in += back as u64;
            list = &list[back..];
            if list.is_empty() {
                return Ok(());
            }
            self.report.starved += 1;
            self.platform.wait();
        }
        Err(DriverError::Starved(list.len()))
    }

    fn frames<'g>(&self, pages: &[u64], gfns: &'g mut [Gfn; MAX_BALLOON]) -> &'g [Gfn] {
        let mut count = 0;
        for (gfn, f) in gfns.iter_mut().zip(pages.iter().filter_map(|&p| frame(self.platform, p))) {
            *gfn = f;
            count += 1;
        }
        &gfns[..count]
    }

    fn write_batch(&mut self, n: u32, target: Region) -> Result<(), DriverError> {
        let mut batch = BatchWriter { region: self.gpu.layout.batch, at: 0, line: [0; 256], used: 0 };
        let surface = cmd::Linear { address: target.gm, pitch: PITCH };
        let (layout, platform) = (self.gpu.layout, &mut *self.platform);
        let mut result = Ok(());
        scene::scene(self.config.seed, self.number, n, &mut |blit| {
            let put = match blit {
                Blit::Fill { to, color } => batch.put(platform, &cmd::xy_color_blt(surface, to, color)),
                Blit::Copy { to, from, x, y } => {
                    let source = match from {
                        Source::Frame => surface,
                        Source::Texture(t) => cmd::Linear { address: layout.texture(t).gm, pitch: t.pitch() },
                    };
                    batch.put(platform, &cmd::xy_src_copy_blt(surface, to, source, x, y))
                }
            };
            if result.is_ok() {
                result = put;
            }
        });
        result?;
        batch.put(self.platform, &[cmd::MI_BATCH_BUFFER_END, cmd::MI_NOOP])?;
        batch.flush(self.platform)
    }

    /// Compares the framebuffer in memory with the reference.
    fn check(&mut self, n: u32, target: Region) -> Result<(), DriverError> {
        scene::reference(self.config.seed, self.number, n, self.buffer);
        let mut line = [0; PITCH as usize];
        let mut wrong = 0u32;
        let mut first = None;
        let mut digest = crate::FNV_START;
        for (y, expected) in (0u32..).zip(self.buffer.chunks_exact(usize::from(WIDTH))) {
            target.read(self.platform, u64::from(y) * u64::from(PITCH), &mut line)?;
            digest = line.iter().copied().fold(digest, crate::fnv1a);
            for (x, (have, want)) in (0u32..).zip(line.as_chunks::<4>().0.iter().zip(expected)) {
                let have = u32::from_le_bytes(*have);
                if have != *want {
                    wrong += 1;
                    first.get_or_insert((x, y, have, *want));
                }
            }
        }
        self.report.checks += 1;
        self.report.picture = digest;
        if let Some((x, y, have, want)) = first {
            self.report.checks_failed += 1;
            self.platform.log(format_args!(
                "frame {n}: {wrong} pixels differ, the first at ({x}, {y}): {have:#010x}, not {want:#010x}"
            ));
        }
        Ok(())
    }
}

/// Collects commands and writes them to memory in larger pieces.
struct BatchWriter {
    region: Region,
    at: u64,
    line: [u32; 256],
    used: usize,
}

impl BatchWriter {
    fn put(&mut self, platform: &mut impl Platform, dwords: &[u32]) -> Result<(), DriverError> {
        if self.used + dwords.len() > self.line.len() {
            self.flush(platform)?;
        }
        for (slot, dword) in self.line.iter_mut().skip(self.used).zip(dwords) {
            *slot = dword.to_le();
        }
        self.used += dwords.len();
        Ok(())
    }

    fn flush(&mut self, platform: &mut impl Platform) -> Result<(), DriverError> {
        let bytes = zerocopy::IntoBytes::as_bytes(&self.line[..self.used]);
        let end = self.at + bytes.len() as u64;
        if end > BATCH_PAGES * 4096 {
            return Err(DriverError::BatchTooLong);
        }
        self.region.write(platform, self.at, bytes)?;
        self.at = end;
        self.used = 0;
        Ok(())
    }
}
