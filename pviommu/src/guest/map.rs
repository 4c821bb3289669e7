//! From guest frames to references: hits without a shared lock, misses in batches.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use xen_ioreq::{Bfn, Gfn};

use super::{Guest, Slow};
use crate::error::MapError;
use crate::mapping::Mapped;
use crate::sync::atomic::Ordering;
use crate::table::{NoRef, Record, Slot, State, Status};

/// Frames that are looked for at once.
const AHEAD: usize = 16;

impl Guest {
    /// Makes guest frames reachable and takes a reference to each; an answer a frame, in order. All that are not
    /// mapped yet go to the hypervisor in one call (1024 frames a hypercall; 512 a foreign mapping).
    pub fn map(&self, gfns: &[Gfn]) -> Vec<Result<Mapped, MapError>> {
        let mut out: Vec<Option<Result<Mapped, MapError>>> = Vec::with_capacity(gfns.len());
        for batch in gfns.chunks(AHEAD) {
            // What is not in the cache is waited for once, not once a frame.
            let (index, records) = (&self.inner.by_gfn, &self.inner.client.records);
            batch.iter().for_each(|gfn| index.prefetch(gfn.0));
            batch.iter().for_each(|gfn| index.prefetch_record(records, gfn.0));
            out.extend(batch.iter().map(|gfn| self.hit(*gfn)));
        }
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

    /// Where `gfn` is mapped, referred to or not. Never calls the hypervisor.
    pub fn bus_frame(&self, gfn: Gfn) -> Option<Bfn> {
        let usable = |s: State| matches!(s.status, Status::Live | Status::Idle);
        let (inner, records) = (&self.inner, &self.inner.client.records);
        let found = |slot, r: &Record| if usable(r.state.get()) { records.bfn(slot) } else { None };
        inner.by_gfn.find(records, gfn.0, found)?
    }

    /// A reference to the live mapping of `gfn`; `None` if there is none.
    fn hit(&self, gfn: Gfn) -> Option<Result<Mapped, MapError>> {
        let (inner, records) = (&self.inner, &self.inner.client.records);
        let found = inner.by_gfn.find(records, gfn.0, |slot, r| match r.state.take() {
            Ok(()) => Some(Ok((slot, records.bfn(slot)?))),
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
        let records = &inner.client.records;
        let revived =
            |slot, r: &Record| if r.state.revive() { Some((slot, records.bfn(slot)?)) } else { None };
        inner.by_gfn.find(records, gfn.0, revived)?.map(|(slot, bfn)| Ok(self.mapped(slot, bfn)))
    }

    /// Enters a new mapping into the table.
    pub(super) fn enter(&self, slow: &mut Slow, gfn: Gfn, bfn: Bfn) -> Result<Mapped, MapError> {
        let inner = &self.inner;
        let client = &inner.client;
        if let Some((slot, guest)) = client.records.find(bfn, |slot, r| (slot, r.guest())) {
            return self.enter_again(slot, guest, gfn, bfn);
        }
        let Some(slot) = client.records.insert(inner.id, gfn, bfn) else {
            // Nobody has seen the bus frame yet, so no device can reach it.
            if let Some(Err(e)) = client.backend.remove(inner.peer, &[(gfn, bfn)]).pop() {
                log::error!("{e}");
            }
            return Err(MapError::NoBusFrames { domid: self.domid(), gfn });
        };
        inner.by_gfn.insert(&client.records, slot);
        slow.mappings += 1;
        Ok(self.mapped(slot, bfn))
    }

    /// The hypervisor told a bus frame that is in the table: the guest has moved the frame to another gfn. There is one
    /// reference on it, so there must stay one mapping of it.
    fn enter_again(&self, slot: Slot, guest: u32, gfn: Gfn, bfn: Bfn) -> Result<Mapped, MapError> {
        let inner = &self.inner;
        let records = &inner.client.records;
        let domid = self.domid();
        let Some(record) = records.get(slot).filter(|_| guest == inner.id) else {
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
        inner.by_gfn.remove(records, slot);
        if !record.set_frame(inner.id, gfn) {
            // No guest has such a frame; then it is found by the number that it had.
            log::error!("{domid}: bus frame {bfn} was told for guest frame {gfn}");
        }
        inner.by_gfn.insert(records, slot);
        Ok(self.mapped(slot, bfn))
    }

    fn mapped(&self, slot: Slot, bfn: Bfn) -> Mapped {
        Mapped::new(self.inner.clone(), slot, bfn)
    }
}
