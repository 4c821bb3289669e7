//! Reads a text console off a picture of it, without its font.
//!
//! A cell of 8 by 16 pixels is black where there is no character and has one colour where there is one; the same character looks
//! the same everywhere, and different characters look different. So the text that is there is told from every other one of
//! other length, other spaces or other repetitions of characters, and from every drawing mistake within a cell.

use std::collections::BTreeMap;
use std::io::Cursor;

/// Pixels of a character.
const CELL: (usize, usize) = (8, 16);
const BLACK: [u8; 3] = [0; 3];

/// A picture, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    width: usize,
    pixels: Vec<[u8; 3]>,
}

/// A line of text and its colour.
pub(crate) type Line<'a> = (&'a str, [u8; 3]);

impl Picture {
    /// From a PNG of 8-bit RGB.
    pub(crate) fn from_png(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().map_err(|e| e.to_string())?;
        let mut data = vec![0; reader.output_buffer_size().ok_or("it is too large")?];
        let info = reader.next_frame(&mut data).map_err(|e| e.to_string())?;
        if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
            return Err(format!("{:?} of {:?}", info.color_type, info.bit_depth));
        }
        let width = usize::try_from(info.width).map_err(|e| e.to_string())?;
        let pixels = data.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect();
        Ok(Self { width, pixels })
    }

    /// Width and height in pixels.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.width, self.pixels.len().checked_div(self.width).unwrap_or(0))
    }

    /// The pixels, line by line.
    pub(crate) fn pixels(&self) -> &[[u8; 3]] {
        &self.pixels
    }

    /// Which pixels of a cell are not black, and their colour: black if there are none.
    fn cell(&self, column: usize, row: usize) -> Result<(Vec<bool>, [u8; 3]), String> {
        let lines = (row * CELL.1..(row + 1) * CELL.1).map(|y| y * self.width + column * CELL.0);
        let pixels = lines.flat_map(|at| self.pixels.iter().skip(at).take(CELL.0)).copied();
        let pixels: Vec<[u8; 3]> = pixels.collect();
        let mut lit = pixels.iter().filter(|p| **p != BLACK);
        let colour = lit.next().copied().unwrap_or(BLACK);
        if lit.any(|p| *p != colour) {
            return Err(format!("line {row}, column {column}: more than one colour"));
        }
        Ok((pixels.iter().map(|p| *p != BLACK).collect(), colour))
    }

    /// Whether these lines stand there from the top on, and nothing else; if not, where it first differs.
    pub(crate) fn shows(&self, lines: &[Line<'_>]) -> Result<(), String> {
        let (width, height) = self.size();
        let mut glyphs: BTreeMap<char, Vec<bool>> = BTreeMap::new();
        for row in 0..height / CELL.1 {
            let (text, wanted) = lines.get(row).copied().unwrap_or(("", BLACK));
            let mut text = text.chars();
            for column in 0..width / CELL.0 {
                let place = format!("line {row}, column {column}");
                let (glyph, colour) = self.cell(column, row)?;
                let character = text.next().unwrap_or(' ');
                match (character, colour) {
                    (' ', BLACK) => continue,
                    (' ', _) => return Err(format!("{place}: something is there")),
                    (_, BLACK) => return Err(format!("{place}: no {character:?}")),
                    (_, other) if other != wanted => return Err(format!("{place}: colour {other:?}")),
                    _ => {}
                }
                let known = glyphs.entry(character).or_insert_with(|| glyph.clone());
                if *known != glyph {
                    return Err(format!("{place}: {character:?} looks otherwise elsewhere"));
                }
            }
            if text.next().is_some() {
                return Err(format!("line {row} does not fit"));
            }
        }
        if lines.len() > height / CELL.1 {
            return Err("the lines do not fit".into());
        }
        let below = height / CELL.1 * CELL.1 * width;
        if self.pixels.iter().skip(below).any(|p| *p != BLACK) {
            return Err("something is below the last line".into());
        }
        let mut looks: Vec<_> = glyphs.iter().map(|(c, glyph)| (glyph, c)).collect();
        looks.sort();
        match looks.windows(2).find(|two| two[0].0 == two[1].0) {
            Some(two) => Err(format!("{:?} and {:?} look the same", two[0].1, two[1].1)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: [u8; 3] = [0xaa; 3];
    const RED: [u8; 3] = [0xaa, 0, 0];
    const TEXT: &[Line<'_>] = &[("to be or", GREY), ("", BLACK), ("not", RED)];

    /// Draws with a font whose characters are the bits of their numbers.
    fn drawn(lines: &[Line<'_>]) -> Picture {
        let mut picture = Picture { width: 83, pixels: vec![BLACK; 83 * 55] };
        for (row, (text, colour)) in lines.iter().enumerate() {
            for (column, character) in text.chars().enumerate().filter(|(_, c)| *c != ' ') {
                for bit in (0..32).filter(|bit| u32::from(character) >> bit & 1 != 0) {
                    picture.pixels[(row * 16 + bit / 4) * 83 + column * 8 + bit % 4 * 2] = *colour;
                }
            }
        }
        picture
    }

    #[test]
    fn a_text_is_read_off_its_picture_and_no_other_is() {
        assert_eq!(drawn(TEXT).shows(TEXT), Ok(()));
        for (other, why) in [
            (&[("to be or", GREY), ("", BLACK), ("nut", RED)][..], "'o' looks otherwise"),
            (&[("to be or", GREY), ("", BLACK), ("no", RED)], "no 't'"),
            (&[("to be or", GREY), ("", BLACK), ("not", GREY)], "colour"),
            (&[("to be  r", GREY), ("", BLACK), ("not", RED)], "no 'o'"),
            (&[("to be or", GREY), ("!", GREY), ("not", RED)], "something is there"),
        ] {
            let said = drawn(other).shows(TEXT).unwrap_err();
            // 'o' is known from the first line, so a 'u' in its place is seen.
            assert!(said.contains(why), "{said}, not {why}");
        }
    }

    #[test]
    fn a_pixel_that_does_not_belong_is_found_wherever_it_is() {
        for (x, y, why) in [(0, 54, "below"), (79, 40, "there"), (1, 1, "otherwise"), (9, 33, "otherwise")] {
            let mut picture = drawn(TEXT);
            let at = y * 83 + x;
            picture.pixels[at] = if y == 33 { RED } else { GREY };
            let said = picture.shows(TEXT).unwrap_err();
            assert!(said.contains(why), "{x},{y}: {said}, not {why}");
        }
        let mut two = drawn(TEXT);
        two.pixels[33 * 83 + 1] = GREY;
        assert!(two.shows(TEXT).unwrap_err().contains("more than one colour"));
    }

    #[test]
    fn lines_that_do_not_fit_are_no_match() {
        assert!(drawn(&[]).shows(&[("12345678901", GREY)]).is_err());
        assert!(drawn(&[]).shows(&[("", GREY); 4]).is_err());
        assert_eq!(drawn(&[]).size(), (83, 55));
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        assert!(Picture::from_png(b"GIF89a").is_err());
        assert!(Picture::from_png(&[]).is_err());
    }
}
