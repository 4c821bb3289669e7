//! Fields of the commands that compute, compare and wait: MI_MATH, MI_ATOMIC, MI_SEMAPHORE_WAIT, predicates.
//!
//! Sources: i915 `gt/intel_gpu_commands.h`, Mesa's `gen8.xml`, Intel's media driver `mhw_mi_hwcmd_g8_X.h`.

use super::{mi, op, split};
use crate::physical::Engine;

/// What an ALU instruction of MI_MATH does: bits 31:20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AluOp {
    /// 0x000: nothing.
    Noop,
    /// 0x080: source A or B becomes a register.
    Load,
    /// 0x480: source A or B becomes a register's complement.
    LoadInv,
    /// 0x081: source A or B becomes 0.
    Load0,
    /// 0x481: source A or B becomes all ones.
    Load1,
    /// 0x100: the accumulator becomes A + B.
    Add,
    /// 0x101: the accumulator becomes A - B.
    Sub,
    /// 0x102: the accumulator becomes A & B.
    And,
    /// 0x103: the accumulator becomes A | B.
    Or,
    /// 0x104: the accumulator becomes A ^ B.
    Xor,
    /// 0x180: a register becomes the accumulator or a flag.
    Store,
    /// 0x580: a register becomes their complement.
    StoreInv,
}

impl AluOp {
    /// All of them, with their codes.
    pub const ALL: [(u32, Self); 12] = [
        (0x000, Self::Noop),
        (0x080, Self::Load),
        (0x480, Self::LoadInv),
        (0x081, Self::Load0),
        (0x481, Self::Load1),
        (0x100, Self::Add),
        (0x101, Self::Sub),
        (0x102, Self::And),
        (0x103, Self::Or),
        (0x104, Self::Xor),
        (0x180, Self::Store),
        (0x580, Self::StoreInv),
    ];
}

/// An operand of an ALU instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AluReg {
    /// 0x00 to 0x0f: a general purpose register of the engine.
    R(u8),
    /// 0x20: source A.
    SrcA,
    /// 0x21: source B.
    SrcB,
    /// 0x31: the accumulator.
    Accu,
    /// 0x32: the last sum or difference was zero: all ones, else 0.
    Zf,
    /// 0x33: the last sum carried, or the last difference borrowed: all ones, else 0.
    Cf,
}

impl AluReg {
    /// The operand's field; `None`: no such operand.
    pub const fn of(field: u32) -> Option<Self> {
        Some(match field & 0x3ff {
            #[expect(clippy::cast_possible_truncation, reason = "below 16")]
            n @ 0..=0xf => Self::R(n as u8),
            0x20 => Self::SrcA,
            0x21 => Self::SrcB,
            0x31 => Self::Accu,
            0x32 => Self::Zf,
            0x33 => Self::Cf,
            _ => return None,
        })
    }

    const fn field(self) -> u32 {
        match self {
            Self::R(n) => n as u32 & 0xf,
            Self::SrcA => 0x20,
            Self::SrcB => 0x21,
            Self::Accu => 0x31,
            Self::Zf => 0x32,
            Self::Cf => 0x33,
        }
    }
}

/// An ALU instruction: what, and its operands in 19:10 and 9:0.
pub fn alu(op: AluOp, first: AluReg, second: AluReg) -> u32 {
    let code = AluOp::ALL.iter().find(|(_, o)| *o == op).map_or(0, |(code, _)| *code);
    code << 20 | first.field() << 10 | second.field()
}

/// Whether a dword is an ALU instruction, with operands that it can have.
pub fn alu_is_valid(dword: u32) -> bool {
    let Some((_, op)) = AluOp::ALL.iter().find(|(code, _)| *code == dword >> 20) else { return false };
    let (first, second) = (AluReg::of(dword >> 10), AluReg::of(dword));
    let source = matches!(first, Some(AluReg::SrcA | AluReg::SrcB));
    match op {
        AluOp::Noop | AluOp::Add | AluOp::Sub | AluOp::And | AluOp::Or | AluOp::Xor => true,
        AluOp::Load0 | AluOp::Load1 => source,
        AluOp::Load | AluOp::LoadInv => source && second.is_some(),
        AluOp::Store | AluOp::StoreInv => (source || matches!(first, Some(AluReg::R(_)))) && second.is_some(),
    }
}

/// The header of MI_MATH with so many ALU instructions.
pub const fn math(instructions: u32) -> u32 {
    mi(op::MI_MATH, instructions + 1)
}

