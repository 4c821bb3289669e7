//! The concurrent parts of the project under a model checker: which orders are tried is loom's, what runs is the
//! project's own sources, built here once more with the checker's types in place of `std`'s and `parking_lot`'s.
//!
//! Each module of [`model`] is a scene of few threads with what must hold in it; the tests say which, and that it fails
//! where something is done wrong.
// The sources' own tests run where the sources are; formatting, too.
#![cfg(not(test))]
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the sources are whole; a model uses a part of them"
)]

mod checker;
pub mod model;
mod sync;

pub use checker::{Checker, Fault};

// pviommu
#[path = "../../../pviommu/src/backend/mod.rs"]
#[rustfmt::skip]
mod backend;
#[path = "../../../pviommu/src/bfn/mod.rs"]
#[rustfmt::skip]
mod bfn;
#[path = "../../../pviommu/src/client.rs"]
#[rustfmt::skip]
mod client;
#[path = "../../../pviommu/src/error.rs"]
#[rustfmt::skip]
mod error;
#[path = "../../../pviommu/src/guest/mod.rs"]
#[rustfmt::skip]
mod guest;
#[path = "../../../pviommu/src/ledger/mod.rs"]
#[rustfmt::skip]
mod ledger;
#[path = "../../../pviommu/src/mapping.rs"]
#[rustfmt::skip]
mod mapping;
#[path = "../../../pviommu/src/mode.rs"]
#[rustfmt::skip]
mod mode;
#[path = "../../../pviommu/src/own.rs"]
#[rustfmt::skip]
mod own;
#[path = "../../../pviommu/src/reclaim.rs"]
#[rustfmt::skip]
mod reclaim;
#[path = "../../../pviommu/src/soft.rs"]
#[rustfmt::skip]
mod soft;
#[path = "../../../pviommu/src/table/mod.rs"]
#[rustfmt::skip]
mod table;
#[path = "../../../pviommu/src/view.rs"]
#[rustfmt::skip]
mod view;
#[path = "../../../pviommu/src/wire.rs"]
#[rustfmt::skip]
mod wire;

// mock-xen, with a machine and a domain that are less than there
#[path = "../../mock-xen/src/bus.rs"]
#[rustfmt::skip]
mod bus;
mod domain;
#[path = "../../mock-xen/src/frames/mod.rs"]
#[rustfmt::skip]
mod frames;
#[path = "../../mock-xen/src/history.rs"]
#[rustfmt::skip]
mod history;
mod grant;
mod iommu;
mod ioreq;
mod machine;
mod memory;
#[path = "../../mock-xen/src/oracle.rs"]
#[rustfmt::skip]
mod oracle;
#[path = "../../mock-xen/src/vcpu/wake.rs"]
#[rustfmt::skip]
mod wake;

// ioreq-server
mod emulator;

// mediated-gpu
#[path = "../../../mediated-gpu/src/soft/team/seat.rs"]
#[rustfmt::skip]
mod seat;

// stubdom
mod channel;
mod shared;
