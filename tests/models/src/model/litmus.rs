//! Scenes whose outcomes are known, to try the checker itself: each returns all that it saw.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use xen_ioreq::Mfn;

use crate::checker::{Checker, join, spawn};
use crate::memory::HostMemory;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::spin_loop;

/// How two words are accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Relaxed.
    Relaxed,
    /// Stores release, loads acquire.
    Handover,
    /// Sequentially consistent.
    Total,
}

impl Order {
    fn load(self) -> Ordering {
        match self {
            Self::Relaxed => Ordering::Relaxed,
            Self::Handover => Ordering::Acquire,
            Self::Total => Ordering::SeqCst,
        }
    }

    fn store(self) -> Ordering {
        match self {
            Self::Relaxed => Ordering::Relaxed,
            Self::Handover => Ordering::Release,
            Self::Total => Ordering::SeqCst,
        }
    }
}

/// Runs two threads on what `new` makes and collects what they return.
fn pairs<S: Send + Sync + 'static, A: Ord + Send + 'static, B: Ord + Send + 'static>(
    checker: Checker,
    new: impl Fn() -> S + Send + Sync + 'static,
    a: impl Fn(&S) -> A + Send + Sync + Copy + 'static,
    b: impl Fn(&S) -> B + Send + Sync + Copy + 'static,
) -> BTreeSet<(A, B)> {
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let all = seen.clone();
    checker.run(move || {
        let shared = Arc::new(new());
        let other = {
            let shared = shared.clone();
            spawn(move || b(&shared))
        };
        let a = a(&shared);
        all.lock().expect("not poisoned").insert((a, join(other)));
    });
    std::mem::take(&mut *seen.lock().expect("not poisoned"))
}

/// Each thread writes a word and reads the other's. `(0, 0)`: neither saw the other.
pub fn both_write_then_read(checker: Checker, order: Order) -> BTreeSet<(u64, u64)> {
    let new = || (AtomicU64::new(0), AtomicU64::new(0));
    let write_read = move |mine: &AtomicU64, theirs: &AtomicU64| {
        mine.store(1, order.store());
        theirs.load(order.load())
    };
    pairs(checker, new, move |(x, y)| write_read(x, y), move |(x, y)| write_read(y, x))
}

/// One thread writes a word and then a flag, the other reads the flag and then the word. `(1, 0)`: the flag without the
/// word.
pub fn a_word_and_its_flag(checker: Checker, order: Order) -> BTreeSet<(u32, u64)> {
    let new = || (AtomicU64::new(7), AtomicU32::new(0));
    let read = move |(word, flag): &(AtomicU64, AtomicU32)| {
        (flag.load(order.load()), word.load(Ordering::Relaxed).wrapping_sub(7))
    };
    let write = move |(word, flag): &(AtomicU64, AtomicU32)| {
        word.store(8, Ordering::Relaxed);
        flag.store(1, order.store());
    };
    pairs(checker, new, read, write).into_iter().map(|(r, ())| r).collect()
}

/// Both threads read a word, then exchange it for one more if it has not changed. What each read.
pub fn both_read_then_exchange(checker: Checker) -> BTreeSet<(u64, u64)> {
    let step = |word: &AtomicU64| {
        let seen = word.load(Ordering::Acquire);
        let _ = word.compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire);
        seen
    };
    pairs(checker, || AtomicU64::new(0), step, step)
}

/// One thread writes both halves of a word one after the other, the other reads them at once: (first, second).
pub fn halves_and_a_whole(checker: Checker) -> BTreeSet<(u64, u64)> {
    let read = |memory: &HostMemory| {
        let page = memory.page(Mfn(0)).expect("one page");
        let both = page.u64(8).load(Ordering::Acquire);
        (both & 0xff, both >> 32)
    };
    let write = |memory: &HostMemory| {
        let page = memory.page(Mfn(0)).expect("one page");
        page.u32(8).store(1, Ordering::Relaxed);
        page.u32(12).fetch_add(1, Ordering::Release);
    };
    pairs(checker, || HostMemory::mixed(1), read, write).into_iter().map(|(r, ())| r).collect()
}

/// One thread looks at a word until the other has written it, which it never does.
pub fn a_wait_without_end(checker: Checker) {
    let wait = |word: &AtomicU64| {
        while word.load(Ordering::Acquire) == 0 {
            spin_loop();
        }
    };
    pairs(checker, || AtomicU64::new(0), wait, |word| word.load(Ordering::Acquire));
}
