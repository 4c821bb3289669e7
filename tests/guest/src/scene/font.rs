//! A 5 by 7 font: digits and the capitals that the scene's plaque needs.

/// Columns of a glyph.
pub(super) const COLUMNS: u16 = 5;
/// Rows of a glyph.
pub(super) const ROWS: u16 = 7;

/// The characters that have a glyph, in the order of [`GLYPHS`].
pub(super) const CHARSET: &[u8; 26] = b"0123456789ABCDEFGIMNOSUXR ";

/// One glyph: 7 rows from the top, bit 4 is the left column.
type Glyph = [u8; 7];

#[rustfmt::skip]
const GLYPHS: [Glyph; 26] = [
    [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
    [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
    [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
    [0b01110, 0b10001, 0b00001, 0b00110, 0b00001, 0b10001, 0b01110],
    [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
    [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
    [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
    [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
    [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
    [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
    [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
    [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110],
    [0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110],
    [0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110],
    [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
    [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000],
    [0b01110, 0b10001, 0b10000, 0b10111, 0b10001, 0b10001, 0b01110],
    [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
    [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001],
    [0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001, 0b10001],
    [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
    [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110],
    [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
    [0b10001, 0b01010, 0b00100, 0b00100, 0b00100, 0b01010, 0b10001],
    [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
    [0; 7],
];

/// Index of the glyph of `c`; that of the space for characters without one.
pub(super) fn index(c: u8) -> u16 {
    let found = (0u16..).zip(CHARSET).find(|&(_, &k)| k == c);
    found.map_or(25, |(i, _)| i)
}

/// Whether glyph `index` has a dot at `column`, `row`.
pub(super) fn dot(index: u16, column: u16, row: u16) -> bool {
    let line = GLYPHS.get(usize::from(index)).and_then(|g| g.get(usize::from(row)));
    column < COLUMNS && line.is_some_and(|l| l >> (COLUMNS - 1 - column) & 1 != 0)
}
