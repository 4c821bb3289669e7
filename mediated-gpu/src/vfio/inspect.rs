//! What sysfs says of a device, before it is opened: who drives it, who shares its group, and what it is.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Address, VfioError};

/// A device as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Where it is.
    pub address: Address,
    /// Vendor number.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// The devices that cannot be told apart from it by an IOMMU.
    pub group: Option<Group>,
    /// Its own node, by which it is opened with an iommufd.
    pub node: Option<Node>,
    /// How the kernel can reset it: `flr`, `pm`, `bus`.
    pub reset_methods: Vec<String>,
}

/// An IOMMU group, or what stands for one where there is no IOMMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub number: u32,
    /// There is no IOMMU: the device reaches all memory.
    pub noiommu: bool,
    /// Who is in it, by address.
    pub members: Vec<Member>,
}

/// A device in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub address: Address,
    /// The driver that it is bound to.
    pub driver: Option<String>,
}

/// A device's own node below `/dev/vfio/devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node(pub PathBuf);

impl Member {
    /// Whether its driver leaves the group to others: none, one of VFIO's, or one that starts no DMA.
    pub fn yields(&self) -> bool {
        match self.driver.as_deref() {
            None | Some("pci-stub" | "pcieport") => true,
            Some(name) => name == "vfio" || name.starts_with("vfio-") || name.ends_with("-vfio-pci"),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.driver.as_deref().unwrap_or("no driver"))
    }
}

impl Group {
    /// The node by which it is opened.
    pub fn path(&self) -> PathBuf {
        let noiommu = if self.noiommu { "noiommu-" } else { "" };
        PathBuf::from(format!("/dev/vfio/{noiommu}{}", self.number))
    }

    /// The members that keep it from being used.
    pub fn blockers(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| !m.yields())
    }
}

impl Inspection {
    /// Looks at the device of an address.
    ///
    /// # Errors
    /// [`VfioError::NoDevice`].
    pub fn of(address: Address) -> Result<Self, VfioError> {
        Self::within(Path::new("/sys"), address)
    }

