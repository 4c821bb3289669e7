//! The register file: 2 MiB of RAM, the rows of the gen8 tables, and the areas that are plain read and write.
//!
//! What no row and no area knows reads as all-ones and takes no write. Side effects are not here: a write
//! answers what kind of register it hit, and `state` acts.

use crate::gen8::regs::{self, Access, Register, engine, gt, irq, pvinfo};
use crate::physical::Engine;
use crate::vgpu::VgpuId;
use crate::vgpu::shown::Changes;
use crate::vgpu::slice::Slice;

/// Bytes of the register part of BAR0.
pub(crate) const REGISTER_BYTES: u32 = 2 << 20;

/// Areas whose registers are known to a driver of gen8 but do nothing on a GPU without EUs, monitors and power
/// management: they keep what was written. First byte, end. Every address of the stock i915's probe, of its
/// first submissions and of its suspension lies in a row or here (PRM volume 2c, i915 `i915_reg.h` and `gt/*_regs.h`).
///
/// The display has its pipes, though no port has anything behind it: a driver that finds none at all (`FUSE_STRAP`) fails
/// when it is to suspend (i915's `hsw_enable_pc8` walks a list of pipes that it then has not begun).
const PLAIN: &[(u32, u32, &str)] = &[
    (0x2000, 0x2800, "RCS: workarounds, non-privileged list"),
    (0x4000, 0x5000, "graphics arbiter, private PAT"),
    (0x7000, 0x8000, "3D chicken bits"),
    (0x8000, 0x8800, "power context and clock gating"),
    (0x9000, 0xa000, "fuses and unit clock gating"),
    (0xa000, 0xb000, "power management"),
    (0xb000, 0xc000, "L3"),
    (0x12000, 0x12800, "VCS"),
    (0x1a000, 0x1a800, "VECS"),
    (0x22000, 0x22800, "BCS"),
    (0x41000, 0x41010, "VGA plane"),
    (0x42000, 0x44000, "display chicken bits and fuses"),
    (0x44030, 0x44034, "hotplug of ports"),
    (0x44400, 0x44500, "display interrupts"),
    (0x45000, 0x46000, "watermarks and power wells"),
    (0x46000, 0x47000, "display clocks"),
    (0x48000, 0x4a000, "backlight, utility pin, colours"),
    (0x4a000, 0x4c000, "palettes"),
    (0x60000, 0x70000, "timing of pipes, ports, transcoders"),
    (0x70000, 0x73000, "pipes and their planes"),
    (0xc2000, 0xc3000, "south display chicken bits"),
    (0xc4000, 0xc4100, "south display interrupts"),
    (0xc5000, 0xc5200, "lines of monitors' descriptions"),
    (0xc6000, 0xc6300, "south display clocks, sideband"),
    (0xc7200, 0xc7300, "panel power"),
    (0xc8200, 0xc8300, "south backlight"),
    (0xe7000, 0xe7100, "global time code"),
    (0xf0000, 0xf3000, "south transcoders"),
    (0x101000, 0x101100, "GGTT control"),
    (0x120000, 0x120100, "eDRAM capabilities"),
    (0x130000, 0x130100, "GT wake and state"),
    (0x138000, 0x138200, "mailbox of the power controller"),
    (0x145000, 0x146000, "memory configuration"),
];

