//! What can be wrong with a device, in an operator's words.

use rustix::io::Errno;
use xen_ioreq::Bfn;

use super::{Address, IrqKind};

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// Not of the form `0000:00:02.0`.
    #[error("{0:?} is not a PCI address: write it as 0000:00:02.0")]
    Address(String),
    /// There is no such device.
    #[error("{0}: there is no such PCI device here")]
    NoDevice(Address),
    /// The device is not bound to vfio-pci, or VFIO does not take it without an IOMMU.
    #[error(
        "VFIO has no node for {0}: bind it to vfio-pci (driver_override), and in a Xen dom0 load vfio with enable_unsafe_noiommu_mode=1"
    )]
    NoGroup(Address),
    /// A device of the group still belongs to another driver.
    #[error("VFIO group {group} is not viable: every device in it must be bound to vfio-pci")]
    NotViable {
        /// The group.
        group: String,
    },
    /// The kernel speaks another VFIO.
    #[error("VFIO API version {0}, wanted 0")]
    Version(i32),
    /// Not a PCI device.
    #[error("{0} is not a PCI device to VFIO")]
    NotPci(Address),
    /// An access outside a region, or of a kind that the region does not take.
    #[error("region {index}: {len} bytes at {offset:#x} are outside")]
    Range {
        /// Region index.
        index: u32,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: usize,
    },
    /// The device has no such interrupts, or fewer.
    #[error("{address} has {has} {kind} vectors that can be sent to an eventfd, {wanted} are wanted")]
    Vectors {
        /// The device.
        address: Address,
        /// Which interrupts.
        kind: IrqKind,
        /// How many there are.
        has: u32,
        /// How many were asked for.
        wanted: u32,
    },
    /// Nothing can be mapped for the device: no IOMMU, or none that this kernel knows of.
    #[error("{0} has no IOMMU of this kernel's: bus addresses must come from PV-IOMMU")]
    NoIommu(Address),
    /// The IOMMU took back less than was mapped.
    #[error("the IOMMU has taken back {got:#x} of {wanted:#x} bytes from {bfn} on")]
    Unmapped {
        /// The first bus frame.
        bfn: Bfn,
        /// Bytes taken back.
        got: u64,
        /// Bytes mapped.
        wanted: u64,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: Errno,
    },
}

/// Names what failed.
pub(super) fn os(what: impl Into<String>) -> impl FnOnce(Errno) -> VfioError {
    let what = what.into();
    move |source| VfioError::Os { what, source }
}
