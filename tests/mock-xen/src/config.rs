//! What a machine and a domain are made of.

use xen_ioreq::{Bfn, DomId};

/// Which hypervisor the model behaves as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// Xen with the PV-IOMMU of draft B: `iommu_op` works, an `IOREQ_TYPE_INVALIDATE` names one BFN and comes by
    /// the buffered ring.
    #[default]
    Draft,
    /// Xen as released: `iommu_op` is ENOSYS, `IOREQ_TYPE_INVALIDATE` is synchronous, for every enabled server,
    /// with all-ones as its data.
    Stock,
}

/// What translates the accesses of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Iommu {
    /// Nothing: a bus frame is a machine frame.
    Absent,
    /// An IOMMU with an empty table for each domain that has devices.
    #[default]
    On,
    /// An IOMMU that lets dom0's devices through untranslated: for dom0 as good as none.
    Passthrough,
    /// An IOMMU whose table for dom0 starts with every frame but Xen's mapped at its own number. These mappings
    /// hold no references.
    OneToOne,
}

/// A range of bus frames that a device's firmware uses (reserved memory region), ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmrrRange {
    /// First bus frame.
    pub first: Bfn,
    /// Last bus frame.
    pub last: Bfn,
}

impl RmrrRange {
    pub(crate) fn contains(&self, bfn: Bfn) -> bool {
        self.first <= bfn && bfn <= self.last
    }
}

/// A machine to be built.
#[derive(Clone, Debug)]
pub struct Config {
    /// RAM in frames, Xen's own included.
    pub frames: usize,
    /// How many of them Xen keeps.
    pub xen_frames: usize,
    /// The hypervisor.
    pub profile: Profile,
    /// The IOMMU.
    pub iommu: Iommu,
    /// RMRRs of the devices that dom0 or a domain with an assigned device has.
    pub rmrrs: Vec<RmrrRange>,
    /// Bus frame numbers below 2 to this power can be mapped. At most 36.
    pub bfn_bits: u32,
    /// Entries of the ring of an event-channel device.
    pub evtchn_ring: usize,
    /// Panic at the first violation, in the thread that caused it.
    pub fail_fast: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frames: 16384,
            xen_frames: 64,
            profile: Profile::Draft,
            iommu: Iommu::On,
            rmrrs: Vec::new(),
            bfn_bits: 27,
            evtchn_ring: 1024,
            fail_fast: false,
        }
    }
}

/// A domain to be built.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// Its number, or the next free one.
    pub domid: Option<DomId>,
    /// Most frames that it may own at a time.
    pub max_pages: u64,
    /// Virtual CPUs, 1 to 128.
    pub vcpus: u32,
    /// Whether it is a hardware-virtualised guest (a PV domain has no IOREQ servers and cannot be a target).
    pub hvm: bool,
    /// The domain for which this one is the device model.
    pub target: Option<DomId>,
    /// Whether a physical device is assigned to it, so that it has an IOMMU table.
    pub device_assigned: bool,
    /// Whether writes to the VGA window (0xa0000 to 0xbffff) go by the buffered ring, as Xen's stdvga does.
    pub stdvga: bool,
}

impl Default for DomainConfig {
    fn default() -> Self {
        Self {
            domid: None,
            max_pages: 4096,
            vcpus: 1,
            hvm: true,
            target: None,
            device_assigned: false,
            stdvga: false,
        }
    }
}
