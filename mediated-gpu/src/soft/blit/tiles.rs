//! Blits to or from tiled surfaces.
//!
//! Surfaces that do not overlap are walked tile by tile, so that a tile's page is looked up and fetched once, and in copies
//! [bands](super::band) of tiles. Where they
//! overlap, or the destination's lines reach into each other, it goes line by line, each read whole before it is written;
//! within one surface from the bottom up if the destination lies lower. So a copy within a surface is as if read first.

use std::ops::Range;

use super::super::page;
use super::super::strip::{Strip, Way};
use super::super::team::Team;
use super::super::tlb::{Fault, Tlb};
use super::action::{Action, Place};
use super::band::{self, Band, Bands};
use super::{Job, Side, checked};
use crate::gen8::tiling::Tiling;
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

/// What a piece costs at least, in bytes: short ones take time too.
const PIECE_COST: u64 = 128;
/// Bytes of a Y-major tile's line.
const LINE: u64 = page::LINE as u64;
/// Bands that each thread does in one go: more than one, so that several end at much the same time.
const SHARED: usize = 2;
/// Bytes of the next tile that are fetched ahead: the hardware finds the rest.
const PREFETCH: usize = 512;

enum Order {
    /// Tile by tile of this side, so many lines at a time. With `bands` some tiles side by side, if that can be.
    Blocks { side: Side, height: i64, bands: bool },
    /// Line by line, through a buffer.
    Lines { reversed: bool, line: Vec<u8>, read: u64 },
}

pub(super) struct Tiles {
    job: Job,
    order: Order,
    /// Bands that are being done.
    group: Bands,
    /// The block or line being done: bytes of its lines, its lines.
    block: (Range<u64>, Range<u64>),
    /// The next piece: byte and line of the rectangle.
    x: u64,
    y: u64,
}

