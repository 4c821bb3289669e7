//! What an IOTLB still knows although it was unmapped, because a flush was late.

use std::collections::BTreeMap;

use xen_ioreq::{Bfn, Mfn};

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Of one domain's devices. Empty all the time, but for injected faults.
#[derive(Default)]
pub(crate) struct Lingering {
    frames: Mutex<BTreeMap<Bfn, Mfn>>,
    some: AtomicBool,
}

impl Lingering {
    /// The IOTLB keeps what led from `bfn` to `mfn`.
    pub(crate) fn keep(&self, bfn: Bfn, mfn: Mfn) {
        self.frames.lock().insert(bfn, mfn);
        self.some.store(true, Ordering::Release);
    }

    /// The IOTLB is flushed.
    pub(crate) fn flush(&self) {
        let mut frames = self.frames.lock();
        frames.clear();
        self.some.store(false, Ordering::Release);
    }

    /// Where the IOTLB leads from `bfn`, for whose entry there is no other. `then` runs before a flush can end.
    pub(crate) fn find<R>(&self, bfn: Bfn, then: impl FnOnce(Mfn) -> R) -> Option<R> {
        if !self.some.load(Ordering::Acquire) {
            return None;
        }
        self.frames.lock().get(&bfn).copied().map(then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lingers_is_told_until_it_is_flushed() {
        let l = Lingering::default();
        l.keep(Bfn(1), Mfn(0x55));
        assert_eq!(l.find(Bfn(1), |mfn| mfn), Some(Mfn(0x55)));
        assert_eq!(l.find(Bfn(2), |mfn| mfn), None);
        l.flush();
        assert_eq!(l.find(Bfn(1), |mfn| mfn), None);
    }
}
