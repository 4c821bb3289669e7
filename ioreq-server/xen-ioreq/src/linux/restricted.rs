//! `/dev/xen/privcmd` restricted to one domain: what a process that handles a guest's requests should hold.

use std::os::fd::{AsFd, BorrowedFd};

use super::foreign::{Device, Together};
use crate::seam::{DmOp, ForeignMap, ForeignPages, Mapping, Prot, ResourceMap};
use crate::{DomId, Errno, Gfn};

/// A privcmd that may do dm_op, map frames and map resources of one domain, and no hypercall.
///
/// ```
/// # use xen_ioreq::{linux::RestrictedPrivcmd, seam::DmOp};
/// fn allowed(p: &RestrictedPrivcmd) {
///     let _ = p.dm_op(p.domid(), &mut []);
/// }
/// ```
///
/// What the kernel would refuse does not compile:
///
/// ```compile_fail,E0599
/// # use xen_ioreq::{linux::RestrictedPrivcmd, seam::IommuOp};
/// fn refused(p: &RestrictedPrivcmd) {
///     let _ = p.iommu_op(&mut []);
/// }
/// ```
/// ```compile_fail,E0599
/// # use xen_ioreq::{linux::RestrictedPrivcmd, seam::MemoryOp};
/// fn refused(p: &RestrictedPrivcmd) {
///     let _ = p.memory_op(0, &mut [], &mut []);
/// }
/// ```
/// ```compile_fail,E0599
/// # use xen_ioreq::{linux::RestrictedPrivcmd, seam::GrantTableOp};
/// fn refused(p: &RestrictedPrivcmd) {
///     let _ = p.grant_table_op(0, &mut [], 0);
/// }
/// ```
/// ```compile_fail,E0599
/// # use xen_ioreq::{linux::RestrictedPrivcmd, seam::Sysctl};
/// fn refused(p: &RestrictedPrivcmd) {
///     let _ = p.sysctl(&mut []);
/// }
/// ```
#[derive(Debug)]
pub struct RestrictedPrivcmd {
    pub(super) device: Device,
    domid: DomId,
}

impl RestrictedPrivcmd {
    pub(super) fn new(device: Device, domid: DomId) -> Self {
        Self { device, domid }
    }

    /// The one domain; calls about another are answered EPERM.
    pub fn domid(&self) -> DomId {
        self.domid
    }
}

impl AsFd for RestrictedPrivcmd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.fd.as_fd()
    }
}

impl DmOp for RestrictedPrivcmd {
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.device.dm_op(domid, bufs)
    }
}

impl ForeignMap for RestrictedPrivcmd {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.device.map_foreign(domid, gfns, prot, Together(false))
    }

    fn map_foreign_together(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.device.map_foreign(domid, gfns, prot, Together(true))
    }
}

impl ResourceMap for RestrictedPrivcmd {
    fn map_resource(&self, domid: DomId, kind: u32, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno> {
        self.device.map_resource(domid, kind, id, first, nr)
    }

    fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno> {
        self.device.resource_size(domid, kind, id)
    }
}
