//! Fences: parts of the aperture through which a CPU sees a tiled surface as if it was linear.
//!
//! A fence register has 64 bits: b0 valid, b1 Y-major tiles, 31:12 its first page, 42:32 its pitch in units of 128 bytes
//! less one, 63:44 its last page. Source: i915 `gt/intel_ggtt_fencing.c`, `i965_write_fence_reg`.

use std::ops::Range;

use super::tiling::{COLUMN_BYTES, Layout, TILE_BYTES, Tiling};

const VALID: u64 = 1 << 0;
const Y_MAJOR: u64 = 1 << 1;
/// The unit of the pitch.
const PITCH_UNIT: u64 = 128;
const PITCH_SHIFT: u32 = 32;
const PITCH_MASK: u64 = 0x7ff;

/// A fence that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    start: u64,
    /// First byte after it.
    end: u64,
    layout: Layout,
}

impl Fence {
    /// What a register's value means. `None`: not in use, or no surface that can be: such a part of the aperture is linear.
    pub fn decode(value: u64) -> Option<Self> {
        if value & VALID == 0 {
            return None;
        }
        let tile = u64::from(TILE_BYTES);
        let start = value & 0xffff_f000;
        let end = ((value >> PITCH_SHIFT) & 0xffff_f000) + tile;
        let tiling = if value & Y_MAJOR != 0 { Tiling::Y } else { Tiling::X };
        let pitch = (((value >> PITCH_SHIFT) & PITCH_MASK) + 1) * PITCH_UNIT;
        let layout = Layout::new(start, i32::try_from(pitch).ok()?, tiling).ok()?;
        (start < end).then_some(Self { start, end, layout })
    }

    /// The register's value for pages `start..end` (addresses of pages) and lines of `pitch` bytes. Bits that do not fit
    /// are lost.
    pub const fn encode(start: u64, end: u64, pitch: u64, tiling: Tiling) -> u64 {
        let last = end.saturating_sub(TILE_BYTES as u64) & 0xffff_f000;
        let pitch = (pitch / PITCH_UNIT).saturating_sub(1) & PITCH_MASK;
        let y = if matches!(tiling, Tiling::Y) { Y_MAJOR } else { 0 };
        (last | pitch) << PITCH_SHIFT | start & 0xffff_f000 | y | VALID
    }

    /// Where the byte that a CPU sees at `addr` lies, and how many bytes from there on follow each other as it sees them.
    fn locate(&self, addr: u64) -> Option<(u64, u64)> {
        if !(self.start..self.end).contains(&addr) {
            return None;
        }
        let pitch = u64::try_from(self.layout.pitch()).ok()?;
        let (x, y) = ((addr - self.start) % pitch, (addr - self.start) / pitch);
        let at = self.layout.address(x.cast_signed(), y.cast_signed());
        let run = match self.layout.tiling() {
            Tiling::Y => u64::from(COLUMN_BYTES),
            Tiling::X | Tiling::Linear => u64::from(self.layout.tiling().tile().0),
        };
        Some((u64::try_from(at).ok()?, run - x % run))
    }
}

/// The pieces of an access to `len` bytes at `addr` of the aperture: where each lies in graphics memory, and which of the
/// bytes it is. The first of overlapping fences counts.
pub fn pieces(fences: &[Fence], addr: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let left = len.checked_sub(done).filter(|left| *left > 0)?;
        let at = addr.saturating_add(done as u64);
        let hit = fences.iter().find_map(|f| f.locate(at));
        // Outside of all: up to the next one's start.
        let free = || fences.iter().filter(|f| f.start > at).map(|f| f.start - at).min().unwrap_or(u64::MAX);
        let (place, run) = hit.unwrap_or_else(|| (at, free()));
        let n = left.min(usize::try_from(run).unwrap_or(usize::MAX));
        let piece = done..done + n;
        done += n;
        Some((place, piece))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn register_as_i915_writes_it_has_its_known_bits() {
        let value = Fence::encode(0x10_0000, 0x18_0000, 4096, Tiling::X);
        assert_eq!(value, 0x0017_f01f_0010_0001);
        let f = Fence::decode(value).expect("valid");
        assert_eq!((f.start, f.end, f.layout.pitch()), (0x10_0000, 0x18_0000, 4096));
    }

    #[test]
    fn fence_that_is_not_in_use_or_cannot_be_is_none() {
        for value in [
            0,
            Fence::encode(0x1000, 0x9000, 512, Tiling::X) & !VALID,
            // X-major tiles are 512 bytes wide.
            Fence::encode(0x1000, 0x9000, 128, Tiling::X),
            // It ends before it begins.
            Fence::encode(0x9000, 0x1000, 512, Tiling::X),
        ] {
            assert_eq!(Fence::decode(value), None, "{value:#x}");
        }
    }

    fn fence() -> impl Strategy<Value = Fence> {
        (0u64..8, 1u64..24, 1u64..5, any::<bool>()).prop_map(|(start, pages, tiles, y)| {
            let (tiling, width) = if y { (Tiling::Y, 128) } else { (Tiling::X, 512) };
            let start = start * 4096;
            let value = Fence::encode(start, start + pages * 4096, tiles * width, tiling);
            Fence::decode(value).expect("valid")
        })
    }

    /// Where one byte lies, bit by bit.
    fn naive(fences: &[Fence], addr: u64) -> u64 {
        let Some(f) = fences.iter().find(|f| f.start <= addr && addr < f.end) else { return addr };
        let pitch = u64::try_from(f.layout.pitch()).expect("positive");
        let (x, y) = ((addr - f.start) % pitch, (addr - f.start) / pitch);
        f.start
            + if f.layout.tiling() == Tiling::Y {
                ((y >> 5) * (pitch >> 7) + (x >> 7)) << 12 | (x >> 4 & 7) << 9 | (y & 31) << 4 | x & 15
            } else {
                ((y >> 3) * (pitch >> 9) + (x >> 9)) << 12 | (y & 7) << 9 | x & 511
            }
    }

    proptest! {
        #[test]
        fn pieces_are_the_bytes_one_by_one(
            fences in prop::collection::vec(fence(), 0..4), addr in 0u64..0x2_0000, len in 0usize..700,
        ) {
            let all: Vec<u64> = pieces(&fences, addr, len)
                .flat_map(|(at, piece)| (0..piece.len() as u64).map(move |n| at + n))
                .collect();
            let want: Vec<u64> = (addr..addr + len as u64).map(|a| naive(&fences, a)).collect();
            prop_assert_eq!(all, want);
        }

        #[test]
        fn any_register_value_has_pieces_that_add_up(values: [u64; 4], addr: u64, len in 0usize..64) {
            let fences: Vec<Fence> = values.into_iter().filter_map(Fence::decode).collect();
            let total: usize = pieces(&fences, addr, len).map(|(_, piece)| piece.len()).sum();
            prop_assert_eq!(total, len);
        }
    }
}
