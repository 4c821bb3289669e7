//! What the guest is told: GT identity, mask and enable registers, the master register, and when an MSI is due.
//!
//! An event sets its identity bit unless a mask hides it. An MSI is due when a bit that was not there shows, and
//! when the guest lets interrupts out again with something pending; never is one lost, sometimes one is spare.

use super::registers::RegisterFile;
use crate::gen8::regs::{self, engine, irq};
use crate::physical::Engine;

/// Distance of the GT groups' registers.
const GROUP: u32 = 0x10;
/// Groups, and the master register's bits for each.
const GROUPS: [(u32, &[Engine]); 4] =
    [(0, &[Engine::Rcs, Engine::Bcs]), (1, &[Engine::Vcs]), (2, &[]), (3, &[Engine::Vecs])];

/// Puts an engine's event (`GT_*` bits, unshifted) into the identity register. `true`: an MSI is due.
pub(crate) fn raise(file: &mut RegisterFile, e: Engine, bits: u32) -> bool {
    let (group, shift) = e.irq_group();
    let bits =
        bits << shift & !file.engine(e, engine::RING_IMR) & !file.get(irq::GEN8_GT_IMR0 + GROUP * group);
    let iir = irq::GEN8_GT_IIR0 + GROUP * group;
    let old = file.get(iir);
    file.set(iir, old | bits);
    let fresh = bits & !old & file.get(irq::GEN8_GT_IER0 + GROUP * group);
    fresh != 0 && enabled(file)
}

/// Whether the guest wants to hear of an event at once: one that no mask hides, and that is more than a context's switch.
pub(crate) fn awaited(file: &RegisterFile, e: Engine, bits: u32) -> bool {
    let (group, shift) = e.irq_group();
    let hidden = file.engine(e, engine::RING_IMR) | file.get(irq::GEN8_GT_IMR0 + GROUP * group);
    (bits & !regs::GT_CONTEXT_SWITCH_INTERRUPT) << shift & !hidden != 0
}

/// What the master register reads as: b31 as stored, the others which group has something enabled.
pub(crate) fn master(file: &RegisterFile) -> u32 {
    let mut value = file.get(irq::GEN8_MASTER_IRQ) & regs::MASTER_IRQ_CONTROL;
    for (group, engines) in GROUPS {
        let pending =
            file.get(irq::GEN8_GT_IIR0 + GROUP * group) & file.get(irq::GEN8_GT_IER0 + GROUP * group);
        for e in engines {
            if pending >> e.irq_group().1 & 0xffff != 0 {
                value |= e.master_irq_bit();
            }
        }
    }
    value
}

/// Whether the registers ask for an MSI: the master lets out, and something is pending. Compared before and after
/// a guest's write to any of them.
pub(crate) fn line(file: &RegisterFile) -> bool {
    enabled(file) && master(file) & !regs::MASTER_IRQ_CONTROL != 0
}

/// Whether a register takes part in [`line()`].
pub(crate) fn concerns(offset: u32) -> bool {
    (irq::GEN8_MASTER_IRQ..=irq::GEN8_GT_IER3).contains(&offset)
}

/// Whether the master lets out.
pub(crate) fn enabled(file: &RegisterFile) -> bool {
    file.get(irq::GEN8_MASTER_IRQ) & regs::MASTER_IRQ_CONTROL != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vgpu::VgpuId;
    use crate::vgpu::slice::{GmRange, Slice};

    fn file() -> RegisterFile {
        let none = GmRange { base: 0, size: 4096 };
        let mut f = RegisterFile::new(VgpuId(1), &Slice { low: none, high: none, fences: 0 });
        // As a stock i915 sets them up.
        for (offset, value) in
            [(0x4430c, 0x0909_0909), (0x44304, 0xf6f6_f6f6), (0x220a8, 0xf6f7_ffff), (0x44200, 0x8000_0000)]
        {
            f.guest_write(offset, value);
        }
        f
    }

    #[test]
    fn event_shows_in_its_half_of_the_group_and_in_the_master() {
        let mut f = file();
        assert!(!raise(&mut f, Engine::Bcs, 1), "the user interrupt is masked at the engine");
        assert!(raise(&mut f, Engine::Bcs, 0x100));
        assert_eq!(f.get(0x44308), 0x0100_0000);
        assert_eq!(master(&f), 0x8000_0002);
        assert!(!raise(&mut f, Engine::Bcs, 0x100), "already pending");
    }

    #[test]
    fn event_while_the_master_is_off_is_due_when_it_goes_on() {
        let mut f = file();
        f.guest_write(0x44200, 0);
        assert!(!raise(&mut f, Engine::Bcs, 0x100));
        assert!(!line(&f));
        f.guest_write(0x44200, 0x8000_0000);
        assert!(line(&f));
        f.guest_write(0x44308, 0x0100_0000);
        assert!(!line(&f));
    }

    #[test]
    fn masked_event_leaves_no_trace() {
        let mut f = file();
        f.guest_write(0x44304, u32::MAX);
        assert!(!raise(&mut f, Engine::Bcs, 0x100));
        assert_eq!(f.get(0x44308), 0);
    }

    #[test]
    fn event_that_is_not_enabled_shows_without_an_msi() {
        let mut f = file();
        f.guest_write(0x4430c, 0);
        assert!(!raise(&mut f, Engine::Bcs, 0x100));
        assert_eq!(f.get(0x44308), 0x0100_0000);
        assert!(!line(&f));
    }
}
