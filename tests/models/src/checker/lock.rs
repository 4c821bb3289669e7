//! Locks as in `parking_lot`, and `std`'s `OnceLock`, over loom's. Like atomics they get their checker's part when they
//! are first used.

use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::{OnceLock as Once, RwLock as Data, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use loom::sync::Condvar;

use super::atomic::{AtomicBool, Ordering};
use super::{Fault, fault_at, go_on};

/// What two holders of a lock that excludes nobody meet in.
const TWICE: &str = "two threads are where one may be";

#[track_caller]
fn excludes() -> bool {
    go_on();
    !fault_at(Location::caller(), |fault| if let Fault::NoLocks(file) = fault { Some(file) } else { None })
}

fn shared<T>(data: &Data<T>) -> RwLockReadGuard<'_, T> {
    data.try_read().unwrap_or_else(|e| match e {
        TryLockError::Poisoned(e) => e.into_inner(),
        TryLockError::WouldBlock => panic!("{TWICE}"),
    })
}

fn alone<T>(data: &Data<T>) -> RwLockWriteGuard<'_, T> {
    data.try_write().unwrap_or_else(|e| match e {
        TryLockError::Poisoned(e) => e.into_inner(),
        TryLockError::WouldBlock => panic!("{TWICE}"),
    })
}

/// As in `parking_lot`.
#[derive(Default)]
pub(crate) struct Mutex<T> {
    lock: Once<loom::sync::Mutex<()>>,
    data: Data<T>,
}

/// The lock is held.
pub(crate) struct MutexGuard<'a, T> {
    // Given back before the lock.
    data: RwLockWriteGuard<'a, T>,
    _lock: Option<loom::sync::MutexGuard<'a, ()>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(data: T) -> Self {
        Self { lock: Once::new(), data: Data::new(data) }
    }

    #[track_caller]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let lock = excludes().then(|| {
            self.lock.get_or_init(|| loom::sync::Mutex::new(())).lock().unwrap_or_else(|e| e.into_inner())
        });
        MutexGuard { data: alone(&self.data), _lock: lock }
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.data.get_mut().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn into_inner(self) -> T {
        self.data.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        go_on();
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

/// As in `parking_lot`.
#[derive(Default)]
pub(crate) struct RwLock<T> {
    lock: Once<(loom::sync::RwLock<()>, Condvar)>,
    data: Data<T>,
}

/// The lock is held for reading.
pub(crate) struct ReadGuard<'a, T> {
    data: RwLockReadGuard<'a, T>,
    _lock: Option<loom::sync::RwLockReadGuard<'a, ()>>,
}

/// The lock is held for writing.
pub(crate) struct WriteGuard<'a, T> {
    data: RwLockWriteGuard<'a, T>,
    _lock: Option<loom::sync::RwLockWriteGuard<'a, ()>>,
}

impl<T> RwLock<T> {
    pub(crate) fn new(data: T) -> Self {
        Self { lock: Once::new(), data: Data::new(data) }
    }

    /// loom forgets earlier readers, as it does loads.
    fn checked(&self) -> &loom::sync::RwLock<()> {
        let (lock, order) = self.lock.get_or_init(|| (loom::sync::RwLock::new(()), Condvar::new()));
        order.notify_one();
        lock
    }

    #[track_caller]
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        let lock = excludes().then(|| self.checked().read().unwrap_or_else(|e| e.into_inner()));
        ReadGuard { data: shared(&self.data), _lock: lock }
    }

    #[track_caller]
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        let lock = excludes().then(|| self.checked().write().unwrap_or_else(|e| e.into_inner()));
        WriteGuard { data: alone(&self.data), _lock: lock }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        go_on();
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        go_on();
    }
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

/// As in `std`.
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    setting: Mutex<()>,
    value: Once<T>,
}

impl<T> OnceLock<T> {
    pub(crate) const fn new() -> Self {
        let setting = Mutex { lock: Once::new(), data: Data::new(()) };
        Self { is_set: AtomicBool::new(false), setting, value: Once::new() }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
    }

    pub(crate) fn get_or_init(&self, f: impl FnOnce() -> T) -> &T {
        if !self.is_set.load(Ordering::Acquire) {
            let _one = self.setting.lock();
            self.value.get_or_init(f);
            self.is_set.store(true, Ordering::Release);
        }
        self.value.get().expect("it was set")
    }
}
