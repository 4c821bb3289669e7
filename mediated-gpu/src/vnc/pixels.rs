//! Pixel formats: what a client asks for, and pictures in it.

use super::Gone;

/// A pixel, as a client wants it: true colour, of 8, 16 or 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PixelFormat {
    /// Bytes of a pixel: 1, 2 or 4.
    bytes: usize,
    depth: u8,
    big_endian: bool,
    /// Red, green, blue: the most that each can be, and where it lies.
    channels: [(u16, u8); 3],
}

impl PixelFormat {
    /// Blue, green, red, unused: what a server offers, and what pictures are in.
    pub(crate) const BGRX: Self =
        Self { bytes: 4, depth: 24, big_endian: false, channels: [(255, 16), (255, 8), (255, 0)] };

    /// Reads the sixteen bytes of a format.
    pub(crate) fn of(raw: [u8; 16]) -> Result<Self, Gone> {
        let [bits, depth, big_endian, true_colour, r1, r0, g1, g0, b1, b0, r, g, b, ..] = raw;
        let max = |high, low| u16::from_be_bytes([high, low]);
        let channels = [(max(r1, r0), r), (max(g1, g0), g), (max(b1, b0), b)];
        let fits =
            |(most, shift): &(u16, u8)| u32::from(*shift) + (16 - most.leading_zeros()) <= u32::from(bits);
        let good = matches!(bits, 8 | 16 | 32) && depth <= bits && true_colour != 0;
        if !good || !channels.iter().all(fits) {
            return Err(Gone::Format);
        }
        Ok(Self { bytes: usize::from(bits / 8), depth, big_endian: big_endian != 0, channels })
    }

    /// Its sixteen bytes.
    pub(crate) fn raw(self) -> [u8; 16] {
        let [(red, r), (green, g), (blue, b)] = self.channels;
        let ([r1, r0], [g1, g0], [b1, b0]) = (red.to_be_bytes(), green.to_be_bytes(), blue.to_be_bytes());
        let bits = u8::try_from(8 * self.bytes).unwrap_or(32);
        let order = u8::from(self.big_endian);
        [bits, self.depth, order, 1, r1, r0, g1, g0, b1, b0, r, g, b, 0, 0, 0]
    }

    /// A pixel (blue, green, red, unused) as a number.
    fn value(self, [blue, green, red, _]: [u8; 4]) -> u32 {
        let of = |channel: u8, (most, shift): (u16, u8)| {
            ((u32::from(channel) * u32::from(most) + 127) / 255) << shift
        };
        let [r, g, b] = self.channels;
        of(red, r) | of(green, g) | of(blue, b)
    }

    /// Appends pixels.
    pub(crate) fn put(self, pixels: &[[u8; 4]], out: &mut Vec<u8>) {
        if self == Self::BGRX {
            out.extend_from_slice(pixels.as_flattened());
            return;
        }
        for pixel in pixels {
            self.put_bytes(*pixel, 0..self.bytes, out);
        }
    }

    /// The bytes of a little-endian pixel that ZRLE sends: three, if those hold all colours.
    fn compact(self) -> std::ops::Range<usize> {
        let all = self.channels.iter().fold(0, |all, (most, shift)| all | u32::from(*most) << shift);
        match self.bytes {
            4 if self.depth <= 24 && all & 0xff00_0000 == 0 => 0..3,
            4 if self.depth <= 24 && all & 0xff == 0 => 1..4,
            n => 0..n,
        }
    }

    /// Appends pixels as ZRLE has them.
    pub(crate) fn put_compact(self, pixels: &[[u8; 4]], out: &mut Vec<u8>) {
        let bytes = self.compact();
        for pixel in pixels {
            self.put_bytes(*pixel, bytes.clone(), out);
        }
    }

    fn put_bytes(self, pixel: [u8; 4], bytes: std::ops::Range<usize>, out: &mut Vec<u8>) {
        let value = self.value(pixel).to_le_bytes();
        let bytes = value.get(bytes).unwrap_or(&[]);
        if self.big_endian {
            out.extend(bytes.iter().rev());
        } else {
            out.extend_from_slice(bytes);
        }
    }
}

/// A picture of so many pixels each way, each blue, green, red, unused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: u16,
    pub(crate) height: u16,
    pixels: Vec<[u8; 4]>,
}

impl Picture {
    /// Black.
    pub(crate) fn black(width: u16, height: u16) -> Self {
        Self { width, height, pixels: vec![[0; 4]; usize::from(width) * usize::from(height)] }
    }

    /// Of pixels line after line; those that are missing are black. The unused byte does not count.
    pub(crate) fn new(width: u16, height: u16, bgrx: &[u8]) -> Self {
        let mut pixels: Vec<_> = bgrx.as_chunks::<4>().0.iter().map(|&[b, g, r, _]| [b, g, r, 0]).collect();
        pixels.resize(usize::from(width) * usize::from(height), [0; 4]);
        Self { width, height, pixels }
    }

    /// So much of it, black where it has nothing.
    pub(crate) fn cut(self, width: u16, height: u16) -> Self {
        if (self.width, self.height) == (width, height) {
            return self;
        }
        let mut cut = Self::black(width, height);
        for y in 0..height.min(self.height) {
            let wide = width.min(self.width);
            let line = self.line(0, wide, y);
            cut.line_mut(0, wide, y).copy_from_slice(line);
        }
        cut
    }

    fn range(&self, x: u16, width: u16, y: u16) -> std::ops::Range<usize> {
        let start = usize::from(y) * usize::from(self.width) + usize::from(x);
        start..start + usize::from(width)
    }

    /// `width` pixels of line `y`, from `x` on. Nothing if they are not all there.
    pub(crate) fn line(&self, x: u16, width: u16, y: u16) -> &[[u8; 4]] {
        self.pixels.get(self.range(x, width, y)).unwrap_or(&[])
    }

    pub(crate) fn line_mut(&mut self, x: u16, width: u16, y: u16) -> &mut [[u8; 4]] {
        let range = self.range(x, width, y);
        self.pixels.get_mut(range).unwrap_or(&mut [])
    }
}
