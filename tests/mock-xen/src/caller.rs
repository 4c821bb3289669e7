//! A domain's hand on the hypervisor: the whole seam, or what a restricted descriptor leaves of it.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use xen_ioreq::abi::dm_op::xen_dm_op;
use xen_ioreq::abi::iommu_op::pv_iommu_op;
use xen_ioreq::abi::memory::{
    XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared,
    XENMEM_resource_grant_table_id_status, XENMEM_resource_ioreq_server,
    XENMEM_resource_ioreq_server_frame_bufioreq, XENMEM_resource_ioreq_server_frame_ioreq0,
    XENMEM_resource_vmtrace_buf,
};
use xen_ioreq::abi::sysctl::{
    XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_PHYSCAP_directio, XEN_SYSCTL_PHYSCAP_hap,
    XEN_SYSCTL_PHYSCAP_hvm, XEN_SYSCTL_PHYSCAP_pv, XEN_SYSCTL_physinfo, xen_sysctl, xen_sysctl_physinfo,
};
use xen_ioreq::seam::{
    DmOp, EventChannels, ForeignMap, ForeignPages, GrantTableOp, IommuOp, MOST_PAUSED_OPS, Mapping, MemoryOp,
    OwnMemory, PausedDmOp, Prot, ResourceMap, Sysctl,
};
use xen_ioreq::{DomId, Errno, Gfn, IoServerId, Mfn, Port};
use zerocopy::{FromBytes, IntoBytes};

use crate::config::Iommu;
use crate::domain::Domain;
use crate::eventfd::Wires;
use crate::evtchn::EvtchnDevice;
use crate::faults::Site;
use crate::frames::Hold;
use crate::iommu::OpArray;
use crate::ioreq::Shared;
use crate::machine::Machine;
use crate::own_frames::OwnFrames;
use crate::process::Process;
use crate::{dm_op, foreign, grant, iommu, memory_op};

/// Everything that a domain may ask of the hypervisor. Implements all traits of [`xen_ioreq::seam`].
pub struct Caller {
    machine: Arc<Machine>,
    domain: Arc<Domain>,
    process: Arc<Process>,
    evtchn: Arc<EvtchnDevice>,
    wires: Arc<Wires>,
}

impl Caller {
    pub(crate) fn new(machine: Arc<Machine>, domain: Arc<Domain>, evtchn: EvtchnDevice) -> Self {
        let (process, evtchn) = (Arc::<Process>::default(), Arc::new(evtchn));
        let wires = Arc::<Wires>::default();
        process.keep(&evtchn);
        process.keep(&wires);
        Self { machine, domain, process, evtchn, wires }
    }

    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    pub(crate) fn wires(&self) -> &Wires {
        &self.wires
    }

    /// The domain that calls.
    pub fn domid(&self) -> DomId {
        self.domain.id
    }

    /// The machine that it calls.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Leaves `dm_op` and mappings for one domain, as the kernel does with a restricted descriptor.
    pub fn restrict(self, domid: DomId) -> RestrictedCaller {
        RestrictedCaller { caller: self, domid }
    }

    /// Frames of the domain's own, for buffers that its devices shall reach. ENOMEM: no free frames, or the domain's
    /// limit reached. EINVAL: none asked for.
    pub fn alloc_frames(&self, count: usize) -> Result<OwnFrames, Errno> {
        OwnFrames::take(&self.machine, &self.domain, &self.process, count)
    }

    /// Ends the process that calls, as SIGKILL would: the kernel gives its CPU mappings, own memory and ports back; its
    /// IOREQ servers and what it mapped for devices stay. Its later calls end in ESRCH.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// `iommu_op` with an array and a count as no honest caller would give them. Errors as the hypercall's.
    pub fn iommu_op_raw(&self, ops: &mut OpArray, count: u64) -> Result<(), Errno> {
        self.process.call(&self.machine.faults, Site::IommuCall, |end_after| {
            iommu::iommu_op(&self.machine, &self.domain, ops, count, end_after)
        })
    }

