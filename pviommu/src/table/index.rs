//! Hash indices over the records: 4 bytes an entry and a byte of its hash, since the keys lie in the records.
//!
//! Twelve entries share a cache line, so that a lookup costs one line here and one for the record, and both can be
//! fetched ahead. Sharded: a lookup shares a read lock with those of the same shard only.

use super::chunk::Chunk;
use super::prefetch::prefetch;
use super::records::{Record, Records, Slot};
use crate::sync::RwLock;

/// Few, so that the buckets of many entries fill huge pages.
const SHARDS: usize = 4;
/// Entries of a bucket.
const WIDTH: usize = 12;
/// Entries a bucket on average, at most: one in five buckets overflows into the next then.
const FILL: usize = 10;

/// Records that are fetched ahead while a shard grows.
const AHEAD: usize = 32;

/// By what an index finds mappings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    Gfn,
    Bfn,
}

impl Key {
    /// Of one; `None` only for a number that was never in use.
    fn of(self, records: &Records, slot: Slot) -> Option<u64> {
        match self {
            Self::Gfn => records.get(slot).map(|r| r.gfn().0),
            Self::Bfn => records.bfn(slot).map(|bfn| bfn.0),
        }
    }
}

/// An index by guest frame or by bus frame.
pub(crate) struct Index {
    shards: Vec<RwLock<Shard>>,
    key: Key,
    /// Makes the places of keys unknown to those who choose keys.
    secret: u64,
}

/// Buckets, a power of two of them, or none yet. An entry that finds its bucket full goes into the next that is not.
#[derive(Default)]
struct Shard {
    buckets: Chunk<Bucket>,
    len: usize,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket {
    /// A byte of each entry's hash, never 0; 0: no entry.
    tags: [u8; WIDTH],
    /// Entries that passed this bucket as it was full, and are still there.
    passed: u32,
    slots: [u32; WIDTH],
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    entry: usize,
}

impl Index {
    pub(crate) fn new(key: Key, secret: u64) -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), key, secret }
    }

    /// Calls `f` with the record of `key` while it cannot leave the index.
    pub(crate) fn find<R>(
        &self,
        records: &Records,
        key: u64,
        f: impl FnOnce(Slot, &Record) -> R,
    ) -> Option<R> {
        let hash = self.hash(key);
        let shard = self.shard(hash).read();
        let place = shard.find(hash, |slot| self.is(records, slot, key))?;
        let slot = shard.slot(place);
        Some(f(slot, records.get(slot)?))
    }

    /// Fetches the line in which `key` is looked for.
    pub(crate) fn prefetch(&self, key: u64) {
        let hash = self.hash(key);
        let shard = self.shard(hash).read();
        if let Some(bucket) = shard.buckets.get(shard.home(hash)) {
            prefetch(bucket);
        }
    }

    /// Fetches the records that [`find`](Self::find) will look at.
    pub(crate) fn prefetch_record(&self, records: &Records, key: u64) {
        let hash = self.hash(key);
        let shard = self.shard(hash).read();
        if let Some(bucket) = shard.buckets.get(shard.home(hash)) {
            bucket.matches(tag(hash)).for_each(|entry| records.prefetch_slot(Slot(bucket.slots[entry])));
        }
    }

    /// Adds `slot` by its key; if there is another with that key, takes its place and returns it.
    pub(crate) fn insert(&self, records: &Records, slot: Slot) -> Option<Slot> {
        let key = self.key.of(records, slot)?;
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        if let Some(place) = shard.find(hash, |other| self.is(records, other, key)) {
            let entry = &mut shard.buckets[place.bucket].slots[place.entry];
            return Some(Slot(std::mem::replace(entry, slot.0)));
        }
        if shard.len >= shard.buckets.len() * FILL {
            shard.grow(|slot| self.hash_of(records, slot), |slot| records.prefetch_slot(slot));
        }
        shard.add(hash, slot);
        None
    }

    /// Removes exactly `slot`, not another record of the same key.
    pub(crate) fn remove(&self, records: &Records, slot: Slot) {
        let Some(key) = self.key.of(records, slot) else { return };
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        if let Some(place) = shard.find(hash, |other| other == slot) {
            shard.take(hash, place);
        }
    }

    /// All slots, shard by shard: a picture of no single moment unless the caller keeps writers out.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let mut all = Vec::with_capacity(self.len());
        self.shards.iter().for_each(|shard| all.extend(shard.read().entries()));
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().len).sum()
    }

    fn is(&self, records: &Records, slot: Slot, key: u64) -> bool {
        self.key.of(records, slot) == Some(key)
    }

    fn hash_of(&self, records: &Records, slot: Slot) -> u64 {
        self.key.of(records, slot).map_or(0, |key| self.hash(key))
    }

    /// A multiplication whose two halves are folded: every bit of the key reaches every bit of the hash.
    fn hash(&self, key: u64) -> u64 {
        let wide = u128::from(key ^ self.secret) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
        let low = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or(0);
        let high = u64::try_from(wide >> 64).unwrap_or(0);
        (low ^ high).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    /// By bits that are neither the tag's nor the bucket's.
    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        &self.shards[(hash >> 48) as usize % SHARDS]
    }
}

/// The byte of a hash by which entries are told apart.
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