/// What MI_ATOMIC does: bits 12:8. D is what memory holds, A and B are the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    /// 1: D & A.
    And,
    /// 2: D | A.
    Or,
    /// 3: D ^ A.
    Xor,
    /// 4: A.
    Move,
    /// 5: D + 1.
    Inc,
    /// 6: D - 1.
    Dec,
    /// 7: D + A.
    Add,
    /// 8: D - A.
    Sub,
    /// 9: A - D.
    RSub,
    /// 10: the greater of D and A, signed.
    IMax,
    /// 11: the lesser of D and A, signed.
    IMin,
    /// 12: the greater of D and A.
    UMax,
    /// 13: the lesser of D and A.
    UMin,
    /// 14: B if D is A, else D.
    CmpWr,
}

impl AtomicOp {
    /// All of them, from number 1 on.
    pub const ALL: [Self; 14] = [
        Self::And,
        Self::Or,
        Self::Xor,
        Self::Move,
        Self::Inc,
        Self::Dec,
        Self::Add,
        Self::Sub,
        Self::RSub,
        Self::IMax,
        Self::IMin,
        Self::UMax,
        Self::UMin,
        Self::CmpWr,
    ];
}

/// How much MI_ATOMIC changes: bits 20:19, said again in bits 14:13 of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicSize {
    /// 0: a dword.
    Dword,
    /// 1: a quadword.
    Qword,
}

impl AtomicSize {
    /// Dwords.
    pub const fn dwords(self) -> u32 {
        match self {
            Self::Dword => 1,
            Self::Qword => 2,
        }
    }
}

/// MI_ATOMIC b18: the operands stand in the command, dword by dword in turn. Else in GPR 0 and 2.
pub const ATOMIC_INLINE: u32 = 1 << 18;
/// MI_ATOMIC b16: what memory held goes to GPR 4.
pub const ATOMIC_RETURN: u32 = 1 << 16;

/// What a header of MI_ATOMIC asks for; `None`: no such operation, or one of 16 bytes.
pub fn atomic_fields(header: u32) -> Option<(AtomicOp, AtomicSize)> {
    let (code, size) = ((header >> 8) & 0xff, (header >> 19) & 3);
    let size = match (size, code >> 5) {
        (0, 0) => AtomicSize::Dword,
        (1, 1) => AtomicSize::Qword,
        _ => return None,
    };
    let at = usize::try_from(code & 0x1f).ok()?.checked_sub(1)?;
    Some((*AtomicOp::ALL.get(at)?, size))
}

/// MI_ATOMIC on a GGTT address with operands in the command.
pub fn atomic(addr: u64, atomic: AtomicOp, size: AtomicSize, a: u64, b: u64) -> Vec<u32> {
    let code = AtomicOp::ALL.iter().zip(1u32..).find(|(o, _)| **o == atomic).map_or(0, |(_, n)| n);
    let wide = u32::from(size == AtomicSize::Qword);
    let ([lo, hi], a, b) = (split(addr), split(a), split(b));
    let n = 3 + 2 * size.dwords();
    let header =
        mi(op::MI_ATOMIC, n) | super::USE_GGTT | ATOMIC_INLINE | wide << 19 | (wide << 5 | code) << 8;
    let operands = [a[0], b[0], a[1], b[1]];
    let mut all = vec![header, lo, hi];
    all.extend(operands.into_iter().take(if wide == 1 { 4 } else { 2 }));
    all
}

/// What MI_SEMAPHORE_WAIT waits for: bits 14:12, memory on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// 0: memory is greater.
    Greater,
    /// 1: memory is not less.
    GreaterOrEqual,
    /// 2: memory is less.
    Less,
    /// 3: memory is not greater.
    LessOrEqual,
    /// 4: both are equal.
    Equal,
    /// 5: they are not.
    NotEqual,
}

impl Compare {
    /// Reads the field; `None`: reserved.
    pub const fn of(header: u32) -> Option<Self> {
        Some(match (header >> 12) & 7 {
            0 => Self::Greater,
            1 => Self::GreaterOrEqual,
            2 => Self::Less,
            3 => Self::LessOrEqual,
            4 => Self::Equal,
            5 => Self::NotEqual,
            _ => return None,
        })
    }
    /// Whether it holds for what memory has and what the command says.
    pub const fn holds(self, memory: u32, data: u32) -> bool {
        match self {
            Self::Greater => memory > data,
            Self::GreaterOrEqual => memory >= data,
            Self::Less => memory < data,
            Self::LessOrEqual => memory <= data,
            Self::Equal => memory == data,
            Self::NotEqual => memory != data,
        }
    }
}

