//! The cases of the contact sheet, and how each is drawn.

use mediated_gpu::gen8::blt::{
    CLIP, Depth, FastDepth, FastSurface, FastTiling, ROP_PATCOPY, ROP_SRCCOPY, Rect, Surface, XyColorBlt,
    XyFastCopyBlt, XySrcCopyBlt,
};
use mediated_gpu::gen8::cmd;
use mediated_gpu::gen8::regs::{engine, masked_write};
use mediated_gpu::gen8::tiling::{Layout, Tiling};
use mediated_gpu::physical::Engine;
use mediated_gpu::soft::rig::Rig;

use super::{Case, Picture, Row, SIDE, read, write};
use crate::Error;

const DST: u64 = Rig::FREE;
const SRC: u64 = Rig::FREE + (1 << 18);
const MEMORY: u64 = 1 << 19;
/// Bytes from a line of any surface to the next: several tiles of both kinds, for a surface of one X-major tile's width is linear.
const PITCH: i16 = 1024;
const WHOLE: Rect = Rect { x1: 0, y1: 0, x2: 96, y2: 96 };
/// Part of the picture, with odd edges.
const PART: Rect = Rect { x1: 13, y1: 9, x2: 85, y2: 79 };

const TILINGS: [(&str, Tiling); 3] = [("L", Tiling::Linear), ("X", Tiling::X), ("Y", Tiling::Y)];

/// A surface of the sheet.
#[derive(Clone, Copy)]
struct Plane {
    base: u64,
    tiling: Tiling,
}

impl Plane {
    fn layout(self) -> Result<Layout, Error> {
        Ok(Layout::new(self.base, PITCH.into(), self.tiling)?)
    }
    fn surface(self) -> Surface {
        let tiled = self.tiling != Tiling::Linear;
        Surface { base: self.base, pitch: if tiled { PITCH / 4 } else { PITCH }, tiled }
    }
    fn fast(self) -> FastSurface {
        let tiling = match self.tiling {
            Tiling::Linear => FastTiling::Linear,
            Tiling::X => FastTiling::X,
            Tiling::Y => FastTiling::Y,
        };
        FastSurface { base: self.base, pitch: self.surface().pitch, tiling }
    }
}

/// The picture that is copied: a gradient, rings, and an F that shows which way is up.
fn photo(x: usize, y: usize) -> [u8; 4] {
    let (dx, dy) = (x.abs_diff(48), y.abs_diff(48));
    let ring = (dx * dx + dy * dy) / 160 % 2 == 0;
    let stem = (38..46).contains(&x) && (24..72).contains(&y);
    let bars = (38..66).contains(&x) && ((24..32).contains(&y) || (42..50).contains(&y));
    let byte = |n: usize| u8::try_from(n * 255 / (SIDE - 1)).unwrap_or(u8::MAX);
    match (stem || bars, ring) {
        (true, _) => [0xf0, 0xf8, 0xff, 0xff],
        (false, true) => [0x80, byte(y), byte(x), 0xff],
        (false, false) => [0x40, byte(y) / 2, byte(x) / 2, 0xff],
    }
}

/// What is there before: squares.
fn squares(x: usize, y: usize) -> [u8; 4] {
    if (x / 12 + y / 12).is_multiple_of(2) { [0xa0, 0xa0, 0xa0, 0xff] } else { [0xd0, 0xc8, 0xc0, 0xff] }
}

/// A pixel (blue, green, red, alpha) at a depth.
fn pack([b, g, r, a]: [u8; 4], depth: Depth) -> Vec<u8> {
    let field = |v: u8, bits: u32, at: u32| u16::from(v >> (8 - bits)) << at;
    match depth {
        Depth::Bpp8 => vec![u8::try_from((u16::from(b) + 2 * u16::from(g) + u16::from(r)) / 4).unwrap_or(0)],
        Depth::Bpp16 => (field(r, 5, 11) | field(g, 6, 5) | field(b, 5, 0)).to_le_bytes().into(),
        Depth::Bpp1555 => {
            (field(a, 1, 15) | field(r, 5, 10) | field(g, 5, 5) | field(b, 5, 0)).to_le_bytes().into()
        }
        Depth::Bpp32 => vec![b, g, r, a],
    }
}

