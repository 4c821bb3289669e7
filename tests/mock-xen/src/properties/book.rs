//! The naive model: a few sets of facts, what each thing that can be done does to them, and what speaks against it.
//!
//! Written from draft B, from what was decided where it and the shipped code disagree, and from what real hypervisors were seen
//! to do; not from the model hypervisor. Where nothing says which of several objections comes first, any may.

use std::collections::{BTreeMap, BTreeSet};

use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::{DomId, Errno};

use self::Why::{Allocation, Flush, Lookup, Map, Scratch, Shared, Swapped};
use super::agree;
use super::world::{Dom, Told, UNKNOWN, VCPUS};
use crate::{Config, Profile};

/// A page, by the order of its birth.
pub(super) type Page = u64;

/// What keeps a page from being free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    Allocation,
    Shared(DomId),                        // Xen's own page, with a domain
    Host(u64),                            // a CPU mapping or Xen's own, by number
    Map(DomId, u64, Option<u16>, bool), // by whom, where; an M2B entry: its server, whether scratch may take its place
    Lookup,                             // the shipped hypervisor's one flag a page
    Flush(DomId, u64, u64, (bool, bool)), // unmapped: by whom, where, since when, how devices still get there
    Scratch(DomId, DomId),              // of which emulator, for which guest
    Swapped(DomId, u64, u16),           // an M2B entry whose page has gone: scratch is there
}

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) config: Config,
    pub(super) n: u64,
    pub(super) pages: BTreeMap<Page, (DomId, u64, bool)>, // owner, machine frame, whether it counts for the owner
    pub(super) holds: BTreeSet<(Page, Why)>,
    pub(super) p2m: BTreeMap<(DomId, u64), Page>,
    pub(super) domains: BTreeMap<DomId, Dom>,
    pub(super) servers: BTreeMap<(DomId, u16), DomId>, // of which guest; whose emulator
    pub(super) disabled: BTreeSet<(DomId, u16)>,
    pub(super) ringless: BTreeSet<(DomId, u16)>, // their ring takes nothing
    pub(super) bare: BTreeMap<(DomId, u64), u64>, // where Xen itself lets devices reach a machine frame
    pub(super) perms: BTreeMap<(DomId, u64), (bool, bool)>,
    pub(super) ran: BTreeSet<DomId>, // guests of which a vCPU has run
    pub(super) queued: Vec<(DomId, u32, Option<u16>, u64)>, // what a vCPU delivers before it goes on; none: to all
    pub(super) told: Vec<Told>,
    pub(super) dirty: bool,     // Xen's own map was changed, without a flush since
    pub(super) flushed_at: u64, // the last flush, done or late
    pub(super) flushes: u64,
    pub(super) accused: u64,
}

fn objections(list: &[(bool, Errno)]) -> Vec<Errno> {
    list.iter().filter(|o| o.0).map(|o| o.1).collect()
}

impl Book {
    pub(super) fn why(&self, page: Page) -> impl Iterator<Item = Why> {
        self.holds.range((page, Allocation)..(page + 1, Allocation)).map(|h| h.1)
    }

    pub(super) fn free(&self) -> u64 {
        let held: BTreeSet<Page> = self.holds.iter().map(|h| h.0).collect();
        (self.config.frames - self.config.xen_frames - held.len()) as u64
    }

    pub(super) fn charged(&self, d: DomId) -> u64 {
        self.pages.values().filter(|p| p.0 == d && p.2).count() as u64
    }

    pub(super) fn page_of(&self, mfn: u64) -> Option<Page> {
        self.pages.iter().find(|p| p.1.1 == mfn).map(|p| *p.0)
    }

    /// The page of which there can be one.
    pub(super) fn the(&self, why: Why) -> Option<Page> {
        self.holds.iter().find(|h| h.1 == why).map(|h| h.0)
    }

    /// What was mapped there for devices.
    pub(super) fn at(&self, by: DomId, bfn: u64) -> impl Iterator<Item = (Page, Why)> {
        let here = move |w| matches!(w, Map(b, f, ..) | Swapped(b, f, _) if (b, f) == (by, bfn));
        self.holds.iter().copied().filter(move |h| here(h.1))
    }