/// MI_SEMAPHORE_WAIT b15: look at memory again and again. Else when signalled.
pub const SEMAPHORE_POLL: u32 = 1 << 15;

/// MI_SEMAPHORE_WAIT on a GGTT address, polling.
pub const fn semaphore_wait(addr: u64, compare: Compare, data: u32) -> [u32; 4] {
    let [lo, hi] = split(addr);
    [mi(op::MI_SEMAPHORE_WAIT, 4) | super::USE_GGTT | SEMAPHORE_POLL | (compare as u32) << 12, data, lo, hi]
}

/// The engine that MI_SEMAPHORE_SIGNAL means: bits 17:15. `None`: there is none.
pub const fn signalled(header: u32) -> Option<Engine> {
    Some(match (header >> 15) & 7 {
        0 => Engine::Rcs,
        1 => Engine::Vcs,
        2 => Engine::Bcs,
        3 => Engine::Vecs,
        _ => return None,
    })
}

/// MI_CONDITIONAL_BATCH_BUFFER_END b21: compare; else the command does nothing.
pub const COND_COMPARE: u32 = 1 << 21;
/// MI_STORE_REGISTER_MEM b21: only if the predicate is set.
pub const SRM_PREDICATE: u32 = 1 << 21;
/// MI_STORE_DATA_INDEX b21: into the context's own status page.
pub const INDEX_OWN_PAGE: u32 = 1 << 21;

/// MI_CONDITIONAL_BATCH_BUFFER_END on a GGTT address: the batch ends unless memory is greater.
pub const fn conditional_batch_buffer_end(addr: u64, data: u32) -> [u32; 4] {
    let [lo, hi] = split(addr);
    [mi(op::MI_CONDITIONAL_BATCH_BUFFER_END, 4) | super::USE_GGTT | COND_COMPARE, data, lo, hi]
}

/// What MI_PREDICATE makes of the comparison's answer: bits 7:6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredicateLoad {
    /// 0: nothing, the predicate stays.
    Keep,
    /// 2: the answer.
    Load,
    /// 3: its opposite.
    LoadInv,
}

/// How MI_PREDICATE joins it to the predicate: bits 4:3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredicateCombine {
    /// 0: it is the new predicate.
    Set,
    /// 1: both.
    And,
    /// 2: either.
    Or,
    /// 3: one and not the other.
    Xor,
}

/// What MI_PREDICATE compares: bits 1:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredicateCompare {
    /// 0: nothing, the answer is yes.
    True,
    /// 1: nothing, the answer is no.
    False,
    /// 2: sources 0 and 1 are equal.
    SourcesEqual,
    /// 3: source 0 less source 1 is the data register.
    DeltasEqual,
}

/// The fields of MI_PREDICATE; `None`: a reserved one.
pub const fn predicate_fields(header: u32) -> Option<(PredicateLoad, PredicateCombine, PredicateCompare)> {
    let load = match (header >> 6) & 3 {
        0 => PredicateLoad::Keep,
        2 => PredicateLoad::Load,
        3 => PredicateLoad::LoadInv,
        _ => return None,
    };
    let combine = match (header >> 3) & 3 {
        0 => PredicateCombine::Set,
        1 => PredicateCombine::And,
        2 => PredicateCombine::Or,
        _ => PredicateCombine::Xor,
    };
    let compare = match header & 3 {
        0 => PredicateCompare::True,
        1 => PredicateCompare::False,
        2 => PredicateCompare::SourcesEqual,
        _ => PredicateCompare::DeltasEqual,
    };
    Some((load, combine, compare))
}

/// When MI_SET_PREDICATE makes the commands after it do nothing: bits 3:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SetPredicate {
    /// 0: never.
    #[default]
    Never,
    /// 1: MI_PREDICATE_RESULT_2 is clear.
    Result2Clear,
    /// 2: MI_PREDICATE_RESULT_2 is set.
    Result2Set,
    /// 3: MI_PREDICATE_RESULT is clear.
    ResultClear,
    /// 4: MI_PREDICATE_RESULT is set.
    ResultSet,
    /// 5, 6, 7: unless there are so many slices.
    UnlessSlices(u32),
    /// 15: always.
    Always,
}

impl SetPredicate {
    /// Reads the field; `None`: reserved.
    pub const fn of(header: u32) -> Option<Self> {
        Some(match header & 0xf {
            0 => Self::Never,
            1 => Self::Result2Clear,
            2 => Self::Result2Set,
            3 => Self::ResultClear,
            4 => Self::ResultSet,
            n @ 5..=7 => Self::UnlessSlices(n - 4),
            15 => Self::Always,
            _ => return None,
        })
    }
}
