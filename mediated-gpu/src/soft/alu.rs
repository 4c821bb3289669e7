//! MI_MATH: the command streamer's ALU, over the engine's sixteen registers of 64 bits.
//!
//! Only sums and differences set the flags; a flag is stored as all ones or as 0. Sources, accumulator and flags begin
//! each command as 0. Source: Broadwell PRM volume 2a, MI_MATH; Mesa's `mi_builder.h` for what a stored flag looks like.

use crate::gen8::cmd::{AluOp, AluReg};

/// The first instruction that is none, by its dword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad(pub(super) u32);

#[derive(Default)]
struct Alu {
    a: u64,
    b: u64,
    accu: u64,
    zero: bool,
    carry: bool,
}

fn ones(flag: bool) -> u64 {
    if flag { u64::MAX } else { 0 }
}

/// Executes instructions.
pub(super) fn run(r: &mut [u64; 16], program: impl IntoIterator<Item = u32>) -> Result<(), Bad> {
    let mut alu = Alu::default();
    program.into_iter().try_for_each(|dword| alu.step(r, dword).ok_or(Bad(dword)))
}

impl Alu {
    fn step(&mut self, r: &mut [u64; 16], dword: u32) -> Option<()> {
        let &(_, op) = AluOp::ALL.iter().find(|(code, _)| *code == dword >> 20)?;
        let operand = |shift: u32| AluReg::of(dword >> shift);
        let (a, b) = (self.a, self.b);
        match op {
            AluOp::Noop => {}
            AluOp::Load | AluOp::LoadInv => {
                let value = self.value(r, operand(0)?);
                *self.source(operand(10)?)? = if op == AluOp::LoadInv { !value } else { value };
            }
            AluOp::Load0 => *self.source(operand(10)?)? = 0,
            AluOp::Load1 => *self.source(operand(10)?)? = u64::MAX,
            AluOp::Add => self.sum(a.overflowing_add(b)),
            AluOp::Sub => self.sum(a.overflowing_sub(b)),
            AluOp::And => self.accu = a & b,
            AluOp::Or => self.accu = a | b,
            AluOp::Xor => self.accu = a ^ b,
            AluOp::Store | AluOp::StoreInv => {
                let value = self.value(r, operand(0)?);
                let value = if op == AluOp::StoreInv { !value } else { value };
                match operand(10)? {
                    AluReg::R(n) => *r.get_mut(usize::from(n))? = value,
                    to => *self.source(to)? = value,
                }
            }
        }
        Some(())
    }

    fn sum(&mut self, (value, carry): (u64, bool)) {
        (self.accu, self.zero, self.carry) = (value, value == 0, carry);
    }

    fn source(&mut self, reg: AluReg) -> Option<&mut u64> {
        match reg {
            AluReg::SrcA => Some(&mut self.a),
            AluReg::SrcB => Some(&mut self.b),
            _ => None,
        }
    }

    fn value(&self, r: &[u64; 16], reg: AluReg) -> u64 {
        match reg {
            AluReg::R(n) => r.get(usize::from(n)).copied().unwrap_or(0),
            AluReg::SrcA => self.a,
            AluReg::SrcB => self.b,
            AluReg::Accu => self.accu,
            AluReg::Zf => ones(self.zero),
            AluReg::Cf => ones(self.carry),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gen8::cmd::alu;

    const A: AluReg = AluReg::SrcA;
    const B: AluReg = AluReg::SrcB;
    const R: fn(u8) -> AluReg = AluReg::R;

    /// r2 = r0 op r1; r3 and r4 the flags, r5 the complement of the result.
    fn binary(op: AluOp, x: u64, y: u64) -> [u64; 16] {
        let mut r = [0; 16];
        (r[0], r[1]) = (x, y);
        let program = [
            alu(AluOp::Load, A, R(0)),
            alu(AluOp::Load, B, R(1)),
            alu(op, R(0), R(0)),
            alu(AluOp::Store, R(2), AluReg::Accu),
            alu(AluOp::Store, R(3), AluReg::Zf),
            alu(AluOp::Store, R(4), AluReg::Cf),
            alu(AluOp::StoreInv, R(5), AluReg::Accu),
        ];
        run(&mut r, program).expect("good");
        r
    }

    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0u64..3, Just(u64::MAX)]
    }

