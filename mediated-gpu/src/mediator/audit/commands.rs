//! The rules, one a command: what it may say, and the command written anew from what it said. Here those that lead
//! the engine and those that flush; [`memory`](super::memory), [`values`](super::values) and [`blits`](super::blits)
//! have the others.

use super::{Effects, Place, Refusal, Space, Terms};
use crate::gen8::cmd::{self, Client, PostSync, op};
use crate::gen8::ppgtt::ADDRESS_BITS;
use crate::gen8::regs;
use crate::physical::Engine;

/// Where the engine goes after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// To the next one.
    On,
    /// Back to who started the batch.
    End,
    /// To the next one, or back to who started the batch.
    MayEnd,
    /// To a batch, if the predicate is set or `always`. The caller writes the command that starts the copy.
    Start { place: Place, second_level: bool, always: bool },
}

/// Dwords of the command with this header.
pub(super) fn length(header: u32) -> Result<usize, Refusal> {
    let decoded = cmd::decode(header).ok_or(Refusal::NotAllowed)?;
    usize::try_from(decoded.dwords).map_err(|_| Refusal::NotAllowed)
}

/// Bits of a header that say what the command is, and how long.
pub(super) const OPCODE: u32 = 0xff80_0000;
/// Bits of MI_FLUSH_DW's header that may be set: opcode, TLB invalidation, post-sync, length.
const FLUSH_DW_KEPT: u32 = OPCODE | cmd::FLUSH_DW_TLB_INVALIDATE | 3 << 14 | 0x3f;
/// Bits of PIPE_CONTROL's flags that may be set: flushes, invalidations, stalls, post-sync. Not: snapshot reset
/// (19), protected memory (22), register write (23), what is reserved.
const PIPE_CONTROL_KEPT: u32 = 0x0515_fdbf & !cmd::PIPE_CONTROL_NOTIFY & !cmd::PIPE_CONTROL_STORE_INDEX;
/// Bits of MI_BATCH_BUFFER_START's header that may be set. Not: offset, resource streamer.
const BB_START_KEPT: u32 = OPCODE | cmd::BB_SECOND_LEVEL | cmd::BB_PREDICATE | cmd::BB_PPGTT | 0xff;

/// What an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The guest's slice.
    Global,
    /// What the context's own tables map, which is the guest's whatever the address.
    Process,
    /// The slice, told by commands that may not: the command does nothing.
    Forbidden,
}

/// One command that is rewritten.
pub(super) struct Rewrite<'a> {
    pub(super) terms: &'a Terms<'a>,
    /// Where the command stands.
    pub(super) space: Space,
    /// It stands in the ring itself, not in a batch.
    pub(super) in_ring: bool,
    /// What it does beyond memory.
    pub(super) effects: &'a mut Effects,
    /// Where what the engine is to do instead is appended.
    pub(super) out: &'a mut Vec<u32>,
}

