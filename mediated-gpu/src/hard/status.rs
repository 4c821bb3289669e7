//! A page for each engine that the engine writes to by itself.

use std::any::Any;
use std::fmt;

use pviommu::{Client, DeviceFlush, OwnError, OwnFrames, OwnPages};
use xen_ioreq::Bfn;

use crate::physical::Engine;

/// The engines' status pages, at their bus frames. They are kept until the GPU is no bus master any more.
pub struct StatusPages {
    bfns: [Bfn; Engine::ALL.len()],
    _kept: Box<dyn Any + Send + Sync>,
}

impl StatusPages {
    /// Pages at these bus frames, kept by `kept`.
    pub fn new(bfns: [Bfn; Engine::ALL.len()], kept: impl Any + Send + Sync) -> Self {
        Self { bfns, _kept: Box::new(kept) }
    }

    /// Pages of the program's own, where a client gives them bus frames.
    ///
    /// # Errors
    /// There are none.
    pub fn own(client: &Client, source: &dyn OwnFrames) -> Result<Self, OwnError> {
        let pages = client.own(Engine::ALL.len(), source)?;
        let bfns = Engine::ALL.map(|e| pages.bfn(e.index()).unwrap_or_default());
        Ok(Self::new(bfns, Owned { client: client.clone(), pages: Some(pages) }))
    }

    pub(super) fn bfns(&self) -> [Bfn; Engine::ALL.len()] {
        self.bfns
    }
}

impl fmt::Debug for StatusPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusPages").field("bfns", &self.bfns).finish_non_exhaustive()
    }
}

/// Pages that go back when they are dropped.
struct Owned {
    client: Client,
    pages: Option<OwnPages>,
}

/// A device that does no DMA any more has nothing to flush.
struct CutOff;

impl DeviceFlush for CutOff {
    fn flush(&self) {}
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take()
            && let Err(e) = self.client.release_own(pages, &CutOff)
        {
            log::error!("the engines' status pages are lost: {e}");
        }
    }
}
