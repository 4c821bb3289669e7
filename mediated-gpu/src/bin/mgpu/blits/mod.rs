//! `mgpu blits`: a contact sheet of what the software GPU's blitter does, a picture for each case.
//!
//! Each case has surfaces of its own, drawn by the GPU, read back through their tilings. The same program gives the same
//! sheet; `docs/blits.png` is one, and a test holds it up to date.

mod cases;
mod font;

use std::process::ExitCode;

use mediated_gpu::gen8::tiling::Layout;
use mediated_gpu::soft::rig::Rig;

use crate::cli::Blits;
use crate::{Error, picture};

/// Pixels of a case's picture, both ways.
pub(super) const SIDE: usize = 96;
/// Cases in a row.
const COLUMNS: usize = 9;
/// Between pictures, and below them for the label.
const GAP: usize = 8;
const LABEL: usize = 16;
/// Size of a label's dots.
const DOT: usize = 2;

/// A picture, `0x00rrggbb` a pixel.
pub(super) type Picture = Vec<u32>;

/// A case: what its label says, and what it looks like.
pub(super) struct Case {
    label: String,
    picture: Picture,
}

/// A row of cases under a headline.
pub(super) struct Row {
    headline: &'static str,
    cases: Vec<Case>,
}

/// The whole sheet.
#[derive(Debug, PartialEq, Eq)]
struct Sheet {
    width: usize,
    height: usize,
    pixels: Picture,
}

impl Sheet {
    fn new(rows: &[Row]) -> Self {
        let (cell, line) = (SIDE + GAP, LABEL + SIDE + LABEL + GAP);
        let (width, height) = (COLUMNS * cell + GAP, rows.len() * line + GAP);
        let mut this = Self { width, height, pixels: vec![0x00ff_ffff; width * height] };
        for (n, row) in rows.iter().enumerate() {
            let top = GAP + n * line;
            this.write(GAP, top, row.headline, 0x0000_4080);
            for (i, case) in row.cases.iter().enumerate() {
                let left = GAP + i * cell;
                for (y, pixels) in case.picture.chunks(SIDE).enumerate() {
                    let at = (top + LABEL + y) * width + left;
                    this.pixels[at..at + pixels.len()].copy_from_slice(pixels);
                }
                this.write(left, top + LABEL + SIDE + 3, &case.label, 0x0020_2020);
            }
        }
        this
    }

    fn write(&mut self, left: usize, top: usize, text: &str, color: u32) {
        for (n, letter) in text.chars().enumerate() {
            for y in 0..font::HEIGHT * DOT {
                for x in 0..font::WIDTH * DOT {
                    let at = (top + y) * self.width + left + n * (font::WIDTH + 1) * DOT + x;
                    if font::dot(letter, x / DOT, y / DOT)
                        && let Some(pixel) = self.pixels.get_mut(at)
                    {
                        *pixel = color;
                    }
                }
            }
        }
    }
}

/// Reads the bytes of a surface's lines.
pub(super) fn read(rig: &Rig, layout: Layout, width: usize, lines: usize) -> Vec<u8> {
    let mut all = vec![0; width * lines];
    for (y, line) in (0i64..).zip(all.chunks_mut(width)) {
        for (x, byte) in (0i64..).zip(line) {
            rig.read(layout.address(x, y).cast_unsigned(), std::slice::from_mut(byte));
        }
    }
    all
}

/// Writes the bytes of a surface's lines.
pub(super) fn write(rig: &Rig, layout: Layout, width: usize, bytes: &[u8]) {
    for (y, line) in (0i64..).zip(bytes.chunks(width)) {
        for (x, byte) in (0i64..).zip(line) {
            rig.write(layout.address(x, y).cast_unsigned(), std::slice::from_ref(byte));
        }
    }
}

fn sheet() -> Result<Sheet, Error> {
    Ok(Sheet::new(&cases::all()?))
}

/// Draws the sheet.
pub(crate) fn run(args: &Blits) -> Result<ExitCode, Error> {
    let sheet = sheet()?;
    let size = |n: usize| u32::try_from(n).map_err(|e| e.to_string());
    picture::write(&args.out, size(sheet.width)?, size(sheet.height)?, &sheet.pixels)?;
    println!("{}: {} by {} pixels", args.out.display(), sheet.width, sheet.height);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_sheet_in_the_docs_is_what_the_gpu_draws() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/blits.png");
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
        let pixels =
            rgb.as_chunks::<3>().0.iter().map(|&[r, g, b]| u32::from_be_bytes([0, r, g, b])).collect();
        let docs = Sheet { width: info.width as usize, height: info.height as usize, pixels };
        let drawn = sheet().unwrap();
        assert_eq!((docs.width, docs.height), (drawn.width, drawn.height));
        assert!(docs == drawn, "draw it again: cargo run --bin mgpu -- blits --out docs/blits.png");
    }
}
