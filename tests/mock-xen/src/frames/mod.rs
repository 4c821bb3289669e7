//! The frame table: who owns each frame, what holds it, and the free list.
//!
//! As in Xen, a frame goes back to the free list when its last reference goes, and until then it counts against
//! its owner's `max_pages`, whether or not the owner can still reach it. Each reference has a reason here, so that
//! the books can be audited ([`FrameTable::audit`]).

mod account;
mod audit;
mod hold;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use xen_ioreq::{Bfn, DomId, Errno, Mfn};

use self::account::Account;
pub(crate) use self::hold::{Access, GrantUse, Hold, M2b, Uses};
pub(crate) use self::watch::{Owner, Watch};
use crate::history::{Event, History};
use crate::memory::HostMemory;
use crate::oracle::{Oracle, Violation, ViolationKind};

#[derive(Debug)]
struct Frame {
    owner: Owner,
    refs: u32,
    allocated: bool,
    charged: bool,
    host_maps: u32,
    bus_maps: u32,
    m2b: Vec<M2b>,
    /// Those of `m2b` for which a scratch frame may take this one's place.
    swap: Vec<M2b>,
    looked_up: bool,
    flushes: u32,
    grants: Uses,
    /// One of its owner's page tables.
    table: bool,
    /// Shared by Xen with its owner (shared_info): the owner's, but not its to give away.
    xen_heap: bool,
    history: History,
}

/// All frames, under one lock (`Machine::frames`).
pub(crate) struct FrameTable {
    memory: Arc<HostMemory>,
    watch: Arc<Watch>,
    oracle: Arc<Oracle>,
    frames: Vec<Frame>,
    /// A stack: what was freed last is used first, so that a late access soon meets a new owner.
    free: Vec<Mfn>,
    accounts: BTreeMap<DomId, Account>,
    seq: u64,
    /// Domains whose last frame has gone, to be taken off the list of domains.
    pub(crate) reaped: Vec<DomId>,
}

