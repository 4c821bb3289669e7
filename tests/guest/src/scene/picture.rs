//! The composition: a city at dusk by the water, its reflection made of copies, and the domain's number in the sky.

use super::{Blit, Rect, Source, Texture, WIDTH, font};
use crate::rng::{Rng, mix};
use crate::words::{lo16, lo32};

/// Where sky and water meet.
const HORIZON: u16 = 312;
/// Width of the border, and side of its ornament.
const BORDER: u16 = 16;
/// Last line of the water.
const SHORE: u16 = super::HEIGHT - BORDER;
/// First column and last (exclusive) inside the border.
const LEFT: u16 = BORDER;
const RIGHT: u16 = WIDTH - BORDER;

/// The colours of one picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    zenith: u32,
    middle: u32,
    pub(super) horizon: u32,
    sun: [u32; 2],
    hills: u32,
    pub(super) building: u32,
    pub(super) window: u32,
    pub(super) accent: u32,
    pub(super) border: u32,
    pub(super) metal: u32,
    pub(super) plaque: u32,
}

#[rustfmt::skip]
const PALETTES: [Palette; 8] = [
    Palette { zenith: 0x120a3c, middle: 0x6b1f7b, horizon: 0xff7a59, sun: [0xffe66d, 0xff3d81], hills: 0x3d1458,
        building: 0x241040, window: 0xffd166, accent: 0xff4f8b, border: 0x4a1d6a, metal: 0x9a6bff, plaque: 0x1c0b33 },
    Palette { zenith: 0x03122e, middle: 0x0f4c81, horizon: 0x9be7ff, sun: [0xffffff, 0x7fd8ff], hills: 0x0f3057,
        building: 0x0a2040, window: 0xfff3b0, accent: 0x36c9c6, border: 0x0e3a63, metal: 0x3fa7ff, plaque: 0x06182f },
    Palette { zenith: 0x0b2e1a, middle: 0x1f7a4d, horizon: 0xf4f1a1, sun: [0xfffbd1, 0xf2b134], hills: 0x14532d,
        building: 0x0c2b1c, window: 0xffe08a, accent: 0xf29f05, border: 0x17603c, metal: 0x43c59e, plaque: 0x08210f },
    Palette { zenith: 0x2b0505, middle: 0x96201a, horizon: 0xffb347, sun: [0xfff0a5, 0xff5a1f], hills: 0x4f0f12,
        building: 0x2a0a0c, window: 0xffc15e, accent: 0xffd23f, border: 0x6d1513, metal: 0xff8c42, plaque: 0x200505 },
    Palette { zenith: 0x0a0a12, middle: 0x34344a, horizon: 0xc8b6a6, sun: [0xfdf6ec, 0xb8a9c9], hills: 0x2c2c3a,
        building: 0x15151f, window: 0xf5d491, accent: 0x8d99ae, border: 0x33334a, metal: 0x8f9bb3, plaque: 0x0f0f18 },
    Palette { zenith: 0x001b2e, middle: 0x046e6f, horizon: 0xf9c6d0, sun: [0xfff1e6, 0xf28482], hills: 0x0b4f5c,
        building: 0x05303d, window: 0xffe5b4, accent: 0xf6717c, border: 0x0a5862, metal: 0x2ec4b6, plaque: 0x03222b },
    Palette { zenith: 0x1a0f00, middle: 0x8a5a00, horizon: 0xffe5a0, sun: [0xffffff, 0xffc300], hills: 0x5a3b06,
        building: 0x2f1e05, window: 0xfff1c1, accent: 0x3d7ea6, border: 0x6b4a0c, metal: 0xe0a100, plaque: 0x231602 },
    Palette { zenith: 0x05021a, middle: 0x2d1fa3, horizon: 0xff9ff3, sun: [0xf8f7ff, 0x9d7bff], hills: 0x24126a,
        building: 0x120a3a, window: 0x9dffea, accent: 0x00e5ff, border: 0x2a1a7a, metal: 0x5f7bff, plaque: 0x0c0628 },
];

impl Palette {
    /// Neighbouring domains differ for the same seed.
    pub(super) fn of(seed: u64, number: u16) -> Self {
        PALETTES[usize::from(lo16(lo32(mix(seed)).wrapping_add(u32::from(number)))) % PALETTES.len()]
    }
}

