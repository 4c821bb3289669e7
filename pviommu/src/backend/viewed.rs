//! A backend whose bus this process looks at, too: what leaves the bus has left its view before.

use std::sync::Arc;

use xen_ioreq::{Bfn, Errno, Gfn, IoServerId};

use super::{Backend, Verdict};
use crate::error::{MapError, OwnError, ReleaseError, RevalidateError};
use crate::own::{OwnBfn, OwnMemory};
use crate::reclaim::Reclaimed;
use crate::soft::Pinned;
use crate::view::View;
use crate::wire::Peer;

pub(crate) struct Viewed {
    inner: Box<dyn Backend>,
    view: Arc<View>,
}

impl Viewed {
    pub(crate) fn new(inner: Box<dyn Backend>, view: Arc<View>) -> Self {
        Self { inner, view }
    }
}

impl Backend for Viewed {
    fn install(&self, peer: Peer, gfns: &[Gfn]) -> Vec<Result<Bfn, MapError>> {
        self.inner.install(peer, gfns)
    }

    /// What is asked about may have changed: it is seen afresh from here on.
    fn check(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Result<Vec<Verdict>, RevalidateError> {
        // What is being looked at at this moment is found by the next question, or goes with its mapping.
        drop(self.view.forget(mappings.iter().map(|(_, bfn)| *bfn)));
        self.inner.check(peer, mappings)
    }

    fn asks_by_mapping(&self) -> bool {
        self.inner.asks_by_mapping()
    }

    fn remove(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Vec<Result<(), ReleaseError>> {
        let unseen = self.view.forget(mappings.iter().map(|(_, bfn)| *bfn));
        let gone: Vec<_> = mappings.iter().zip(&unseen).filter(|(_, u)| u.is_ok()).map(|(m, _)| *m).collect();
        let mut answers = self.inner.remove(peer, &gone).into_iter();
        let pinned = |&(gfn, bfn): &(Gfn, Bfn)| Err(ReleaseError::Pinned { domid: peer.domid, gfn, bfn });
        let one = |(mapping, unseen): (_, &Result<(), Pinned>)| match unseen {
            Ok(()) => answers.next().unwrap_or_else(|| pinned(mapping)),
            Err(Pinned) => pinned(mapping),
        };
        mappings.iter().zip(&unseen).map(one).collect()
    }

    fn retire(&self, bfns: &[Bfn]) -> Vec<Result<(), Pinned>> {
        self.inner.retire(bfns)
    }

    fn install_own(&self, memory: &OwnMemory) -> Result<Vec<OwnBfn>, OwnError> {
        let bfns = self.inner.install_own(memory)?;
        let shown =
            |(i, own): (usize, &OwnBfn)| memory.page(i).is_some_and(|page| self.view.show(own.bfn, page));
        if bfns.iter().enumerate().all(shown) {
            return Ok(bfns);
        }
        // Nobody has been told of them yet.
        self.remove_own(&bfns)?;
        Err(OwnError::NoBusFrames)
    }

    fn remove_own(&self, bfns: &[OwnBfn]) -> Result<(), OwnError> {
        self.view.hide(bfns.iter().map(|own| own.bfn)).map_err(|bfn| OwnError::Pinned { bfn })?;
        self.inner.remove_own(bfns)
    }

    fn reclaim(&self, ioserver: IoServerId, out: &mut Reclaimed) -> Result<(), Errno> {
        self.inner.reclaim(ioserver, out)
    }

    fn quarantined(&self) -> u64 {
        self.inner.quarantined()
    }
}
