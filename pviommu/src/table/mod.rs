//! The table of live mappings: (guest, gfn) to bus frame and back, counted, O(1) expected both ways.
//!
//! Costs at most 64 bytes a mapping: a record of 32, of which a third may be in stock, and in each index 64 bytes for 5 to
//! 10 entries. Lookups take no lock that all of them share.

mod chunk;
mod index;
mod prefetch;
mod records;
mod state;

pub(crate) use index::Index;
pub(crate) use records::{Records, Slot};
pub(crate) use state::{AtomicState, NoRef, State, Status};