    pub(super) fn mfn_at(&self, by: DomId, bfn: u64) -> Option<u64> {
        self.at(by, bfn).next().map(|h| self.pages[&h.0].1).or(self.bare.get(&(by, bfn)).copied())
    }

    /// What `map_page` did (no server), the M2B entry, or what the shipped hypervisor has in its place.
    pub(super) fn entry(&self, by: DomId, bfn: u64, server: Option<u16>) -> Option<(Page, Why)> {
        let looked_up = |h: &(_, _)| h.1 == Lookup && Some(self.pages[&h.0].1) == self.mfn_at(by, bfn);
        let mut mapped = self.at(by, bfn).filter(|h| matches!(h.1, Map(_, _, s, _) if s == server));
        mapped.next().or_else(|| self.holds.iter().copied().find(looked_up).filter(|_| server.is_some()))
    }

    /// Where a device gets to: the machine frame, whether it may read and write, whether it has any business there.
    pub(super) fn reach(&self, by: DomId, bfn: u64) -> Option<(u64, (bool, bool), bool)> {
        let late = |h: &(Page, Why)| match h.1 {
            Flush(b, f, n, perms) if (b, f) == (by, bfn) => Some((n, self.pages[&h.0].1, perms)),
            _ => None,
        };
        let now = self.mfn_at(by, bfn).map(|m| (m, *self.perms.get(&(by, bfn)).unwrap_or(&(true, true))));
        let late = || self.holds.iter().filter_map(late).max().map(|l| (l.1, l.2));
        let (mfn, perms) = now.or_else(late)?;
        let business = |w| match w {
            Map(b, f, Some(_), _) | Flush(b, f, ..) => (b, f) == (by, bfn),
            Lookup => by.0 == 0 && bfn == mfn + self.domains[&by].offset,
            _ => false,
        };
        let fair = self.page_of(mfn).is_some_and(|p| self.pages[&p].0 == by || self.why(p).any(business));
        Some((mfn, perms, fair))
    }

    pub(super) fn bear(&mut self, owner: DomId, why: Why, charged: bool, mfn: u64) -> Page {
        agree(&format!("frames given at mfn {mfn:#x}"), &self.page_of(mfn), &None);
        self.n += 1;
        self.pages.insert(self.n, (owner, mfn, charged));
        self.holds.insert((self.n, why));
        self.n
    }

    /// Scratch is there as long as it may be needed; a page that nobody holds is free; a dead domain without pages is gone.
    pub(super) fn settle(&mut self) {
        let needs = |h: &(Page, Why)| match h.1 {
            Map(by, _, _, true) => Some(Scratch(by, self.pages[&h.0].0)),
            Swapped(..) => self.why(h.0).find(|w| matches!(w, Scratch(..))),
            _ => None,
        };
        let needed: BTreeSet<Why> = self.holds.iter().filter_map(needs).collect();
        self.holds.retain(|h| !matches!(h.1, Scratch(..)) || needed.contains(&h.1));
        self.pages.retain(|p, _| self.holds.iter().any(|h| h.0 == *p));
        self.domains.retain(|d, dom| !dom.dying || self.pages.values().any(|p| p.0 == *d));
    }

    /// Unmapped. If nothing else maps it there, the page is held until the flush.
    fn let_go(&mut self, hold: (Page, Why), by: DomId, bfn: u64) {
        self.holds.remove(&hold);
        let mapped = self.at(by, bfn).next().is_some();
        let perms = if mapped { None } else { self.perms.remove(&(by, bfn)) };
        self.n += 1;
        self.holds.extend(perms.map(|perms| (hold.0, Flush(by, bfn, self.n, perms))));
    }

    /// The end of a call, or where it lets others run: flushes what was unmapped, unless that is `late`.
    pub(super) fn flush(&mut self, by: DomId, late: bool) -> bool {
        let mine = |h: &(Page, Why)| matches!(h.1, Flush(b, ..) if b == by);
        let needed = self.dirty || self.holds.iter().any(mine);
        (self.dirty, self.flushed_at) = (false, self.n);
        self.flushes += u64::from(needed && !late);
        self.holds.retain(|h| late || !mine(h));
        !(needed && late)
    }

