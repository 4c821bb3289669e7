//! Blits against a naive drawing of pixels.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use xen_ioreq::Bfn;

use super::*;
use crate::bus::{BusMaster, HeapBus};
use crate::soft::ggtt::Ggtt;

const PAGES: u32 = 16;
const SIZE: usize = PAGES as usize * PAGE_SIZE;

/// Graphics memory whose pages lie scattered over frames.
struct Memory {
    bus: Arc<HeapBus>,
    frames: Vec<Bfn>,
    tlb: Tlb,
}

impl Memory {
    fn new(content: &[u8]) -> Self {
        let bus = Arc::new(HeapBus::new(PAGES as usize));
        let ggtt = Arc::new(Ggtt::new(PAGES));
        let frames: Vec<Bfn> = (0..PAGES).map(|i| Bfn(u64::from(i * 7 % PAGES))).collect();
        for ((i, &bfn), bytes) in (0..).zip(&frames).zip(content.chunks(PAGE_SIZE)) {
            ggtt.write(i, Some(bfn));
            bus.write(bfn, 0, bytes);
        }
        let tlb = Tlb::new(Arc::clone(&bus) as Arc<dyn BusMaster>, ggtt);
        Self { bus, frames, tlb }
    }

    fn content(&self) -> Vec<u8> {
        let mut all = vec![0; SIZE];
        for (bytes, &bfn) in all.chunks_mut(PAGE_SIZE).zip(&self.frames) {
            self.bus.read(bfn, 0, bytes);
        }
        all
    }

    /// Draws, a little at a time. `None`: it faulted.
    fn draw(&mut self, blit: Result<Option<Blit>, Refused>, budget: u64) -> Option<()> {
        let Some(mut blit) = blit.expect("linear") else { return Some(()) };
        for _ in 0..SIZE * 64 {
            if blit.advance(&mut self.tlb, budget).ok()? {
                return Some(());
            }
        }
        panic!("no end");
    }
}

/// The bytes of a pixel, `None` if it is not all in memory.
fn pixel_at(s: Surface, x: i32, y: i32, depth: Depth) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(s.pixel(x, y, depth)).ok()?;
    let end = start + depth.bytes() as usize;
    (end <= SIZE).then_some(start..end)
}

fn rop3(rop: u8, p: u8, s: u8, d: u8) -> u8 {
    (0..8).fold(0, |out, bit| {
        let row = (p >> bit & 1) << 2 | (s >> bit & 1) << 1 | (d >> bit & 1);
        out | (rop >> row & 1) << bit
    })
}

fn masked(depth: Depth, byte: usize, alpha: bool, rgb: bool) -> bool {
    depth == Depth::Bpp32 && !(if byte == 3 { alpha } else { rgb })
}

fn naive_fill(mem: &mut [u8], b: &XyColorBlt, clip: Rect) -> Option<()> {
    for y in i32::from(b.rect.y1)..i32::from(b.rect.y2) {
        for x in i32::from(b.rect.x1)..i32::from(b.rect.x2) {
            if b.clip && !inside(clip, x, y) {
                continue;
            }
            for (n, at) in pixel_at(b.dst, x, y, b.depth)?.enumerate() {
                if !masked(b.depth, n, b.write_alpha, b.write_rgb) {
                    mem[at] = rop3(b.rop, b.color.to_le_bytes()[n], 0, mem[at]);
                }
            }
        }
    }
    Some(())
}

fn naive_copy(mem: &mut [u8], b: &XySrcCopyBlt, clip: Rect) -> Option<()> {
    let xs = i32::from(b.rect.x1)..i32::from(b.rect.x2);
    let drawn = |x: i32, y: i32| !b.clip || inside(clip, x, y);
    let width = xs.clone().filter(|&x| !b.clip || (i32::from(clip.x1)..clip.x2.into()).contains(&x)).count();
    // The promise at the head of the module: when the whole source counts as read first.
    let whole = b.src.pitch == b.dst.pitch
        && width * b.depth.bytes() as usize <= usize::from(b.dst.pitch.unsigned_abs());
    let mut source: HashMap<(i32, i32), Vec<u8>> = HashMap::new();
    let ys = i32::from(b.rect.y1)..i32::from(b.rect.y2);
    let read = |mem: &[u8], source: &mut HashMap<_, _>, y: i32| {
        for x in xs.clone().filter(|&x| drawn(x, y)) {
            let sx = x - i32::from(b.rect.x1) + i32::from(b.src_x);
            let sy = y - i32::from(b.rect.y1) + i32::from(b.src_y);
            source.insert((x, y), mem[pixel_at(b.src, sx, sy, b.depth)?].to_vec());
        }
        Some(())
    };
    if whole {
        ys.clone().try_for_each(|y| read(mem, &mut source, y))?;
    }
    for y in ys {
        if !whole {
            read(mem, &mut source, y)?;
        }
        for x in xs.clone().filter(|&x| drawn(x, y)) {
            for (n, at) in pixel_at(b.dst, x, y, b.depth)?.enumerate() {
                if !masked(b.depth, n, b.write_alpha, b.write_rgb) {
                    mem[at] = rop3(b.rop, 0, source[&(x, y)][n], mem[at]);
                }
            }
        }
    }
    Some(())
}

fn inside(r: Rect, x: i32, y: i32) -> bool {
    (i32::from(r.x1)..i32::from(r.x2)).contains(&x) && (i32::from(r.y1)..i32::from(r.y2)).contains(&y)
}

fn noise() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    bytes
}

