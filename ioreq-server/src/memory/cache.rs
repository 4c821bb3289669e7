//! Pages of a guest that stay mapped between accesses, until somebody says that they may have changed.
//!
//! Sets of a few ways, as a processor's cache: a hit reads two words and takes no lock, a miss locks its set. A notice moves
//! the epoch, which revokes every page at once; [`Cache::sweep`] then unmaps what nobody uses, and the last user of a
//! page unmaps that. Holes are never kept: Xen does not say when one is filled.

use std::fmt;

use xen_ioreq::Gfn;

use super::place::{Pin, Place};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Pages in a set.
const WAYS: usize = 4;

/// How many notices there were, and how many pages have been mapped since the last one. One word, so that a page that is being
/// mapped and a notice that comes meanwhile are never both unaware of each other.
#[derive(Debug)]
struct Clock(AtomicU64);

const EPOCH_SHIFT: u32 = 32;
const FILLS: u64 = (1 << EPOCH_SHIFT) - 1;

impl Clock {
    fn epoch(&self) -> u64 {
        // Acquire: who has heard of a notice finds nothing that is older.
        self.0.load(Ordering::Acquire) >> EPOCH_SHIFT
    }

    /// The epoch to which a page belongs that is mapped from now on.
    fn begin_fill(&self) -> u64 {
        let count = |now: u64| Some(if now & FILLS == FILLS { now } else { now + 1 });
        let (Ok(now) | Err(now)) = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, count);
        now >> EPOCH_SHIFT
    }

    /// Everything older is in doubt. `false`: there is nothing older.
    fn advance(&self) -> bool {
        let next = |now: u64| (now & FILLS > 0).then(|| ((now >> EPOCH_SHIFT) + 1) << EPOCH_SHIFT);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next).is_ok()
    }
}

/// A page that is kept.
#[derive(Debug)]
struct Entry<T> {
    gfn: Gfn,
    writable: bool,
    epoch: u64,
    page: T,
}

struct Way<T> {
    /// Which page may be here: its frame number + 1, shifted by 1, and whether it is writable. 0 for none. Only a hint: what
    /// is pinned tells.
    tag: AtomicU64,
    /// Used since the hand last came by.
    used: AtomicBool,
    place: Place<Entry<T>>,
}

fn tag(gfn: Gfn, writable: bool) -> u64 {
    // A frame number has 52 bits.
    gfn.0.wrapping_add(1) << 1 | u64::from(writable)
}

/// Aligned so that sets do not share cache lines.
#[repr(align(64))]
struct Set<T> {
    ways: Box<[Way<T>]>,
    /// Where the search for a victim goes on. Held by who fills or sweeps.
    hand: Mutex<usize>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    hits: std::sync::atomic::AtomicU64,
    maps: std::sync::atomic::AtomicU64,
    evictions: std::sync::atomic::AtomicU64,
}

/// What a cache of mapped pages has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Accesses that found their page mapped.
    pub hits: u64,
    /// Pages that were mapped.
    pub maps: u64,
    /// Pages that made room for others.
    pub evictions: u64,
}

/// The cache. `T` is a mapped page, unmapped when it is dropped.
pub(crate) struct Cache<T> {
    clock: Clock,
    sets: Box<[Set<T>]>,
}

/// A page in use, unmapped at the latest when its use ends if the cache does not keep it.
#[derive(Debug)]
pub(crate) enum Held<'a, T> {
    /// The cache keeps it.
    Kept(PinnedPage<'a, T>),
    /// No cache knows it; with the epoch in which it was mapped, if there is a cache that had no room for it.
    Once(T, Option<u64>),
}

#[derive(Debug)]
pub(crate) struct PinnedPage<'a, T>(Pin<'a, Entry<T>>);

impl<T> Held<'_, T> {
    pub(crate) fn page(&self) -> &T {
        match self {
            Self::Kept(pinned) => &pinned.0.page,
            Self::Once(page, _) => page,
        }
    }
}

impl<T> Cache<T> {
    /// Room for `pages` pages, rounded down to 1, 2, 3 or 4 times a power of two; at least 1.
    pub(crate) fn new(pages: usize) -> Self {
        let ways = pages.clamp(1, WAYS);
        let sets = 1 << (pages / ways).max(1).ilog2();
        let way = |_| Way { tag: AtomicU64::new(0), used: AtomicBool::new(false), place: Place::default() };
        let set = |_| Set {
            ways: (0..ways).map(way).collect(),
            hand: Mutex::new(0),
            counters: Counters::default(),
        };
        Self { clock: Clock(AtomicU64::new(0)), sets: (0..sets).map(set).collect() }
    }

    /// Most pages that it keeps.
    pub(crate) fn capacity(&self) -> usize {
        self.sets.iter().map(|s| s.ways.len()).sum()
    }

    fn set(&self, gfn: Gfn) -> &Set<T> {
        // Neighbours go to different sets; the number of sets is a power of two.
        #[expect(clippy::cast_possible_truncation, reason = "only low bits are used")]
        let index = (gfn.0 ^ gfn.0 >> 16) as usize & (self.sets.len() - 1);
        &self.sets[index]
    }