    proptest! {
        #[test]
        fn sums_and_differences_have_the_carry_of_128_bits(x in value(), y in value()) {
            let wide = u128::from(x) + u128::from(y);
            let r = binary(AluOp::Add, x, y);
            prop_assert_eq!(u128::from(r[2]), wide & u128::from(u64::MAX));
            prop_assert_eq!(r[4], if wide >> 64 == 1 { u64::MAX } else { 0 });
            prop_assert_eq!(r[3], if r[2] == 0 { u64::MAX } else { 0 });
            let r = binary(AluOp::Sub, x, y);
            prop_assert_eq!((r[2].wrapping_add(y), r[5]), (x, !r[2]));
            prop_assert_eq!(r[4], if x < y { u64::MAX } else { 0 }, "less, as drivers ask it");
            prop_assert_eq!(r[3], if x == y { u64::MAX } else { 0 }, "equal, as drivers ask it");
        }

        #[test]
        fn instruction_is_executed_if_and_only_if_it_is_valid(op in 0usize..13, first in 0u32..0x40, second in 0u32..0x40, any in any::<u32>()) {
            let dword = AluOp::ALL.get(op).map_or(any, |(code, _)| code << 20 | first << 10 | second);
            prop_assert_eq!(run(&mut [0; 16], [dword]).is_ok(), crate::gen8::cmd::alu_is_valid(dword));
        }

        #[test]
        fn logic_is_bit_by_bit_and_leaves_the_flags(x in value(), y in value(), bit in 0u32..64) {
            for (op, table) in [(AluOp::And, 0b1000), (AluOp::Or, 0b1110), (AluOp::Xor, 0b0110)] {
                let r = binary(op, x, y);
                let row = (x >> bit & 1) << 1 | y >> bit & 1;
                prop_assert_eq!(r[2] >> bit & 1, table >> row & 1);
                prop_assert_eq!((r[3], r[4]), (0, 0));
            }
        }

        #[test]
        fn any_dwords_execute_or_are_refused(program in prop::collection::vec(any::<u32>(), 0..64)) {
            let mut r = [1; 16];
            if let Err(Bad(dword)) = run(&mut r, program.iter().copied()) {
                prop_assert!(program.contains(&dword));
            }
        }
    }

    #[test]
    fn loads_take_registers_constants_and_complements() {
        let mut r = [0; 16];
        r[7] = 0x0123_4567_89ab_cdef;
        let keep = |n, reg| [alu(AluOp::Store, R(n), reg)];
        let program = [
            &[alu(AluOp::LoadInv, A, R(7)), alu(AluOp::Load1, B, B)][..],
            &keep(0, A),
            &keep(1, B),
            &[alu(AluOp::Load0, B, B), alu(AluOp::Noop, A, A)],
            &keep(2, B),
        ]
        .concat();
        run(&mut r, program).expect("good");
        assert_eq!(r[..3], [!r[7], u64::MAX, 0]);
    }

    #[test]
    fn instruction_or_operand_that_is_none_is_refused_after_those_before_it() {
        let first = alu(AluOp::Store, R(1), AluReg::Zf) | 0x580 << 20;
        for bad in [
            0x0ff << 20,
            alu(AluOp::Load, R(1), R(2)),
            alu(AluOp::Load, A, R(1)) | 0x40,
            alu(AluOp::Store, AluReg::Zf, A),
        ] {
            let mut r = [0; 16];
            assert_eq!(run(&mut r, [first, bad, first]), Err(Bad(bad)));
            assert_eq!(r[1], u64::MAX);
        }
    }
}
