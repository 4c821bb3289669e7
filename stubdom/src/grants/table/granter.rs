//! The side that grants. Pages whose grants cannot be ended yet are kept out of use, and freed at the next occasion.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xen_ioreq::abi::revokable::{GNTTABOP_revoke, gnttab_revoke};
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::{GrantTableOp, OwnMemory, Prot};
use xen_ioreq::{DomId, Errno, GrantRef};
use zerocopy::IntoBytes;

use super::entries::{Entries, Grant};
use crate::grants::{
    Ended, GrantError, Granted, Granter, PlainHold, RevokableGrant, RevokableGranter, RevokableHold,
};
use crate::shared::SharedBytes;

/// Grants by the domain's own table. A domain has one: two of these would take each other's references.
pub struct TableGranter<H> {
    shared: Arc<Shared<H>>,
    revokable: bool,
}

struct Shared<H> {
    hypervisor: Arc<H>,
    state: Mutex<State>,
}

struct State {
    entries: Entries,
    /// Pages that are nobody's, but still mapped by a peer.
    waiting: Vec<Pages>,
}

/// Pages and those of their references that are not ended.
#[derive(Debug)]
struct Pages {
    refs: Vec<GrantRef>,
    revokable: bool,
    _bytes: SharedBytes,
}

impl<H> Shared<H> {
    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic left is whole: nothing here panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends those that are not in use; whether all are.
    fn end(&mut self, refs: &mut Vec<GrantRef>) -> bool {
        let entries = &self.entries;
        let ended: Vec<_> = refs.extract_if(.., |gref| entries.end(*gref)).collect();
        self.entries.put(ended);
        refs.is_empty()
    }

    /// Ends them all, whoever is in. What the hypervisor says to the first that cannot be ended; those before it are.
    fn revoke<H: GrantTableOp>(&mut self, hypervisor: &H, refs: &mut Vec<GrantRef>) -> Result<(), Errno> {
        // What is not in use needs no hypercall.
        if self.end(refs) {
            return Ok(());
        }
        while let Some(&gref) = refs.first() {
            self.entries.close(gref);
            let mut arg = gnttab_revoke { r#ref: gref.0 };
            hypervisor.grant_table_op(GNTTABOP_revoke, arg.as_mut_bytes(), 1)?;
            // The marks of who was in are gone when the call returns.
            if !self.entries.end(gref) {
                return Err(Errno::EBUSY);
            }
            self.entries.put([gref]);
            refs.remove(0);
        }
        Ok(())
    }

    fn retry<H: GrantTableOp>(&mut self, hypervisor: &H) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|pages| match pages.revokable {
            true => self.revoke(hypervisor, &mut pages.refs).is_err(),
            false => !self.end(&mut pages.refs),
        });
        self.waiting = waiting;
    }
}

impl<H: GrantTableOp + OwnMemory + 'static> TableGranter<H> {
    /// Takes over the domain's grant table, which becomes one of version 1.
    ///
    /// # Errors
    /// What the hypervisor said to that.
    pub fn new(hypervisor: Arc<H>) -> Result<Self, Errno> {
        let mut entries = Entries::open(&*hypervisor)?;
        // A reference that grants nothing is revoked at no cost, where that can be done at all.
        let free = entries.take(&*hypervisor, 1)?;
        let mut arg = gnttab_revoke { r#ref: free.first().map_or(0, |gref| gref.0) };
        let revokable = hypervisor.grant_table_op(GNTTABOP_revoke, arg.as_mut_bytes(), 1).is_ok();
        entries.put(free);
        let state = Mutex::new(State { entries, waiting: Vec::new() });
        Ok(Self { shared: Arc::new(Shared { hypervisor, state }), revokable })
    }

    /// Frees what can be freed by now of the pages whose peers held on to them, and revokes what the hypervisor did not revoke the
    /// first time; how many grants are still in use.
    pub fn retry(&self) -> usize {
        let mut state = self.shared.state();
        state.retry(&*self.shared.hypervisor);
        state.waiting.iter().map(|pages| pages.refs.len()).sum()
    }

    fn make(
        &self,
        peer: DomId,
        pages: usize,
        prot: Prot,
        revokable: bool,
    ) -> Result<(Vec<GrantRef>, SharedBytes), GrantError> {
        let error = |errno| GrantError::Grant { peer, pages, errno };
        let (mapping, gfns) = self.shared.hypervisor.allocate(pages).map_err(error)?;
        let mut state = self.shared.state();
        state.retry(&*self.shared.hypervisor);
        let refs = state.entries.take(&*self.shared.hypervisor, pages).map_err(error)?;
        for (gref, gfn) in refs.iter().zip(gfns) {
            let grant = Grant { peer, gfn, readonly: prot == Prot::Read, revokable };
            if let Err(e) = state.entries.grant(*gref, grant) {
                // Nobody has been told of them; who has guessed one of them has a page of zeros until it lets go.
                let mut refs = refs;
                if !state.end(&mut refs) {
                    state.waiting.push(Pages { refs, revokable, _bytes: SharedBytes::new(mapping) });
                }
                return Err(error(e));
            }
        }
        Ok((refs, SharedBytes::new(mapping)))
    }

    fn hold(&self, refs: &[GrantRef], bytes: &SharedBytes) -> Hold<H> {
        Hold { shared: self.shared.clone(), refs: refs.to_vec(), bytes: bytes.clone() }
    }
}