/// `num`/`den` of the way from `a` to `b`, channel by channel; `b` beyond the end.
pub(super) const fn blend(a: u32, b: u32, num: u32, den: u32) -> u32 {
    let num = if num > den { den } else { num };
    let mut out = 0;
    let mut shift = 0;
    while shift < 24 {
        let (ca, cb) = (a >> shift & 0xff, b >> shift & 0xff);
        out |= ((ca * (den - num) + cb * num) / den) << shift;
        shift += 8;
    }
    out
}

/// A smooth wave of period 256, from -128 to 127.
fn wave(phase: u32) -> i32 {
    let p = phase & 0xff;
    let half = i32::from(lo16(p & 0x7f));
    let bow = half * (128 - half) / 32;
    if p < 128 { bow.min(127) } else { -bow }
}

/// Emits the list of one frame. At most [`crate::layout::BATCH_PAGES`] pages of commands.
pub fn scene(seed: u64, number: u16, frame: u32, emit: &mut dyn FnMut(Blit)) {
    let mut painter = Painter { palette: Palette::of(seed, number), seed, number, frame, emit };
    painter.sky();
    painter.sun();
    painter.hills();
    painter.city();
    painter.number();
    painter.water();
    painter.border();
    painter.plaque();
}

struct Painter<'a> {
    palette: Palette,
    seed: u64,
    number: u16,
    frame: u32,
    emit: &'a mut dyn FnMut(Blit),
}

