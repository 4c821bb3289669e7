//! An entry of a grant table as it lies in the granter's pages, where the granter may write at any time.
//!
//! Every look is one atomic access and every claim follows the header's protocol, so that a granter that withdraws an entry by
//! compare-exchange either sees the claim or has it refused. What an entry is claimed for is remembered elsewhere.

use xen_ioreq::DomId;
use xen_ioreq::abi::grant_table::{
    GNTST_bad_gntref, GNTST_general_error, GNTST_permission_denied, GTF_accept_transfer, GTF_permit_access,
    GTF_reading, GTF_readonly, GTF_sub_page, GTF_transfer_committed, GTF_transfer_completed, GTF_transitive,
    GTF_type_mask, GTF_writing,
};
use xen_ioreq::abi::revokable::GTF_revokable;

use crate::memory::Page;
use crate::sync::atomic::{Ordering, fence};

/// Compare-exchanges after which a granter that keeps changing its entry is given up on.
const TRIES: u32 = 5;

/// What an entry is claimed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// `map_grant_ref`.
    Map,
    /// `map_revokable`.
    MapRevokable,
    /// `copy`; whether somebody else's grant may be handed on.
    Copy { transitive: bool },
}

/// A claim on an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) by: DomId,
    pub(crate) readonly: bool,
    pub(crate) purpose: Purpose,
    /// Whether this hypervisor knows `GTF_revokable`.
    pub(crate) revokable: bool,
    /// It is in use already: who may use it and how was decided then, only writing is looked at anew.
    pub(crate) pinned: bool,
}

/// What an entry says of a grant of a whole page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) flags: u16,
    pub(crate) domid: DomId,
    pub(crate) frame: u64,
}

/// An entry of either version.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'m> {
    shared: Page<'m>,
    at: usize,
    /// Of version 2: where its status word is.
    status: Option<(Page<'m>, usize)>,
}

fn split(word: u32) -> (u16, DomId) {
    let [a, b, c, d] = word.to_le_bytes();
    (u16::from_le_bytes([a, b]), DomId(u16::from_le_bytes([c, d])))
}

fn join(flags: u16, domid: DomId) -> u32 {
    u32::from(flags) | u32::from(domid.0) << 16
}

impl Ask {
    /// Whether an entry that says this may be claimed.
    fn check(&self, flags: u16, domid: DomId, v2: bool) -> Result<(), i16> {
        if !self.pinned {
            let copy = matches!(self.purpose, Purpose::Copy { .. });
            let granted = match flags & GTF_type_mask {
                GTF_permit_access => copy || flags & GTF_sub_page == 0,
                // Only who is told about it can know that it may be revoked.
                GTF_transitive => v2 && copy && !(self.revokable && flags & GTF_revokable != 0),
                _ => false,
            };
            if !granted || domid != self.by {
                return Err(GNTST_general_error);
            }
            self.check_revokable(self.revokable && flags & GTF_revokable != 0)?;
        }
        if !self.readonly && flags & GTF_readonly != 0 { Err(GNTST_general_error) } else { Ok(()) }
    }

    /// Whether a grant of this kind may be used for this purpose.
    pub(crate) fn check_revokable(&self, revokable: bool) -> Result<(), i16> {
        match (self.purpose, revokable) {
            (Purpose::Map, true) => Err(GNTST_permission_denied),
            (Purpose::MapRevokable, false) => Err(GNTST_bad_gntref),
            _ => Ok(()),
        }
    }

    fn marks(&self) -> u16 {
        if self.readonly { GTF_reading } else { GTF_reading | GTF_writing }
    }
}

impl<'m> Entry<'m> {
    /// An entry of version 1 at this offset of a page.
    pub(crate) fn v1(shared: Page<'m>, at: usize) -> Self {
        Self { shared, at, status: None }
    }

    /// An entry of version 2, with the page and the offset of its status word.
    pub(crate) fn v2(shared: Page<'m>, at: usize, status: Page<'m>, status_at: usize) -> Self {
        Self { shared, at, status: Some((status, status_at)) }
    }

    fn head(&self) -> (u16, DomId) {
        split(self.shared.u32(self.at).load(Ordering::SeqCst))
    }

    /// The flags as they are now.
    pub(crate) fn flags(&self) -> u16 {
        self.head().0
    }

    /// Marks the entry as in use and gives its flags; -1 (`GNTST_general_error`) and others: it grants nothing of the kind.
    pub(crate) fn claim(&self, ask: &Ask) -> Result<u16, i16> {
        match self.status {
            None => self.claim_v1(ask),
            Some(_) => self.claim_v2(ask),
        }
    }

    fn claim_v1(&self, ask: &Ask) -> Result<u16, i16> {
        let word = self.shared.u32(self.at);
        let mut seen = word.load(Ordering::SeqCst);
        for _ in 0..TRIES {
            let (flags, domid) = split(seen);
            ask.check(flags, domid, false)?;
            let marked = join(flags | ask.marks(), domid);
            match word.compare_exchange(seen, marked, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Ok(flags),
                Err(now) => seen = now,
            }
        }
        Err(GNTST_general_error)
    }

