//! Where the bytes of a surface's lines lie: linear, in X-major or in Y-major tiles of one page.
//!
//! Arithmetic only. A coordinate outside of the surface goes on as the formula does: a tile to the right of the last
//! one is the first of the next row of tiles, one before the first lies before the base. Gen8 does not swizzle bit 6.
//! Source: Broadwell PRM volume 5, "Surface Tiling".

use std::ops::Range;

/// Bytes of a tile.
pub const TILE_BYTES: u32 = 4096;
/// Bytes of a Y-major tile's column.
pub const COLUMN_BYTES: u32 = 16;
/// From a column of a Y-major tile to the next.
pub const COLUMN_STEP: u32 = 512;

/// How a surface's lines lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tiling {
    /// Line after line.
    Linear,
    /// Tiles of 8 lines of 512 bytes, line after line.
    X,
    /// Tiles of 32 lines of 128 bytes, in 8 columns of 16 bytes, column after column.
    Y,
}

impl Tiling {
    /// Bytes of a tile's line, and its lines. Of a linear surface: 1 and 1.
    pub const fn tile(self) -> (u32, u32) {
        match self {
            Self::Linear => (1, 1),
            Self::X => (512, 8),
            Self::Y => (128, 32),
        }
    }
}

/// A surface that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLayout {
    /// Where it begins is not the start of a page.
    #[error("a tiled surface begins at {0:#x}, which is not the start of a page")]
    Base(u64),
    /// Its lines are no whole tiles.
    #[error("the pitch of a tiled surface is {0} bytes, which is not a positive number of tiles")]
    Pitch(i32),
}

/// A surface's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    base: u64,
    pitch: i32,
    tiling: Tiling,
}

impl Layout {
    /// A surface whose first byte lies at `base` (48 bits count), with `pitch` bytes from a line to the next. A tiled one
    /// begins with a page and has whole tiles.
    pub fn new(base: u64, pitch: i32, tiling: Tiling) -> Result<Self, BadLayout> {
        let base = base & 0xffff_ffff_ffff;
        if tiling != Tiling::Linear {
            if !base.is_multiple_of(TILE_BYTES.into()) {
                return Err(BadLayout::Base(base));
            }
            let whole = u32::try_from(pitch).is_ok_and(|p| p > 0 && p.is_multiple_of(tiling.tile().0));
            if !whole {
                return Err(BadLayout::Pitch(pitch));
            }
        }
        Ok(Self { base, pitch, tiling })
    }

    /// How its lines lie.
    pub const fn tiling(self) -> Tiling {
        self.tiling
    }

    /// Bytes from a line to the next.
    pub const fn pitch(self) -> i32 {
        self.pitch
    }

    /// Address of byte `x` of line `y`; negative if it lies before address 0. Both have at most 40 bits.
    pub fn address(self, x: i64, y: i64) -> i64 {
        // Tiles are powers of two each way: shifts and masks go on below 0 as the formula does.
        let (base, pitch) = (self.base.cast_signed(), i64::from(self.pitch));
        match self.tiling {
            Tiling::Linear => base + y * pitch + x,
            Tiling::X => {
                let tile = (y >> 3) * (pitch << 3) + ((x >> 9) << 12);
                base + tile + ((y & 7) << 9) + (x & 0x1ff)
            }
            Tiling::Y => {
                let tile = (y >> 5) * (pitch << 5) + ((x >> 7) << 12);
                let column = (x >> 4 & 7) * i64::from(COLUMN_STEP);
                base + tile + column + (y & 31) * i64::from(COLUMN_BYTES) + (x & 0xf)
            }
        }
    }

    /// Bytes from byte `x` of a line on, up to the end of the tile's line. `None`: the surface is linear.
    pub fn left_in_tile(self, x: i64) -> Option<u64> {
        match self.tiling {
            Tiling::Linear => None,
            Tiling::X => Some((512 - (x & 0x1ff)).cast_unsigned()),
            Tiling::Y => Some((128 - (x & 0x7f)).cast_unsigned()),
        }
    }

