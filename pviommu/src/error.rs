//! What can go wrong, by operation, domain and frame. Numbers of the hypervisor are kept.

use std::fmt;
use std::path::PathBuf;

use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

use crate::ledger::LedgerError;

/// What the hypervisor was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `IOMMUOP_query_caps`.
    QueryCaps,
    /// `IOMMUOP_map_page`: an own frame.
    MapPage,
    /// `IOMMUOP_unmap_page`.
    UnmapPage,
    /// `IOMMUOP_map_foreign_page`.
    MapForeignPage,
    /// `IOMMUOP_lookup_foreign_page`.
    LookupForeignPage,
    /// `IOMMUOP_unmap_foreign_page`.
    UnmapForeignPage,
    /// A foreign mapping, for the soft IOMMU.
    ForeignMap,
    /// None yet: the intention was written to the ledger.
    WriteLedger,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QueryCaps => "query_caps",
            Self::MapPage => "map_page",
            Self::UnmapPage => "unmap_page",
            Self::MapForeignPage => "map_foreign_page",
            Self::LookupForeignPage => "lookup_foreign_page",
            Self::UnmapForeignPage => "unmap_foreign_page",
            Self::ForeignMap => "foreign mapping",
            Self::WriteLedger => "writing the ledger",
        })
    }
}

/// Why there is no client. One line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The hypervisor has PV-IOMMU and does not let us ask.
    #[error(
        "iommu_op query_caps failed with {errno}: run in dom0 or a privileged stub domain, before any restriction"
    )]
    Refused {
        /// Of the hypercall or the operation.
        errno: Errno,
    },
    /// Without PV-IOMMU nothing gives a real device a bus address, nor keeps a frame while it uses it.
    #[error(
        "this hypervisor has no iommu_op, so a physical device cannot reach guest memory safely: use the software device"
    )]
    PhysicalNeedsIommu,
    /// Bus addresses come from the hypervisor, which cannot be used by a device inside this process.
    #[error("no iommu_op here and no foreign mapping either: pass a privcmd descriptor")]
    NothingToMapWith,
    /// The window of bus frames is empty, or larger than the soft IOMMU can hold.
    #[error("the window of bus frames has {frames} frames: give it between 1 and {most}")]
    BadWindow {
        /// Frames in it.
        frames: u64,
        /// Most frames that can be served.
        most: u64,
    },
    /// The file that is to outlive this life cannot be used.
    #[error("the ledger {}: {error}", path.display())]
    Ledger {
        /// [`Config::ledger`](crate::Config::ledger).
        path: PathBuf,
        /// Why not.
        error: LedgerError,
    },
}

/// Why a domain was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Its mappings are kept by another [`Guest`](crate::Guest).
    #[error("{domid} is attached already")]
    Already {
        /// The domain.
        domid: DomId,
    },
    /// A reserved number names no guest.
    #[error("{domid} is no guest")]
    NoGuest {
        /// The number.
        domid: DomId,
    },
}

/// Why the mappings of an earlier life were not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReclaimError {
    /// There are mappings of this life.
    #[error("bus frames are in use: reclaim before anything is mapped")]
    InUse,
    /// The hypervisor refused; some may have been given back. What is left is left for the next call.
    #[error("giving back what an earlier life left for {ioserver}: {errno}")]
    Refused {
        /// For which server.
        ioserver: IoServerId,
        /// The answer.
        errno: Errno,
    },
}

