//! Its cache of guest memory.

#[path = "../../../../../ioreq-server/src/memory/cache.rs"]
#[rustfmt::skip]
pub(crate) mod cache;
#[path = "../../../../../ioreq-server/src/memory/place.rs"]
#[rustfmt::skip]
pub(crate) mod place;
