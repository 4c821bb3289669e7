//! The blitter's commands and their fields.

mod fast;

use super::cmd::{op, split};
use super::tiling::{BadLayout, Layout, Tiling};
pub use fast::{FastDepth, FastSurface, FastTiling, XyFastCopyBlt};

/// Bits per pixel: dword 1, 25:24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// 8 bits.
    Bpp8,
    /// 16 bits, 5:6:5.
    Bpp16,
    /// 16 bits, 1:5:5:5.
    Bpp1555,
    /// 32 bits.
    Bpp32,
}

impl Depth {
    /// Reads the field of dword 1.
    pub const fn of(dw1: u32) -> Self {
        match (dw1 >> 24) & 3 {
            0 => Self::Bpp8,
            1 => Self::Bpp16,
            2 => Self::Bpp1555,
            _ => Self::Bpp32,
        }
    }
    /// Bytes per pixel.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Bpp8 => 1,
            Self::Bpp16 | Self::Bpp1555 => 2,
            Self::Bpp32 => 4,
        }
    }
}

/// Header b21: write the alpha byte (32 bits per pixel only).
pub const WRITE_ALPHA: u32 = 1 << 21;
/// Header b20: write the colour bytes (32 bits per pixel only).
pub const WRITE_RGB: u32 = 1 << 20;
/// Header b15: the source is tiled.
pub const SRC_TILED: u32 = 1 << 15;
/// Header b11: the destination is tiled.
pub const DST_TILED: u32 = 1 << 11;
/// Dword 1 b30: draw only inside the clip rectangle.
pub const CLIP: u32 = 1 << 30;
/// ROP: the destination becomes the pattern (for fills, the colour).
pub const ROP_PATCOPY: u8 = 0xf0;
/// ROP: the destination becomes the source.
pub const ROP_SRCCOPY: u8 = 0xcc;

/// A rectangle in pixels; `x2` and `y2` are just outside. It is empty unless `x1 < x2` and `y1 < y2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Left.
    pub x1: i16,
    /// Top.
    pub y1: i16,
    /// Right, exclusive.
    pub x2: i16,
    /// Bottom, exclusive.
    pub y2: i16,
}

impl Rect {
    /// From the two dwords that hold `y:x` of its corners.
    pub const fn of(top_left: u32, bottom_right: u32) -> Self {
        let ((x1, y1), (x2, y2)) = (point(top_left), point(bottom_right));
        Self { x1, y1, x2, y2 }
    }
    /// Its two dwords.
    pub const fn dwords(self) -> [u32; 2] {
        [pack(self.x1, self.y1), pack(self.x2, self.y2)]
    }
    /// Whether it holds no pixel.
    pub const fn is_empty(self) -> bool {
        self.x1 >= self.x2 || self.y1 >= self.y2
    }
    /// Pixels across; 0 if empty.
    pub fn width(self) -> u32 {
        if self.is_empty() { 0 } else { u32::from(self.x2.abs_diff(self.x1)) }
    }
    /// Pixels down; 0 if empty.
    pub fn height(self) -> u32 {
        if self.is_empty() { 0 } else { u32::from(self.y2.abs_diff(self.y1)) }
    }
    /// The pixels that are in both.
    pub fn intersect(self, other: Self) -> Self {
        Self {
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
            x2: self.x2.min(other.x2),
            y2: self.y2.min(other.y2),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "two signed halves of a dword"
)]
const fn point(dword: u32) -> (i16, i16) {
    (dword as u16 as i16, (dword >> 16) as u16 as i16)
}

#[expect(clippy::cast_sign_loss, reason = "two signed halves of a dword")]
const fn pack(x: i16, y: i16) -> u32 {
    ((y as u16 as u32) << 16) | x as u16 as u32
}

/// Where a blit reads or writes: a base, a pitch, tiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surface {
    /// Address of pixel (0, 0): 48 bits.
    pub base: u64,
    /// From a line to the next: bytes, or dwords if tiled.
    pub pitch: i16,
    /// X- or Y-major tiles: which of them, [`BltTilings`] says.
    pub tiled: bool,
}

/// What a blit's bit `tiled` means: BCS_SWCTRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BltTilings {
    /// Of a tiled source.
    pub src: Tiling,
    /// Of a tiled destination.
    pub dst: Tiling,
}

impl BltTilings {
    /// As after a reset.
    pub const X: Self = Self { src: Tiling::X, dst: Tiling::X };

    /// Reads [`BCS_SWCTRL`](super::regs::engine::BCS_SWCTRL): b0 source Y-major, b1 destination Y-major.
    pub const fn of(swctrl: u32) -> Self {
        const fn tiling(y: bool) -> Tiling {
            if y { Tiling::Y } else { Tiling::X }
        }
        Self { src: tiling(swctrl & 1 != 0), dst: tiling(swctrl & 2 != 0) }
    }
}

impl Surface {
    /// Where its bytes lie, if a tiled one is `tiling`.
    pub fn layout(self, tiling: Tiling) -> Result<Layout, BadLayout> {
        let pitch = i32::from(self.pitch);
        if self.tiled {
            Layout::new(self.base, 4 * pitch, tiling)
        } else {
            Layout::new(self.base, pitch, Tiling::Linear)
        }
    }
}

