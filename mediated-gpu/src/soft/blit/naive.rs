//! The naive blitter that the tests hold the other one against: pixel by pixel, over all of memory as one slice.
//!
//! It shares the commands' fields with the blitter, and nothing else: addresses, raster operations, masks, clipping and
//! the order of lines are said again here.

use std::sync::Arc;

use proptest::prelude::*;
use xen_ioreq::{Bfn, PAGE_SIZE};

use super::{Blit, Refused};
use crate::bus::{BusMaster, HeapBus};
use crate::gen8::blt::{BltTilings, Depth, FastTiling, Rect, XyColorBlt, XyFastCopyBlt, XySrcCopyBlt};
use crate::gen8::tiling::Tiling;
use crate::soft::ggtt::Ggtt;
use crate::soft::team::Team;
use crate::soft::tlb::{Fault, Tlb};

const PAGES: u32 = 48;
/// Bytes of graphics memory.
pub(super) const SIZE: usize = PAGES as usize * PAGE_SIZE;

pub(super) const NO_CLIP: Rect = Rect { x1: 0, y1: 0, x2: 0, y2: 0 };

/// Graphics memory whose pages lie scattered over frames.
pub(super) struct Memory {
    bus: Arc<HeapBus>,
    ggtt: Arc<Ggtt>,
    frames: Vec<Bfn>,
    tlb: Tlb,
    team: Team,
}

impl Memory {
    pub(super) fn new(content: &[u8]) -> Self {
        Self::helped(content, Team::default())
    }

    /// The same with an engine that has helpers.
    fn helped(content: &[u8], team: Team) -> Self {
        let bus = Arc::new(HeapBus::new(PAGES as usize));
        let ggtt = Arc::new(Ggtt::new(PAGES));
        let frames: Vec<Bfn> = (0..PAGES).map(|i| Bfn(u64::from(i * 7 % PAGES))).collect();
        for ((i, &bfn), bytes) in (0..).zip(&frames).zip(content.chunks(PAGE_SIZE)) {
            ggtt.write(i, Some(bfn));
            bus.write(bfn, 0, bytes);
        }
        let tlb = Tlb::new(Arc::clone(&bus) as Arc<dyn BusMaster>, Arc::clone(&ggtt));
        Self { bus, ggtt, frames, tlb, team }
    }

    pub(super) fn content(&self) -> Vec<u8> {
        let mut all = vec![0; SIZE];
        for (bytes, &bfn) in all.chunks_mut(PAGE_SIZE).zip(&self.frames) {
            self.bus.read(bfn, 0, bytes);
        }
        all
    }

    /// Draws, a little at a time. `None`: it faulted.
    pub(super) fn draw(&mut self, blit: Result<Option<Blit>, Refused>, budget: u64) -> Option<()> {
        self.try_draw(blit, budget).ok()
    }

    fn try_draw(&mut self, blit: Result<Option<Blit>, Refused>, budget: u64) -> Result<(), Fault> {
        let Some(mut blit) = blit.expect("not refused") else { return Ok(()) };
        for _ in 0..SIZE * 64 {
            self.team.gather();
            if blit.advance(&mut self.tlb, &mut self.team, budget)? {
                return Ok(());
            }
        }
        panic!("no end");
    }
}

/// A surface as the naive one sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Plane {
    base: i64,
    pitch: i64,
    tiling: Tiling,
}

impl Plane {
    /// The bytes of the pixel, `None` if one is not in memory.
    fn pixel(self, x: i64, y: i64, bytes: i64) -> Option<Vec<usize>> {
        let byte = |b: i64| {
            let at = match self.tiling {
                Tiling::Linear => y * self.pitch + b,
                // Line in the tile from bit 9 on, byte below.
                Tiling::X => ((y >> 3) * (self.pitch >> 9) + (b >> 9)) << 12 | (y & 7) << 9 | b & 0x1ff,
                // Column from bit 9 on, line from bit 4 on, byte below.
                Tiling::Y => {
                    let tile = (y >> 5) * (self.pitch >> 7) + (b >> 7);
                    tile << 12 | (b >> 4 & 7) << 9 | (y & 31) << 4 | b & 0xf
                }
            };
            usize::try_from(self.base + at).ok().filter(|at| *at < SIZE)
        };
        (x * bytes..(x + 1) * bytes).map(byte).collect()
    }
}

