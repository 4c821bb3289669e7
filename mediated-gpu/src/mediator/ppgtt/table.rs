//! One table of the guest's, and the shadow of it.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;
use xen_ioreq::{Bfn, Gfn, PAGE_SHIFT};

use super::watch::News;
use crate::gen8::gtt::{PTE_ADDR_MASK, PTE_PRESENT};
use crate::gen8::ppgtt::{ADDR_2M_MASK, ADDR_64K_MASK, ENTRIES, Entry, IPS_64K, Level, PAGES_64K, PS, RW};

/// What a page of the guest's is used as. One page may be several, each with a shadow of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A table that leads to tables.
    Directory(Level),
    /// Pages of 4 KiB.
    Small,
    /// Pages of 64 KiB.
    Medium,
    /// No table of the guest's: 2 MiB from this frame on.
    Large,
}

impl Kind {
    /// The kind of a table by its level alone.
    pub(super) fn of(level: Level) -> Self {
        match level {
            Level::Pt => Self::Small,
            directory => Self::Directory(directory),
        }
    }
}

/// A table's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) gfn: Gfn,
}

impl Key {
    /// Where an entry of a directory leads. `None`: nowhere, or to what gen8 does not know.
    pub(super) fn below(level: Level, entry: Entry) -> Option<Self> {
        if !entry.present() {
            return None;
        }
        let gfn = Gfn(entry.frame());
        match level {
            Level::Pd if entry.0 & PS != 0 => {
                Some(Self { kind: Kind::Large, gfn: Gfn((entry.0 & ADDR_2M_MASK) >> PAGE_SHIFT) })
            }
            Level::Pd if entry.0 & IPS_64K != 0 => Some(Self { kind: Kind::Medium, gfn }),
            Level::Pdp if entry.0 & PS != 0 => None,
            _ => level.below().map(|below| Self { kind: Kind::of(below), gfn }),
        }
    }

    /// The entries as pages of 4 KiB, or as a directory's, from what the guest's page holds.
    pub(super) fn entries(self, raw: &[u64]) -> Vec<u64> {
        let page = |base: u64, n: usize, flags: u64| (base + ((n as u64) << PAGE_SHIFT)) | flags;
        match self.kind {
            Kind::Directory(_) | Kind::Small => raw.to_vec(),
            Kind::Medium => (0..ENTRIES)
                .map(|i| match raw.get(i - i % PAGES_64K) {
                    Some(e) if e & PTE_PRESENT != 0 => {
                        page(e & ADDR_64K_MASK, i % PAGES_64K, e & !PTE_ADDR_MASK)
                    }
                    _ => 0,
                })
                .collect(),
            Kind::Large => (0..ENTRIES).map(|i| page(self.gfn.addr(), i, PTE_PRESENT | RW)).collect(),
        }
    }
}

/// Where an entry of the shadow leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// To scratch.
    Scratch,
    /// To a page of the guest's.
    Page(Bfn),
    /// To the shadow of a table.
    Table(usize),
}

/// A shadow.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) key: Key,
    /// The page that the GPU walks.
    pub(super) page: Bfn,
    /// Where the guest's page is, if it is there.
    pub(super) guest: Option<Bfn>,
    /// The guest's entries for which the shadow stands.
    pub(super) seen: Vec<u64>,
    pub(super) to: Vec<To>,
    /// Entries that lead to scratch although the guest's lead somewhere: looked at again each time.
    pub(super) again: BTreeSet<usize>,
    /// Entries and roots that lead here.
    pub(super) refs: u32,
    /// When it was last looked at.
    pub(super) round: u64,
    pub(super) news: News,
    /// Uses for which it must be quiet before it is tracked, if more than usual.
    pub(super) patience: u32,
    /// The tables that its entries lead to, and how many of them to each.
    pub(super) below: BTreeMap<usize, u32>,
}

impl Table {
    pub(super) fn new(key: Key, page: Bfn) -> Self {
        Self {
            key,
            page,
            guest: None,
            seen: vec![0; ENTRIES],
            to: vec![To::Scratch; ENTRIES],
            again: BTreeSet::new(),
            refs: 0,
            round: 0,
            news: News::default(),
            patience: 0,
            below: BTreeMap::new(),
        }
    }

    /// Places at which the shadow does not stand for `entries`, and what is there.
    pub(super) fn changed(&self, entries: &[u64]) -> Vec<(usize, Entry)> {
        let pairs = self.seen.iter().zip(entries).enumerate();
        let differs = pairs.filter(|(i, (seen, now))| seen != now || self.again.contains(i));
        differs.map(|(i, (_, now))| (i, Entry(*now))).collect()
    }

    /// What has changed, and the entries that are to be looked at again beside them, in order.
    pub(super) fn with_again(&self, mut changed: Vec<(usize, Entry)>) -> Vec<(usize, Entry)> {
        if !self.again.is_empty() {
            let places: BTreeSet<usize> = changed.iter().map(|(at, _)| *at).collect();
            let again = self.again.difference(&places);
            changed.extend(again.filter_map(|at| Some((*at, Entry(*self.seen.get(*at)?)))));
            changed.sort_unstable_by_key(|(at, _)| *at);
        }
        changed
    }

    /// Whether entries are others than those for which the shadow stands.
    pub(super) fn are_new(&self, entries: &[(usize, Entry)]) -> bool {
        entries.iter().any(|(at, entry)| self.seen.get(*at) != Some(&entry.0))
    }

    /// Notes what an entry stands for and where it leads. Returns where it led.
    pub(super) fn set(&mut self, at: usize, entry: Entry, to: To) -> To {
        if let Some(seen) = self.seen.get_mut(at) {
            *seen = entry.0;
        }
        if entry.present() && to == To::Scratch {
            self.again.insert(at);
        } else {
            self.again.remove(&at);
        }
        let before = self.to.get_mut(at).map_or(To::Scratch, |slot| std::mem::replace(slot, to));
        if let To::Table(id) = to {
            *self.below.entry(id).or_default() += 1;
        }
        if let To::Table(id) = before
            && let Some(entries) = self.below.get_mut(&id)
        {
            *entries -= 1;
            if *entries == 0 {
                self.below.remove(&id);
            }
        }
        before
    }

    /// The tables that its entries lead to.
    pub(super) fn tables_below(&self) -> SmallVec<[usize; 8]> {
        self.below.keys().copied().collect()
    }
}
