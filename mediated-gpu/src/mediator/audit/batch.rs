//! Batches: copied page by page as the audit walks them, each once, within a budget that all share.
//!
//! A batch of the first level ends, or goes on in another (a chain). One of the second level is a subroutine of
//! the first and starts nothing. A chain that comes back to where it has been would never end: refused.

use super::commands::{self, Flow, Rewrite};
use super::{Audit, Place, Refusal, Refused, Space};
use crate::gen8::cmd;
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

/// The level of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Level {
    /// Started by the ring.
    First,
    /// Started by a batch.
    Second,
}

/// A batch that was copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// GM address of the copy.
    at: u64,
    /// The chain in which it was walked.
    chain: u64,
}

/// Dwords to which the copy of a batch is aligned: a cache line, which the engine fetches whole.
const ALIGN: usize = 16;

/// A BB_START to a copy at `at`, with bits of its header.
pub(super) fn start_of(at: u64, bits: u32) -> [u32; 3] {
    let [header, low, high] = cmd::batch_buffer_start(at);
    [header | bits, low, high]
}

/// Where a BB_START of the second level in a copy still needs its target.
struct Call {
    /// Place of the command among the copies' dwords.
    place: usize,
    /// Bits of its header.
    bits: u32,
    target: Place,
    refused: Refused,
}

