//! What threads meet in, named in one place: `tests/models` builds what the software GPU hands work over by with a model
//! checker's types here.

pub(crate) use std::sync::atomic;

pub(crate) use rustix::thread::futex;
