//! Blits to or from tiled surfaces.
//!
//! Surfaces that do not overlap are walked tile by tile, so that a tile's page is looked up and fetched once. Where they
//! overlap, or the destination's lines reach into each other, it goes line by line, each read whole before it is written;
//! within one surface from the bottom up if the destination lies lower. So a copy within a surface is as if read first.

use std::ops::Range;

use super::super::tlb::{Fault, Tlb};
use super::action::{Action, Place};
use super::{Job, Side, checked};
use crate::gen8::tiling::Tiling;
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

/// What a piece costs at least, in bytes: short ones take time too.
const PIECE_COST: u64 = 128;

enum Order {
    /// Tile by tile of this side.
    Blocks(Side),
    /// Line by line, through a buffer.
    Lines { reversed: bool, line: Vec<u8>, read: u64 },
}

pub(super) struct Tiles {
    job: Job,
    order: Order,
    /// The block or line being done: bytes of its lines, its lines.
    block: (Range<u64>, Range<u64>),
    /// The next piece: byte and line of the rectangle.
    x: u64,
    y: u64,
}

impl Tiles {
    pub(super) fn new(job: Job) -> Self {
        let Job { dst, src, width, lines } = job;
        let tiled = |s: &Side| s.layout.tiling() != Tiling::Linear;
        let folds = width > u64::from(dst.layout.pitch().unsigned_abs()) && lines > 1;
        let order = if folds || src.is_some_and(|src| overlap(job, src)) {
            // Kept line by line even if nothing is read: the order in which bytes are written twice counts.
            let same = src.is_some_and(|s| s.layout == dst.layout && dst.y > s.y);
            let room = if src.is_some() { usize::try_from(width).unwrap_or(0) } else { 0 };
            Order::Lines { reversed: same, line: vec![0; room], read: 0 }
        } else {
            // One of them is tiled: what is asked here only for those that are not both linear.
            Order::Blocks(Some(dst).filter(tiled).or(src).unwrap_or(dst))
        };
        let mut this = Self { job, order, block: (0..0, 0..0), x: 0, y: 0 };
        this.enter(0, 0);
        this
    }

    /// Goes on with the block that begins at byte `x` of line `y`.
    fn enter(&mut self, x: u64, y: u64) {
        let Job { width, lines, .. } = self.job;
        let (right, bottom) = match &self.order {
            Order::Blocks(side) => {
                let left = side.layout.left_in_tile(side.x.wrapping_add_unsigned(x)).unwrap_or(width);
                let height = i64::from(side.layout.tiling().tile().1);
                let below = height - side.y.wrapping_add_unsigned(y).rem_euclid(height);
                (x.saturating_add(left).min(width), y.saturating_add_signed(below).min(lines))
            }
            Order::Lines { .. } => (width, y.saturating_add(1)),
        };
        self.block = (x..right, y..bottom);
        (self.x, self.y) = (x, y);
    }

    /// Beyond a piece of `n` bytes. Whether there is a next one.
    fn next(&mut self, n: u64) -> bool {
        self.x += n;
        let (columns, rows) = self.block.clone();
        if self.x < columns.end {
            return true;
        }
        (self.x, self.y) = (columns.start, self.y + 1);
        if self.y < rows.end {
            return true;
        }
        if columns.end < self.job.width {
            self.enter(columns.end, rows.start);
            return true;
        }
        if rows.end < self.job.lines {
            self.enter(0, rows.end);
            return true;
        }
        false
    }

    /// Goes on for about `budget` bytes. `Ok(true)`: the blit is done.
    pub(super) fn advance(&mut self, action: &mut Action, tlb: &mut Tlb, budget: u64) -> Result<bool, Fault> {
        let mut budget = budget;
        loop {
            let (n, written) = self.piece(action, tlb)?;
            if written && !self.next(n) {
                return Ok(true);
            }
            budget = budget.saturating_sub(n.max(PIECE_COST));
            if budget == 0 {
                return Ok(false);
            }
        }
    }

    /// Does the next piece, or reads one of a line. Gives its bytes, and whether they were written.
    fn piece(&mut self, action: &mut Action, tlb: &mut Tlb) -> Result<(u64, bool), Fault> {
        let Job { dst, src, width, lines } = self.job;
        match &mut self.order {
            Order::Blocks(_) => {
                let left = self.block.0.end - self.x;
                let (to, room) = place(dst, self.x, self.y)?;
                let (from, n) = match src {
                    Some(src) => {
                        let (from, readable) = place(src, self.x, self.y)?;
                        (Some(from), left.min(room).min(readable))
                    }
                    None => (None, left.min(room)),
                };
                action.apply(tlb, to, from, phase(self.x), in_memory(n))?;
                Ok((n, true))
            }
            Order::Lines { reversed, line, read } => {
                let y = if *reversed { lines - 1 - self.y } else { self.y };
                if let Some(src) = src
                    && *read < width
                {
                    let (from, readable) = place(src, *read, y)?;
                    let n = readable.min(width - *read);
                    let at = in_memory_wide(*read);
                    Action::read(tlb, from, &mut line[at..at + in_memory(n)])?;
                    *read += n;
                    return Ok((n, false));
                }
                let (to, room) = place(dst, self.x, y)?;
                let n = room.min(width - self.x);
                if src.is_some() {
                    let at = in_memory_wide(self.x);
                    action.write(tlb, to, &line[at..at + in_memory(n)], phase(self.x))?;
                } else {
                    action.apply(tlb, to, None, phase(self.x), in_memory(n))?;
                }
                if self.x + n == width {
                    *read = 0;
                }
                Ok((n, true))
            }
        }
    }
}

/// Where byte `x` of line `y` of a rectangle lies, and how many bytes from there on lie in one piece.
fn place(side: Side, x: u64, y: u64) -> Result<(Place, u64), Fault> {
    let addr = checked(side.address(x, y))?;
    let columns = side.layout.tiling() == Tiling::Y;
    let room = match side.layout.left_in_tile(side.x.wrapping_add_unsigned(x)) {
        Some(left) => left,
        None => PAGE_SIZE as u64 - (addr & PAGE_MASK),
    };
    Ok((Place { addr, columns }, room))
}

/// Whether a byte may be both read and written. Wrong only on the safe side: whole tiles count.
fn overlap(job: Job, src: Side) -> bool {
    let extent = |s: Side| s.layout.extent(s.x, s.y, job.width, job.lines);
    match (extent(job.dst), extent(src)) {
        (Some(d), Some(s)) => d.start < s.end && s.start < d.end,
        // It will fault.
        _ => true,
    }
}

fn phase(x: u64) -> usize {
    in_memory(x % 4)
}

#[expect(clippy::cast_possible_truncation, reason = "at most a page")]
fn in_memory(n: u64) -> usize {
    n.min(PAGE_SIZE as u64) as usize
}

/// A place in a line: lines have at most 2^20 bytes.
fn in_memory_wide(n: u64) -> usize {
    n.min(1 << 20) as usize
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
