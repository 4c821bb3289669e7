//! The frame table: who owns each frame, what holds it, and the free list.
//!
//! As in Xen, a frame goes back to the free list when its last reference goes, and until then it counts against
//! its owner's `max_pages`, whether or not the owner can still reach it. Each reference has a reason here, so that
//! the books can be audited ([`FrameTable::audit`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use xen_ioreq::{Bfn, DomId, Errno, Mfn};

use crate::history::{Event, History};
use crate::memory::HostMemory;
use crate::oracle::{Oracle, Violation, ViolationKind};
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

/// What devices look at without the frame table's lock: the owner and the live translations of each frame.
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
    fn new(frames: usize) -> Self {
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

    pub(crate) fn pins(&self, mfn: Mfn) -> u32 {
        self.at(mfn).map_or(0, |w| w.pins.load(Ordering::SeqCst))
    }

    fn set_owner(&self, mfn: Mfn, owner: Owner) {
        if let Some(w) = self.at(mfn) {
            w.owner.store(owner.pack(), Ordering::SeqCst);
        }
    }
}

/// An entry of the M2B table: who reaches the frame at which BFN on behalf of which IOREQ server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct M2b {
    pub(crate) bfn: Bfn,
    pub(crate) by: DomId,
    pub(crate) ioserver: u16,
}

/// What keeps a frame from being freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The owner's allocation; gone when it is ballooned out.
    Allocation,
    /// A CPU mapping of some domain.
    HostMap(DomId),
    /// A mapping of the owner's own devices (`map_page`).
    BusMap(DomId, Bfn),
    /// An M2B entry.
    M2b(M2b),
    /// A lookup on the hypervisor that has one flag a frame in place of the M2B table (`_PGC_foreign_map`).
    Lookup(DomId, Bfn),
    /// It was unmapped, and the flush of the IOTLB is still to come.
    Flush(DomId, Bfn),
    /// A grant is used by this domain.
    Grant(GrantUse, DomId),
}

/// What a grant of a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantUse {
    /// It is mapped for the CPU.
    Host,
    /// It is mapped for devices.
    Device,
    /// It is the frame of the mapper's own that takes the granted one's place, when that is revoked.
    StandIn,
    /// Bytes are being copied.
    Copy,
}

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
    /// Uses of grants, by kind.
    grants: [u32; 4],
    /// Shared by Xen with its owner (shared_info): the owner's, but not its to give away.
    xen_heap: bool,
    history: History,
}

