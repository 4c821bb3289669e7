//! A vCPU's thread that sleeps, and those who wake it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::checker::{Checker, join, spawn};
use crate::sync::atomic::AtomicU32;
use crate::wake::Wake;

/// When a waker notifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// After what the sleeper waits for is there.
    After,
    /// Too early.
    Before,
}

/// Each of `wakers` does its part and notifies; the sleeper is ready when all have. A wake-up that is lost leaves it
/// asleep for ever, which the checker calls a deadlock.
pub fn sleeper_waits_for_all(checker: Checker, wakers: u32, notify: Notify) -> usize {
    checker.run(move || {
        let wake = Arc::new(Wake::default());
        let done = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..wakers)
            .map(|_| {
                let (wake, done) = (wake.clone(), done.clone());
                spawn(move || {
                    if notify == Notify::Before {
                        wake.notify();
                    }
                    done.fetch_add(1, Ordering::Release);
                    if notify == Notify::After {
                        wake.notify();
                    }
                })
            })
            .collect();
        assert!(wake.wait(None, || done.load(Ordering::Acquire) == wakers));
        threads.into_iter().for_each(join);
    })
}
