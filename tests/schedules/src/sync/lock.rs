//! Locks with the manners of `parking_lot`'s: no poison, and a writer that waits keeps new readers out.
//!
//! Who may go in is a matter of shuttle's semaphores; what is inside lies in a lock that is never waited for. So who waits for
//! itself is found as a deadlock, and a thread that locks what it reads already is told even where no writer came between.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use shuttle::future::batch_semaphore::{BatchSemaphore, Fairness};
use shuttle::future::block_on;
use shuttle::thread::ThreadId;

use super::{is_alone, point};

/// Permits of a lock for reading and writing; a reader has one of them, a writer all.
const ALL: usize = 1 << 10;

/// As `parking_lot::Mutex`.
pub(crate) struct Mutex<T> {
    permit: BatchSemaphore,
    value: parking_lot::Mutex<T>,
}

/// Its guard.
pub(crate) struct MutexGuard<'a, T> {
    /// Goes before the permit does.
    value: Option<parking_lot::MutexGuard<'a, T>>,
    permit: Option<&'a BatchSemaphore>,
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { permit: BatchSemaphore::const_new(1, Fairness::Unfair), value: parking_lot::Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let permit = (!is_alone()).then_some(&self.permit);
        if let Some(permit) = permit {
            permit.acquire_blocking(1).expect("nobody closes it");
        }
        let value = self.value.try_lock();
        MutexGuard { value: Some(value.expect("whoever has the permit is alone")), permit }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().expect("until it is dropped")
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        T::fmt(self, f)
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("until it is dropped")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        is_alone();
        self.value = None;
        if let Some(permit) = self.permit {
            permit.release(1);
        }
    }
}

/// As `parking_lot::RwLock`.
pub(crate) struct RwLock<T> {
    permits: BatchSemaphore,
    readers: Readers,
    value: parking_lot::RwLock<T>,
}

/// Who reads now.
#[derive(Default)]
struct Readers(parking_lot::Mutex<Vec<ThreadId>>);

impl Readers {
    fn enter(&self) {
        let (me, mut all) = (shuttle::thread::current().id(), self.0.lock());
        all.push(me);
    }

    fn leave(&self) {
        let (me, mut all) = (shuttle::thread::current().id(), self.0.lock());
        all.retain(|t| *t != me);
    }

    fn check(&self) {
        let me = shuttle::thread::current().id();
        let again = self.0.lock().contains(&me);
        assert!(
            !again,
            "a thread locks what it reads already: alone or with a writer between it waits for ever"
        );
    }
}

pub(crate) struct ReadGuard<'a, T> {
    value: Option<parking_lot::RwLockReadGuard<'a, T>>,
    lock: Option<&'a RwLock<T>>,
}

pub(crate) struct WriteGuard<'a, T> {
    value: Option<parking_lot::RwLockWriteGuard<'a, T>>,
    lock: Option<&'a RwLock<T>>,
}

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            permits: BatchSemaphore::const_new(ALL, Fairness::Unfair),
            readers: Readers::default(),
            value: parking_lot::RwLock::new(value),
        }
    }

    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        let lock = (!is_alone()).then_some(self);
        if lock.is_some() {
            self.readers.check();
            self.permits.acquire_blocking(1).expect("nobody closes it");
            self.readers.enter();
        }
        let value = self.value.try_read().expect("no writer has a reader's permit");
        ReadGuard { value: Some(value), lock }
    }

    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        let lock = (!is_alone()).then_some(self);
        if lock.is_some() {
            self.readers.check();
            // From the moment at which no other writer has it, nobody new goes in.
            block_on(self.permits.acquire_reserving(1, ALL)).expect("nobody closes it");
        }
        let value = self.value.try_write().expect("a writer has all permits");
        WriteGuard { value: Some(value), lock }
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().expect("until it is dropped")
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        is_alone();
        self.value = None;
        if let Some(lock) = self.lock {
            lock.readers.leave();
            lock.permits.release(1);
        }
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().expect("until it is dropped")
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("until it is dropped")
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        is_alone();
        self.value = None;
        if let Some(lock) = self.lock {
            lock.permits.release(ALL);
        }
    }
}

/// As `std::sync::OnceLock`; what is to be put in may be made more than once.
pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> OnceLock<T> {
    pub(crate) const fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        point();
        self.0.get()
    }

    pub(crate) fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(there) = self.get() {
            return there;
        }
        let made = make();
        self.0.get_or_init(|| made)
    }
}
