//! A set of small numbers in which the lowest member is found in a handful of steps, however large the set.
//!
//! A tree of 64-ary words: a bit of level n+1 says that a word of level n is not zero. The words are zeroed memory
//! that the system hands out when it is first touched, so a large and empty set costs nothing.

pub(super) struct Bits {
    levels: Vec<Vec<u64>>,
}

impl Bits {
    /// An empty set of numbers below `len`.
    pub(super) fn new(len: usize) -> Self {
        let mut levels = Vec::new();
        let mut words = len.div_ceil(64).max(1);
        loop {
            levels.push(vec![0u64; words]);
            if words == 1 {
                return Self { levels };
            }
            words = words.div_ceil(64);
        }
    }

    /// Whether `i` is a member; numbers beyond the end are not.
    pub(super) fn contains(&self, i: usize) -> bool {
        self.levels.first().and_then(|l| l.get(i / 64)).is_some_and(|w| w & (1 << (i % 64)) != 0)
    }

    /// Adds `i`, which must be below the length.
    pub(super) fn insert(&mut self, mut i: usize) {
        for level in &mut self.levels {
            let Some(word) = level.get_mut(i / 64) else { return };
            let before = *word;
            *word |= 1 << (i % 64);
            if before != 0 {
                return;
            }
            i /= 64;
        }
    }

    /// Removes `i`, if it is there.
    pub(super) fn remove(&mut self, mut i: usize) {
        for level in &mut self.levels {
            let Some(word) = level.get_mut(i / 64) else { return };
            *word &= !(1 << (i % 64));
            if *word != 0 {
                return;
            }
            i /= 64;
        }
    }

    /// The lowest member.
    pub(super) fn first(&self) -> Option<usize> {
        let mut i = 0;
        for level in self.levels.iter().rev() {
            let word = *level.get(i)?;
            if word == 0 {
                return None;
            }
            i = i * 64 + word.trailing_zeros() as usize;
        }
        Some(i)
    }

    /// Whether there is no member.
    pub(super) fn is_empty(&self) -> bool {
        self.levels.last().and_then(|l| l.first()).is_none_or(|w| *w == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_of_bits_is_a_set(len in 1usize..300_000, ops in prop::collection::vec((any::<bool>(), any::<usize>()), 1..300)) {
            let mut bits = Bits::new(len);
            let mut naive = BTreeSet::new();
            for (add, i) in ops {
                let i = i % len;
                if add { bits.insert(i); naive.insert(i); } else { bits.remove(i); naive.remove(&i); }
                prop_assert_eq!(bits.first(), naive.first().copied());
                prop_assert_eq!(bits.contains(i), naive.contains(&i));
                prop_assert_eq!(bits.is_empty(), naive.is_empty());
            }
        }
    }
}