/// What all commands come to.
struct Draw {
    dst: Plane,
    src: Option<(Plane, i64, i64)>,
    bytes: i64,
    rect: Rect,
    clip: Option<Rect>,
    rop: u8,
    color: [u8; 4],
    /// For each byte of a pixel, whether it is written.
    written: Vec<bool>,
}

impl Draw {
    /// `None`: a pixel is not in memory.
    fn draw(&self, mem: &mut [u8]) -> Option<()> {
        let r = self.rect;
        let inside = |x: i64, y: i64| {
            self.clip.is_none_or(|c| {
                (i64::from(c.x1)..c.x2.into()).contains(&x) && (i64::from(c.y1)..c.y2.into()).contains(&y)
            })
        };
        let line =
            |y: i64| -> Vec<i64> { (i64::from(r.x1)..r.x2.into()).filter(|&x| inside(x, y)).collect() };
        let mut ys: Vec<i64> = (i64::from(r.y1)..r.y2.into()).collect();
        let width = ys.iter().map(|&y| line(y).len()).max().unwrap_or(0);
        let mut whole = false;
        if let Some((src, _, src_y)) = self.src {
            if self.dst.tiling == Tiling::Linear && src.tiling == Tiling::Linear {
                whole = src.pitch == self.dst.pitch
                    && i64::try_from(width).expect("small") * self.bytes <= src.pitch.abs();
            } else if src == self.dst && i64::from(r.y1) > src_y {
                ys.reverse();
            }
        }
        let read = |mem: &[u8], y: i64| -> Option<Vec<Vec<u8>>> {
            let Some((src, src_x, src_y)) = self.src else { return Some(Vec::new()) };
            let pixel = |x: i64| {
                let at = src.pixel(x - i64::from(r.x1) + src_x, y - i64::from(r.y1) + src_y, self.bytes)?;
                Some(at.into_iter().map(|a| mem[a]).collect())
            };
            line(y).into_iter().map(pixel).collect()
        };
        let first: Option<Vec<_>> =
            if whole { ys.iter().map(|&y| read(mem, y)).collect() } else { Some(vec![]) };
        let first = first?;
        for (n, &y) in ys.iter().enumerate() {
            let source = if whole { first[n].clone() } else { read(mem, y)? };
            for (i, x) in line(y).into_iter().enumerate() {
                for (b, at) in self.dst.pixel(x, y, self.bytes)?.into_iter().enumerate() {
                    let s = source.get(i).map_or(0, |p| p[b]);
                    if self.written[b] {
                        mem[at] = rop3(self.rop, self.color[b % 4], s, mem[at]);
                    }
                }
            }
        }
        Some(())
    }
}

fn rop3(rop: u8, p: u8, s: u8, d: u8) -> u8 {
    (0..8).fold(0, |out, bit| {
        let row = (p >> bit & 1) << 2 | (s >> bit & 1) << 1 | (d >> bit & 1);
        out | (rop >> row & 1) << bit
    })
}

fn channels(depth: Depth, alpha: bool, rgb: bool) -> Vec<bool> {
    match depth {
        Depth::Bpp8 => vec![true],
        Depth::Bpp16 | Depth::Bpp1555 => vec![true; 2],
        Depth::Bpp32 => vec![rgb, rgb, rgb, alpha],
    }
}

fn plane(s: crate::gen8::blt::Surface, tiling: Tiling) -> Plane {
    let base = s.base.cast_signed();
    if s.tiled {
        Plane { base, pitch: 4 * i64::from(s.pitch), tiling }
    } else {
        Plane { base, pitch: s.pitch.into(), tiling: Tiling::Linear }
    }
}

/// Memory before anything is drawn.
pub(super) fn noise() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    fastrand::Rng::with_seed(3).fill(&mut bytes);
    bytes
}

/// Helpers of the engines that do not draw alone.
const HELPERS: usize = 2;

/// Draws by pixels, by an engine alone and by one with helpers, and compares all of memory. Whether it is all in memory.
fn check(
    what: &dyn std::fmt::Debug,
    draw: &Draw,
    blit: impl Fn() -> Result<Option<Blit>, Refused>,
    budget: u64,
) -> bool {
    let before = noise();
    let mut want = before.clone();
    let fits = draw.draw(&mut want).is_some();
    for helpers in [0, HELPERS] {
        let mut mem = Memory::helped(&before, Team::new(helpers).expect("threads"));
        let drew = mem.draw(blit(), budget).is_some();
        assert_eq!(drew, fits, "{what:?}, {helpers} helpers");
        assert!(!fits || mem.content() == want, "{what:?} clip {:?}, {helpers} helpers", draw.clip);
    }
    fits
}

