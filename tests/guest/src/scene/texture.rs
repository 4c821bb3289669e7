//! The pictures that the CPU uploads: facade, ornament, metal, and the plaque's letters.

use super::font;
use super::picture::{Palette, blend};
use crate::rng::mix;
use crate::words::lo32;

/// A texture: 32 bits a pixel, linear, lines without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Texture {
    /// Windows of a building, some of them lit.
    Facade = 0,
    /// The frame's ornament.
    Ornament = 1,
    /// What the domain's number is made of.
    Metal = 2,
    /// Letters, one a cell.
    Letters = 3,
}

impl Texture {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Facade, Self::Ornament, Self::Metal, Self::Letters];
    /// Width of the widest, in pixels.
    pub const MAX_WIDTH: u16 = 384;
    /// Width of a letter's cell in pixels.
    pub(super) const CELL_WIDTH: u16 = 12;
    /// Height of a letter's cell in pixels.
    pub(super) const CELL_HEIGHT: u16 = 16;

    /// Width in pixels.
    pub const fn width(self) -> u16 {
        match self {
            Self::Facade => 64,
            Self::Ornament => 16,
            Self::Metal => 32,
            Self::Letters => Self::MAX_WIDTH,
        }
    }

    /// Height in pixels.
    pub const fn height(self) -> u16 {
        match self {
            Self::Facade => 160,
            Self::Ornament | Self::Letters => 16,
            Self::Metal => 224,
        }
    }

    /// Bytes from one line to the next.
    pub const fn pitch(self) -> u16 {
        self.width() * 4
    }

    /// Bytes.
    pub const fn bytes(self) -> u32 {
        self.pitch() as u32 * self.height() as u32
    }

    /// The pixel at (`x`, `y`).
    pub fn pixel(self, seed: u64, number: u16, x: u16, y: u16) -> u32 {
        let p = Palette::of(seed, number);
        match self {
            Self::Facade => facade(&p, seed ^ u64::from(number), x, y),
            Self::Ornament => ornament(&p, x, y),
            Self::Metal => metal(&p, x, y),
            Self::Letters => letters(&p, x, y),
        }
    }
}

fn facade(p: &Palette, salt: u64, x: u16, y: u16) -> u32 {
    let wall = blend(p.building, 0, u32::from(y), 320);
    // windows of 4 by 5 in a grid of 8 by 10; the storey's line is a little lighter
    if y % 10 == 9 {
        return blend(wall, p.horizon, 1, 8);
    }
    if !(2..6).contains(&(x % 8)) || !(2..7).contains(&(y % 10)) {
        return wall;
    }
    let dice = lo32(mix(salt ^ u64::from(x / 8) << 32 ^ u64::from(y / 10) << 40)) % 100;
    match dice {
        0..=24 => blend(p.window, 0x00ff_ffff, dice, 60),
        25..=34 => blend(p.window, wall, 1, 2),
        _ => blend(wall, 0, 1, 2),
    }
}

fn ornament(p: &Palette, x: u16, y: u16) -> u32 {
    // a diamond in a bevelled tile
    let edge = x.min(y).min(15 - x).min(15 - y);
    let diamond = x.abs_diff(7).min(x.abs_diff(8)) + y.abs_diff(7).min(y.abs_diff(8));
    match (edge, diamond) {
        (0, _) => blend(p.border, 0, 2, 3),
        (_, 0..=1) => p.window,
        (_, 2..=4) => p.accent,
        (_, 5) => blend(p.accent, 0, 1, 2),
        (1, _) if x + y < 16 => blend(p.border, 0x00ff_ffff, 1, 3),
        _ => blend(p.border, 0, u32::from(x + y), 64),
    }
}

fn metal(p: &Palette, x: u16, y: u16) -> u32 {
    // a horizon in chrome: bright sky above, a dark line, ground below
    let (y, half) = (u32::from(y), 112);
    let base = if y < half {
        blend(0x00ff_ffff, p.metal, y, half)
    } else {
        blend(blend(p.metal, 0, 1, 2), 0x00ff_fff0, y - half, half)
    };
    let glint = u32::from(x % 32).abs_diff(15 - y % 16) < 2;
    if glint { blend(base, 0x00ff_ffff, 1, 6) } else { base }
}

fn letters(p: &Palette, x: u16, y: u16) -> u32 {
    let (cell, inside) = (x / Texture::CELL_WIDTH, x % Texture::CELL_WIDTH);
    let lit = |x: u16, y: u16| {
        inside >= 1 && y >= 1 && font::dot(cell, (x.saturating_sub(1)) / 2, (y.saturating_sub(1)) / 2)
    };
    if lit(inside, y) && inside >= 1 {
        blend(0x00ff_ffff, p.window, u32::from(y), 16)
    } else if inside >= 2 && y >= 2 && lit(inside - 1, y - 1) {
        0
    } else {
        p.plaque
    }
}
