//! XY_FAST_COPY_BLT: a copy between surfaces of any tiling, without raster operation, clipping or masks.
//!
//! A command of gen9's blitter. A software GPU may have it all the same: gen8's own copy needs a register write for each
//! Y-major surface, and drivers for both generations are at hand. Tiles of 64 KiB and their kin (Yf, Ys) it has not.

use super::super::cmd::{op, split};
use super::super::tiling::{BadLayout, Layout, Tiling};
use super::{Rect, pack, point};

/// Bits per pixel: dword 1, 26:24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastDepth {
    /// 8 bits.
    Bpp8,
    /// 16 bits.
    Bpp16,
    /// 32 bits.
    Bpp32,
    /// 64 bits.
    Bpp64,
    /// 128 bits.
    Bpp128,
    /// A reserved value: 2, 6 or 7.
    Reserved(u8),
}

impl FastDepth {
    const fn of(dw1: u32) -> Self {
        match (dw1 >> 24) & 7 {
            0 => Self::Bpp8,
            1 => Self::Bpp16,
            3 => Self::Bpp32,
            4 => Self::Bpp64,
            5 => Self::Bpp128,
            2 => Self::Reserved(2),
            6 => Self::Reserved(6),
            _ => Self::Reserved(7),
        }
    }
    const fn field(self) -> u32 {
        match self {
            Self::Bpp8 => 0,
            Self::Bpp16 => 1,
            Self::Bpp32 => 3,
            Self::Bpp64 => 4,
            Self::Bpp128 => 5,
            Self::Reserved(n) => n as u32 & 7,
        }
    }
    /// Bytes per pixel; `None` for a reserved value.
    pub const fn bytes(self) -> Option<u32> {
        match self {
            Self::Bpp8 => Some(1),
            Self::Bpp16 => Some(2),
            Self::Bpp32 => Some(4),
            Self::Bpp64 => Some(8),
            Self::Bpp128 => Some(16),
            Self::Reserved(_) => None,
        }
    }
}

/// Tilings that the command can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastTiling {
    /// 0: linear.
    Linear,
    /// 1: X-major tiles.
    X,
    /// 2: Y-major tiles as gen8 knows them.
    Y,
    /// 2, with the bit in dword 1: 4 KiB tiles of gen9.
    Yf,
    /// 3: 64 KiB tiles of gen9.
    Ys,
}

impl FastTiling {
    const fn of(field: u32, yf: bool) -> Self {
        match (field & 3, yf) {
            (0, _) => Self::Linear,
            (1, _) => Self::X,
            (2, false) => Self::Y,
            (2, true) => Self::Yf,
            _ => Self::Ys,
        }
    }
    const fn field(self) -> u32 {
        match self {
            Self::Linear => 0,
            Self::X => 1,
            Self::Y | Self::Yf => 2,
            Self::Ys => 3,
        }
    }
    const fn yf(self) -> bool {
        matches!(self, Self::Yf)
    }
    /// As gen8 knows it; `None` if it does not.
    pub const fn gen8(self) -> Option<Tiling> {
        match self {
            Self::Linear => Some(Tiling::Linear),
            Self::X => Some(Tiling::X),
            Self::Y => Some(Tiling::Y),
            Self::Yf | Self::Ys => None,
        }
    }
}

/// One of its two surfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FastSurface {
    /// Address of pixel (0, 0): 48 bits.
    pub base: u64,
    /// From a line to the next: bytes, or dwords if tiled.
    pub pitch: i16,
    /// How it is tiled.
    pub tiling: FastTiling,
}

impl FastSurface {
    const fn new(lo: u32, hi: u32, pitch: u32, tiling: FastTiling) -> Self {
        let base = (((hi as u64) << 32) | lo as u64) & 0xffff_ffff_ffff;
        Self { base, pitch: point(pitch).0, tiling }
    }

    /// Where its bytes lie, if its tiles are `tiling`.
    pub fn layout(self, tiling: Tiling) -> Result<Layout, BadLayout> {
        let unit = if tiling == Tiling::Linear { 1 } else { 4 };
        Layout::new(self.base, unit * i32::from(self.pitch), tiling)
    }
}

/// XY_FAST_COPY_BLT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XyFastCopyBlt {
    /// Bits per pixel.
    pub depth: FastDepth,
    /// Where to.
    pub dst: FastSurface,
    /// Which pixels of the destination.
    pub rect: Rect,
    /// Where from.
    pub src: FastSurface,
    /// The source's pixel for the rectangle's top left, x.
    pub src_x: i16,
    /// The source's pixel for the rectangle's top left, y.
    pub src_y: i16,
}

/// Dword 1 b31: the source's Y-major tiles are Yf.
const SRC_YF: u32 = 1 << 31;
/// Dword 1 b30: the destination's Y-major tiles are Yf.
const DST_YF: u32 = 1 << 30;

impl XyFastCopyBlt {
    /// Dwords of the command.
    pub const DWORDS: u32 = 10;

    /// Reads the fields.
    pub const fn decode(d: &[u32; 10]) -> Self {
        let [dw0, dw1, tl, br, lo, hi, src_yx, src_pitch, src_lo, src_hi] = *d;
        let (src_x, src_y) = point(src_yx);
        Self {
            depth: FastDepth::of(dw1),
            dst: FastSurface::new(lo, hi, dw1, FastTiling::of(dw0 >> 13, dw1 & DST_YF != 0)),
            rect: Rect::of(tl, br),
            src: FastSurface::new(src_lo, src_hi, src_pitch, FastTiling::of(dw0 >> 20, dw1 & SRC_YF != 0)),
            src_x,
            src_y,
        }
    }
    /// The command.
    pub const fn encode(&self) -> [u32; 10] {
        let dw0 = (2 << 29)
            | (op::XY_FAST_COPY_BLT << 22)
            | (Self::DWORDS - 2)
            | (self.src.tiling.field() << 20)
            | (self.dst.tiling.field() << 13);
        let dw1 = (self.depth.field() << 24)
            | pack(self.dst.pitch, 0)
            | if self.src.tiling.yf() { SRC_YF } else { 0 }
            | if self.dst.tiling.yf() { DST_YF } else { 0 };
        let ([tl, br], [lo, hi], [src_lo, src_hi]) =
            (self.rect.dwords(), split(self.dst.base), split(self.src.base));
        let src_pitch = pack(self.src.pitch, 0);
        [dw0, dw1, tl, br, lo, hi, pack(self.src_x, self.src_y), src_pitch, src_lo, src_hi]
    }
}
