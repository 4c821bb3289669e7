//! Copies of many tiles at once: some tiles side by side, and as much of the lines of the other surface.
//!
//! All pages of a band are looked up together, then copied between without another look. What does not fit (a page that
//! leads nowhere, lines that end before a tile does) is left to the caller, who does it piece by piece.

use std::ops::Range;

use super::super::page::Page;
use super::super::tlb::Tlb;
use super::tiles::{in_memory, place};
use super::{Job, Side, checked};
use crate::bus::DmaAccess;
use crate::gen8::tiling::Tiling;
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

/// Bytes of a band's lines, at most: a page of a linear surface, or as many tiles as fill a step.
pub(super) const WIDTH: u64 = PAGE_SIZE as u64;
/// Lines of a Y-major tile that share a line of the cache.
const TOGETHER: usize = 4;

/// Where a line lies in its page, and in its tile.
#[derive(Clone, Copy)]
struct Line {
    tiled: usize,
    plain: usize,
}

/// A band that can be copied.
pub(super) struct Band {
    tiling: Tiling,
    /// Bytes of its lines: whole tiles.
    width: u64,
    /// The tiles are the destination.
    to_tiles: bool,
    /// The source has tiles of the same kind, which are copied whole.
    alike: bool,
    /// Addresses: of the tiles, then of what is on the other side: of lines, or of tiles.
    asked: Vec<(u64, DmaAccess)>,
    tiles: usize,
    lines: Vec<Line>,
}

impl Band {
    /// Whether bands are likely to be possible: the tiles of `side` begin where the rectangle does, and no line of the other
    /// surface has the end of a page within a tile.
    pub(super) fn fits(side: Side, dst: Side, src: Side) -> bool {
        let (wide, high) = side.layout.tiling().tile();
        let (wide, high) = (i64::from(wide), i64::from(high));
        let aligned = |s: Side| match s.layout.tiling() {
            Tiling::Linear => s.address(0, 0) % wide == 0 && i64::from(s.layout.pitch()) % wide == 0,
            other if other == side.layout.tiling() => s.x % wide == 0 && (s.y - side.y) % high == 0,
            _ => s.x % wide == 0,
        };
        side.layout.tiling() != Tiling::Linear && aligned(dst) && aligned(src)
    }

    /// The band of these columns and rows of a rectangle, all rows in one row of tiles of `side`. It may be narrower.
    pub(super) fn new(side: Side, job: Job, columns: Range<u64>, rows: Range<u64>) -> Option<Self> {
        let Job { dst, src: Some(src), .. } = job else { return None };
        let tiling = side.layout.tiling();
        let (wide, high) = tiling.tile();
        let to_tiles = dst.layout.tiling() == tiling;
        let (tiled, plain) = if to_tiles { (dst, src) } else { (src, dst) };
        let alike = plain.layout.tiling() == tiling;
        if alike && rows.end - rows.start != u64::from(high) {
            return None;
        }
        let wide = u64::from(wide);
        let mut width = columns.end - columns.start;
        let mut lines = Vec::new();
        let (tiles_access, plain_access) =
            if to_tiles { (DmaAccess::Write, DmaAccess::Read) } else { (DmaAccess::Read, DmaAccess::Write) };
        let mut other = Vec::new();
        if !alike {
            for y in rows.clone() {
                let (from, room) = place(plain, columns.start, y).ok()?;
                width = width.min(room);
                let tiled = checked(tiled.address(columns.start, y)).ok()?;
                let offset = |addr: u64| in_memory(addr & PAGE_MASK);
                lines.push(Line { tiled: offset(tiled), plain: offset(from.addr) });
                other.push((from.addr, plain_access));
            }
        }
        width -= width % wide;
        let along = || (0..width / wide).map(|n| columns.start + n * wide);
        let address = |side: Side, x| checked(side.address(x, rows.start)).ok();
        let mut asked: Vec<_> =
            along().map(|x| Some((address(tiled, x)?, tiles_access))).collect::<Option<_>>()?;
        let tiles = asked.len();
        if alike {
            other = along().map(|x| Some((address(plain, x)?, plain_access))).collect::<Option<_>>()?;
        }
        asked.append(&mut other);
        (tiles > 0).then_some(Self { tiling, width, to_tiles, alike, asked, tiles, lines })
    }

    /// Copies it. Gives the bytes of its lines; `None`: nothing is done.
    pub(super) fn copy(&self, tlb: &mut Tlb) -> Option<u64> {
        let pages = tlb.together(&self.asked)?;
        let (tiles, other) = pages.split_at_checked(self.tiles)?;
        if self.alike {
            for (tile, other) in tiles.iter().zip(other) {
                tile.copy_from(0, other, 0, PAGE_SIZE);
            }
            return Some(self.width);
        }
        let lines: Vec<_> = self.lines.iter().zip(other).collect();
        match self.tiling {
            Tiling::Y => self.columns(tiles, &lines),
            Tiling::X | Tiling::Linear => self.rows(tiles, &lines),
        }
        Some(self.width)
    }

    /// Between X-major tiles and lines.
    fn rows(&self, tiles: &[Page<'_>], lines: &[(&Line, &Page<'_>)]) {
        const WIDE: usize = 512;
        for (line, page) in lines {
            for (n, tile) in tiles.iter().enumerate() {
                let plain = line.plain + n * WIDE;
                if self.to_tiles {
                    tile.copy_from(line.tiled, page, plain, WIDE);
                } else {
                    page.copy_from(plain, tile, line.tiled, WIDE);
                }
            }
        }
    }

    /// Between Y-major tiles and lines.
    fn columns(&self, tiles: &[Page<'_>], lines: &[(&Line, &Page<'_>)]) {
        const WIDE: usize = 128;
        for together in
            lines.chunk_by(|(a, _), (b, _)| a.tiled / (16 * TOGETHER) == b.tiled / (16 * TOGETHER))
        {
            for (n, tile) in tiles.iter().enumerate() {
                if let (Some(next), Some((first, _))) = (tiles.get(n + 1), together.first()) {
                    next.prefetch_columns(first.tiled);
                }
                for (line, page) in together {
                    let plain = line.plain + n * WIDE;
                    if self.to_tiles {
                        tile.line_to_columns(line.tiled, page, plain);
                    } else {
                        page.line_from_columns(plain, tile, line.tiled);
                    }
                }
            }
        }
    }
}
