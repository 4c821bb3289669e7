//! The second model: what grants do, with plain lists and no cleverness. Everything is found by looking through everything.

mod copies;
mod mappings;

use std::collections::BTreeMap;

use xen_ioreq::abi::grant_table::*;

pub(super) use self::copies::{CopyAsk, End};
pub(super) use self::mappings::Ask;

/// Domains are 0, 1, 2; pages are numbers.
pub(super) type Dom = usize;
pub(super) type PageId = usize;
/// The first cell and their number.
pub(super) type Part = (usize, usize);

/// A page is so many cells, of which the first bytes are looked at.
pub(super) const CELLS: usize = 4;
/// References below this outlast a change of version.
pub(super) const RESERVED: u32 = GNTTAB_NR_RESERVED_ENTRIES;

/// A rule that is wrong on purpose, to see that the comparison can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    ReadonlyIsIgnored,
    AThirdMappingIsAllowed,
    RevokeSwitchesOne,
    BalloonFreesAtOnce,
    DeathRevokesNothing,
    StandInIsNotHeld,
    PartsAreIgnored,
    HandedOnTwice,
    NewVersionKeepsEntries,
    TypesAreIgnored,
    StandInIsNotWritten,
    KilledProcessKeepsMappings,
}

impl Mutant {
    pub(super) const ALL: [Self; 12] = [
        Self::ReadonlyIsIgnored,
        Self::AThirdMappingIsAllowed,
        Self::RevokeSwitchesOne,
        Self::BalloonFreesAtOnce,
        Self::DeathRevokesNothing,
        Self::StandInIsNotHeld,
        Self::PartsAreIgnored,
        Self::HandedOnTwice,
        Self::NewVersionKeepsEntries,
        Self::TypesAreIgnored,
        Self::StandInIsNotWritten,
        Self::KilledProcessKeepsMappings,
    ];
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Nothing,
    Access,
    Accept,
    /// Somebody else's grant, by its reference there.
    HandedOn(Dom, u32),
}

/// An entry, as its owner wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) to: Dom,
    pub(super) gfn: u64,
    pub(super) readonly: bool,
    pub(super) revokable: bool,
    pub(super) part: Option<Part>,
    /// A transfer by it has been done.
    pub(super) taken: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) owner: Dom,
    pub(super) allocated: bool,
    pub(super) table: bool,
    pub(super) cells: [u8; CELLS],
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) by: Dom,
    pub(super) granter: Dom,
    pub(super) reference: u32,
    pub(super) page: PageId,
    pub(super) readonly: bool,
    pub(super) revokable: bool,
    pub(super) place: Option<u64>,
    pub(super) device: bool,
    pub(super) stand_in: Option<PageId>,
    pub(super) revoked: bool,
    pub(super) ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) translated: bool,
    pub(super) dead: bool,
    pub(super) second_version: bool,
    pub(super) p2m: BTreeMap<u64, PageId>,
    pub(super) entries: BTreeMap<u32, Entry>,
}

/// Who uses a reference at the moment, and what was decided when the first use began.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    granter: Dom,
    reference: u32,
    by: Dom,
    readonly: bool,
    revokable: bool,
    what: What,
}

/// What is behind a reference.
#[derive(Clone, Copy, Debug)]
enum What {
    Page(PageId, Option<Part>),
    Elsewhere(Dom, u32),
}

#[derive(Debug, Default)]
pub(super) struct Naive {
    pub(super) doms: [Domain; 3],
    pub(super) pages: Vec<Page>,
    pub(super) maps: Vec<Mapping>,
    /// By the copy that is being made.
    copying: Vec<User>,
    pub(super) mutant: Option<Mutant>,
}

