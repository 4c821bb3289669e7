//! A driver that means harm: garbage in every place that a guest can write, from a seed, nothing expected to work.
//!
//! It harms nobody but itself: accesses through a BAR are made only where the BAR lies in the platform's window, and
//! only the driver's own pages are written. It always comes to its end, whatever the device does.

use xen_ioreq::Gfn;

use crate::cmd;
use crate::context::{CTX_RING_HEAD, CTX_RING_TAIL, descriptor};
use crate::gpu::{DriverError, Gpu};
use crate::layout::{BATCH_PAGES, Region, frame};
use crate::platform::{Platform, Way, Width};
use crate::regs::{self, BLT_RING_BASE, pvinfo, ring};
use crate::rng::Rng;
use crate::scene::{HEIGHT, PITCH, WIDTH};
use crate::words::{lo8, lo16, lo32};

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostileReport {
    /// Rounds.
    pub rounds: u32,
    /// Submissions.
    pub submissions: u32,
    /// Of these, of a batch without an end.
    pub endless: u32,
    /// Of these, of a batch that works for very long.
    pub long: u32,
    /// Times that all was put right and an honest batch submitted.
    pub honest: u32,
    /// Of these, how many were finished: the device was usable again.
    pub finished: u32,
    /// Entries of the GGTT written.
    pub entries: u32,
    /// Times a BAR was moved or decoding switched.
    pub moves: u32,
    /// Pages ballooned out, taken back later.
    pub ballooned: u32,
    /// Of these, how many never came back.
    pub lost: u32,
}

/// Registers at which garbage does most: of engines, interrupts, resets, and a display with three pipes.
const TARGETS: [u32; 33] = [
    BLT_RING_BASE + ring::HWS_PGA,
    BLT_RING_BASE + ring::MODE,
    BLT_RING_BASE + ring::MI_MODE,
    BLT_RING_BASE + ring::RESET_CTL,
    BLT_RING_BASE + ring::CONTEXT_STATUS_PTR,
    BLT_RING_BASE + ring::ELSP,
    regs::GEN6_GDRST,
    regs::GEN8_MASTER_IRQ,
    regs::GEN8_GT_IMR0,
    regs::GEN8_GT_IER0,
    regs::DSPACNTR,
    regs::DSPACNTR + regs::NEXT_PIPE,
    regs::DSPACNTR + 2 * regs::NEXT_PIPE,
    regs::DSPASURF,
    regs::DSPASURF + regs::NEXT_PIPE,
    regs::DSPASTRIDE,
    regs::DSPATILEOFF,
    regs::PIPEACONF,
    regs::PIPEACONF + regs::NEXT_PIPE,
    regs::PIPEACONF + 2 * regs::NEXT_PIPE,
    regs::PIPEASRC,
    regs::GEN8_DE_PIPE_IMR,
    regs::GEN8_DE_PIPE_IIR,
    regs::GEN8_DE_PIPE_IER,
    regs::GEN8_DE_PIPE_IER + 0x10,
    regs::GEN8_DE_PORT_IER,
    regs::GEN8_DE_MISC_IER,
    regs::GEN8_PCU_IMR,
    regs::GEN8_PCU_IER,
    regs::LCPLL_CTL,
    regs::GFX_FLSH_CNTL_GEN6,
    pvinfo::DISPLAY_READY,
    pvinfo::G2V_NOTIFY,
];

/// Commands whose lengths and addresses are worth lying about.
const COMMANDS: [u32; 12] = [
    cmd::MI_NOOP,
    cmd::MI_USER_INTERRUPT,
    cmd::MI_BATCH_BUFFER_END,
    cmd::MI_BATCH_BUFFER_START_GEN8,
    cmd::MI_BATCH_BUFFER_START_GEN8 | 1 << 8,
    cmd::MI_STORE_DWORD_IMM_GEN4 | cmd::MI_USE_GGTT,
    cmd::MI_FLUSH_DW | cmd::MI_FLUSH_DW_OP_STOREDW,
    cmd::mi_load_register_imm(1),
    cmd::XY_COLOR_BLT_CMD | cmd::BLT_WRITE_RGB,
    cmd::XY_SRC_COPY_BLT_CMD | cmd::BLT_WRITE_RGB,
    0x1c << 23 | 2,
    0x6a00_0004 | 0x1000_0000,
];

/// Bases of the four engines' registers.
const ENGINES: [u32; 4] = [BLT_RING_BASE, 0x2000, 0x1_2000, 0x1_a000];

/// Moments after which what does not end has been stopped: a second and more, where a moment is two milliseconds.
const DEADLINE: u32 = 600;
/// Moments for which an honest batch is waited for.
const HONEST_PATIENCE: u32 = 100;
/// The first pages of the layout: status page, context, ring, and some of the batch.
const LIFELINE_PAGES: u64 = 11;

