//! A client of Xen's PV-IOMMU interface.
