//! What devices and vCPUs meet in, named in one place: `tests/models` builds those sources with a model checker's types
//! here.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::{OnceLock, atomic};

pub(crate) use parking_lot::Mutex;
pub(crate) use rustix::thread::futex;
pub(crate) use std::thread::yield_now;