/// A pixel as the sheet shows it: with `alpha`, over white.
fn show(pixel: &[u8], depth: Depth, alpha: bool) -> u32 {
    let word = pixel.iter().rev().fold(0u32, |w, b| w << 8 | u32::from(*b));
    let field = |bits: u32, at: u32| (word >> at & ((1 << bits) - 1)) * 255 / ((1 << bits) - 1);
    let (r, g, b) = match depth {
        Depth::Bpp8 => (word, word, word),
        Depth::Bpp16 => (field(5, 11), field(6, 5), field(5, 0)),
        Depth::Bpp1555 => (field(5, 10), field(5, 5), field(5, 0)),
        Depth::Bpp32 => (word >> 16 & 0xff, word >> 8 & 0xff, word & 0xff),
    };
    let a = if alpha { word >> 24 } else { 255 };
    let over = |v: u32| (v * a + 255 * (255 - a)) / 255;
    over(r) << 16 | over(g) << 8 | over(b)
}

fn content(of: fn(usize, usize) -> [u8; 4], depth: Depth) -> Vec<u8> {
    (0..SIDE * SIDE).flat_map(|n| pack(of(n % SIDE, n / SIDE), depth)).collect()
}

/// Surfaces with squares and with the photo, and what they came to.
struct Stage {
    rig: Rig,
    dst: Plane,
    src: Plane,
    depth: Depth,
}

impl Stage {
    fn new(dst: Tiling, src: Tiling, depth: Depth) -> Result<Self, Error> {
        let rig = Rig::new(Engine::Bcs, MEMORY).map_err(|e| e.to_string())?;
        let this =
            Self { rig, dst: Plane { base: DST, tiling: dst }, src: Plane { base: SRC, tiling: src }, depth };
        this.fill(this.dst, squares)?;
        this.fill(this.src, photo)?;
        Ok(this)
    }

    fn width(&self) -> usize {
        SIDE * self.depth.bytes() as usize
    }

    fn fill(&self, plane: Plane, with: fn(usize, usize) -> [u8; 4]) -> Result<(), Error> {
        write(&self.rig, plane.layout()?, self.width(), &content(with, self.depth));
        Ok(())
    }

    /// Runs a blit; the tiles that it means are said before.
    fn run(&mut self, blit: &[u32]) -> Result<(), Error> {
        let y = |plane: Plane, bit: u32| if plane.tiling == Tiling::Y { bit } else { 0 };
        let value = 0b11 << 16 | y(self.src, 1) | y(self.dst, 2);
        debug_assert_eq!(masked_write(u32::MAX, value) & !0b11, 0xfffc);
        let swctrl = Engine::Bcs.mmio_base() + engine::BCS_SWCTRL;
        let commands = [&cmd::load_register_imm(swctrl, value)[..], blit].concat();
        Ok(self.rig.run(&commands)?)
    }

    fn shown(&self, layout: Layout, alpha: bool) -> Picture {
        let bytes = read(&self.rig, layout, self.width(), SIDE);
        bytes.chunks(self.depth.bytes() as usize).map(|p| show(p, self.depth, alpha)).collect()
    }

    fn case(&self, label: impl Into<String>, alpha: bool) -> Result<Case, Error> {
        Ok(Case { label: label.into(), picture: self.shown(self.dst.layout()?, alpha) })
    }

    fn color_blt(&self) -> XyColorBlt {
        let blue = pack([0xe0, 0x60, 0x20, 0xff], self.depth);
        let color = blue.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b));
        let (write_alpha, write_rgb) = (true, true);
        XyColorBlt {
            write_alpha,
            write_rgb,
            depth: self.depth,
            rop: ROP_PATCOPY,
            clip: false,
            dst: self.dst.surface(),
            rect: PART,
            color,
        }
    }

    fn src_copy_blt(&self) -> XySrcCopyBlt {
        XySrcCopyBlt {
            write_alpha: true,
            write_rgb: true,
            depth: self.depth,
            rop: ROP_SRCCOPY,
            clip: false,
            dst: self.dst.surface(),
            rect: PART,
            src: self.src.surface(),
            src_x: PART.x1,
            src_y: PART.y1,
        }
    }

    fn fast_copy_blt(&self) -> XyFastCopyBlt {
        let (src_x, src_y) = (PART.x1, PART.y1);
        XyFastCopyBlt {
            depth: FastDepth::Bpp32,
            dst: self.dst.fast(),
            rect: PART,
            src: self.src.fast(),
            src_x,
            src_y,
        }
    }
}

/// XY_SETUP_CLIP_BLT.
fn clip_to(rect: Rect) -> [u32; 3] {
    let [top_left, bottom_right] = rect.dwords();
    [2 << 29 | cmd::op::XY_SETUP_CLIP_BLT << 22 | 1, top_left, bottom_right]
}

