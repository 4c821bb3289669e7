//! A blit in progress: what a command asks for, worked off in pieces that end with a page.
//!
//! Between linear surfaces lines are walked as they come ([`lines`]); where one is tiled, tile by tile ([`tiles`]).
//! No piece keeps a pointer into memory. Each of the two says what overlapping surfaces come to.

mod action;
mod band;
mod lines;
mod tiles;

use std::time::{Duration, Instant};

use super::rop::Rop;
use super::team::{Kind, Team};
use super::tlb::{Fault, Tlb};
use crate::gen8::blt::{BltTilings, Depth, Rect, XyColorBlt, XyFastCopyBlt, XySrcCopyBlt};
use crate::gen8::tiling::{BadLayout, Layout, Tiling};
use action::Action;

/// Bytes of a blit for which it is worth thinking of helpers.
const LARGE: u64 = 512 << 10;
/// What is shorter is copied without a thought of what comes next: the CPU sees it by itself.
const LONG: usize = 1024;

/// Why a blit cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// A surface that is not made of whole tiles.
    #[error(transparent)]
    Layout(#[from] BadLayout),
    /// A tiling of a later generation: Yf, Ys.
    #[error("a tiling that gen8 does not know")]
    Tiling,
    /// A reserved depth.
    #[error("the reserved depth {0}")]
    Depth(u8),
    /// A raster operation with an operand that the command does not have.
    #[error("raster operation {0:#04x} needs {1}, which the command does not have")]
    Rop(u8, &'static str),
}

/// A rectangle of bytes on a surface: its first byte and its first line.
#[derive(Clone, Copy, Debug)]
struct Side {
    layout: Layout,
    x: i64,
    y: i64,
}

impl Side {
    /// The rectangle whose top left is a pixel of `bytes` bytes.
    fn new(layout: Layout, x: i32, y: i32, bytes: u32) -> Self {
        Self { layout, x: i64::from(x) * i64::from(bytes), y: y.into() }
    }

    /// Address of byte `x` of line `y` of the rectangle.
    fn address(self, x: u64, y: u64) -> i64 {
        // Both are below 2^32, as the command's fields are.
        self.layout.address(self.x.wrapping_add_unsigned(x), self.y.wrapping_add_unsigned(y))
    }
}

/// What is to be drawn: `width` bytes of each of `lines` lines, to `dst`, from `src`.
#[derive(Clone, Copy, Debug)]
struct Job {
    dst: Side,
    src: Option<Side>,
    width: u64,
    lines: u64,
}

enum Walk {
    Lines(lines::Lines),
    Tiles(tiles::Tiles),
}

impl Walk {
    fn advance(
        &mut self,
        action: &mut Action,
        tlb: &mut Tlb,
        team: &mut Team,
        budget: u64,
    ) -> Result<bool, Fault> {
        match self {
            Self::Lines(walk) => walk.advance(action, tlb, team, budget),
            Self::Tiles(walk) => walk.advance(action, tlb, team, budget),
        }
    }
}

/// A step of several threads, in what each of them does, is so many steps of one.
const SHARED_STEP: u64 = 4;

/// What is to be known of a blit that is worth helpers.
struct Large {
    kind: Kind,
    bytes: u64,
    begun: bool,
    /// Time in its steps so far.
    took: Duration,
}

pub(super) struct Blit {
    walk: Walk,
    action: Action,
    /// If others could help.
    large: Option<Large>,
}

impl Blit {
    /// XY_COLOR_BLT. `Ok(None)`: nothing to draw.
    pub(super) fn fill(cmd: &XyColorBlt, clip: Rect, tilings: BltTilings) -> Result<Option<Self>, Refused> {
        let rop = Rop::new(cmd.rop);
        if rop.needs_source() {
            return Err(Refused::Rop(cmd.rop, "a source"));
        }
        let dst = cmd.dst.layout(tilings.dst)?;
        let rect = if cmd.clip { cmd.rect.intersect(clip) } else { cmd.rect };
        let bytes = cmd.depth.bytes();
        let mask = mask(cmd.depth, cmd.write_alpha, cmd.write_rgb);
        let action = Action::fill(rop, replicate(cmd.color, cmd.depth), mask);
        let dst = Side::new(dst, rect.x1.into(), rect.y1.into(), bytes);
        Ok(Self::new(dst, None, rect, bytes, action))
    }

    /// XY_SRC_COPY_BLT. `Ok(None)`: nothing to draw.
    pub(super) fn copy(cmd: &XySrcCopyBlt, clip: Rect, tilings: BltTilings) -> Result<Option<Self>, Refused> {
        let rop = Rop::new(cmd.rop);
        if rop.needs_pattern() {
            return Err(Refused::Rop(cmd.rop, "a pattern"));
        }
        let (dst, src) = (cmd.dst.layout(tilings.dst)?, cmd.src.layout(tilings.src)?);
        let rect = if cmd.clip { cmd.rect.intersect(clip) } else { cmd.rect };
        let bytes = cmd.depth.bytes();
        let action = Action::copy(rop, mask(cmd.depth, cmd.write_alpha, cmd.write_rgb));
        let dst = Side::new(dst, rect.x1.into(), rect.y1.into(), bytes);
        // Clipping moves the source's corner by as much as the destination's.
        let src_x = i32::from(cmd.src_x) + i32::from(rect.x1) - i32::from(cmd.rect.x1);
        let src_y = i32::from(cmd.src_y) + i32::from(rect.y1) - i32::from(cmd.rect.y1);
        let src = Side::new(src, src_x, src_y, bytes);
        Ok(Self::new(dst, Some(src), rect, bytes, action))
    }

    /// XY_FAST_COPY_BLT. `Ok(None)`: nothing to draw.
    pub(super) fn fast_copy(cmd: &XyFastCopyBlt) -> Result<Option<Self>, Refused> {
        let bytes = cmd.depth.bytes().ok_or(match cmd.depth {
            crate::gen8::blt::FastDepth::Reserved(n) => Refused::Depth(n),
            _ => Refused::Depth(0),
        })?;
        let layout = |s: crate::gen8::blt::FastSurface| {
            let tiling = s.tiling.gen8().ok_or(Refused::Tiling)?;
            Ok::<_, Refused>(s.layout(tiling)?)
        };
        let dst = Side::new(layout(cmd.dst)?, cmd.rect.x1.into(), cmd.rect.y1.into(), bytes);
        let src = Side::new(layout(cmd.src)?, cmd.src_x.into(), cmd.src_y.into(), bytes);
        Ok(Self::new(dst, Some(src), cmd.rect, bytes, Action::copy(Rop::SRCCOPY, u32::MAX)))
    }

    fn new(dst: Side, src: Option<Side>, rect: Rect, bytes: u32, action: Action) -> Option<Self> {
        if rect.is_empty() {
            return None;
        }
        let (width, lines) = (u64::from(rect.width()) * u64::from(bytes), u64::from(rect.height()));
        let job = Job { dst, src, width, lines };
        let linear = |s: Side| s.layout.tiling() == Tiling::Linear;
        let walk = if linear(dst) && src.is_none_or(linear) {
            Walk::Lines(lines::Lines::new(job))
        } else {
            Walk::Tiles(tiles::Tiles::new(job, action.copies()))
        };
        let kind = match &walk {
            Walk::Lines(walk) if action.stream().is_none() || !walk.is_shared() => None,
            Walk::Lines(_) => Some(if src.is_some() { Kind::Copy } else { Kind::Fill }),
            Walk::Tiles(walk) => walk.is_shared().then_some(Kind::Tiles),
        };
        let bytes = width * lines;
        let large = kind.filter(|_| bytes >= LARGE);
        let large = large.map(|kind| Large { kind, bytes, begun: false, took: Duration::ZERO });
        Some(Self { walk, action, large })
    }

    /// Goes on for about `budget` bytes a thread. `Ok(true)`: the blit is done.
    pub(super) fn advance(&mut self, tlb: &mut Tlb, team: &mut Team, budget: u64) -> Result<bool, Fault> {
        let Some(large) = self.large.as_mut().filter(|_| !team.is_empty()) else {
            return self.walk.advance(&mut self.action, tlb, team, budget);
        };
        let start = Instant::now();
        if !std::mem::replace(&mut large.begun, true) {
            team.begin(large.kind);
        }
        // Threads that come and go cost as much as a small step; so a step of several is longer for each of them.
        let budget = if team.hands() > 1 { SHARED_STEP * budget } else { budget };
        let done = self.walk.advance(&mut self.action, tlb, team, budget)?;
        large.took += start.elapsed();
        if done {
            team.end(large.kind, large.bytes, large.took);
        }
        Ok(done)
    }
}

/// An address as the walk computes it: one before 0 or beyond 64 bits is a fault.
fn checked(at: i64) -> Result<u64, Fault> {
    u64::try_from(at).map_err(|_| Fault::Beyond(at.cast_unsigned()))
}

/// A colour as the four bytes that repeat over a line.
fn replicate(color: u32, depth: Depth) -> u32 {
    match depth.bytes() {
        1 => (color & 0xff) * 0x0101_0101,
        2 => (color & 0xffff) * 0x0001_0001,
        _ => color,
    }
}

/// Which bits of a pixel are written: a choice only at 32 bits per pixel.
fn mask(depth: Depth, alpha: bool, rgb: bool) -> u32 {
    if depth != Depth::Bpp32 {
        return u32::MAX;
    }
    (if alpha { 0xff00_0000 } else { 0 }) | (if rgb { 0x00ff_ffff } else { 0 })
}

#[cfg(test)]
mod naive;
