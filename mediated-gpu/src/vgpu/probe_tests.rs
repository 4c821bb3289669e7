//! What a stock i915 of Linux 6.1 in vGPU mode does to its registers from probe to idle, in its order, as it was seen on
//! real Xen; and what it must read, or else it complains or gives up.
//!
//! Re-told as rules: a loop over the engines stands where the driver has one.

use super::slice::{GmRange, MIB, Slice};
use super::{Effect, State, Turn, VgpuId};
use crate::gen8::regs;
use crate::physical::Engine;

/// What a read must give.
#[derive(Clone, Copy, Debug)]
enum Reads {
    /// This.
    Is(u64),
    /// These bits, of those that the driver looks at: value, mask.
    Bits(u64, u64),
}
use Reads::{Bits, Is};

struct Driver {
    gpu: State,
    effects: Vec<Effect>,
}

impl Driver {
    fn new() -> Self {
        let slice = Slice {
            low: GmRange { base: 0, size: 128 * MIB },
            high: GmRange { base: 256 * MIB, size: 384 * MIB },
            fences: 4,
        };
        Self { gpu: State::new(VgpuId(1), slice), effects: Vec::new() }
    }

    fn read(&mut self, offset: u32, size: u32, what: Reads) {
        let effects = &mut self.effects;
        let value = self.gpu.read(offset, size, &mut |e| effects.push(e));
        let (found, wanted) = match what {
            Is(wanted) => (value, wanted),
            Bits(wanted, mask) => (value & mask, wanted),
        };
        assert_eq!(found, wanted, "register {offset:#x} reads {value:#x}");
    }

    fn write(&mut self, offset: u32, value: u32) {
        let effects = &mut self.effects;
        self.gpu.write(offset, 4, value.into(), &mut |e| effects.push(e));
    }

    /// Reads of dwords that must be so.
    fn reads(&mut self, all: &[(u32, Reads)]) {
        all.iter().for_each(|(offset, what)| self.read(*offset, 4, *what));
    }

    /// Reads a register, changes it, and may read it back.
    fn modify(&mut self, offset: u32, value: u32) {
        self.read(offset, 4, Is(0));
        self.write(offset, value);
        self.read(offset, 4, Is(value.into()));
    }

    /// The reset of all engines: each is asked to get ready, then the whole GT is reset, twice.
    fn reset(&mut self) {
        for e in Engine::ALL {
            let control = e.mmio_base() + 0xd0;
            self.read(control, 4, Bits(0, 3));
            self.write(control, 0x0001_0001);
            self.read(control, 4, Bits(3, 3));
        }
        for _ in 0..2 {
            self.write(0x941c, 1);
            self.read(0x941c, 4, Is(0));
        }
        Engine::ALL.iter().for_each(|e| self.write(e.mmio_base() + 0xd0, 0x0001_0000));
    }

    /// A bank of interrupt registers is silenced: mask, enable, and what is pending, twice.
    fn silence(&mut self, imr: u32, iir: u32, ier: u32) {
        self.write(imr, u32::MAX);
        self.read(imr, 4, Is(u32::MAX.into()));
        self.write(ier, 0);
        for _ in 0..2 {
            self.write(iir, u32::MAX);
            self.read(iir, 4, Is(0));
        }
    }

    fn silence_all(&mut self) {
        self.write(0x44200, 0);
        self.read(0x44200, 4, Is(0));
        for bank in [0x44300, 0x44310, 0x44320, 0x44330, 0x444e0] {
            self.silence(bank + 4, bank + 8, bank + 0xc);
        }
        self.silence(0xc4004, 0xc4008, 0xc400c);
        self.write(0xc4040, u32::MAX);
    }

    /// A bank is let speak: nothing may be pending.
    fn listen(&mut self, bank: u32, enable: u32) {
        self.read(bank + 8, 4, Is(0));
        self.write(bank + 0xc, enable);
        self.write(bank + 4, !enable);
        self.read(bank + 4, 4, Is((!enable).into()));
    }

    /// The status buffer of an engine starts at its first entry.
    fn clear_status(&mut self, e: Engine) {
        for _ in 0..2 {
            self.write(e.mmio_base() + 0x3a0, 0xffff_0505);
            self.read(e.mmio_base() + 0x3a0, 4, Bits(0x0505, 0x0707));
        }
    }

    /// An engine is started: masks, execlist mode, status page, no error.
    fn resume(&mut self, e: Engine, status_page: u32) {
        let base = e.mmio_base();
        for (rel, value) in [
            (0xa8, (0xffff_fef6 << e.irq_group().1) | ((1 << e.irq_group().1) - 1)),
            (0x98, u32::MAX),
            (0x29c, 0x8000_8000),
            (0x9c, 0x0100_0000),
            (0x80, status_page),
        ] {
            self.write(base + rel, value);
        }
        self.read(base + 0x80, 4, Is(status_page.into()));
        self.write(base + 0xb4, u32::MAX);
        self.write(base + 0xb0, u32::MAX);
        self.reads(&[(base + 0xb0, Is(0)), (base + 0xb8, Is(0))]);
        self.write(base + 0xb4, !1);
    }

