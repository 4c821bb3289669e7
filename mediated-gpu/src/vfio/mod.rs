//! A real PCI device through VFIO: its config space, BARs, interrupts, reset, and what it can reach.
//!
//! A device is opened by its group and a container, or by its own node and an iommufd. Where the kernel has an IOMMU for it,
//! it reaches what a [`DmaSpace`] maps and nothing else. In a Xen dom0 there is none: VFIO runs in *noiommu* mode, knows
//! nothing of DMA, and bus addresses come from PV-IOMMU. What to submit to the device is left to the caller.

mod address;
mod chain;
mod device;
mod dma;
mod error;
mod inspect;
mod interrupts;
mod ioctl;
mod keeper;
mod mapped;
mod memory;
mod privilege;
mod region;
mod verdict;

pub use address::Address;
pub use device::{Iommu, Opened, VfioDevice};
pub use dma::{DmaFrames, DmaSpace, Reach};
pub use error::VfioError;
pub use inspect::{Group, Inspection, Member, Node};
pub use interrupts::{Interrupts, Irq, IrqKind};
pub use keeper::keep_memory;
pub use mapped::MappedRegion;
pub use memory::DmaMemory;
pub use privilege::needs;
pub use region::{Region, region_name};
pub use verdict::{Facts, Hypervisor, Reason, Use};
