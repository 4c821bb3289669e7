//! A small generator of random numbers (splitmix64), the same on every platform for the same seed.

/// State of the generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for `seed`; streams of different `stream` do not resemble each other.
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub const fn below(&mut self, bound: u32) -> u32 {
        crate::words::hi32((self.next() >> 32) * (bound as u64))
    }

    /// A number in `low ..= high`; `low` when the range is empty.
    pub const fn between(&mut self, low: u32, high: u32) -> u32 {
        low.saturating_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// True once in `n` times.
    pub const fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

/// The finalizer of splitmix64: a bijection that spreads every bit.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn same_seed_and_stream_give_same_numbers() {
        let (mut a, mut b) = (Rng::new(7, 1), Rng::new(7, 1));
        assert!((0..100).all(|_| a.next() == b.next()));
    }

    #[test]
    fn another_stream_gives_other_numbers() {
        let (mut a, mut b) = (Rng::new(7, 1), Rng::new(7, 2));
        assert!((0..100).all(|_| a.next() != b.next()));
    }

    #[test]
    fn numbers_stay_inside_their_bounds() {
        let mut r = Rng::new(1, 1);
        assert!((0..1000).all(|_| r.below(10) < 10));
        assert!((0..1000).all(|_| (5..=7).contains(&r.between(5, 7))));
        assert_eq!(r.below(0), 0);
    }
}
