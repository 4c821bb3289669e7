//! One guest's mappings: hits without a shared lock, misses in batches, notices recorded at once and worked off later.
//!
//! Lock order: the guest's `slow`, then index shards, then those of allocator and soft IOMMU. `slow` is held by all
//! that changes which mappings exist; taking and putting references needs none of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

use crate::backend::Verdict;
use crate::client::ClientInner;
use crate::error::{MapError, ReleaseError, RevalidateError};
use crate::mapping::{Cause, Drained, Draining, Mapped, Released, What, rests};
use crate::table::{Index, NoRef, Slot, State, Status};
use crate::wire::Peer;

/// Notices that are kept one by one; more become 'something changed'. Xen sends one a mapping, so a flood is no
/// honest one, and a batch of this size costs less than looking through everything.
const MAX_NOTICES: usize = 4096;

/// What a notice says when it does not say what: re-validate everything.
pub const EVERYTHING: u64 = u64::MAX;

/// A guest whose frames are mapped. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    pub(crate) inner: Arc<GuestInner>,
}

pub(crate) struct GuestInner {
    pub(crate) client: Arc<ClientInner>,
    /// Number within the client; not used twice, unlike a domain's.
    id: u32,
    peer: Peer,
    by_gfn: Index,
    slow: Mutex<Slow>,
    notices: Mutex<Notices>,
    /// Whether [`Guest::take_draining`] would find something.
    work: AtomicBool,
    dead: AtomicBool,
    counts: Counts,
}

/// What only one thread at a time changes.
#[derive(Default)]
struct Slow {
    /// Mappings that exist, stale ones included.
    mappings: u32,
}

#[derive(Default)]
struct Notices {
    everything: bool,
    bfns: Vec<Bfn>,
    /// Tokens that were dropped on the way.
    orphans: Vec<Drained>,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    notices: AtomicU64,
    invalidated: AtomicU64,
    released: AtomicU64,
}

/// Figures of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Mappings that exist now, draining ones included.
    pub mappings: u64,
    /// Frames that were asked for and mapped already.
    pub hits: u64,
    /// Frames that were asked for and not.
    pub misses: u64,
    /// Notices from the hypervisor.
    pub notices: u64,
    /// Mappings that were found to be no longer the guest's.
    pub invalidated: u64,
    /// Mappings that were given back.
    pub released: u64,
}

