//! What threads meet in, and chance, named in one place: `tests/models` builds these sources, whose modules it names one
//! by one, with a model checker's types here.

pub(crate) use std::hash::RandomState;
pub(crate) use std::sync::{OnceLock, atomic};

pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