fn check_fill(b: &XyColorBlt, clip: Rect, budget: u64) {
    let before = noise();
    let mut want = before.clone();
    let fits = naive_fill(&mut want, b, clip).is_some();
    let mut mem = Memory::new(&before);
    let drew = mem.draw(Blit::fill(b, clip), budget).is_some();
    assert_eq!(drew, fits, "{b:?}");
    assert!(!fits || mem.content() == want, "{b:?} clip {clip:?}");
}

fn check_copy(b: &XySrcCopyBlt, clip: Rect, budget: u64) {
    let before = noise();
    let mut want = before.clone();
    let fits = naive_copy(&mut want, b, clip).is_some();
    let mut mem = Memory::new(&before);
    let drew = mem.draw(Blit::copy(b, clip), budget).is_some();
    assert_eq!(drew, fits, "{b:?}");
    assert!(!fits || mem.content() == want, "{b:?} clip {clip:?}");
}

fn depth() -> impl Strategy<Value = Depth> {
    prop::sample::select(vec![Depth::Bpp8, Depth::Bpp16, Depth::Bpp1555, Depth::Bpp32])
}

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
    prop_oneof![8 => 8000u64..57000, 1 => 0u64..3000, 1 => 60000u64..70000]
}

fn rop() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(ROP_PATCOPY), 2 => Just(ROP_SRCCOPY), 1 => Just(0x66), 3 => any::<u8>()]
}

prop_compose! {
    fn fill()(rect in rect(), depth in depth())(
        pitch in pitch(rect, depth), rect in Just(rect), depth in Just(depth),
        base in base(), color in any::<u32>(), rop in rop(), alpha in any::<bool>(), rgb in any::<bool>(), full in any::<bool>(), clip in any::<bool>(),
    ) -> XyColorBlt {
        let dst = Surface { base, pitch, tiled: false };
        XyColorBlt { write_alpha: alpha || full, write_rgb: rgb || full, depth, rop, clip, dst, rect, color }
    }
}

prop_compose! {
    fn copy()(f in fill())(
        src_pitch in pitch(f.rect, f.depth), near in -700i64..700, far in base(), close in any::<bool>(), same in any::<bool>(),
        src_x in -5i16..20, src_y in -5i16..8, f in Just(f),
    ) -> XySrcCopyBlt {
        let base = if close { f.dst.base.saturating_add_signed(near) } else { far };
        let pitch = if same { f.dst.pitch } else { src_pitch };
        let XyColorBlt { write_alpha, write_rgb, depth, rop, clip, dst, rect, .. } = f;
        let src = Surface { base, pitch, tiled: false };
        XySrcCopyBlt { write_alpha, write_rgb, depth, rop, clip, dst, rect, src, src_x, src_y }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn fill_draws_what_the_naive_one_draws(b in fill(), clip in rect(), budget in 1u64..5000) {
        check_fill(&b, clip, budget);
    }

    #[test]
    fn copy_draws_what_the_naive_one_draws(b in copy(), clip in rect(), budget in 1u64..5000) {
        check_copy(&b, clip, budget);
    }
}

/// A plain 32-bit copy between two places of one surface.
fn scroll(base: u64, pitch: i16, rect: Rect, src_x: i16, src_y: i16) -> XySrcCopyBlt {
    let surface = Surface { base, pitch, tiled: false };
    let (write_alpha, write_rgb, depth, rop, clip) = (true, true, Depth::Bpp32, ROP_SRCCOPY, false);
    XySrcCopyBlt { write_alpha, write_rgb, depth, rop, clip, dst: surface, rect, src: surface, src_x, src_y }
}

const NO_CLIP: Rect = Rect { x1: 0, y1: 0, x2: 0, y2: 0 };

#[test]
fn overlapping_copies_in_every_direction_are_as_if_read_first() {
    for (base, pitch) in [(0x800, 512i16), (0xf800, -512)] {
        for dx in -3i16..=3 {
            for dy in -3i16..=3 {
                let rect = Rect { x1: 8, y1: 8, x2: 108, y2: 68 };
                let b = scroll(base, pitch, rect, rect.x1 + dx, rect.y1 + dy);
                for budget in [1, 999, u64::MAX] {
                    check_copy(&b, NO_CLIP, budget);
                }
            }
        }
    }
}

#[test]
fn overlapping_copy_of_lines_without_gaps_is_a_memmove() {
    for src_y in [0, 1, 3, 5] {
        let rect = Rect { x1: 0, y1: 2, x2: 300, y2: 32 };
        check_copy(&scroll(0x123, 1200, rect, 0, src_y), NO_CLIP, 5000);
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
                let blit = Blit::fill(&b, NO_CLIP);
                assert!(mem.draw(blit, 1000).is_none() || rect.is_empty());
                let mut c = scroll(0, pitch, rect, x, y);
                c.src.base = 0xffff_ffff_ffff;
                let blit = Blit::copy(&c, NO_CLIP);
                assert!(mem.draw(blit, 1000).is_none() || rect.is_empty());
            }
        }
    }
}

#[test]
fn tiled_surfaces_are_refused() {
    let rect = Rect { x1: 0, y1: 0, x2: 1, y2: 1 };
    let mut f = XyColorBlt::fill(0, 4, rect, 0);
    f.dst.tiled = true;
    assert_eq!(Blit::fill(&f, NO_CLIP).err(), Some(Refused::Tiled));
    let mut c = scroll(0, 4, rect, 0, 0);
    c.src.tiled = true;
    assert_eq!(Blit::copy(&c, NO_CLIP).err(), Some(Refused::Tiled));
}
