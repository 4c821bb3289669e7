//! The table of live mappings: (guest, gfn) to bus frame and back, counted, O(1) expected both ways.
//!
//! Costs at most 64 bytes a mapping: a record of 16, and 8 for a bus frame that was told, of which a third may be in stock, and
//! in each index, one or two, 64 bytes for 5 to 10 entries. Lookups take no lock that all of them share.

mod chunk;
mod chunks;
mod index;
mod prefetch;
mod records;
mod state;

pub(crate) use index::{Index, Key};
pub(crate) use records::{Record, Records, Slot};
pub(crate) use state::{AtomicState, NoRef, State, Status};
