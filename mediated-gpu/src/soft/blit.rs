//! A blit in progress: lines of bytes, worked off in pieces that end at page boundaries.
//!
//! Where source and destination overlap, share a pitch and lines do not reach into each other, no byte is
//! overwritten before it is read: the result is that of reading the whole source first, as the hardware's choice
//! of direction gives it. Otherwise each line is copied as if read first, lines in order.

use super::rop::Rop;
use super::tlb::{Fault, Tlb};
use crate::bus::DmaAccess;
use crate::gen8::blt::{Depth, ROP_PATCOPY, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XySrcCopyBlt};
use xen_ioreq::{PAGE_MASK, PAGE_SIZE};

/// What a piece costs at least, in bytes: pieces of a few bytes take time too.
const PIECE_COST: u64 = 512;

/// Why a blit cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// A tiled surface.
    #[error("tiled surface")]
    Tiled,
}

/// What happens to each byte.
enum Action {
    /// Becomes the colour: as many bytes of it as a piece can have, and 3 more to begin at any of the four.
    Fill(Vec<u8>),
    Copy,
    Rop {
        rop: Rop,
        pattern: u32,
        mask: u32,
    },
}

/// First bytes of lines: of the first to be done, and the distance to the next.
#[derive(Clone, Copy)]
struct Lines {
    first: i64,
    step: i64,
}

impl Lines {
    fn new(s: Surface, x: i16, y: i16, depth: Depth) -> Self {
        Self { first: s.pixel(x.into(), y.into(), depth), step: s.pitch.into() }
    }

    fn line(self, n: u64) -> i64 {
        // Both factors come from 16-bit fields: no product of theirs leaves 64 bits.
        self.first.wrapping_add(self.step.wrapping_mul(n.cast_signed()))
    }

    fn reversed(self, lines: u64) -> Self {
        Self { first: self.line(lines.saturating_sub(1)), step: -self.step }
    }
}

pub(super) struct Blit {
    dst: Lines,
    src: Option<Lines>,
    /// Bytes of a line.
    width: u64,
    lines: u64,
    action: Action,
    /// Lines done.
    line: u64,
    /// Bytes of the current line done.
    done: u64,
}

impl Blit {
    /// `Ok(None)`: nothing to draw.
    pub(super) fn fill(cmd: &XyColorBlt, clip: Rect) -> Result<Option<Self>, Refused> {
        if cmd.dst.tiled {
            return Err(Refused::Tiled);
        }
        let rect = if cmd.clip { cmd.rect.intersect(clip) } else { cmd.rect };
        let pattern = replicate(cmd.color, cmd.depth);
        let mask = mask(cmd.depth, cmd.write_alpha, cmd.write_rgb);
        let action = match cmd.rop {
            // Copied from a buffer: the C library's copy is faster than any loop over words.
            ROP_PATCOPY if mask == u32::MAX => Action::Fill(pattern.to_le_bytes().repeat(PAGE_SIZE / 4 + 1)),
            rop => Action::Rop { rop: Rop::new(rop), pattern, mask },
        };
        let dst = Lines::new(cmd.dst, rect.x1, rect.y1, cmd.depth);
        Ok(Self::new(dst, None, rect, cmd.depth, action))
    }

    /// `Ok(None)`: nothing to draw.
    pub(super) fn copy(cmd: &XySrcCopyBlt, clip: Rect) -> Result<Option<Self>, Refused> {
        if cmd.dst.tiled || cmd.src.tiled {
            return Err(Refused::Tiled);
        }
        let rect = if cmd.clip { cmd.rect.intersect(clip) } else { cmd.rect };
        let mask = mask(cmd.depth, cmd.write_alpha, cmd.write_rgb);
        let action = match cmd.rop {
            ROP_SRCCOPY if mask == u32::MAX => Action::Copy,
            // The command has no pattern: it counts as zeros.
            rop => Action::Rop { rop: Rop::new(rop), pattern: 0, mask },
        };
        let dst = Lines::new(cmd.dst, rect.x1, rect.y1, cmd.depth);
        // Clipping moves the source's corner by as much as the destination's.
        let src_x = i32::from(cmd.src_x) + i32::from(rect.x1) - i32::from(cmd.rect.x1);
        let src_y = i32::from(cmd.src_y) + i32::from(rect.y1) - i32::from(cmd.rect.y1);
        let src = Lines { first: cmd.src.pixel(src_x, src_y, cmd.depth), step: cmd.src.pitch.into() };
        Ok(Self::new(dst, Some(src), rect, cmd.depth, action))
    }

    fn new(dst: Lines, src: Option<Lines>, rect: Rect, depth: Depth, action: Action) -> Option<Self> {
        if rect.is_empty() {
            return None;
        }
        let width = u64::from(rect.width()) * u64::from(depth.bytes());
        let lines = u64::from(rect.height());
        let mut b = Self { dst, src, width, lines, action, line: 0, done: 0 };
        let whole = |l: Lines| l.step == width.cast_signed();
        if whole(dst) && src.is_none_or(whole) {
            // Lines without gaps between them are one long line.
            b.width = width.wrapping_mul(lines);
            b.lines = 1;
        } else if let Some(src) = src
            && src.step == dst.step
            && width <= dst.step.unsigned_abs()
            && (dst.first > src.first) == (dst.step > 0)
            && b.overlap(dst, src)
        {
            b.dst = dst.reversed(lines);
            b.src = Some(src.reversed(lines));
        }
        Some(b)
    }

