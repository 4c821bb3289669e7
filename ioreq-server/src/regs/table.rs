//! The rows: what a register is, and the macro that declares them.

use crate::device::Width;

/// How a register takes a guest's access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A write is lost.
    ReadOnly,
    /// Reads what was written, in the bits of [`Reg::mask`]; the others keep what the device put there.
    ReadWrite,
    /// A one clears that bit, in the bits of [`Reg::mask`].
    WriteOneClear,
    /// As [`ReadOnly`](Self::ReadOnly), and a read clears the bits of [`Reg::mask`] that it gets to see.
    ReadClear,
    /// The upper half of what is written says which bits of the lower half change; reads give the lower half. Only bits of
    /// [`Reg::mask`] change.
    Masked,
    /// A write does something, and changes nothing by itself: the device is told what was written.
    Trigger,
}

/// One register, or a few equal ones side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    /// What the device's manual calls it.
    pub name: &'static str,
    /// Byte offset of the first, a multiple of the width.
    pub offset: u32,
    /// Of each.
    pub width: Width,
    /// How many.
    pub count: u32,
    /// How each takes an access.
    pub rule: Rule,
    /// What each is after a reset.
    pub reset: u64,
    /// The bits that a guest can change; see [`Rule`].
    pub mask: u64,
}

impl Reg {
    /// The first byte after it.
    pub const fn end(&self) -> u64 {
        self.offset as u64 + self.width.bytes() as u64 * self.count as u64
    }

    /// What becomes of `old` when the bits `bits` of `value` are written.
    pub(super) fn written(&self, old: u64, value: u64, bits: u64) -> u64 {
        let (value, mask) = (value & bits, self.mask & self.width.mask());
        match self.rule {
            Rule::ReadOnly | Rule::ReadClear | Rule::Trigger => old,
            Rule::ReadWrite => old & !(bits & mask) | value & mask,
            Rule::WriteOneClear => old & !(value & mask),
            Rule::Masked => {
                let select = value >> (4 * self.width.bytes()) & mask;
                old & !select | value & select
            }
        }
    }
}

/// Whether the rows of a table are in ascending order, do not overlap, are aligned, and say nothing of bits that they do not
/// have. [`registers!`](crate::registers) asks this at compile time.
pub const fn is_sound(table: &[Reg]) -> bool {
    let mut end = 0;
    let mut i = 0;
    while i < table.len() {
        let reg = &table[i];
        let aligned = reg.offset.is_multiple_of(reg.width.bytes());
        let inside = (reg.reset | reg.mask) & !reg.width.mask() == 0;
        // The upper half of the narrowest masked register selects.
        let masked = !matches!(reg.rule, Rule::Masked) || reg.mask >> (4 * reg.width.bytes()) == 0;
        if !aligned || !inside || !masked || reg.count == 0 || (reg.offset as u64) < end {
            return false;
        }
        end = reg.end();
        i += 1;
    }
    true
}

/// Declares a table of registers: a module with a constant for each one's offset, and `TABLE`.
///
/// ```
/// ioreq_server::registers! {
///     /// Of a timer.
///     pub mod timer;
///     CTRL = 0x00, Dword, ReadWrite { mask: 0x3 }, "b0 run, b1 interrupt at the end.";
///     STATUS = 0x04, Dword, WriteOneClear { mask: 0x1 }, "b0 the time is over.";
///     COUNT = 0x08, Qword, ReadOnly { reset: 100 }, "Ticks that are left.";
///     SCRATCH = 0x10 [4], Word, ReadWrite, "Nothing.";
///     GO = 0x20, Byte, Trigger, "A write starts it anew.";
/// }
/// assert_eq!(timer::STATUS, 4);
/// assert_eq!(timer::TABLE[3].end(), 0x18);
/// ```
///
/// Offset, in brackets how many of them side by side (1), width, [`Rule`](crate::regs::Rule) with the value after a
/// reset (0) and the bits that a guest can change (all of them; the lower half of a masked one), and what it is. A
/// table that is not [sound](crate::regs::is_sound) does not compile:
///
/// ```compile_fail
/// ioreq_server::registers! {
///     /// Two registers in one place.
///     pub mod wrong;
///     A = 0, Dword, ReadWrite, "A";
///     B = 2, Word, ReadWrite, "B";
/// }
/// ```
#[macro_export]
macro_rules! registers {
    (
        $(#[$meta:meta])* $vis:vis mod $module:ident;
        $($name:ident = $offset:literal $([$count:literal])?, $width:ident, $rule:ident
            $({ $($field:ident : $value:expr),* $(,)? })?, $doc:literal;)*
    ) => {
        $(#[$meta])*
        #[allow(unreachable_pub, reason = "the module's own visibility decides")]
        $vis mod $module {
            $(#[doc = $doc] #[allow(dead_code, reason = "a table is complete")] pub const $name: u32 = $offset;)*
            /// The registers, by ascending offset.
            pub static TABLE: &[$crate::regs::Reg] = {
                const ROWS: &[$crate::regs::Reg] = &[$({
                    #[allow(unused_mut, reason = "most rows say nothing of reset and mask")]
                    let mut reg = $crate::regs::Reg {
                        name: stringify!($name),
                        offset: $offset,
                        width: $crate::Width::$width,
                        count: 1 $(- 1 + $count)?,
                        rule: $crate::regs::Rule::$rule,
                        reset: 0,
                        mask: $crate::regs::all_bits($crate::Width::$width, $crate::regs::Rule::$rule),
                    };
                    $($(reg.$field = $value;)*)?
                    reg
                }),*];
                const { assert!($crate::regs::is_sound(ROWS), "the table of registers is not sound") };
                ROWS
            };
        }
    };
}

/// The bits that a guest can change unless the table says otherwise.
#[doc(hidden)]
pub const fn all_bits(width: Width, rule: Rule) -> u64 {
    match rule {
        Rule::Masked => width.mask() >> (4 * width.bytes()),
        _ => width.mask(),
    }
}
