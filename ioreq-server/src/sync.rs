//! What threads, and the hypervisor, meet in, named in one place: `tests/models` builds ring and slots with a model
//! checker's types here.

pub(crate) use std::sync::atomic;

pub(crate) use parking_lot::RwLock;
