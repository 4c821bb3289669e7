//! Rows of `iommu_op` on a hypervisor that has none.

use xen_ioreq::Errno;
use xen_ioreq::abi::iommu_op::*;

use crate::case::{Answer, Case, cases};
use crate::ioreq::Stage;

fn call(s: &Stage, ops: &mut [pv_iommu_op]) -> Answer {
    s.bench.hypervisor.iommu_op(ops).map(|()| 0)
}

/// What stock Xen was seen to answer.
#[rustfmt::skip]
pub(super) const IOMMU_OP: &[Case<Stage>] = cases! { Stage;
    "query_caps_is_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op::new(IOMMUOP_query_caps, 0)]);
    "map_page_is_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op::new(IOMMUOP_map_page, IOMMUOP_readable)]);
    "unmap_page_is_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op::new(IOMMUOP_unmap_page, 0)]);
    "map_foreign_page_is_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op { domid: s.guest().0, ..pv_iommu_op::new(IOMMUOP_map_foreign_page, IOMMUOP_readable) }]);
    "lookup_foreign_page_is_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op { domid: s.guest().0, ..pv_iommu_op::new(IOMMUOP_lookup_foreign_page, 0) }]);
    "unmap_foreign_page_is_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0)]);
    "an_unknown_subop_is_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op::new(99, 0)]);
    "two_ops_are_enosys" ["seen: stock Xen"] => Err(Errno::ENOSYS), |s| call(s, &mut [pv_iommu_op::default(), pv_iommu_op::default()]);
    "the_op_is_untouched" ["seen: stock Xen"] => Ok(1), |s| {
        let garbage = pv_iommu_op { status: 0x55, bfn: 0x66, gfn: 0x77, ..pv_iommu_op::new(IOMMUOP_query_caps, 0x3) };
        let mut ops = [garbage];
        let refused = call(s, &mut ops);
        refused.map_or(Ok(u64::from(ops == [garbage])), |_| Ok(2))
    };
};
