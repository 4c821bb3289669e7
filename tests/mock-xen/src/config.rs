//! What a machine and a domain are made of.

use std::time::Duration;

use xen_ioreq::{Bfn, DomId};

/// Which hypervisor the model behaves as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// Xen with the PV-IOMMU of draft B: `iommu_op` works, an `IOREQ_TYPE_INVALIDATE` names one BFN and comes by
    /// the buffered ring.
    #[default]
    Draft,
    /// XenServer 8's Xen (4.17): `iommu_op` as it was shipped, of which lookups and their undoing work; notices as in
    /// [`Stock`](Self::Stock). What makes that hypervisor panic is answered as if it were refused, and told by the oracle.
    Xs,
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
    /// RMRRs of dom0's devices.
    pub rmrrs: Vec<RmrrRange>,
    /// log2 of the frames of the largest page that the IOMMU takes; [`Profile::Xs`] takes single frames only.
    pub max_order: u8,
    /// Of [`Profile::Xs`]: where the 1:1 map of all RAM begins in dom0's bus address space, in frames.
    pub foreign_offset: u64,
    /// Of [`Profile::Draft`]: besides its notices, also tells every enabled server that something has changed, as
    /// released Xen does for the sake of their map caches.
    pub wildcard: bool,
    /// Operations of one hypercall, or extents of a reservation, after which the hypervisor lets others run.
    pub preempt_after: usize,
    /// Bus frame numbers below 2 to this power can be mapped. At most 36.
    pub bfn_bits: u32,
    /// Entries of the ring of an event-channel device.
    pub evtchn_ring: usize,
    /// Pages of sync slots that an IOREQ server has, each for 128 vCPUs. Xen up to 4.22 has one.
    pub slot_pages: u32,
    /// Frames that a domain's grant table may have, unless it was built otherwise.
    pub max_grant_frames: u32,
    /// Frames of 256 handles each, for what a domain has mapped by grants, unless it was built otherwise.
    pub max_maptrack_frames: u32,
    /// Whether grant tables may be of version 2.
    pub grant_table_v2: bool,
    /// Whether a grant may be handed on (`gnttab=transitive`).
    pub transitive_grants: bool,
    /// Of [`Profile::Draft`]: whether there are revokable grants.
    pub revokable: bool,
    /// Whether the kernels of emulators tie eventfds to guests, as Linux does from 6.7 on.
    pub eventfds: bool,
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
            max_order: 9,
            // 248 GiB.
            foreign_offset: 0x3e0_0000,
            wildcard: false,
            preempt_after: 256,
            bfn_bits: 27,
            evtchn_ring: 1024,
            slot_pages: 1,
            max_grant_frames: 64,
            max_maptrack_frames: 1024,
            grant_table_v2: true,
            transitive_grants: true,
            revokable: true,
            eventfds: true,
            fail_fast: false,
        }
    }
}

impl Config {
    /// Whether grants can be revoked. No released hypervisor has that.
    pub(crate) fn revokable_grants(&self) -> bool {
        self.revokable && self.profile == Profile::Draft
    }
}

/// A domain to be built.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// Its number, or the next free one.
    pub domid: Option<DomId>,
    /// Most frames that it may own at a time.
    pub max_pages: u64,
    /// Virtual CPUs, 1 to 128 for each of [`Config::slot_pages`].
    pub vcpus: u32,
    /// Whether it is a hardware-virtualised guest (a PV domain has no IOREQ servers and cannot be a target).
    pub hvm: bool,
    /// The domain for which this one is the device model.
    pub target: Option<DomId>,
    /// Whether a physical device is assigned to it, so that it has an IOMMU table.
    pub device_assigned: bool,
    /// RMRRs of that device.
    pub rmrrs: Vec<RmrrRange>,
    /// Whether writes to the VGA window (0xa0000 to 0xbffff) go by the buffered ring, as Xen's stdvga does.
    pub stdvga: bool,
    /// Whether it has an I/O APIC and two 8259s, as an HVM guest has and a PVH guest has not.
    pub legacy_interrupts: bool,
    /// How long a vCPU that waits for a device model looks for the answer before its thread sleeps. What a vCPU waits for on
    /// hardware is an interrupt at its processor; the wake-up of a sleeping thread of the host, which stands in for it here,
    /// takes several times as long. At zero, the default, it sleeps at once; otherwise it takes a processor of the host meanwhile.
    pub vcpu_patience: Duration,
    /// Of this domain, in place of [`Config::max_grant_frames`].
    pub max_grant_frames: Option<u32>,
    /// Of this domain, in place of [`Config::max_maptrack_frames`].
    pub max_maptrack_frames: Option<u32>,
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
            rmrrs: Vec::new(),
            stdvga: false,
            legacy_interrupts: false,
            vcpu_patience: Duration::ZERO,
            max_grant_frames: None,
            max_maptrack_frames: None,
        }
    }
}
