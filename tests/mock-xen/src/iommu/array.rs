//! The array of operations as it lies in the caller's memory, which may end too early or be read-only.

use xen_ioreq::Errno;
use xen_ioreq::abi::iommu_op::pv_iommu_op;
use zerocopy::{FromBytes, IntoBytes};

/// Where the hypercall reads its operations and writes them back.
pub(crate) trait Ops {
    /// EFAULT: not all of it is there.
    fn read(&self, index: usize) -> Result<pv_iommu_op, Errno>;
    /// EFAULT: not all of it is there, or not to be written.
    fn write(&mut self, index: usize, op: &pv_iommu_op) -> Result<(), Errno>;
}

impl Ops for [pv_iommu_op] {
    fn read(&self, index: usize) -> Result<pv_iommu_op, Errno> {
        self.get(index).copied().ok_or(Errno::EFAULT)
    }

    fn write(&mut self, index: usize, op: &pv_iommu_op) -> Result<(), Errno> {
        *self.get_mut(index).ok_or(Errno::EFAULT)? = *op;
        Ok(())
    }
}

/// Operations as bytes of the caller's memory, for calls that the seam cannot express: fewer bytes than the count says, pages
/// that cannot be written. What lies beyond the bytes is not mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpArray {
    /// What is mapped.
    pub bytes: Vec<u8>,
    /// The first so many of them cannot be written.
    pub read_only: usize,
}

impl OpArray {
    /// Operations that can be read and written.
    pub fn new(ops: &[pv_iommu_op]) -> Self {
        Self { bytes: ops.as_bytes().to_vec(), read_only: 0 }
    }

    /// The operation at `index`, if all of it is there.
    pub fn op(&self, index: usize) -> Option<pv_iommu_op> {
        let at = index.checked_mul(size_of::<pv_iommu_op>())?;
        pv_iommu_op::read_from_prefix(self.bytes.get(at..)?).ok().map(|(op, _)| op)
    }
}

impl Ops for OpArray {
    fn read(&self, index: usize) -> Result<pv_iommu_op, Errno> {
        self.op(index).ok_or(Errno::EFAULT)
    }

    fn write(&mut self, index: usize, op: &pv_iommu_op) -> Result<(), Errno> {
        let at = index.checked_mul(size_of::<pv_iommu_op>()).filter(|at| *at >= self.read_only);
        let room = self.bytes.get_mut(at.ok_or(Errno::EFAULT)?..).ok_or(Errno::EFAULT)?;
        op.write_to_prefix(room).map_err(|_| Errno::EFAULT)
    }
}
