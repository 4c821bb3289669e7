//! Blits between linear surfaces: lines of bytes, worked off in pieces that end at page boundaries.
//!
//! Where source and destination overlap, share a pitch and lines do not reach into each other, no byte is
//! overwritten before it is read: the result is that of reading the whole source first, as the hardware's choice
//! of direction gives it. Otherwise each line is copied as if read first, lines in order.

use std::sync::atomic::{AtomicBool, Ordering};

use super::super::page::Page;
use super::super::stream::turned;
use super::super::team::Team;
use super::super::tlb::{Fault, Held, Tlb};
use super::action::{Action, Place, Stream};
use super::{Job, LONG, Side, checked};
use crate::bus::DmaAccess;
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

/// What a piece costs at least, in bytes: pieces of a few bytes take time too.
const PIECE_COST: u64 = 512;
/// Bytes that one of several threads draws at once: several parts each, so that all end at much the same time.
const SHARED: u64 = 64 << 10;

/// A line, and a byte of it: pieces are done line by line.
type Position = (u64, u64);

/// First bytes of lines: of the first to be done, and the distance to the next.
#[derive(Clone, Copy)]
struct Run {
    first: i64,
    step: i64,
}

impl Run {
    fn new(s: Side) -> Self {
        Self { first: s.address(0, 0), step: s.layout.pitch().into() }
    }

    fn line(self, n: u64) -> i64 {
        // Both factors come from 16-bit fields: no product of theirs leaves 64 bits.
        self.first.wrapping_add(self.step.wrapping_mul(n.cast_signed()))
    }

    fn reversed(self, lines: u64) -> Self {
        Self { first: self.line(lines.saturating_sub(1)), step: -self.step }
    }
}

pub(super) struct Lines {
    /// Whether every line is done from its beginning.
    forward: bool,
    /// Whether it does not matter in which order, or by whom: no byte is written twice, or both written and read.
    apart: bool,
    /// Bytes to be done without the others' help, since that was of none.
    alone: u64,
    dst: Run,
    src: Option<Run>,
    /// Bytes of a line.
    width: u64,
    lines: u64,
    /// What comes next.
    at: Position,
}

/// A piece: within a page of either side.
struct Piece<'t> {
    to: Page<'t>,
    to_offset: usize,
    from: Option<(Page<'t>, usize)>,
    len: usize,
}

impl Lines {
    pub(super) fn new(job: Job) -> Self {
        let Job { width, lines, .. } = job;
        let (dst, src) = (Run::new(job.dst), job.src.map(Run::new));
        let mut b = Self { forward: true, apart: true, alone: 0, dst, src, width, lines, at: (0, 0) };
        let whole = |l: Run| l.step == width.cast_signed();
        if whole(dst) && src.is_none_or(whole) {
            // Lines without gaps between them are one long line.
            b.width = width.wrapping_mul(lines);
            b.lines = 1;
        } else if let Some(src) = src
            && src.step == dst.step
            && width <= dst.step.unsigned_abs()
            && (dst.first > src.first) == (dst.step > 0)
            && b.overlap(dst, src)
        {
            b.dst = dst.reversed(lines);
            b.src = Some(src.reversed(lines));
        }
        b.forward = b.src.is_none_or(|src| {
            let alike = src.step == b.dst.step && !b.backward(b.dst.first, src.first);
            alike || !b.overlap(b.dst, src)
        });
        let folds = b.lines > 1 && b.width > dst.step.unsigned_abs();
        b.apart = !folds && src.is_none_or(|src| !b.overlap(dst, src));
        b
    }

    /// Whether several threads can do it.
    pub(super) fn is_shared(&self) -> bool {
        self.forward && self.apart
    }

    fn overlap(&self, a: Run, b: Run) -> bool {
        let width = self.width.cast_signed();
        let span = |l: Run| {
            let (first, last) = (l.first, l.line(self.lines.saturating_sub(1)));
            (first.min(last), first.max(last).saturating_add(width))
        };
        let ((a0, a1), (b0, b1)) = (span(a), span(b));
        a0 < b1 && b0 < a1
    }

    /// Whether a line begins inside its source: it is copied from its end, so that the source is read first.
    fn backward(&self, dst: i64, src: i64) -> bool {
        src < dst && src.saturating_add_unsigned(self.width) > dst
    }

