//! What a domain owns and may own, from its first frame to its last, which may be long after its end.

use xen_ioreq::{DomId, Mfn};

use super::{FrameTable, Hold, Owner};
use crate::history::Event;

/// A domain's account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    /// Charged frames, `tot_pages`.
    pub(crate) charged: u64,
    /// Limit for charged frames.
    pub(crate) max: u64,
    /// All frames that belong to it, charged or not.
    pub(crate) owned: u64,
    /// Its end has begun: it gets no frame any more, and what it gives back is cleared.
    pub(crate) ending: bool,
    /// Destroyed; the account goes with its last frame.
    pub(crate) dying: bool,
}

impl FrameTable {
    pub(crate) fn open_account(&mut self, domain: DomId, max: u64) {
        self.accounts.insert(domain, Account { charged: 0, max, owned: 0, ending: false, dying: false });
    }

    pub(crate) fn account(&self, domain: DomId) -> Option<Account> {
        self.accounts.get(&domain).copied()
    }

    pub(crate) fn set_max(&mut self, domain: DomId, max: u64) {
        if let Some(a) = self.accounts.get_mut(&domain) {
            a.max = max;
        }
    }

    /// Takes a frame from its owner, who is the only one to hold it, for another. Both accounts change, the contents do not.
    /// `false`: somebody else holds it, or the receiver may have no more.
    pub(crate) fn transfer(&mut self, mfn: Mfn, from: DomId, to: DomId) -> bool {
        let room = self.accounts.get(&to).is_some_and(|a| !a.ending && a.charged < a.max);
        let Some(f) = self.frame_mut(mfn) else { return false };
        let alone = f.owner == Owner::Dom(from) && f.allocated && f.refs == 1 && f.charged;
        if !alone || !room {
            return false;
        }
        f.owner = Owner::Dom(to);
        self.watch.set_owner(mfn, Owner::Dom(to));
        for (domain, change) in [(from, -1), (to, 1)] {
            if let Some(a) = self.accounts.get_mut(&domain) {
                a.owned = a.owned.saturating_add_signed(change);
                a.charged = a.charged.saturating_add_signed(change);
            }
        }
        self.note(mfn, Event::Transferred { from, to });
        true
    }

    /// The end of a domain begins.
    pub(crate) fn begin_end(&mut self, domain: DomId) {
        if let Some(a) = self.accounts.get_mut(&domain) {
            a.ending = true;
        }
    }

    /// Marks a domain as dying and drops the allocation of every frame that it has, and what its page tables
    /// hold; frames that others hold stay.
    pub(crate) fn relinquish(&mut self, domain: DomId) {
        let Some(a) = self.accounts.get_mut(&domain) else { return };
        (a.ending, a.dying) = (true, true);
        if a.owned == 0 {
            self.accounts.remove(&domain);
            self.reaped.push(domain);
            return;
        }
        for i in 0..self.frames.len() {
            let mfn = Mfn(i as u64);
            let mine = self.frame(mfn).filter(|f| f.owner == Owner::Dom(domain));
            let Some((allocated, table)) = mine.map(|f| (f.allocated, f.table)) else { continue };
            if table {
                self.release(mfn, Hold::Table);
            }
            if allocated {
                self.note(mfn, Event::OwnerDestroyed { owner: domain });
                self.release(mfn, Hold::Allocation);
            }
        }
    }
}