impl Frame {
    fn granted(&mut self, kind: GrantUse) -> &mut u32 {
        let [host, device, stand_in, copy] = &mut self.grants;
        match kind {
            GrantUse::Host => host,
            GrantUse::Device => device,
            GrantUse::StandIn => stand_in,
            GrantUse::Copy => copy,
        }
    }
}

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
                grants: [0; 4],
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

    /// How often grants of the frame are used: for the CPU, for devices, as a stand-in, by copies.
    pub(crate) fn granted(&self, mfn: Mfn) -> [u32; 4] {
        self.frame(mfn).map_or([0; 4], |f| f.grants)
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

    /// Takes a reference. EINVAL: the frame belongs to nobody who could give one (free, Xen's, no RAM).
    pub(crate) fn hold(&mut self, mfn: Mfn, hold: Hold) -> Result<(), Errno> {
        let f = self.frame_mut(mfn).ok_or(Errno::EINVAL)?;
        if !matches!(f.owner, Owner::Dom(_)) {
            return Err(Errno::EINVAL);
        }
        let event = match hold {
            Hold::Allocation => return Err(Errno::EINVAL),
            Hold::HostMap(by) => {
                f.host_maps += 1;
                Event::HostMapped { by }
            }
            Hold::BusMap(by, bfn) => {
                f.bus_maps += 1;
                Event::BusMapped { by, bfn }
            }
            Hold::M2b(e) => {
                f.m2b.push(e);
                Event::Registered { by: e.by, bfn: e.bfn, ioserver: e.ioserver }
            }
            Hold::Lookup(..) if f.looked_up => return Err(Errno::EINVAL),
            Hold::Lookup(by, bfn) => {
                f.looked_up = true;
                Event::LookedUp { by, bfn }
            }
            Hold::Flush(by, bfn) => {
                f.flushes += 1;
                Event::FlushDue { by, bfn }
            }
            Hold::Grant(kind, by) => {
                *f.granted(kind) += 1;
                Event::Granted { by, kind }
            }
        };
        f.refs += 1;
        self.note(mfn, event);
        Ok(())
    }

    /// Takes all of these references or none. Errors as [`hold`](Self::hold).
    pub(crate) fn hold_all(&mut self, holds: impl Iterator<Item = (Mfn, Hold)> + Clone) -> Result<(), Errno> {
        for (done, (mfn, hold)) in holds.clone().enumerate() {
            if let Err(e) = self.hold(mfn, hold) {
                self.release_all(holds.take(done));
                return Err(e);
            }
        }
        Ok(())
    }

    /// Drops all of these references.
    pub(crate) fn release_all(&mut self, holds: impl Iterator<Item = (Mfn, Hold)>) {
        for (mfn, hold) in holds {
            self.release(mfn, hold);
        }
    }

    /// Drops a reference; the last one frees the frame. `false` if there was no such reference.
    pub(crate) fn release(&mut self, mfn: Mfn, hold: Hold) -> bool {
        let Some(f) = self.frame_mut(mfn) else { return false };
        let owner = match f.owner {
            Owner::Dom(d) => d,
            Owner::Free | Owner::Xen => return false,
        };
        let event = match hold {
            Hold::Allocation if f.allocated => {
                f.allocated = false;
                Event::AllocationDropped { owner }
            }
            Hold::HostMap(by) if f.host_maps > 0 => {
                f.host_maps -= 1;
                Event::HostUnmapped { by }
            }
            Hold::BusMap(by, bfn) if f.bus_maps > 0 => {
                f.bus_maps -= 1;
                Event::BusUnmapped { by, bfn }
            }
            Hold::M2b(e) => {
                let Some(i) = f.m2b.iter().position(|x| *x == e) else { return false };
                f.m2b.swap_remove(i);
                f.swap.retain(|x| *x != e);
                Event::Deregistered { by: e.by, bfn: e.bfn, ioserver: e.ioserver }
            }
            Hold::Lookup(by, bfn) if f.looked_up => {
                f.looked_up = false;
                Event::LookupEnded { by, bfn }
            }
            Hold::Flush(by, bfn) if f.flushes > 0 => {
                f.flushes -= 1;
                Event::Flushed { by, bfn }
            }
            Hold::Grant(kind, by) if *f.granted(kind) > 0 => {
                *f.granted(kind) -= 1;
                Event::GrantEnded { by, kind }
            }
            _ => return false,
        };
        f.refs -= 1;
        let last = f.refs == 0;
        self.note(mfn, event);
        if last {
            self.free_frame(mfn, owner);
        }
        true
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

    /// The end of a domain begins.
    pub(crate) fn begin_end(&mut self, domain: DomId) {
        if let Some(a) = self.accounts.get_mut(&domain) {
            a.ending = true;
        }
    }

    /// Marks a domain as dying and drops the allocation of every frame that it has; held ones stay.
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
            if self.frame(mfn).is_some_and(|f| f.owner == Owner::Dom(domain) && f.allocated) {
                self.note(mfn, Event::OwnerDestroyed { owner: domain });
                self.release(mfn, Hold::Allocation);
            }
        }
    }

    /// Counts translations whose mapping was taken away from under them.
    pub(crate) fn adopt_pins(&self, mfn: Mfn, pins: u32) {
        if let Some(w) = self.watch.at(mfn) {
            // One that was given back in between has been subtracted already; the sum is right.
            w.pins.fetch_add(pins, Ordering::SeqCst);
        }
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

    /// Frames and references that do not add up, one line each.
    pub(crate) fn audit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut owned: BTreeMap<DomId, (u64, u64)> = BTreeMap::new();
        let (mut free, mut xen) = (0usize, 0usize);
        for (i, f) in self.frames.iter().enumerate() {
            let parts =
                u32::from(f.allocated) + f.host_maps + f.bus_maps + u32::from(f.looked_up) + f.flushes;
            let parts =
                u64::from(parts) + f.m2b.len() as u64 + f.grants.iter().map(|n| u64::from(*n)).sum::<u64>();
            if parts != u64::from(f.refs) {
                wrong.push(format!("mfn {i:#x}: {} references, {parts} reasons for one", f.refs));
            }
            match f.owner {
                Owner::Free => free += 1,
                Owner::Xen => xen += 1,
                Owner::Dom(d) => {
                    let (o, c) = owned.entry(d).or_default();
                    *o += 1;
                    *c += u64::from(f.charged);
                }
            }
            if matches!(f.owner, Owner::Dom(_)) != (f.refs > 0) {
                wrong.push(format!("mfn {i:#x}: {:?} with {} references", f.owner, f.refs));
            }
        }
        let dom: u64 = owned.values().map(|(o, _)| o).sum();
        if free != self.free.len() || (free + xen) as u64 + dom != self.frames.len() as u64 {
            let listed = self.free.len();
            let total = self.frames.len();
            wrong
                .push(format!("{free} free ({listed} listed) + {xen} Xen's + {dom} owned of {total} frames"));
        }
        for (d, a) in &self.accounts {
            let (o, c) = owned.remove(d).unwrap_or_default();
            if (o, c) != (a.owned, a.charged) {
                wrong.push(format!(
                    "{d}: owns {o} and is charged {c}, its account says {} and {}",
                    a.owned, a.charged
                ));
            }
        }
        for d in owned.keys() {
            wrong.push(format!("{d}: owns frames but has no account"));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(total: usize) -> FrameTable {
        let memory = Arc::new(HostMemory::new(total).unwrap());
        let mut t = FrameTable::new(memory, Arc::new(Oracle::new(false)), total, 1);
        t.open_account(DomId(1), 3);
        t
    }

    #[test]
    fn a_frame_is_freed_with_its_last_reference_and_charged_until_then() {
        let mut t = table(8);
        let before = t.free_count();
        let m = t.allocate(DomId(1), true).unwrap();
        t.hold(m, Hold::HostMap(DomId(0))).unwrap();
        assert!(t.release(m, Hold::Allocation));
        assert_eq!((t.free_count(), t.account(DomId(1)).unwrap().charged), (before - 1, 1));
        assert!(t.release(m, Hold::HostMap(DomId(0))));
        assert_eq!((t.free_count(), t.account(DomId(1)).unwrap().charged), (before, 0));
        assert_eq!(t.audit(), Vec::<String>::new());
    }

    #[test]
    fn allocation_stops_at_the_limit_and_a_frame_that_does_not_count_passes_it() {
        let mut t = table(8);
        for _ in 0..3 {
            t.allocate(DomId(1), true).unwrap();
        }
        assert_eq!(t.allocate(DomId(1), true), Err(Errno::ENOMEM));
        assert!(t.allocate(DomId(1), false).is_ok());
        assert_eq!(t.audit(), Vec::<String>::new());
    }

    #[test]
    fn a_reference_cannot_be_dropped_twice() {
        let mut t = table(8);
        let m = t.allocate(DomId(1), true).unwrap();
        let e = M2b { bfn: Bfn(9), by: DomId(0), ioserver: 0 };
        t.hold(m, Hold::M2b(e)).unwrap();
        assert!(t.release(m, Hold::M2b(e)));
        assert!(!t.release(m, Hold::M2b(e)));
        assert!(!t.release(m, Hold::HostMap(DomId(0))));
        assert!(t.release(m, Hold::Allocation));
        assert!(!t.release(m, Hold::Allocation));
    }

    #[test]
    fn nobody_can_hold_a_free_frame_or_one_of_xen() {
        let mut t = table(8);
        assert_eq!(t.hold(Mfn(0), Hold::HostMap(DomId(0))), Err(Errno::EINVAL));
        assert_eq!(t.hold(Mfn(5), Hold::HostMap(DomId(0))), Err(Errno::EINVAL));
        assert_eq!(t.hold(Mfn(1 << 40), Hold::HostMap(DomId(0))), Err(Errno::EINVAL));
    }

    #[test]
    fn a_dying_domain_is_reaped_with_its_last_frame() {
        let mut t = table(8);
        let m = t.allocate(DomId(1), true).unwrap();
        t.hold(m, Hold::HostMap(DomId(0))).unwrap();
        t.relinquish(DomId(1));
        assert!(t.reaped.is_empty());
        assert_eq!(t.allocate(DomId(1), true), Err(Errno::ENOMEM));
        t.release(m, Hold::HostMap(DomId(0)));
        assert_eq!(t.reaped, vec![DomId(1)]);
        assert!(t.account(DomId(1)).is_none());
        assert_eq!(t.audit(), Vec::<String>::new());
    }

    #[test]
    fn contents_outlive_a_balloon_and_not_their_domain() {
        let mut t = table(8);
        let left_by = |t: &mut FrameTable, dies: bool| {
            t.open_account(DomId(2), 3);
            let m = t.allocate(DomId(2), true).unwrap();
            t.memory.page(m).unwrap().write(0, &[0x5a]);
            if dies {
                t.relinquish(DomId(2))
            } else {
                assert!(t.release(m, Hold::Allocation))
            }
            m
        };
        let seen = |t: &mut FrameTable, charged| {
            let m = t.allocate(DomId(1), charged).unwrap();
            let mut byte = [0xff];
            t.memory.page(m).unwrap().read(0, &mut byte);
            assert!(t.release(m, Hold::Allocation));
            (m, byte[0])
        };
        let m = left_by(&mut t, false);
        assert_eq!(seen(&mut t, true), (m, 0x5a));
        assert_eq!(seen(&mut t, false), (m, 0), "a frame of Xen's making");
        let m = left_by(&mut t, true);
        assert_eq!(seen(&mut t, true), (m, 0));
    }

    #[test]
    fn books_that_do_not_add_up_are_told() {
        let mut t = table(8);
        let m = t.allocate(DomId(1), true).unwrap();
        t.frame_mut(m).unwrap().host_maps += 1;
        assert_eq!(t.audit().len(), 1);
        t.frame_mut(m).unwrap().host_maps -= 1;
        t.free.pop();
        assert_eq!(t.audit().len(), 1);
    }
}
