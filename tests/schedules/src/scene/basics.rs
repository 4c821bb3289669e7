//! Scenes of locks and atomics alone: that the checker itself finds what it is there to find.

use super::world::play;
use crate::Checker;
use crate::sync::atomic::{AtomicU32, Ordering::SeqCst};
use crate::sync::{Mutex, RwLock, yield_now};

/// Two threads count by one step each.
pub fn two_count(checker: Checker) -> usize {
    checker.run(|| {
        let count = AtomicU32::new(0);
        play(|s| {
            s.spawn(|| count.fetch_add(1, SeqCst));
            s.spawn(|| count.fetch_add(1, SeqCst));
        });
        assert_eq!(count.load(SeqCst), 2, "each is counted");
    })
}

/// Two threads take two locks, one of them the other way round.
pub fn locks_in_two_orders(checker: Checker) -> usize {
    checker.run(|| {
        let (a, b) = (Mutex::new(()), Mutex::new(()));
        play(|s| {
            s.spawn(|| drop((a.lock(), b.lock())));
            s.spawn(|| drop((b.lock(), a.lock())));
        });
    })
}

/// A thread reads what it reads already.
pub fn a_reader_reads_again(checker: Checker) -> usize {
    checker.run(|| {
        let lock = RwLock::new(());
        play(|s| {
            s.spawn(|| drop((lock.read(), lock.read())));
        });
    })
}

/// A reader stays until another has read, too, and, if `written`, somebody wants to write meanwhile.
pub fn a_reader_waits_for_another(checker: Checker, written: bool) -> usize {
    checker.run(move || {
        let (lock, seen) = (RwLock::new(0), AtomicU32::new(0));
        play(|s| {
            s.spawn(|| {
                let _kept = lock.read();
                while seen.load(SeqCst) == 0 {
                    yield_now();
                }
            });
            s.spawn(|| {
                let _read = lock.read();
                seen.store(1, SeqCst);
            });
            if written {
                s.spawn(|| *lock.write() += 1);
            }
        });
    })
}
