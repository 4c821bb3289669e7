//! The naive model: what each thing that can be done does to the [facts](super::facts), and what speaks against it.
//!
//! Written from draft B, from what was decided where it and the shipped code disagree, and from what real hypervisors were seen
//! to do; not from the model hypervisor. Where nothing says which of several objections comes first, any may.

use std::collections::BTreeSet;

use xen_ioreq::abi::iommu_op::{
    IOMMUOP_map_page, IOMMUOP_readable, IOMMUOP_swap_mfn, IOMMUOP_unmap_page, IOMMUOP_writeable, pv_iommu_op,
};
use xen_ioreq::{DomId, Errno};

use super::agree;
use super::facts::Why::{Allocation, Flush, Lookup, M2b, Own};
use super::facts::{Book, Dom, Page, UNKNOWN, VCPUS, Why};
use crate::Profile;

fn objections(list: &[(bool, Errno)]) -> Vec<Errno> {
    list.iter().filter(|o| o.0).map(|o| o.1).collect()
}

impl Book {
    pub(super) fn bear(&mut self, owner: DomId, charged: bool, mfn: u64) -> Page {
        agree(&format!("frames given at mfn {mfn:#x}"), &self.page_of(mfn), &None);
        self.n += 1;
        self.pages.insert(self.n, (owner, mfn));
        self.holds.insert((self.n, Allocation));
        self.uncharged.extend((!charged).then_some(self.n));
        self.n
    }

    /// Scratch is there as long as it may be needed; a page that nobody holds is free; a dead domain without pages is gone.
    pub(super) fn settle(&mut self) {
        let may = |h: &(Page, Why)| match h.1 {
            M2b(by, _, _, true) => Some((by, self.pages[&h.0].0)),
            _ => None,
        };
        let there = self.swapped.iter().map(|s| (s.0, s.3));
        let needed: BTreeSet<_> = self.holds.iter().filter_map(may).chain(there).collect();
        let over: Vec<Page> = self.scratch.iter().filter(|s| !needed.contains(s.0)).map(|s| *s.1).collect();
        self.holds.retain(|h| h.1 != Allocation || !over.contains(&h.0));
        self.scratch.retain(|at, _| needed.contains(at));
        self.pages.retain(|p, _| self.holds.iter().any(|h| h.0 == *p));
        for at in needed {
            if !self.scratch.contains_key(&at) {
                // Where it is has to be found out.
                let page = self.bear(at.0, false, UNKNOWN + self.n);
                self.scratch.insert(at, page);
            }
        }
        self.domains.retain(|d, dom| !dom.dying || self.pages.values().any(|p| p.0 == *d));
    }

    /// Unmapped: the page is held until the flush.
    fn unmapped(&mut self, page: Page, by: DomId, bfn: u64) {
        if let Some(perms) = self.perms.remove(&(by, bfn)) {
            self.n += 1;
            self.holds.insert((page, Flush(by, bfn, self.n, perms)));
        }
    }

    /// The end of a call, or where it lets others run: flushes what was unmapped, unless that is `late`.
    pub(super) fn flush(&mut self, by: DomId, late: bool) -> bool {
        let mine = |h: &(Page, Why)| matches!(h.1, Flush(b, ..) if b == by);
        if !self.dirty && !self.holds.iter().any(mine) {
            return true;
        }
        (self.dirty, self.flushed_at) = (false, self.n);
        self.flushes += u64::from(!late);
        self.holds.retain(|h| late || !mine(h));
        !late
    }