    fn overlap(&self, a: Lines, b: Lines) -> bool {
        let width = self.width.cast_signed();
        let span = |l: Lines| {
            let (first, last) = (l.first, l.line(self.lines.saturating_sub(1)));
            (first.min(last), first.max(last).saturating_add(width))
        };
        let ((a0, a1), (b0, b1)) = (span(a), span(b));
        a0 < b1 && b0 < a1
    }

    /// Goes on for about `budget` bytes. `Ok(true)`: the blit is done.
    pub(super) fn advance(&mut self, tlb: &mut Tlb, budget: u64) -> Result<bool, Fault> {
        let mut budget = budget;
        while self.line < self.lines {
            let dst = self.dst.line(self.line);
            let src = self.src.map(|s| s.line(self.line));
            let n = self.piece(tlb, dst, src)?;
            self.done += n;
            if self.done >= self.width {
                self.done = 0;
                self.line += 1;
            }
            budget = budget.saturating_sub(n.max(PIECE_COST));
            if budget == 0 {
                return Ok(self.line >= self.lines);
            }
        }
        Ok(true)
    }

    /// Lets the CPU fetch the beginning of the piece after this one of `n` bytes: pages lie scattered, so that the
    /// hardware cannot foresee it.
    fn prefetch(&self, tlb: &Tlb, n: u64, backward: bool) {
        if backward {
            return;
        }
        let next = |l: Lines| match self.done + n {
            done if done < self.width => at(l.line(self.line), done),
            _ => at(l.line(self.line + 1), 0),
        };
        for lines in [Some(self.dst), self.src].into_iter().flatten() {
            if let Ok(addr) = next(lines)
                && let Some(page) = tlb.peek(addr)
            {
                page.prefetch(in_page(addr));
            }
        }
    }

    /// Does the next piece of the line, at most up to the next page boundary of either side. Gives its bytes.
    fn piece(&self, tlb: &mut Tlb, dst: i64, src: Option<i64>) -> Result<u64, Fault> {
        let left = self.width.saturating_sub(self.done);
        // A line that begins inside its source is copied from its end, so that the source is read first.
        let backward = src.is_some_and(|s| s < dst && s.saturating_add_unsigned(self.width) > dst);
        let room = |line: i64| -> Result<u64, Fault> {
            if backward {
                let last = at(line, left.saturating_sub(1))?;
                Ok((last & PAGE_MASK) + 1)
            } else {
                Ok(PAGE_SIZE as u64 - (at(line, self.done)? & PAGE_MASK))
            }
        };
        let n = match src {
            Some(s) => left.min(room(dst)?).min(room(s)?),
            None => left.min(room(dst)?),
        };
        // Bytes from the line's start to the piece.
        let offset = if backward { left - n } else { self.done };
        let to = at(dst, offset)?;
        let (to_off, len) = (in_page(to), in_page_len(n));
        // Colour and mask repeat every four bytes of a line.
        let phase = in_page(offset % 4);
        self.prefetch(tlb, n, backward);
        match (&self.action, src) {
            (Action::Fill(color), _) => {
                tlb.page(to, DmaAccess::Write)?.write(to_off, &color[phase..phase + len]);
            }
            (Action::Copy, Some(s)) => {
                let from = at(s, offset)?;
                let (d, s) = tlb.pair(to, from)?;
                d.copy_from(to_off, &s, in_page(from), len);
            }
            (Action::Copy, None) => {}
            (Action::Rop { rop, pattern, mask }, src) => {
                let (mut d, mut s) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
                let (d, s) = (&mut d[..len], &mut s[..len]);
                if let Some(line) = src {
                    let from = at(line, offset)?;
                    tlb.page(from, DmaAccess::Read)?.read(in_page(from), s);
                }
                let page = tlb.page(to, DmaAccess::Write)?;
                page.read(to_off, d);
                let turn = |v: &u32| {
                    let mut bytes = v.to_le_bytes();
                    bytes.rotate_left(phase);
                    bytes
                };
                rop.apply(d, s, turn(pattern), turn(mask));
                page.write(to_off, d);
            }
        }
        Ok(n)
    }
}

/// The address `offset` bytes into a line.
fn at(line: i64, offset: u64) -> Result<u64, Fault> {
    line.checked_add_unsigned(offset)
        .and_then(|a| u64::try_from(a).ok())
        .ok_or(Fault::Beyond(line.wrapping_add_unsigned(offset).cast_unsigned()))
}

fn in_page(addr: u64) -> usize {
    (addr & PAGE_MASK) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "at most a page")]
fn in_page_len(n: u64) -> usize {
    n.min(PAGE_SIZE as u64) as usize
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
#[path = "blit_tests.rs"]
mod tests;
