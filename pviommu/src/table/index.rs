//! Hash indices over the records: 4 bytes an entry, since the keys lie in the records. Sharded, so that a lookup shares
//! a read lock with those of the same shard only.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::arena::{Arena, Record, Slot};
use crate::sync::RwLock;

const SHARDS: usize = 16;

/// An index by one field of the record.
pub(crate) struct Index {
    shards: Vec<RwLock<HashTable<u32>>>,
    key: fn(&Record) -> u64,
    /// Makes the places of keys unknown to those who choose keys.
    secret: u64,
}

impl Index {
    pub(crate) fn new(key: fn(&Record) -> u64, secret: u64) -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), key, secret }
    }

    /// Calls `f` with the record of `key` while it cannot leave the index.
    pub(crate) fn find<R>(&self, arena: &Arena, key: u64, f: impl FnOnce(Slot, &Record) -> R) -> Option<R> {
        let hash = self.hash(key);
        let shard = self.shard(hash).read();
        let slot = Slot(*shard.find(hash, |s| self.is(arena, *s, key))?);
        Some(f(slot, arena.get(slot)?))
    }

    /// Adds `slot` by its key; if there is another with that key, takes its place and returns it.
    pub(crate) fn insert(&self, arena: &Arena, slot: Slot) -> Option<Slot> {
        let key = (self.key)(arena.get(slot)?);
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        match shard.entry(hash, |s| self.is(arena, *s, key), |s| self.hash_of(arena, *s)) {
            Entry::Occupied(mut e) => Some(Slot(std::mem::replace(e.get_mut(), slot.0))),
            Entry::Vacant(e) => {
                e.insert(slot.0);
                None
            }
        }
    }

    /// Removes exactly `slot`, not another record of the same key.
    pub(crate) fn remove(&self, arena: &Arena, slot: Slot) {
        let Some(record) = arena.get(slot) else { return };
        let hash = self.hash((self.key)(record));
        if let Ok(e) = self.shard(hash).write().find_entry(hash, |s| *s == slot.0) {
            e.remove();
        }
    }

    /// All slots, shard by shard: a picture of no single moment unless the caller keeps writers out.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.shards.iter().flat_map(|s| s.read().iter().map(|s| Slot(*s)).collect::<Vec<_>>()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }

    fn is(&self, arena: &Arena, slot: u32, key: u64) -> bool {
        arena.get(Slot(slot)).is_some_and(|r| (self.key)(r) == key)
    }

    fn hash_of(&self, arena: &Arena, slot: u32) -> u64 {
        arena.get(Slot(slot)).map_or(0, |r| self.hash((self.key)(r)))
    }

    /// A multiplication whose two halves are folded: every bit of the key reaches every bit of the hash.
    fn hash(&self, key: u64) -> u64 {
        let wide = u128::from(key ^ self.secret) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
        let low = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or(0);
        let high = u64::try_from(wide >> 64).unwrap_or(0);
        (low ^ high).wrapping_mul(0xd6e8_feb8_6659_fd93)
    }

    /// By bits that the table inside a shard does not look at first.
    fn shard(&self, hash: u64) -> &RwLock<HashTable<u32>> {
        &self.shards[(hash >> 48) as usize % SHARDS]
    }
}
