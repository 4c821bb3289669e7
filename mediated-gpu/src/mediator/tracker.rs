//! Who tells that the guest has written to a page: on Xen the memory type of IOREQ servers, where it can be had.
//!
//! A write is told of before the guest's processor goes on, so that what it does next finds it known. What does not trap (a device,
//! dom0, another domain, Xen itself) nobody tells.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ioreq_server::traps::{TrapError, Watcher, WriteTraps};
use parking_lot::Mutex;
use xen_ioreq::Gfn;

/// A page cannot be tracked.
#[derive(Debug, thiserror::Error)]
pub enum Untracked {
    /// None of the guest's can, or not now.
    #[error(transparent)]
    Any(Box<dyn std::error::Error + Send + Sync>),
    /// This one cannot.
    #[error(transparent)]
    This(Box<dyn std::error::Error + Send + Sync>),
}

/// Hears of the writes of one guest's processors to pages.
pub trait PageTracker: Send + Sync {
    /// From when this returns on, the next write to the frame is told of. A frame that is tracked already is no error.
    fn protect(&self, gfn: Gfn) -> Result<(), Untracked>;
    /// Nobody asks about the frame any more, which may be gone. It may go on being slow to write for a moment.
    fn unprotect(&self, gfn: Gfn);
    /// Waits, for some seconds at most, until frames that nobody asks about are plain memory.
    fn settle(&self) {}
    /// The frames that have been written since the last call. They are not tracked any more.
    fn take_written(&self) -> Vec<Gfn>;
}

/// By trapping writes.
pub(crate) struct Trapping {
    traps: Arc<WriteTraps>,
    written: Arc<Written>,
}

struct Written {
    traps: Arc<WriteTraps>,
    some: AtomicBool,
    frames: Mutex<Vec<Gfn>>,
}

impl Trapping {
    pub(crate) fn new(traps: Arc<WriteTraps>) -> Self {
        let written = Written { traps: traps.clone(), some: AtomicBool::default(), frames: Mutex::default() };
        Self { traps, written: Arc::new(written) }
    }
}

impl PageTracker for Trapping {
    fn protect(&self, gfn: Gfn) -> Result<(), Untracked> {
        let told = self.traps.set(gfn, self.written.clone());
        told.map_err(|e| match e {
            TrapError::Taken(_) | TrapError::Unsupported(_) | TrapError::NoPause { .. } | TrapError::Gone => {
                Untracked::Any(e.into())
            }
            e => Untracked::This(e.into()),
        })
    }

    fn unprotect(&self, gfn: Gfn) {
        self.traps.clear(gfn);
    }

    fn settle(&self) {
        if !self.traps.settle() {
            log::warn!("{:?}: some frames are not plain memory yet", self.traps);
        }
    }

    fn take_written(&self) -> Vec<Gfn> {
        if !self.written.some.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut self.written.frames.lock())
    }
}

impl Watcher for Written {
    fn written(&self, gfn: Gfn) {
        // First: who finds the frame among those that were written may have it tracked anew at once.
        self.traps.clear(gfn);
        self.frames.lock().push(gfn);
        self.some.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Trapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trapping").field("traps", &self.traps).finish_non_exhaustive()
    }
}
