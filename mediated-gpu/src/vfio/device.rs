//! Opening a device, by its group or its own node; then its regions, config space and reset.

use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_GROUP_FLAGS_VIABLE,
    VFIO_NOIOMMU_IOMMU, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU,
};

use super::dma::DmaSpace;
use super::error::os;
use super::inspect::{Group, Inspection, Node};
use super::interrupts::Irq;
use super::{Address, Region, VfioError, ioctl};

const CONTAINER: &str = "/dev/vfio/vfio";
const IOMMUFD: &str = "/dev/iommu";

/// Byte offset of the command register in the config space.
const COMMAND: u64 = 0x04;
/// Command: the device may access memory by itself.
const COMMAND_MASTER: u16 = 1 << 2;

/// Who translates the device's bus addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iommu {
    /// Nobody that this kernel knows of: bus addresses must come from PV-IOMMU.
    None,
    /// The kernel's own IOMMU driver.
    Type1,
}

/// By what a device was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The node of its group, in a container.
    Group(PathBuf),
    /// Its own node, with an iommufd.
    Node(PathBuf),
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(path) => write!(f, "{} and a container", path.display()),
            Self::Node(path) => write!(f, "{} and an iommufd", path.display()),
        }
    }
}

/// A device of which this program is the driver.
#[derive(Debug)]
pub struct VfioDevice {
    pub(super) fd: OwnedFd,
    address: Address,
    opened: Opened,
    regions: Vec<Region>,
    irqs: Vec<Irq>,
    space: Option<Arc<DmaSpace>>,
    can_reset: bool,
    /// A group and its container live as long as the device.
    _kept: Vec<OwnedFd>,
}

fn open(path: impl AsRef<Path>) -> Result<OwnedFd, VfioError> {
    let path = path.as_ref();
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(os(format!("open {}", path.display())))
}

impl VfioDevice {
    /// Opens the device at an address: by its own node where the kernel has one and an iommufd, by its group otherwise.
    ///
    /// # Errors
    /// It is not there, not bound to vfio-pci, its group is not viable, or the kernel refuses.
    pub fn open(address: Address) -> Result<Self, VfioError> {
        let found = Inspection::of(address)?;
        match (&found.node, &found.group) {
            (Some(node), _) if node.0.exists() && Path::new(IOMMUFD).exists() => {
                Self::open_node(address, node)
            }
            (_, Some(group)) => Self::open_group(address, group),
            (_, None) => Err(VfioError::NoGroup(address)),
        }
    }