/// Interrupt identity registers outside the tables: one clears.
const WRITE_ONE_CLEAR: &[u32] = &[SDEIIR, EDP_PSR_IIR];
/// South display interrupt identity (i915 `SDEIIR`).
const SDEIIR: u32 = 0xc4008;
/// Identity of the panel's self-refresh (i915 `EDP_PSR_IIR`).
const EDP_PSR_IIR: u32 = 0x64838;
/// Power wells (i915 `HSW_PWR_WELL_CTL1`, `HSW_PWR_WELL_CTL2`): b31 asks, b30 answers, for all who ask.
const POWER_WELLS: [u32; 2] = [0x45400, 0x45404];
const POWER_WELL_ASK: u32 = 0xaaaa_aaaa;
/// Mailbox of the power controller (i915 `GEN6_PCODE_MAILBOX`): b31 busy, low byte the error.
const PCODE_MAILBOX: u32 = 0x138124;
/// Sideband to the south display's clocks (i915 `SBI_CTL_STAT`): b0 busy, b1 failed.
const SBI_CTL_STAT: u32 = 0xc6008;
const SBI_BUSY_OR_FAILED: u32 = 3;
/// The display's clock (i915 `LCPLL_CTL`): b31 off, b30 locked; b21 another source is asked for, b19 it is used.
const LCPLL_CTL: u32 = 0x130040;
const LCPLL_PLL_DISABLE: u32 = 1 << 31;
const LCPLL_PLL_LOCK: u32 = 1 << 30;
const LCPLL_CD_SOURCE_FCLK: u32 = 1 << 21;
const LCPLL_CD_SOURCE_FCLK_DONE: u32 = 1 << 19;
/// Forcewake answers for every requester's bit it is asked.
const FORCEWAKE_BITS: u32 = 0xffff;
/// A status pointer that no entry was written to yet (gen8 after reset).
const CSB_POINTER_RESET: u32 = 0x7;

/// Registers of an engine that its reset leaves alone: the handshake that asks for it.
pub(crate) const ENGINE_RESET_KEEPS: u32 = engine::RING_RESET_CTL;
/// A whole reset touches registers below; interrupts and display keep theirs (as i915 `gvt/vgpu.c`).
const GT_END: u32 = 0x44200;

/// What a dword of the file is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A row of the tables.
    Row(Register),
    /// Keeps what is written.
    Plain,
    /// Nobody knows it.
    Unknown,
}

/// The file. Offsets are byte offsets in BAR0, of dwords: the low two bits are ignored.
#[derive(Debug)]
pub(crate) struct RegisterFile {
    ram: Vec<u32>,
    pub(super) changes: Changes,
}

impl RegisterFile {
    /// A GPU after power-on.
    pub(crate) fn new(id: VgpuId, slice: &Slice) -> Self {
        let mut file = Self::empty();
        file.power_on();
        file.set_pvinfo(id, slice);
        file
    }

    /// All zeros.
    pub(super) fn empty() -> Self {
        Self { ram: vec![0; (REGISTER_BYTES / 4) as usize], changes: Changes::default() }
    }

    /// What the dword at `offset` is.
    pub(crate) fn kind(offset: u32) -> Kind {
        if let Some(row) = regs::lookup(offset) {
            return Kind::Row(row);
        }
        if PLAIN.iter().any(|(start, end, _)| (*start..*end).contains(&offset))
            || (regs::PVINFO_BASE..regs::PVINFO_BASE + regs::PVINFO_SIZE).contains(&offset)
        {
            return Kind::Plain;
        }
        Kind::Unknown
    }

    /// What the dword holds; 0 beyond the end.
    pub(crate) fn get(&self, offset: u32) -> u32 {
        self.ram.get((offset / 4) as usize).copied().unwrap_or(0)
    }

    /// Sets the dword, whatever it is. Beyond the end nothing happens.
    pub(crate) fn set(&mut self, offset: u32, value: u32) {
        if let Some(dword) = self.ram.get_mut((offset / 4) as usize)
            && *dword != value
        {
            *dword = value;
            self.changes.note(offset);
        }
    }

    /// A register of an engine.
    pub(crate) fn engine(&self, engine: Engine, rel: u32) -> u32 {
        self.get(engine.mmio_base() + rel)
    }

    /// Sets a register of an engine.
    pub(crate) fn set_engine(&mut self, engine: Engine, rel: u32, value: u32) {
        self.set(engine.mmio_base() + rel, value);
    }

