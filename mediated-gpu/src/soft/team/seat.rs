//! Where one helper is offered work, and says when it is done.
//!
//! Who offers work owns it: an offer that nobody has taken is withdrawn, one that was taken is waited for. So when
//! [`settle`](Seat::settle) has returned, the helper reaches nothing any more that the offer led it to. How long either side
//! looks before it sleeps is the callers' matter.

use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use crate::sync::futex;

/// The helper sleeps, or is about to.
const ASLEEP: u32 = 0;
/// It looks for an offer.
const READY: u32 = 1;
/// There is one.
const OFFERED: u32 = 2;
/// It works on it.
const TAKEN: u32 = 3;
/// The same, and who has offered it sleeps until it is done.
const AWAITED: u32 = 4;
/// It is to go.
const DISMISSED: u32 = 5;

/// A seat for one helper, with work of one who offers it.
pub(crate) struct Seat<T> {
    state: AtomicU32,
    /// More than one offer is to come, soon after each other.
    kept: AtomicBool,
    work: AtomicPtr<T>,
}

impl<T> Seat<T> {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU32::new(ASLEEP), kept: AtomicBool::new(false), work: AtomicPtr::default() }
    }

    /// Whether the helper looks for work, so that an offer costs no wake-up.
    pub(crate) fn is_ready(&self) -> bool {
        self.state.load(Ordering::Relaxed) == READY
    }

    /// Offers work to a helper that looks for it. Until [`settle`](Self::settle) has returned, `work` has to stay.
    pub(crate) fn offer(&self, work: *const T) -> bool {
        if !self.is_ready() {
            return false;
        }
        // The helper reads it only when it takes an offer, and there is none.
        self.work.store(work.cast_mut(), Ordering::Relaxed);
        self.state.compare_exchange(READY, OFFERED, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Ends the offer: withdraws it, or waits until it is done. `look` may wait for what it is given to come true, for as long as
    /// that pays; then this thread sleeps.
    pub(crate) fn settle(&self, look: impl FnOnce(&dyn Fn() -> bool)) {
        if self.state.compare_exchange(OFFERED, READY, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return;
        }
        // What the helper did happens before what comes after this.
        let done = || !matches!(self.state.load(Ordering::Acquire), TAKEN | AWAITED);
        if done() {
            return;
        }
        look(&done);
        // If this fails it is done.
        let _ = self.state.compare_exchange(TAKEN, AWAITED, Ordering::Relaxed, Ordering::Relaxed);
        while !done() {
            let _ = futex::wait(&self.state, futex::Flags::PRIVATE, AWAITED, None);
        }
    }

    /// Wakes the helper if it sleeps, and tells it that offers will come soon after each other, until [`release`](Self::release).
    pub(crate) fn call(&self) {
        self.kept.store(true, Ordering::Relaxed);
        if self.state.compare_exchange(ASLEEP, READY, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.wake();
        }
    }

    /// No more offers come for now.
    pub(crate) fn release(&self) {
        self.kept.store(false, Ordering::Relaxed);
    }

    /// The same, and the helper sleeps if it looks for one.
    pub(crate) fn rest(&self) {
        self.release();
        // If this fails it sleeps.
        let _ = self.state.compare_exchange(READY, ASLEEP, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Has the helper go. With no offer open.
    pub(crate) fn dismiss(&self) {
        // An update: it comes after one that the helper has made, and the helper's next after it. Of a store loom does not know that.
        self.state.swap(DISMISSED, Ordering::Relaxed);
        self.wake();
    }

    /// The helper's: waits for an offer and takes it. `look` as in [`settle`](Self::settle), and it is told whether the offer will come
    /// soon. `None`: the helper is to go.
    pub(crate) fn take(&self, mut look: impl FnMut(&dyn Fn() -> bool, bool)) -> Option<*const T> {
        loop {
            // What was done before the offer happens before what the helper does for it.
            let taken = self.state.compare_exchange(OFFERED, TAKEN, Ordering::Acquire, Ordering::Relaxed);
            match taken {
                Ok(_) => return Some(self.work.load(Ordering::Relaxed).cast_const()),
                Err(DISMISSED) => return None,
                Err(READY) => {
                    let soon = self.kept.load(Ordering::Relaxed);
                    let other = || self.kept.load(Ordering::Relaxed) != soon;
                    look(&|| self.state.load(Ordering::Relaxed) != READY || other(), soon);
                    if other() {
                        continue;
                    }
                    // If this fails there is news.
                    let _ = self.state.compare_exchange(READY, ASLEEP, Ordering::Relaxed, Ordering::Relaxed);
                }
                Err(_) => {
                    let _ = futex::wait(&self.state, futex::Flags::PRIVATE, ASLEEP, None);
                }
            }
        }
    }

    /// The helper's: what it has taken is done, and it reaches nothing of it any more.
    pub(crate) fn done(&self) {
        if self.state.swap(READY, Ordering::Release) == AWAITED {
            self.wake();
        }
    }

    /// Only one of the two ever sleeps.
    fn wake(&self) {
        let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
    }
}
