//! A guest's driver for the vGPU: finds it, draws with its blitter, balloons the memory that it draws in.
//!
//! The same code drives a model's vCPU and is a PVH kernel on real Xen; what differs is the [`Platform`]. It knows the
//! hardware from Intel's documents alone and shares no code with the device model, so that a mistake in one cannot
//! hide in the other. No allocator, no floating point; every wait is bounded.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod cmd;
pub mod context;
mod engine;
#[cfg(test)]
mod fake;
mod gpu;
pub mod grants;
pub mod hostile;
pub mod layout;
#[cfg(feature = "model")]
pub mod model;
pub mod pci;
mod platform;
pub mod regs;
mod rng;
pub mod rows;
pub mod run;
pub mod scene;
#[cfg(test)]
mod tests;
mod words;

pub use gpu::{DriverError, Gpu};
pub use platform::{MsiMessage, Platform, RamFault, RamRange, Way, Width, is_ram};
pub use rng::Rng;

/// Start value of FNV-1a, 64 bits.
pub(crate) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// One step of it.
pub(crate) fn fnv1a(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}