    /// The driver's first context on an engine, and what it does at the interrupt of its end.
    fn submit(&mut self, e: Engine, lrca: u32) {
        for value in [0, 0, 0x20, lrca | 0x13d] {
            self.write(e.mmio_base() + 0x230, value);
        }
        assert!(self.effects.contains(&Effect::Work(e)), "{e:?} is told of it");
        let Turn { submission, epoch, .. } = self.gpu.take(e).expect("a submission");
        assert_eq!((submission.first.lrca(), submission.first.id()), (lrca.into(), 0x20));
        assert!(submission.first.ppgtt() && submission.second.is_none());
        self.gpu.ended(e);
        assert!(self.gpu.raise(e, epoch, 0x101), "{e:?} interrupts");
        let (group, shift) = e.irq_group();
        let iir = 0x44308 + 0x10 * group;
        self.write(0x44200, 0);
        self.reads(&[(0x44200, Is(e.master_irq_bit().into())), (iir, Is(0x101 << shift))]);
        self.write(iir, 0x101 << shift);
        self.write(0x44200, 0x8000_0000);
        self.read(iir, 4, Is(0));
    }

    fn notified(&self) -> Vec<(u32, u64)> {
        let of = |e: &Effect| match e {
            Effect::Notify(what, [pml4, ..]) => Some((*what, *pml4)),
            _ => None,
        };
        self.effects.iter().filter_map(of).collect()
    }
}

#[test]
fn stock_probe_reads_what_it_needs_from_the_first_access_to_the_last() {
    let mut d = Driver::new();
    // It finds out that it is a guest, and what the host offers.
    d.read(0x78000, 8, Is(regs::MAGIC_VALUE));
    d.read(0x78008, 2, Is(1));
    d.read(0x78010, 4, Is(0x1c));
    // No fuse says that there is no display, nor what EUs there are.
    d.reads(&[(0x42300, Is(0)), (0x42014, Bits(0, 1 << 30)), (0xc2014, Is(0)), (0xc6204, Is(0))]);
    d.reads(&[0x9120, 0x9134, 0x9138, 0x913c].map(|fuse| (fuse, Is(0))));
    Engine::ALL.iter().for_each(|e| d.write(e.mmio_base() + 0x98, u32::MAX));
    // No fault and no error is left from before.
    d.reads(&[0x4094, 0x2024, 0x2064, 0x20b0, 0x4094].map(|error| (error, Is(0))));
    d.reset();
    d.read(0x12_0010, 4, Is(0));
    d.write(0x40e0, 0x000a_0907);
    d.write(0x40e4, 0x3b2b_1b0b);
    // Its fences.
    d.read(0x78050, 4, Is(4));
    for fence in (0x10_0000..0x10_0020).step_by(8) {
        d.modify(fence, 0);
        d.write(fence + 4, 0);
        d.modify(fence, 0);
    }
    // Power: the well answers.
    d.reads(&[(0x13_0040, Is(0x4000_0000)), (0x46408, Is(0))]);
    d.write(0x46408, 0x10);
    d.read(0x45404, 4, Is(0));
    d.write(0x45404, 0x8000_0000);
    d.reads(&[(0x45404, Is(0xc000_0000)), (0x45400, Is(0x4000_0000)), (0x45404, Is(0xc000_0000))]);
    d.silence_all();
    d.read(0xc4008, 4, Is(0));
    d.write(0xc400c, u32::MAX);
    d.write(0xc4004, 0xf1fd_ffff);
    d.read(0xc4004, 4, Is(0xf1fd_ffff));
    for (bank, enable) in [(0x44300, 0x0909_0909), (0x44310, 0x0909_0909), (0x44320, 0), (0x44330, 0x0909)] {
        d.listen(bank, enable);
    }
    d.write(0x44200, 0x8000_0000);
    // Its slice.
    d.reads(&[
        (0x78040, Is(0)),
        (0x78044, Is(128 << 20)),
        (0x78048, Is(256 << 20)),
        (0x7804c, Is(384 << 20)),
    ]);
    // Workarounds.
    for (offset, value) in [
        (0x420b0, 0x0040_0000),
        (0x4090, 0x40),
        (0x42080, 0x8000),
        (0x20a0, 0),
        (0x9430, 0x4000),
        (0x9424, 0),
        (0xb100, 0x0078_4000),
        (0x42090, 0x4000),
        (0xc2020, 0x1000),
        (0xf0060, 0x10),
        (0x9400, 0x1_0000),
    ] {
        d.modify(offset, value);
    }
    d.write(0x2050, 0x1000_1000);
    d.write(0x10_1008, 1);
    // The power controller's mailbox is idle, takes a command, and is idle again without an error.
    d.reads(&[(0x14_5998, Is(0)), (0x13_8124, Is(0))]);
    for (offset, value) in [(0x13_8128, 0), (0x13_812c, 0), (0x13_8124, 0x8000_001a)] {
        d.write(offset, value);
    }
    d.reads(&[(0x13_8124, Is(0)), (0x13_8128, Is(0))]);
    // Its first tables.
    for (offset, value) in [(0x78838, 0x06cd_5000), (0x7883c, 0), (0x78818, regs::G2V_PPGTT_L4_CREATE)] {
        d.write(offset, value);
    }
    assert_eq!(d.notified(), [(regs::G2V_PPGTT_L4_CREATE, 0x06cd_5000)]);
    assert!(d.effects.contains(&Effect::FlushGgtt));
    // Two more resets; between them each ring is stopped, and must say that it is.
    d.reset();
    Engine::ALL.iter().for_each(|e| d.clear_status(*e));
    for e in Engine::ALL {
        let mode = e.mmio_base() + 0x9c;
        d.write(mode, 0x0100_0100);
        d.reads(&[(mode, Is(0x300)), (mode, Is(0x300)), (e.mmio_base() + 0x238, Is(0))]);
        d.clear_status(e);
    }
    d.reset();
    Engine::ALL.iter().for_each(|e| d.clear_status(*e));
    d.write(0xa168, 0x7fff_ffff);
    d.write(0x4432c, 0);
    d.write(0x44328, 0x76);
    d.read(0x44328, 4, Is(0));
    d.write(0x4dd4, 0x67f1_427f);
    d.write(0x4024, 0xf000_7fff);
    d.reads(&[(0x4024, Is(0xf000_7fff)), (0x14_5e04, Is(0))]);
    // Each engine starts and runs its first context.
    for (n, e) in (0..).zip(Engine::ALL) {
        d.resume(e, 0x27f0_0000 + 0x1000 * n);
        d.submit(e, 0x27e0_0000 + 0x4000 * n);
    }
    // A TLB invalidation is over when it is looked for.
    d.write(0x4260, 1);
    d.read(0x4260, 4, Bits(0, 1));
    d.write(0x78804, 1);
    // Idle for some seconds: power goes, comes again, everything is silenced.
    d.read(0x45404, 4, Is(0xc000_0000));
    d.write(0x45404, 0x4000_0000);
    d.reads(&[(0x45404, Bits(0, 1 << 30)), (0x45404, Bits(0, 1 << 31))]);
    d.write(0x45404, 0x8000_0000);
    d.read(0x45404, 4, Is(0xc000_0000));
    d.silence_all();
    let unknown: Vec<_> = d.effects.iter().filter(|e| matches!(e, Effect::Unknown(_))).collect();
    assert!(unknown.is_empty(), "{unknown:x?}");
    assert!(!d.effects.iter().any(|e| matches!(e, Effect::Dropped(_))));
}

