//! What mock-xen's sources name as `crate::sync`. Each use is a point at which the scheduler may let another go on, and whoever
//! waits says so.

pub(crate) mod atomic;
pub(crate) mod futex;
mod lock;

use std::cell::Cell;
use std::time::Duration;

pub(crate) use lock::{Mutex, OnceLock, ReadGuard as RwLockReadGuard, RwLock};

thread_local! {
    /// There is one thread of the scene, before the others begin or after they have ended.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Nothing is a point from here on, or everything is again. The caller is the only thread of the scene.
pub(crate) fn alone(alone: bool) {
    ALONE.set(alone);
}

/// Whether nothing is a point.
fn is_alone() -> bool {
    crate::checker::go_on();
    ALONE.get()
}

/// A point at which another may go on.
pub(crate) fn point() {
    if is_alone() {
        return;
    }
    // Time does not pass here; this is shuttle's bare point.
    shuttle::thread::sleep(Duration::ZERO);
}

/// One that asks for it: nothing will happen here until others have done something.
pub(crate) fn yield_now() {
    assert!(!is_alone(), "nobody is there to wait for");
    shuttle::thread::yield_now();
}

pub(crate) fn spin_loop() {
    yield_now();
}

pub(crate) fn sleep(_time: Duration) {
    yield_now();
}

/// As mock-xen's, in turns instead of time.
pub(crate) struct Patience(Cell<u32>);

impl Patience {
    /// More than any device of a scene takes.
    const TURNS: u32 = 1000;

    pub(crate) fn begin() -> Self {
        Self(Cell::new(Self::TURNS))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.get() == 0
    }

    pub(crate) fn wait(&self) {
        self.0.set(self.0.get().saturating_sub(1));
        yield_now();
    }
}
