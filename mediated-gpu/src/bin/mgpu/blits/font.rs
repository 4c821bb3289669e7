//! Letters of 3 by 5 dots, enough for labels.

/// Dots of a letter, from a line to the next.
pub(super) const WIDTH: usize = 3;
/// Lines of a letter.
pub(super) const HEIGHT: usize = 5;

/// Each letter, and its lines from the top: a digit a line, whose three bits are the dots from the left.
const LETTERS: &[(char, [u8; HEIGHT])] = &[
    ('0', [7, 5, 5, 5, 7]),
    ('1', [2, 6, 2, 2, 7]),
    ('2', [7, 1, 7, 4, 7]),
    ('3', [7, 1, 7, 1, 7]),
    ('4', [5, 5, 7, 1, 1]),
    ('5', [7, 4, 7, 1, 7]),
    ('6', [7, 4, 7, 5, 7]),
    ('7', [7, 1, 2, 2, 2]),
    ('8', [7, 5, 7, 5, 7]),
    ('9', [7, 5, 7, 1, 7]),
    ('A', [7, 5, 7, 5, 5]),
    ('B', [6, 5, 6, 5, 6]),
    ('C', [7, 4, 4, 4, 7]),
    ('D', [6, 5, 5, 5, 6]),
    ('E', [7, 4, 6, 4, 7]),
    ('F', [7, 4, 6, 4, 4]),
    ('G', [7, 4, 5, 5, 7]),
    ('H', [5, 5, 7, 5, 5]),
    ('I', [7, 2, 2, 2, 7]),
    ('K', [5, 5, 6, 5, 5]),
    ('L', [4, 4, 4, 4, 7]),
    ('M', [5, 7, 7, 5, 5]),
    ('N', [6, 5, 5, 5, 5]),
    ('O', [7, 5, 5, 5, 7]),
    ('P', [7, 5, 7, 4, 4]),
    ('R', [7, 5, 6, 5, 5]),
    ('S', [7, 4, 7, 1, 7]),
    ('T', [7, 2, 2, 2, 2]),
    ('U', [5, 5, 5, 5, 7]),
    ('V', [5, 5, 5, 5, 2]),
    ('W', [5, 5, 7, 7, 5]),
    ('X', [5, 5, 2, 5, 5]),
    ('Y', [5, 5, 2, 2, 2]),
    ('-', [0, 0, 7, 0, 0]),
    ('>', [4, 2, 1, 2, 4]),
    ('_', [0, 0, 0, 0, 7]),
];

/// Whether a letter has a dot at `x`, `y`. One that is not known has none.
pub(super) fn dot(letter: char, x: usize, y: usize) -> bool {
    let lines = LETTERS.iter().find(|(l, _)| *l == letter).map(|(_, lines)| lines);
    lines.and_then(|lines| lines.get(y)).is_some_and(|line| x < WIDTH && line >> (WIDTH - 1 - x) & 1 != 0)
}
