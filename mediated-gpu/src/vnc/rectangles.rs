//! Which parts of a picture are sent, and their bytes.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::message::{RAW, ZRLE};
use super::pixels::{Picture, PixelFormat};

/// Pixels of a tile, each way: what ZRLE has.
pub(crate) const TILE: u16 = 64;

/// Part of a picture: x, y, width, height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) x: u16,
    pub(crate) y: u16,
    pub(crate) width: u16,
    pub(crate) height: u16,
}

impl Part {
    /// The whole of a picture of this size, tile by tile, line by line.
    pub(crate) fn tiles(width: u16, height: u16) -> impl Iterator<Item = Self> {
        let along =
            |whole: u16| (0..whole).step_by(usize::from(TILE)).map(move |at| (at, TILE.min(whole - at)));
        along(height)
            .flat_map(move |(y, height)| along(width).map(move |(x, width)| Self { x, y, width, height }))
    }

    /// Whether they have a pixel in common.
    pub(crate) fn meets(self, other: Self) -> bool {
        let apart = |a: u16, wide: u16, b: u16| u32::from(a) + u32::from(wide) <= u32::from(b);
        !(apart(self.x, self.width, other.x)
            || apart(other.x, other.width, self.x)
            || apart(self.y, self.height, other.y)
            || apart(other.y, other.height, self.y))
    }

    /// The lines of a picture within it.
    pub(crate) fn lines(self, picture: &Picture) -> impl Iterator<Item = &[[u8; 4]]> {
        (self.y..self.y.saturating_add(self.height)).map(move |y| picture.line(self.x, self.width, y))
    }

    /// Whether two pictures are the same within it.
    pub(crate) fn same(self, a: &Picture, b: &Picture) -> bool {
        self.lines(a).eq(self.lines(b))
    }

    /// Copies it from one picture to another.
    pub(crate) fn copy(self, from: &Picture, to: &mut Picture) {
        for y in self.y..self.y.saturating_add(self.height) {
            let line = from.line(self.x, self.width, y);
            let to = to.line_mut(self.x, self.width, y);
            if to.len() == line.len() {
                to.copy_from_slice(line);
            }
        }
    }
}

/// A client's way of having pictures sent.
pub(crate) struct Encoder {
    pub(crate) format: PixelFormat,
    /// ZRLE's stream goes on from one rectangle to the next.
    zlib: Compress,
    /// The client knows ZRLE.
    pub(crate) zrle: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { format: PixelFormat::BGRX, zlib: Compress::new(Compression::fast(), true), zrle: false }
    }
}

/// Appends a rectangle's header.
pub(crate) fn header(part: Part, encoding: i32, out: &mut Vec<u8>) {
    for number in [part.x, part.y, part.width, part.height] {
        out.extend(number.to_be_bytes());
    }
    out.extend(encoding.to_be_bytes());
}

impl Encoder {
    /// Appends a tile of a picture.
    pub(crate) fn tile(&mut self, picture: &Picture, part: Part, out: &mut Vec<u8>) {
        if !self.zrle {
            header(part, RAW, out);
            part.lines(picture).for_each(|line| self.format.put(line, out));
            return;
        }
        header(part, ZRLE, out);
        let mut plain = Vec::new();
        self.zrle_tile(picture, part, &mut plain);
        let length_at = out.len();
        out.extend([0; 4]);
        self.deflate(&plain, out);
        let length = u32::try_from(out.len() - length_at - 4).unwrap_or(0);
        if let Some(slot) = out.get_mut(length_at..length_at + 4) {
            slot.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// One colour, up to sixteen by their numbers, or all pixels.
    fn zrle_tile(&self, picture: &Picture, part: Part, out: &mut Vec<u8>) {
        let mut palette: Vec<[u8; 4]> = Vec::new();
        'all: for line in part.lines(picture) {
            for pixel in line {
                if !palette.contains(pixel) {
                    palette.push(*pixel);
                    if palette.len() > 16 {
                        break 'all;
                    }
                }
            }
        }
        let bits = match palette.len() {
            0 | 1 => {
                out.push(1);
                self.format.put_compact(&palette, out);
                return;
            }
            2 => 1,
            3..=4 => 2,
            5..=16 => 4,
            _ => {
                out.push(0);
                part.lines(picture).for_each(|line| self.format.put_compact(line, out));
                return;
            }
        };
        out.push(u8::try_from(palette.len()).unwrap_or(16));
        self.format.put_compact(&palette, out);
        for line in part.lines(picture) {
            // Each line begins with a byte, the first pixel in its upper bits.
            for pixels in line.chunks(8 / bits) {
                let number = |p: &[u8; 4]| palette.iter().position(|q| q == p).unwrap_or(0);
                let packed = pixels.iter().fold(0usize, |byte, p| byte << bits | number(p));
                let packed = packed << (bits * (8 / bits - pixels.len()));
                out.push(u8::try_from(packed).unwrap_or(0));
            }
        }
    }

    /// Appends all that the stream has after `plain`.
    fn deflate(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let mut rest = plain;
        loop {
            out.reserve(rest.len() + 1024);
            let before = self.zlib.total_in();
            let status = self.zlib.compress_vec(rest, out, FlushCompress::Sync);
            let taken = usize::try_from(self.zlib.total_in() - before).unwrap_or(rest.len());
            rest = rest.get(taken..).unwrap_or(&[]);
            // With room left after a flush there is nothing more to come.
            let done = rest.is_empty() && out.len() < out.capacity();
            if done || !matches!(status, Ok(Status::Ok)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_picture_once() {
        for (width, height) in [(1, 1), (64, 64), (65, 130), (200, 63)] {
            let mut seen = Picture::black(width, height);
            let mut pixels = 0;
            for part in Part::tiles(width, height) {
                for y in part.y..part.y + part.height {
                    for pixel in seen.line_mut(part.x, part.width, y) {
                        pixel[0] += 1;
                        pixels += 1;
                    }
                }
            }
            assert_eq!(pixels, u32::from(width) * u32::from(height));
            assert!((0..height).all(|y| seen.line(0, width, y).iter().all(|p| p[0] == 1)));
        }
    }
}
