//! Lines of bytes that go to Y-major tiles, or come from them.
//!
//! A Y-major tile has a line's 128 bytes in eight columns, 512 bytes apart. Lines are copied tile by tile, so that each page is
//! gone through once, and while one tile is copied the CPU is told of the next one and of the lines beside it: each of them lies in a
//! page of its own, where it foresees nothing. Where the processor's cache is shared with others that is the difference between
//! a copy that waits for memory at each line of the cache and one that hardly waits.
#![expect(unsafe_code, reason = "bytes in shared pages are touched through raw pointers")]

use std::marker::PhantomData;

use smallvec::SmallVec;
use xen_ioreq::PAGE_SIZE;

use super::page::{COLUMN, LINE, Page, STEP};
use super::stream::{Ahead, LINE as CACHE};
use crate::gen8::tiling::Tiling;

/// Lines of a tile.
pub(super) const LINES: usize = PAGE_SIZE / LINE;
/// Columns of a tile.
const COLUMNS: usize = LINE / COLUMN;

const _: () = assert!(Tiling::Y.tile().0 as usize == LINE && Tiling::Y.tile().1 as usize == LINES);

/// Whether tiles are written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToTiles,
    FromTiles,
}

/// Lines below each other, each of as many bytes of one page as some tiles side by side have of it.
pub(super) struct Strip<'t> {
    lines: SmallVec<[*mut u8; LINES]>,
    tiles: usize,
    held: PhantomData<&'t ()>,
}

impl<'t> Strip<'t> {
    /// Lines beside so many tiles, each from an offset in a page on.
    pub(super) fn new(tiles: usize, lines: impl IntoIterator<Item = (&'t Page<'t>, usize)>) -> Self {
        let lines = lines.into_iter().map(|(page, offset)| page.at(offset, tiles * LINE)).collect();
        Self { lines, tiles, held: PhantomData }
    }

    /// How many tiles lie beside it.
    pub(super) fn tiles(&self) -> usize {
        self.tiles
    }

    /// Copies between it and those tiles, of which its first line is the one whose bytes begin at `offset`. `next`: the strip that
    /// is copied after this one and the first tile beside it.
    pub(super) fn copy(&self, tiles: &[Page<'_>], offset: usize, way: Way, next: Option<(&Page<'_>, &Self)>) {
        assert_eq!(tiles.len(), self.tiles, "tiles beside a strip");
        let (first, below) = (offset / COLUMN, self.lines.len());
        assert!(offset.is_multiple_of(COLUMN) && first + below <= LINES, "{below} lines from {offset:#x} on");
        let next = next.filter(|(_, strip)| strip.lines.len() >= below && strip.tiles > 0);
        for (n, tile) in tiles.iter().enumerate() {
            let (ahead, lines, skip) = match (tiles.get(n + 1), next) {
                (Some(ahead), _) => (ahead, self, (n + 1) * LINE),
                (None, Some((ahead, strip))) => (ahead, strip, 0),
                // What is here already.
                (None, None) => (tile, self, n * LINE),
            };
            let here = Cell { tile: tile.at(offset, span(below)), lines: &self.lines, skip: n * LINE };
            let ahead = Cell { tile: ahead.at(offset, span(below)), lines: &lines.lines, skip };
            // SAFETY: `at` has checked the tile's bytes, `new` those of the lines, of which this tile's lie at `skip`.
            unsafe {
                match way {
                    Way::ToTiles => here.copy::<true>(&ahead),
                    Way::FromTiles => here.copy::<false>(&ahead),
                }
            }
        }
    }
}

/// Bytes from the first of some lines' first column to the end of their last one.
const fn span(lines: usize) -> usize {
    (COLUMNS - 1) * STEP + lines * COLUMN
}

/// Lines of one tile, and what lies beside them.
#[derive(Clone, Copy)]
struct Cell<'a> {
    /// Where its first line is in its first column.
    tile: *mut u8,
    lines: &'a [*mut u8],
    /// Bytes of each line before those beside this tile.
    skip: usize,
}

impl Cell<'_> {
    /// Copies it, and tells the CPU of another one with as many lines or more.
    ///
    /// # Safety
    /// At each line's `skip` [`LINE`] bytes, and in each column as many lines from `tile` on, can be read, and written on the side
    /// that is copied to.
    #[inline]
    unsafe fn copy<const TO: bool>(&self, ahead: &Self) {
        let beside = |line: *mut u8, skip: usize| line.wrapping_add(skip);
        for (n, (line, then)) in self.lines.iter().zip(ahead.lines).enumerate() {
            // Two lines of the cache on either side for each two that are copied.
            let then = Ahead::new(beside(*then, ahead.skip));
            for at in [2 * n, 2 * n + 1] {
                let tile = Ahead::new(ahead.tile.wrapping_add(at % COLUMNS * STEP + at / COLUMNS * CACHE));
                if TO { tile.fetch_to_write(0) } else { tile.fetch(0) }
            }
            for at in [0, CACHE] {
                if TO { then.fetch(at) } else { then.fetch_to_write(at) }
            }
            let line = beside(*line, self.skip);
            for column in 0..COLUMNS {
                // SAFETY: the caller's promise. A piece is read before it is written, so that it does not matter whether both are
                // in one page. Bytes have no alignment.
                unsafe {
                    let there = self.tile.add(column * STEP + n * COLUMN).cast::<[u8; COLUMN]>();
                    let here = line.add(column * COLUMN).cast::<[u8; COLUMN]>();
                    if TO { there.write(here.read()) } else { here.write(there.read()) }
                }
            }
        }
    }
}
