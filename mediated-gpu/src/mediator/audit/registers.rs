//! The registers that commands may write, and which of their bits.
//!
//! A register is on the list if it is the engine's own, belongs to the context, and cannot be felt by anyone else.

use super::Refusal;
use crate::gen8::regs::{self, Access, RegDef, engine};
use crate::physical::Engine;

/// A register that may be written, by its offset from the engine's base.
struct Allowed {
    first: u32,
    /// First byte after the registers.
    end: u32,
    /// Only this engine, or all.
    only: Option<Engine>,
    /// Bits that a masked register may change; of others, all.
    bits: u32,
}

const LIST: &[Allowed] = &[
    // How the blitter's next commands see tiles.
    Allowed { first: engine::BCS_SWCTRL, end: engine::BCS_SWCTRL + 4, only: Some(Engine::Bcs), bits: 0b11 },
    // Scratch values of the command streamer; nothing that is allowed reads them.
    Allowed {
        first: engine::GEN8_RING_CS_GPR,
        end: engine::GEN8_RING_CS_GPR + 16 * 8,
        only: None,
        bits: u32::MAX,
    },
];

/// Registers of the render engine's units, first byte and end: a driver sets them up in every context, and there is
/// nothing that they change. As in i915's list of workarounds, from `gen8_ctx_workarounds_init` on.
const IGNORED: &[(u32, u32)] = &[
    (0x209c, 0x20a0), // RING_MI_MODE
    (0x20c0, 0x20c4), // INSTPM
    (0x7000, 0x8000), // CACHE_MODE_0, CACHE_MODE_1, GT_MODE, HDC_CHICKEN0 and their kind
    (0xb000, 0xb200), // L3
    (0xe100, 0xe800), // HALF_SLICE_CHICKEN3, ROW_CHICKEN and their kind
];

/// What becomes of a write that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done.
    Write,
    /// Nothing: the register does nothing.
    Ignore,
}

/// Whether `engine` may write `value` to the register at byte `offset` in BAR0.
pub(super) fn check(engine: Engine, offset: u32, value: u32) -> Result<Verdict, Refusal> {
    let no = Err(Refusal::Register(offset));
    if !offset.is_multiple_of(4) {
        return no;
    }
    if engine == Engine::Rcs && IGNORED.iter().any(|(first, end)| (*first..*end).contains(&offset)) {
        return Ok(Verdict::Ignore);
    }
    let Some((owner, rel)) = Engine::of_mmio(offset) else { return no };
    if owner != engine {
        return no;
    }
    let rule =
        LIST.iter().find(|a| (a.first..a.end).contains(&rel) && a.only.is_none_or(|only| only == engine));
    match (rule, regs::find(engine::TABLE, rel)) {
        (Some(rule), Some((RegDef { access: Access::Masked, .. }, _))) if value >> 16 & !rule.bits != 0 => no,
        (Some(_), Some(_)) => Ok(Verdict::Write),
        _ => no,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_names_registers_of_the_tables() {
        for a in LIST {
            for rel in (a.first..a.end).step_by(4) {
                assert!(regs::find(engine::TABLE, rel).is_some(), "{rel:#x}");
            }
        }
    }

    #[test]
    fn own_harmless_register_may_be_written_and_nothing_else() {
        assert_eq!(check(Engine::Bcs, 0x22200, 0x0003_0000), Ok(Verdict::Write));
        assert_eq!(check(Engine::Vcs, 0x12600, 7), Ok(Verdict::Write));
        assert_eq!(check(Engine::Rcs, 0x7300, 0x0280_0200), Ok(Verdict::Ignore));
        for (offset, value) in [
            (0x7300, 0),            // of the render engine's units
            (0x22200, 0x0004_0004), // a bit beyond the rule
            (0x22600 + 1, 0),       // not aligned
            (0x12600, 0),           // another engine's
            (0x2209c, 0x0100_0100), // stop the ring
            (0x22080, 0),           // status page
            (0x22230, 1),           // submit port
            (0x9430, 0),            // clock gating of all
            (0x941c, 1),            // reset
            (0x78818, 4),           // PVINFO
            (u32::MAX - 3, 0),
        ] {
            assert_eq!(check(Engine::Bcs, offset, value), Err(Refusal::Register(offset)));
        }
        assert!(check(Engine::Rcs, 0x2200, 0).is_err());
    }
}