impl Guest {
    pub(crate) fn new(client: Arc<ClientInner>, id: u32, peer: Peer, secret: u64) -> Self {
        let inner = GuestInner {
            client,
            id,
            peer,
            by_gfn: Index::new(|r| r.gfn().0, secret),
            slow: Mutex::default(),
            notices: Mutex::default(),
            work: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            counts: Counts::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The domain.
    pub fn domid(&self) -> DomId {
        self.inner.peer.domid
    }

    /// The IOREQ server that hears of its frames' end.
    pub fn ioserver(&self) -> IoServerId {
        self.inner.peer.ioserver
    }

    /// Makes guest frames reachable and takes a reference to each; an answer a frame, in order. All that are not
    /// mapped yet go to the hypervisor in one call (1024 frames a hypercall; 512 a foreign mapping).
    pub fn map(&self, gfns: &[Gfn]) -> Vec<Result<Mapped, MapError>> {
        let mut out: Vec<Option<Result<Mapped, MapError>>> = gfns.iter().map(|g| self.hit(*g)).collect();
        let missing = out.iter().filter(|r| r.is_none()).count() as u64;
        self.inner.counts.hits.fetch_add(gfns.len() as u64 - missing, Ordering::Relaxed);
        if missing != 0 {
            self.inner.counts.misses.fetch_add(missing, Ordering::Relaxed);
            self.map_misses(gfns, &mut out);
        }
        let no_answer = |gfn| Err(MapError::NoBusFrames { domid: self.domid(), gfn });
        out.into_iter().zip(gfns).map(|(r, &gfn)| r.unwrap_or_else(|| no_answer(gfn))).collect()
    }

    /// [`map`](Self::map) of one frame.
    pub fn map_one(&self, gfn: Gfn) -> Result<Mapped, MapError> {
        match self.hit(gfn) {
            Some(r) => {
                self.inner.counts.hits.fetch_add(1, Ordering::Relaxed);
                r
            }
            None => self.map(&[gfn]).pop().unwrap_or(Err(MapError::NoBusFrames { domid: self.domid(), gfn })),
        }
    }

    /// A reference to a mapping that is live already. Never calls the hypervisor.
    pub fn lookup(&self, gfn: Gfn) -> Option<Mapped> {
        self.hit(gfn)?.ok()
    }

    /// Records what an `IOREQ_TYPE_INVALIDATE` said: a bus frame, or [`EVERYTHING`]. Quick, calls nobody: acknowledge the
    /// request after it, then let somebody call [`take_draining`](Self::take_draining).
    pub fn notice(&self, data: u64) {
        self.inner.counts.notices.fetch_add(1, Ordering::Relaxed);
        let mut notices = self.inner.notices.lock();
        if data == EVERYTHING || notices.bfns.len() >= MAX_NOTICES {
            notices.everything = true;
            notices.bfns.clear();
        } else if !notices.everything {
            notices.bfns.push(Bfn(data));
        }
        self.inner.work.store(true, Ordering::Release);
    }

    /// Whether [`take_draining`](Self::take_draining) has something to do. One atomic load.
    pub fn has_work(&self) -> bool {
        self.inner.work.load(Ordering::Acquire)
    }

    /// Works the notices off: asks the hypervisor about the mappings concerned (those of the bus frames that were
    /// named, or all of this guest), in batches, and returns what must be drained, with what was dropped undrained
    /// before. Mappings that are still right stay as they are.
    ///
    /// On an error the notices are kept for the next call.
    pub fn take_draining(&self) -> Result<Vec<Draining>, RevalidateError> {
        let inner = &self.inner;
        let _slow = inner.slow.lock();
        inner.work.store(false, Ordering::Release);
        let Notices { everything, bfns, orphans } = mem::take(&mut *inner.notices.lock());
        let mut out: Vec<Draining> =
            orphans.into_iter().map(|d| self.draining(d)).filter(|d| !d.is_void()).collect();
        let slots = if everything { inner.by_gfn.slots() } else { self.slots_of(&bfns) };
        match self.revalidate(&slots, &mut out) {
            Ok(again) => {
                if again {
                    self.inner.keep(true, Vec::new());
                }
                Ok(out)
            }
            Err(e) => {
                // What is in `out` goes back to the orphans as it is dropped.
                self.inner.keep(everything, bfns);
                Err(e)
            }
        }
    }

    /// The domain is dead or dying: everything of it must go, and nothing of it is mapped any more. Returns what
    /// must be drained; what is draining elsewhere stays with whom it is.
    pub fn die(&self) -> Vec<Draining> {
        let inner = &self.inner;
        inner.dead.store(true, Ordering::Release);
        let _slow = inner.slow.lock();
        let Notices { orphans, .. } = mem::take(&mut *inner.notices.lock());
        let mut out: Vec<Draining> =
            orphans.into_iter().map(|d| self.draining(d)).filter(|d| !d.is_void()).collect();
        out.extend(inner.by_gfn.slots().into_iter().filter_map(|slot| self.make_stale(slot, Cause::Death)));
        out
    }

    /// Whether no mapping of it exists any more, not even a draining one.
    pub fn is_empty(&self) -> bool {
        self.inner.slow.lock().mappings == 0
    }

    /// Its figures.
    pub fn stats(&self) -> GuestStats {
        let c = &self.inner.counts;
        GuestStats {
            mappings: u64::from(self.inner.slow.lock().mappings),
            hits: c.hits.load(Ordering::Relaxed),
            misses: c.misses.load(Ordering::Relaxed),
            notices: c.notices.load(Ordering::Relaxed),
            invalidated: c.invalidated.load(Ordering::Relaxed),
            released: c.released.load(Ordering::Relaxed),
        }
    }

    /// A reference to the live mapping of `gfn`; `None` if there is none.
    fn hit(&self, gfn: Gfn) -> Option<Result<Mapped, MapError>> {
        let inner = &self.inner;
        let found = inner.by_gfn.find(&inner.client.arena, gfn.0, |slot, r| match r.state.take() {
            Ok(()) => Some(Ok((slot, r.bfn()))),
            Err(NoRef::TooMany) => Some(Err(MapError::TooManyReferences { domid: self.domid(), gfn })),
            Err(NoRef::NotLive(_)) => None,
        });
        Some(found??.map(|(slot, bfn)| self.mapped(slot, bfn)))
    }

    fn map_misses(&self, gfns: &[Gfn], out: &mut [Option<Result<Mapped, MapError>>]) {
        let inner = &self.inner;
        let mut slow = inner.slow.lock();
        let domid = self.domid();
        let quota = inner.client.max_per_guest;
        // Each missing frame once, in the order in which they were asked for.
        let mut wanted: Vec<Gfn> = Vec::new();
        let mut answers: HashMap<Gfn, Result<Mapped, MapError>> = HashMap::new();
        for (&gfn, out) in gfns.iter().zip(out.iter_mut()).filter(|(_, out)| out.is_none()) {
            if inner.dead.load(Ordering::Acquire) {
                *out = Some(Err(MapError::Dead { domid, gfn }));
            } else if let Some(r) = self.hit(gfn).or_else(|| self.revive(gfn)) {
                *out = Some(r);
            } else if let Entry::Vacant(e) = answers.entry(gfn) {
                e.insert(Err(MapError::Quota { domid, gfn, quota }));
                if wanted.len() < quota.saturating_sub(slow.mappings) as usize {
                    wanted.push(gfn);
                }
            }
        }
        if !wanted.is_empty() {
            let installed = inner.client.backend.install(inner.peer, &wanted);
            for (gfn, r) in wanted.into_iter().zip(installed) {
                answers.insert(gfn, r.and_then(|bfn| self.enter(&mut slow, gfn, bfn)));
            }
        }
        for (&gfn, out) in gfns.iter().zip(out.iter_mut()).filter(|(_, out)| out.is_none()) {
            // A frame that was asked for twice: the first takes the mapping's own reference, the others one more.
            *out = answers.remove(&gfn).or_else(|| self.hit(gfn));
            if let Some(Err(e)) = out {
                answers.insert(gfn, Err(*e));
            }
        }
    }

    /// Takes an idle mapping back into use.
    fn revive(&self, gfn: Gfn) -> Option<Result<Mapped, MapError>> {
        let inner = &self.inner;
        let arena = &inner.client.arena;
        let found = inner.by_gfn.find(arena, gfn.0, |slot, r| r.state.revive().then(|| (slot, r.bfn())));
        found?.map(|(slot, bfn)| Ok(self.mapped(slot, bfn)))
    }

    /// Enters a new mapping into the table.
    fn enter(&self, slow: &mut Slow, gfn: Gfn, bfn: Bfn) -> Result<Mapped, MapError> {
        let inner = &self.inner;
        let client = &inner.client;
        if let Some((slot, guest)) = client.by_bfn.find(&client.arena, bfn.0, |slot, r| (slot, r.guest())) {
            return self.enter_again(slot, guest, gfn, bfn);
        }
        let Some(slot) = client.arena.insert(inner.id, gfn, bfn) else {
            // Nobody has seen the bus frame yet, so no device can reach it.
            if let Some(Err(e)) = client.backend.remove(inner.peer, &[(gfn, bfn)]).pop() {
                log::error!("{e}");
            }
            return Err(MapError::NoBusFrames { domid: self.domid(), gfn });
        };
        client.by_bfn.insert(&client.arena, slot);
        inner.by_gfn.insert(&client.arena, slot);
        slow.mappings += 1;
        Ok(self.mapped(slot, bfn))
    }

    /// The hypervisor told a bus frame that is in the table: the guest has moved the frame to another gfn. There is one
    /// reference on it, so there must stay one mapping of it.
    fn enter_again(&self, slot: Slot, guest: u32, gfn: Gfn, bfn: Bfn) -> Result<Mapped, MapError> {
        let inner = &self.inner;
        let arena = &inner.client.arena;
        let domid = self.domid();
        let Some(record) = arena.get(slot).filter(|_| guest == inner.id) else {
            return Err(MapError::Conflict { domid, gfn, bfn });
        };
        loop {
            match record.state.take() {
                Ok(()) => break,
                Err(NoRef::TooMany) => return Err(MapError::TooManyReferences { domid, gfn }),
                Err(NoRef::NotLive(Status::Idle)) if record.state.revive() => break,
                // Its last reference went just now.
                Err(NoRef::NotLive(Status::Idle | Status::Live)) => {}
                Err(NoRef::NotLive(_)) => return Err(MapError::Draining { domid, gfn, bfn }),
            }
        }
        inner.by_gfn.remove(arena, slot);
        record.set_gfn(gfn);
        inner.by_gfn.insert(arena, slot);
        Ok(self.mapped(slot, bfn))
    }

    /// The mappings of this guest at these bus frames.
    fn slots_of(&self, bfns: &[Bfn]) -> Vec<Slot> {
        let client = &self.inner.client;
        let find = |bfn: &Bfn| client.by_bfn.find(&client.arena, bfn.0, |slot, r| (slot, r.guest()));
        let mut slots: Vec<Slot> = bfns
            .iter()
            .filter_map(find)
            .filter(|(_, guest)| *guest == self.inner.id)
            .map(|(slot, _)| slot)
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Asks the hypervisor about these mappings and adds what must be drained. Whether some could not be told yet.
    fn revalidate(&self, slots: &[Slot], out: &mut Vec<Draining>) -> Result<bool, RevalidateError> {
        let client = &self.inner.client;
        let mut asked: Vec<Slot> = Vec::with_capacity(slots.len());
        let mut mappings = Vec::with_capacity(slots.len());
        for &slot in slots {
            let Some(record) = client.arena.get(slot) else { continue };
            match record.state.get().status {
                Status::Live => {
                    asked.push(slot);
                    mappings.push((record.gfn(), record.bfn()));
                }
                // Needed by nobody: not worth asking about.
                Status::Idle => out.extend(self.make_stale(slot, Cause::Invalidated)),
                Status::Stale | Status::Releasing | Status::Free => {}
            }
        }
        if mappings.is_empty() {
            return Ok(false);
        }
        let is_mapped = |bfn: Bfn| client.by_bfn.find(&client.arena, bfn.0, |_, _| ()).is_some();
        let verdicts = client.backend.check(self.inner.peer, &mappings, &is_mapped)?;
        let mut again = false;
        for ((slot, (gfn, bfn)), verdict) in asked.into_iter().zip(mappings).zip(verdicts) {
            match verdict {
                Verdict::Same => {}
                Verdict::Gone => out.extend(self.make_stale(slot, Cause::Invalidated)),
                Verdict::Replaced(page) => {
                    out.push(self.draining(Drained {
                        what: What::Page(page),
                        gfn,
                        bfn,
                        cause: Cause::Replaced,
                    }));
                }
                Verdict::Busy => again = true,
            }
        }
        Ok(again)
    }

    /// No new references; a later map of the gfn makes a new mapping. `None` if it was so already. With `slow` locked.
    fn make_stale(&self, slot: Slot, cause: Cause) -> Option<Draining> {
        let inner = &self.inner;
        let record = inner.client.arena.get(slot)?;
        let State { epoch, .. } = record.state.make_stale()?;
        inner.by_gfn.remove(&inner.client.arena, slot);
        if cause == Cause::Invalidated {
            inner.counts.invalidated.fetch_add(1, Ordering::Relaxed);
        }
        let what = What::Mapping { slot, epoch };
        Some(self.draining(Drained { what, gfn: record.gfn(), bfn: record.bfn(), cause }))
    }

    /// Releases mappings and pages of this guest that are quiesced.
    pub(crate) fn release(&self, items: Vec<Draining>, out: &mut Released) {
        let inner = &self.inner;
        let client = &inner.client;
        let mut slow = inner.slow.lock();
        let (mut slots, mut mappings) = (Vec::new(), Vec::new());
        // Replaced pages first: a mapping whose old page is still there cannot go.
        let (pages, items): (Vec<_>, Vec<_>) =
            items.into_iter().filter_map(Draining::take).partition(|d| matches!(d.what, What::Page(_)));
        for d in pages {
            let Drained { what: What::Page(page), gfn, bfn, .. } = d else { continue };
            match client.backend.retire(page) {
                Ok(()) => out.pages += 1,
                Err(page) => {
                    let d = Drained { what: What::Page(page), gfn, bfn, cause: Cause::Replaced };
                    out.failed
                        .push((self.draining(d), ReleaseError::Pinned { domid: self.domid(), gfn, bfn }));
                }
            }
        }
        for d in items {
            let What::Mapping { slot, epoch } = d.what else { continue };
            let Some(record) = client.arena.get(slot) else { continue };
            if record.state.begin_release(epoch).is_none() {
                out.revived += 1;
                continue;
            }
            // Out of the table before the hypervisor has the frame back: it may be another guest's at once.
            inner.by_gfn.remove(&client.arena, slot);
            client.by_bfn.remove(&client.arena, slot);
            slots.push(slot);
            mappings.push((record.gfn(), record.bfn()));
        }
        if mappings.is_empty() {
            return;
        }
        let answers = client.backend.remove(inner.peer, &mappings);
        for ((slot, (gfn, bfn)), answer) in slots.into_iter().zip(mappings).zip(answers) {
            match answer {
                Ok(()) => {
                    client.arena.remove(slot);
                    slow.mappings = slow.mappings.saturating_sub(1);
                    inner.counts.released.fetch_add(1, Ordering::Relaxed);
                    out.mappings += 1;
                }
                Err(e) => {
                    client.by_bfn.insert(&client.arena, slot);
                    let epoch =
                        client.arena.get(slot).and_then(|r| r.state.make_stale()).map_or(0, |s| s.epoch);
                    let what = What::Mapping { slot, epoch };
                    out.failed.push((self.draining(Drained { what, gfn, bfn, cause: Cause::Again }), e));
                }
            }
        }
    }

    fn mapped(&self, slot: Slot, bfn: Bfn) -> Mapped {
        Mapped::new(self.inner.clone(), slot, bfn)
    }

    fn draining(&self, drained: Drained) -> Draining {
        Draining::new(self.inner.clone(), drained)
    }
}

impl GuestInner {
    pub(crate) fn domid(&self) -> DomId {
        self.peer.domid
    }

    /// Gives a reference back.
    pub(crate) fn put(self: Arc<Self>, slot: Slot, bfn: Bfn) -> Option<Draining> {
        let record = self.client.arena.get(slot)?;
        let State { status: Status::Idle, epoch, .. } = record.state.put() else { return None };
        let what = What::Mapping { slot, epoch };
        let drained = Drained { what, gfn: record.gfn(), bfn, cause: Cause::LastPut };
        Some(Draining::new(self, drained))
    }

    /// Whether the mapping still rests in that epoch.
    pub(crate) fn rests(&self, slot: Slot, epoch: u32) -> bool {
        self.client
            .arena
            .get(slot)
            .map(|r| r.state.get())
            .is_some_and(|s| rests(s.status) && s.epoch == epoch)
    }

    /// Whether it rests and has references.
    pub(crate) fn is_held(&self, slot: Slot, epoch: u32) -> bool {
        let state = self.client.arena.get(slot).map(|r| r.state.get());
        state.is_some_and(|s| s.epoch == epoch && s.refs != 0)
    }

    /// Takes what was dropped on its way out, so that it is not lost.
    pub(crate) fn adopt(&self, drained: Drained) {
        if let What::Mapping { slot, epoch } = drained.what
            && !self.rests(slot, epoch)
        {
            return;
        }
        self.notices.lock().orphans.push(drained);
        self.work.store(true, Ordering::Release);
    }

    /// Puts notices back.
    fn keep(&self, everything: bool, bfns: Vec<Bfn>) {
        let mut notices = self.notices.lock();
        notices.everything |= everything;
        notices.bfns.extend(bfns);
        if notices.everything || notices.bfns.len() > MAX_NOTICES {
            notices.everything = true;
            notices.bfns.clear();
        }
        self.work.store(true, Ordering::Release);
    }
}

impl Drop for GuestInner {
    fn drop(&mut self) {
        for drained in mem::take(&mut self.notices.get_mut().orphans) {
            // A page that a device may still have pinned is better lost than unmapped.
            if let What::Page(page) = drained.what
                && let Err(page) = self.client.backend.retire(page)
            {
                mem::forget(page);
            }
        }
        let left = self.slow.get_mut().mappings;
        if left != 0 {
            log::warn!(
                "{}: {left} mappings were never released; they last as long as this process",
                self.peer.domid
            );
        }
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("domid", &self.domid())
            .field("ioserver", &self.ioserver())
            .field("gfns", &self.inner.by_gfn.len())
            .finish_non_exhaustive()
    }
}
