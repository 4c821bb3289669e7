//! Blits between linear surfaces: lines of bytes, worked off in pieces that end at page boundaries.
//!
//! Where source and destination overlap, share a pitch and lines do not reach into each other, no byte is
//! overwritten before it is read: the result is that of reading the whole source first, as the hardware's choice
//! of direction gives it. Otherwise each line is copied as if read first, lines in order.

use std::ops::Range;

use super::super::team::Team;
use super::super::tlb::{Fault, Tlb};
use super::action::{Action, Place};
use super::band::Bands;
use super::{Job, Side, checked};
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

/// What a piece costs at least, in bytes: pieces of a few bytes take time too.
const PIECE_COST: u64 = 512;

/// Bytes of a band, at most.
const MOST: u64 = 128 << 10;
/// Lines of one, at most.
const LINES: u64 = 64;
/// Bytes of a band, at most, if several threads draw: each of them does several, so that all end at much the same time.
const SHARED: u64 = 64 << 10;
/// What is less is done piece by piece.
const LEAST: u64 = 1024;

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
    /// What is drawn, lines without gaps being one.
    job: Job,
    /// Whether lines are done from the first on, none from its end: so many at once, if that can be.
    bands: bool,
    /// Whether it does not matter in which order, or by whom: no byte is written twice, or both written and read.
    apart: bool,
    /// Those that are being done.
    group: Bands,
    /// Bytes to be done piece by piece, since they cannot.
    pieces: u64,
    dst: Run,
    src: Option<Run>,
    /// Bytes of a line.
    width: u64,
    lines: u64,
    /// Lines done.
    line: u64,
    /// Bytes of the current line done.
    done: u64,
}

impl Lines {
    pub(super) fn new(job: Job) -> Self {
        let Job { width, lines, .. } = job;
        let (dst, src) = (Run::new(job.dst), job.src.map(Run::new));
        let mut b = Self {
            job,
            bands: true,
            apart: true,
            group: Bands::default(),
            pieces: 0,
            dst,
            src,
            width,
            lines,
            line: 0,
            done: 0,
        };
        let whole = |l: Run| l.step == width.cast_signed();
        if whole(dst) && src.is_none_or(whole) {
            // Lines without gaps between them are one long line.
            b.width = width.wrapping_mul(lines);
            b.lines = 1;
            b.job = Job { width: b.width, lines: 1, ..job };
        } else if let Some(src) = src
            && src.step == dst.step
            && width <= dst.step.unsigned_abs()
            && (dst.first > src.first) == (dst.step > 0)
            && b.overlap(dst, src)
        {
            b.dst = dst.reversed(lines);
            b.src = Some(src.reversed(lines));
            b.bands = false;
        }
        b.bands &= src.is_none_or(|src| {
            let alike = src.step == dst.step && !b.backward(dst.first, src.first);
            alike || !b.overlap(dst, src)
        });
        let folds = b.lines > 1 && b.width > dst.step.unsigned_abs();
        b.apart = !folds && src.is_none_or(|src| !b.overlap(dst, src));
        b
    }

