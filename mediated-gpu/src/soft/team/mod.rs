//! Threads that help an engine with one step of a large blit.
//!
//! An engine that has helpers draws the parts of a step together with those that are awake, and the step ends when all of them
//! have ended: no helper reaches a page whose pin the engine's step does not hold. It never waits for one that has not begun.
//! They are made with the GPU, since what can reach a guest's commands has no right to make threads, and sleep until there
//! is a blit that is worth a wake-up.
#![expect(unsafe_code, reason = "helpers follow a pointer to work that lies on the engine's stack")]

mod pace;
mod seat;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use smallvec::SmallVec;

use super::patience::Patience;
use crate::privilege::{ThreadKind, narrow};
pub(super) use pace::Kind;
use pace::Pace;
use seat::Seat;

/// Parts of some work, each to be done by whoever comes first.
struct Work<'a> {
    part: &'a (dyn Fn(usize) + Sync),
    count: usize,
    /// How many threads it is for.
    hands: usize,
    /// A bit for each part that has been begun.
    begun: SmallVec<[AtomicU64; 1]>,
    /// A helper has panicked.
    failed: AtomicBool,
}

impl Work<'_> {
    /// Does parts until there is none left. Each hand begins at a place of its own: what is drawn again is drawn by the same thread
    /// again, as far as they are equally fast, and lies in its processor's cache.
    fn go(&self, hand: usize) {
        let first = self.count * hand / self.hands;
        for n in (first..self.count).chain(0..first) {
            // Whoever has begun a part ends it before the work ends: nothing depends on the order in which they are begun.
            let (word, bit) = (&self.begun[n / 64], 1 << (n % 64));
            if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                (self.part)(n);
            }
        }
    }
}

struct Helper {
    seat: Arc<Seat<Work<'static>>>,
    /// There is an offer that has not been settled.
    offered: bool,
    thread: Option<JoinHandle<()>>,
}

/// The helper's thread.
fn help(seat: &Seat<Work<'static>>, hand: usize) {
    narrow(ThreadKind::Engine);
    let mut patience = Patience::default();
    // Within a blit the next step's part comes soon: what the waits for other blits have taught says nothing of it.
    while let Some(work) = seat.take(|news, soon| {
        if soon {
            patience.look_anyway(news)
        } else {
            patience.look(news)
        };
    }) {
        // SAFETY: who has offered it keeps it until it is settled, which is after `done`.
        let work = unsafe { &*work };
        if catch_unwind(AssertUnwindSafe(|| work.go(hand))).is_err() {
            work.failed.store(true, Ordering::Relaxed);
        }
        seat.done();
    }
}

/// An engine's helpers.
#[derive(Default)]
pub(super) struct Team {
    helpers: Vec<Helper>,
    /// For those who are still at a part when this thread has none left.
    patience: Patience,
    /// What help has brought.
    pace: Pace,
    /// A blit is being drawn for which help has been called.
    sharing: bool,
}

impl Team {
    /// So many helpers, asleep. An error is the system's refusal of a thread.
    pub(super) fn new(helpers: usize) -> io::Result<Self> {
        let mut this = Self::default();
        for n in 0..helpers {
            let seat = Arc::new(Seat::new());
            let own = Arc::clone(&seat);
            let thread =
                thread::Builder::new().name(format!("gpu-help-{n}")).spawn(move || help(&own, n + 1))?;
            // If the next one fails, dropping `this` ends those that have started.
            this.helpers.push(Helper { seat, offered: false, thread: Some(thread) });
        }
        Ok(this)
    }

    /// Wakes all helpers, waits until they look for work, and has the next share it, as far as they go on looking.
    #[cfg(test)]
    pub(super) fn gather(&mut self) {
        self.sharing = true;
        for helper in &self.helpers {
            while !helper.seat.is_ready() {
                helper.seat.call();
                thread::yield_now();
            }
        }
    }

    /// Whether there are any helpers.
    pub(super) fn is_empty(&self) -> bool {
        self.helpers.is_empty()
    }

    /// How many threads are to share work now, this one included. Alone, if it has had to wait long for others.
    pub(super) fn hands(&mut self) -> usize {
        if !self.sharing || self.patience.left_out() {
            return 1;
        }
        1 + self.helpers.iter().filter(|h| h.seat.is_ready()).count()
    }

    /// A large blit of this kind begins. Those who are to help with it are woken.
    pub(super) fn begin(&mut self, kind: Kind) {
        self.sharing = !self.helpers.is_empty() && self.pace.shares(kind);
        for helper in &self.helpers {
            if self.sharing { helper.seat.call() } else { helper.seat.rest() }
        }
    }

    /// That blit has ended, which had so many bytes and took so long.
    pub(super) fn end(&mut self, kind: Kind, bytes: u64, time: Duration) {
        self.pace.took(kind, bytes, time);
        self.sharing = false;
        self.release();
    }

    /// Helpers may sleep again, as it pays.
    fn release(&self) {
        for helper in &self.helpers {
            helper.seat.release();
        }
    }

    /// Calls `part` with each number below `count`, once, on this thread and on helpers. All calls are over when it returns, or
    /// when it panics because one of them has.
    pub(super) fn each(&mut self, count: usize, part: &(dyn Fn(usize) + Sync)) {
        let begun = (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let work = Work { part, count, hands: self.helpers.len() + 1, begun, failed: AtomicBool::new(false) };
        let offered = std::ptr::from_ref(&work).cast::<Work<'static>>();
        if count > 1 {
            for helper in &mut self.helpers {
                helper.offered = helper.seat.offer(offered);
            }
        }
        let open = Open { helpers: &mut self.helpers, patience: &mut self.patience };
        work.go(0);
        drop(open);
        assert!(!work.failed.load(Ordering::Relaxed), "a helper of an engine has panicked");
    }
}

/// Work is offered; when this goes, nobody reaches it any more.
struct Open<'a> {
    helpers: &'a mut [Helper],
    patience: &'a mut Patience,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        for helper in self.helpers.iter_mut() {
            if std::mem::take(&mut helper.offered) {
                helper.seat.settle(|done| {
                    self.patience.look(done);
                });
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for helper in &mut self.helpers {
            helper.seat.dismiss();
            if helper.thread.take().is_some_and(|t| t.join().is_err()) {
                log::error!("a helper of an engine had panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests;
