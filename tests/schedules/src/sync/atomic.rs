//! Atomics in memory as it is, so that they also lie in pages that domains share. Orderings are not looked at: every operation is
//! sequentially consistent.
#![expect(unsafe_code, reason = "atomics at addresses, as std has them")]

use std::panic::Location;

pub(crate) use std::sync::atomic::Ordering;
use std::sync::atomic::Ordering::SeqCst;

use super::point;
use crate::checker::is_torn;

/// Nothing is reordered here.
pub(crate) fn fence(_order: Ordering) {}

macro_rules! base {
    ($name:ident, $value:ty) => {
        /// As in `std`.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name(std::sync::atomic::$name);

        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            pub(crate) fn load(&self, _order: Ordering) -> $value {
                point();
                self.0.load(SeqCst)
            }

            pub(crate) fn store(&self, value: $value, _order: Ordering) {
                point();
                self.0.store(value, SeqCst);
            }

            /// One step, unless it is to be torn.
            #[track_caller]
            fn step(&self, f: impl Fn($value) -> Option<$value>) -> Result<$value, $value> {
                point();
                let seen = self.0.load(SeqCst);
                let Some(new) = f(seen) else { return Err(seen) };
                if is_torn(Location::caller()) {
                    point();
                }
                self.0.store(new, SeqCst);
                Ok(seen)
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, _order: Ordering) -> $value {
                let (Ok(was) | Err(was)) = self.step(|_| Some(value));
                was
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                _success: Ordering,
                _failure: Ordering,
            ) -> Result<$value, $value> {
                self.step(|seen| (seen == current).then_some(new))
            }

            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }

            /// As in `std`: looked at first, and again after each exchange that came too late.
            #[track_caller]
            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut seen = self.load(fetch);
                while let Some(new) = f(seen) {
                    match self.compare_exchange(seen, new, set, fetch) {
                        Ok(was) => return Ok(was),
                        Err(now) => seen = now,
                    }
                }
                Err(seen)
            }
        }
    };
}

macro_rules! integer {
    ($name:ident, $value:ty) => {
        base!($name, $value);

        impl $name {
            /// # Safety
            ///
            /// As in `std`.
            pub(crate) unsafe fn from_ptr<'a>(ptr: *mut $value) -> &'a Self {
                // SAFETY: the caller's promise; it has the layout of `std`'s.
                unsafe { &*ptr.cast::<Self>() }
            }

            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $value, _order: Ordering) -> $value {
                let (Ok(was) | Err(was)) = self.step(|seen| Some(seen.wrapping_add(value)));
                was
            }

            #[track_caller]
            pub(crate) fn fetch_sub(&self, value: $value, _order: Ordering) -> $value {
                let (Ok(was) | Err(was)) = self.step(|seen| Some(seen.wrapping_sub(value)));
                was
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $value, _order: Ordering) -> $value {
                let (Ok(was) | Err(was)) = self.step(|seen| Some(seen | value));
                was
            }

            #[track_caller]
            pub(crate) fn fetch_and(&self, value: $value, _order: Ordering) -> $value {
                let (Ok(was) | Err(was)) = self.step(|seen| Some(seen & value));
                was
            }
        }
    };
}

base!(AtomicBool, bool);
integer!(AtomicU8, u8);
integer!(AtomicU16, u16);
integer!(AtomicU32, u32);
integer!(AtomicU64, u64);
integer!(AtomicUsize, usize);