impl Naive {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        Self { mutant, ..Self::default() }
    }

    fn wrong(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn entry(&self, d: Dom, reference: u32) -> Entry {
        self.doms[d].entries.get(&reference).copied().unwrap_or_default()
    }

    /// The table has one frame.
    fn beyond_the_table(&self, d: Dom, reference: u32) -> bool {
        reference >= if self.doms[d].second_version { 256 } else { 512 }
    }

    fn users(&self, granter: Dom, reference: u32) -> Vec<User> {
        let mapped = self.maps.iter().filter(|m| !m.ended && !m.revoked).map(|m| User {
            granter: m.granter,
            reference: m.reference,
            by: m.by,
            readonly: m.readonly,
            revokable: m.revokable,
            what: What::Page(m.page, None),
        });
        let all = mapped.chain(self.copying.iter().copied());
        all.filter(|u| u.granter == granter && u.reference == reference).collect()
    }

    /// Whether a reference is in use, and whether for writing.
    pub(super) fn in_use(&self, granter: Dom, reference: u32) -> (bool, bool) {
        let users = self.users(granter, reference);
        (!users.is_empty(), users.iter().any(|u| !u.readonly))
    }

    /// References of a page.
    pub(super) fn references(&self, page: PageId) -> u32 {
        let mut n = u32::from(self.pages[page].allocated) + u32::from(self.pages[page].table);
        for m in self.maps.iter().filter(|m| !m.ended) {
            if m.page == page {
                n += u32::from(m.place.is_some()) + u32::from(m.device);
            }
            n += u32::from(m.stand_in == Some(page) && !self.wrong(Mutant::StandInIsNotHeld));
        }
        n
    }

    /// Those of them that may write.
    pub(super) fn written(&self, page: PageId) -> u32 {
        let mut n = 0;
        for m in self.maps.iter().filter(|m| !m.ended && !m.readonly) {
            if m.page == page {
                n += u32::from(m.place.is_some()) + u32::from(m.device);
            }
            n += u32::from(m.stand_in == Some(page) && !self.wrong(Mutant::StandInIsNotWritten));
        }
        n
    }

    fn may_not_be_written(&self, page: PageId) -> bool {
        self.pages[page].table && !self.wrong(Mutant::TypesAreIgnored)
    }

    /// 0, or the error's number.
    pub(super) fn pin(&mut self, d: Dom, gfn: u64) -> i32 {
        let page = self.doms[d].p2m.get(&gfn).copied().filter(|_| !self.doms[d].translated);
        match page {
            Some(page) if !self.pages[page].table && self.written(page) == 0 => {
                self.pages[page].table = true;
                0
            }
            _ => 22,
        }
    }

    pub(super) fn transfer(&mut self, from: Dom, gfn: u64, to: Dom, reference: u32, new_gfn: u64) -> i16 {
        if self.doms[from].translated {
            // The call itself: there is no such operation.
            return 38;
        }
        let Some(page) = self.doms[from].p2m.get(&gfn).copied() else { return GNTST_bad_page };
        if self.references(page) != 1 {
            return GNTST_bad_page;
        }
        self.doms[from].p2m.remove(&gfn);
        if self.doms[to].dead {
            self.pages[page].allocated = false;
            return GNTST_bad_domain;
        }
        let beyond = self.beyond_the_table(to, reference);
        let entry = self.doms[to].entries.entry(reference).or_default();
        let accepts = entry.kind == Kind::Accept
            && entry.to == from
            && !entry.taken
            && !entry.readonly
            && !entry.revokable
            && !beyond;
        if !accepts {
            self.pages[page].allocated = false;
            return GNTST_general_error;
        }
        entry.taken = true;
        self.pages[page].owner = to;
        self.doms[to].p2m.insert(new_gfn, page);
        GNTST_okay
    }

    pub(super) fn swap(&mut self, d: Dom, a: u32, b: u32) -> i16 {
        if self.beyond_the_table(d, a) || self.beyond_the_table(d, b) {
            return GNTST_bad_gntref;
        }
        if a == b {
            return GNTST_okay;
        }
        if self.in_use(d, a).0 || self.in_use(d, b).0 {
            return GNTST_eagain;
        }
        let (was_a, was_b) = (self.entry(d, a), self.entry(d, b));
        self.doms[d].entries.insert(a, was_b);
        self.doms[d].entries.insert(b, was_a);
        GNTST_okay
    }

    /// 0, or the error's number. `looked_at`: the domain has its status words mapped.
    pub(super) fn set_version(&mut self, d: Dom, second: bool, looked_at: bool) -> i32 {
        if self.doms[d].second_version == second {
            return 0;
        }
        let mapped = self.maps.iter().filter(|m| !m.ended && !m.revoked && m.granter == d);
        if mapped.clone().any(|m| m.reference >= RESERVED) {
            return 16;
        }
        let elsewhere = |(r, e): (&u32, &Entry)| *r < RESERVED && matches!(e.kind, Kind::HandedOn(..));
        if !second && self.doms[d].entries.iter().any(elsewhere) {
            return 34;
        }
        if !second && looked_at {
            return 16;
        }
        self.doms[d].second_version = second;
        if !self.wrong(Mutant::NewVersionKeepsEntries) {
            self.doms[d].entries.retain(|r, _| *r < RESERVED);
        }
        // That it is a part is kept, which part is not.
        for e in self.doms[d].entries.values_mut() {
            e.part = e.part.map(|_| (0, 0));
        }
        0
    }

    pub(super) fn balloon(&mut self, by: Dom, gfn: u64) -> bool {
        let Some(page) = self.doms[by].p2m.remove(&gfn) else { return false };
        self.pages[page].allocated = false;
        if self.wrong(Mutant::BalloonFreesAtOnce) {
            self.maps.iter_mut().filter(|m| m.page == page).for_each(|m| m.ended = true);
        }
        true
    }

    /// A process ends, and with it what is shown in its address space.
    pub(super) fn kill(&mut self, who: Dom) {
        if self.wrong(Mutant::KilledProcessKeepsMappings) {
            return;
        }
        self.maps.iter_mut().filter(|m| m.by == who && m.place.is_some()).for_each(|m| m.ended = true);
    }

    pub(super) fn die(&mut self, who: Dom) {
        self.doms[who].dead = true;
        if !self.wrong(Mutant::DeathRevokesNothing) {
            self.switch(|m| m.granter == who);
        }
        self.maps.iter_mut().filter(|m| m.by == who).for_each(|m| m.ended = true);
        self.doms[who].p2m.clear();
        for page in self.pages.iter_mut().filter(|p| p.owner == who) {
            (page.allocated, page.table) = (false, false);
        }
    }
}