/// XY_COLOR_BLT: fills a rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XyColorBlt {
    /// The alpha byte is written.
    pub write_alpha: bool,
    /// The colour bytes are written.
    pub write_rgb: bool,
    /// Bits per pixel.
    pub depth: Depth,
    /// Raster operation over pattern (the colour) and destination.
    pub rop: u8,
    /// Only inside the clip rectangle.
    pub clip: bool,
    /// Where to.
    pub dst: Surface,
    /// Which pixels.
    pub rect: Rect,
    /// The colour, in as many low bits as a pixel has.
    pub color: u32,
}

impl XyColorBlt {
    /// Dwords of the command.
    pub const DWORDS: u32 = 7;

    /// A plain fill at 32 bits per pixel.
    pub const fn fill(base: u64, pitch: i16, rect: Rect, color: u32) -> Self {
        Self {
            write_alpha: true,
            write_rgb: true,
            depth: Depth::Bpp32,
            rop: ROP_PATCOPY,
            clip: false,
            dst: Surface { base, pitch, tiled: false },
            rect,
            color,
        }
    }
    /// Reads the fields.
    pub const fn decode(d: &[u32; 7]) -> Self {
        let [dw0, dw1, tl, br, lo, hi, color] = *d;
        Self {
            write_alpha: dw0 & WRITE_ALPHA != 0,
            write_rgb: dw0 & WRITE_RGB != 0,
            depth: Depth::of(dw1),
            rop: rop(dw1),
            clip: dw1 & CLIP != 0,
            dst: surface(lo, hi, dw1, dw0 & DST_TILED != 0),
            rect: Rect::of(tl, br),
            color,
        }
    }
    /// The command.
    pub const fn encode(&self) -> [u32; 7] {
        let dw0 = header(op::XY_COLOR_BLT, Self::DWORDS, self.write_alpha, self.write_rgb)
            | flag(self.dst.tiled, DST_TILED);
        let ([tl, br], [lo, hi]) = (self.rect.dwords(), split(self.dst.base));
        [dw0, dw1(self.depth, self.rop, self.clip, self.dst.pitch), tl, br, lo, hi, self.color]
    }
}

/// XY_SRC_COPY_BLT: copies a rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XySrcCopyBlt {
    /// The alpha byte is written.
    pub write_alpha: bool,
    /// The colour bytes are written.
    pub write_rgb: bool,
    /// Bits per pixel.
    pub depth: Depth,
    /// Raster operation over source and destination.
    pub rop: u8,
    /// Only inside the clip rectangle.
    pub clip: bool,
    /// Where to.
    pub dst: Surface,
    /// Which pixels of the destination.
    pub rect: Rect,
    /// Where from.
    pub src: Surface,
    /// The source's pixel for the rectangle's top left, x.
    pub src_x: i16,
    /// The source's pixel for the rectangle's top left, y.
    pub src_y: i16,
}

impl XySrcCopyBlt {
    /// Dwords of the command.
    pub const DWORDS: u32 = 10;

    /// Reads the fields.
    pub const fn decode(d: &[u32; 10]) -> Self {
        let [dw0, dw1, tl, br, lo, hi, src_yx, src_pitch, src_lo, src_hi] = *d;
        let (src_x, src_y) = point(src_yx);
        Self {
            write_alpha: dw0 & WRITE_ALPHA != 0,
            write_rgb: dw0 & WRITE_RGB != 0,
            depth: Depth::of(dw1),
            rop: rop(dw1),
            clip: dw1 & CLIP != 0,
            dst: surface(lo, hi, dw1, dw0 & DST_TILED != 0),
            rect: Rect::of(tl, br),
            src: surface(src_lo, src_hi, src_pitch, dw0 & SRC_TILED != 0),
            src_x,
            src_y,
        }
    }
    /// The command.
    pub const fn encode(&self) -> [u32; 10] {
        let dw0 = header(op::XY_SRC_COPY_BLT, Self::DWORDS, self.write_alpha, self.write_rgb)
            | flag(self.dst.tiled, DST_TILED)
            | flag(self.src.tiled, SRC_TILED);
        let ([tl, br], [lo, hi], [src_lo, src_hi]) =
            (self.rect.dwords(), split(self.dst.base), split(self.src.base));
        let dw1 = dw1(self.depth, self.rop, self.clip, self.dst.pitch);
        let src_pitch = pack(self.src.pitch, 0);
        [dw0, dw1, tl, br, lo, hi, pack(self.src_x, self.src_y), src_pitch, src_lo, src_hi]
    }
}

const fn flag(on: bool, bit: u32) -> u32 {
    if on { bit } else { 0 }
}

const fn header(opcode: u32, dwords: u32, alpha: bool, rgb: bool) -> u32 {
    (2 << 29) | (opcode << 22) | (dwords - 2) | flag(alpha, WRITE_ALPHA) | flag(rgb, WRITE_RGB)
}

const fn dw1(depth: Depth, rop: u8, clip: bool, pitch: i16) -> u32 {
    ((depth as u32) << 24) | ((rop as u32) << 16) | flag(clip, CLIP) | pack(pitch, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "one byte of a dword")]
const fn rop(dw1: u32) -> u8 {
    (dw1 >> 16) as u8
}

const fn surface(lo: u32, hi: u32, pitch: u32, tiled: bool) -> Surface {
    let base = (((hi as u64) << 32) | lo as u64) & 0xffff_ffff_ffff;
    Surface { base, pitch: point(pitch).0, tiled }
}

#[cfg(test)]
#[path = "blt_tests.rs"]
mod tests;