    /// The page, mapped by `map` if need be. Its errors are not remembered.
    pub(crate) fn get<E>(
        &self,
        gfn: Gfn,
        write: bool,
        map: impl FnOnce() -> Result<T, E>,
    ) -> Result<Held<'_, T>, E> {
        let set = self.set(gfn);
        if let Some(held) = self.find(set, gfn, write) {
            return Ok(held);
        }
        let mut hand = set.hand.lock();
        // Somebody else may have mapped it while we waited.
        if let Some(held) = self.find(set, gfn, write) {
            return Ok(held);
        }
        // Room first, so that there are never more than there should be.
        let way = set.make_room(gfn, &mut hand);
        let epoch = self.clock.begin_fill();
        let page = map()?;
        set.counters.maps.fetch_add(1, Ordering::Relaxed);
        let Some(way) = way else { return Ok(Held::Once(page, Some(epoch))) };
        way.tag.store(tag(gfn, write), Ordering::Relaxed);
        way.used.store(true, Ordering::Relaxed);
        Ok(match way.place.fill(Entry { gfn, writable: write, epoch, page }) {
            Ok(pin) => Held::Kept(PinnedPage(pin)),
            // Not with the set locked; but then it is simply not kept.
            Err(entry) => Held::Once(entry.page, Some(epoch)),
        })
    }

    /// Whether a new access may use a page that is held already.
    pub(crate) fn is_current(&self, held: &Held<'_, T>) -> bool {
        match held {
            Held::Kept(PinnedPage(pin)) => pin.epoch == self.clock.epoch() && !pin.is_retired(),
            Held::Once(_, epoch) => *epoch == Some(self.clock.epoch()),
        }
    }

    fn find<'a>(&'a self, set: &'a Set<T>, gfn: Gfn, write: bool) -> Option<Held<'a, T>> {
        let now = self.clock.epoch();
        let wanted = [tag(gfn, true), tag(gfn, false)];
        for way in &set.ways {
            if !wanted[..if write { 1 } else { 2 }].contains(&way.tag.load(Ordering::Relaxed)) {
                continue;
            }
            // By now it may be another page.
            let Some(pin) = way.place.pin().filter(|p| p.gfn == gfn && (p.writable || !write)) else {
                continue;
            };
            if pin.epoch != now {
                drop(pin.retire());
                continue;
            }
            if !way.used.load(Ordering::Relaxed) {
                way.used.store(true, Ordering::Relaxed);
            }
            set.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Some(Held::Kept(PinnedPage(pin)));
        }
        None
    }

    /// Revokes every page: who asks for one from now on gets it mapped anew. `false`: there was none, so that there
    /// is nothing to [`sweep`](Self::sweep) either. Does not wait, and costs the same however many there are.
    pub(crate) fn revoke(&self) -> bool {
        self.clock.advance()
    }

    /// Takes out what was revoked and nobody uses, for the caller to drop. What is in use goes with its last user.
    pub(crate) fn sweep(&self) -> Vec<T> {
        let mut out = Vec::new();
        for set in &self.sets {
            // What is being mapped now is either put there before we look, or knows of the new epoch.
            let _hand = set.hand.lock();
            let now = self.clock.epoch();
            set.take(&mut out, |entry| entry.epoch != now);
        }
        out
    }

    /// Revokes one page and takes it out, for the caller to drop, unless it is in use.
    pub(crate) fn forget(&self, gfn: Gfn) -> Vec<T> {
        let set = self.set(gfn);
        let mut out = Vec::new();
        let _hand = set.hand.lock();
        set.take(&mut out, |entry| entry.gfn == gfn);
        out
    }

    pub(crate) fn stats(&self) -> CacheStats {
        let sum = |f: fn(&Counters) -> &std::sync::atomic::AtomicU64| {
            self.sets.iter().map(|s| f(&s.counters).load(Ordering::Relaxed)).sum()
        };
        CacheStats { hits: sum(|c| &c.hits), maps: sum(|c| &c.maps), evictions: sum(|c| &c.evictions) }
    }
}

impl<T> Set<T> {
    /// An empty way for a page, which only a filler with the set locked can fill. `None`: all are in use.
    fn make_room(&self, gfn: Gfn, hand: &mut usize) -> Option<&Way<T>> {
        // A page that is there for reading only is in the way of the one that can be written.
        drop(self.ways.iter().filter_map(|w| w.place.pin()).find(|p| p.gfn == gfn).and_then(Pin::retire));
        if let Some(way) = self.ways.iter().find(|w| w.place.is_empty()) {
            return Some(way);
        }
        // Twice round: what was used lately gets a second chance.
        for _ in 0..2 * self.ways.len() {
            let way = &self.ways[*hand];
            *hand = (*hand + 1) % self.ways.len();
            if way.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            if let Some(victim) = way.place.evict() {
                self.counters.evictions.fetch_add(1, Ordering::Relaxed);
                drop(victim);
                return Some(way);
            }
        }
        None
    }

    fn take(&self, out: &mut Vec<T>, which: impl Fn(&Entry<T>) -> bool) {
        for way in &self.ways {
            let gone = way.place.pin().filter(|p| which(p)).and_then(Pin::retire);
            out.extend(gone.map(|entry| entry.page));
        }
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}
