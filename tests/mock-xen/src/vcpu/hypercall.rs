//! Hypercalls that a guest makes.

use xen_ioreq::abi::iommu_op::pv_iommu_op;
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation, XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::{DomId, Errno, Gfn};
use zerocopy::IntoBytes;

use super::{Vcpu, VcpuError};
use crate::{grant, iommu, memory_op};

impl Vcpu {
    /// `memory_op`, as [`xen_ioreq::seam::MemoryOp`] words it. Blocks until every emulator that must agree to the
    /// removal of a frame has answered.
    pub fn memory_op(&self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<i64, VcpuError> {
        self.resume()?;
        let mut from = 0;
        loop {
            let done = memory_op::memory_op(&self.machine, &self.domain, true, cmd, arg, list, from);
            let done = done.map_err(VcpuError::Hypercall)?;
            if done.invalidate_all {
                self.state.request_invalidate_all();
            }
            for notice in done.notices {
                self.deliver(notice)?;
            }
            // Before the guest executes its next instruction, which after a preemption is the hypercall once more.
            self.resume()?;
            match done.preempted_at {
                Some(done) => from = done,
                None => return Ok(done.value),
            }
        }
    }

    fn reservation(&self, cmd: u32, gfns: &[Gfn]) -> Result<usize, VcpuError> {
        let mut list: Vec<u64> = gfns.iter().map(|g| g.0).collect();
        let mut arg = xen_memory_reservation {
            nr_extents: gfns.len() as u64,
            domid: DomId::SELF.0,
            ..xen_memory_reservation::default()
        };
        let done = self.memory_op(cmd, arg.as_mut_bytes(), &mut list)?;
        Ok(usize::try_from(done).unwrap_or(0))
    }

    /// Gives frames back; returns how many, in order, were given before the first that could not be.
    pub fn decrease_reservation(&self, gfns: &[Gfn]) -> Result<usize, VcpuError> {
        self.reservation(XENMEM_decrease_reservation, gfns)
    }

    /// Puts frames behind these numbers; returns how many, in order, were put.
    pub fn populate_physmap(&self, gfns: &[Gfn]) -> Result<usize, VcpuError> {
        self.reservation(XENMEM_populate_physmap, gfns)
    }

    /// `iommu_op`; guests have none of it (ENOSYS).
    pub fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), VcpuError> {
        self.resume()?;
        let count = ops.len() as u64;
        iommu::iommu_op(&self.machine, &self.domain, ops, count, None).map_err(VcpuError::Hypercall)
    }

    /// `grant_table_op`, as [`xen_ioreq::seam::GrantTableOp`] words it; a `host_addr` is a guest physical address.
    pub fn grant_table_op(&self, cmd: u32, args: &mut [u8], count: u32) -> Result<i64, VcpuError> {
        self.resume()?;
        let done = grant::grant_table_op(&self.machine, &self.domain, cmd, args, count, None);
        done.map_err(VcpuError::Hypercall)
    }

    /// As [`xen_ioreq::seam::GrantTableOp::grant_table_frames`].
    pub fn grant_table_frames(&self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<i64, VcpuError> {
        self.resume()?;
        let done = grant::grant_table_op(&self.machine, &self.domain, cmd, arg, 1, Some(list));
        done.map_err(VcpuError::Hypercall)
    }

    /// `SCHEDOP_shutdown`: the domain stops. The vCPU can do no more.
    pub fn shutdown(&self, reason: u32) -> Result<(), VcpuError> {
        self.resume()?;
        self.domain.shut_down(reason);
        Ok(())
    }
}

impl From<Errno> for VcpuError {
    fn from(e: Errno) -> Self {
        Self::Hypercall(e)
    }
}