    /// The frames that an operation names, and what speaks against them.
    fn frames(&self, by: DomId, op: &pv_iommu_op, n: u64) -> (Vec<Page>, Vec<Errno>) {
        let own = op.subop_id == IOMMUOP_map_page;
        let (d, xs) = (if own { by } else { DomId(op.domid) }, self.config.profile == Profile::Xs);
        let dom = self.domains.get(&d).filter(|d| !d.dying);
        let over = by.0 == 0 || self.domains[&by].target == Some(d);
        let other = d != by && d != DomId::SELF;
        let pages: Vec<_> = (op.gfn..op.gfn + n).filter_map(|g| self.p2m.get(&(d, g)).copied()).collect();
        let row = (0..).zip(&pages).all(|(i, p)| self.pages[p].1 == self.pages[&pages[0]].1 + i);
        let aligned =
            pages.iter().take(1).all(|p| self.pages[p].1.is_multiple_of(n)) && op.gfn.is_multiple_of(n);
        let hole = (pages.len() as u64) < n || dom.is_none();
        let xens = !xs && pages.iter().any(|p| self.shared.get(&d) == Some(p));
        let no_server = !own && !xs && self.servers.get(&(d, op.ioserver)) != Some(&by);
        let against = objections(&[
            (own && hole || xens, Errno::EPERM),
            (!own && (!other || !over || dom.is_some_and(|d| !d.guest)), Errno::EPERM),
            (other && hole, Errno::ENXIO),
            (no_server, Errno::ENODEV),
            (!row || !aligned, Errno::ENOSPC),
        ]);
        (pages, against)
    }

    /// `map_page`, `map_foreign_page`: what speaks against it. Nothing: it is done.
    pub(super) fn map(&mut self, by: DomId, op: &pv_iommu_op, n: u64) -> Vec<Errno> {
        let (own, xs) = (op.subop_id == IOMMUOP_map_page, self.config.profile == Profile::Xs);
        let (swap, server) = (op.flags & IOMMUOP_swap_mfn != 0, op.ioserver);
        let (pages, mut against) = self.frames(by, op, n);
        let (bfns, rmrr, places) = (op.bfn..op.bfn + n, self.domains[&by].rmrr, own || !xs);
        against.extend(objections(&[
            (!self.domains[&by].controls, Errno::EPERM),
            (!op.bfn.is_multiple_of(n), Errno::ENOSPC),
            (!xs && (op.flags & 3 == 0 || own && swap), Errno::EINVAL),
            (bfns.end > 1 << self.config.bfn_bits && places, Errno::EIO),
            (bfns.contains(&rmrr) && places, if xs { Errno::EPERM } else { Errno::EACCES }),
        ]));
        if !places {
            // It maps nothing, ever.
            return against;
        }
        let at = |f| move |s: &&(DomId, u64, u16, DomId)| (s.0, s.1) == (by, f);
        for (f, page) in bfns.clone().zip(&pages) {
            let scratch: Vec<_> = self.swapped.iter().filter(at(f)).collect();
            let mine = !own && !scratch.is_empty() && scratch.iter().all(|s| s.2 == server);
            let same = |mfn| !own && mfn == self.pages[page].1;
            let taken = self.mfn_at(by, f).is_some_and(|mfn| !mine && !same(mfn));
            let new = self.entry(by, f, server).is_none() && !self.bare.contains_key(&(by, f));
            let no_scratch = self.free() == 0 && !self.scratch.contains_key(&(by, DomId(op.domid)));
            against.extend(objections(&[(taken, Errno::EPERM), (swap && new && no_scratch, Errno::ENOMEM)]));
        }
        for (f, page) in bfns.zip(pages).filter(|_| against.is_empty()) {
            if !own && self.entry(by, f, server).is_some() {
                continue;
            }
            if let Some(scratch) = self.page_at(by, f).filter(|p| *p != page) {
                self.swapped.retain(|s| !at(f)(&s));
                self.unmapped(scratch, by, f);
            }
            let bare = self.bare.contains_key(&(by, f));
            let late = |w| matches!(w, Flush(b, g, n, _) if (b, g) == (by, f) && n <= self.flushed_at);
            let early = self.mfn_at(by, f).is_none() && self.holds.iter().any(|h| late(h.1));
            self.accused += u64::from(early);
            let old = self.perms.get(&(by, f)).copied().unwrap_or_default();
            let perms =
                (old.0 || op.flags & IOMMUOP_readable != 0, old.1 || op.flags & IOMMUOP_writeable != 0);
            self.perms.extend((!bare).then_some(((by, f), perms)));
            self.holds.insert((page, if own { Own(by, f) } else { M2b(by, f, server, swap && !bare) }));
        }
        against
    }