impl FrameTable {
    pub(crate) fn new(memory: Arc<HostMemory>, oracle: Arc<Oracle>, total: usize, xen: usize) -> Self {
        let watch = Arc::new(Watch::new(total));
        let mut frames = Vec::with_capacity(total);
        let mut free = Vec::with_capacity(total);
        for i in 0..total {
            let owner = if i < xen { Owner::Xen } else { Owner::Free };
            let mfn = Mfn(i as u64);
            watch.set_owner(mfn, owner);
            if owner == Owner::Free {
                free.push(mfn);
            }
            frames.push(Frame {
                owner,
                refs: 0,
                allocated: false,
                charged: false,
                host_maps: 0,
                bus_maps: 0,
                m2b: Vec::new(),
                swap: Vec::new(),
                looked_up: false,
                flushes: 0,
                grants: Uses::default(),
                table: false,
                xen_heap: false,
                history: History::default(),
            });
        }
        free.reverse();
        Self { memory, watch, oracle, frames, free, accounts: BTreeMap::new(), seq: 0, reaped: Vec::new() }
    }

    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        self.frames.get(usize::try_from(mfn.0).ok()?)
    }

    fn frame_mut(&mut self, mfn: Mfn) -> Option<&mut Frame> {
        self.frames.get_mut(usize::try_from(mfn.0).ok()?)
    }

    pub(crate) fn free_count(&self) -> u64 {
        self.free.len() as u64
    }

    pub(crate) fn owner(&self, mfn: Mfn) -> Option<Owner> {
        self.frame(mfn).map(|f| f.owner)
    }

    /// References on the frame.
    pub(crate) fn refs(&self, mfn: Mfn) -> u32 {
        self.frame(mfn).map_or(0, |f| f.refs)
    }

    pub(crate) fn m2b(&self, mfn: Mfn) -> &[M2b] {
        self.frame(mfn).map_or(&[], |f| &f.m2b)
    }

    /// Whether the frame is one that Xen shares with its owner.
    pub(crate) fn xen_heap(&self, mfn: Mfn) -> bool {
        self.frame(mfn).is_some_and(|f| f.xen_heap)
    }

    /// How often grants of the frame are used.
    pub(crate) fn granted(&self, mfn: Mfn) -> Uses {
        self.frame(mfn).map_or_else(Uses::default, |f| f.grants)
    }

    /// Whether the frame is a page table.
    pub(crate) fn is_table(&self, mfn: Mfn) -> bool {
        self.frame(mfn).is_some_and(|f| f.table)
    }

    /// Whether a lookup holds the frame.
    pub(crate) fn looked_up(&self, mfn: Mfn) -> bool {
        self.frame(mfn).is_some_and(|f| f.looked_up)
    }

    /// Lets a scratch frame take this frame's place at an entry that it has.
    pub(crate) fn allow_swap(&mut self, mfn: Mfn, entry: M2b) {
        if let Some(f) = self.frame_mut(mfn) {
            f.swap.push(entry);
        }
    }

    /// Whether a scratch frame may take its place at this entry.
    pub(crate) fn may_swap(&self, mfn: Mfn, entry: &M2b) -> bool {
        self.frame(mfn).is_some_and(|f| f.swap.contains(entry))
    }

    /// Whether a scratch frame may take its place everywhere.
    pub(crate) fn swappable(&self, mfn: Mfn) -> bool {
        self.frame(mfn).is_some_and(|f| !f.m2b.is_empty() && f.m2b.iter().all(|e| f.swap.contains(e)))
    }

    pub(crate) fn history(&self, mfn: Mfn) -> Vec<String> {
        self.frame(mfn).map_or_else(Vec::new, |f| f.history.lines())
    }

    pub(crate) fn note(&mut self, mfn: Mfn, event: Event) {
        self.seq += 1;
        let seq = self.seq;
        if let Some(f) = self.frame_mut(mfn) {
            f.history.push(seq, event);
        }
    }

    /// Gives a frame to a domain, with the allocation's reference. A charged frame counts against `max` and holds what its
    /// last owner left there: Xen clears what a dead domain had, not what a living one has ballooned out. Others are
    /// zeroed. ENOMEM: no free frame, the limit reached, or the domain dying.
    pub(crate) fn allocate(&mut self, owner: DomId, charged: bool) -> Result<Mfn, Errno> {
        let account = self.accounts.get_mut(&owner).ok_or(Errno::ESRCH)?;
        if account.ending || (charged && account.charged >= account.max) {
            return Err(Errno::ENOMEM);
        }
        let mfn = self.free.pop().ok_or(Errno::ENOMEM)?;
        account.owned += 1;
        account.charged += u64::from(charged);
        if let Some(page) = self.memory.page(mfn).filter(|_| !charged) {
            page.clear();
        }
        if let Some(f) = self.frame_mut(mfn) {
            f.owner = Owner::Dom(owner);
            f.refs = 1;
            f.allocated = true;
            f.charged = charged;
        }
        self.watch.set_owner(mfn, Owner::Dom(owner));
        self.note(mfn, Event::Allocated { owner });
        Ok(mfn)
    }

    /// Gives 2^order frames in a row, aligned to that, to a domain. Contents and errors as [`allocate`](Self::allocate).
    pub(crate) fn allocate_run(&mut self, owner: DomId, order: u32) -> Result<Vec<Mfn>, Errno> {
        if order == 0 {
            return Ok(vec![self.allocate(owner, true)?]);
        }
        let account = self.accounts.get(&owner).ok_or(Errno::ESRCH)?;
        let count = 1usize.checked_shl(order).ok_or(Errno::ENOMEM)?;
        if account.ending || account.max.saturating_sub(account.charged) < count as u64 {
            return Err(Errno::ENOMEM);
        }
        let is_free = |run: &[Frame]| run.len() == count && run.iter().all(|f| f.owner == Owner::Free);
        let first = self.frames.chunks(count).position(is_free).ok_or(Errno::ENOMEM)? * count;
        let run: Vec<Mfn> = (first..first + count).map(|i| Mfn(i as u64)).collect();
        let (low, high) = (Mfn(first as u64), Mfn((first + count) as u64));
        self.free.retain(|mfn| !(low..high).contains(mfn));
        // On top of the stack, lowest first, so that these are the ones that are taken.
        self.free.extend(run.iter().rev());
        run.iter().map(|_| self.allocate(owner, true)).collect()
    }

    /// Gives a zeroed frame of Xen's heap to a domain: its own, but it does not count and cannot be given away. Errors as
    /// [`allocate`](Self::allocate).
    pub(crate) fn allocate_shared(&mut self, owner: DomId) -> Result<Mfn, Errno> {
        let mfn = self.allocate(owner, false)?;
        if let Some(f) = self.frame_mut(mfn) {
            f.xen_heap = true;
        }
        Ok(mfn)
    }

    fn free_frame(&mut self, mfn: Mfn, owner: DomId) {
        let Some(f) = self.frame_mut(mfn) else { return };
        let charged = f.charged;
        f.owner = Owner::Free;
        f.charged = false;
        f.xen_heap = false;
        self.watch.set_owner(mfn, Owner::Free);
        self.note(mfn, Event::Freed);
        let pins = self.watch.pins(mfn);
        if pins > 0 {
            let kind = ViolationKind::FreedWhilePinned { pins };
            self.violation(kind, format!("frame of {owner}"), None, mfn);
        }
        self.free.push(mfn);
        let ending = self.accounts.get(&owner).is_none_or(|a| a.ending);
        if let Some(page) = self.memory.page(mfn).filter(|_| ending) {
            page.clear();
        }
        if let Some(a) = self.accounts.get_mut(&owner) {
            a.owned -= 1;
            a.charged -= u64::from(charged);
            if a.dying && a.owned == 0 {
                self.accounts.remove(&owner);
                self.reaped.push(owner);
            }
        }
    }

    /// Counts translations whose mapping was taken away from under them.
    pub(crate) fn adopt_pins(&self, mfn: Mfn, pins: u32) {
        self.watch.adopt(mfn, pins);
    }

    pub(crate) fn violation(&self, kind: ViolationKind, who: String, bfn: Option<Bfn>, mfn: Mfn) {
        self.oracle.report(Violation { kind, who, bfn, mfn, history: self.history(mfn) });
    }

    /// The frames of a domain that a lookup holds.
    pub(crate) fn looked_up_of(&self, owner: DomId) -> Vec<Mfn> {
        let all = (0..self.frames.len()).map(|i| Mfn(i as u64));
        all.filter(|mfn| self.owner(*mfn) == Some(Owner::Dom(owner)) && self.looked_up(*mfn)).collect()
    }

    /// Every M2B entry that a domain holds, with its frame.
    pub(crate) fn m2b_of(&self, by: DomId) -> Vec<(Mfn, M2b)> {
        let all = self.frames.iter().enumerate();
        all.flat_map(|(i, f)| f.m2b.iter().filter(|e| e.by == by).map(move |e| (Mfn(i as u64), *e))).collect()
    }

    /// The frames of a domain whose place scratch may take everywhere.
    pub(crate) fn swappable_of(&self, owner: DomId) -> Vec<Mfn> {
        let all = (0..self.frames.len()).map(|i| Mfn(i as u64));
        all.filter(|mfn| self.owner(*mfn) == Some(Owner::Dom(owner)) && self.swappable(*mfn)).collect()
    }
}
