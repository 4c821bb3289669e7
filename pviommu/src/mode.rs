//! Which hypervisor this is, asked once at start: who chooses bus frames, and what may be sent to it at all.
//!
//! The hypervisor that shipped `iommu_op` claims to let us map and then panics on map_foreign_page: so we map only
//! where the caps say so and the hypervisor is not that one, which a sub-operation that nobody defines tells.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use xen_ioreq::abi::iommu_op::{IOMMU_QUERY_map_all_mfns, IOMMU_QUERY_map_cap, IOMMU_page_order_shift};
use xen_ioreq::seam::{ForeignMap, IommuOp};
use xen_ioreq::{Bfn, Errno};

use crate::bfn::BfnSpace;
use crate::error::StartError;
use crate::wire::Wire;

/// What the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Device {
    /// Runs in this process and can reach memory through a soft IOMMU.
    #[default]
    Software,
    /// Puts addresses on a bus. Refused where only a soft IOMMU is to be had.
    Physical,
}

/// How this program gets bus frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// We choose bus frames, by map_foreign_page.
    Map {
        /// log2 of the frames of the largest page that the IOMMU takes.
        max_order: u8,
        /// Bounds of the window that we choose from.
        window: Range<Bfn>,
    },
    /// The hypervisor tells them, by lookup_foreign_page.
    Lookup {
        /// Whether an IOMMU stands between the device and memory; without one bus frames are machine frames.
        iommu: bool,
        /// Where machine frames begin in the 1:1 map, in frames. What query_caps said; never used as an address.
        offset: u64,
    },
    /// No iommu_op: bus frames mean something to software devices of this process only.
    Soft {
        /// Bounds of the window that we choose from.
        window: Range<Bfn>,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map { max_order, window } => write!(
                f,
                "map: we choose bus frames {}..{} (page order up to {max_order}), the IOMMU maps them",
                window.start, window.end
            ),
            Self::Lookup { iommu: true, offset } => {
                write!(f, "lookup: the hypervisor tells bus frames (1:1 map at {offset:#x})")
            }
            Self::Lookup { iommu: false, .. } => {
                f.write_str("lookup: no IOMMU under our control, bus frames are machine frames")
            }
            Self::Soft { window } => write!(
                f,
                "soft: no iommu_op here, bus frames {}..{} are foreign mappings of this process (software devices only)",
                window.start, window.end
            ),
        }
    }
}

/// The ways to the hypervisor that the caller has. Without `iommu` (a restricted descriptor has none) only the
/// soft IOMMU is left.
#[derive(Clone, Default)]
pub struct Ports {
    /// Raw hypercalls.
    pub iommu: Option<Arc<dyn IommuOp>>,
    /// Foreign mappings.
    pub foreign: Option<Arc<dyn ForeignMap>>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports")
            .field("iommu", &self.iommu.is_some())
            .field("foreign", &self.foreign.is_some())
            .finish()
    }
}

/// What was found, with the way to use it.
pub(crate) enum Chosen {
    Map(Wire, Mode),
    Lookup(Wire, Mode),
    Soft(Arc<dyn ForeignMap>, Mode),
}

/// Who chooses bus frames, where there is an `iommu_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Map { max_order: u8 },
    Lookup { iommu: bool, offset: u64 },
}

impl Choice {
    /// Asks the hypervisor; `None`: it has no iommu_op.
    pub(crate) fn ask(wire: &Wire) -> Result<Option<Self>, StartError> {
        let Some(caps) = wire.query_caps().map_err(|errno| StartError::Refused { errno })? else {
            return Ok(None);
        };
        Ok(Some(if caps.flags & IOMMU_QUERY_map_cap != 0 && wire.unknown_subop() != Err(Errno::ENODEV) {
            Self::Map { max_order: u8::try_from(caps.flags >> IOMMU_page_order_shift).unwrap_or(0) }
        } else {
            let iommu = caps.flags & (IOMMU_QUERY_map_cap | IOMMU_QUERY_map_all_mfns) != 0;
            Self::Lookup { iommu, offset: caps.offset }
        }))
    }
}

/// Asks the hypervisor, and chooses.
pub(crate) fn choose(ports: Ports, device: Device, space: &BfnSpace) -> Result<Chosen, StartError> {
    let window = || space.bounds().ok_or(StartError::BadWindow { frames: 0, most: u64::MAX });
    if let Some(wire) = ports.iommu.map(Wire) {
        match Choice::ask(&wire)? {
            Some(Choice::Map { max_order }) => {
                return Ok(Chosen::Map(wire, Mode::Map { max_order, window: window()? }));
            }
            Some(Choice::Lookup { iommu, offset }) => {
                return Ok(Chosen::Lookup(wire, Mode::Lookup { iommu, offset }));
            }
            None => {}
        }
    }
    match (device, ports.foreign) {
        (Device::Physical, _) => Err(StartError::PhysicalNeedsIommu),
        (Device::Software, None) => Err(StartError::NothingToMapWith),
        (Device::Software, Some(foreign)) => Ok(Chosen::Soft(foreign, Mode::Soft { window: window()? })),
    }
}
