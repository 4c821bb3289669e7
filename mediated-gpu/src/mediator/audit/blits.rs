//! The blitter's commands.
//!
//! How its tiles lie is in a register, which a command before may have changed, or not, by way of a condition. So a tiled
//! surface must be the guest's in either kind of tile; with tables of its own a context has no other memory anyway.

use std::ops::Range;

use super::Refusal;
use super::commands::{OPCODE, Rewrite, exactly};
use crate::gen8::blt::{Depth, Rect, Surface, XyColorBlt, XyFastCopyBlt, XySrcCopyBlt};
use crate::gen8::cmd::op;
use crate::gen8::tiling::{Layout, Tiling};

/// Pixels from (`x`, `y`) on, of so many bytes each.
#[derive(Clone, Copy)]
struct Area {
    x: i16,
    y: i16,
    width: u32,
    height: u32,
    bytes: u32,
}

impl Area {
    fn of(rect: Rect, x: i16, y: i16, bytes: u32) -> Self {
        Self { x, y, width: rect.width(), height: rect.height(), bytes }
    }

    /// The bytes of a surface that it lies within.
    fn extent(self, layout: Layout) -> Option<Range<u64>> {
        let bytes = i64::from(self.bytes);
        layout.extent(
            i64::from(self.x) * bytes,
            self.y.into(),
            u64::from(self.width) * u64::from(self.bytes),
            self.height.into(),
        )
    }
}

impl Rewrite<'_> {
    pub(super) fn blit(&mut self, opcode: u32, header: u32, command: &[u32]) -> Result<(), Refusal> {
        match opcode {
            op::XY_COLOR_BLT => {
                let blt = XyColorBlt::decode(&exactly(command)?);
                if blt.rect.is_empty() {
                    self.nothing(command);
                } else {
                    self.surface(blt.dst, blt.depth, blt.rect, blt.rect.x1, blt.rect.y1)?;
                    self.out.extend(blt.encode());
                }
            }
            op::XY_SRC_COPY_BLT => {
                let blt = XySrcCopyBlt::decode(&exactly(command)?);
                if blt.rect.is_empty() {
                    self.nothing(command);
                } else {
                    self.surface(blt.dst, blt.depth, blt.rect, blt.rect.x1, blt.rect.y1)?;
                    self.surface(blt.src, blt.depth, blt.rect, blt.src_x, blt.src_y)?;
                    self.out.extend(blt.encode());
                }
            }
            op::XY_FAST_COPY_BLT if self.terms.fast_copy => {
                let blt = XyFastCopyBlt::decode(&exactly(command)?);
                let bytes = blt.depth.bytes().ok_or(Refusal::Mode)?;
                if blt.rect.is_empty() {
                    self.nothing(command);
                    return Ok(());
                }
                for (surface, x, y) in [(blt.dst, blt.rect.x1, blt.rect.y1), (blt.src, blt.src_x, blt.src_y)]
                {
                    let tiling = surface.tiling.gen8().ok_or(Refusal::Mode)?;
                    self.blit_reach(surface.layout(tiling), Area::of(blt.rect, x, y, bytes))?;
                }
                self.out.extend(blt.encode());
            }
            // Of no address: the rectangle outside of which a blit that says so draws nothing.
            op::XY_SETUP_CLIP_BLT => {
                let [_, top_left, bottom_right] = exactly(command)?;
                self.out.extend([header & (OPCODE | 1 << 22 | 0xff), top_left, bottom_right]);
            }
            _ => return Err(Refusal::NotAllowed),
        }
        Ok(())
    }

    /// A surface of gen8's own blits, from the pixel at (`x`, `y`) on. Clipping only makes it smaller.
    fn surface(&mut self, surface: Surface, depth: Depth, rect: Rect, x: i16, y: i16) -> Result<(), Refusal> {
        let area = Area::of(rect, x, y, depth.bytes());
        if !surface.tiled {
            return self.blit_reach(surface.layout(Tiling::Linear), area);
        }
        self.effects.registers = true;
        // Eight lines of a row of X-major tiles are whole rows of Y-major ones, too, but not the other way round.
        let (x_major, y_major) = (surface.layout(Tiling::X), surface.layout(Tiling::Y));
        if self.terms.ppgtt && x_major.is_err() {
            return self.blit_reach(y_major, area);
        }
        self.blit_reach(x_major, area)?;
        self.blit_reach(y_major, area)
    }

    /// Blits have no bit that says which table: it is the context's own, if it has any.
    fn blit_reach<E>(&self, layout: Result<Layout, E>, area: Area) -> Result<(), Refusal> {
        let layout = layout.map_err(|_| Refusal::Mode)?;
        // An extent that cannot be told begins before address 0.
        let range = area.extent(layout).ok_or(Refusal::OutOfSlice { addr: 0, len: u64::MAX })?;
        self.reach(false, range.start, range.end.saturating_sub(range.start)).map(|_| ())
    }
}