    /// The pages that an operation names, and what speaks against it.
    fn named(&self, by: DomId, op: &pv_iommu_op, n: u64) -> (Vec<Page>, Vec<Errno>) {
        let own = op.subop_id == IOMMUOP_map_page;
        let (d, xs) = (if own { by } else { DomId(op.domid) }, self.config.profile == Profile::Xs);
        let dom = self.domains.get(&d).filter(|d| !d.dying);
        let over = by.0 == 0 || self.domains[&by].target == Some(d);
        let other = d != by && d != DomId::SELF;
        let pages: Vec<_> = (op.gfn..op.gfn + n).filter_map(|g| self.p2m.get(&(d, g)).copied()).collect();
        let mfns: Vec<_> = pages.iter().map(|p| self.pages[p].1).collect();
        let hole = mfns.len() as u64 != n || dom.is_none();
        let aligned = mfns.first().is_none_or(|m| m % n == 0) && op.gfn.is_multiple_of(n);
        let against = objections(&[
            (own && hole || !xs && self.the(Shared(d)).is_some_and(|p| pages.contains(&p)), Errno::EPERM),
            (!own && (!other || !over || dom.is_some_and(|d| !d.guest)), Errno::EPERM),
            (other && hole, Errno::ENXIO),
            (!own && !xs && self.servers.get(&(d, op.ioserver)) != Some(&by), Errno::ENODEV),
            (!aligned || mfns.windows(2).any(|m| m[1] != m[0] + 1), Errno::ENOSPC),
        ]);
        (pages, against)
    }

    /// `map_page`, `map_foreign_page`: what speaks against it. Nothing: it is done.
    pub(super) fn map(&mut self, by: DomId, op: &pv_iommu_op, n: u64) -> Vec<Errno> {
        let (own, xs) = (op.subop_id == IOMMUOP_map_page, self.config.profile == Profile::Xs);
        let (swap, server) = (op.flags & IOMMUOP_swap_mfn != 0, (!own).then_some(op.ioserver));
        let (scratch, (pages, mut against)) = (Scratch(by, DomId(op.domid)), self.named(by, op, n));
        let (bfns, Dom { controls, rmrr, .. }, maps) = (op.bfn..op.bfn + n, self.domains[&by], own || !xs);
        against.extend(objections(&[
            (!controls, Errno::EPERM),
            (!op.bfn.is_multiple_of(n), Errno::ENOSPC),
            (!xs && (op.flags & 3 == 0 || own && swap), Errno::EINVAL),
            (maps && bfns.end > 1 << self.config.bfn_bits, Errno::EIO),
            (maps && bfns.contains(&rmrr), if xs { Errno::EPERM } else { Errno::EACCES }),
        ]));
        for (f, page) in bfns.clone().zip(&pages).filter(|_| maps) {
            let mut its = self.at(by, f).map(|h| matches!(h.1, Swapped(.., s) if Some(s) == server));
            let gives_way = its.next() == Some(true) && its.all(|i| i);
            let other = self.mfn_at(by, f).is_some_and(|mfn| own || mfn != self.pages[page].1);
            let new = self.entry(by, f, server).is_none() && !self.bare.contains_key(&(by, f));
            let no_scratch = swap && new && self.free() == 0 && self.the(scratch).is_none();
            against.extend(objections(&[(other && !gives_way, Errno::EPERM), (no_scratch, Errno::ENOMEM)]));
        }
        for (f, page) in bfns.zip(pages).filter(|_| maps && against.is_empty()) {
            if !own && self.entry(by, f, server).is_some() {
                continue;
            }
            let swapped: Vec<_> = self.at(by, f).filter(|h| matches!(h.1, Swapped(..))).collect();
            swapped.into_iter().for_each(|h| self.let_go(h, by, f));
            let late = |w| matches!(w, Flush(b, g, n, _) if (b, g) == (by, f) && n <= self.flushed_at);
            self.accused += u64::from(self.mfn_at(by, f).is_none() && self.holds.iter().any(|h| late(h.1)));
            let (bare, may) = (self.bare.contains_key(&(by, f)), |flag| op.flags & flag != 0);
            let old = self.perms.get(&(by, f)).copied().unwrap_or_default();
            let perms = (old.0 || may(IOMMUOP_readable), old.1 || may(IOMMUOP_writeable));
            self.perms.extend((!bare).then_some(((by, f), perms)));
            self.holds.insert((page, Map(by, f, server, swap && !bare)));
            if swap && !bare && self.the(scratch).is_none() {
                // Where it is has to be found out.
                self.bear(by, scratch, false, UNKNOWN + self.n);
            }
        }
        against
    }

