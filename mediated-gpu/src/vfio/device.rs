//! Opening a device: container, group, device; then its regions and interrupts.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_NOIOMMU_IOMMU,
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_REGION_INFO_FLAG_READ,
    VFIO_REGION_INFO_FLAG_WRITE, VFIO_TYPE1_IOMMU,
};

use super::ioctl;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// Not of the form `0000:00:02.0`.
    #[error("{0:?} is not a PCI address: write it as 0000:00:02.0")]
    Address(String),
    /// The device is not bound to vfio-pci.
    #[error(
        "{bdf} has no VFIO group: bind it to vfio-pci (driver_override), and in a Xen dom0 load vfio with enable_unsafe_noiommu_mode=1"
    )]
    NoGroup {
        /// The device.
        bdf: String,
    },
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
    #[error("{bdf} is not a PCI device to VFIO")]
    NotPci {
        /// The device.
        bdf: String,
    },
    /// An access outside a region.
    #[error("region {index}: {len} bytes at {offset:#x} are outside")]
    Range {
        /// Region index.
        index: u32,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: usize,
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

fn os(what: impl Into<String>) -> impl FnOnce(Errno) -> VfioError {
    let what = what.into();
    move |source| VfioError::Os { what, source }
}

/// Who translates the device's bus addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iommu {
    /// Nobody that this kernel knows of: bus addresses must come from PV-IOMMU.
    None,
    /// The kernel's own IOMMU driver.
    Type1,
}

/// A region of the device: a BAR, or its config space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// VFIO's region index: 0-5 are the BARs, 7 the config space.
    pub index: u32,
    /// Length in bytes.
    pub size: u64,
    /// Where it starts in the device's descriptor.
    offset: u64,
    flags: u32,
}

/// A device of which this program is the driver.
#[derive(Debug)]
pub struct VfioDevice {
    device: OwnedFd,
    regions: Vec<Region>,
    iommu: Iommu,
    can_reset: bool,
    bdf: String,
    // a group and its container live as long as the device
    _group: OwnedFd,
    _container: OwnedFd,
}

fn valid_bdf(bdf: &str) -> bool {
    let b = bdf.as_bytes();
    b.len() == 12
        && b.iter().enumerate().all(|(i, c)| match i {
            4 | 7 => *c == b':',
            10 => *c == b'.',
            _ => c.is_ascii_hexdigit(),
        })
}

/// The group of a device, from what sysfs says of it.
fn group_of(sysfs: &Path, bdf: &str) -> Result<(PathBuf, Iommu), VfioError> {
    if !valid_bdf(bdf) {
        return Err(VfioError::Address(bdf.into()));
    }
    let no_group = || VfioError::NoGroup { bdf: bdf.into() };
    let device = sysfs.join("bus/pci/devices").join(bdf);
    let link = std::fs::read_link(device.join("iommu_group")).map_err(|_| no_group())?;
    let number = link.file_name().and_then(|n| n.to_str()).ok_or_else(no_group)?;
    // A noiommu group calls itself so in its name.
    let name = std::fs::read_to_string(device.join("iommu_group/name")).unwrap_or_default();
    if name.trim() == "vfio-noiommu" {
        Ok((PathBuf::from(format!("/dev/vfio/noiommu-{number}")), Iommu::None))
    } else {
        Ok((PathBuf::from(format!("/dev/vfio/{number}")), Iommu::Type1))
    }
}

impl VfioDevice {
    /// Opens the device at PCI address `bdf` (`0000:00:02.0`).
    pub fn open(bdf: &str) -> Result<Self, VfioError> {
        let (path, iommu) = group_of(Path::new("/sys"), bdf)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let container =
            rustix::fs::open("/dev/vfio/vfio", flags, Mode::empty()).map_err(os("open /dev/vfio/vfio"))?;
        let version = ioctl::api_version(&container).map_err(os("VFIO_GET_API_VERSION"))?;
        if u32::try_from(version) != Ok(VFIO_API_VERSION) {
            return Err(VfioError::Version(version));
        }
        let group =
            rustix::fs::open(&path, flags, Mode::empty()).map_err(os(format!("open {}", path.display())))?;
        if ioctl::group_flags(&group).map_err(os("VFIO_GROUP_GET_STATUS"))? & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(VfioError::NotViable { group: path.display().to_string() });
        }
        ioctl::set_container(&group, &container).map_err(os("VFIO_GROUP_SET_CONTAINER"))?;
        let kind = match iommu {
            Iommu::None => VFIO_NOIOMMU_IOMMU,
            Iommu::Type1 => VFIO_TYPE1_IOMMU,
        };
        ioctl::set_iommu(&container, kind).map_err(os("VFIO_SET_IOMMU"))?;
        let name = CString::new(bdf).map_err(|_| VfioError::Address(bdf.into()))?;
        let device =
            ioctl::device_fd(&group, &name).map_err(os(format!("VFIO_GROUP_GET_DEVICE_FD {bdf}")))?;