const CLIPPED: Rect = Rect { x1: 30, y1: 0, x2: 60, y2: 60 };
const DEPTHS: [(&str, Depth); 4] =
    [("8", Depth::Bpp8), ("16-565", Depth::Bpp16), ("16-1555", Depth::Bpp1555), ("32", Depth::Bpp32)];

fn fills() -> Result<Row, Error> {
    let mut cases = Vec::new();
    for (label, depth) in DEPTHS {
        let mut s = Stage::new(Tiling::Linear, Tiling::Linear, depth)?;
        s.run(&s.color_blt().encode())?;
        cases.push(s.case(label, false)?);
    }
    for (label, tiling) in &TILINGS[1..] {
        let mut s = Stage::new(*tiling, Tiling::Linear, Depth::Bpp32)?;
        s.run(&s.color_blt().encode())?;
        cases.push(s.case(format!("{label} TILES"), false)?);
    }
    let linear = || Stage::new(Tiling::Linear, Tiling::Linear, Depth::Bpp32);
    let mut s = linear()?;
    let fill = XyColorBlt { clip: true, ..s.color_blt() };
    debug_assert_ne!(fill.encode()[1] & CLIP, 0);
    s.run(&[&clip_to(CLIPPED)[..], &fill.encode()].concat())?;
    cases.push(s.case("CLIPPED", false)?);
    for (label, write_alpha, write_rgb) in [("RGB ONLY", false, true), ("ALPHA ONLY", true, false)] {
        let mut s = linear()?;
        let fill = XyColorBlt { write_alpha, write_rgb, color: 0x4020_60e0, ..s.color_blt() };
        s.run(&fill.encode())?;
        cases.push(s.case(label, true)?);
    }
    Ok(Row { headline: "XY_COLOR_BLT", cases })
}

fn fill_rops() -> Result<Row, Error> {
    let mut cases = Vec::new();
    for rop in [0x00, 0xff, 0xf0, 0x0f, 0x55, 0x5a, 0xa0, 0xfa, 0x50] {
        let mut s = Stage::new(Tiling::Linear, Tiling::Linear, Depth::Bpp32)?;
        s.run(&XyColorBlt { rop, ..s.color_blt() }.encode())?;
        cases.push(s.case(format!("ROP {rop:02X}"), false)?);
    }
    Ok(Row { headline: "XY_COLOR_BLT  RASTER OPERATIONS", cases })
}

fn copies() -> Result<Row, Error> {
    let mut cases = Vec::new();
    for (label, depth) in DEPTHS {
        let mut s = Stage::new(Tiling::Linear, Tiling::Linear, depth)?;
        s.run(&s.src_copy_blt().encode())?;
        cases.push(s.case(label, false)?);
    }
    let linear = || Stage::new(Tiling::Linear, Tiling::Linear, Depth::Bpp32);
    let mut s = linear()?;
    let copy = XySrcCopyBlt { clip: true, ..s.src_copy_blt() };
    s.run(&[&clip_to(CLIPPED)[..], &copy.encode()].concat())?;
    cases.push(s.case("CLIPPED", false)?);
    // The source's alpha is taken down first, so that it can be told from the destination's.
    for (label, write_alpha, write_rgb) in [("RGB ONLY", false, true), ("ALPHA ONLY", true, false)] {
        let mut s = linear()?;
        let fade = XyColorBlt {
            write_rgb: false,
            rect: WHOLE,
            dst: s.src.surface(),
            color: 0x6000_0000,
            ..s.color_blt()
        };
        let copy = XySrcCopyBlt { write_alpha, write_rgb, ..s.src_copy_blt() };
        s.run(&[&fade.encode()[..], &copy.encode()].concat())?;
        cases.push(s.case(label, true)?);
    }
    // From the bottom up, at the source: its last line first.
    let mut s = linear()?;
    let last = s.src.base + 95 * u64::from(PITCH.unsigned_abs());
    let src = Surface { base: last, pitch: -PITCH, tiled: false };
    s.run(&XySrcCopyBlt { src, ..s.src_copy_blt() }.encode())?;
    cases.push(s.case("PITCH -1024", false)?);
    let mut s = linear()?;
    let src = Surface { base: s.src.base + 3, ..s.src.surface() };
    s.run(&XySrcCopyBlt { src, ..s.src_copy_blt() }.encode())?;
    cases.push(s.case("UNALIGNED", false)?);
    Ok(Row { headline: "XY_SRC_COPY_BLT", cases })
}