    pub(super) fn lookup(&mut self, by: DomId, op: &pv_iommu_op, n: u64, got: &pv_iommu_op) -> Vec<Errno> {
        let (pages, mut against) = self.named(by, op, n);
        let (Dom { controls, offset, .. }, xs) = (self.domains[&by], self.config.profile == Profile::Xs);
        let known = pages.iter().map(|p| {
            let (mfn, same) = (self.pages[p].1, self.pages[p].1 + offset);
            let at = |w| if let Map(b, f, Some(_), _) = w { (b == by).then_some(f) } else { None };
            let all: Vec<u64> = self.why(*p).filter_map(at).collect();
            let one_to_one = xs || !controls || self.bare.get(&(by, same)) == Some(&mfn);
            if all.is_empty() && one_to_one { vec![same] } else { all }
        });
        let known: Vec<Vec<u64>> = known.collect();
        let fits = |first: u64| (first..).zip(&known).all(|(f, k)| k.contains(&f));
        let sure = known.iter().all(|k| k.len() == 1) && known.first().is_some_and(|k| fits(k[0]));
        against.extend(objections(&[
            (known.iter().any(Vec::is_empty), Errno::ENOENT),
            (if got.status == 0 { !fits(got.bfn) } else { n > 1 && !sure }, Errno::ENOSPC),
        ]));
        for (f, page) in (got.bfn..).zip(pages).filter(|_| against.is_empty()) {
            let new = xs || self.entry(by, f, Some(op.ioserver)).is_none();
            let why = if xs { Lookup } else { Map(by, f, Some(op.ioserver), false) };
            self.holds.extend(new.then_some((page, why)));
        }
        against
    }

    /// `unmap_page`, `unmap_foreign_page`.
    pub(super) fn unmap(&mut self, by: DomId, op: &pv_iommu_op, n: u64) -> Vec<Errno> {
        let own = op.subop_id == IOMMUOP_unmap_page;
        let server = (!own).then_some(op.unmap_ioserver());
        let swapped = |h: &(Page, Why)| matches!(h.1, Swapped(.., s) if Some(s) == server);
        let known = |b: &Self, f| b.entry(by, f, server).or_else(|| b.at(by, f).find(swapped));
        let bare = |f| self.bare.contains_key(&(by, f)) && self.at(by, f).next().is_none();
        let hole = |f| own && self.domains[&by].controls && bare(f);
        let all = (op.bfn..op.bfn + n).all(|f| known(self, f).is_some() || hole(f));
        let against = objections(&[(!op.bfn.is_multiple_of(n), Errno::ENOSPC), (!all, Errno::ENOENT)]);
        for f in (op.bfn..op.bfn + n).filter(|_| against.is_empty()) {
            match known(self, f) {
                Some(h) => self.let_go(h, by, f),
                None => self.dirty |= self.bare.remove(&(by, f)).is_some(),
            }
        }
        against
    }

    /// A page leaves its guest's address space: its mappers are told, and have scratch from now on if all allow it.
    pub(super) fn take_out(&mut self, d: DomId, gfn: u64, vcpu: Option<u32>) {
        let Some(page) = self.p2m.remove(&(d, gfn)) else { return };
        for why in self.why(page).collect::<Vec<_>>() {
            let Map(by, f, Some(s), _) = why else { continue };
            let (its, ringless) = (self.servers.get(&(d, s)) == Some(&by), self.ringless.contains(&(d, s)));
            self.queued.extend((its && ringless).then_some((d, vcpu.unwrap_or(0), Some(s), f)));
            self.told.extend((its && !ringless).then_some((d, s, None, f, 0)));
        }
        self.swap(page);
        for v in vcpu.map_or(0..VCPUS, |v| v..v + 1).filter(|_| self.ran.contains(&d)) {
            let (all, draft) = ((d, v, None, u64::MAX), self.config.profile == Profile::Draft);
            let due = (!draft || self.config.wildcard) && !self.queued.contains(&all);
            self.queued.extend(due.then_some(all));
        }
    }