impl Tiles {
    /// `copies`: bytes are copied and nothing else.
    pub(super) fn new(job: Job, copies: bool) -> Self {
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
            let side = Some(dst).filter(tiled).or(src).unwrap_or(dst);
            // Between Y-major tiles and others it is the Y-major ones that are walked.
            let y_major = |s: &Side| s.layout.tiling() == Tiling::Y;
            let side = src.filter(|s| y_major(s) && !y_major(&dst)).unwrap_or(side);
            let (width, height) = side.layout.tiling().tile();
            let alike = |s: Side| {
                s.layout.tiling() == side.layout.tiling()
                    && (s.x - side.x) % i64::from(width) == 0
                    && (s.y - side.y) % i64::from(height) == 0
            };
            let bands = copies && src.is_some_and(|src| Band::fits(dst, src));
            let height = match side.layout.tiling() {
                _ if bands => band::HEIGHT,
                _ if src.is_none_or(alike) && alike(dst) => height.into(),
                // As many lines as share a line of the cache, so that the other side is read in few streams.
                Tiling::Y => 4,
                Tiling::X | Tiling::Linear => 1,
            };
            Order::Blocks { side, height, bands }
        };
        let mut this = Self { job, order, group: Bands::default(), block: (0..0, 0..0), x: 0, y: 0 };
        this.enter(0, 0);
        this
    }

    /// Whether several threads can do it.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.order, Order::Blocks { bands: true, .. })
    }

    /// Goes on with the block that begins at byte `x` of line `y`.
    fn enter(&mut self, x: u64, y: u64) {
        let Job { width, lines, .. } = self.job;
        let (right, bottom) = match &self.order {
            Order::Blocks { side, height, bands } => {
                let left = side.layout.left_in_tile(side.x.wrapping_add_unsigned(x)).unwrap_or(width);
                let left = if *bands { band::WIDTH } else { left };
                let below = height - side.y.wrapping_add_unsigned(y).rem_euclid(*height);
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
    pub(super) fn advance(
        &mut self,
        action: &mut Action,
        tlb: &mut Tlb,
        team: &mut Team,
        budget: u64,
    ) -> Result<bool, Fault> {
        let mut budget = budget;
        loop {
            let Piece { ahead, cost } = self.piece(action, tlb, team)?;
            if ahead > 0 && !self.next(ahead) {
                return Ok(true);
            }
            budget = budget.saturating_sub(cost.max(PIECE_COST));
            if budget == 0 {
                return Ok(false);
            }
        }
    }

    /// Whether the block is a tile, and where it comes from one of the same kind.
    fn whole_tiles(&self) -> bool {
        let (columns, rows) = &self.block;
        let tiling = self.job.dst.layout.tiling();
        let (width, height) = tiling.tile();
        let starts = |s: Side| {
            let (x, y) = (s.x.wrapping_add_unsigned(columns.start), s.y.wrapping_add_unsigned(rows.start));
            s.layout.tiling() == tiling && x % i64::from(width) == 0 && y % i64::from(height) == 0
        };
        tiling != Tiling::Linear
            && self.y == rows.start
            && columns.end - columns.start == u64::from(width)
            && rows.end - rows.start == u64::from(height)
            && starts(self.job.dst)
            && self.job.src.is_none_or(starts)
    }

    /// Lets the CPU fetch what `sides` need of the next block: it lies in other pages, or far apart in one, so that the
    /// hardware cannot foresee it.
    fn prefetch(&self, tlb: &Tlb, sides: impl IntoIterator<Item = Side>) {
        let ahead = self.block.0.end;
        if self.x != self.block.0.start || ahead >= self.job.width {
            return;
        }
        for side in sides {
            if let Ok((place, _)) = place(side, ahead, self.y)
                && let Some(at) = tlb.ahead(place.addr)
            {
                if place.columns { at.fetch_columns() } else { at.fetch_all(PREFETCH) }
            }
        }
    }

    /// Copies a block of whole lines of a Y-major tile, between it and a surface of another kind where they are whole, too.
    /// `None`: the block is not like that.
    fn strip(&self, action: &Action, tlb: &mut Tlb) -> Result<Option<Piece>, Fault> {
        let (Job { dst, src: Some(src), .. }, (columns, rows)) = (self.job, self.block.clone()) else {
            return Ok(None);
        };
        let y_major = |s: Side| s.layout.tiling() == Tiling::Y;
        let (tiled, plain) = if y_major(dst) { (dst, src) } else { (src, dst) };
        let starts = (self.x, self.y) == (columns.start, rows.start) && columns.end - columns.start == LINE;
        let aligned = || tiled.x.wrapping_add_unsigned(columns.start) % LINE.cast_signed() == 0;
        if !action.copies() || !starts || y_major(dst) == y_major(src) || !aligned() {
            return Ok(None);
        }
        for y in rows.clone() {
            if place(plain, columns.start, y)?.1 < LINE {
                return Ok(None);
            }
        }
        self.prefetch(tlb, [tiled]);
        for y in rows.clone() {
            let (to, from) =
                (checked(dst.address(columns.start, y))?, checked(src.address(columns.start, y))?);
            let (d, s) = tlb.pair(to, from)?;
            let (to, from) = (in_memory(to & PAGE_MASK), in_memory(from & PAGE_MASK));
            if y_major(dst) {
                Strip::new(1, [(&s, from)]).copy(&[d], to, Way::ToTiles, None);
            } else {
                Strip::new(1, [(&d, to)]).copy(&[s], from, Way::FromTiles, None);
            }
        }
        Ok(Some(Piece { ahead: LINE, cost: LINE * (rows.end - rows.start) }))
    }

    /// Does the next piece, or reads one of a line.
    fn piece(&mut self, action: &mut Action, tlb: &mut Tlb, team: &mut Team) -> Result<Piece, Fault> {
        let Job { dst, src, width, lines } = self.job;
        let Order::Lines { reversed, line, read } = &mut self.order else {
            return self.block_piece(action, tlb, team);
        };
        let y = if *reversed { lines - 1 - self.y } else { self.y };
        if let Some(src) = src
            && *read < width
        {
            let (from, readable) = place(src, *read, y)?;
            let n = readable.min(width - *read);
            let at = in_line(*read);
            Action::read(tlb, from, &mut line[at..at + in_memory(n)])?;
            *read += n;
            return Ok(Piece { ahead: 0, cost: n });
        }
        let (to, room) = place(dst, self.x, y)?;
        let n = room.min(width - self.x);
        if src.is_some() {
            let at = in_line(self.x);
            action.write(tlb, to, &line[at..at + in_memory(n)], phase(self.x))?;
        } else {
            action.apply(tlb, to, None, phase(self.x), in_memory(n), [None, None])?;
        }
        if self.x + n == width {
            *read = 0;
        }
        Ok(Piece { ahead: n, cost: n })
    }

    /// Does so many blocks from this one on, with one look at all their pages, as many of them as can be done so. `None`: nothing
    /// is done.
    fn bands(&mut self, action: &Action, tlb: &mut Tlb, team: &mut Team, most: usize) -> Option<Piece> {
        let begin = (self.block.clone(), self.x, self.y);
        let (mut cost, mut last) = (0, None);
        self.group.clear();
        while self.group.len() < most {
            let (columns, rows) = self.block.clone();
            let Some(width) = self.group.add(self.job, action, columns.clone(), rows.clone()) else { break };
            cost += width.max(PIECE_COST) * (rows.end - rows.start);
            self.block.0.end = columns.start + width;
            // With its last line the block is done.
            self.y = rows.end - 1;
            last = Some((self.block.clone(), self.x, self.y, width));
            if !self.next(width) {
                break;
            }
        }
        if let Some((block, x, y, ahead)) = last
            && self.group.draw(action, tlb, team)
        {
            (self.block, self.x, self.y) = (block, x, y);
            return Some(Piece { ahead, cost });
        }
        (self.block, self.x, self.y) = begin;
        None
    }

    /// Does the next piece of a block: all of it, if it is one tile on both sides.
    fn block_piece(&mut self, action: &mut Action, tlb: &mut Tlb, team: &mut Team) -> Result<Piece, Fault> {
        let Job { dst, src, .. } = self.job;
        let (columns, rows) = &self.block;
        if let Order::Blocks { side, bands: true, .. } = self.order
            && (self.x, self.y) == (columns.start, rows.start)
        {
            let columns = columns.clone();
            // No byte is written twice, or both written and read: it does not matter who draws which.
            // With several in one go the CPU is told of the next one's beginning.
            let hands = team.hands();
            if let Some(Piece { ahead, cost }) = self.bands(action, tlb, team, hands * SHARED) {
                return Ok(Piece { ahead, cost: cost.div_ceil(hands as u64) });
            }
            // One of them cannot be had.
            if let Some(piece) = self.bands(action, tlb, team, 1) {
                return Ok(piece);
            }
            // One tile, in pieces.
            let (tile, _) = side.layout.tiling().tile();
            self.block.0.end = columns.end.min(columns.start + u64::from(tile));
        }
        let (columns, rows) = &self.block;
        let left = columns.end - self.x;
        if self.whole_tiles() {
            // What a tile's bytes are called does not matter: the same in both.
            let tile = |side: Side| {
                checked(side.address(columns.start, rows.start)).map(|addr| Place { addr, columns: false })
            };
            let next = |side: Side| {
                let more = columns.end < self.job.width;
                more.then(|| checked(side.address(columns.end, rows.start)).ok()).flatten()
            };
            let ahead = [Some(dst), src].map(|side| next(side?));
            action.apply(tlb, tile(dst)?, src.map(tile).transpose()?, phase(self.x), PAGE_SIZE, ahead)?;
            self.y = rows.end - 1;
            return Ok(Piece { ahead: left, cost: PAGE_SIZE as u64 });
        }
        if let Some(piece) = self.strip(action, tlb)? {
            self.y = self.block.1.end - 1;
            return Ok(piece);
        }
        self.prefetch(tlb, [Some(dst), src].into_iter().flatten());
        let (to, room) = place(dst, self.x, self.y)?;
        let from = src.map(|src| place(src, self.x, self.y)).transpose()?;
        let n = left.min(room).min(from.map_or(left, |(_, readable)| readable));
        action.apply(tlb, to, from.map(|(place, _)| place), phase(self.x), in_memory(n), [None, None])?;
        Ok(Piece { ahead: n, cost: n })
    }
}

/// What a piece came to.
struct Piece {
    /// Bytes of the line that are done with it; 0 if it was only read.
    ahead: u64,
    /// Bytes touched.
    cost: u64,
}

/// Where byte `x` of line `y` of a rectangle lies, and how many bytes from there on lie in one piece.
pub(super) fn place(side: Side, x: u64, y: u64) -> Result<(Place, u64), Fault> {
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
pub(super) fn in_memory(n: u64) -> usize {
    n.min(PAGE_SIZE as u64) as usize
}

/// A place in a line: lines have at most 2^20 bytes.
fn in_line(n: u64) -> usize {
    n.min(1 << 20) as usize
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