fn copy_rops() -> Result<Row, Error> {
    let mut cases = Vec::new();
    for rop in [0x33, 0x66, 0x99, 0x88, 0xee, 0x44, 0xbb, 0x11, 0xdd] {
        let mut s = Stage::new(Tiling::Linear, Tiling::Linear, Depth::Bpp32)?;
        s.run(&XySrcCopyBlt { rop, ..s.src_copy_blt() }.encode())?;
        cases.push(s.case(format!("ROP {rop:02X}"), false)?);
    }
    Ok(Row { headline: "XY_SRC_COPY_BLT  RASTER OPERATIONS", cases })
}

/// Every pair of tilings, by a command of one's choice.
fn pairs(headline: &'static str, blit: fn(&Stage) -> [u32; 10]) -> Result<Row, Error> {
    let mut cases = Vec::new();
    for (from, src) in TILINGS {
        for (to, dst) in TILINGS {
            let mut s = Stage::new(dst, src, Depth::Bpp32)?;
            s.run(&blit(&s))?;
            cases.push(s.case(format!("{from}->{to}"), false)?);
        }
    }
    Ok(Row { headline, cases })
}

/// Copies within one surface, down, up and to the side.
fn scrolls() -> Result<Row, Error> {
    let mut cases = Vec::new();
    for (label, tiling) in TILINGS {
        for (way, dx, dy) in [("DOWN", 0, -8), ("UP", 7, 11), ("SIDE", -9, 0)] {
            let mut s = Stage::new(tiling, tiling, Depth::Bpp32)?;
            s.src = s.dst;
            s.fill(s.dst, photo)?;
            let copy = s.src_copy_blt();
            s.run(&XySrcCopyBlt { src_x: copy.src_x + dx, src_y: copy.src_y + dy, ..copy }.encode())?;
            cases.push(s.case(format!("{label} {way}"), false)?);
        }
    }
    Ok(Row { headline: "XY_SRC_COPY_BLT  WITHIN A SURFACE", cases })
}

fn fast_copies() -> Result<Row, Error> {
    let mut cases = Vec::new();
    let depths = [FastDepth::Bpp8, FastDepth::Bpp16, FastDepth::Bpp32, FastDepth::Bpp64, FastDepth::Bpp128];
    for depth in depths {
        let mut s = Stage::new(Tiling::Linear, Tiling::Y, Depth::Bpp32)?;
        // The same bytes at each depth: 16 to 336 of a line.
        let bytes = i16::try_from(depth.bytes().unwrap_or(1)).unwrap_or(1);
        let rect = Rect { x1: 16 / bytes, x2: 336 / bytes, ..PART };
        s.run(&XyFastCopyBlt { depth, rect, src_x: rect.x1, ..s.fast_copy_blt() }.encode())?;
        cases.push(s.case(format!("{} BITS", 8 * bytes), false)?);
    }
    for (label, tiling) in &TILINGS[1..] {
        let mut s = Stage::new(*tiling, *tiling, Depth::Bpp32)?;
        s.fill(s.dst, photo)?;
        let blit = XyFastCopyBlt { src: s.dst.fast(), src_y: PART.y1 - 8, ..s.fast_copy_blt() };
        s.run(&blit.encode())?;
        cases.push(s.case(format!("{label} DOWN"), false)?);
    }
    // How a tiled surface lies in memory.
    for (label, tiling) in &TILINGS[1..] {
        let mut s = Stage::new(*tiling, Tiling::Linear, Depth::Bpp32)?;
        s.run(&XyFastCopyBlt { rect: WHOLE, src_x: 0, src_y: 0, ..s.fast_copy_blt() }.encode())?;
        let linear = Layout::new(s.dst.base, PITCH.into(), Tiling::Linear)?;
        cases.push(Case { label: format!("{label} IN MEMORY"), picture: s.shown(linear, false) });
    }
    Ok(Row { headline: "XY_FAST_COPY_BLT", cases })
}

/// All of them.
pub(super) fn all() -> Result<Vec<Row>, Error> {
    Ok(vec![
        fills()?,
        fill_rops()?,
        copies()?,
        pairs("XY_SRC_COPY_BLT  TILINGS", |s| s.src_copy_blt().encode())?,
        scrolls()?,
        copy_rops()?,
        fast_copies()?,
        pairs("XY_FAST_COPY_BLT  TILINGS", |s| s.fast_copy_blt().encode())?,
    ])
}