    fn call<R>(&self, site: Site, call: impl FnOnce() -> Result<R, Errno>) -> Result<R, Errno> {
        self.process.call(&self.machine.faults, site, |_| call())
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("domain", &self.domain.id).finish_non_exhaustive()
    }
}

impl DmOp for Caller {
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.call(Site::DmOp, || dm_op::dm_op(&self.machine, &self.domain, domid, bufs))
    }
}

impl PausedDmOp for Caller {
    fn paused_dm_op(&self, domid: DomId, ops: &mut [xen_dm_op]) -> Result<Vec<Result<(), Errno>>, Errno> {
        if ops.len() > MOST_PAUSED_OPS {
            return Err(Errno::E2BIG);
        }
        self.call(Site::PausedDmOp, || {
            let domain = self.machine.domain(domid).ok_or(Errno::ESRCH)?;
            let paused = match domid {
                _ if !self.domain.privileged => Err(Errno::EPERM),
                own if own == self.domain.id => Err(Errno::EINVAL),
                _ => {
                    domain.pause();
                    Ok(())
                }
            };
            let one = |op: &mut xen_dm_op| {
                dm_op::dm_op(&self.machine, &self.domain, domid, &mut [op.as_mut_bytes()])
            };
            let done = ops.iter_mut().map(one).collect();
            paused?;
            domain.unpause()?;
            Ok(done)
        })
    }
}

impl IommuOp for Caller {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        self.process.call(&self.machine.faults, Site::IommuCall, |end_after| {
            let count = ops.len() as u64;
            iommu::iommu_op(&self.machine, &self.domain, ops, count, end_after)
        })
    }
}

impl MemoryOp for Caller {
    fn memory_op(&self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<i64, Errno> {
        self.call(Site::MemoryCall, || {
            let mut from = 0;
            loop {
                let done = memory_op::memory_op(&self.machine, &self.domain, false, cmd, arg, list, from)?;
                match done.preempted_at {
                    Some(done) => from = done,
                    None => return Ok(done.value),
                }
            }
        })
    }
}

impl GrantTableOp for Caller {
    fn grant_table_op(&self, cmd: u32, args: &mut [u8], count: u32) -> Result<i64, Errno> {
        self.call(Site::GrantCall, || {
            grant::grant_table_op(&self.machine, &self.domain, cmd, args, count, None)
        })
    }

    fn grant_table_frames(&self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<i64, Errno> {
        self.call(Site::GrantCall, || {
            grant::grant_table_op(&self.machine, &self.domain, cmd, arg, 1, Some(list))
        })
    }
}

impl OwnMemory for Caller {
    fn allocate(&self, pages: usize) -> Result<(Mapping, Vec<Gfn>), Errno> {
        Ok(self.alloc_frames(pages)?.into_mapping())
    }

    fn reserve(&self, pages: usize) -> Result<Mapping, Errno> {
        if self.domain.hvm {
            return Err(Errno::EOPNOTSUPP);
        }
        grant::reserve(&self.machine, &self.domain, &self.process, None, pages)
    }

    fn reserve_at(&self, first: Gfn, pages: usize) -> Result<Mapping, Errno> {
        if !self.domain.hvm {
            return Err(Errno::EOPNOTSUPP);
        }
        grant::reserve(&self.machine, &self.domain, &self.process, Some(first), pages)
    }

