//! The table of live mappings: (guest, gfn) to bus frame and back, counted, O(1) expected both ways.
//!
//! Costs at most 55 bytes a mapping: a record of 32, and a `u32` and a control byte in each of two hash tables that
//! are at least 7/16 full. Lookups take no lock that all of them share.

mod arena;
mod index;
mod state;

pub(crate) use arena::{Arena, Slot};
pub(crate) use index::Index;
pub(crate) use state::{AtomicState, NoRef, State, Status};
