//! The emulator's side of ring and slot, from ioreq-server.

#[path = "../../../../ioreq-server/src/ring.rs"]
#[rustfmt::skip]
pub(crate) mod ring;
#[path = "../../../../ioreq-server/src/slot.rs"]
#[rustfmt::skip]
pub(crate) mod slot;