    fn map_table(&self, frames: &[u64]) -> Result<Mapping, Errno> {
        self.call(Site::ForeignMap, || {
            if frames.is_empty() {
                return Err(Errno::EINVAL);
            }
            let frames = grant::own_frames(&self.domain, frames)?;
            self.map_held(frames)
        })
    }
}

impl Sysctl for Caller {
    /// `XEN_SYSCTL_physinfo`. EPERM: not dom0. EACCES: another interface version. ENOSYS: another operation.
    fn sysctl(&self, arg: &mut [u8]) -> Result<(), Errno> {
        let (mut op, _) = xen_sysctl::read_from_prefix(arg).map_err(|_| Errno::EFAULT)?;
        if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
            return Err(Errno::EACCES);
        }
        if !self.domain.privileged {
            return Err(Errno::EPERM);
        }
        if op.cmd != XEN_SYSCTL_physinfo {
            return Err(Errno::ENOSYS);
        }
        let directio =
            if self.machine.config().iommu == Iommu::Absent { 0 } else { XEN_SYSCTL_PHYSCAP_directio };
        let total = self.machine.config().frames as u64;
        let info = xen_sysctl_physinfo {
            threads_per_core: 1,
            cores_per_socket: 1,
            nr_cpus: 1,
            nr_nodes: 1,
            capabilities: XEN_SYSCTL_PHYSCAP_hvm | XEN_SYSCTL_PHYSCAP_pv | XEN_SYSCTL_PHYSCAP_hap | directio,
            total_pages: total,
            free_pages: self.machine.free_frames(),
            max_mfn: total - 1,
            ..xen_sysctl_physinfo::default()
        };
        info.write_to_prefix(op.u.as_mut_bytes()).map_err(|_| Errno::EFAULT)?;
        op.write_to_prefix(arg).map_err(|_| Errno::EFAULT)
    }
}

impl Caller {
    fn map_guest(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        if gfns.is_empty() {
            return Err(Errno::EINVAL);
        }
        let domain = self.machine.domain(domid).ok_or(Errno::ESRCH)?;
        if !self.domain.controls(domid) {
            return Err(Errno::EPERM);
        }
        let mut frames = Vec::with_capacity(gfns.len());
        let mut errors = Vec::with_capacity(gfns.len());
        {
            let p2m = domain.p2m.read();
            self.machine.frames(|t| {
                for gfn in gfns {
                    let held = p2m.ram(*gfn).ok_or(Errno::EINVAL).and_then(|(mfn, _)| {
                        t.hold(mfn, Hold::HostMap(self.domain.id))?;
                        Ok(mfn)
                    });
                    frames.push(held.ok());
                    errors.push(held.err());
                }
            });
        }
        let mapping = foreign::map(&self.machine, self.domain.id, &self.process, frames, prot)?;
        Ok(ForeignPages { mapping, errors })
    }

    fn map_of_resource(
        &self,
        domid: DomId,
        kind: u32,
        id: u32,
        first: u32,
        nr: u32,
    ) -> Result<Mapping, Errno> {
        let size = self.resource_size(domid, kind, id)?;
        if nr == 0 || first.checked_add(nr).is_none_or(|end| end > size) {
            return Err(Errno::EINVAL);
        }
        if kind == XENMEM_resource_grant_table {
            return self.map_grant_table(domid, id, first, nr);
        }
        if kind != XENMEM_resource_ioreq_server {
            return Err(Errno::EOPNOTSUPP);
        }
        let domain = dm_op::remote(&self.machine, &self.domain, domid)?;
        let id = u16::try_from(id).map_err(|_| Errno::EINVAL)?;
        let mut frames = Vec::new();
        {
            let servers = domain.servers.read();
            let server = servers.of_emulator(IoServerId(id), self.domain.id)?;
            server.ensure_pages(&self.machine, &domain)?;
            for frame in first..first + nr {
                let which = match frame {
                    XENMEM_resource_ioreq_server_frame_bufioreq if server.has_ring() => Shared::Buffered,
                    XENMEM_resource_ioreq_server_frame_bufioreq => return Err(Errno::ENOENT),
                    slots => Shared::Sync(slots - XENMEM_resource_ioreq_server_frame_ioreq0),
                };
                frames.push(server.page(which).ok_or(Errno::ENOMEM)?);
            }
            self.machine
                .frames(|t| frames.iter().try_for_each(|m| t.hold(*m, Hold::HostMap(self.domain.id))))?;
        }
        let frames = frames.into_iter().map(Some).collect();
        foreign::map(&self.machine, self.domain.id, &self.process, frames, Prot::ReadWrite)
    }

    /// Maps frames of the hypervisor's making, which their domain keeps. EINVAL: it has just given one up.
    fn map_held(&self, frames: Vec<Mfn>) -> Result<Mapping, Errno> {
        let hold = Hold::HostMap(self.domain.id);
        self.machine.frames(|t| t.hold_all(frames.iter().map(|mfn| (*mfn, hold))))?;
        let frames = frames.into_iter().map(Some).collect();
        foreign::map(&self.machine, self.domain.id, &self.process, frames, Prot::ReadWrite)
    }