    /// Where what comes after `n` bytes more of a line begins.
    fn after(&self, (line, done): Position, n: u64) -> Position {
        if done + n < self.width { (line, done + n) } else { (line + 1, 0) }
    }

    /// The end of a part of about `most` bytes: of some whole lines, or within one.
    fn part(&self, (line, done): Position, most: u64) -> Position {
        if done == 0 && self.width < most {
            return (self.lines.min(line + most / self.width.max(1)), 0);
        }
        self.after((line, done), most)
    }

    /// The addresses of the piece that begins there, and its bytes: up to a page's end on either side, and not beyond `end`.
    /// `None`: one of them is before address 0.
    fn bounds(&self, (line, done): Position, end: Position) -> Option<(u64, Option<u64>, u64)> {
        let most = if end.0 == line { end.1 } else { self.width };
        let room = |addr: u64| PAGE_SIZE as u64 - (addr & PAGE_MASK);
        let to = at(self.dst.line(line), done).ok()?;
        let len = room(to).min(most - done);
        match self.src {
            None => Some((to, None, len)),
            Some(src) => {
                let from = at(src.line(line), done).ok()?;
                Some((to, Some(from), room(from).min(len)))
            }
        }
    }

    /// The piece that begins there, if the cache has its pages.
    #[inline]
    fn look<'t>(&self, held: Held<'t>, at: Position, end: Position) -> Option<Piece<'t>> {
        let (to, from, len) = self.bounds(at, end)?;
        let page = held.page(to, DmaAccess::Write)?;
        let from = match from {
            None => None,
            Some(from) => Some((held.page(from, DmaAccess::Read)?, in_page(from))),
        };
        Some(Piece { to: page, to_offset: in_page(to), from, len: in_page_len(len) })
    }

    /// Draws what lies from one place to another, or as much of it as the budget allows, as far as the cache has the pages. A
    /// page is looked up while the one before it is drawn. Where it stopped.
    fn stream(
        &self,
        stream: Stream,
        held: Held<'_>,
        (from, end): (Position, Position),
        budget: &mut u64,
    ) -> Position {
        let (mut at, mut next) = (from, self.look(held, from, end));
        while let Some(piece) = next.filter(|_| *budget > 0) {
            let after = self.after(at, piece.len as u64);
            next = if after < end { self.look(held, after, end) } else { None };
            piece.draw(stream, at.1, next.as_ref());
            at = after;
            *budget = budget.saturating_sub((piece.len as u64).max(PIECE_COST));
        }
        at
    }

    /// The same by several threads, in parts. Gives what it cost each of them; `None`: nothing is done, or not all of it.
    fn share(&mut self, stream: Stream, tlb: &mut Tlb, team: &mut Team, budget: u64) -> Option<u64> {
        let hands = team.hands() as u64;
        if hands == 1 || !self.apart || self.alone > 0 {
            return None;
        }
        let (mut ends, mut at, mut bytes) = (vec![self.at], self.at, 0);
        while at.0 < self.lines && bytes < budget.saturating_mul(hands) {
            let end = self.part(at, SHARED);
            bytes += (end.0 - at.0) * self.width + end.1 - at.1;
            ends.push(end);
            at = end;
        }
        let parts = ends.len() - 1;
        let whole = AtomicBool::new(parts > 1 && self.fetch(tlb, (self.at, at)));
        if whole.load(Ordering::Relaxed) {
            let held = tlb.held();
            team.each(parts, &|n| {
                let (Some(&[from, end]), mut all) = (ends.get(n..n + 2), u64::MAX) else { return };
                if self.stream(stream, held, (from, end), &mut all) != end {
                    whole.store(false, Ordering::Relaxed);
                }
            });
        }
        if !whole.into_inner() {
            // What is drawn twice is the same.
            self.alone = bytes;
            return None;
        }
        self.at = at;
        Some(bytes.div_ceil(hands))
    }

    /// Has the cache have the pages, as far as there is room for them. Whether they could be had.
    fn fetch(&self, tlb: &mut Tlb, (from, end): (Position, Position)) -> bool {
        let mut at = from;
        while at < end {
            let Some((to, from, len)) = self.bounds(at, end) else { return false };
            let had = tlb.page(to, DmaAccess::Write).is_ok()
                && from.is_none_or(|from| tlb.page(from, DmaAccess::Read).is_ok());
            if !had {
                return false;
            }
            at = self.after(at, len);
        }
        true
    }

    /// Goes on for about `budget` bytes. `Ok(true)`: the blit is done.
    pub(super) fn advance(
        &mut self,
        action: &mut Action,
        tlb: &mut Tlb,
        team: &mut Team,
        budget: u64,
    ) -> Result<bool, Fault> {
        let stream = action.stream().filter(|_| self.forward);
        let (mut budget, end) = (budget, (self.lines, 0));
        while self.at < end && budget > 0 {
            if let Some(stream) = stream {
                if let Some(cost) = self.share(stream, tlb, team, budget) {
                    budget = budget.saturating_sub(cost);
                    continue;
                }
                let left = budget;
                self.at = self.stream(stream, tlb.held(), (self.at, end), &mut budget);
                let stopped = self.at;
                if stopped < end && budget > 0 {
                    // Where one page is missing others are, too. Whichever cannot be had is met below.
                    let _ = self.fetch(tlb, (stopped, self.part(stopped, SHARED)));
                    self.at = self.stream(stream, tlb.held(), (stopped, end), &mut budget);
                }
                self.alone = self.alone.saturating_sub(left - budget);
                if self.at > stopped || self.at == end || budget == 0 {
                    continue;
                }
            }
            let dst = self.dst.line(self.at.0);
            let src = self.src.map(|s| s.line(self.at.0));
            let n = self.piece(action, tlb, dst, src)?;
            self.alone = self.alone.saturating_sub(n);
            self.at = self.after(self.at, n);
            budget = budget.saturating_sub(n.max(PIECE_COST));
        }
        Ok(self.at >= end)
    }

    /// Does the next piece of the line, at most up to the next page boundary of either side. Gives its bytes.
    fn piece(&self, action: &mut Action, tlb: &mut Tlb, dst: i64, src: Option<i64>) -> Result<u64, Fault> {
        let (_, done) = self.at;
        let left = self.width.saturating_sub(done);
        let backward = src.is_some_and(|src| self.backward(dst, src));
        let room = |line: i64| -> Result<u64, Fault> {
            if backward {
                let last = at(line, left.saturating_sub(1))?;
                Ok((last & PAGE_MASK) + 1)
            } else {
                Ok(PAGE_SIZE as u64 - (at(line, done)? & PAGE_MASK))
            }
        };
        let n = match src {
            Some(s) => left.min(room(dst)?).min(room(s)?),
            None => left.min(room(dst)?),
        };
        // Bytes from the line's start to the piece.
        let offset = if backward { left - n } else { done };
        let to = at(dst, offset)?;
        let len = in_page_len(n);
        // Colour and mask repeat every four bytes of a line.
        let phase = in_page(offset % 4);
        let place = |addr| Place { addr, columns: false };
        let from = src.map(|s| at(s, offset)).transpose()?;
        action.apply(tlb, place(to), from.map(place), phase, len, [None, None])?;
        Ok(n)
    }
}

