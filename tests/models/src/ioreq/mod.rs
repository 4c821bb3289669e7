//! Xen's side of ring and slot, from mock-xen.

#[path = "../../../mock-xen/src/ioreq/request.rs"]
#[rustfmt::skip]
pub(crate) mod request;
#[path = "../../../mock-xen/src/ioreq/ring.rs"]
#[rustfmt::skip]
pub(crate) mod ring;
#[path = "../../../mock-xen/src/ioreq/slot.rs"]
#[rustfmt::skip]
pub(crate) mod slot;
