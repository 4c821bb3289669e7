//! Blits to and from tiled surfaces against a naive drawing of pixels.

use proptest::prelude::*;

use super::super::naive::*;
use super::super::{Blit, Refused};
use crate::gen8::blt::{
    BltTilings, FastDepth, FastSurface, FastTiling, ROP_PATCOPY, ROP_SRCCOPY, Rect, Surface, XyColorBlt,
    XyFastCopyBlt, XySrcCopyBlt,
};
use crate::gen8::tiling::BadLayout;

/// A surface of which the tests draw a part.
#[derive(Clone, Copy, Debug)]
struct Any {
    tiling: FastTiling,
    base: u64,
    /// Bytes.
    pitch: i16,
}

impl Any {
    fn surface(self) -> Surface {
        let tiled = self.tiling != FastTiling::Linear;
        Surface { base: self.base, pitch: if tiled { self.pitch / 4 } else { self.pitch }, tiled }
    }
    fn fast(self) -> FastSurface {
        FastSurface { base: self.base, pitch: self.surface().pitch, tiling: self.tiling }
    }
}

fn tilings(src: Any, dst: Any) -> BltTilings {
    let y = |s: Any, bit| if s.tiling == FastTiling::Y { bit } else { 0 };
    BltTilings::of(y(src, 1) | y(dst, 2))
}

fn any_tiling() -> impl Strategy<Value = FastTiling> {
    prop::sample::select(vec![FastTiling::Linear, FastTiling::X, FastTiling::Y])
}

/// From 1 to 4 tiles wide, or a linear one as wide, mostly within memory.
fn surface(tiling: FastTiling) -> impl Strategy<Value = Any> {
    let page = prop_oneof![8 => 4u64..28, 1 => 0u64..2, 1 => 36u64..52];
    (page, 1i16..5, 0u64..4096, -100i16..100).prop_map(move |(page, tiles, offset, odd)| match tiling {
        FastTiling::Linear => Any { tiling, base: page * 4096 + offset, pitch: tiles * 256 + odd },
        FastTiling::X => Any { tiling, base: page * 4096, pitch: tiles * 512 },
        _ => Any { tiling, base: page * 4096, pitch: tiles * 128 },
    })
}

fn two() -> impl Strategy<Value = (Any, Any)> {
    // At least one tiled; now and then one surface.
    let pair = (any_tiling(), any_tiling())
        .prop_filter("tiled", |(a, b)| (*a, *b) != (FastTiling::Linear, FastTiling::Linear));
    pair.prop_flat_map(|(a, b)| {
        let both = (surface(a), surface(b));
        let one = surface(if a == FastTiling::Linear { b } else { a }).prop_map(|s| (s, s));
        prop_oneof![2 => both, 1 => one]
    })
}

/// A rectangle of at most `width` pixels, some of it perhaps outside of the surface.
fn rect(width: i16) -> impl Strategy<Value = Rect> {
    (-3..width, -3i16..40, -1..width, -1i16..40).prop_map(|(x1, y1, w, h)| Rect {
        x1,
        y1,
        x2: x1 + w,
        y2: y1 + h,
    })
}

fn budget() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..5000, Just(u64::MAX)]
}

