//! PV-IOMMU client: at which bus frame a device reaches a guest's frame, and when it must stop.
//!
//! [`Client::start`] asks the hypervisor and chooses a [`Mode`]; a [`Guest`] maps frames and takes notices; [`Mapped`] →
//! [`Draining`] → [`Quiesced`] is the way out, and no mapping is released before a flush. Knows no device: who holds
//! PTEs, and what a flush is, is the caller's.

mod backend;
mod bfn;
mod broker;
mod client;
mod error;
#[cfg(test)]
mod fake;
mod guest;
mod ledger;
mod mapping;
mod mode;
mod own;
mod pool;
#[cfg(test)]
mod property;
mod reclaim;
#[cfg(test)]
mod renewal_tests;
mod soft;
#[cfg(test)]
mod stress;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod view;
#[cfg(test)]
mod view_tests;
mod wire;

pub use bfn::{BfnAllocator, BfnBlock, BfnSpace};
pub use broker::{Broker, Brokered};
pub use client::{Client, Config, Stats};
pub use error::{
    AttachError, MapError, Operation, OwnError, ReclaimError, ReleaseError, RevalidateError, StartError,
};
pub use guest::{Announced, EVERYTHING, Guest, GuestStats};
pub use ledger::LedgerError;
pub use mapping::{Cause, DeviceFlush, Draining, Mapped, Quiesced, Released};
pub use mode::{Device, Mode, Ports};
pub use own::{OwnFrame, OwnFrames, OwnMemory, OwnPages, ProcessMemory};
pub use pool::OwnPool;
pub use reclaim::{Kept, Reclaimed, Uncertain};
pub use soft::{NotMapped, SoftIommu, SoftPin};
pub use view::View;
