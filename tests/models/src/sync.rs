//! What the sources name as `crate::sync`.

use std::hash::{BuildHasher, DefaultHasher};

pub(crate) use loom::hint::spin_loop;
pub(crate) use loom::thread::yield_now;

pub(crate) use crate::checker::{Mutex, MutexGuard, OnceLock, RwLock};

pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::fence;
    pub(crate) use std::sync::atomic::Ordering;

    pub(crate) use crate::checker::{
        AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
    };
}

pub(crate) mod cell {
    pub(crate) use loom::cell::{ConstPtr, UnsafeCell};
}

pub(crate) mod futex {
    pub(crate) use crate::checker::{Flags, Timespec, wait, wake};
}

/// Not random: an execution must be the same each time it is run.
pub(crate) struct RandomState;

impl RandomState {
    pub(crate) fn new() -> Self {
        Self
    }
}

impl BuildHasher for RandomState {
    type Hasher = DefaultHasher;
    fn build_hasher(&self) -> DefaultHasher {
        DefaultHasher::new()
    }
}
