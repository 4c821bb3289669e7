//! Blits between linear surfaces against a naive drawing of pixels.

use proptest::prelude::*;

use super::super::naive::*;
use super::super::{Blit, Refused};
use crate::gen8::blt::{
    BltTilings, Depth, FastDepth, FastSurface, FastTiling, ROP_PATCOPY, ROP_SRCCOPY, Rect, Surface,
    XyColorBlt, XyFastCopyBlt, XySrcCopyBlt,
};

fn rect() -> impl Strategy<Value = Rect> {
    (-6i16..30, -6i16..12, -2i16..40, -2i16..16).prop_map(|(x1, y1, w, h)| Rect {
        x1,
        y1,
        x2: x1 + w,
        y2: y1 + h,
    })
}

/// A pitch: any small one, or one that leaves no gap between lines.
fn pitch(rect: Rect, depth: Depth) -> impl Strategy<Value = i16> {
    let tight = i16::try_from(rect.width() * depth.bytes()).expect("small");
    prop_oneof![2 => -400i16..400, 1 => Just(tight), 1 => Just(-tight)]
}

fn base() -> impl Strategy<Value = u64> {
    let end = SIZE as u64;
    prop_oneof![8 => 8000..end - 9000, 1 => 0u64..3000, 1 => end - 6000..end + 4000]
}

fn rop() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(ROP_PATCOPY), 2 => Just(ROP_SRCCOPY), 1 => Just(0x66), 3 => any::<u8>()]
}

fn budget() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..5000, Just(u64::MAX)]
}

prop_compose! {
    fn fill()(rect in rect(), depth in depth())(
        pitch in pitch(rect, depth), rect in Just(rect), depth in Just(depth),
        base in base(), color in any::<u32>(), rop in rop().prop_map(without_source), alpha in any::<bool>(), rgb in any::<bool>(), full in any::<bool>(), clip in any::<bool>(),
    ) -> XyColorBlt {
        let dst = Surface { base, pitch, tiled: false };
        XyColorBlt { write_alpha: alpha || full, write_rgb: rgb || full, depth, rop, clip, dst, rect, color }
    }
}