    /// A guest's write: what the dword's own rule makes of it. `false` if nobody knows the register.
    pub(crate) fn guest_write(&mut self, offset: u32, value: u32) -> bool {
        let old = self.get(offset);
        let new = match Self::kind(offset) {
            Kind::Unknown => return false,
            Kind::Row(row) => match row.def.access {
                Access::ReadOnly | Access::Trigger => return true,
                Access::ReadWrite => value,
                Access::Masked => regs::masked_write(old, value),
                Access::WriteOneClear => old & !value,
            },
            Kind::Plain if in_pvinfo(offset) => return true,
            Kind::Plain if WRITE_ONE_CLEAR.contains(&offset) => old & !value,
            Kind::Plain => value,
        };
        self.set(offset, new);
        self.follow(offset);
        true
    }

    /// Keeps true what one register says of another.
    fn follow(&mut self, offset: u32) {
        match offset {
            gt::FORCEWAKE_MT => {
                let woken = self.get(gt::FORCEWAKE_MT) & FORCEWAKE_BITS;
                self.set(gt::FORCEWAKE_ACK_HSW, woken);
            }
            PCODE_MAILBOX => self.set(PCODE_MAILBOX, 0),
            SBI_CTL_STAT => self.set(SBI_CTL_STAT, self.get(SBI_CTL_STAT) & !SBI_BUSY_OR_FAILED),
            LCPLL_CTL => self.set(LCPLL_CTL, display_clock(self.get(LCPLL_CTL))),
            _ if POWER_WELLS.contains(&offset) => {
                let asked = POWER_WELLS.iter().fold(0, |all, well| all | self.get(*well) & POWER_WELL_ASK);
                for well in POWER_WELLS {
                    let own = self.get(well) & POWER_WELL_ASK;
                    self.set(well, own | (asked >> 1));
                }
            }
            _ => {}
        }
        if let Some((e, rel)) = Engine::of_mmio(offset) {
            match rel {
                // The engine is idle as far as a guest can tell: its ring never runs by itself.
                engine::RING_MI_MODE => {
                    let mode = self.engine(e, rel) | regs::MODE_IDLE;
                    self.set_engine(e, rel, mode);
                }
                engine::RING_RESET_CTL => {
                    let ready = match self.engine(e, rel) & regs::RESET_CTL_REQUEST_RESET {
                        0 => 0,
                        request => request | regs::RESET_CTL_READY_TO_RESET,
                    };
                    self.set_engine(e, rel, ready);
                }
                _ => {}
            }
        }
    }

    /// Puts an engine's registers back to what they are after a reset.
    pub(crate) fn reset_engine(&mut self, e: Engine) {
        let base = e.mmio_base();
        for offset in (base..base + regs::ENGINE_SPAN).step_by(4) {
            if offset != base + ENGINE_RESET_KEEPS {
                self.set(offset, 0);
            }
        }
        self.set_engine(e, engine::RING_MI_MODE, regs::MODE_IDLE);
        self.set_engine(e, engine::RING_IMR, u32::MAX);
        self.set_engine(e, engine::RING_HWSTAM, u32::MAX);
        self.set_engine(e, engine::RING_EMR, u32::MAX);
        self.set_engine(e, engine::RING_CONTEXT_STATUS_PTR, CSB_POINTER_RESET);
    }

    /// Puts the GT's registers back to what they are after a whole reset. Fences, interrupts and display stay.
    pub(crate) fn reset_gt(&mut self) {
        let keep: Vec<_> = Engine::ALL.into_iter().map(|e| self.engine(e, ENGINE_RESET_KEEPS)).collect();
        for offset in (0..GT_END).step_by(4) {
            self.set(offset, 0);
        }
        for (e, handshake) in Engine::ALL.into_iter().zip(keep) {
            self.set_engine(e, ENGINE_RESET_KEEPS, handshake);
            self.reset_engine(e);
        }
    }

    fn power_on(&mut self) {
        self.reset_gt();
        self.set(LCPLL_CTL, display_clock(0));
        for group in 0..4 {
            self.set(irq::GEN8_GT_IMR0 + 0x10 * group, u32::MAX);
        }
        for imr in regs::DISPLAY_IMRS {
            self.set(imr, u32::MAX);
        }
    }