        let info = ioctl::device_info(&device).map_err(os("VFIO_DEVICE_GET_INFO"))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(VfioError::NotPci { bdf: bdf.into() });
        }
        let mut regions = Vec::new();
        for index in 0..info.num_regions {
            // A region that the device does not have answers EINVAL.
            if let Ok(r) = ioctl::region_info(&device, index)
                && r.size > 0
            {
                regions.push(Region { index, size: r.size, offset: r.offset, flags: r.flags });
            }
        }
        let can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET != 0;
        Ok(Self { device, regions, iommu, can_reset, bdf: bdf.into(), _group: group, _container: container })
    }

    /// The PCI address.
    pub fn bdf(&self) -> &str {
        &self.bdf
    }

    /// Who translates its bus addresses.
    pub fn iommu(&self) -> Iommu {
        self.iommu
    }

    /// The regions that it has.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Region `index` (a BAR's number, or 7 for the config space).
    pub fn region(&self, index: u32) -> Option<Region> {
        self.regions.iter().copied().find(|r| r.index == index)
    }

    fn position(&self, index: u32, offset: u64, len: usize, need: u32) -> Result<u64, VfioError> {
        let outside = VfioError::Range { index, offset, len };
        match self.region(index) {
            Some(r) if r.flags & need != 0 => r.position(offset, len).ok_or(outside),
            _ => Err(outside),
        }
    }

    /// Reads bytes of a region.
    pub fn read(&self, index: u32, offset: u64, bytes: &mut [u8]) -> Result<(), VfioError> {
        let at = self.position(index, offset, bytes.len(), VFIO_REGION_INFO_FLAG_READ)?;
        let n =
            rustix::io::pread(&self.device, &mut *bytes, at).map_err(os(format!("read region {index}")))?;
        if n == bytes.len() { Ok(()) } else { Err(VfioError::Range { index, offset, len: bytes.len() }) }
    }

    /// Writes bytes of a region.
    pub fn write(&self, index: u32, offset: u64, bytes: &[u8]) -> Result<(), VfioError> {
        let at = self.position(index, offset, bytes.len(), VFIO_REGION_INFO_FLAG_WRITE)?;
        let n = rustix::io::pwrite(&self.device, bytes, at).map_err(os(format!("write region {index}")))?;
        if n == bytes.len() { Ok(()) } else { Err(VfioError::Range { index, offset, len: bytes.len() }) }
    }

    /// Vendor and device id, from the config space.
    pub fn id(&self) -> Result<(u16, u16), VfioError> {
        let mut b = [0; 4];
        self.read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut b)?;
        Ok((u16::from_le_bytes([b[0], b[1]]), u16::from_le_bytes([b[2], b[3]])))
    }

    /// Number of MSI vectors that can be sent to an eventfd.
    pub fn msi_vectors(&self) -> Result<u32, VfioError> {
        let info =
            ioctl::irq_info(&self.device, VFIO_PCI_MSI_IRQ_INDEX).map_err(os("VFIO_DEVICE_GET_IRQ_INFO"))?;
        Ok(if info.flags & VFIO_IRQ_INFO_EVENTFD != 0 { info.count } else { 0 })
    }

    /// Sends the first MSI to `eventfd`, or to nobody.
    pub fn set_msi(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<(), VfioError> {
        let mut set = ioctl::IrqSet {
            argsz: ioctl::argsz::<ioctl::IrqSet>(),
            flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
            index: VFIO_PCI_MSI_IRQ_INDEX,
            start: 0,
            count: 1,
            eventfd: eventfd.map_or(-1, |fd| fd.as_raw_fd()),
        };
        ioctl::set_irqs(&self.device, &mut set).map_err(os("VFIO_DEVICE_SET_IRQS"))
    }

    /// Resets the function, if it can be. Whether it could is the answer.
    pub fn reset(&self) -> Result<bool, VfioError> {
        if !self.can_reset {
            return Ok(false);
        }
        ioctl::reset(&self.device).map_err(os("VFIO_DEVICE_RESET"))?;
        Ok(true)
    }
}

impl Region {
    /// Where `len` bytes at `offset` lie in the descriptor, if they are inside.
    fn position(&self, offset: u64, len: usize) -> Option<u64> {
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        if end <= self.size { self.offset.checked_add(offset) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_none_is_refused_before_anything_is_opened() {
        for bad in ["", "00:02.0", "0000:00:02-0", "0000:00:02.0/../..", "gggg:00:02.0"] {
            assert!(matches!(VfioDevice::open(bad), Err(VfioError::Address(_))), "{bad}");
        }
        assert!(valid_bdf("0000:00:1f.7"));
    }

    #[test]
    fn a_group_is_found_and_its_kind_told_by_sysfs() {
        let dir = std::env::temp_dir().join(format!("vfio-sysfs-{}", std::process::id()));
        let dev = dir.join("bus/pci/devices/0000:00:02.0");
        let group = dir.join("kernel/iommu_groups/7");
        std::fs::create_dir_all(&dev).expect("mkdir");
        std::fs::create_dir_all(&group).expect("mkdir");
        assert!(matches!(group_of(&dir, "0000:00:02.0"), Err(VfioError::NoGroup { .. })));
        std::os::unix::fs::symlink(&group, dev.join("iommu_group")).expect("symlink");
        assert_eq!(group_of(&dir, "0000:00:02.0").expect("group"), ("/dev/vfio/7".into(), Iommu::Type1));
        std::fs::write(group.join("name"), "vfio-noiommu\n").expect("write");
        assert_eq!(
            group_of(&dir, "0000:00:02.0").expect("group"),
            ("/dev/vfio/noiommu-7".into(), Iommu::None)
        );
        std::fs::remove_dir_all(&dir).expect("cleanup");
    }

    #[test]
    fn an_access_that_leaves_its_region_has_no_position() {
        let r = Region { index: 0, size: 16, offset: 1 << 40, flags: 3 };
        assert_eq!(r.position(12, 4), Some((1 << 40) + 12));
        assert_eq!(r.position(13, 4), None);
        assert_eq!(r.position(u64::MAX, 4), None);
    }
}
