//! What mock-xen's domain is to its buses.

use std::sync::Arc;

use xen_ioreq::DomId;

use crate::iommu::Lingering;

/// A domain that has devices.
pub(crate) struct Domain {
    pub(crate) id: DomId,
    pub(crate) pv_iommu: PvIommu,
}

/// Its side of PV-IOMMU.
#[derive(Default)]
pub(crate) struct PvIommu {
    pub(crate) lingering: Arc<Lingering>,
}
