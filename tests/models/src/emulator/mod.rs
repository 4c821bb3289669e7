//! The emulator's side of ring and slot, and its cache of guest memory, from ioreq-server.

pub(crate) mod memory;
#[path = "../../../../ioreq-server/src/ring.rs"]
#[rustfmt::skip]
pub(crate) mod ring;
#[path = "../../../../ioreq-server/src/slot.rs"]
#[rustfmt::skip]
pub(crate) mod slot;