impl Piece<'_> {
    /// Draws it, so many bytes into its line. `next`: what is drawn after it.
    #[inline]
    fn draw(&self, stream: Stream, done: u64, next: Option<&Self>) {
        let to = next.map(|next| next.to.ahead(next.to_offset));
        match (stream, &self.from) {
            (Stream::Fill(color), _) => {
                self.to.fill(self.to_offset, self.len, turned(color, in_page(done % 4)), to);
            }
            (Stream::Copy, Some((page, offset))) if self.len < LONG => {
                self.to.copy_from(self.to_offset, page, *offset, self.len);
            }
            (Stream::Copy, Some((page, offset))) => {
                let from = next.and_then(|next| next.from.as_ref()).map(|(page, at)| page.ahead(*at));
                self.to.stream_from(self.to_offset, page, *offset, self.len, [to, from]);
            }
            (Stream::Copy, None) => {}
        }
    }
}

/// The address `offset` bytes into a line.
fn at(line: i64, offset: u64) -> Result<u64, Fault> {
    checked(line.checked_add_unsigned(offset).unwrap_or(i64::MIN))
}

fn in_page(addr: u64) -> usize {
    (addr & PAGE_MASK) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "at most a page")]
fn in_page_len(n: u64) -> usize {
    n.min(PAGE_SIZE as u64) as usize
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