/// Does `rounds` rounds of harm. The error is the bring-up's; after that nothing is one.
pub fn run(platform: &mut impl Platform, seed: u64, rounds: u32) -> Result<HostileReport, DriverError> {
    let gpu = Gpu::bring_up(platform, 0)?;
    let mut h =
        Hostile { platform, gpu, rng: Rng::new(seed, 0x0bad), report: HostileReport::default(), out: 0 };
    for _ in 0..rounds {
        h.round();
        h.report.rounds += 1;
    }
    h.restore();
    Ok(h.report)
}

struct Hostile<'a, P> {
    platform: &'a mut P,
    gpu: Gpu,
    rng: Rng,
    report: HostileReport,
    /// Bit n: page n is ballooned out.
    out: u64,
}

impl<P: Platform> Hostile<'_, P> {
    fn round(&mut self) {
        match self.rng.below(100) {
            // dear, so seldom
            99 => self.long_batch(),
            n => self.ordinary(n / 8),
        }
    }

    fn ordinary(&mut self, what: u32) {
        match what {
            0 | 1 => self.garbage_entries(),
            2 | 3 => self.garbage_registers(),
            4 => self.garbage_context(),
            5 => self.garbage_ring(),
            6 => self.endless_batch(),
            7 => self.garbage_submission(),
            8 => self.move_bar(),
            9 => self.odd_accesses(),
            10 => self.balloon(),
            _ => self.sane_again(),
        }
    }

    /// An entry's value: present with any frame, or with bits that do not belong there.
    fn entry(&mut self) -> u64 {
        let r = self.rng.next();
        match self.rng.below(5) {
            0 => r,
            1 => r & 0xffff_ffff_f000 | 1,
            2 => r & 0xfff_f000 | 1,
            3 => (r & 0xf_ffff) << 12 | 1,
            _ => self.own_page() | 1,
        }
    }

    fn own_page(&mut self) -> u64 {
        let page = u64::from(self.rng.below(u32::try_from(self.gpu.layout.pages).unwrap_or(1)));
        frame(self.platform, page).unwrap_or(Gfn(1)).addr()
    }

    /// A GGTT address: of an object of ours, or anywhere.
    fn address(&mut self) -> u64 {
        let l = self.gpu.layout;
        let own = [l.hwsp, l.context, l.ring, l.batch, l.frames[0], l.textures[0]];
        match self.rng.below(8) {
            n @ 0..=5 => own[n as usize % own.len()].gm + u64::from(self.rng.below(4096) & !3),
            6 => self.rng.next() & 0xffff_fffc,
            _ => self.rng.next(),
        }
    }

    fn garbage_entries(&mut self) {
        for _ in 0..16 {
            let index = match self.rng.below(3) {
                0 => u64::from(self.rng.below(1 << 20)),
                _ => self.address() / 4096 % (1 << 20),
            };
            let at = self.gpu.bar0.base + regs::GTT_OFFSET + 8 * index;
            let value = self.entry();
            if self.rng.one_in(3) {
                let half = 4 * u64::from(self.rng.below(2));
                self.platform.mmio_write(at + half, Width::B4, value & 0xffff_ffff);
            } else {
                self.platform.mmio_write(at, Width::B8, value);
            }
            self.report.entries += 1;
        }
    }

    fn garbage_registers(&mut self) {
        for _ in 0..8 {
            let reg = match self.rng.below(3) {
                0 => self.rng.below(regs::REGISTERS_SIZE) & !3,
                _ => TARGETS[self.rng.below(33) as usize % TARGETS.len()],
            };
            let value = lo32(self.rng.next());
            self.gpu.write32(self.platform, reg, value);
            self.gpu.read32(self.platform, reg);
        }
    }

    /// Writes dwords into an object of ours; what is ballooned out stays so.
    fn scribble(&mut self, region: Region, offset: u64, dwords: &[u32]) {
        let mut at = offset;
        for dword in dwords {
            let _hole = region.write32(self.platform, at, *dword);
            at += 4;
        }
    }

    fn garbage_context(&mut self) {
        let context = self.gpu.layout.context;
        for _ in 0..8 {
            let index = u64::from(self.rng.below(0x50));
            let value = if self.rng.one_in(2) { lo32(self.rng.next()) } else { lo32(self.address()) };
            self.scribble(context, 4096 + 4 * index, &[value]);
        }
        for index in [CTX_RING_HEAD, CTX_RING_TAIL] {
            let value = self.rng.below(0x1_0000);
            self.scribble(context, 4096 + 4 * index as u64, &[value]);
        }
        self.submit_own();
    }

    /// Commands that look like some, with lengths and addresses that do not fit.
    fn write_commands(&mut self, region: Region) {
        let mut dwords = [0u32; 64];
        for slot in &mut dwords {
            *slot = match self.rng.below(4) {
                0 => COMMANDS[self.rng.below(12) as usize % COMMANDS.len()],
                1 => COMMANDS[self.rng.below(12) as usize % COMMANDS.len()] ^ 1 << self.rng.below(32),
                2 => lo32(self.address()),
                _ => lo32(self.rng.next()),
            };
        }
        self.scribble(region, 0, &dwords);
    }

    fn garbage_ring(&mut self) {
        let layout = self.gpu.layout;
        self.write_commands(layout.ring);
        self.write_commands(layout.batch);
        let tail = self.rng.below(256) & !7;
        self.scribble(layout.context, 4096 + 4 * CTX_RING_TAIL as u64, &[tail]);
        self.submit_own();
    }

    /// A batch that jumps to itself, at once or after some work, or one that waits for what does not come.
    fn endless_batch(&mut self) {
        let batch = self.gpu.layout.batch;
        let jump = cmd::batch_buffer_start(batch.gm);
        let start = if self.rng.one_in(2) {
            self.scribble(batch, 0, &cmd::store_dword(self.gpu.layout.hwsp.gm + 0x200, 1));
            16
        } else {
            0
        };
        if self.rng.one_in(2) {
            self.scribble(batch, start, &jump);
        } else {
            // one that nobody can tell from an honest one
            self.scribble(batch, start, &cmd::semaphore_wait(self.gpu.layout.hwsp.gm + 0x300, 0xdead));
            self.scribble(batch, start + 16, &[cmd::MI_BATCH_BUFFER_END]);
        }
        self.start();
        if self.rng.one_in(2) {
            self.start_elsewhere();
        }
        if self.rng.one_in(8) {
            // until it is stopped
            for _ in 0..DEADLINE {
                self.platform.wait();
            }
        }
        self.report.endless += 1;
    }

    /// A batch full of fills of a whole framebuffer, each of them honest.
    fn long_batch(&mut self) {
        let layout = self.gpu.layout;
        let surface = cmd::Linear { address: layout.frames[0].gm, pitch: PITCH };
        let all = cmd::Rect { x1: 0, y1: 0, x2: WIDTH, y2: HEIGHT };
        let fill = cmd::xy_color_blt(surface, all, 0x00ff_0000);
        let mut at = 0;
        while at + 32 < BATCH_PAGES * 4096 {
            self.scribble(layout.batch, at, &fill);
            at += 28;
        }
        self.scribble(layout.batch, at, &[cmd::MI_BATCH_BUFFER_END]);
        self.start();
        self.report.long += 1;
    }

    /// Starts what is in the batch, and does not wait for it.
    fn start(&mut self) {
        let _refused = self.gpu.reset_engine(self.platform);
        let _hole = self.gpu.init_engine(self.platform);
        let _hole = self.gpu.submit(self.platform);
        self.report.submissions += 1;
        self.platform.wait();
    }

    /// Starts what is in the ring on any engine, by two more contexts of the same image.
    fn start_elsewhere(&mut self) {
        let base = ENGINES[self.rng.below(4) as usize % ENGINES.len()];
        let mode = regs::masked_bit_enable(regs::GFX_RUN_LIST_ENABLE);
        self.gpu.write32(self.platform, base + ring::MODE, mode);
        let d = descriptor(self.gpu.layout.context.gm, 0x21, true);
        for value in [d ^ 1 << 40, d].into_iter().flat_map(|d| [d >> 32, d]) {
            self.gpu.write32(self.platform, base + ring::ELSP, lo32(value));
        }
        self.report.submissions += 1;
    }

    fn submit_own(&mut self) {
        let lrca = self.gpu.layout.context.gm;
        let flags = self.rng.next() & 0xffe;
        let d = descriptor(lrca, 0x20, true) | if self.rng.one_in(2) { flags } else { 0 };
        let second = if self.rng.one_in(3) { d ^ 1 << 40 } else { 0 };
        self.gpu.submit_raw(self.platform, second, d);
        self.report.submissions += 1;
    }

    fn garbage_submission(&mut self) {
        let (a, b) = (self.rng.next(), self.rng.next());
        let lrca = self.address();
        let b = if self.rng.one_in(2) { b } else { descriptor(lrca, lo32(a), true) };
        self.gpu.submit_raw(self.platform, if self.rng.one_in(2) { a } else { b }, b);
        // half a submission leaves the port in the middle of four writes
        if self.rng.one_in(3) {
            self.gpu.write32(self.platform, BLT_RING_BASE + ring::ELSP, lo32(a));
        }
        self.report.submissions += 1;
    }

    /// Puts a BAR somewhere (over RAM, over nothing, over the other one), switches decoding, and puts all back.
    fn move_bar(&mut self) {
        let f = self.gpu.function;
        let anywhere = match self.rng.below(4) {
            0 => self.rng.next(),
            1 => self.own_page(),
            2 => self.gpu.bar2.base,
            _ => 0xfee0_0000,
        };
        for index in [0, 2] {
            f.set_bar(self.platform, index, anywhere);
        }
        f.set_decode(self.platform, self.rng.one_in(2));
        let (reg, value) = (lo8(self.rng.next()) & 0xfc, lo32(self.rng.next()));
        f.write(self.platform, reg, Width::B4, value);
        self.put_back();
        self.report.moves += 1;
    }

    fn put_back(&mut self) {
        let (f, bars) = (self.gpu.function, [(0, self.gpu.bar0), (2, self.gpu.bar2)]);
        f.set_decode(self.platform, false);
        for (index, bar) in bars {
            f.set_bar(self.platform, index, bar.base);
        }
        f.set_decode(self.platform, true);
    }

    /// Widths, alignments and strings that a register file does not expect; the aperture; the end of a BAR.
    fn odd_accesses(&mut self) {
        let (bar0, bar2) = (self.gpu.bar0, self.gpu.bar2);
        for _ in 0..8 {
            let width = [Width::B1, Width::B2, Width::B4, Width::B8][self.rng.below(4) as usize % 4];
            let (bar, reach) = if self.rng.one_in(4) { (bar2, 1 << 28) } else { (bar0, 1 << 24) };
            let at = match self.rng.below(3) {
                0 => bar.base + bar.size - 1 - u64::from(self.rng.below(8)),
                _ => bar.base + u64::from(self.rng.below(reach)),
            };
            let value = self.rng.next();
            self.platform.mmio_write(at, width, value & width.mask());
            self.platform.mmio_read(at, width);
        }
        let ram = self.own_page();
        let (count, way) = (self.rng.below(32), if self.rng.one_in(2) { Way::Up } else { Way::Down });
        let ram = if way == Way::Down { ram + 2048 } else { ram };
        let at = bar0.base + regs::GTT_OFFSET + u64::from(self.rng.below(1 << 20) & !7);
        self.platform.rep_movs(ram, at, Width::B8, count, way);
        self.platform.rep_movs(at, ram, Width::B8, count, way);
        let port = 0xcf8 + lo16(self.rng.below(8));
        let value = lo32(self.rng.next());
        self.platform.pio_write(port, Width::B1, value & 0xff);
        self.platform.pio_read(port, Width::B2);
    }

    /// Balloons what the engine lives on while it may be running, and leaves it out for some rounds.
    fn balloon(&mut self) {
        if self.out != 0 {
            return self.take_back();
        }
        for page in 0..LIFELINE_PAGES {
            if let Some(gfn) = frame(self.platform, page)
                && self.platform.decrease_reservation(&[gfn]) == 1
            {
                self.out |= 1 << page;
                self.report.ballooned += 1;
            }
        }
    }

    /// Asks for every page that is out until it comes; one that never does is given up.
    fn take_back(&mut self) {
        for _ in 0..500 {
            for page in 0..LIFELINE_PAGES {
                if let Some(gfn) = frame(self.platform, page)
                    && self.out >> page & 1 != 0
                    && self.platform.populate_physmap(&[gfn]) == 1
                {
                    self.out &= !(1 << page);
                }
            }
            if self.out == 0 {
                return;
            }
            self.platform.wait();
        }
        self.report.lost += self.out.count_ones();
        self.out = 0;
    }

    /// Everything as a sane driver has it, one honest submission, a short wait.
    fn sane_again(&mut self) {
        self.take_back();
        self.put_back();
        // what an honest batch needs; the rest stays as it was left
        for page in 0..self.gpu.layout.frames[0].first {
            self.gpu.map_page(self.platform, page);
        }
        self.gpu.flush_gtt(self.platform);
        let _no_reset = self.gpu.reset_engine(self.platform);
        let batch = self.gpu.layout.batch;
        self.scribble(batch, 0, &[cmd::MI_BATCH_BUFFER_END, 0]);
        if self.gpu.init_engine(self.platform).is_ok() && self.gpu.submit(self.platform).is_ok() {
            let done = self.gpu.wait(self.platform, HONEST_PATIENCE);
            self.report.submissions += 1;
            self.report.honest += 1;
            self.report.finished += u32::from(done == Ok(true));
        }
    }

    fn restore(&mut self) {
        self.take_back();
        self.put_back();
    }
}
