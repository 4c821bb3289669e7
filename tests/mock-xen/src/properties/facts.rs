//! What the naive model knows: sets of facts, and questions that are answered by looking through all of them.

use std::collections::{BTreeMap, BTreeSet};

use xen_ioreq::DomId;

use crate::Config;

/// A page, by the order of its birth.
pub(super) type Page = u64;
/// A notice: of which guest, to which server, in which vCPU's slot (none: the ring), its data, frames free by then.
pub(super) type Told = (DomId, u16, Option<u32>, u64, u64);
pub(super) const VCPUS: u32 = 2;
/// Machine frames from here on stand for one that is not known.
pub(super) const UNKNOWN: u64 = 1 << 60;

/// What keeps a page from being free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    Allocation,
    /// A CPU mapping or Xen's own, by number.
    Host(u64),
    /// `map_page`: by whom, where.
    Own(DomId, u64),
    /// An M2B entry: by whom, where, for which server, whether scratch may take its place.
    M2b(DomId, u64, u16, bool),
    /// The shipped hypervisor's one flag a page.
    Lookup,
    /// Unmapped: by whom, where, since when, what the IOTLB still lets devices do.
    Flush(DomId, u64, u64, (bool, bool)),
}
use Why::{Allocation, Flush, Lookup, M2b, Own};

#[derive(Clone, Copy, Debug)]
pub(super) struct Dom {
    pub(super) guest: bool,
    pub(super) target: Option<DomId>,
    /// Of its device's table; where all RAM is in there; a BFN that the firmware uses.
    pub(super) controls: bool,
    pub(super) offset: u64,
    pub(super) rmrr: u64,
    pub(super) max: u64,
    pub(super) dying: bool,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) config: Config,
    pub(super) n: u64,
    /// Owner and machine frame.
    pub(super) pages: BTreeMap<Page, (DomId, u64)>,
    pub(super) uncharged: BTreeSet<Page>,
    /// Xen's, shared with a domain.
    pub(super) shared: BTreeMap<DomId, Page>,
    /// The scratch of an emulator for a guest.
    pub(super) scratch: BTreeMap<(DomId, DomId), Page>,
    pub(super) holds: BTreeSet<(Page, Why)>,
    pub(super) p2m: BTreeMap<(DomId, u64), Page>,
    pub(super) domains: BTreeMap<DomId, Dom>,
    /// Of which guest; whose emulator.
    pub(super) servers: BTreeMap<(DomId, u16), DomId>,
    pub(super) disabled: BTreeSet<(DomId, u16)>,
    /// Those whose ring takes nothing.
    pub(super) ringless: BTreeSet<(DomId, u16)>,
    /// Where Xen itself lets devices reach a machine frame.
    pub(super) bare: BTreeMap<(DomId, u64), u64>,
    pub(super) perms: BTreeMap<(DomId, u64), (bool, bool)>,
    /// Where scratch is: by whom that was mapped, where, for which server, a page of which guest.
    pub(super) swapped: BTreeSet<(DomId, u64, u16, DomId)>,
    /// Notices, and 'something has changed', that a vCPU delivers before it goes on.
    pub(super) queued: Vec<(DomId, u32, u16, u64)>,
    pub(super) due: BTreeSet<(DomId, u32)>,
    pub(super) told: Vec<Told>,
    /// Xen's map was changed, without a flush since; the last flush, done or late.
    pub(super) dirty: bool,
    pub(super) flushed_at: u64,
    pub(super) flushes: u64,
    pub(super) accused: u64,
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
        self.pages.iter().filter(|(p, at)| at.0 == d && !self.uncharged.contains(p)).count() as u64
    }

    pub(super) fn page_of(&self, mfn: u64) -> Option<Page> {
        self.pages.iter().find(|p| p.1.1 == mfn).map(|p| *p.0)
    }

    /// The page that was mapped for devices there.
    pub(super) fn page_at(&self, by: DomId, bfn: u64) -> Option<Page> {
        let here = |w| matches!(w, Own(b, f) | M2b(b, f, ..) if (b, f) == (by, bfn));
        let mapped = self.holds.iter().find(|h| here(h.1)).map(|h| h.0);
        let swapped = || self.swapped.iter().find(|s| (s.0, s.1) == (by, bfn));
        mapped.or_else(|| swapped().and_then(|s| self.scratch.get(&(by, s.3)).copied()))
    }

    pub(super) fn mfn_at(&self, by: DomId, bfn: u64) -> Option<u64> {
        self.page_at(by, bfn).map(|p| self.pages[&p].1).or(self.bare.get(&(by, bfn)).copied())
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
            M2b(b, f, ..) | Flush(b, f, ..) => (b, f) == (by, bfn),
            Lookup => by.0 == 0 && bfn == mfn + self.domains[&by].offset,
            _ => false,
        };
        let fair = |p: Page| self.pages[&p].0 == by || self.why(p).any(business);
        Some((mfn, perms, self.page_of(mfn).is_some_and(fair)))
    }

    /// The M2B entry, or what the shipped hypervisor has in its place.
    pub(super) fn entry(&self, by: DomId, bfn: u64, server: u16) -> Option<(Page, Why)> {
        let there = self.mfn_at(by, bfn);
        let here = |h: &&(Page, Why)| match h.1 {
            M2b(b, f, s, _) => (b, f, s) == (by, bfn, server),
            Lookup => Some(self.pages[&h.0].1) == there,
            _ => false,
        };
        self.holds.iter().find(here).copied()
    }
}