impl<H: GrantTableOp + OwnMemory + 'static> Granter for TableGranter<H> {
    fn grant(&self, peer: DomId, pages: usize, prot: Prot, _: UnmapNotify) -> Result<Granted, GrantError> {
        let (refs, bytes) = self.make(peer, pages, prot, false)?;
        let hold = Plain(self.hold(&refs, &bytes));
        Ok(Granted::new(peer, refs, bytes, Box::new(hold)))
    }

    fn revokable(&self) -> Option<&dyn RevokableGranter> {
        self.revokable.then_some(self as &dyn RevokableGranter)
    }
}

impl<H: GrantTableOp + OwnMemory + 'static> RevokableGranter for TableGranter<H> {
    fn grant_revokable(&self, peer: DomId, pages: usize, prot: Prot) -> Result<RevokableGrant, GrantError> {
        let (refs, bytes) = self.make(peer, pages, prot, true)?;
        let hold = Revokable(self.hold(&refs, &bytes));
        Ok(RevokableGrant::new(peer, refs, bytes, Box::new(hold)))
    }
}

/// What is granted.
struct Hold<H> {
    shared: Arc<Shared<H>>,
    /// Those that are not ended.
    refs: Vec<GrantRef>,
    bytes: SharedBytes,
}

struct Plain<H>(Hold<H>);
struct Revokable<H: GrantTableOp>(Hold<H>);

impl<H: Send + Sync> PlainHold for Plain<H> {
    fn end(&mut self) -> Option<Ended> {
        self.0.shared.state().end(&mut self.0.refs).then_some(Ended::Free)
    }
}

impl<H> Drop for Plain<H> {
    fn drop(&mut self) {
        let mut state = self.0.shared.state();
        if !state.end(&mut self.0.refs) {
            let refs = std::mem::take(&mut self.0.refs);
            state.waiting.push(Pages { refs, revokable: false, _bytes: self.0.bytes.clone() });
        }
    }
}

impl<H: GrantTableOp> RevokableHold for Revokable<H> {
    fn revoke(&mut self) -> Result<(), Errno> {
        let Hold { shared, refs, .. } = &mut self.0;
        shared.state().revoke(&*shared.hypervisor, refs)
    }
}

impl<H: GrantTableOp> Drop for Revokable<H> {
    fn drop(&mut self) {
        if self.revoke().is_err() {
            let (refs, bytes) = (std::mem::take(&mut self.0.refs), self.0.bytes.clone());
            self.0.shared.state().waiting.push(Pages { refs, revokable: true, _bytes: bytes });
        }
    }
}

impl<H> fmt::Debug for TableGranter<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableGranter").field("revokable", &self.revokable).finish_non_exhaustive()
    }
}

impl<H> fmt::Debug for Plain<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("refs", &self.0.refs).finish_non_exhaustive()
    }
}

impl<H: GrantTableOp> fmt::Debug for Revokable<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revokable").field("refs", &self.0.refs).finish_non_exhaustive()
    }
}