    pub(super) fn lookup(&mut self, by: DomId, op: &pv_iommu_op, n: u64, got: &pv_iommu_op) -> Vec<Errno> {
        let (pages, mut against) = self.frames(by, op, n);
        let (Dom { controls, offset, .. }, xs) = (self.domains[&by], self.config.profile == Profile::Xs);
        let known = |p: &Page| {
            let (mfn, same) = (self.pages[p].1, self.pages[p].1 + offset);
            let at = |w| if let M2b(b, f, ..) = w { (b == by).then_some(f) } else { None };
            let all: Vec<u64> = self.why(*p).filter_map(at).collect();
            let one_to_one = xs || !controls || self.bare.get(&(by, same)) == Some(&mfn);
            if all.is_empty() && one_to_one { vec![same] } else { all }
        };
        let known: Vec<Vec<u64>> = pages.iter().map(known).collect();
        let fits = |first: u64| (first..).zip(&known).all(|(f, k)| k.contains(&f));
        let sure = known.iter().all(|k| k.len() == 1) && known.first().is_some_and(|k| fits(k[0]));
        against.extend(objections(&[
            (known.iter().any(Vec::is_empty), Errno::ENOENT),
            (if got.status == 0 { !fits(got.bfn) } else { n > 1 && !sure }, Errno::ENOSPC),
        ]));
        for (f, page) in (got.bfn..).zip(pages).filter(|_| against.is_empty()) {
            let new = xs || self.entry(by, f, op.ioserver).is_none();
            let hold = if xs { Lookup } else { M2b(by, f, op.ioserver, false) };
            self.holds.extend(new.then_some((page, hold)));
        }
        against
    }

    /// `unmap_page`, `unmap_foreign_page`.
    pub(super) fn unmap(&mut self, by: DomId, op: &pv_iommu_op, n: u64) -> Vec<Errno> {
        let (own, server) = (op.subop_id == IOMMUOP_unmap_page, op.unmap_ioserver());
        let hold = |b: &Self, f| match own {
            true => b.holds.iter().find(|h| h.1 == Own(by, f)).copied(),
            false => b.entry(by, f, server),
        };
        let swapped = |f| self.swapped.iter().any(|s| (s.0, s.1, s.2) == (by, f, server));
        let hole = |f| self.bare.contains_key(&(by, f)) && self.page_at(by, f).is_none();
        let other = |f| if own { hole(f) && self.domains[&by].controls } else { swapped(f) };
        let known = (op.bfn..op.bfn + n).all(|f| hold(self, f).is_some() || other(f));
        let against = objections(&[(!op.bfn.is_multiple_of(n), Errno::ENOSPC), (!known, Errno::ENOENT)]);
        for f in (op.bfn..op.bfn + n).filter(|_| against.is_empty()) {
            let page = self.page_at(by, f);
            match hold(self, f) {
                Some(h) => drop(self.holds.remove(&h)),
                None if own => self.dirty |= self.bare.remove(&(by, f)).is_some(),
                None => self.swapped.retain(|s| (s.0, s.1, s.2) != (by, f, server)),
            }
            if let (Some(page), None) = (page, self.page_at(by, f)) {
                self.unmapped(page, by, f);
            }
        }
        against
    }

    /// A page leaves its guest's address space: its mappers are told, and have scratch from now on if all allow it.
    pub(super) fn take_out(&mut self, d: DomId, gfn: u64, vcpu: Option<u32>) {
        let Some(page) = self.p2m.remove(&(d, gfn)) else { return };
        let entry = |w| if let M2b(by, f, s, _) = w { Some((by, f, s)) } else { None };
        for (by, f, s) in self.why(page).filter_map(entry).collect::<Vec<_>>() {
            match (self.servers.get(&(d, s)) == Some(&by), self.ringless.contains(&(d, s))) {
                (true, true) => self.queued.push((d, vcpu.unwrap_or(0), s, f)),
                (true, false) => self.told.push((d, s, None, f, 0)),
                (false, _) => {}
            }
        }
        self.swap(page);
        if self.config.profile != Profile::Draft || self.config.wildcard {
            self.due.extend(vcpu.map_or(0..VCPUS, |v| v..v + 1).map(|v| (d, v)));
        }
    }

    fn swap(&mut self, page: Page) {
        let guest = self.pages[&page].0;
        if self.why(page).all(|w| !matches!(w, M2b(_, _, _, false))) {
            let to = |w| if let M2b(by, f, s, _) = w { Some((by, f, s, guest)) } else { None };
            let to: Vec<_> = self.why(page).filter_map(to).collect();
            self.swapped.extend(to);
            self.holds.retain(|h| h.0 != page || !matches!(h.1, M2b(..)));
        }
    }

