//! What devices look at without the frame table's lock: the owner of each frame, and how many translations of it live.

use xen_ioreq::{DomId, Mfn};

use crate::sync::atomic::{AtomicU32, Ordering};

/// To whom a frame belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Free,
    Xen,
    Dom(DomId),
}

impl Owner {
    const FREE: u32 = u32::MAX;
    const XEN: u32 = u32::MAX - 1;

    fn pack(self) -> u32 {
        match self {
            Self::Free => Self::FREE,
            Self::Xen => Self::XEN,
            Self::Dom(d) => u32::from(d.0),
        }
    }

    fn unpack(v: u32) -> Self {
        match (v, u16::try_from(v)) {
            (_, Ok(d)) => Self::Dom(DomId(d)),
            (Self::XEN, _) => Self::Xen,
            _ => Self::Free,
        }
    }
}

/// The owner and the live translations of each frame.
///
/// A pin counts itself first and reads the owner then; freeing writes the owner first and reads the pins then
/// (all sequentially consistent), so at least one side sees the other.
pub(crate) struct Watch {
    frames: Box<[Watched]>,
}

struct Watched {
    owner: AtomicU32,
    pins: AtomicU32,
}

impl Watch {
    pub(super) fn new(frames: usize) -> Self {
        let watched = || Watched { owner: AtomicU32::new(Owner::FREE), pins: AtomicU32::new(0) };
        Self { frames: (0..frames).map(|_| watched()).collect() }
    }

    fn at(&self, mfn: Mfn) -> Option<&Watched> {
        self.frames.get(usize::try_from(mfn.0).ok()?)
    }

    /// Counts a translation in and tells the owner; `None` where there is no RAM.
    pub(crate) fn pin(&self, mfn: Mfn) -> Option<Owner> {
        let w = self.at(mfn)?;
        w.pins.fetch_add(1, Ordering::SeqCst);
        Some(Owner::unpack(w.owner.load(Ordering::SeqCst)))
    }

    /// Counts a translation out.
    pub(crate) fn unpin(&self, mfn: Mfn) {
        if let Some(w) = self.at(mfn) {
            w.pins.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The owner, `None` where there is no RAM.
    pub(crate) fn owner(&self, mfn: Mfn) -> Option<Owner> {
        Some(Owner::unpack(self.at(mfn)?.owner.load(Ordering::SeqCst)))
    }

    /// Counts translations in whose mapping was taken away from under them.
    pub(super) fn adopt(&self, mfn: Mfn, pins: u32) {
        if let Some(w) = self.at(mfn) {
            // One that was given back in between has been subtracted already; the sum is right.
            w.pins.fetch_add(pins, Ordering::SeqCst);
        }
    }

    pub(crate) fn pins(&self, mfn: Mfn) -> u32 {
        self.at(mfn).map_or(0, |w| w.pins.load(Ordering::SeqCst))
    }

    pub(super) fn set_owner(&self, mfn: Mfn, owner: Owner) {
        if let Some(w) = self.at(mfn) {
            w.owner.store(owner.pack(), Ordering::SeqCst);
        }
    }
}
