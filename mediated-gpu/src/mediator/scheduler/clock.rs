//! The scheduler's time, so that a test can have its own.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, MutexGuard};

use super::Queue;

/// What time it is, and how to wait.
pub(in crate::mediator) trait Clock: Send + Sync {
    /// Since some moment before the first call.
    fn now(&self) -> Duration;
    /// Waits until somebody notifies, or until a time: `true` if that has come.
    fn wait(&self, changed: &Condvar, queue: &mut MutexGuard<'_, Queue>, until: Option<Duration>) -> bool;
}

/// The system's monotonic time.
#[derive(Debug)]
pub(in crate::mediator) struct Monotonic(Instant);

impl Monotonic {
    pub(in crate::mediator) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&self, changed: &Condvar, queue: &mut MutexGuard<'_, Queue>, until: Option<Duration>) -> bool {
        match until.and_then(|until| self.0.checked_add(until)) {
            Some(at) => changed.wait_until(queue, at).timed_out(),
            None => {
                changed.wait(queue);
                false
            }
        }
    }
}