    pub(super) fn set_pvinfo(&mut self, id: VgpuId, slice: &Slice) {
        let low = |v: u64| u32::try_from(v & u64::from(u32::MAX)).unwrap_or(0);
        let rows = [
            (pvinfo::MAGIC, low(regs::MAGIC_VALUE)),
            (pvinfo::MAGIC + 4, low(regs::MAGIC_VALUE >> 32)),
            (pvinfo::VERSION, 1),
            (pvinfo::VGT_ID, id.0),
            (pvinfo::VGT_CAPS, regs::CAPS_FULL_PPGTT | regs::CAPS_HWSP_EMULATION | regs::CAPS_HUGE_GTT),
            (pvinfo::MAPPABLE_BASE, low(slice.low.base)),
            (pvinfo::MAPPABLE_SIZE, low(slice.low.size)),
            (pvinfo::NONMAPPABLE_BASE, low(slice.high.base)),
            (pvinfo::NONMAPPABLE_SIZE, low(slice.high.size)),
            (pvinfo::FENCE_NUM, slice.fences),
            (pvinfo::CURSOR_X_HOT, u32::MAX),
            (pvinfo::CURSOR_Y_HOT, u32::MAX),
        ];
        for (offset, value) in rows {
            self.set(offset, value);
        }
    }
}

/// What the display's clock says of itself when it has been asked for that: it does so at once.
fn display_clock(asked: u32) -> u32 {
    let locked = if asked & LCPLL_PLL_DISABLE == 0 { LCPLL_PLL_LOCK } else { 0 };
    let fclk = if asked & LCPLL_CD_SOURCE_FCLK == 0 { 0 } else { LCPLL_CD_SOURCE_FCLK_DONE };
    asked & !(LCPLL_PLL_LOCK | LCPLL_CD_SOURCE_FCLK_DONE) | locked | fclk
}