/// Draws what it draws whole, and again with a page missing that it needs: it faults there, and until then nothing was drawn
/// but what belongs there. `in_order`: and all that lies before that page was drawn, if it is the destination's.
pub(super) fn check_hole(
    blit: impl Fn() -> Result<Option<Blit>, Refused>,
    page: u32,
    in_order: bool,
    budget: u64,
) {
    for helpers in [0, HELPERS] {
        check_hole_with(Team::new(helpers).expect("threads"), &blit, page, in_order, budget);
    }
}

fn check_hole_with(
    team: Team,
    blit: &impl Fn() -> Result<Option<Blit>, Refused>,
    page: u32,
    in_order: bool,
    budget: u64,
) {
    let before = noise();
    let mut whole = Memory::new(&before);
    whole.draw(blit(), budget).expect("in memory");
    let whole = whole.content();
    let mut mem = Memory::helped(&before, team);
    mem.ggtt.write(page, None);
    let hole = page as usize * PAGE_SIZE;
    assert_eq!(mem.try_draw(blit(), budget), Err(Fault::Absent(hole as u64)), "page {page}");
    let got = mem.content();
    let drawn = |i: usize| got[i] == whole[i];
    assert!((0..SIZE).all(|i| drawn(i) || got[i] == before[i]), "page {page}: something else was drawn");
    assert!(got[hole..hole + PAGE_SIZE] == before[hole..hole + PAGE_SIZE], "page {page} is not there");
    if in_order && whole[hole..hole + PAGE_SIZE] != before[hole..hole + PAGE_SIZE] {
        assert!((0..hole).all(drawn), "page {page}: what comes before it was not all drawn");
        assert!(got[hole..] == before[hole..], "page {page}: something behind it was drawn");
    }
}

pub(super) fn check_fill(b: &XyColorBlt, clip: Rect, tilings: BltTilings, budget: u64) {
    let draw = Draw {
        dst: plane(b.dst, tilings.dst),
        src: None,
        bytes: b.depth.bytes().into(),
        rect: b.rect,
        clip: b.clip.then_some(clip),
        rop: b.rop,
        color: b.color.to_le_bytes(),
        written: channels(b.depth, b.write_alpha, b.write_rgb),
    };
    check(b, &draw, || Blit::fill(b, clip, tilings), budget);
}

pub(super) fn check_copy(b: &XySrcCopyBlt, clip: Rect, tilings: BltTilings, budget: u64) {
    let draw = Draw {
        dst: plane(b.dst, tilings.dst),
        src: Some((plane(b.src, tilings.src), b.src_x.into(), b.src_y.into())),
        bytes: b.depth.bytes().into(),
        rect: b.rect,
        clip: b.clip.then_some(clip),
        rop: b.rop,
        color: [0; 4],
        written: channels(b.depth, b.write_alpha, b.write_rgb),
    };
    check(&(b, tilings), &draw, || Blit::copy(b, clip, tilings), budget);
}

pub(super) fn check_fast(b: &XyFastCopyBlt, budget: u64) -> bool {
    let plane = |s: crate::gen8::blt::FastSurface| {
        let (base, pitch) = (s.base.cast_signed(), i64::from(s.pitch));
        match s.tiling {
            FastTiling::Linear => Plane { base, pitch, tiling: Tiling::Linear },
            FastTiling::X => Plane { base, pitch: 4 * pitch, tiling: Tiling::X },
            _ => Plane { base, pitch: 4 * pitch, tiling: Tiling::Y },
        }
    };
    let bytes = b.depth.bytes().expect("a depth");
    let draw = Draw {
        dst: plane(b.dst),
        src: Some((plane(b.src), b.src_x.into(), b.src_y.into())),
        bytes: bytes.into(),
        rect: b.rect,
        clip: None,
        rop: 0xcc,
        color: [0; 4],
        written: vec![true; bytes as usize],
    };
    check(b, &draw, || Blit::fast_copy(b), budget)
}

pub(super) fn depth() -> impl Strategy<Value = Depth> {
    prop::sample::select(vec![Depth::Bpp8, Depth::Bpp16, Depth::Bpp1555, Depth::Bpp32])
}

/// Raster operations without an operand: the pattern's nibbles equal, or the source's pairs.
pub(super) fn without_pattern(code: u8) -> u8 {
    code & 0xf | code << 4
}

pub(super) fn without_source(code: u8) -> u8 {
    code & 0x33 | (code & 0x33) << 2
}
