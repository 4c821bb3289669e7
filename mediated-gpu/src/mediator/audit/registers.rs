//! The registers that commands may read and write, and which of their bits.
//!
//! A register is on the list if it is the engine's own, belongs to the context, and cannot be felt by anyone else.
//! Those on the list go with the context: each finds in them what it left.

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
    // What MI_PREDICATE compares, and what it came to.
    Allowed {
        first: engine::MI_PREDICATE_RESULT_2,
        end: engine::MI_PREDICATE_RESULT_2 + 4,
        only: Some(Engine::Rcs),
        bits: u32::MAX,
    },
    Allowed {
        first: engine::MI_PREDICATE_SRC0,
        end: engine::MI_PREDICATE_RESULT_1 + 4,
        only: Some(Engine::Rcs),
        bits: u32::MAX,
    },
    // What MI_MATH computes with, and MI_ATOMIC.
    Allowed {
        first: engine::GEN8_RING_CS_GPR,
        end: engine::GEN8_RING_CS_GPR + 16 * 8,
        only: None,
        bits: u32::MAX,
    },
];

/// Registers that may be read and not written, by their offset from the engine's base: the clock.
const CLOCK: [u32; 2] = [engine::RING_TIMESTAMP, engine::RING_TIMESTAMP_UDW];

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

/// The rule for the register at byte `offset` in BAR0, if there is one and it is `engine`'s.
fn rule(engine: Engine, offset: u32) -> Option<(&'static Allowed, &'static RegDef)> {
    let (owner, rel) = Engine::of_mmio(offset).filter(|_| offset.is_multiple_of(4))?;
    let applies = |a: &&Allowed| (a.first..a.end).contains(&rel) && a.only.is_none_or(|only| only == engine);
    let rule = LIST.iter().find(applies).filter(|_| owner == engine)?;
    regs::find(engine::TABLE, rel).map(|(def, _)| (rule, def))
}

fn ignored(engine: Engine, offset: u32) -> bool {
    let within = |(first, end): &(u32, u32)| (*first..*end).contains(&offset);
    engine == Engine::Rcs && offset.is_multiple_of(4) && IGNORED.iter().any(within)
}

/// Whether `engine` may write `value` to the register at byte `offset` in BAR0.
pub(super) fn check(engine: Engine, offset: u32, value: u32) -> Result<Verdict, Refusal> {
    match rule(engine, offset) {
        Some((rule, def)) if def.access == Access::Masked && value >> 16 & !rule.bits != 0 => {
            Err(Refusal::Register(offset))
        }
        Some(_) => Ok(Verdict::Write),
        None if ignored(engine, offset) => Ok(Verdict::Ignore),
        None => Err(Refusal::Register(offset)),
    }
}

/// As [`check`], for a value that nobody knows yet.
pub(super) fn check_any(engine: Engine, offset: u32) -> Result<Verdict, Refusal> {
    match rule(engine, offset) {
        Some((rule, _)) if rule.bits == u32::MAX => Ok(Verdict::Write),
        None if ignored(engine, offset) => Ok(Verdict::Ignore),
        _ => Err(Refusal::Register(offset)),
    }
}

/// Whether `engine` may read the register at byte `offset` in BAR0. Others are 0 to it.
pub(super) fn readable(engine: Engine, offset: u32) -> bool {
    rule(engine, offset).is_some()
        || Engine::of_mmio(offset).is_some_and(|(owner, rel)| owner == engine && CLOCK.contains(&rel))
}

/// The registers that go with a context of `engine`: byte offset in BAR0, and the bits that count; of a masked one the
/// upper half says which are written.
pub(crate) fn of_context(engine: Engine) -> impl Iterator<Item = ContextRegister> {
    let of = move |a: &Allowed| a.only.is_none_or(|only| only == engine);
    LIST.iter().filter(move |a| of(a)).flat_map(move |a| {
        (a.first..a.end).step_by(4).filter_map(move |rel| {
            let (def, _) = regs::find(engine::TABLE, rel)?;
            let masked = def.access == Access::Masked;
            Some(ContextRegister { offset: engine.mmio_base() + rel, bits: a.bits, masked })
        })
    })
}

/// One of [`of_context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContextRegister {
    /// Byte offset in BAR0.
    pub(crate) offset: u32,
    bits: u32,
    masked: bool,
}

impl ContextRegister {
    /// What is to be written so that the register holds `value`, as far as its bits count.
    pub(crate) fn write(self, value: u32) -> u32 {
        if self.masked { self.bits << 16 | value & self.bits } else { value & self.bits }
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