fn in_pvinfo(offset: u32) -> bool {
    (regs::PVINFO_BASE..regs::PVINFO_BASE + regs::PVINFO_SIZE).contains(&offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vgpu::slice::{GmRange, MIB};

    fn file() -> RegisterFile {
        let slice = Slice {
            low: GmRange { base: 64 * MIB, size: 64 * MIB },
            high: GmRange { base: 1024 * MIB, size: 384 * MIB },
            fences: 4,
        };
        RegisterFile::new(VgpuId(3), &slice)
    }

    #[test]
    fn areas_are_ascending_and_disjoint() {
        for w in PLAIN.windows(2) {
            assert!(w[0].0 < w[0].1 && w[0].1 <= w[1].0, "{} and {}", w[0].2, w[1].2);
        }
    }

    #[test]
    fn pvinfo_tells_the_slice_and_takes_no_lie() {
        let mut f = file();
        assert_eq!((f.get(0x78000), f.get(0x78004)), (0x7654_4776, 0x4776_5447));
        assert_eq!((f.get(0x78008), f.get(0x7800c)), (1, 3));
        assert_eq!((f.get(0x78040), f.get(0x78044)), (64 << 20, 64 << 20));
        assert_eq!((f.get(0x78048), f.get(0x7804c), f.get(0x78050)), (1024 << 20, 384 << 20, 4));
        for offset in [0x78000, 0x78040, 0x78050, 0x78100] {
            let before = f.get(offset);
            assert!(f.guest_write(offset, 0x1234));
            assert_eq!(f.get(offset), before);
        }
        assert!(f.guest_write(0x78804, 1));
        assert_eq!(f.get(0x78804), 1);
    }

    #[test]
    fn registers_follow_their_kind() {
        let mut f = file();
        let mut write = |offset, value| {
            f.guest_write(offset, value);
            f.get(offset)
        };
        // From the traces of a stock i915.
        assert_eq!(write(0x20d0, 0x0001_0001), 3);
        assert_eq!(write(0x20d0, 0x0001_0000), 0);
        assert_eq!(write(0x209c, 0x0100_0100), 0x300);
        assert_eq!(write(0x209c, 0x0100_0000), 0x200);
        assert_eq!(write(0x45404, 0x8000_0000), 0xc000_0000);
        assert_eq!(write(0x138124, 0x8000_001a), 0);
        assert_eq!(write(0xb100, 0x0078_4000), 0x0078_4000);
        assert_eq!(write(0x42014, 0x4000_0000), 0);
        assert_eq!(write(0xc4008, u32::MAX), 0);
        // As one lets its display's clock rest, and starts it again.
        assert_eq!(write(0x130040, 0x4020_0000), 0x4028_0000);
        assert_eq!(write(0x130040, 0xc028_0000), 0x8028_0000);
        assert_eq!(write(0x130040, 0x0008_0000), 0x4000_0000);
        assert_eq!(write(0xc6008, 0x0000_0601), 0x0000_0600);
        assert_eq!(write(0x64838, u32::MAX), 0);
        assert_eq!(f.get(0x45400), 0x4000_0000);
        f.guest_write(0xa188, 0x0001_0001);
        assert_eq!(f.get(0x130044), 1);
        f.guest_write(0xa188, 0x0001_0000);
        assert_eq!(f.get(0x130044), 0);
    }

    #[test]
    fn one_clears_an_identity_bit() {
        let mut f = file();
        f.set(0x220b0, 0x11);
        f.guest_write(0x220b0, 0x1);
        assert_eq!(f.get(0x220b0), 0x10);
    }

    #[test]
    fn whole_reset_keeps_fences_interrupts_display_and_the_handshake() {
        let mut f = file();
        for (offset, value) in [(0x100008, 5), (0x44304, 7), (0x70180, 9), (0xb100, 1), (0x22080, 0x1000)] {
            f.guest_write(offset, value);
        }
        f.guest_write(0x220d0, 0x0001_0001);
        f.reset_gt();
        assert_eq!((f.get(0x100008), f.get(0x44304), f.get(0x70180)), (5, 7, 9));
        assert_eq!((f.get(0xb100), f.get(0x22080), f.get(0x220d0)), (0, 0, 3));
        assert_eq!(f.get(0x42014), 0);
        assert_eq!(f.get(0x223a0), 7);
    }

    #[test]
    fn registers_of_a_stock_probe_are_all_known() {
        let touched = [
            0x78000, 0x78010, 0x42300, 0x42014, 0xc2014, 0xc6204, 0x9120, 0x9134, 0x9138, 0x913c, 0x2098,
            0x4094, 0x2024, 0x2064, 0x20b0, 0x941c, 0x120010, 0x40e0, 0x40e4, 0x78050, 0x100018, 0x130040,
            0x46408, 0x45400, 0x45404, 0x44200, 0x4433c, 0x444e4, 0x444e8, 0x444ec, 0xc4004, 0xc4008,
            0xc400c, 0xc4040, 0x420b0, 0x4090, 0x42080, 0x20a0, 0x2050, 0x9430, 0x9424, 0x42090, 0xc2020,
            0xf0060, 0x9400, 0x101008, 0x145998, 0x138124, 0x138128, 0x13812c, 0x78838, 0x7883c, 0x78818,
            0x1a3a0, 0x2238, 0xa168, 0x4dd4, 0x4024, 0x145e04, 0x229c, 0x2080, 0x12230, 0x4260, 0x13805c,
            0x138108, 0x8504, 0xa090, 0xa0b8, 0x2054, 0x44030, 0x44418, 0x44438, 0x64838, 0xc6000, 0xc7200,
            0x48250, 0xc8250, 0x48400, 0xe7000, 0x138144,
        ];
        for offset in touched {
            assert!(!matches!(RegisterFile::kind(offset), Kind::Unknown), "{offset:#x}");
        }
        for offset in [0, 0x1000, 0x50000, 0x1f_fffc, 0x200000, u32::MAX] {
            assert!(matches!(RegisterFile::kind(offset), Kind::Unknown), "{offset:#x}");
        }
    }
}
