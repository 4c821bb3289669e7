//! PCI functions: configuration space, BARs, capabilities, and how a guest finds them.
//!
//! Xen turns accesses to CFC into requests for a registered function, so a server decodes nothing; in a guest without
//! another device model one server must also answer reads of CF8 ([`Cf8Latch`]).

mod bar;
mod cf8;
mod config;
mod ecam;
mod endpoint;
mod host_bridge;
mod intx;
mod msi;
mod msix;
mod power;
pub mod regs;

use std::fmt;

pub use bar::{Bar, Placement};
pub use cf8::Cf8Latch;
pub use config::{ConfigBuilder, ConfigError, ConfigSpace, Effect, Offset};
pub use ecam::{Ecam, EcamError};
pub use endpoint::{AttachError, Function, PciEndpoint};
pub use host_bridge::host_bridge;
pub use intx::IntxLine;
pub use msi::{Delivery, Msi, MsiLine};
pub use msix::{MAX_MESSAGES, MsixPlace, MsixTable};
pub use power::{PowerManagement, PowerState};
use xen_ioreq::abi::dm_op::pci_sbdf;

/// A PCI function's number: segment 31-16, bus 15-8, device 7-3, function 2-0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sbdf(pub u32);

#[expect(clippy::cast_possible_truncation, reason = "a number is taken apart")]
impl Sbdf {
    /// From its parts; those that are too large are cut to their 16, 8, 5 and 3 bits.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        Self(pci_sbdf(segment, bus, device, function))
    }

    /// Segment.
    pub const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bus.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3 & 0x1f) as u8
    }

    /// Function, 0 to 7.
    pub const fn function(self) -> u8 {
        (self.0 & 7) as u8
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment(), self.bus(), self.device(), self.function())
    }
}

#[cfg(test)]
mod tests;
