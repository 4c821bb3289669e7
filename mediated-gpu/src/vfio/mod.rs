//! A real PCI device through VFIO: its config space, BARs, interrupts and reset.
//!
//! In a Xen dom0 there is no IOMMU group, so VFIO runs in *noiommu* mode and knows nothing of DMA: bus addresses come
//! from PV-IOMMU. Elsewhere the group has an IOMMU (type 1). What to submit to the device is left to the caller.

mod device;
mod ioctl;

pub use device::{Iommu, Region, VfioDevice, VfioError};
