//! The blitter's commands: which surfaces are the guest's.

use super::*;
use crate::gen8::blt::{CLIP, DST_TILED, FastDepth, FastSurface, FastTiling, SRC_TILED, XyFastCopyBlt};

#[test]
fn blit_that_reaches_beyond_the_slice_anywhere_is_refused() {
    let fill = |base, pitch, x1, y1, x2, y2| {
        why(&XyColorBlt::fill(base, pitch, Rect { x1, y1, x2, y2 }, 0).encode())
    };
    assert!(out_of_slice(fill(OWN, 4096, 0, 0, 8, 2000)), "below");
    assert!(out_of_slice(fill(OWN, 4096, 0, -8, 8, 1)), "above");
    assert!(out_of_slice(fill(OWN, -4096, 0, 0, 8, 16)), "upwards");
    assert!(out_of_slice(fill(SLICE.low.end() - 64, 64, 0, 0, 17, 1)), "to the right");
    assert!(out_of_slice(fill(SLICE.low.base, 64, -1, 0, 1, 1)), "to the left");
    assert!(out_of_slice(fill(0, 4096, 0, -8, 8, 1)), "before address 0");
    assert!(out_of_slice(fill(SLICE.low.end() - 4096, i16::MAX, 0, 0, 1, 2)), "with its second line");
    let copy = XySrcCopyBlt::decode(&[
        0x54f0_0008,
        0x03cc_0040,
        0,
        0x0010_0010,
        OWN as u32,
        0,
        0,
        0x40,
        FOREIGN as u32,
        0,
    ]);
    assert!(out_of_slice(why(&copy.encode())), "from outside");
}

#[test]
fn blit_of_nothing_becomes_nothing() {
    let rect = Rect { x1: 5, y1: 5, x2: 5, y2: 4 };
    let audited = audit(&XyColorBlt::fill(FOREIGN, 64, rect, 0).encode()).unwrap();
    assert_eq!(audited.ring, [MI_NOOP; 7]);
}

/// Of tiles, from (0, 0) on.
fn tiled(base: u64, pitch_dwords: i16, width: i16, height: i16) -> Vec<u32> {
    let mut fill =
        XyColorBlt::fill(base, pitch_dwords, Rect { x1: 0, y1: 0, x2: width, y2: height }, 7).encode();
    fill[0] |= DST_TILED;
    fill.to_vec()
}

#[test]
fn clipped_or_tiled_blit_comes_out_as_it_went_in_and_needs_the_contexts_registers_if_tiled() {
    let mut clipped = XyColorBlt::fill(OWN, 64, Rect { x1: 0, y1: 0, x2: 4, y2: 4 }, 0).encode();
    clipped[1] |= CLIP;
    let setup = [2 << 29 | cmd::op::XY_SETUP_CLIP_BLT << 22 | 1, 0x0001_0001, 0x0003_0003];
    let ring = [setup.as_slice(), &clipped].concat();
    let audited_clip = audit(&ring).unwrap();
    assert_eq!(audited_clip.ring, ring);
    assert!(!audited_clip.effects.registers);
    let fill = tiled(OWN, 128, 128, 32);
    let audited = audit(&fill).unwrap();
    assert_eq!(audited.ring, fill);
    assert!(audited.effects.registers, "how tiles lie is in one of them");
}

#[test]
fn tiled_surface_must_be_inside_whichever_way_its_tiles_lie() {
    let end = SLICE.low.end();
    // 512 bytes by 8 lines: one X-major tile, or a quarter of four Y-major ones.
    assert!(audit(&tiled(end - 0x4000, 128, 128, 8)).is_ok());
    assert!(out_of_slice(why(&tiled(end - 0x3000, 128, 128, 8))));
    // 32 lines: four X-major tiles, four Y-major ones.
    assert!(audit(&tiled(end - 0x4000, 128, 128, 32)).is_ok());
    assert!(out_of_slice(why(&tiled(end - 0x4000, 128, 128, 33))));
    assert!(out_of_slice(why(&tiled(SLICE.low.base - 0x1000, 128, 128, 8))));
    let mut left = tiled(SLICE.low.base, 128, 128, 8);
    left[2] = 0xffff;
    assert!(out_of_slice(why(&left)), "a pixel to the left is in the tile before");
}

#[test]
fn tiled_surface_that_is_not_made_of_tiles_is_refused() {
    assert_eq!(why(&tiled(OWN + 64, 128, 8, 8)), Refusal::Mode, "begins within a page");
    for pitch in [0, -128, 32, 100] {
        assert_eq!(why(&tiled(OWN, pitch, 8, 8)), Refusal::Mode, "{pitch} dwords");
    }
}

#[test]
fn tiled_source_is_looked_at_as_the_destination_is() {
    let fill = XyColorBlt::fill(OWN, 64, Rect { x1: 0, y1: 0, x2: 64, y2: 8 }, 7);
    let copy = |from: u64| {
        let [d0, d1, d2, d3, d4, d5, _] = fill.encode();
        let header = 0x54f0_0008 | SRC_TILED | d0 & DST_TILED;
        audit(&[header, d1 & 0xff00_ffff | 0x00cc_0000, d2, d3, d4, d5, 0, 128, from as u32, 0])
    };
    assert!(copy(OWN + 0x8000).is_ok());
    assert!(out_of_slice(copy(SLICE.low.end() - 0x1000).unwrap_err().why));
    assert!(out_of_slice(copy(FOREIGN).unwrap_err().why));
}

#[test]
fn fast_copy_is_for_gpus_that_have_it_and_within_the_slice() {
    let surface = |base, tiling| FastSurface { base, pitch: 128, tiling };
    let copy = |dst, src| {
        let rect = Rect { x1: 0, y1: 0, x2: 32, y2: 32 };
        XyFastCopyBlt { depth: FastDepth::Bpp32, dst, rect, src, src_x: 0, src_y: 0 }.encode()
    };
    let last = SLICE.low.end() - 0x4000;
    let good = copy(surface(OWN, FastTiling::Linear), surface(last, FastTiling::Y));
    assert_eq!(audit(&good).unwrap().ring, good);
    let without = Terms { fast_copy: false, ..terms(Engine::Bcs) };
    assert_eq!(whole(ring(without, &Pages::default(), &good, |_| 0)).unwrap_err().why, Refusal::NotAllowed);
    let own = surface(OWN, FastTiling::X);
    assert!(out_of_slice(why(&copy(own, surface(last + 0x1000, FastTiling::X)))));
    assert!(out_of_slice(why(&copy(surface(FOREIGN, FastTiling::Linear), own))));
    for tiling in [FastTiling::Yf, FastTiling::Ys] {
        assert_eq!(why(&copy(own, surface(OWN, tiling))), Refusal::Mode);
    }
    let mut reserved = good;
    reserved[1] = reserved[1] & !(7 << 24) | 6 << 24;
    assert_eq!(why(&reserved), Refusal::Mode);
}