    /// A domain whose table this one may map: ESRCH, EPERM.
    fn granter(&self, domid: DomId) -> Result<Arc<Domain>, Errno> {
        if domid == self.domain.id {
            return Err(Errno::EPERM);
        }
        let domain = self.machine.domain(domid).ok_or(Errno::ESRCH)?;
        if self.domain.controls(domid) { Ok(domain) } else { Err(Errno::EPERM) }
    }

    fn map_grant_table(&self, domid: DomId, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno> {
        let domain = self.granter(domid)?;
        let status = id == XENMEM_resource_grant_table_id_status;
        let frames = (first..first + nr).map(|i| grant::frame_at(&self.machine, &domain, i, status));
        self.map_held(frames.collect::<Result<_, _>>()?)
    }
}

impl ForeignMap for Caller {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.call(Site::ForeignMap, || self.map_guest(domid, gfns, prot))
    }
}

impl ResourceMap for Caller {
    fn map_resource(&self, domid: DomId, kind: u32, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno> {
        self.call(Site::ForeignMap, || self.map_of_resource(domid, kind, id, first, nr))
    }

    /// The ring and the pages of slots for an IOREQ server, existing or not; the frames that a grant table may have. Other
    /// kinds that Xen knows are not modelled.
    fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno> {
        let domain = match kind {
            // A PV domain has no servers, but a table.
            XENMEM_resource_grant_table => self.granter(domid)?,
            _ => dm_op::remote(&self.machine, &self.domain, domid)?,
        };
        match kind {
            XENMEM_resource_ioreq_server => Ok(1 + self.machine.config().slot_pages),
            XENMEM_resource_grant_table => Ok(match id {
                XENMEM_resource_grant_table_id_shared => domain.grants.max_frames,
                XENMEM_resource_grant_table_id_status => grant::Table::status_for(domain.grants.max_frames),
                _ => 0,
            }),
            XENMEM_resource_vmtrace_buf => Err(Errno::EOPNOTSUPP),
            // Xen hands its own error out as if it were a size.
            _ => Ok(u32::from_ne_bytes(Errno::EOPNOTSUPP.status().to_ne_bytes())),
        }
    }
}

impl EventChannels for Caller {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.evtchn.pollable()
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: Port) -> Result<Port, Errno> {
        self.evtchn.bind_interdomain(remote, remote_port)
    }

    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        self.evtchn.bind_unbound(remote)
    }

    fn unbind(&self, port: Port) -> Result<(), Errno> {
        self.evtchn.unbind(port)
    }

    fn notify(&self, port: Port) -> Result<(), Errno> {
        self.evtchn.notify(port)
    }

    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.evtchn.pending(out)
    }

    fn unmask(&self, ports: &[Port]) -> Result<(), Errno> {
        self.evtchn.unmask(ports)
    }

    fn reset_ring(&self) -> Result<(), Errno> {
        self.evtchn.reset_ring()
    }
}

/// What is left of a [`Caller`] that was restricted to one domain: EPERM for every other.
#[derive(Debug)]
pub struct RestrictedCaller {
    caller: Caller,
    domid: DomId,
}

impl RestrictedCaller {
    pub(crate) fn unchecked(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn check(&self, domid: DomId) -> Result<&Caller, Errno> {
        if domid == self.domid { Ok(&self.caller) } else { Err(Errno::EPERM) }
    }
}

impl DmOp for RestrictedCaller {
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.check(domid)?.dm_op(domid, bufs)
    }
}

impl ForeignMap for RestrictedCaller {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.check(domid)?.map_foreign(domid, gfns, prot)
    }
}

impl ResourceMap for RestrictedCaller {
    fn map_resource(&self, domid: DomId, kind: u32, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno> {
        self.check(domid)?.map_resource(domid, kind, id, first, nr)
    }

    fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno> {
        self.check(domid)?.resource_size(domid, kind, id)
    }
}

#[cfg(test)]
mod tests;
