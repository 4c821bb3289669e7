//! What an IOTLB still knows although it was unmapped, because a flush was late.

use std::collections::BTreeMap;

use xen_ioreq::{Bfn, Mfn};

use super::Translation;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

/// Of one domain's devices. Empty all the time, but for injected faults.
#[derive(Default)]
pub(crate) struct Lingering {
    frames: Mutex<BTreeMap<Bfn, Translation>>,
    some: AtomicBool,
}

impl Lingering {
    /// The IOTLB keeps what was at `bfn`.
    pub(crate) fn keep(&self, bfn: Bfn, was: Translation) {
        self.frames.lock().insert(bfn, was);
        self.some.store(true, Ordering::Release);
    }

    /// The IOTLB is flushed.
    pub(crate) fn flush(&self) {
        let mut frames = self.frames.lock();
        frames.clear();
        self.some.store(false, Ordering::Release);
    }

    /// Where the IOTLB leads from `bfn`, for whose entry there is no other, if it allows that. `then` runs before a flush can
    /// end.
    pub(crate) fn find<R>(&self, bfn: Bfn, write: bool, then: impl FnOnce(Mfn) -> R) -> Option<R> {
        if !self.some.load(Ordering::Acquire) {
            return None;
        }
        let frames = self.frames.lock();
        let was = frames.get(&bfn).filter(|was| if write { was.write } else { was.read })?;
        Some(then(was.mfn))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    #[test]
    fn what_lingers_allows_what_it_allowed_until_it_is_flushed() {
        let l = Lingering::default();
        let was = Translation { mfn: Mfn(0x55), domain: None, kind: Kind::Own, read: true, write: false };
        l.keep(Bfn(1), was);
        assert_eq!(l.find(Bfn(1), false, |mfn| mfn), Some(Mfn(0x55)));
        assert_eq!(l.find(Bfn(1), true, |mfn| mfn), None, "a write");
        assert_eq!(l.find(Bfn(2), false, |mfn| mfn), None);
        l.flush();
        assert_eq!(l.find(Bfn(1), false, |mfn| mfn), None);
    }
}
