//! The table of live mappings: (guest, gfn) to bus frame and back, counted, O(1) expected both ways.
//!
//! Costs at most 48 bytes a mapping: a record of 16, of which half may be in stock, and an index of 64 bytes for 5 to 10 entries;
//! where bus frames are told, 80: their numbers and one more index. Lookups take no lock that all of them share.

mod chunk;
mod index;
mod prefetch;
mod records;
mod state;

pub(crate) use index::{Index, Key};
pub(crate) use records::{Record, Records, Slot};
pub(crate) use state::{AtomicState, NoRef, State, Status};