impl Painter<'_> {
    fn rng(&self, stream: u64) -> Rng {
        Rng::new(self.seed ^ u64::from(self.number) << 48, stream)
    }

    /// Fills, clipped to the inside of the border.
    fn fill(&mut self, x1: i32, y1: i32, x2: i32, y2: i32, color: u32) {
        let clip = |v: i32, low: u16, high: u16| {
            u16::try_from(v.clamp(i32::from(low), i32::from(high))).unwrap_or(low)
        };
        let to = Rect {
            x1: clip(x1, LEFT, RIGHT),
            y1: clip(y1, 0, SHORE),
            x2: clip(x2, LEFT, RIGHT),
            y2: clip(y2, 0, SHORE),
        };
        if to.x1 < to.x2 && to.y1 < to.y2 {
            (self.emit)(Blit::Fill { to, color });
        }
    }

    fn copy(&mut self, to: Rect, from: Source, x: u16, y: u16) {
        (self.emit)(Blit::Copy { to, from, x, y });
    }

    fn sky(&mut self) {
        const BAND: u16 = 4;
        let p = self.palette;
        let half = u32::from(HORIZON) * 3 / 5;
        for y in (0..HORIZON).step_by(usize::from(BAND)) {
            let at = u32::from(y);
            let color = if at < half {
                blend(p.zenith, p.middle, at, half)
            } else {
                blend(p.middle, p.horizon, at - half, u32::from(HORIZON) - half)
            };
            (self.emit)(Blit::Fill { to: Rect { x1: 0, y1: y, x2: WIDTH, y2: y + BAND }, color });
        }
        let mut rng = self.rng(1);
        for _ in 0..90 {
            let (x, y) = (rng.between(20, 618), rng.between(18, 170));
            let twinkle = u32::from(rng.one_in(6));
            let light = (rng.below(60) + 30 + self.frame * 7) % 90;
            let (x, y, size) = (i32::from(lo16(x)), i32::from(lo16(y)), i32::from(lo16(1 + twinkle)));
            self.fill(x, y, x + size, y + size, blend(p.middle, 0x00ff_ffff, 20 + light, 110));
        }
    }

    fn sun(&mut self) {
        let mut rng = self.rng(2);
        let p = self.palette;
        let cx = i32::from(lo16(rng.between(180, 460)));
        let radius = i32::from(lo16(rng.between(86, 112)));
        let drift = wave(self.frame.wrapping_mul(5)) / 24;
        let cy = i32::from(HORIZON) - radius / 2 - 10 + drift;
        for y in (-radius..radius).step_by(2) {
            // slits that grow towards the bottom
            let slit = (y + radius) * 8 / (2 * radius);
            if y > 0 && (y % 16) < slit * 3 / 2 {
                continue;
            }
            let half = (radius * radius - y * y).isqrt();
            let color = blend(p.sun[0], p.sun[1], (y + radius).unsigned_abs(), (2 * radius).unsigned_abs());
            self.fill(cx - half, cy + y, cx + half, (cy + y + 2).min(i32::from(HORIZON)), color);
        }
    }

    fn hills(&mut self) {
        let mut rng = self.rng(3);
        for layer in 0..2u16 {
            let (p1, p2) = (rng.below(256), rng.below(256));
            let base = blend(self.palette.hills, self.palette.horizon, 2 - u32::from(layer), 5);
            for x in (LEFT..RIGHT).step_by(8) {
                let at = u32::from(x);
                let height = 46 - i32::from(layer) * 14 + wave(at / 2 + p1) / 6 + wave(at * 2 + p2) / 14;
                let top = i32::from(HORIZON) - height.max(6);
                self.fill(i32::from(x), top, i32::from(x) + 8, i32::from(HORIZON), base);
            }
        }
    }

    fn city(&mut self) {
        let mut rng = self.rng(4);
        let mut x = LEFT;
        while x < RIGHT - 24 {
            let width = lo16(rng.between(3, 7)) * 8;
            let middle = x.abs_diff(WIDTH / 2);
            let height = lo16(rng.between(2, 14 - u32::from(middle) / 40)) * 10;
            let gap = lo16(rng.below(3)) * 4;
            let (right, top) = ((x + width).min(RIGHT), HORIZON - height);
            let to = Rect { x1: x, y1: top, x2: right, y2: HORIZON };
            let windows = 8 * lo16(rng.below(u32::from((Texture::Facade.width() - (right - x)) / 8 + 1)));
            let storeys = 10 * lo16(rng.below(u32::from((Texture::Facade.height() - height) / 10 + 1)));
            self.copy(to, Source::Texture(Texture::Facade), windows, storeys);
            let (l, r, t) = (i32::from(x), i32::from(right), i32::from(top));
            self.fill(l, t - 2, r, t, self.palette.accent);
            if rng.one_in(3) {
                let mast = (l + r) / 2;
                self.fill(mast, t - 22, mast + 2, t - 2, self.palette.building);
                let lamp =
                    if self.frame.is_multiple_of(2) { self.palette.window } else { self.palette.sun[1] };
                self.fill(mast - 1, t - 25, mast + 3, t - 21, lamp);
            }
            x = right + gap;
        }
    }

    fn number(&mut self) {
        let mut text = [0; 5];
        let digits = decimal(u64::from(self.number), &mut text);
        let count = u16::try_from(digits.len()).unwrap_or(5);
        // dots as large as five digits allow, all glyphs six dots apart
        let dot = (560 / (6 * count)).min(22);
        let left = (WIDTH - (6 * count - 1) * dot) / 2;
        let top = 40 + (154 - font::ROWS * dot) / 2;
        let dots = |f: &mut dyn FnMut(u16, u16, u16)| {
            for (place, &c) in (0u16..).zip(digits) {
                let glyph = font::index(c);
                for row in 0..font::ROWS {
                    for column in 0..font::COLUMNS {
                        if font::dot(glyph, column, row) {
                            f(left + (6 * place + column) * dot, top + row * dot, row);
                        }
                    }
                }
            }
        };
        let (shade, outline) = (blend(self.palette.zenith, 0, 2, 3), self.palette.plaque);
        let size = i32::from(dot);
        for (reach, off, color) in [(3, 6, shade), (3, 0, outline)] {
            dots(&mut |x, y, _| {
                let (x, y) = (i32::from(x) + off, i32::from(y) + off);
                self.fill(x - reach, y - reach, x + size + reach, y + size + reach, color);
            });
        }
        dots(&mut |x, y, row| {
            let to = Rect { x1: x, y1: y, x2: x + dot, y2: y + dot };
            // rows of the texture are spread over the glyph's height
            let from_y = row * (Texture::Metal.height() / font::ROWS);
            self.copy(to, Source::Texture(Texture::Metal), 0, from_y);
        });
    }

    fn water(&mut self) {
        let p = self.palette;
        // the mirror: pairs of lines, the nearer to the shore the further up they come from
        for y in (HORIZON..SHORE).step_by(2) {
            let depth = y - HORIZON;
            let to = Rect { x1: 0, y1: y, x2: WIDTH, y2: y + 2 };
            self.copy(to, Source::Frame, 0, HORIZON - 2 - depth - depth / 2);
        }
        // waves: every band is pushed aside over itself, the border hides what is left behind
        for (n, y) in (0u32..).zip((HORIZON..SHORE).step_by(4)) {
            let depth = i32::from(y - HORIZON);
            let push = wave(n * 37 + self.frame.wrapping_mul(11)) * (24 + depth) / 1700;
            let by = lo16(push.unsigned_abs()).min(BORDER - 2);
            let (x1, from) = if push > 0 { (by, 0) } else { (0, by) };
            if by > 0 {
                let to = Rect { x1, y1: y, x2: x1 + WIDTH - by, y2: y + 4 };
                self.copy(to, Source::Frame, from, y);
            }
        }
        // swell: blocks move over themselves, down and up, each by a line or two
        for (n, x) in (0u32..).zip((LEFT..RIGHT).step_by(76)) {
            let (y1, y2) = (HORIZON + 24, SHORE - 8);
            let by = 1 + lo16((n + self.frame) % 3);
            let (to_y, from_y) = if n % 2 == 0 { (y1 + by, y1) } else { (y1, y1 + by) };
            let to = Rect { x1: x, y1: to_y, x2: x + 76, y2: to_y + (y2 - y1 - by) };
            self.copy(to, Source::Frame, x, from_y);
        }
        let mut rng = self.rng(5);
        for _ in 0..70 {
            let y = rng.between(u32::from(HORIZON) + 6, u32::from(SHORE) - 4);
            let depth = y - u32::from(HORIZON);
            let length = 4 + rng.below(6 + depth / 3);
            let x = rng.between(18, 600) + wave(self.frame.wrapping_mul(9) + y).unsigned_abs() / 16;
            let (x, y) = (i32::from(lo16(x)), i32::from(lo16(y)));
            let color = blend(p.middle, p.horizon, rng.below(80) + 20, 130);
            self.fill(x, y, x + i32::from(lo16(length)), y + 1, color);
        }
        let horizon = i32::from(HORIZON);
        self.fill(0, horizon - 1, i32::from(WIDTH), horizon + 1, blend(p.horizon, 0x00ff_ffff, 1, 2));
    }

    /// One ornament, doubled along the edge by copies of the picture itself.
    fn border(&mut self) {
        let tile = Rect { x1: 0, y1: 0, x2: BORDER, y2: BORDER };
        self.copy(tile, Source::Texture(Texture::Ornament), 0, 0);
        let mut done = BORDER;
        while done < WIDTH {
            let more = done.min(WIDTH - done);
            self.copy(Rect { x1: done, y1: 0, x2: done + more, y2: BORDER }, Source::Frame, 0, 0);
            done += more;
        }
        let bottom = super::HEIGHT - BORDER;
        self.copy(Rect { x1: 0, y1: bottom, x2: WIDTH, y2: super::HEIGHT }, Source::Frame, 0, 0);
        done = BORDER;
        while done < bottom {
            let more = done.min(bottom - done);
            self.copy(Rect { x1: 0, y1: done, x2: BORDER, y2: done + more }, Source::Frame, 0, 0);
            done += more;
        }
        let right = Rect { x1: RIGHT, y1: BORDER, x2: WIDTH, y2: bottom };
        self.copy(right, Source::Frame, 0, BORDER);
    }

    /// A name plate: domain, seed, frame.
    fn plaque(&mut self) {
        let mut line = [b' '; 32];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            for &b in bytes {
                if let Some(c) = line.get_mut(at) {
                    *c = b;
                    at += 1;
                }
            }
        };
        let mut text = [0; 5];
        put(b"DOMAIN ");
        put(decimal(u64::from(self.number), &mut text));
        put(b" SEED ");
        let low = lo32(self.seed);
        for shift in (0..8).rev().map(|n| n * 4) {
            put(&[b"0123456789ABCDEF"[usize::from(lo16(low >> shift & 15))]]);
        }
        let count = u16::try_from(at).unwrap_or(32).min(32);
        let (w, h) = (Texture::CELL_WIDTH, Texture::CELL_HEIGHT);
        let x = (WIDTH - count * w) / 2;
        let y = SHORE - h - 14;
        let (l, t) = (i32::from(x), i32::from(y));
        let (r, b) = (l + i32::from(count * w), t + i32::from(h));
        self.fill(l - 12, t - 8, r + 12, b + 8, self.palette.accent);
        self.fill(l - 10, t - 6, r + 10, b + 6, self.palette.plaque);
        for (n, &c) in (0u16..).zip(line.get(..usize::from(count)).unwrap_or(&[])) {
            let to = Rect { x1: x + n * w, y1: y, x2: x + (n + 1) * w, y2: y + h };
            self.copy(to, Source::Texture(Texture::Letters), font::index(c) * w, 0);
        }
    }
}

/// The decimal digits of `v` (its last five), as characters.
fn decimal(mut v: u64, text: &mut [u8; 5]) -> &[u8] {
    let mut start = text.len();
    while start > 0 {
        start -= 1;
        text[start] = b'0' + crate::words::lo8(v % 10);
        v /= 10;
        if v == 0 {
            break;
        }
    }
    &text[start..]
}