    /// Whether several threads can do it.
    pub(super) fn is_shared(&self) -> bool {
        self.bands && self.apart
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

    /// Columns and rows of the band of at most `most` bytes that begins at a line and a byte of it, and where the next one does.
    fn region(&self, (line, done): (u64, u64), most: u64) -> (Range<u64>, Range<u64>, (u64, u64)) {
        let columns = done..self.width.min(done.saturating_add(most));
        let wide = columns.end - columns.start;
        let count = if wide == self.width { (most / wide).clamp(1, LINES) } else { 1 };
        let rows = line..self.lines.min(line + count);
        let next = if columns.end == self.width { (rows.end, 0) } else { (line, columns.end) };
        (columns, rows, next)
    }

    /// Does many lines, or much of a long one, with one look at all their pages. Gives what it cost each of the threads that
    /// may have done it; `None`: nothing is done.
    fn band(&mut self, action: &Action, tlb: &mut Tlb, team: &mut Team, budget: u64) -> Option<u64> {
        if !self.bands || self.pieces > 0 || !action.streams() {
            return None;
        }
        let hands = if self.apart { team.hands() as u64 } else { 1 };
        let most = budget.min(if hands > 1 { SHARED } else { MOST });
        let together = if hands > 1 { hands * budget.min(2 * MOST) } else { budget.min(MOST) };
        self.group.clear();
        let (mut at, mut all, mut first, mut cost) = ((self.line, self.done), 0, 0, 0);
        while at.0 < self.lines && cost < together {
            let (columns, rows, next) = self.region(at, most);
            let count = rows.end - rows.start;
            let bytes = (columns.end - columns.start) * count;
            if bytes < LEAST {
                break;
            }
            if self.group.len() == 0 {
                first = bytes;
            }
            if self.group.add(self.job, action, columns, rows).is_none() {
                break;
            }
            (at, all, cost) = (next, all + bytes, cost + bytes.max(count * PIECE_COST));
        }
        if first == 0 {
            return None;
        }
        if self.group.len() == 0 || !self.group.draw(action, tlb, team) {
            self.pieces = first.max(all);
            return None;
        }
        (self.line, self.done) = at;
        Some(cost.div_ceil(hands))
    }

    /// Goes on for about `budget` bytes. `Ok(true)`: the blit is done.
    pub(super) fn advance(
        &mut self,
        action: &mut Action,
        tlb: &mut Tlb,
        team: &mut Team,
        budget: u64,
    ) -> Result<bool, Fault> {
        let mut budget = budget;
        while self.line < self.lines {
            if let Some(cost) = self.band(action, tlb, team, budget) {
                budget = budget.saturating_sub(cost);
                if budget == 0 {
                    return Ok(self.line >= self.lines);
                }
                continue;
            }
            let dst = self.dst.line(self.line);
            let src = self.src.map(|s| s.line(self.line));
            let n = self.piece(action, tlb, dst, src)?;
            self.pieces = self.pieces.saturating_sub(n);
            self.done += n;
            if self.done >= self.width {
                self.done = 0;
                self.line += 1;
            }
            budget = budget.saturating_sub(n.max(PIECE_COST));
            if budget == 0 {
                return Ok(self.line >= self.lines);
            }
        }
        Ok(true)
    }

    /// Where the piece after this one of `n` bytes begins on either side.
    fn next(&self, n: u64, backward: bool) -> [Option<u64>; 2] {
        if backward {
            return [None, None];
        }
        let next = |l: Run| match self.done + n {
            done if done < self.width => at(l.line(self.line), done),
            _ => at(l.line(self.line + 1), 0),
        };
        [Some(self.dst), self.src].map(|run| next(run?).ok())
    }

    /// Does the next piece of the line, at most up to the next page boundary of either side. Gives its bytes.
    fn piece(&self, action: &mut Action, tlb: &mut Tlb, dst: i64, src: Option<i64>) -> Result<u64, Fault> {
        let left = self.width.saturating_sub(self.done);
        let backward = src.is_some_and(|src| self.backward(dst, src));
        let room = |line: i64| -> Result<u64, Fault> {
            if backward {
                let last = at(line, left.saturating_sub(1))?;
                Ok((last & PAGE_MASK) + 1)
            } else {
                Ok(PAGE_SIZE as u64 - (at(line, self.done)? & PAGE_MASK))
            }
        };
        let n = match src {
            Some(s) => left.min(room(dst)?).min(room(s)?),
            None => left.min(room(dst)?),
        };
        // Bytes from the line's start to the piece.
        let offset = if backward { left - n } else { self.done };
        let to = at(dst, offset)?;
        let len = in_page_len(n);
        // Colour and mask repeat every four bytes of a line.
        let phase = in_page(offset % 4);
        let next = self.next(n, backward);
        let place = |addr| Place { addr, columns: false };
        let from = src.map(|s| at(s, offset)).transpose()?;
        action.apply(tlb, place(to), from.map(place), phase, len, next)?;
        Ok(n)
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
