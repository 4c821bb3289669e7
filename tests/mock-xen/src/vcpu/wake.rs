//! How a vCPU's thread sleeps and is woken: a futex, because the wake-up is half of every IOREQ's round trip.
//!
//! It does not spin first: where the waiter and the waker share a processor that costs more than it saves.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::futex;

/// One sleeper, any number of wakers.
#[derive(Default)]
pub(crate) struct Wake {
    sequence: AtomicU32,
    sleeping: AtomicU32,
}

impl Wake {
    /// Makes the sleeper look again.
    pub(crate) fn notify(&self) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
        // The sleeper writes `sleeping` before the kernel compares `sequence`: either it is seen here or it does not
        // fall asleep.
        if self.sleeping.load(Ordering::SeqCst) != 0 {
            let _ = futex::wake(&self.sequence, futex::Flags::PRIVATE, 1);
        }
    }

    /// Sleeps until `ready`, which is asked again after every notification, or until the deadline; tells whether it
    /// was ready.
    pub(crate) fn wait(&self, deadline: Option<Instant>, mut ready: impl FnMut() -> bool) -> bool {
        loop {
            let seen = self.sequence.load(Ordering::SeqCst);
            if ready() {
                return true;
            }
            let timeout = match deadline {
                None => None,
                Some(d) => match d.checked_duration_since(Instant::now()) {
                    None | Some(Duration::ZERO) => return false,
                    Some(left) => futex::Timespec::try_from(left).ok(),
                },
            };
            self.sleeping.store(1, Ordering::SeqCst);
            let _ = futex::wait(&self.sequence, futex::Flags::PRIVATE, seen, timeout.as_ref());
            self.sleeping.store(0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_sleeper_is_woken_by_a_notification_that_follows_the_change() {
        let wake = Arc::new(Wake::default());
        let flag = Arc::new(AtomicBool::new(false));
        let waker = {
            let (wake, flag) = (wake.clone(), flag.clone());
            std::thread::spawn(move || {
                flag.store(true, Ordering::SeqCst);
                wake.notify();
            })
        };
        assert!(wake.wait(None, || flag.load(Ordering::SeqCst)));
        waker.join().unwrap();
    }

    #[test]
    fn a_deadline_that_has_passed_ends_the_wait() {
        assert!(!Wake::default().wait(Some(Instant::now()), || false));
    }
}
