//! What the two ends of a channel meet in, named in one place: `tests/models` builds the rings with a model checker's types
//! here.

pub(crate) use std::sync::atomic;
