//! Whole operations of the model hypervisor under a scheduler: who goes on at each lock, atomic and wait is shuttle's to say, what
//! runs is mock-xen's own sources, built here once more with other types in the place of `crate::sync`.
//!
//! Each function of [`scene`] is a scene of few threads with what must hold in it, and at its end; the tests say which, and that
//! it fails where something is done wrong. `tests/models` has the small parts in every order and with weak memory; here orderings
//! are taken as sequentially consistent, and orders are samples.
// The sources' own tests run where the sources are; formatting, too.
#![cfg(not(test))]
#![allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the sources are whole; the scenes use a part of them"
)]

mod checker;
pub mod scene;
mod sync;

pub use checker::{Checker, Fault};

#[path = "../../mock-xen/src/bus.rs"]
#[rustfmt::skip]
mod bus;
#[path = "../../mock-xen/src/caller.rs"]
#[rustfmt::skip]
mod caller;
#[path = "../../mock-xen/src/config.rs"]
#[rustfmt::skip]
mod config;
#[path = "../../mock-xen/src/dm_op/mod.rs"]
#[rustfmt::skip]
mod dm_op;
#[path = "../../mock-xen/src/domain.rs"]
#[rustfmt::skip]
mod domain;
#[path = "../../mock-xen/src/eventfd.rs"]
#[rustfmt::skip]
mod eventfd;
#[path = "../../mock-xen/src/evtchn/mod.rs"]
#[rustfmt::skip]
mod evtchn;
#[path = "../../mock-xen/src/faults.rs"]
#[rustfmt::skip]
mod faults;
#[path = "../../mock-xen/src/foreign.rs"]
#[rustfmt::skip]
mod foreign;
#[path = "../../mock-xen/src/frames/mod.rs"]
#[rustfmt::skip]
mod frames;
#[path = "../../mock-xen/src/grant/mod.rs"]
#[rustfmt::skip]
mod grant;
#[path = "../../mock-xen/src/history.rs"]
#[rustfmt::skip]
mod history;
#[path = "../../mock-xen/src/iommu/mod.rs"]
#[rustfmt::skip]
mod iommu;
#[path = "../../mock-xen/src/ioreq/mod.rs"]
#[rustfmt::skip]
mod ioreq;
#[path = "../../mock-xen/src/irq/mod.rs"]
#[rustfmt::skip]
mod irq;
#[path = "../../mock-xen/src/machine.rs"]
#[rustfmt::skip]
mod machine;
#[path = "../../mock-xen/src/memory.rs"]
#[rustfmt::skip]
mod memory;
#[path = "../../mock-xen/src/memory_op.rs"]
#[rustfmt::skip]
mod memory_op;
#[path = "../../mock-xen/src/oracle.rs"]
#[rustfmt::skip]
mod oracle;
#[path = "../../mock-xen/src/own_frames.rs"]
#[rustfmt::skip]
mod own_frames;
#[path = "../../mock-xen/src/p2m.rs"]
#[rustfmt::skip]
mod p2m;
#[path = "../../mock-xen/src/page_table.rs"]
#[rustfmt::skip]
mod page_table;
#[path = "../../mock-xen/src/process.rs"]
#[rustfmt::skip]
mod process;
#[path = "../../mock-xen/src/vcpu/mod.rs"]
#[rustfmt::skip]
mod vcpu;

// What the sources find at the root.
use bus::{BusAccess, BusFault, BusPin, BusPort};
use caller::{Caller, RestrictedCaller};
use config::{Config, DomainConfig, Iommu, Profile, RmrrRange};
use machine::Machine;
use vcpu::{Vcpu, VcpuError};
