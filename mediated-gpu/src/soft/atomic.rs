//! MI_ATOMIC's arithmetic: what memory holds after an operation.

use crate::gen8::cmd::AtomicOp;

/// What becomes of `d` with operands `a` and `b`, at `bits` bits (32 or 64). Bits above are not looked at.
pub(super) fn apply(op: AtomicOp, bits: u32, d: u64, a: u64, b: u64) -> u64 {
    let shift = 64 - bits;
    // Moved to the top the sign is the word's own, and order, sums and equality are as they were.
    let (d, a, b, one) = (d << shift, a << shift, b << shift, 1 << shift);
    let signed = u64::cast_signed;
    let result = match op {
        AtomicOp::And => d & a,
        AtomicOp::Or => d | a,
        AtomicOp::Xor => d ^ a,
        AtomicOp::Move => a,
        AtomicOp::Inc => d.wrapping_add(one),
        AtomicOp::Dec => d.wrapping_sub(one),
        AtomicOp::Add => d.wrapping_add(a),
        AtomicOp::Sub => d.wrapping_sub(a),
        AtomicOp::RSub => a.wrapping_sub(d),
        AtomicOp::IMax => signed(d).max(signed(a)).cast_unsigned(),
        AtomicOp::IMin => signed(d).min(signed(a)).cast_unsigned(),
        AtomicOp::UMax => d.max(a),
        AtomicOp::UMin => d.min(a),
        AtomicOp::CmpWr if d == a => b,
        AtomicOp::CmpWr => d,
    };
    result >> shift
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same at 32 bits, as a program would write it.
    fn naive(op: AtomicOp, d: u32, a: u32, b: u32) -> u32 {
        match op {
            AtomicOp::And => d & a,
            AtomicOp::Or => d | a,
            AtomicOp::Xor => d ^ a,
            AtomicOp::Move => a,
            AtomicOp::Inc => d.wrapping_add(1),
            AtomicOp::Dec => d.wrapping_sub(1),
            AtomicOp::Add => d.wrapping_add(a),
            AtomicOp::Sub => d.wrapping_sub(a),
            AtomicOp::RSub => a.wrapping_sub(d),
            AtomicOp::IMax => {
                if d.cast_signed() > a.cast_signed() {
                    d
                } else {
                    a
                }
            }
            AtomicOp::IMin => {
                if d.cast_signed() < a.cast_signed() {
                    d
                } else {
                    a
                }
            }
            AtomicOp::UMax => {
                if d > a {
                    d
                } else {
                    a
                }
            }
            AtomicOp::UMin => {
                if d < a {
                    d
                } else {
                    a
                }
            }
            AtomicOp::CmpWr => {
                if d == a {
                    b
                } else {
                    d
                }
            }
        }
    }

    /// At 64 bits by way of 128, where nothing wraps.
    fn naive_wide(op: AtomicOp, d: u64, a: u64, b: u64) -> u64 {
        let (wd, wa) = (i128::from(d), i128::from(a));
        let (sd, sa) = (i128::from(d.cast_signed()), i128::from(a.cast_signed()));
        let wide = match op {
            AtomicOp::Inc => wd + 1,
            AtomicOp::Dec => wd - 1,
            AtomicOp::Add => wd + wa,
            AtomicOp::Sub => wd - wa,
            AtomicOp::RSub => wa - wd,
            AtomicOp::IMax => sd.max(sa),
            AtomicOp::IMin => sd.min(sa),
            AtomicOp::UMax => wd.max(wa),
            AtomicOp::UMin => wd.min(wa),
            AtomicOp::And => wd & wa,
            AtomicOp::Or => wd | wa,
            AtomicOp::Xor => wd ^ wa,
            AtomicOp::Move => wa,
            AtomicOp::CmpWr => i128::from(if d == a { b } else { d }),
        };
        u64::try_from(wide.cast_unsigned() & u128::from(u64::MAX)).expect("64 bits")
    }

    fn value() -> impl Strategy<Value = u64> {
        let half = Just(0x8000_0000);
        prop_oneof![any::<u64>(), 0u64..4, half, Just(u64::MAX), Just(1 << 63)]
    }

    proptest! {
        #[test]
        fn every_operation_is_that_of_a_plain_word(op in 0usize..14, d in value(), a in value(), b in value(), same in any::<bool>()) {
            let (op, a) = (AtomicOp::ALL[op], if same { d } else { a });
            let low = |v: u64| (v & 0xffff_ffff) as u32;
            prop_assert_eq!(apply(op, 32, d, a, b), u64::from(naive(op, low(d), low(a), low(b))));
            prop_assert_eq!(apply(op, 64, d, a, b), naive_wide(op, d, a, b));
        }
    }
}