    /// The same in a sysfs that is elsewhere.
    pub(super) fn within(sysfs: &Path, address: Address) -> Result<Self, VfioError> {
        let dir = sysfs.join("bus/pci/devices").join(address.to_string());
        let number = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).ok()?;
            u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
        };
        let id = |name| number(name).and_then(|n| u16::try_from(n).ok()).ok_or(VfioError::NoDevice(address));
        let reset = fs::read_to_string(dir.join("reset_method")).unwrap_or_default();
        Ok(Self {
            address,
            vendor: id("vendor")?,
            device: id("device")?,
            class: number("class").unwrap_or(0),
            driver: driver(&dir),
            group: group(&dir),
            node: names(&dir.join("vfio-dev")).into_iter().next().map(Node::named),
            reset_methods: reset.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

impl Node {
    fn named(name: String) -> Self {
        Self(Path::new("/dev/vfio/devices").join(name))
    }
}

/// The names in a directory, in order; none if there is no such directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn driver(device: &Path) -> Option<String> {
    link_name(&device.join("driver"))
}

fn group(device: &Path) -> Option<Group> {
    let dir = device.join("iommu_group");
    let number = link_name(&dir)?.parse().ok()?;
    // A group without an IOMMU calls itself so.
    let noiommu = fs::read_to_string(dir.join("name")).is_ok_and(|n| n.trim() == "vfio-noiommu");
    let devices = dir.join("devices");
    let member = |name: String| {
        let driver = driver(&devices.join(&name));
        Some(Member { address: name.parse().ok()?, driver })
    };
    let members = names(&devices).into_iter().filter_map(member).collect();
    Some(Group { number, noiommu, members })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A sysfs with one device in group 7, and what else a test puts there.
    fn sysfs() -> (tempfile::TempDir, Address, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let address: Address = "0000:00:02.0".parse().unwrap();
        let device = root.path().join("bus/pci/devices/0000:00:02.0");
        let group = root.path().join("kernel/iommu_groups/7");
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(group.join("devices")).unwrap();
        for (name, text) in [("vendor", "0x8086\n"), ("device", "0x1616\n"), ("class", "0x030000\n")] {
            fs::write(device.join(name), text).unwrap();
        }
        (root, address, device, group)
    }

    fn drive(root: &Path, device: &Path, driver: &str) {
        let dir = root.join("bus/pci/drivers").join(driver);
        fs::create_dir_all(&dir).unwrap();
        symlink(dir, device.join("driver")).unwrap();
    }

    #[test]
    fn a_device_without_a_group_is_described_and_one_that_is_not_there_is_an_error() {
        let (root, address, ..) = sysfs();
        let found = Inspection::within(root.path(), address).unwrap();
        assert_eq!((found.vendor, found.device, found.class), (0x8086, 0x1616, 0x03_0000));
        assert_eq!((found.driver, found.group, found.node), (None, None, None));
        let other = "0000:00:03.0".parse().unwrap();
        assert!(matches!(Inspection::within(root.path(), other), Err(VfioError::NoDevice(a)) if a == other));
    }

    #[test]
    fn a_group_is_told_with_its_members_and_who_of_them_blocks_it() {
        let (root, address, device, group) = sysfs();
        symlink(&group, device.join("iommu_group")).unwrap();
        symlink(&device, group.join("devices/0000:00:02.0")).unwrap();
        drive(root.path(), &device, "vfio-pci");
        let neighbour = root.path().join("bus/pci/devices/0000:00:02.1");
        fs::create_dir_all(&neighbour).unwrap();
        symlink(&neighbour, group.join("devices/0000:00:02.1")).unwrap();
        let found = || Inspection::within(root.path(), address).unwrap();
        assert_eq!(found().driver.as_deref(), Some("vfio-pci"));
        let alone = found().group.unwrap();
        assert_eq!((alone.number, alone.noiommu, alone.members.len()), (7, false, 2));
        assert_eq!(alone.blockers().count(), 0);
        assert_eq!(alone.path(), Path::new("/dev/vfio/7"));
        drive(root.path(), &neighbour, "snd_hda_intel");
        let shared = found().group.unwrap();
        let blockers: Vec<_> = shared.blockers().map(ToString::to_string).collect();
        assert_eq!(blockers, ["0000:00:02.1 (snd_hda_intel)"]);
    }

    #[test]
    fn a_group_without_an_iommu_and_a_node_are_found_by_their_names() {
        let (root, address, device, group) = sysfs();
        symlink(&group, device.join("iommu_group")).unwrap();
        fs::write(group.join("name"), "vfio-noiommu\n").unwrap();
        fs::create_dir_all(device.join("vfio-dev/vfio3")).unwrap();
        fs::write(device.join("reset_method"), "flr bus\n").unwrap();
        let found = Inspection::within(root.path(), address).unwrap();
        assert_eq!(found.group.unwrap().path(), Path::new("/dev/vfio/noiommu-7"));
        assert_eq!(found.node, Some(Node("/dev/vfio/devices/vfio3".into())));
        assert_eq!(found.reset_methods, ["flr", "bus"]);
    }

    #[test]
    fn only_drivers_that_start_no_dma_leave_a_group_to_others() {
        let yields = |driver: Option<&str>| {
            let driver = driver.map(str::to_owned);
            Member { address: "0000:00:01.0".parse().unwrap(), driver }.yields()
        };
        let leave = [None, Some("vfio-pci"), Some("mlx5-vfio-pci"), Some("pci-stub"), Some("pcieport")];
        assert!(leave.into_iter().all(yields));
        assert!(!["i915", "pciback", "e1000e", "vfiox"].into_iter().any(|d| yields(Some(d))));
    }
}
