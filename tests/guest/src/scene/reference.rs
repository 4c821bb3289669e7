//! The list carried out on the CPU, one pixel after another, as plainly as can be: what the GPU's picture is held to.

use super::{Blit, PIXELS, Rect, Source, WIDTH, scene};

/// Draws `scene(seed, number, frame)` into `pixels` (line after line without padding, at least [`PIXELS`] long; less
/// is left as it is).
pub fn reference(seed: u64, number: u16, frame: u32, pixels: &mut [u32]) {
    if pixels.len() < PIXELS {
        return;
    }
    scene(seed, number, frame, &mut |blit| match blit {
        Blit::Fill { to, color } => fill(pixels, to, color),
        Blit::Copy { to, from: Source::Frame, x, y } => copy_within(pixels, to, x, y),
        Blit::Copy { to, from: Source::Texture(t), x, y } => {
            each(to, |dx, dy| pixels[at(to.x1 + dx, to.y1 + dy)] = t.pixel(seed, number, x + dx, y + dy));
        }
    });
}

fn at(x: u16, y: u16) -> usize {
    usize::from(y) * usize::from(WIDTH) + usize::from(x)
}

fn each(to: Rect, mut f: impl FnMut(u16, u16)) {
    for dy in 0..to.y2 - to.y1 {
        for dx in 0..to.x2 - to.x1 {
            f(dx, dy);
        }
    }
}

fn fill(pixels: &mut [u32], to: Rect, color: u32) {
    each(to, |dx, dy| pixels[at(to.x1 + dx, to.y1 + dy)] = color);
}

/// Starts at the corner from which nothing is overwritten before it was read.
fn copy_within(pixels: &mut [u32], to: Rect, x: u16, y: u16) {
    let (w, h) = (to.x2 - to.x1 - 1, to.y2 - to.y1 - 1);
    each(to, |dx, dy| {
        let dx = if x < to.x1 { w - dx } else { dx };
        let dy = if y < to.y1 { h - dy } else { dy };
        pixels[at(to.x1 + dx, to.y1 + dy)] = pixels[at(x + dx, y + dy)];
    });
}