impl Rewrite<'_> {
    /// Audits one whole command.
    pub(super) fn command(mut self, command: &[u32]) -> Result<Flow, Refusal> {
        let header = *command.first().ok_or(Refusal::CutOff)?;
        let decoded = cmd::decode(header).ok_or(Refusal::NotAllowed)?;
        if !decoded.legal_on(self.terms.engine) {
            return Err(Refusal::NotAllowed);
        }
        match decoded.client {
            Client::Mi => return self.mi(decoded.opcode, header, command),
            Client::Blt => self.blit(decoded.opcode, header, command)?,
            Client::Pipe if decoded.opcode == op::PIPE_CONTROL => self.pipe_control(command)?,
            // 3D and media state: for units that no GPU below has, or that no guest gets.
            Client::Pipe => self.nothing(command),
        }
        Ok(Flow::On)
    }

    fn mi(&mut self, opcode: u32, header: u32, command: &[u32]) -> Result<Flow, Refusal> {
        match opcode {
            op::MI_NOOP | op::MI_ARB_CHECK => self.out.push(opcode << 23),
            op::MI_ARB_ON_OFF => self.out.push(header & (OPCODE | 1)),
            op::MI_USER_INTERRUPT => {
                self.effects.interrupts |= regs::GT_RENDER_USER_INTERRUPT;
                self.effects.requests = self.effects.requests.saturating_add(1);
                self.out.push(cmd::MI_NOOP);
            }
            op::MI_BATCH_BUFFER_END => {
                self.out.push(cmd::MI_BATCH_BUFFER_END);
                return Ok(Flow::End);
            }
            op::MI_BATCH_BUFFER_START => return self.batch_buffer_start(command),
            op::MI_CONDITIONAL_BATCH_BUFFER_END => return self.conditional_end(command),
            op::MI_STORE_DATA_IMM => self.store_data_imm(command)?,
            op::MI_STORE_DATA_INDEX => self.store_data_index(command)?,
            op::MI_COPY_MEM_MEM => self.copy_mem_mem(command)?,
            op::MI_ATOMIC => self.atomic(command)?,
            op::MI_SEMAPHORE_WAIT => self.semaphore_wait(command)?,
            op::MI_LOAD_REGISTER_IMM => self.load_register_imm(command)?,
            op::MI_LOAD_REGISTER_MEM => self.load_register_mem(command)?,
            op::MI_LOAD_REGISTER_REG => self.load_register_reg(command)?,
            op::MI_STORE_REGISTER_MEM => self.store_register_mem(command)?,
            op::MI_MATH => self.math(command)?,
            op::MI_PREDICATE => self.predicate(header)?,
            op::MI_SET_PREDICATE => self.set_predicate(header)?,
            op::MI_FLUSH_DW => self.flush_dw(command)?,
            // All waits poll, so a signal changes nothing; and it would name a context by a number of the guest's.
            op::MI_SEMAPHORE_SIGNAL
            // Hints, and waits for units that no guest gets.
            | op::MI_WAIT_FOR_EVENT
            | op::MI_RS_CONTROL
            | op::MI_SUSPEND_FLUSH
            | op::MI_FORCE_WAKEUP
            | op::MI_TOPOLOGY_FILTER
            | op::MI_SET_APPID
            | op::MI_RS_CONTEXT
            | op::MI_LOAD_SCAN_LINES_INCL
            | op::MI_LOAD_SCAN_LINES_EXCL
            | op::MI_CLFLUSH => self.nothing(command),
            _ => return Err(Refusal::NotAllowed),
        }
        Ok(Flow::On)
    }

    /// As many no-ops as the command has dwords.
    pub(super) fn nothing(&mut self, command: &[u32]) {
        self.out.extend(command.iter().map(|_| cmd::MI_NOOP));
    }

    fn slice_reach(&self, addr: u64, len: u64) -> Result<(), Refusal> {
        if self.terms.slice.contains(addr, len) { Ok(()) } else { Err(Refusal::OutOfSlice { addr, len }) }
    }

    /// Whether the command has no privilege.
    pub(super) fn unprivileged(&self) -> bool {
        self.terms.ppgtt && self.space == Space::Process
    }

    /// Where `len` bytes at an address lead that a GGTT bit does or does not go with. Without tables of its own all of
    /// a context's addresses are the slice's.
    pub(super) fn reach(&self, bit: bool, addr: u64, len: u64) -> Result<Target, Refusal> {
        if !self.terms.ppgtt {
            return self.slice_reach(addr, len).map(|()| Target::Global);
        }
        match (bit, self.space) {
            (true, Space::Process) => Ok(Target::Forbidden),
            (true, Space::Global) => self.slice_reach(addr, len).map(|()| Target::Global),
            (false, _) if addr.checked_add(len).is_some_and(|end| end <= 1 << ADDRESS_BITS) => {
                Ok(Target::Process)
            }
            (false, _) => Err(Refusal::Ppgtt { addr, len }),
        }
    }

    /// As [`reach`](Self::reach), for a command with its bit in b22 and an address of dwords: the bit that the
    /// rewritten command has. `None`: it does nothing.
    pub(super) fn reach_mi(&self, header: u32, addr: u64, len: u64) -> Result<Option<u32>, Refusal> {
        Ok(match self.reach(header & cmd::USE_GGTT != 0, addr, len)? {
            Target::Global => Some(cmd::USE_GGTT),
            Target::Process => Some(0),
            Target::Forbidden => None,
        })
    }

    /// A mode that needs the render engine's predicate.
    pub(super) fn predicated(&mut self, asked: bool) -> Result<(), Refusal> {
        if asked && self.terms.engine != Engine::Rcs {
            return Err(Refusal::Mode);
        }
        self.effects.registers |= asked;
        Ok(())
    }

    fn batch_buffer_start(&mut self, command: &[u32]) -> Result<Flow, Refusal> {
        let [header, low, high] = exactly(command)?;
        if header & !BB_START_KEPT != 0 {
            return Err(Refusal::Mode);
        }
        let always = header & cmd::BB_PREDICATE == 0;
        self.predicated(!always)?;
        // Commands without privilege start nothing that has it.
        let global = header & cmd::BB_PPGTT == 0 && self.space == Space::Global;
        let addr = cmd::address(low, high);
        let space = match self.reach(global, addr, 4)? {
            Target::Process => Space::Process,
            Target::Global | Target::Forbidden => Space::Global,
        };
        let second_level = header & cmd::BB_SECOND_LEVEL != 0;
        Ok(Flow::Start { place: Place { space, addr }, second_level, always })
    }

    /// Where a post-sync write goes: an address, or an offset in the per-process status page.
    fn post_sync(&self, index: bool, is_ggtt: bool, addr: u64, len: u64) -> Result<(Target, u64), Refusal> {
        if index {
            // The page is the first of the context image.
            let addr = self.terms.status_page.saturating_add(addr & 0xff8);
            return self.slice_reach(addr, len).map(|()| (Target::Global, addr));
        }
        self.reach(is_ggtt, addr, len).map(|target| (target, addr))
    }

    fn flush_dw(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, low, high, data @ ..] = command else { return Err(bad_length(command)) };
        if !(1..=2).contains(&data.len()) {
            return Err(bad_length(command));
        }
        if header & !(FLUSH_DW_KEPT | cmd::FLUSH_DW_STORE_INDEX | cmd::FLUSH_DW_NOTIFY | 1 << 7) != 0 {
            return Err(Refusal::Mode);
        }
        if header & cmd::FLUSH_DW_NOTIFY != 0 {
            self.effects.interrupts |= regs::GT_RENDER_PIPECTL_NOTIFY_INTERRUPT;
        }
        let (mut addr, mut use_gtt) = (0, 0);
        let bytes = match PostSync::of(*header) {
            PostSync::None => 0,
            PostSync::Immediate => 4 * data.len() as u64,
            PostSync::Timestamp => 8,
            PostSync::DepthCount => return Err(Refusal::Mode),
        };
        if bytes > 0 {
            let told = cmd::address(*low & !7, *high);
            let index = header & cmd::FLUSH_DW_STORE_INDEX != 0;
            let bit = low & cmd::FLUSH_DW_USE_GTT != 0;
            let (target, to) = self.post_sync(index, bit, told, bytes)?;
            addr = to;
            match target {
                Target::Global => use_gtt = cmd::FLUSH_DW_USE_GTT,
                Target::Process => {}
                Target::Forbidden => {
                    self.nothing(command);
                    return Ok(());
                }
            }
        }
        let [low, high] = cmd::split(addr);
        self.out.extend([header & FLUSH_DW_KEPT, low | use_gtt, high]);
        self.out.extend(data);
        Ok(())
    }

    fn pipe_control(&mut self, command: &[u32]) -> Result<(), Refusal> {
        let [header, flags, low, high, data_low, data_high] = exactly(command)?;
        if flags & !(PIPE_CONTROL_KEPT | cmd::PIPE_CONTROL_NOTIFY | cmd::PIPE_CONTROL_STORE_INDEX) != 0 {
            return Err(Refusal::Mode);
        }
        if flags & cmd::PIPE_CONTROL_NOTIFY != 0 {
            self.effects.interrupts |= regs::GT_RENDER_PIPECTL_NOTIFY_INTERRUPT;
        }
        let mut addr = 0;
        let mut kept = flags & PIPE_CONTROL_KEPT;
        if PostSync::of(flags) != PostSync::None {
            let told = cmd::address(low, high);
            let index = flags & cmd::PIPE_CONTROL_STORE_INDEX != 0;
            let bit = flags & cmd::PIPE_CONTROL_GLOBAL_GTT != 0;
            let (target, to) = self.post_sync(index, bit, told, 8)?;
            aligned(to, 8)?;
            addr = to;
            match target {
                Target::Global => kept |= cmd::PIPE_CONTROL_GLOBAL_GTT,
                Target::Process => kept &= !cmd::PIPE_CONTROL_GLOBAL_GTT,
                Target::Forbidden => {
                    self.nothing(command);
                    return Ok(());
                }
            }
        }
        let [low, high] = cmd::split(addr);
        self.out.extend([header & 0xffff_00ff, kept, low, high, data_low, data_high]);
        Ok(())
    }
}

/// A command of exactly `N` dwords.
pub(super) fn exactly<const N: usize>(command: &[u32]) -> Result<[u32; N], Refusal> {
    command.try_into().map_err(|_| bad_length(command))
}

pub(super) fn bad_length(command: &[u32]) -> Refusal {
    Refusal::Length(u32::try_from(command.len()).unwrap_or(u32::MAX))
}

pub(super) fn aligned(addr: u64, to: u64) -> Result<(), Refusal> {
    if addr.is_multiple_of(to) { Ok(()) } else { Err(Refusal::Unaligned(addr)) }
}
