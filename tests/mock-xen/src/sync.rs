//! What threads meet in without a lock, named in one place: `tests/models` builds these sources with a model checker's
//! types here.

pub(crate) use std::hint::spin_loop;
pub(crate) use std::sync::{OnceLock, atomic};

pub(crate) use rustix::thread::futex;