fn rop() -> impl Strategy<Value = u8> {
    prop_oneof![1 => Just(ROP_PATCOPY), 1 => Just(ROP_SRCCOPY), 2 => any::<u8>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn fill_draws_what_the_naive_one_draws(
        s in prop_oneof![surface(FastTiling::X), surface(FastTiling::Y)], rect in rect(300), clip in rect(200), depth in depth(),
        rop in rop().prop_map(without_source), color in any::<u32>(), write_alpha in any::<bool>(), write_rgb in any::<bool>(), clipped in any::<bool>(), budget in budget(),
    ) {
        let b = XyColorBlt { write_alpha, write_rgb, depth, rop, clip: clipped, dst: s.surface(), rect, color };
        check_fill(&b, clip, tilings(s, s), budget);
    }

    #[test]
    fn copy_draws_what_the_naive_one_draws(
        (dst, src) in two(), rect in rect(200), clip in rect(200), depth in depth(), src_x in -3i16..100, src_y in -3i16..30,
        rop in rop().prop_map(without_pattern), write_alpha in any::<bool>(), write_rgb in any::<bool>(), clipped in any::<bool>(), budget in budget(),
    ) {
        let b = XySrcCopyBlt {
            write_alpha, write_rgb, depth, rop, clip: clipped, dst: dst.surface(), rect, src: src.surface(), src_x, src_y,
        };
        check_copy(&b, clip, tilings(src, dst), budget);
    }

    #[test]
    fn fast_copy_draws_what_the_naive_one_draws(
        (dst, src) in two(), rect in rect(60), wide in 0usize..5, src_x in -3i16..40, src_y in -3i16..30, budget in budget(),
    ) {
        let depths = [FastDepth::Bpp8, FastDepth::Bpp16, FastDepth::Bpp32, FastDepth::Bpp64, FastDepth::Bpp128];
        let b = XyFastCopyBlt { depth: depths[wide], dst: dst.fast(), rect, src: src.fast(), src_x, src_y };
        check_fast(&b, budget);
    }

    /// Whole tiles and what is beside them, where pages can be copied many at a time; each tile at its own place.
    #[test]
    fn copy_of_aligned_surfaces_draws_what_the_naive_one_draws(
        to in any_tiling(), from in any_tiling(), pages in (4u64..16, 24u64..40), tiles in (1i16..6, 1i16..6),
        at in (0i16..3, 0i16..3), y in (0i16..70, 0i16..70), size in (1i16..1500, 1i16..80), offset in 0u64..8, budget in budget(),
    ) {
        prop_assume!((to, from) != (FastTiling::Linear, FastTiling::Linear));
        let aligned = |tiling, page: u64, tiles: i16| match tiling {
            FastTiling::Linear => Any { tiling, base: page * 4096 + offset * 512, pitch: tiles * 512 },
            FastTiling::X => Any { tiling, base: page * 4096, pitch: tiles * 512 },
            _ => Any { tiling, base: page * 4096, pitch: tiles * 256 },
        };
        let (dst, src) = (aligned(to, pages.0, tiles.0), aligned(from, pages.1, tiles.1));
        let (x1, y1) = (at.0 * 512, y.0);
        let rect = Rect { x1, y1, x2: x1 + size.0, y2: y1 + size.1 };
        let b = XyFastCopyBlt {
            depth: FastDepth::Bpp8, dst: dst.fast(), rect, src: src.fast(), src_x: at.1 * 512, src_y: y.1,
        };
        check_fast(&b, budget);
    }

    /// Within a surface: as if the whole source was read before anything was written.
    #[test]
    fn scroll_within_a_tiled_surface_is_as_if_read_first(
        y in any::<bool>(), dx in -20i16..20, dy in -40i16..40, budget in budget(),
    ) {
        let (tiling, pitch) = if y { (FastTiling::Y, 512) } else { (FastTiling::X, 1024) };
        let s = Any { tiling, base: 0x3000, pitch }.fast();
        let rect = Rect { x1: 21, y1: 41, x2: 100, y2: 99 };
        let scroll = XyFastCopyBlt { depth: FastDepth::Bpp32, dst: s, rect, src: s, src_x: rect.x1 + dx, src_y: rect.y1 + dy };
        let before = noise();
        let mut mem = Memory::new(&before);
        mem.draw(Blit::fast_copy(&scroll), budget).expect("in memory");
        // Out of the surface and back, through a linear copy of the untouched memory that nothing overlaps.
        let linear = FastSurface { base: 0x2_8000, pitch: 512, tiling: FastTiling::Linear };
        let zero = Rect { x1: 0, y1: 0, x2: rect.x2 - rect.x1, y2: rect.y2 - rect.y1 };
        let out = XyFastCopyBlt { dst: linear, rect: zero, ..scroll };
        let back = XyFastCopyBlt { src: linear, src_x: 0, src_y: 0, ..scroll };
        let mut twice = Memory::new(&before);
        twice.draw(Blit::fast_copy(&out), u64::MAX).expect("in memory");
        twice.draw(Blit::fast_copy(&back), u64::MAX).expect("in memory");
        let (got, want) = (mem.content(), twice.content());
        prop_assert!(got[..0x2_8000] == want[..0x2_8000]);
    }
}

#[test]
fn surfaces_that_are_not_whole_tiles_are_refused() {
    let rect = Rect { x1: 0, y1: 0, x2: 1, y2: 1 };
    let fill = |base, pitch| {
        let mut f = XyColorBlt::fill(base, pitch, rect, 0);
        f.dst.tiled = true;
        Blit::fill(&f, NO_CLIP, BltTilings::X).err()
    };
    assert_eq!(fill(0x1000, 128), None);
    assert_eq!(fill(0x1010, 128), Some(Refused::Layout(BadLayout::Base(0x1010))));
    assert_eq!(fill(0x1000, 127), Some(Refused::Layout(BadLayout::Pitch(508))));
    assert_eq!(fill(0x1000, -128), Some(Refused::Layout(BadLayout::Pitch(-512))));
    assert_eq!(fill(0x1000, 0), Some(Refused::Layout(BadLayout::Pitch(0))));
}

#[test]
fn tilings_and_depths_of_later_generations_are_refused() {
    let rect = Rect { x1: 0, y1: 0, x2: 1, y2: 1 };
    let good = FastSurface { base: 0x1000, pitch: 128, tiling: FastTiling::X };
    let copy = XyFastCopyBlt { depth: FastDepth::Bpp32, dst: good, rect, src: good, src_x: 0, src_y: 0 };
    for tiling in [FastTiling::Yf, FastTiling::Ys] {
        let bad = FastSurface { tiling, ..good };
        assert_eq!(Blit::fast_copy(&XyFastCopyBlt { dst: bad, ..copy }).err(), Some(Refused::Tiling));
        assert_eq!(Blit::fast_copy(&XyFastCopyBlt { src: bad, ..copy }).err(), Some(Refused::Tiling));
    }
    for n in [2, 6, 7] {
        let depth = FastDepth::Reserved(n);
        assert_eq!(Blit::fast_copy(&XyFastCopyBlt { depth, ..copy }).err(), Some(Refused::Depth(n)));
    }
}

#[test]
fn largest_coordinates_of_tiled_surfaces_fault_without_wrapping() {
    for (x, y) in [(i16::MIN, i16::MIN), (i16::MIN, 0), (0, i16::MIN), (i16::MAX - 1, i16::MAX - 1)] {
        for tiling in [FastTiling::X, FastTiling::Y] {
            let s = FastSurface { base: 0xffff_ffff_f000, pitch: 0x7f80, tiling };
            let rect = Rect { x1: x, y1: y, x2: i16::MAX, y2: i16::MAX };
            let b = XyFastCopyBlt { depth: FastDepth::Bpp128, dst: s, rect, src: s, src_x: x, src_y: y };
            assert_eq!(Memory::new(&noise()).draw(Blit::fast_copy(&b), 100_000), None);
        }
    }
}

#[test]
fn depth_of_a_blit_does_not_matter_to_where_a_tiled_byte_lies() {
    // One pixel of 128 bits is 16 bytes: a column's line of a Y-major tile.
    let s = Any { tiling: FastTiling::Y, base: 0x4000, pitch: 128 };
    let linear = Any { tiling: FastTiling::Linear, base: 0x1_0000, pitch: 128 };
    let rect = Rect { x1: 0, y1: 0, x2: 8, y2: 32 };
    let wide = XyFastCopyBlt {
        depth: FastDepth::Bpp128,
        dst: linear.fast(),
        rect,
        src: s.fast(),
        src_x: 0,
        src_y: 0,
    };
    let narrow = XyFastCopyBlt { depth: FastDepth::Bpp8, rect: Rect { x2: 128, ..rect }, ..wide };
    let [a, b] = [wide, narrow].map(|b| {
        let mut mem = Memory::new(&noise());
        mem.draw(Blit::fast_copy(&b), u64::MAX).expect("in memory");
        mem.content()
    });
    assert!(a == b);
}

#[test]
fn page_that_is_missing_stops_a_copy_between_tilings_there() {
    use FastTiling::{Linear, X, Y};
    for (to, from) in [(X, Linear), (Linear, X), (Y, Linear), (Linear, Y), (Y, X), (X, Y), (X, X), (Y, Y)] {
        // 64 lines of 1024 bytes: sixteen pages each.
        let surface = |tiling, page: u64| Any { tiling, base: page * 4096, pitch: 1024 }.fast();
        let rect = Rect { x1: 0, y1: 0, x2: 256, y2: 64 };
        let (dst, src) = (surface(to, 4), surface(from, 24));
        let copy = XyFastCopyBlt { depth: FastDepth::Bpp32, dst, rect, src, src_x: 0, src_y: 0 };
        for budget in [1, u64::MAX] {
            for page in [4, 5, 11, 19, 24, 25, 31, 39] {
                check_hole(|| Blit::fast_copy(&copy), page, false, budget);
            }
        }
    }
}

#[test]
fn copy_of_lines_longer_than_are_copied_at_once_draws_what_the_naive_one_draws() {
    use FastTiling::{Linear, X, Y};
    // Bytes from a line to the next of tiles and of linear lines, whose pages end anywhere; bytes and lines; first pages.
    let wide = (5120, 4736, 4500, 7, [2, 26]);
    let to_y = (5120, 4736, 4500, 3, [0, 42]);
    let from_y = (5120, 4736, 4500, 3, [42, 0]);
    for (to, from, (tiled, plain, width, lines, pages)) in [
        (X, Linear, wide),
        (Linear, X, wide),
        (X, X, wide),
        (Y, Linear, to_y),
        (Linear, Y, from_y),
        (Y, X, (2048, 0, 1500, 9, [0, 34])),
        (Y, X, (1024, 0, 700, 40, [0, 34])),
        (X, Y, (1024, 0, 700, 40, [34, 0])),
        (Y, Y, (1024, 0, 700, 40, [0, 24])),
    ] {
        for (x, src_x) in [(0, 0), (128, 128), (256, 0), (100, 12), (0, 1)] {
            let surface = |tiling, page: u64| {
                let pitch = if tiling == Linear { plain } else { tiled };
                Any { tiling, base: page * 4096, pitch }.fast()
            };
            let rect = Rect { x1: x, y1: 1, x2: x + width, y2: 1 + lines };
            let (dst, src) = (surface(to, pages[0]), surface(from, pages[1]));
            let copy = XyFastCopyBlt { depth: FastDepth::Bpp8, dst, rect, src, src_x, src_y: 2 };
            for budget in [1, 4000, u64::MAX] {
                assert!(check_fast(&copy, budget), "{copy:?} is not in memory");
            }
        }
    }
}
