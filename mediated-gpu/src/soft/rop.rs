//! Raster operations of three operands, by their truth table.

/// One result of pattern, source and destination, bit by bit: bit `4p + 2s + d` of `code` is the answer for the bits
/// `p`, `s` and `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rop {
    code: u8,
    /// For each row of the truth table: all ones if its answer is one.
    terms: [u64; 8],
}

impl Rop {
    /// The destination becomes the source.
    pub(super) const SRCCOPY: Self = Self::new(0xcc);
    /// The destination becomes the pattern.
    pub(super) const PATCOPY: Self = Self::new(0xf0);

    pub(super) const fn new(code: u8) -> Self {
        let mut terms = [0; 8];
        let mut row = 0;
        while row < 8 {
            if code & (1 << row) != 0 {
                terms[row] = u64::MAX;
            }
            row += 1;
        }
        Self { code, terms }
    }

    /// Whether the answer depends on the pattern.
    pub(super) const fn needs_pattern(self) -> bool {
        self.code >> 4 != self.code & 0x0f
    }

    /// Whether the answer depends on the source.
    pub(super) const fn needs_source(self) -> bool {
        (self.code >> 2) & 0x33 != self.code & 0x33
    }

    fn eval(&self, p: u64, s: u64, d: u64) -> u64 {
        let t = &self.terms;
        let on_d = |i: usize| t[i] & !d | t[i + 1] & d;
        let on_s = |i: usize| on_d(i) & !s | on_d(i + 2) & s;
        on_s(0) & !p | on_s(4) & p
    }

    /// Replaces each byte of `dst` by the result, in the bits of `mask`. `pattern` and `mask` repeat every four bytes.
    /// As many bytes as the shorter slice has.
    pub(super) fn apply(&self, dst: &mut [u8], src: &[u8], pattern: [u8; 4], mask: [u8; 4]) {
        let twice = |v: [u8; 4]| u64::from_le_bytes([v[0], v[1], v[2], v[3], v[0], v[1], v[2], v[3]]);
        let (p, m) = (twice(pattern), twice(mask));
        let on = |d: [u8; 8], s: [u8; 8]| {
            let d = u64::from_le_bytes(d);
            (self.eval(p, u64::from_le_bytes(s), d) & m | d & !m).to_le_bytes()
        };
        let (dst8, dst_rest) = dst.as_chunks_mut::<8>();
        let (src8, src_rest) = src.as_chunks::<8>();
        for (d, s) in dst8.iter_mut().zip(src8) {
            *d = on(*d, *s);
        }
        let (mut d, mut s) = ([0; 8], [0; 8]);
        let n = dst_rest.len().min(src_rest.len());
        d[..n].copy_from_slice(&dst_rest[..n]);
        s[..n].copy_from_slice(&src_rest[..n]);
        dst_rest[..n].copy_from_slice(&on(d, s)[..n]);
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
            assert_eq!(r.eval(0b1111_0000, 0b1100_1100, 0b1010_1010) & 0xff, u64::from(rop), "{rop:#x}");
        }
    }

    #[test]
    fn an_operand_is_needed_if_the_answer_changes_with_it() {
        for rop in 0..=255u8 {
            let r = Rop::new(rop);
            let (s, d) = (0b1100, 0b1010);
            assert_eq!(r.needs_pattern(), r.eval(0, s, d) & 0xf != r.eval(0xf, s, d) & 0xf, "{rop:#x}");
            assert_eq!(r.needs_source(), r.eval(s, 0, d) & 0xf != r.eval(s, 0xf, d) & 0xf, "{rop:#x}");
        }
    }

    #[test]
    fn masked_bits_keep_the_destination() {
        let mut dst = [0x11, 0x22, 0x33, 0x44, 0x55];
        Rop::new(0xf0).apply(&mut dst, &[0; 5], [0xaa, 0xbb, 0xcc, 0xdd], [0xff, 0x0f, 0, 0xff]);
        assert_eq!(dst, [0xaa, 0x2b, 0x33, 0xdd, 0xaa]);
    }

    #[test]
    fn bytes_in_whole_words_and_after_them_have_the_same_answer() {
        for len in 0..30 {
            let (src, before): (Vec<u8>, Vec<u8>) =
                (0..len).map(|i: u8| (i.wrapping_mul(37), i.wrapping_mul(101))).unzip();
            let (pattern, mask) = ([1, 2, 4, 8], [0xff, 0xf0, 0x0f, 0x3c]);
            let mut dst = before.clone();
            Rop::new(0x96).apply(&mut dst, &src, pattern, mask);
            for (i, got) in dst.iter().enumerate() {
                let (p, m) = (pattern[i % 4], mask[i % 4]);
                assert_eq!(*got, (p ^ src[i] ^ before[i]) & m | before[i] & !m);
            }
        }
    }
}