prop_compose! {
    fn copy()(f in fill())(
        src_pitch in pitch(f.rect, f.depth), near in -700i64..700, far in base(), close in any::<bool>(), same in any::<bool>(),
        src_x in -5i16..20, src_y in -5i16..8, rop in rop().prop_map(without_pattern), f in Just(f),
    ) -> XySrcCopyBlt {
        let base = if close { f.dst.base.saturating_add_signed(near) } else { far };
        let pitch = if same { f.dst.pitch } else { src_pitch };
        let XyColorBlt { write_alpha, write_rgb, depth, clip, dst, rect, .. } = f;
        let src = Surface { base, pitch, tiled: false };
        XySrcCopyBlt { write_alpha, write_rgb, depth, rop, clip, dst, rect, src, src_x, src_y }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn fill_draws_what_the_naive_one_draws(b in fill(), clip in rect(), budget in budget()) {
        check_fill(&b, clip, BltTilings::X, budget);
    }

    #[test]
    fn copy_draws_what_the_naive_one_draws(b in copy(), clip in rect(), budget in budget()) {
        check_copy(&b, clip, BltTilings::X, budget);
    }

    #[test]
    fn fast_copy_draws_what_the_naive_one_draws(b in copy(), wide in 0usize..5, budget in budget()) {
        let depths = [FastDepth::Bpp8, FastDepth::Bpp16, FastDepth::Bpp32, FastDepth::Bpp64, FastDepth::Bpp128];
        let surface = |s: Surface| FastSurface { base: s.base, pitch: s.pitch, tiling: FastTiling::Linear };
        let (src_x, src_y) = (b.src_x, b.src_y);
        let fast = XyFastCopyBlt { depth: depths[wide], dst: surface(b.dst), rect: b.rect, src: surface(b.src), src_x, src_y };
        check_fast(&fast, budget);
    }
}

/// A plain 32-bit copy between two places of one surface.
fn scroll(base: u64, pitch: i16, rect: Rect, src_x: i16, src_y: i16) -> XySrcCopyBlt {
    let surface = Surface { base, pitch, tiled: false };
    let (write_alpha, write_rgb, depth, rop, clip) = (true, true, Depth::Bpp32, ROP_SRCCOPY, false);
    XySrcCopyBlt { write_alpha, write_rgb, depth, rop, clip, dst: surface, rect, src: surface, src_x, src_y }
}

#[test]
fn overlapping_copies_in_every_direction_are_as_if_read_first() {
    for (base, pitch) in [(0x800, 512i16), (0xf800, -512)] {
        for dx in -3i16..=3 {
            for dy in -3i16..=3 {
                let rect = Rect { x1: 8, y1: 8, x2: 108, y2: 68 };
                let b = scroll(base, pitch, rect, rect.x1 + dx, rect.y1 + dy);
                for budget in [1, 999, u64::MAX] {
                    check_copy(&b, NO_CLIP, BltTilings::X, budget);
                }
            }
        }
    }
}

#[test]
fn overlapping_copy_of_lines_without_gaps_is_a_memmove() {
    for src_y in [0, 1, 3, 5] {
        let rect = Rect { x1: 0, y1: 2, x2: 300, y2: 32 };
        check_copy(&scroll(0x123, 1200, rect, 0, src_y), NO_CLIP, BltTilings::X, 5000);
    }
}

#[test]
fn largest_coordinates_and_pitches_fault_without_wrapping() {
    let ends = [i16::MIN, -1, 0, i16::MAX];
    for x in ends {
        for y in ends {
            for pitch in [i16::MIN, i16::MAX] {
                let rect = Rect { x1: x, y1: y, x2: i16::MAX, y2: i16::MAX };
                let b = XyColorBlt::fill(0xffff_ffff_ffff, pitch, rect, 1);
                let mut mem = Memory::new(&noise());
                let blit = Blit::fill(&b, NO_CLIP, BltTilings::X);
                assert!(mem.draw(blit, 1000).is_none() || rect.is_empty());
                let mut c = scroll(0, pitch, rect, x, y);
                c.src.base = 0xffff_ffff_ffff;
                let blit = Blit::copy(&c, NO_CLIP, BltTilings::X);
                assert!(mem.draw(blit, 1000).is_none() || rect.is_empty());
            }
        }
    }
}

#[test]
fn every_raster_operation_is_drawn_or_refused_for_its_missing_operand() {
    for rop in 0..=255 {
        let rect = Rect { x1: 1, y1: 1, x2: 40, y2: 3 };
        let mut f = XyColorBlt::fill(0x800, 256, rect, 0x1234_5678);
        f.rop = rop;
        if rop == without_source(rop) {
            check_fill(&f, NO_CLIP, BltTilings::X, 5000);
        } else {
            let refused = Blit::fill(&f, NO_CLIP, BltTilings::X).err();
            assert_eq!(refused, Some(Refused::Rop(rop, "a source")));
        }
        let mut c = scroll(0x800, 256, rect, 20, 7);
        c.rop = rop;
        if rop == without_pattern(rop) {
            check_copy(&c, NO_CLIP, BltTilings::X, 5000);
        } else {
            let refused = Blit::copy(&c, NO_CLIP, BltTilings::X).err();
            assert_eq!(refused, Some(Refused::Rop(rop, "a pattern")));
        }
    }
}

#[test]
fn page_that_is_missing_stops_a_fill_or_a_copy_there_and_not_before() {
    // Some pages of lines without gaps, with gaps, and with a pitch that suits no page.
    for (pitch, width) in [(1024i16, 256i16), (4096, 1000), (1236, 309), (1236, 300)] {
        for odd in [0u64, 40, 4095] {
            let lines = i16::try_from(10 * 4096 / i64::from(pitch)).expect("few");
            let rect = Rect { x1: 0, y1: 0, x2: width, y2: lines };
            let (to, from) = (0x2000 + odd, 0x1_8000 + odd / 2);
            let fill = XyColorBlt::fill(to, pitch, rect, 0x1122_3344);
            let mut copy = scroll(to, pitch, rect, 0, 0);
            copy.src.base = from;
            for budget in [1, 5000, u64::MAX] {
                for page in [2, 3, 6, 10] {
                    check_hole(|| Blit::fill(&fill, NO_CLIP, BltTilings::X), page, true, budget);
                    check_hole(|| Blit::copy(&copy, NO_CLIP, BltTilings::X), page, true, budget);
                    let source = 0x16 + page;
                    check_hole(|| Blit::copy(&copy, NO_CLIP, BltTilings::X), source, false, budget);
                }
            }
        }
    }
}
