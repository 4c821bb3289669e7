//! Raster operations of three operands, by their truth table.

/// One result of pattern, source and destination, bit by bit: bit `4p + 2s + d` of `rop` is the answer for the bits
/// `p`, `s` and `d`.
pub(super) struct Rop {
    /// For each row of the truth table: all ones if its answer is one.
    terms: [u8; 8],
}

impl Rop {
    pub(super) fn new(rop: u8) -> Self {
        Self { terms: std::array::from_fn(|i| if rop & (1 << i) != 0 { 0xff } else { 0 }) }
    }

    fn eval(&self, p: u8, s: u8, d: u8) -> u8 {
        let t = &self.terms;
        let on_d = |i: usize| t[i] & !d | t[i + 1] & d;
        let on_s = |i: usize| on_d(i) & !s | on_d(i + 2) & s;
        on_s(0) & !p | on_s(4) & p
    }

    /// Replaces each byte of `dst` by the result, in the bits of `mask`. `pattern` and `mask` repeat every four bytes.
    pub(super) fn apply(&self, dst: &mut [u8], src: &[u8], pattern: [u8; 4], mask: [u8; 4]) {
        for (d4, s4) in dst.chunks_mut(4).zip(src.chunks(4)) {
            for (((d, s), p), m) in d4.iter_mut().zip(s4).zip(pattern).zip(mask) {
                *d = self.eval(p, *s, *d) & m | *d & !m;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_answers_its_truth_table() {
        for rop in 0..=255u8 {
            let r = Rop::new(rop);
            // The eight rows at once, one in each bit.
            assert_eq!(r.eval(0b1111_0000, 0b1100_1100, 0b1010_1010), rop, "{rop:#x}");
        }
    }

    #[test]
    fn masked_bits_keep_the_destination() {
        let mut dst = [0x11, 0x22, 0x33, 0x44, 0x55];
        Rop::new(0xf0).apply(&mut dst, &[0; 5], [0xaa, 0xbb, 0xcc, 0xdd], [0xff, 0x0f, 0, 0xff]);
        assert_eq!(dst, [0xaa, 0x2b, 0x33, 0xdd, 0xaa]);
    }
}
