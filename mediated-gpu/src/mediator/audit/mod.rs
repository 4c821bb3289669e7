//! The audit: what a guest wants an engine to do, command by command, before the engine sees any of it.
//!
//! Ring and batches are copied once; what is looked at here is that copy, and what the engine gets is written anew
//! from the fields that were looked at. A command is allowed because a rule says so; every address must lie in the
//! guest's own slice, every register on the list. One refusal ends the context, there where the engine would stop.

mod batch;
mod blits;
mod commands;
mod memory;
mod registers;
mod values;

use std::collections::HashMap;

use self::commands::{Flow, Rewrite};
use crate::gen8::cmd;
use crate::physical::Engine;
use crate::vgpu::slice::Slice;
pub(crate) use registers::of_context;

/// Why a context is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// No rule allows the command on this engine.
    #[error("the command is not allowed on this engine")]
    NotAllowed,
    /// A length that the command cannot have.
    #[error("the command cannot be {0} dwords long")]
    Length(u32),
    /// The ring or the batch ends inside the command.
    #[error("the command is cut off")]
    CutOff,
    /// A flag or a mode that is not supported, or must not be used here.
    #[error("the command's mode is not allowed")]
    Mode,
    /// Memory outside the slice.
    #[error("{len} bytes at {addr:#x} are not in the guest's slice")]
    OutOfSlice { addr: u64, len: u64 },
    /// An address that is not aligned as the command needs.
    #[error("address {0:#x} is not aligned")]
    Unaligned(u64),
    /// An address that no per-process table can map.
    #[error("per-process address {addr:#x} with {len} bytes from it is beyond 48 bits")]
    Ppgtt {
        /// The address.
        addr: u64,
        /// Bytes.
        len: u64,
    },
    /// A register that commands may not write, or not with this value.
    #[error("register {0:#x} may not be written so")]
    Register(u32),
    /// A batch leads back to one that has not ended.
    #[error("batches that go round for ever")]
    Loop,
    /// A batch starts where none may.
    #[error("a batch may not be started here")]
    Nesting,
    /// Batches that are longer than the budget, or have no end.
    #[error("batches are longer than {0} bytes")]
    Budget(usize),
    /// More in one ring than an engine's can be long.
    #[error("the ring's commands and what goes with them are longer than any ring")]
    LongRing,
    /// Memory that holds commands is not mapped.
    #[error("commands at {0:#x} are not mapped")]
    NotMapped(u64),
    /// A context image or a ring that makes no sense.
    #[error("the context is malformed: {0}")]
    Context(&'static str),
}

/// A refusal, and where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Why.
    pub(crate) why: Refusal,
    /// The command's first dword; 0 if it was not a command.
    pub(crate) header: u32,
    /// GM address of the command, as the guest knows it.
    pub(crate) addr: u64,
}

/// Whose addresses, and with that whose commands: what the driver wrote, or what one of its processes did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    /// The slice's: the ring, and batches that only the driver can write.
    Global,
    /// The context's own tables'. Commands there have no privilege: some do nothing, as on hardware.
    Process,
}

/// Where commands come from: copies out of the guest's graphics memory.
pub(crate) trait CommandSource {
    /// Copies `buf.len()` bytes at `addr`, which lie in one page.
    fn copy(&self, space: Space, addr: u64, buf: &mut [u8]) -> Result<(), Refusal>;
}

/// For whom, and within which bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// The engine.
    pub(crate) engine: Engine,
    /// The guest's memory.
    pub(crate) slice: &'a Slice,
    /// GM address of the context's per-process status page, where indexed stores go.
    pub(crate) status_page: u64,
    /// The context has tables of its own.
    pub(crate) ppgtt: bool,
    /// GM address at which the copies of batches will stand.
    pub(crate) batch_base: u64,
    /// Bytes of batches, at most.
    pub(crate) batch_limit: usize,
    /// The GPU has XY_FAST_COPY_BLT.
    pub(crate) fast_copy: bool,
}

/// What commands do beyond memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Interrupts (`GT_*` bits) that the guest gets when all is done: no command raises one by itself.
    pub(crate) interrupts: u32,
    /// How often the user interrupt is asked for, as a driver does at the end of each of its requests.
    pub(crate) requests: u32,
    /// They use registers that go with the context ([`of_context`]).
    pub(crate) registers: bool,
}

/// What may be executed: all, or what comes before the command that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audited {
    /// The ring's commands.
    pub(crate) ring: Vec<u32>,
    /// What stands at `batch_base`.
    pub(crate) batches: Vec<u32>,
    /// What else they do.
    pub(crate) effects: Effects,
    /// How many of the dwords that were audited it stands for.
    pub(crate) dwords: usize,
    /// The refusal, if there was one. A driver finds out by what was done before which of its requests is to blame: in the
    /// ring that is all before the batch with the command, and of the batch nothing.
    pub(crate) refused: Option<Refused>,
}

/// Audits the dwords of a ring, in the order of execution. `at(i)` is the GM address of dword `i`.
pub(crate) fn ring(
    terms: Terms<'_>,
    source: &dyn CommandSource,
    dwords: &[u32],
    at: impl Fn(usize) -> u64,
) -> Audited {
    let mut audit = Audit { terms, source, out: Audited::default(), batches: HashMap::new() };
    let mut rest = dwords;
    while !rest.is_empty() {
        audit.out.dwords = dwords.len() - rest.len();
        let Audited { ring, batches, effects, .. } = &audit.out;
        let before = (ring.len(), batches.len(), *effects);
        match audit.command(rest, at(audit.out.dwords)) {
            Ok(after) => rest = after,
            Err(refused) => {
                // Nothing of it stays.
                audit.out.ring.truncate(before.0);
                audit.out.batches.truncate(before.1);
                (audit.out.effects, audit.out.refused) = (before.2, Some(refused));
                return audit.out;
            }
        }
    }
    audit.out.dwords = dwords.len();
    audit.out
}

impl Audit<'_> {
    /// Audits the first command of `rest`, which is at GM address `addr`. What follows it.
    fn command<'d>(&mut self, rest: &'d [u32], addr: u64) -> Result<&'d [u32], Refused> {
        let header = rest.first().copied().unwrap_or_default();
        let refused = |why| Refused { why, header, addr };
        let length = commands::length(header).map_err(refused)?;
        let (command, after) = rest.split_at_checked(length).ok_or(refused(Refusal::CutOff))?;
        let rewrite = Rewrite {
            terms: &self.terms,
            space: Space::Global,
            in_ring: true,
            effects: &mut self.out.effects,
            out: &mut self.out.ring,
        };
        match rewrite.command(command).map_err(refused)? {
            Flow::On => {}
            Flow::End | Flow::MayEnd | Flow::Start { second_level: true, .. } => {
                return Err(refused(Refusal::Nesting));
            }
            Flow::Start { place, second_level: false, always } => {
                let copy = self.batch(place, refused)?;
                self.out.ring.extend(batch::start_of(copy, if always { 0 } else { cmd::BB_PREDICATE }));
            }
        }
        Ok(after)
    }
}

/// Where commands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Whose address.
    pub(crate) space: Space,
    /// The address.
    pub(crate) addr: u64,
}

/// An audit under way.
struct Audit<'a> {
    terms: Terms<'a>,
    source: &'a dyn CommandSource,
    out: Audited,
    /// Batches that were copied, by level and place: where the copy stands.
    batches: HashMap<(batch::Level, Place), batch::Copied>,
}

#[cfg(test)]
mod tests;