    /// The status word is the hypervisor's alone: it is marked first, and the entry looked at once more then.
    fn claim_v2(&self, ask: &Ask) -> Result<u16, i16> {
        let (flags, domid) = self.head();
        ask.check(flags, domid, true)?;
        self.mark(ask.marks());
        fence(Ordering::SeqCst);
        let (flags, domid) = self.head();
        if let Err(status) = ask.check(flags, domid, true) {
            self.clear(if ask.pinned { GTF_writing } else { GTF_reading | GTF_writing });
            return Err(status);
        }
        Ok(flags)
    }

    fn mark(&self, marks: u16) {
        if let Some((page, at)) = self.status {
            page.u16(at).fetch_or(marks, Ordering::SeqCst);
        }
    }

    /// Takes marks away.
    pub(crate) fn clear(&self, marks: u16) {
        match self.status {
            None => {
                self.shared.u32(self.at).fetch_and(!u32::from(marks), Ordering::SeqCst);
            }
            Some((page, at)) => {
                page.u16(at).fetch_and(!marks, Ordering::SeqCst);
            }
        }
    }

    /// Whether it lets somebody use a page.
    pub(crate) fn grants_access(&self) -> bool {
        self.flags() & GTF_type_mask == GTF_permit_access
    }

    /// The hypervisor's marks, as the granter sees them.
    pub(crate) fn marks(&self) -> u16 {
        let word = self.status.map_or_else(|| self.flags(), |(page, at)| page.u16(at).load(Ordering::SeqCst));
        word & (GTF_reading | GTF_writing)
    }

    /// The frame's number.
    pub(crate) fn frame(&self) -> u64 {
        match self.status {
            None => u64::from(self.shared.u32(self.at + 4).load(Ordering::SeqCst)),
            Some(_) => self.shared.u64(self.at + 8).load(Ordering::SeqCst),
        }
    }

    /// The first byte and the length of a part of a page, which version 1 has not.
    pub(crate) fn part(&self) -> Option<(u16, u16)> {
        self.status.map(|_| self.halves())
    }

    fn halves(&self) -> (u16, u16) {
        let [a, b, c, d] = self.shared.u32(self.at + 4).load(Ordering::SeqCst).to_le_bytes();
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }

    /// Of a grant that is handed on: whose it is, and its reference there.
    pub(crate) fn via(&self) -> (DomId, u32) {
        let (domid, _) = self.halves();
        (DomId(domid), self.shared.u32(self.at + 8).load(Ordering::SeqCst))
    }

    /// Commits to giving the granter a frame by this entry; `false`: it accepts none from that domain.
    pub(crate) fn commit_transfer(&self, from: DomId) -> bool {
        let word = self.shared.u32(self.at);
        let wanted = join(GTF_accept_transfer, from);
        let committed = join(GTF_accept_transfer | GTF_transfer_committed, from);
        // Whatever else the granter changes meanwhile is no acceptance any more.
        word.compare_exchange(wanted, committed, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Takes that back: there is no frame after all.
    pub(crate) fn retract_transfer(&self) {
        self.shared.u32(self.at).fetch_and(!u32::from(GTF_transfer_committed), Ordering::SeqCst);
    }

    /// Says that the frame has come; `number`: by which number, where that is not the granter's choice.
    pub(crate) fn complete_transfer(&self, number: Option<u64>) {
        match (number, self.status) {
            (Some(n), None) => {
                let low = u32::try_from(n).unwrap_or(u32::MAX);
                self.shared.u32(self.at + 4).store(low, Ordering::SeqCst);
            }
            (Some(n), Some(_)) => self.shared.u64(self.at + 8).store(n, Ordering::SeqCst),
            (None, _) => {}
        }
        self.shared.u32(self.at).fetch_or(u32::from(GTF_transfer_completed), Ordering::SeqCst);
    }

    /// All that both versions can say of a grant, marks included.
    pub(crate) fn whole(&self) -> Whole {
        let (flags, domid) = self.head();
        let marks = self.status.map_or(0, |(page, at)| page.u16(at).load(Ordering::SeqCst));
        Whole { flags: flags | marks, domid, frame: self.frame() }
    }

    /// Writes it into an entry of zeros.
    pub(crate) fn write(&self, whole: &Whole) {
        let marks = GTF_reading | GTF_writing;
        match self.status {
            None => {
                let low = u32::try_from(whole.frame).unwrap_or(u32::MAX);
                self.shared.u32(self.at + 4).store(low, Ordering::SeqCst);
            }
            Some((page, at)) => {
                self.shared.u64(self.at + 8).store(whole.frame, Ordering::SeqCst);
                page.u16(at).store(whole.flags & marks, Ordering::SeqCst);
            }
        }
        let flags = if self.status.is_some() { whole.flags & !marks } else { whole.flags };
        self.shared.u32(self.at).store(join(flags, whole.domid), Ordering::SeqCst);
    }

    /// How often eight bytes.
    fn words(&self) -> usize {
        if self.status.is_some() { 2 } else { 1 }
    }

    /// Changes places with another entry of the same table. Neither is in use.
    pub(crate) fn swap(&self, other: &Self) {
        for i in 0..self.words() {
            let (a, b) = (self.shared.u64(self.at + i * 8), other.shared.u64(other.at + i * 8));
            let was = a.load(Ordering::SeqCst);
            a.store(b.load(Ordering::SeqCst), Ordering::SeqCst);
            b.store(was, Ordering::SeqCst);
        }
    }
}