    /// The addresses that `width` bytes of `height` lines from byte `x` of line `y` on lie within, whole tiles counted.
    /// `None` if it holds no byte, or begins before address 0.
    pub fn extent(self, x: i64, y: i64, width: u64, height: u64) -> Option<Range<u64>> {
        if width == 0 || height == 0 {
            return None;
        }
        let (right, bottom) =
            (x.checked_add_unsigned(width)?.checked_sub(1)?, y.checked_add_unsigned(height)?.checked_sub(1)?);
        let corners = [(x, y), (x, bottom), (right, y), (right, bottom)].map(|(x, y)| self.address(x, y));
        let (first, last) = (corners.into_iter().min()?, corners.into_iter().max()?);
        let (first, last) = (u64::try_from(first).ok()?, u64::try_from(last).ok()?);
        match self.tiling {
            Tiling::Linear => Some(first..last.checked_add(1)?),
            Tiling::X | Tiling::Y => {
                let tile = u64::from(TILE_BYTES);
                Some(first / tile * tile..(last / tile + 1) * tile)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tiled_bytes_lie_where_the_manual_draws_them() {
        let x = Layout::new(0x10000, 1024, Tiling::X).expect("good");
        let y = Layout::new(0x10000, 256, Tiling::Y).expect("good");
        for (layout, at, want) in [
            (x, (0, 0), 0x10000),
            (x, (511, 0), 0x101ff),
            (x, (0, 1), 0x10200),
            (x, (512, 0), 0x11000),
            (x, (1, 8), 0x12001),
            (y, (15, 0), 0x1000f),
            (y, (16, 0), 0x10200),
            (y, (0, 1), 0x10010),
            (y, (127, 31), 0x10fff),
            (y, (128, 0), 0x11000),
            (y, (0, 32), 0x12000),
            (y, (-1, 0), 0xfe0f),
        ] {
            assert_eq!(layout.address(at.0, at.1), want, "{layout:?} {at:?}");
        }
    }

    #[test]
    fn tiled_surface_that_is_not_made_of_pages_is_refused() {
        assert_eq!(Layout::new(0x1010, 512, Tiling::X), Err(BadLayout::Base(0x1010)));
        for pitch in [0, -512, 256, 513] {
            assert_eq!(Layout::new(0x1000, pitch, Tiling::X), Err(BadLayout::Pitch(pitch)));
        }
        assert_eq!(Layout::new(0x1000, 64, Tiling::Y), Err(BadLayout::Pitch(64)));
        assert!(Layout::new(0x1011, -3, Tiling::Linear).is_ok());
    }

    #[test]
    fn extent_of_lines_that_go_up_begins_at_the_last_and_none_begins_before_zero() {
        let up = Layout::new(0x1_0000, -256, Tiling::Linear).expect("good");
        assert_eq!(up.extent(4, 0, 8, 3), Some(0x1_0004 - 512..0x1_0004 + 8));
        let up = Layout::new(0x100, -256, Tiling::Linear).expect("good");
        assert_eq!(up.extent(0, 0, 1, 3), None);
        assert_eq!(up.extent(0, 0, 1, 2), Some(0..0x101));
    }

    fn layout() -> impl Strategy<Value = Layout> {
        let tiling = prop::sample::select(vec![Tiling::Linear, Tiling::X, Tiling::Y]);
        (1i32..9, tiling).prop_map(|(tiles, tiling)| {
            let pitch = tiles * tiling.tile().0.cast_signed() * if tiling == Tiling::Linear { 60 } else { 1 };
            Layout::new(0x100_0000, pitch, tiling).expect("whole tiles")
        })
    }

    proptest! {
        #[test]
        fn bytes_of_a_surface_fill_it_without_gaps_or_overlaps(l in layout()) {
            let (_, height) = l.tiling().tile();
            let pitch = i64::from(l.pitch());
            let mut seen: Vec<i64> = (0..i64::from(height) * 2)
                .flat_map(|y| (0..pitch).map(move |x| l.address(x, y)))
                .collect();
            seen.sort_unstable();
            prop_assert!((0x100_0000..).zip(&seen).all(|(want, got)| want == *got));
        }

        #[test]
        fn every_byte_lies_in_the_extent(
            l in layout(), x in -3000i64..3000, y in -100i64..100, w in 1u64..3000, h in 1u64..100, fx in 0u64..3000, fy in 0u64..100,
        ) {
            let extent = l.extent(x, y, w, h).expect("far from 0");
            let at = l.address(x + (fx % w).cast_signed(), y + (fy % h).cast_signed());
            prop_assert!(extent.contains(&at.cast_unsigned()));
        }

        #[test]
        fn bytes_left_in_a_tile_are_in_one_page(l in layout(), x in -3000i64..3000, y in -100i64..100) {
            if let Some(left) = l.left_in_tile(x) {
                let page = |x| l.address(x, y) >> 12;
                prop_assert_eq!(page(x), page(x + left.cast_signed() - 1));
                prop_assert_ne!(page(x), page(x + left.cast_signed()));
            }
        }
    }
}
