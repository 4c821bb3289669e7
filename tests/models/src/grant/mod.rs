//! mock-xen's grant tables without the operations: entries in the granter's pages, and what is remembered of a reference.
#![allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]

#[path = "../../../mock-xen/src/grant/entry.rs"]
#[rustfmt::skip]
mod entry;
#[path = "../../../mock-xen/src/grant/pins.rs"]
#[rustfmt::skip]
mod pins;
#[path = "../../../mock-xen/src/grant/table.rs"]
#[rustfmt::skip]
mod table;

pub(crate) use entry::{Ask, Entry, Purpose};
pub(crate) use pins::Side;
pub(crate) use table::{Active, drained};
