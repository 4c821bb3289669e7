//! A model of the Xen hypervisor: frames, domains, event channels, IOREQ servers, grant tables, PV-IOMMU, devices.
//!
//! It decodes the same bytes as Xen and answers with the same errors, so that a client of the hypervisor runs on
//! it unchanged through [`xen_ioreq::seam`]; [`Caller`] is a domain's hand on it, [`Vcpu`] a guest's processor,
//! [`BusPort`] a device's way to memory. The *oracle* watches every DMA and keeps what went wrong with the
//! history of the frame. Real Xen beats the model: where they differ, the model is to be mended.
//!
//! ```
//! use mock_xen::{Config, DomainConfig, Machine};
//! use xen_ioreq::{Gfn, VcpuId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let machine = Machine::new(Config::default())?;
//! let guest = machine.create_domain(&DomainConfig::default())?;
//! machine.populate(guest, Gfn(0), 16)?;
//! let vcpu = machine.vcpu(guest, VcpuId(0))?;
//! vcpu.ram_write(0x1000, b"hello")?;
//! assert_eq!(vcpu.pio_read(0x80, 1)?, 0xff, "nobody claims this port");
//! assert_eq!(vcpu.decrease_reservation(&[Gfn(1)])?, 1);
//! assert_eq!(vcpu.mmio_read(0x1000, 4)?, 0xffff_ffff, "nothing is there any more");
//! machine.assert_clean();
//! # Ok(())
//! # }
//! ```

#![allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]

mod bus;
mod caller;
mod config;
mod dm_op;
mod domain;
mod eventfd;
mod evtchn;
mod faults;
mod foreign;
mod frames;
mod grant;
mod history;
mod iommu;
mod ioreq;
mod irq;
mod machine;
mod memory;
mod memory_op;
mod oracle;
mod own_frames;
mod p2m;
mod page_table;
mod process;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod stress;
mod sync;
#[cfg(test)]
mod testing;
mod vcpu;

pub use bus::{BusAccess, BusFault, BusPin, BusPort};
pub use caller::{Caller, RestrictedCaller};
pub use config::{Config, DomainConfig, Iommu, Profile, RmrrRange};
pub use dm_op::InjectedEvent;
pub use domain::{DomainInfo, ShutdownReason};
pub use evtchn::EvtchnDevice;
pub use faults::{Fault, FaultPlan, Killed, Moment, Rule, Site, When};
pub use iommu::OpArray;
pub use irq::InterruptLines;
pub use machine::{CreateError, FrameInfo, Machine};
pub use oracle::{Violation, ViolationKind};
pub use own_frames::OwnFrames;
pub use vcpu::{Vcpu, VcpuError};
