//! Commands that move values in and out of registers, compute with them and decide by them.
//!
//! What a command may write goes with its context ([`registers::of_context`]): it finds there what the same context
//! left, and nobody else's. Of the others it may read the clock; the rest are 0 to it.

use super::Refusal;
use super::commands::{OPCODE, Rewrite, bad_length, exactly};
use super::registers::{self, Verdict};
use crate::gen8::cmd::{self, SetPredicate, op};

/// Bits of MI_LOAD_REGISTER_IMM's header that may be set: opcode, posted, length. Not: byte enables.
const LRI_KEPT: u32 = OPCODE | 1 << 12 | 0xff;

impl Rewrite<'_> {
    /// What becomes of a write to a register that `verdict` is about. Without privilege one that is refused does nothing.
    fn may_write(&mut self, verdict: Result<Verdict, Refusal>) -> Result<bool, Refusal> {
        match verdict {
            Ok(Verdict::Write) => {
                self.effects.registers = true;
                Ok(true)
            }
            Ok(Verdict::Ignore) => Ok(false),
            Err(_) if self.unprivileged() => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    pub(super) fn load_register_imm(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, pairs @ ..] = command else { return Err(bad_length(command)) };
        if header & !LRI_KEPT != 0 {
            return Err(Refusal::Mode);
        }
        if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
            return Err(bad_length(command));
        }
        let start = self.out.len();
        self.out.push(header & LRI_KEPT);
        for pair in pairs.chunks_exact(2) {
            let [offset, value] = exactly(pair)?;
            if self.may_write(registers::check(self.terms.engine, offset, value))? {
                self.out.extend([offset, value]);
            }
        }
        let kept = self.out.len() - start - 1;
        if let Some(header) = self.out.get_mut(start) {
            // The length less two; without a pair no command is left.
            *header = match kept {
                0 => cmd::MI_NOOP,
                n => *header & !0xff | u32::try_from(n - 1).unwrap_or(0),
            };
        }
        self.out.resize(start + command.len(), cmd::MI_NOOP);
        Ok(())
    }

    pub(super) fn load_register_mem(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, register, low, high] = exactly(command)?;
        // b21 lets the engine go on before the value is there, which changes nothing for who waits.
        if header & !(OPCODE | cmd::USE_GGTT | 1 << 21 | 0xff) != 0 {
            return Err(Refusal::Mode);
        }
        let addr = cmd::address(low, high);
        let bit = self.reach_mi(header, addr, 4)?;
        match (self.may_write(registers::check_any(self.terms.engine, register))?, bit) {
            (true, Some(bit)) => {
                self.out.extend([op::MI_LOAD_REGISTER_MEM << 23 | bit | 2, register]);
                self.out.extend(cmd::split(addr));
            }
            _ => self.nothing(command),
        }
        Ok(())
    }

    pub(super) fn load_register_reg(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, from, to] = exactly(command)?;
        if header & !(OPCODE | 0xff) != 0 {
            return Err(Refusal::Mode);
        }
        if !self.may_write(registers::check_any(self.terms.engine, to))? {
            self.nothing(command);
        } else if registers::readable(self.terms.engine, from) {
            self.out.extend([header, from, to]);
        } else {
            self.out.extend(cmd::load_register_imm(to, 0));
        }
        Ok(())
    }

    pub(super) fn store_register_mem(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, register, low, high] = exactly(command)?;
        if header & !(OPCODE | cmd::USE_GGTT | cmd::SRM_PREDICATE | 0xff) != 0 {
            return Err(Refusal::Mode);
        }
        let conditional = header & cmd::SRM_PREDICATE;
        self.predicated(conditional != 0)?;
        let addr = cmd::address(low, high);
        let Some(bit) = self.reach_mi(header, addr, 4)? else {
            self.nothing(command);
            return Ok(());
        };
        if registers::readable(self.terms.engine, register) {
            self.effects.registers = true;
            self.out.extend([op::MI_STORE_REGISTER_MEM << 23 | bit | conditional | 2, register]);
            self.out.extend(cmd::split(addr));
        } else if conditional == 0 {
            let [header, low, high, zero] = cmd::store_dword(addr, 0);
            self.out.extend([header & !cmd::USE_GGTT | bit, low, high, zero]);
        } else {
            // There is no store of a constant that asks for the predicate.
            return Err(Refusal::Register(register));
        }
        Ok(())
    }

    pub(super) fn math(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, program @ ..] = command else { return Err(bad_length(command)) };
        if header & !(OPCODE | 0xff) != 0 || !program.iter().all(|i| cmd::alu_is_valid(*i)) {
            return Err(Refusal::Mode);
        }
        self.effects.registers = true;
        self.out.extend(command);
        Ok(())
    }

    pub(super) fn predicate(&mut self, header: u32) -> Result<(), Refusal> {
        const FIELDS: u32 = 3 << 6 | 3 << 3 | 3;
        if header & !(OPCODE | FIELDS) != 0 || cmd::predicate_fields(header).is_none() {
            return Err(Refusal::Mode);
        }
        self.predicated(true)?;
        self.out.push(header);
        Ok(())
    }

    /// It holds until the batch ends. In the ring it would hold for what comes after the guest's commands, too.
    pub(super) fn set_predicate(&mut self, header: u32) -> Result<(), Refusal> {
        if header & !(OPCODE | 0xf) != 0 || SetPredicate::of(header).is_none() || self.in_ring {
            return Err(Refusal::Mode);
        }
        self.predicated(true)?;
        self.out.push(header);
        Ok(())
    }
}