/// Why a guest frame has no bus frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The hypervisor refused this frame. ENXIO, and EINVAL or ENOENT of a foreign mapping: there is no frame (a hole).
    #[error("{op} of {domid} gfn {gfn}: {errno}")]
    Frame {
        /// What was asked.
        op: Operation,
        /// Of which domain.
        domid: DomId,
        /// For which frame.
        gfn: Gfn,
        /// The answer.
        errno: Errno,
    },
    /// The call as a whole failed, and this frame with it.
    #[error("{op} for {domid}, {gfn} among others: {errno}")]
    Call {
        /// What was asked.
        op: Operation,
        /// For which domain.
        domid: DomId,
        /// This frame.
        gfn: Gfn,
        /// The answer.
        errno: Errno,
    },
    /// Every bus frame is in use or waits for its flush.
    #[error("no bus frame left for {domid} gfn {gfn}")]
    NoBusFrames {
        /// For which domain.
        domid: DomId,
        /// For which frame.
        gfn: Gfn,
    },
    /// The guest has as many mappings as it may have.
    #[error("{domid} may have {quota} mappings and has them: no room for gfn {gfn}")]
    Quota {
        /// The domain.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// [`Config::max_per_guest`](crate::Config::max_per_guest).
        quota: u32,
    },
    /// The mapping has as many references as can be counted (2^28 - 1).
    #[error("{domid} gfn {gfn}: too many references")]
    TooManyReferences {
        /// The domain.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
    },
    /// The frame is still mapped for another guest frame that is being drained: quiesce and release what is
    /// draining, then map again.
    #[error("{domid} gfn {gfn}: bus frame {bfn} is being drained")]
    Draining {
        /// The domain.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// The bus frame that the hypervisor told.
        bfn: Bfn,
    },
    /// The hypervisor told a bus frame that belongs to another guest's mapping.
    #[error("{domid} gfn {gfn}: the hypervisor told bus frame {bfn}, which another guest's mapping has")]
    Conflict {
        /// The domain.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// The bus frame that the hypervisor told.
        bfn: Bfn,
    },
    /// The hypervisor tells bus frames of a 1:1 map that it does not have, so no device would reach anything.
    #[error(
        "{domid} gfn {gfn}: the hypervisor has nothing at the bus frames that it tells ({bfn}): boot it without dom0-iommu=strict"
    )]
    NothingMapped {
        /// The domain.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// The bus frame by which it became known.
        bfn: Bfn,
    },
    /// The domain is dead or dying, see [`Guest::die`](crate::Guest::die).
    #[error("{domid} is dead: no mapping of gfn {gfn}")]
    Dead {
        /// The domain.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
    },
}

impl MapError {
    /// Whether the guest has no frame there: an answer about the guest, not about us.
    pub fn is_hole(&self) -> bool {
        match self {
            Self::Frame { op: Operation::ForeignMap, errno, .. } => {
                matches!(*errno, Errno::EINVAL | Errno::ENOENT | Errno::ENXIO)
            }
            Self::Frame { errno, .. } => *errno == Errno::ENXIO,
            _ => false,
        }
    }
}

/// Why a re-validation was not done. The notices that asked for it are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} to re-validate the mappings of {domid}: {errno}")]
pub struct RevalidateError {
    /// What was asked.
    pub op: Operation,
    /// For which domain.
    pub domid: DomId,
    /// The answer.
    pub errno: Errno,
}

/// Why a mapping that was quiesced is not released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The hypervisor refused. The bus frame is never used again.
    #[error("{op} of bus frame {bfn} ({domid} gfn {gfn}): {errno}; the bus frame is not used again")]
    Refused {
        /// What was asked.
        op: Operation,
        /// The domain.
        domid: DomId,
        /// Its frame.
        gfn: Gfn,
        /// The bus frame.
        bfn: Bfn,
        /// The answer.
        errno: Errno,
    },
    /// A device still has it pinned although its flush returned: it is drained once more.
    #[error("bus frame {bfn} ({domid} gfn {gfn}) is still pinned after the flush")]
    Pinned {
        /// The domain.
        domid: DomId,
        /// Its frame.
        gfn: Gfn,
        /// The bus frame.
        bfn: Bfn,
    },
}

/// Why own memory is not within a device's reach, or still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnError {
    /// The memory could not be had.
    #[error("{pages} pages of own memory: {errno}")]
    NoMemory {
        /// How many were asked for.
        pages: usize,
        /// The answer.
        errno: Errno,
    },
    /// In this mode a device cannot be brought to such a page.
    #[error("own page ({frame:?}) has no bus frame in this mode")]
    Unreachable {
        /// What is known of the page.
        frame: crate::own::OwnFrame,
    },
    /// Every bus frame is in use.
    #[error("no bus frame left for own memory")]
    NoBusFrames,
    /// The hypervisor refused.
    #[error("{op} of an own frame at bus frame {bfn}: {errno}")]
    Refused {
        /// What was asked.
        op: Operation,
        /// The bus frame; all-ones if several were tried.
        bfn: Bfn,
        /// The answer.
        errno: Errno,
    },
    /// A device has it pinned.
    #[error("own memory at bus frame {bfn} is pinned")]
    Pinned {
        /// The bus frame.
        bfn: Bfn,
    },
}