impl Audit<'_> {
    /// The copy of the first-level batch at `place`, made and audited if there is none yet. `refused` says where the
    /// command is that starts it.
    pub(super) fn batch(
        &mut self,
        place: Place,
        refused: impl Fn(Refusal) -> Refused,
    ) -> Result<u64, Refused> {
        if let Some(done) = self.batches.get(&(Level::First, place)) {
            return Ok(done.at);
        }
        let chain = self.batches.len() as u64;
        let mut calls = Vec::new();
        let start = self.begin(Level::First, place, chain).map_err(&refused)?;
        let mut next = Some(place);
        while let Some(at) = next {
            next = self.walk(Level::First, at, chain, &mut calls)?;
        }
        for call in calls {
            let refused = |why| Refused { why, ..call.refused };
            let copy = match self.batches.get(&(Level::Second, call.target)) {
                Some(done) => done.at,
                None => {
                    let copy = self.begin(Level::Second, call.target, chain).map_err(refused)?;
                    self.walk(Level::Second, call.target, chain, &mut Vec::new())?;
                    copy
                }
            };
            self.put(call.place, start_of(copy, cmd::BB_SECOND_LEVEL | call.bits));
        }
        Ok(start)
    }

    /// Makes room for a copy. Its first dword will be the next that is appended.
    fn begin(&mut self, level: Level, place: Place, chain: u64) -> Result<u64, Refusal> {
        while !self.out.batches.len().is_multiple_of(ALIGN) {
            self.push(&[cmd::MI_NOOP])?;
        }
        let at = self.terms.batch_base.saturating_add(4 * self.out.batches.len() as u64);
        self.batches.insert((level, place), Copied { at, chain });
        Ok(at)
    }

    fn push(&mut self, dwords: &[u32]) -> Result<(), Refusal> {
        let limit = self.terms.batch_limit;
        if self.out.batches.len().saturating_add(dwords.len()) > limit / 4 {
            return Err(Refusal::Budget(limit));
        }
        self.out.batches.extend(dwords);
        Ok(())
    }

    /// Copies and audits from `from` to the batch's end. The place of the next batch of the chain, if it goes on.
    fn walk(
        &mut self,
        level: Level,
        from: Place,
        chain: u64,
        calls: &mut Vec<Call>,
    ) -> Result<Option<Place>, Refused> {
        let mut window = Window { space: from.space, at: from.addr, dwords: Vec::new(), used: 0 };
        let mut rewritten = Vec::new();
        loop {
            let at = window.at;
            let mut refused = Refused { why: Refusal::CutOff, header: 0, addr: at };
            let because = |refused: Refused, why| Refused { why, ..refused };
            let header =
                *self.peek(&mut window, 1).map_err(|why| because(refused, why))?.first().ok_or(refused)?;
            refused.header = header;
            let length = commands::length(header).map_err(|why| because(refused, why))?;
            let command = self.peek(&mut window, length).map_err(|why| because(refused, why))?;
            rewritten.clear();
            let rewrite = Rewrite {
                terms: &self.terms,
                space: from.space,
                in_ring: false,
                effects: &mut self.out.effects,
                out: &mut rewritten,
            };
            let flow = rewrite.command(command).map_err(|why| because(refused, why))?;
            window.skip(length);
            self.push(&rewritten).map_err(|why| because(refused, why))?;
            match flow {
                Flow::On | Flow::MayEnd => {}
                Flow::End => return Ok(None),
                _ if level == Level::Second => return Err(because(refused, Refusal::Nesting)),
                Flow::Start { place, second_level: true, always } => {
                    let bits = if always { 0 } else { cmd::BB_PREDICATE };
                    calls.push(Call { place: self.out.batches.len(), bits, target: place, refused });
                    self.push(&[0; 3]).map_err(|why| because(refused, why))?;
                }
                // Whether what follows is ever executed cannot be told; it would have to be walked as well.
                Flow::Start { always: false, .. } => return Err(because(refused, Refusal::Mode)),
                Flow::Start { place, .. } => {
                    return self.chain(place, chain).map_err(|why| because(refused, why));
                }
            }
        }
    }

    /// A first-level batch goes on at `next`. A start that a predicate skips is followed by the batch's end, which
    /// none skips: nothing that is not of this audit follows.
    fn chain(&mut self, next: Place, chain: u64) -> Result<Option<Place>, Refusal> {
        let done = match self.batches.get(&(Level::First, next)) {
            Some(back) if back.chain == chain => return Err(Refusal::Loop),
            done => done.map(|done| done.at),
        };
        let place = self.out.batches.len();
        self.push(&[0, 0, 0, cmd::MI_BATCH_BUFFER_END])?;
        let at = match done {
            Some(at) => at,
            None => self.begin(Level::First, next, chain)?,
        };
        self.put(place, start_of(at, 0));
        Ok(done.is_none().then_some(next))
    }

    /// Puts a command where room was left for it.
    fn put(&mut self, place: usize, command: [u32; 3]) {
        for (i, dword) in command.into_iter().enumerate() {
            if let Some(d) = self.out.batches.get_mut(place.saturating_add(i)) {
                *d = dword;
            }
        }
    }

    /// The next `count` dwords of the window, copied from the guest as far as they are not yet.
    fn peek<'w>(&self, window: &'w mut Window, count: usize) -> Result<&'w [u32], Refusal> {
        while window.dwords.len() - window.used < count {
            let next = window.at.saturating_add(4 * (window.dwords.len() - window.used) as u64);
            if window.space == Space::Global && !self.terms.slice.contains(next, 4) {
                return Err(Refusal::OutOfSlice { addr: next, len: 4 });
            }
            let in_page = usize::try_from(next & PAGE_MASK).unwrap_or(0);
            let mut page = [0; PAGE_SIZE];
            let bytes = page.get_mut(in_page..).ok_or(Refusal::NotMapped(next))?;
            self.source.copy(window.space, next, bytes)?;
            window.dwords.drain(..window.used);
            window.used = 0;
            window.dwords.extend(bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])));
        }
        window.dwords.get(window.used..window.used + count).ok_or(Refusal::CutOff)
    }
}

/// Dwords that were copied from the guest and not yet audited.
struct Window {
    space: Space,
    /// Address of the first of them.
    at: u64,
    dwords: Vec<u32>,
    used: usize,
}

impl Window {
    fn skip(&mut self, count: usize) {
        self.used += count;
        self.at = self.at.saturating_add(4 * count as u64);
    }
}