    /// Opens it by its own node and a new iommufd.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_node(address: Address, node: &Node) -> Result<Self, VfioError> {
        let iommufd = open(IOMMUFD)?;
        let fd = open(&node.0)?;
        ioctl::bind_iommufd(&fd, &iommufd).map_err(os("VFIO_DEVICE_BIND_IOMMUFD"))?;
        let ioas = ioctl::ioas_alloc(&iommufd).map_err(os("IOMMU_IOAS_ALLOC"))?;
        ioctl::attach_iommufd(&fd, ioas).map_err(os("VFIO_DEVICE_ATTACH_IOMMUFD_PT"))?;
        let space = DmaSpace::of_iommufd(iommufd, ioas)?;
        Self::new(fd, address, Opened::Node(node.0.clone()), Some(space), Vec::new())
    }

    /// Opens it by its group and a new container.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_group(address: Address, group: &Group) -> Result<Self, VfioError> {
        let path = group.path();
        let container = open(CONTAINER)?;
        let version = ioctl::api_version(&container).map_err(os("VFIO_GET_API_VERSION"))?;
        if u32::try_from(version) != Ok(VFIO_API_VERSION) {
            return Err(VfioError::Version(version));
        }
        let node = if path.exists() { open(&path)? } else { return Err(VfioError::NoGroup(address)) };
        if ioctl::group_flags(&node).map_err(os("VFIO_GROUP_GET_STATUS"))? & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(VfioError::NotViable { group: path.display().to_string() });
        }
        ioctl::set_container(&node, &container).map_err(os("VFIO_GROUP_SET_CONTAINER"))?;
        let has = |kind| ioctl::has_extension(&container, kind).map_err(os("VFIO_CHECK_EXTENSION"));
        let kind = match group.noiommu {
            true => VFIO_NOIOMMU_IOMMU,
            false if has(VFIO_TYPE1v2_IOMMU)? => VFIO_TYPE1v2_IOMMU,
            false => VFIO_TYPE1_IOMMU,
        };
        ioctl::set_iommu(&container, kind).map_err(os("VFIO_SET_IOMMU"))?;
        let name = CString::new(address.to_string()).unwrap_or_default();
        let fd = ioctl::device_fd(&node, &name).map_err(os(format!("VFIO_GROUP_GET_DEVICE_FD {address}")))?;
        let (space, kept) = match group.noiommu {
            true => (None, vec![node, container]),
            false => (Some(DmaSpace::of_container(container)?), vec![node]),
        };
        Self::new(fd, address, Opened::Group(path), space, kept)
    }

    fn new(
        fd: OwnedFd,
        address: Address,
        opened: Opened,
        space: Option<DmaSpace>,
        kept: Vec<OwnedFd>,
    ) -> Result<Self, VfioError> {
        let info = ioctl::device_info(&fd).map_err(os("VFIO_DEVICE_GET_INFO"))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(VfioError::NotPci(address));
        }
        // What the device does not have answers EINVAL.
        let region = |index| Region::parse(index, &ioctl::region_info(&fd, index).ok()?);
        let irq = |index| Irq::of(ioctl::irq_info(&fd, index).ok()?);
        let regions = (0..info.num_regions).filter_map(region).collect();
        let irqs = (0..info.num_irqs).filter_map(irq).collect();
        let can_reset = info.flags & VFIO_DEVICE_FLAGS_RESET != 0;
        let space = space.map(Arc::new);
        Ok(Self { fd, address, opened, regions, irqs, space, can_reset, _kept: kept })
    }

    /// The PCI address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// By what it was opened.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Who translates its bus addresses.
    pub fn iommu(&self) -> Iommu {
        if self.space.is_some() { Iommu::Type1 } else { Iommu::None }
    }

    /// What it can reach; `None` without an IOMMU.
    pub fn space(&self) -> Option<&Arc<DmaSpace>> {
        self.space.as_ref()
    }

    /// The regions that it has.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The kinds of interrupts that it has.
    pub fn irqs(&self) -> &[Irq] {
        &self.irqs
    }

    /// Whether it can be reset.
    pub fn can_reset(&self) -> bool {
        self.can_reset
    }

    /// Region `index` (a BAR's number, or 7 for the config space).
    pub fn region(&self, index: u32) -> Option<&Region> {
        self.regions.iter().find(|r| r.index == index)
    }

    fn position(
        &self,
        index: u32,
        offset: u64,
        len: usize,
        may: fn(&Region) -> bool,
    ) -> Result<u64, VfioError> {
        let region = self.region(index).filter(|r| may(r));
        region.and_then(|r| r.position(offset, len)).ok_or(VfioError::Range { index, offset, len })
    }

    /// Reads bytes of a region.
    ///
    /// # Errors
    /// They are outside, or the kernel refuses.
    pub fn read(&self, index: u32, offset: u64, bytes: &mut [u8]) -> Result<(), VfioError> {
        let at = self.position(index, offset, bytes.len(), Region::readable)?;
        let n = rustix::io::pread(&self.fd, &mut *bytes, at).map_err(os(format!("read region {index}")))?;
        if n == bytes.len() { Ok(()) } else { Err(VfioError::Range { index, offset, len: bytes.len() }) }
    }

    /// Writes bytes of a region.
    ///
    /// # Errors
    /// They are outside, or the kernel refuses.
    pub fn write(&self, index: u32, offset: u64, bytes: &[u8]) -> Result<(), VfioError> {
        let at = self.position(index, offset, bytes.len(), Region::writable)?;
        let n = rustix::io::pwrite(&self.fd, bytes, at).map_err(os(format!("write region {index}")))?;
        if n == bytes.len() { Ok(()) } else { Err(VfioError::Range { index, offset, len: bytes.len() }) }
    }

    /// Reads a word of the config space.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn config16(&self, offset: u64) -> Result<u16, VfioError> {
        let mut word = [0; 2];
        self.read(VFIO_PCI_CONFIG_REGION_INDEX, offset, &mut word)?;
        Ok(u16::from_le_bytes(word))
    }

    /// Vendor and device id, from the config space.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn id(&self) -> Result<(u16, u16), VfioError> {
        Ok((self.config16(0)?, self.config16(2)?))
    }

    /// Whether the device may access memory by itself. VFIO hands it out without that right. Taken away, it ends all DMA,
    /// whatever the device is doing.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn set_bus_master(&self, may: bool) -> Result<(), VfioError> {
        let command = self.config16(COMMAND)?;
        let command = if may { command | COMMAND_MASTER } else { command & !COMMAND_MASTER };
        self.write(VFIO_PCI_CONFIG_REGION_INDEX, COMMAND, &command.to_le_bytes())
    }

    /// Resets the function, if it can be. Whether it could is the answer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reset(&self) -> Result<bool, VfioError> {
        if !self.can_reset {
            return Ok(false);
        }
        ioctl::reset(&self.fd).map_err(os("VFIO_DEVICE_RESET"))?;
        Ok(true)
    }
}