impl Shard {
    /// The bucket where an entry of this hash belongs.
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are all that is wanted")]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.buckets.len().wrapping_sub(1)
    }

    fn next(&self, bucket: usize) -> usize {
        (bucket + 1) & (self.buckets.len() - 1)
    }

    fn slot(&self, place: Place) -> Slot {
        Slot(self.buckets[place.bucket].slots[place.entry])
    }

    /// The entry of this hash for which `is` says yes.
    fn find(&self, hash: u64, is: impl Fn(Slot) -> bool) -> Option<Place> {
        let mut bucket = self.home(hash);
        for _ in 0..self.buckets.len() {
            let b = &self.buckets[bucket];
            if let Some(entry) = b.matches(tag(hash)).find(|e| is(Slot(b.slots[*e]))) {
                return Some(Place { bucket, entry });
            }
            if b.passed == 0 {
                return None;
            }
            bucket = self.next(bucket);
        }
        None
    }

    /// Adds an entry. There is room: buckets are more than their entries fill.
    fn add(&mut self, hash: u64, slot: Slot) {
        let mut bucket = self.home(hash);
        loop {
            let b = &mut self.buckets[bucket];
            if let Some(entry) = b.tags.iter().position(|t| *t == 0) {
                b.tags[entry] = tag(hash);
                b.slots[entry] = slot.0;
                self.len += 1;
                return;
            }
            b.passed += 1;
            bucket = self.next(bucket);
        }
    }

    /// Takes an entry of this hash away.
    fn take(&mut self, hash: u64, place: Place) {
        let mut bucket = self.home(hash);
        while bucket != place.bucket {
            self.buckets[bucket].passed -= 1;
            bucket = self.next(bucket);
        }
        self.buckets[bucket].tags[place.entry] = 0;
        self.len -= 1;
    }

    fn grow(&mut self, hash_of: impl Fn(Slot) -> u64, fetch: impl Fn(Slot)) {
        let buckets = Chunk::new((self.buckets.len() * 2).max(1));
        let old = std::mem::replace(self, Self { buckets, len: 0 });
        let mut ahead = old.entries().skip(AHEAD);
        for slot in old.entries() {
            ahead.next().into_iter().for_each(&fetch);
            self.add(hash_of(slot), slot);
        }
    }

    fn entries(&self) -> impl Iterator<Item = Slot> + '_ {
        let of = |b: &'_ Bucket| b.tags.into_iter().zip(b.slots).filter(|(tag, _)| *tag != 0);
        self.buckets.iter().flat_map(of).map(|(_, slot)| Slot(slot))
    }
}

impl Bucket {
    /// Entries that have this tag.
    fn matches(&self, tag: u8) -> impl Iterator<Item = usize> + use<> {
        const ONES: u128 = u128::from_ne_bytes([1; 16]);
        const LOW: u128 = ONES * 0x7f;
        let mut bytes = [0; 16];
        bytes[..WIDTH].copy_from_slice(&self.tags);
        // Bytes that are 0 where the tags are the same; the sum has the top bit of each whose lower bits are not.
        let differ = u128::from_le_bytes(bytes) ^ (ONES * u128::from(tag));
        let mut same = !(((differ & LOW) + LOW) | differ | LOW);
        std::iter::from_fn(move || {
            let entry = same.trailing_zeros() as usize / 8;
            same &= same.wrapping_sub(1);
            (entry < WIDTH).then_some(entry)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use xen_ioreq::{Bfn, Gfn};

    use super::*;

    #[test]
    fn a_bucket_is_a_cache_line() {
        assert_eq!(size_of::<Bucket>(), 64);
    }

    #[test]
    fn a_tag_matches_where_it_is_and_nowhere_beyond_the_entries() {
        let mut b = Bucket::default();
        assert_eq!(b.matches(1).count(), 0);
        b.tags = [7, 8, 7, 1, 255, 128, 0, 6, 7, 0, 0, 7];
        for tag in 0..=255 {
            let wanted: Vec<usize> = (0..WIDTH).filter(|e| b.tags[*e] == tag).collect();
            assert_eq!(b.matches(tag).collect::<Vec<_>>(), wanted);
        }
    }

    proptest! {
        #[test]
        fn an_index_is_a_map(ops in prop::collection::vec((0u8..3, 0u64..400), 1..3000), secret in any::<u64>()) {
            let records = Records::of_told(secret);
            let index = Index::new(Key::Gfn, secret);
            let mut naive: HashMap<u64, Slot> = HashMap::new();
            for (what, key) in ops {
                match what {
                    0 => {
                        let slot = records.insert(1, Gfn(key), Bfn(key + 1)).unwrap();
                        prop_assert_eq!(index.insert(&records, slot), naive.insert(key, slot));
                    }
                    1 => {
                        if let Some(slot) = naive.remove(&key) {
                            index.remove(&records, slot);
                            // Nothing is removed twice.
                            index.remove(&records, slot);
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(index.find(&records, key, |slot, r| (slot, r.gfn().0)), naive.get(&key).map(|s| (*s, key)));
                prop_assert_eq!(index.len(), naive.len());
            }
            let mut all = index.slots();
            all.sort_unstable();
            let mut wanted: Vec<Slot> = naive.into_values().collect();
            wanted.sort_unstable();
            prop_assert_eq!(all, wanted);
        }
    }
}
