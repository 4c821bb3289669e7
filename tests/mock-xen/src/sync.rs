//! Where threads meet, named in one place: locks, atomics, sleep. `tests/models` and `tests/schedules` build these sources with
//! other types here, so that they decide who goes on. What only counts, or is written down for a report, stays with `std`.

use std::time::{Duration, Instant};

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::{OnceLock, atomic};
pub(crate) use std::thread::{sleep, yield_now};

pub(crate) use parking_lot::{Mutex, RwLock, RwLockReadGuard};
pub(crate) use rustix::thread::futex;

/// How long an access of a device that is under way is waited for, as an IOMMU's flush waits. A device that holds on is told of.
pub(crate) struct Patience(Instant);

impl Patience {
    const ALL: Duration = Duration::from_millis(200);
    const STEP: Duration = Duration::from_micros(20);

    /// From now on.
    pub(crate) fn begin() -> Self {
        Self(Instant::now() + Self::ALL)
    }

    /// Nothing more is waited for.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.0
    }

    /// Waits a little.
    pub(crate) fn wait(&self) {
        sleep(Self::STEP);
    }
}
