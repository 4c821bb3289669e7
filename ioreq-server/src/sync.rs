//! What threads, and the hypervisor, meet in, named in one place: `tests/models` builds ring, slots and the
//! cache of guest memory with a model checker's types here.

pub(crate) use std::sync::atomic;

pub(crate) use parking_lot::{Mutex, RwLock};

/// A cell with the interface of a model checker's, which sees every use.
#[expect(unsafe_code, reason = "a pointer into a cell is followed by who vouches for it")]
pub(crate) mod cell {
    /// As `std::cell::UnsafeCell`.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    /// The content of a cell, for reading.
    #[derive(Debug)]
    pub(crate) struct ConstPtr<T>(*const T);

    // SAFETY: a plain address; following it is the unsafe act, and says why it may.
    unsafe impl<T: Sync> Send for ConstPtr<T> {}
    // SAFETY: as above.
    unsafe impl<T: Sync> Sync for ConstPtr<T> {}

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn get(&self) -> ConstPtr<T> {
            ConstPtr(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    impl<T> ConstPtr<T> {
        /// # Safety
        /// The cell is alive and nobody changes its content while the result is in use.
        pub(crate) unsafe fn deref(&self) -> &T {
            // SAFETY: by the caller.
            unsafe { &*self.0 }
        }
    }
}
