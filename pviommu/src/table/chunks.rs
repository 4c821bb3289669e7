//! An array that grows and never moves: chunks that are made when something in them is first needed.

use super::chunk::Chunk;
use crate::sync::OnceLock;

/// log2 of the values in a chunk: small ones at first, then such as fill huge pages.
const SMALL: u32 = 12;
const LARGE: u32 = 17;

/// Values by number, from 0.
pub(super) struct Chunks<T> {
    chunks: Vec<OnceLock<Chunk<T>>>,
    /// How many of them are small.
    smalls: usize,
}

impl<T: Default> Chunks<T> {
    /// Room for `most` values, none of which is there. A large chunk is made when there is something beyond the first
    /// 2^`in_smalls` (a multiple of a small chunk): the fewer are in small chunks, the fewer are in small pages, and the more is
    /// in stock then.
    pub(super) fn new(most: usize, in_smalls: u32) -> Self {
        let mut new = Self { chunks: Vec::new(), smalls: 1 << (in_smalls - SMALL) };
        let count = most.checked_sub(1).map_or(0, |last| new.place(last).0 + 1);
        new.chunks.resize_with(count, OnceLock::new);
        new
    }

    /// The value of a number; `None` if its chunk was never made.
    pub(super) fn get(&self, number: usize) -> Option<&T> {
        let (chunk, _, i) = self.place(number);
        self.chunks.get(chunk)?.get()?.get(i)
    }

    /// The same, the chunk made if it is not there; `None` only beyond the room.
    pub(super) fn get_or_make(&self, number: usize) -> Option<&T> {
        let (chunk, len, i) = self.place(number);
        self.chunks.get(chunk)?.get_or_init(|| Chunk::new(len)).get(i)
    }

    /// In which chunk a value is, how long that is, and where in it the value is.
    fn place(&self, number: usize) -> (usize, usize, usize) {
        match number.checked_sub(self.smalls << SMALL) {
            None => (number >> SMALL, 1 << SMALL, number % (1 << SMALL)),
            Some(above) => (self.smalls + (above >> LARGE), 1 << LARGE, above % (1 << LARGE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own_and_all_places_are_used() {
        let chunks = Chunks::<u8>::new(1 << 19, 16);
        let mut next = (0, 0);
        for number in 0..1 << 19 {
            let (chunk, len, i) = chunks.place(number);
            assert_eq!((chunk, i), next);
            next = if i + 1 == len { (chunk + 1, 0) } else { (chunk, i + 1) };
        }
        // The last chunk has room for more than was asked for.
        assert!(next == (chunks.chunks.len(), 0) || next.0 + 1 == chunks.chunks.len(), "{next:?}");
    }

    #[test]
    fn a_value_is_there_once_its_chunk_is_made_and_none_beyond_the_room() {
        let chunks = Chunks::<u8>::new(3 << 12, 13);
        assert!(chunks.get(0).is_none());
        assert!(chunks.get_or_make(4095).is_some() && chunks.get(0).is_some());
        assert!(chunks.get(4096).is_none());
        assert!(chunks.get_or_make(8192).is_some() && chunks.get((3 << 12) - 1).is_some());
        assert!(chunks.get_or_make(8192 + (1 << 17)).is_none());
        assert!(Chunks::<u8>::new(0, 12).get_or_make(0).is_none());
    }
}
