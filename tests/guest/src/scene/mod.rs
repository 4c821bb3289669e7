//! The picture that a guest draws: a list of fills and copies, made from a seed, the domain's number and a frame number.
//!
//! [`scene()`] emits the list; the driver encodes it for the GPU, [`reference()`] carries it out pixel by pixel on
//! the CPU.
//! The same arguments give the same picture everywhere. [`FINAL`] is the frame that a run ends with.

mod font;
mod picture;
mod reference;
mod texture;

pub use crate::cmd::Rect;
pub use picture::scene;
pub use reference::reference;
pub use texture::Texture;

/// Width of the picture in pixels.
pub const WIDTH: u16 = 640;
/// Height in pixels.
pub const HEIGHT: u16 = 480;
/// Bytes from one line of a framebuffer to the next: 4 a pixel, blue in the lowest byte, the highest is 0.
pub const PITCH: u16 = WIDTH * 4;
/// Pixels of the picture.
pub const PIXELS: usize = WIDTH as usize * HEIGHT as usize;
/// Bytes of a framebuffer.
pub const FRAME_BYTES: usize = PIXELS * 4;
/// Number of the last frame of every run: its picture depends on seed and domain only.
pub const FINAL: u32 = 0;

/// Where a copy comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The picture itself; the rectangles may overlap.
    Frame,
    /// A texture.
    Texture(Texture),
}

/// One operation of the blitter. All coordinates are inside their surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blit {
    /// Fills a rectangle with a colour, 0x00RRGGBB.
    Fill {
        /// Where.
        to: Rect,
        /// The colour.
        color: u32,
    },
    /// Copies a rectangle; the result is as if the source had been read whole before the first write.
    Copy {
        /// Where to.
        to: Rect,
        /// Where from.
        from: Source,
        /// Left edge in the source.
        x: u16,
        /// Top edge in the source.
        y: u16,
    },
}

/// FNV-1a of a picture, for comparing without keeping it.
pub fn digest(pixels: &[u32]) -> u64 {
    pixels.iter().flat_map(|p| p.to_le_bytes()).fold(crate::FNV_START, crate::fnv1a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn list(seed: u64, number: u16, frame: u32) -> Vec<Blit> {
        let mut all = Vec::new();
        scene(seed, number, frame, &mut |b| all.push(b));
        all
    }

    fn picture(seed: u64, number: u16, frame: u32) -> Vec<u32> {
        let mut p = vec![0; PIXELS];
        reference(seed, number, frame, &mut p);
        p
    }

    #[test]
    fn same_arguments_give_same_picture() {
        assert_eq!(picture(1, 1, FINAL), picture(1, 1, FINAL));
    }

    #[test]
    fn seed_domain_and_frame_each_change_the_picture() {
        let base = picture(1, 1, FINAL);
        for other in [picture(2, 1, FINAL), picture(1, 2, FINAL), picture(1, 1, 5)] {
            let differing = base.iter().zip(&other).filter(|(a, b)| a != b).count();
            assert!(differing > PIXELS / 50, "only {differing} pixels differ");
        }
    }

    #[test]
    fn every_blit_stays_inside_its_surfaces() {
        for (seed, number, frame) in (0..40u16).map(|n| (u64::from(n) * 77, n * 1637, u32::from(n))) {
            for b in list(seed, number, frame) {
                let (to, source) = match b {
                    Blit::Fill { to, .. } => (to, None),
                    Blit::Copy { to, from, x, y } => (to, Some((from, x, y))),
                };
                assert!(to.x1 < to.x2 && to.x2 <= WIDTH && to.y1 < to.y2 && to.y2 <= HEIGHT, "{b:?}");
                if let Some((from, x, y)) = source {
                    let (w, h) = match from {
                        Source::Frame => (WIDTH, HEIGHT),
                        Source::Texture(t) => (t.width(), t.height()),
                    };
                    assert!(x + (to.x2 - to.x1) <= w && y + (to.y2 - to.y1) <= h, "{b:?}");
                }
            }
        }
    }

    #[test]
    fn a_scene_has_fills_texture_copies_and_overlapping_copies_in_all_directions() {
        let all = list(3, 7, 1);
        assert!(all.iter().any(|b| matches!(b, Blit::Copy { from: Source::Texture(_), .. })));
        let mut directions = [false; 4];
        for b in &all {
            if let Blit::Copy { to, from: Source::Frame, x, y } = *b {
                let (w, h) = (to.x2 - to.x1, to.y2 - to.y1);
                if x.abs_diff(to.x1) < w && y.abs_diff(to.y1) < h {
                    directions[0] |= x < to.x1;
                    directions[1] |= x > to.x1;
                    directions[2] |= y < to.y1;
                    directions[3] |= y > to.y1;
                }
            }
        }
        assert_eq!(directions, [true; 4]);
    }

    #[test]
    fn every_pixel_is_drawn() {
        let mut p = vec![0xdead_beef; PIXELS];
        reference(9, 12345, 3, &mut p);
        assert!(p.iter().all(|p| p >> 24 == 0));
    }
}
