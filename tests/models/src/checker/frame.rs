//! What a frame is to a model: something that may be used until it ends. A use that is not ordered before the end, or
//! after it, is found by loom as a data race; one that comes after it says so.
#![expect(unsafe_code, reason = "the cell that loom watches")]

use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU8;

/// A frame that is used, then ended once.
pub(crate) struct Frame {
    alive: UnsafeCell<bool>,
    /// A look at it is a step of the model: without one, loom takes a use for a part of the step before it.
    step: AtomicU8,
}

// SAFETY: threads of a model run one at a time, and loom refuses an access that another could be in.
unsafe impl Sync for Frame {}

impl Frame {
    pub(crate) fn new() -> Self {
        Self { alive: UnsafeCell::new(true), step: AtomicU8::new(0) }
    }

    /// Uses it.
    pub(crate) fn touch(&self) {
        self.step.load(Ordering::Relaxed);
        // SAFETY: no other access, or loom has panicked.
        assert!(self.alive.with(|alive| unsafe { *alive }), "a frame is used after its end");
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.step.load(Ordering::Relaxed);
        // SAFETY: as above.
        let alive = self.alive.with_mut(|alive| unsafe { std::mem::replace(&mut *alive, false) });
        assert!(alive, "a frame ends twice");
    }

    /// Whether it has ended, for when all threads have.
    pub(crate) fn has_ended(&self) -> bool {
        // SAFETY: as above.
        self.alive.with(|alive| unsafe { !*alive })
    }
}