    /// A vCPU goes on, and first delivers what it has to: at once to all, `~0` to every server.
    pub(super) fn resume(&mut self, d: DomId, vcpu: u32) {
        let free = self.free();
        let on: Vec<_> = self.servers.keys().filter(|s| s.0 == d && !self.disabled.contains(s)).collect();
        let all = self.due.contains(&(d, vcpu)).then_some(&on).into_iter().flatten();
        let all = all.map(|s| (d, s.1, Some(vcpu), u64::MAX, free));
        let mine = self.queued.iter().filter(|q| (q.0, q.1) == (d, vcpu) && on.contains(&&(d, q.2)));
        self.told.extend(all.chain(mine.map(|q| (d, q.2, Some(vcpu), q.3, free))));
        self.queued.retain(|q| (q.0, q.1) != (d, vcpu));
        self.due.remove(&(d, vcpu));
    }

    /// Gives extents of `n` frames back, up to the first that is not there; returns how many.
    pub(super) fn decrease(&mut self, d: DomId, gfns: &[u64], n: u64, vcpu: Option<u32>) -> usize {
        let mut done = 0;
        for (i, gfn) in gfns.iter().enumerate() {
            if i > 0 && i % self.config.preempt_after == 0 {
                vcpu.inspect(|v| self.resume(d, *v));
            }
            for g in *gfn..gfn + n {
                let Some(page) = self.p2m.get(&(d, g)).copied().filter(|p| self.shared.get(&d) != Some(p))
                else {
                    return done;
                };
                self.take_out(d, g, vcpu);
                self.holds.remove(&(page, Allocation));
            }
            done += 1;
        }
        done
    }

    /// Puts new pages behind extents of `n` numbers, whatever was there; returns how many.
    pub(super) fn populate(&mut self, d: DomId, gfns: &[u64], n: u64, mfn: impl Fn(u64) -> u64) -> usize {
        let room = |b: &Self| b.domains[&d].max.saturating_sub(b.charged(d)) >= n && b.free() >= n;
        for (done, gfn) in gfns.iter().enumerate() {
            if !room(self) {
                return done;
            }
            for g in *gfn..gfn + n {
                agree("frames of an extent lie in a row", &mfn(g), &(mfn(*gfn) + g - gfn));
                let page = self.bear(d, true, mfn(g));
                self.p2m.insert((d, g), page);
            }
        }
        gfns.len()
    }

    /// Puts the page that Xen shares with a guest there, from where it was.
    pub(super) fn share(&mut self, d: DomId, gfn: u64, vcpu: Option<u32>, mfn: u64) {
        let page = self.shared.get(&d).copied().unwrap_or_else(|| self.bear(d, false, mfn));
        self.shared.insert(d, page);
        self.decrease(d, &[gfn], 1, vcpu);
        let old = self.p2m.iter().find(|e| *e.1 == page).map(|e| e.0.1);
        old.inspect(|old| self.take_out(d, *old, vcpu));
        self.p2m.insert((d, gfn), page);
    }

    /// A guest or an emulator ends. What it mapped goes, what others hold stays.
    pub(super) fn destroy(&mut self, d: DomId) {
        let its = |w| matches!(w, Own(by, _) | M2b(by, ..) | Flush(by, ..) if by == d);
        self.holds.retain(|h| !its(h.1));
        self.swapped.retain(|s| s.0 != d);
        self.perms.retain(|at, _| at.0 != d);
        self.bare.retain(|at, _| at.0 != d);
        self.p2m.retain(|at, _| at.0 != d);
        self.servers.retain(|at, by| at.0 != d && *by != d);
        self.queued.retain(|q| self.servers.contains_key(&(q.0, q.2)));
        self.due.retain(|v| v.0 != d);
        self.shared.remove(&d);
        let pages: Vec<Page> = self.pages.iter().filter(|p| p.1.0 == d).map(|p| *p.0).collect();
        pages.iter().for_each(|p| self.swap(*p));
        self.holds.retain(|h| !pages.contains(&h.0) || !matches!(h.1, Allocation | Lookup));
        self.domains.get_mut(&d).unwrap().dying = true;
    }
}