/// i915's `hsw_enable_pc8` and `hsw_disable_pc8`, by which it suspends and comes back.
#[test]
fn stock_suspension_finds_the_display_at_rest_and_its_clock_stops_and_starts() {
    let mut d = Driver::new();
    d.write(0x45404, 0x8000_0000);
    d.write(0x45404, 0);
    // The sideband to the south display's clocks, a read and a write.
    for opcode in [0x0601, 0x0701] {
        d.read(0xc6008, 4, Bits(0, 1));
        d.write(0xc6000, 0x1f00 << 16);
        d.write(0xc6004, 0);
        d.write(0xc6008, opcode);
        d.read(0xc6008, 4, Bits(0, 3));
    }
    // No well, clock, panel or backlight is on.
    d.read(0x45404, 4, Is(0));
    let on = 1 << 31;
    let at_rest = [0x46020, 0x46040, 0x46060, 0xc7200, 0x48250, 0xc8250, 0x48400, 0xe7000];
    d.reads(&at_rest.map(|offset| (offset, Bits(0, on))));
    // Its clock comes from elsewhere and is stopped, then the other way round.
    let clock = 0x13_0040;
    d.read(clock, 4, Is(0x4000_0000));
    d.write(clock, 0x4020_0000);
    d.read(clock, 4, Bits(1 << 19, 1 << 19));
    d.write(clock, 0xc028_0000);
    d.read(clock, 4, Bits(0, 1 << 30));
    d.read(0x13_8144, 4, Bits(0, 1 << 9));
    d.write(clock, 0x0028_0000);
    d.read(clock, 4, Bits(1 << 30, 1 << 30));
    d.write(clock, 0x4008_0000);
    d.read(clock, 4, Is(0x4000_0000));
    assert!(!d.effects.iter().any(|e| matches!(e, Effect::Unknown(_))), "{:?}", d.effects);
}