    fn swap(&mut self, page: Page) {
        let (guest, all) = (self.pages[&page].0, self.why(page).collect::<Vec<_>>());
        let allowed = !all.iter().any(|w| matches!(w, Map(_, _, Some(_), false)));
        for why in all.into_iter().filter(|_| allowed) {
            let Map(by, f, Some(s), _) = why else { continue };
            let scratch = self.the(Scratch(by, guest)).expect("since it may be needed");
            self.holds.insert((scratch, Swapped(by, f, s)));
            self.holds.remove(&(page, why));
        }
    }

    /// A vCPU goes on, and first delivers what it has to.
    pub(super) fn resume(&mut self, d: DomId, vcpu: u32) {
        self.ran.insert(d);
        let (free, queued) = (self.free(), std::mem::take(&mut self.queued));
        let (now, later): (Vec<_>, Vec<_>) = queued.into_iter().partition(|q| (q.0, q.1) == (d, vcpu));
        for (.., to, data) in now {
            let to = self.servers.keys().filter(|s| s.0 == d && to.is_none_or(|to| to == s.1));
            let on = to.filter(|s| !self.disabled.contains(s));
            self.told.extend(on.map(|s| (d, s.1, Some(vcpu), data, free)));
        }
        self.queued = later;
    }

    /// Gives extents of `n` frames back, up to the first that is not there; returns how many.
    pub(super) fn decrease(&mut self, d: DomId, gfns: &[u64], n: u64, vcpu: Option<u32>) -> usize {
        for (i, gfn) in gfns.iter().enumerate() {
            vcpu.filter(|_| i > 0 && i % self.config.preempt_after == 0).inspect(|v| self.resume(d, *v));
            for g in *gfn..gfn + n {
                let page = self.p2m.get(&(d, g)).copied().filter(|p| self.the(Shared(d)) != Some(*p));
                let Some(page) = page else { return i };
                self.take_out(d, g, vcpu);
                self.holds.remove(&(page, Allocation));
            }
        }
        gfns.len()
    }

    /// Puts new pages behind extents of `n` numbers, whatever was there; returns how many.
    pub(super) fn populate(&mut self, d: DomId, gfns: &[u64], n: u64, mfn: impl Fn(u64) -> u64) -> usize {
        for (done, gfn) in gfns.iter().enumerate() {
            if self.domains[&d].max.saturating_sub(self.charged(d)) < n || self.free() < n {
                return done;
            }
            for g in *gfn..gfn + n {
                let page = self.bear(d, Allocation, true, mfn(g));
                self.p2m.insert((d, g), page);
            }
        }
        gfns.len()
    }

    /// Puts the page that Xen shares with a guest there, from where it was.
    pub(super) fn share(&mut self, d: DomId, gfn: u64, vcpu: Option<u32>, mfn: u64) {
        let page = self.the(Shared(d)).unwrap_or_else(|| self.bear(d, Shared(d), false, mfn));
        self.decrease(d, &[gfn], 1, vcpu);
        let old = self.p2m.iter().find(|e| *e.1 == page).map(|e| e.0.1);
        old.inspect(|old| self.take_out(d, *old, vcpu));
        self.p2m.insert((d, gfn), page);
    }

    /// A guest or an emulator ends. What it mapped goes, what others hold stays.
    pub(super) fn destroy(&mut self, d: DomId) {
        self.holds.retain(|h| !matches!(h.1, Map(b, ..) | Flush(b, ..) | Swapped(b, ..) if b == d));
        self.perms.retain(|at, _| at.0 != d);
        self.bare.retain(|at, _| at.0 != d);
        self.p2m.retain(|at, _| at.0 != d);
        self.servers.retain(|at, by| at.0 != d && *by != d);
        self.queued.retain(|q| q.0 != d && q.2.is_none_or(|s| self.servers.contains_key(&(q.0, s))));
        let pages: Vec<Page> = self.pages.iter().filter(|p| p.1.0 == d).map(|p| *p.0).collect();
        pages.iter().for_each(|p| self.swap(*p));
        self.holds.retain(|h| !pages.contains(&h.0) || !matches!(h.1, Allocation | Lookup | Shared(_)));
        self.domains.get_mut(&d).unwrap().dying = true;
    }
}
