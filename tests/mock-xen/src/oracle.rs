//! The oracle's book: every DMA that should not have happened, with who, what, which frame and its history.
//!
//! The checks themselves stand where the facts are: at a pin ([`crate::bus`]), at an unmap ([`crate::iommu`]) and
//! where a frame is freed ([`crate::frames`]).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use xen_ioreq::{Bfn, DomId, Mfn};

/// What was done that must never be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ViolationKind {
    /// A device reached a frame that belongs to nobody: its owner has given it back.
    DmaToFreeFrame,
    /// A device reached a frame of the hypervisor.
    DmaToXenFrame,
    /// A device reached a frame of a domain other than the one for which it was mapped.
    DmaToForeignFrame {
        /// Who owns the frame.
        owner: DomId,
        /// For whom the bus frame was mapped, if for anybody.
        expected: Option<DomId>,
    },
    /// A bus frame was unmapped while devices still held translations of it.
    UnmappedWhilePinned {
        /// How many.
        pins: u32,
    },
    /// A frame went back to the hypervisor while devices still held translations to it.
    FreedWhilePinned {
        /// How many.
        pins: u32,
    },
    /// A bus frame was mapped with `IOMMUOP_swap_mfn`, for a device that keeps translations of its own: it still held
    /// some when the hypervisor put a scratch frame there.
    SwappedWhilePinned {
        /// How many.
        pins: u32,
    },
    /// A grant was revoked, and a device that had it mapped still held translations of it.
    RevokedWhilePinned {
        /// How many.
        pins: u32,
    },
    /// A bus frame was used again before the IOTLB was flushed of what had been there.
    MappedBeforeFlush,
    /// A shipped hypervisor does not survive what was asked of it.
    HostPanic {
        /// Why.
        why: &'static str,
    },
}

/// One violation.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What happened.
    pub kind: ViolationKind,
    /// The device, or the operation that came too early.
    pub who: String,
    /// The bus frame, where one is known.
    pub bfn: Option<Bfn>,
    /// The machine frame.
    pub mfn: Mfn,
    /// The frame's last events, oldest first.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ViolationKind::DmaToFreeFrame => write!(f, "{}: DMA to a frame that was given back", self.who)?,
            ViolationKind::DmaToXenFrame => write!(f, "{}: DMA to a frame of the hypervisor", self.who)?,
            ViolationKind::DmaToForeignFrame { owner, expected: Some(e) } => {
                write!(f, "{}: DMA to a frame of {owner}, mapped for {e}", self.who)?;
            }
            ViolationKind::DmaToForeignFrame { owner, expected: None } => {
                write!(f, "{}: DMA to a frame of {owner}, mapped for nobody", self.who)?;
            }
            ViolationKind::UnmappedWhilePinned { pins } => {
                write!(f, "{}: unmapped while {pins} translation(s) of it were in use", self.who)?;
            }
            ViolationKind::SwappedWhilePinned { pins } => {
                write!(f, "{}: swapped for scratch while {pins} translation(s) of it were in use", self.who)?;
            }
            ViolationKind::RevokedWhilePinned { pins } => {
                write!(f, "{}: {pins} translation(s) of it are still in use", self.who)?;
            }
            ViolationKind::MappedBeforeFlush => {
                write!(f, "{}: mapped before the IOTLB was flushed of what was there", self.who)?;
            }
            ViolationKind::HostPanic { why } => write!(f, "{}: the host panics: {why}", self.who)?,
            ViolationKind::FreedWhilePinned { pins } => {
                write!(f, "{}: frame freed while {pins} translation(s) of it were in use", self.who)?;
            }
        }
        match self.bfn {
            Some(bfn) => write!(f, " (bfn {bfn}, mfn {})", self.mfn)?,
            None => write!(f, " (mfn {})", self.mfn)?,
        }
        for line in &self.history {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// Violations beyond this many are counted but not kept.
const KEPT: usize = 64;

/// The book.
pub(crate) struct Oracle {
    fail_fast: bool,
    kept: Mutex<Vec<Violation>>,
    count: AtomicU64,
    faults: AtomicU64,
}

impl Oracle {
    pub(crate) fn new(fail_fast: bool) -> Self {
        Self { fail_fast, kept: Mutex::new(Vec::new()), count: AtomicU64::new(0), faults: AtomicU64::new(0) }
    }

    /// Writes a violation down; panics when the machine was built to fail fast.
    pub(crate) fn report(&self, violation: Violation) {
        log::error!("oracle: {violation}");
        self.count.fetch_add(1, Ordering::Relaxed);
        let text = self.fail_fast.then(|| violation.to_string());
        {
            let mut kept = self.kept.lock();
            if kept.len() < KEPT {
                kept.push(violation);
            }
        }
        if let Some(text) = text {
            panic!("oracle: {text}");
        }
    }

    pub(crate) fn count_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.kept.lock().clone()
    }
}
