//! Commands whose data are in memory: stores, copies, atomic operations, waits.

use super::Refusal;
use super::commands::{Flow, OPCODE, Rewrite, aligned, bad_length, exactly};
use crate::gen8::cmd::{self, AtomicSize, Compare, op};

/// Bits of MI_ATOMIC's header that may be set: opcode, size, operands in the command, stall, answer, operation, length.
const ATOMIC_KEPT: u32 = OPCODE | 3 << 19 | cmd::ATOMIC_INLINE | 1 << 17 | cmd::ATOMIC_RETURN | 0xffff;

impl Rewrite<'_> {
    pub(super) fn store_data_imm(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, low, high, data @ ..] = command else { return Err(bad_length(command)) };
        let qword = header & cmd::SDI_QWORD != 0;
        if (qword && (data.is_empty() || !data.len().is_multiple_of(2))) || (!qword && data.len() != 1) {
            return Err(bad_length(command));
        }
        let addr = cmd::address(*low, *high);
        aligned(addr, if qword { 8 } else { 4 })?;
        let Some(bit) = self.reach_mi(*header, addr, 4 * data.len() as u64)? else {
            self.nothing(command);
            return Ok(());
        };
        self.out.push(header & (OPCODE | cmd::SDI_QWORD | 0x3ff) | bit);
        self.out.extend(cmd::split(addr));
        self.out.extend(data);
        Ok(())
    }

    /// Only into the context's own status page, where its address says the same. The engine's is the mediator's.
    pub(super) fn store_data_index(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, offset, data @ ..] = command else { return Err(bad_length(command)) };
        let addr = self.terms.status_page.saturating_add(u64::from(offset & 0xffc));
        if header & cmd::INDEX_OWN_PAGE == 0 {
            return Err(Refusal::NotAllowed);
        }
        let [low, high] = cmd::split(addr);
        match *data {
            [value] => self.store_data_imm(&[cmd::store_dword(0, 0)[0], low, high, value]),
            [value, upper] => self.store_data_imm(&[cmd::store_qword(0, 0)[0], low & !7, high, value, upper]),
            _ => Err(bad_length(command)),
        }
    }

    pub(super) fn copy_mem_mem(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, to_low, to_high, from_low, from_high] = exactly(command)?;
        let (to, from) = (cmd::address(to_low, to_high), cmd::address(from_low, from_high));
        // Both bits where `reach_mi` looks for one.
        let to_header = if header & cmd::COPY_DST_GGTT == 0 { 0 } else { cmd::USE_GGTT };
        let (Some(from_bit), Some(to_bit)) =
            (self.reach_mi(header, from, 4)?, self.reach_mi(to_header, to, 4)?)
        else {
            self.nothing(command);
            return Ok(());
        };
        let to_bit = if to_bit == 0 { 0 } else { cmd::COPY_DST_GGTT };
        self.out.push(header & (OPCODE | 0xff) | from_bit | to_bit);
        self.out.extend(cmd::split(to));
        self.out.extend(cmd::split(from));
        Ok(())
    }

    pub(super) fn atomic(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, low, high, operands @ ..] = command else { return Err(bad_length(command)) };
        let (_, size) = cmd::atomic_fields(*header).ok_or(Refusal::Mode)?;
        if header & !(ATOMIC_KEPT | cmd::USE_GGTT) != 0 {
            return Err(Refusal::Mode);
        }
        let inline = header & cmd::ATOMIC_INLINE != 0;
        // With operands in the command there are those of the size, or of the largest one.
        let good = match (inline, size) {
            (false, _) => operands.is_empty(),
            (true, AtomicSize::Dword) => matches!(operands.len(), 2 | 8),
            (true, AtomicSize::Qword) => matches!(operands.len(), 4 | 8),
        };
        if !good {
            return Err(bad_length(command));
        }
        let (addr, bytes) = (cmd::address(*low, *high), 4 * u64::from(size.dwords()));
        aligned(addr, bytes)?;
        let Some(bit) = self.reach_mi(*header, addr, bytes)? else {
            self.nothing(command);
            return Ok(());
        };
        self.effects.registers |= !inline || header & cmd::ATOMIC_RETURN != 0;
        self.out.push(header & ATOMIC_KEPT | bit);
        self.out.extend(cmd::split(addr));
        self.out.extend(operands);
        Ok(())
    }

    /// Every wait polls: a signal would have to name one of the mediator's contexts.
    pub(super) fn semaphore_wait(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, data, low, high] = exactly(command)?;
        let compare = Compare::of(header).ok_or(Refusal::Mode)?;
        if header & !(OPCODE | cmd::USE_GGTT | cmd::SEMAPHORE_POLL | 7 << 12 | 0xff) != 0 {
            return Err(Refusal::Mode);
        }
        let addr = cmd::address(low, high);
        let Some(bit) = self.reach_mi(header, addr, 4)? else {
            self.nothing(command);
            return Ok(());
        };
        let [header, ..] = cmd::semaphore_wait(0, compare, 0);
        self.out.extend([header & !cmd::USE_GGTT | bit, data]);
        self.out.extend(cmd::split(addr));
        Ok(())
    }

    pub(super) fn conditional_end(&mut self, command: &[u32]) -> Result<Flow, Refusal> {
        let [header, data, low, high] = exactly(command)?;
        if header & !(OPCODE | cmd::USE_GGTT | cmd::COND_COMPARE | 0xff) != 0 {
            return Err(Refusal::Mode);
        }
        let addr = cmd::address(low, high);
        let bit = if header & cmd::COND_COMPARE == 0 { None } else { self.reach_mi(header, addr, 4)? };
        let Some(bit) = bit else {
            self.nothing(command);
            return Ok(Flow::MayEnd);
        };
        self.out.extend([op::MI_CONDITIONAL_BATCH_BUFFER_END << 23 | cmd::COND_COMPARE | bit | 2, data]);
        self.out.extend(cmd::split(addr));
        Ok(Flow::MayEnd)
    }
}
