use proptest::prelude::*;

use super::*;
use crate::gen8::cmd;

#[test]
fn fill_as_i915_clears_memory_has_its_known_dwords() {
    let rect = Rect { x1: 0, y1: 0, x2: 1024, y2: 16 };
    let blt = XyColorBlt::fill(0x1_2345_6000, 4096, rect, 0xaabb_ccdd);
    let want = [0x5430_0005, 0x03f0_1000, 0, 0x0010_0400, 0x2345_6000, 1, 0xaabb_ccdd];
    assert_eq!(blt.encode(), want);
    assert_eq!(cmd::decode(want[0]).map(|d| (d.name(), d.dwords)), Some(("XY_COLOR_BLT", 7)));
}

#[test]
fn copy_as_i915_copies_memory_has_its_known_dwords() {
    let lin = |base| Surface { base, pitch: 4096, tiled: false };
    let blt = XySrcCopyBlt {
        write_alpha: true,
        write_rgb: true,
        depth: Depth::Bpp32,
        rop: ROP_SRCCOPY,
        clip: false,
        dst: lin(0x2000),
        rect: Rect { x1: 0, y1: 0, x2: 1024, y2: 2 },
        src: lin(0x8000_0000_1000 & 0xffff_ffff_ffff),
        src_x: 3,
        src_y: -1,
    };
    let want = [0x54f0_0008, 0x03cc_1000, 0, 0x0002_0400, 0x2000, 0, 0xffff_0003, 4096, 0x1000, 0x8000];
    assert_eq!(blt.encode(), want);
    assert_eq!(XySrcCopyBlt::decode(&want), blt);
    assert_eq!(cmd::decode(want[0]).map(|d| (d.name(), d.dwords)), Some(("XY_SRC_COPY_BLT", 10)));
}

#[test]
fn fast_copy_as_igt_copies_has_its_known_dwords() {
    let surface = |base, pitch, tiling| FastSurface { base, pitch, tiling };
    let blt = XyFastCopyBlt {
        depth: FastDepth::Bpp32,
        dst: surface(0x2_0000_3000, 1024, FastTiling::Y),
        rect: Rect { x1: 0, y1: 0, x2: 1024, y2: 16 },
        src: surface(0x1_0000, 4096, FastTiling::Linear),
        src_x: 3,
        src_y: 4,
    };
    let want = [0x5080_4008, 0x0300_0400, 0, 0x0010_0400, 0x3000, 2, 0x0004_0003, 4096, 0x1_0000, 0];
    assert_eq!(blt.encode(), want);
    assert_eq!(cmd::decode(want[0]).map(|d| (d.name(), d.dwords)), Some(("XY_FAST_COPY_BLT", 10)));
}

#[test]
fn inverted_rectangle_is_empty() {
    for r in [Rect { x1: 5, y1: 0, x2: 5, y2: 9 }, Rect { x1: 0, y1: 9, x2: 5, y2: 8 }] {
        assert!(r.is_empty() && r.width() == 0 && r.height() == 0);
    }
    let r = Rect { x1: i16::MIN, y1: -1, x2: i16::MAX, y2: 1 };
    assert_eq!((r.width(), r.height()), (65535, 2));
}

proptest! {
    #[test]
    fn fill_decodes_and_encodes_to_itself_but_for_reserved_bits(d: [u32; 7]) {
        let once = XyColorBlt::decode(&d);
        prop_assert_eq!(XyColorBlt::decode(&once.encode()), once);
    }

    #[test]
    fn copy_decodes_and_encodes_to_itself_but_for_reserved_bits(d: [u32; 10]) {
        let once = XySrcCopyBlt::decode(&d);
        prop_assert_eq!(XySrcCopyBlt::decode(&once.encode()), once);
    }

    #[test]
    fn fast_copy_decodes_and_encodes_to_itself_but_for_reserved_bits(d: [u32; 10]) {
        let once = XyFastCopyBlt::decode(&d);
        prop_assert_eq!(XyFastCopyBlt::decode(&once.encode()), once);
    }
}
