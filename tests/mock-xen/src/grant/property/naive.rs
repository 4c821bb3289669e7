//! The second model: what grants do, with plain lists and no cleverness. Everything is found by looking through everything.

use std::collections::BTreeMap;

use xen_ioreq::abi::grant_table::*;

/// Domains are 0, 1, 2; pages are numbers.
pub(super) type Dom = usize;
pub(super) type PageId = usize;

/// A rule that is wrong on purpose, to see that the comparison can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    ReadonlyIsIgnored,
    AThirdMappingIsAllowed,
    RevokeSwitchesOne,
    BalloonFreesAtOnce,
    DeathRevokesNothing,
    StandInIsNotHeld,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Nothing,
    Access,
    Accept,
}

/// An entry, as its owner wrote it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) to: Dom,
    pub(super) gfn: u64,
    pub(super) readonly: bool,
    pub(super) revokable: bool,
    /// The first 64 bytes only.
    pub(super) part: bool,
    /// A transfer by it has been done.
    pub(super) taken: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) owner: Dom,
    pub(super) allocated: bool,
    pub(super) byte: u8,
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
    pub(super) p2m: BTreeMap<u64, PageId>,
    pub(super) entries: BTreeMap<u32, Entry>,
}

/// A mapping to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) by: Dom,
    pub(super) granter: Dom,
    pub(super) reference: u32,
    pub(super) readonly: bool,
    pub(super) place: Option<u64>,
    pub(super) device: bool,
    pub(super) lgfn: Option<u64>,
}

/// One end of a copy.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Own(u64),
    Ref(Dom, u32),
}

#[derive(Debug, Default)]
pub(super) struct Naive {
    pub(super) doms: [Domain; 3],
    pub(super) pages: Vec<Page>,
    pub(super) maps: Vec<Mapping>,
    pub(super) limit: u32,
    pub(super) mutant: Option<Mutant>,
}

impl Naive {
    fn wrong(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Mappings that use a reference.
    pub(super) fn users(&self, granter: Dom, reference: u32) -> Vec<Mapping> {
        let uses = |m: &&Mapping| !m.ended && !m.revoked && m.granter == granter && m.reference == reference;
        self.maps.iter().filter(uses).copied().collect()
    }

    /// References of a page.
    pub(super) fn references(&self, page: PageId) -> u32 {
        let mut n = u32::from(self.pages[page].allocated);
        for m in self.maps.iter().filter(|m| !m.ended) {
            if m.page == page {
                n += u32::from(m.place.is_some()) + u32::from(m.device);
            }
            n += u32::from(m.stand_in == Some(page) && !self.wrong(Mutant::StandInIsNotHeld));
        }
        n
    }

    /// May `by` use this reference? Gives the page.
    fn allowed(
        &self,
        by: Dom,
        granter: Dom,
        reference: u32,
        readonly: bool,
        map: Option<bool>,
    ) -> Result<PageId, i16> {
        if reference >= self.limit {
            return Err(GNTST_bad_gntref);
        }
        let entry = self.doms[granter].entries.get(&reference).copied().unwrap_or_default();
        let users = self.users(granter, reference);
        let revokable_is_wrong = |is: bool| match (map, is) {
            (Some(false), true) => Err(GNTST_permission_denied),
            (Some(true), false) => Err(GNTST_bad_gntref),
            _ => Ok(()),
        };
        if let Some(first) = users.first() {
            if first.by != by {
                return Err(GNTST_general_error);
            }
            revokable_is_wrong(first.revokable)?;
            if map == Some(true) && users.len() >= 2 && !self.wrong(Mutant::AThirdMappingIsAllowed) {
                return Err(GNTST_no_space);
            }
        } else {
            if entry.kind != Kind::Access || entry.to != by || (entry.part && map.is_some()) {
                return Err(GNTST_general_error);
            }
            revokable_is_wrong(entry.revokable)?;
        }
        let written_already = users.iter().any(|m| !m.readonly);
        if !readonly && !written_already && entry.readonly && !self.wrong(Mutant::ReadonlyIsIgnored) {
            return Err(GNTST_general_error);
        }
        match users.first() {
            Some(first) => Ok(first.page),
            None => self.doms[granter].p2m.get(&entry.gfn).copied().ok_or(GNTST_bad_page),
        }
    }

    pub(super) fn map(&mut self, ask: &Ask) -> i16 {
        match self.try_map(ask) {
            Ok(()) => GNTST_okay,
            Err(status) => status,
        }
    }

    fn try_map(&mut self, ask: &Ask) -> Result<(), i16> {
        if ask.place.is_none() && !ask.device {
            return Err(GNTST_bad_gntref);
        }
        if self.doms[ask.by].translated && ask.device {
            return Err(GNTST_general_error);
        }
        if self.doms[ask.granter].dead {
            return Err(GNTST_bad_domain);
        }
        let stand_in = match ask.lgfn {
            None => None,
            Some(gfn) => Some(*self.doms[ask.by].p2m.get(&gfn).ok_or(GNTST_bad_page)?),
        };
        let revokable = ask.lgfn.is_some();
        let page = self.allowed(ask.by, ask.granter, ask.reference, ask.readonly, Some(revokable))?;
        self.maps.push(Mapping {
            by: ask.by,
            granter: ask.granter,
            reference: ask.reference,
            page,
            readonly: ask.readonly,
            revokable,
            place: ask.place,
            device: ask.device,
            stand_in,
            revoked: false,
            ended: false,
        });
        Ok(())
    }

    /// Ends parts of a mapping.
    pub(super) fn unmap(&mut self, index: usize, host: bool, device: bool) -> i16 {
        let m = &mut self.maps[index];
        if m.ended {
            return GNTST_bad_handle;
        }
        if host {
            m.place = None;
        }
        if device {
            m.device = false;
        }
        m.ended = m.place.is_none() && !m.device;
        GNTST_okay
    }

    fn end(&self, by: Dom, end: End, readonly: bool) -> Result<PageId, i16> {
        match end {
            End::Own(gfn) => self.doms[by].p2m.get(&gfn).copied().ok_or(GNTST_bad_page),
            End::Ref(granter, _) if self.doms[granter].dead => Err(GNTST_bad_domain),
            End::Ref(granter, reference) => self.allowed(by, granter, reference, readonly, None),
        }
    }

    /// One byte, the first of each page.
    pub(super) fn copy(&mut self, by: Dom, source: End, dest: End) -> i16 {
        let dead = |end| matches!(end, End::Ref(g, _) if self.doms[g].dead);
        if dead(source) || dead(dest) {
            return GNTST_bad_domain;
        }
        // A reference that is both ends is in use for writing while the source is pinned, so order matters to nobody.
        match self.end(by, source, true).and_then(|s| Ok((s, self.end(by, dest, false)?))) {
            Ok((from, to)) => {
                self.pages[to].byte = self.pages[from].byte;
                GNTST_okay
            }
            Err(status) => status,
        }
    }

    pub(super) fn transfer(&mut self, from: Dom, gfn: u64, to: Dom, reference: u32, new_gfn: u64) -> i16 {
        if self.doms[from].translated {
            return GNTST_general_error;
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
        let entry = self.doms[to].entries.entry(reference).or_default();
        let accepts = entry.kind == Kind::Accept
            && entry.to == from
            && !entry.taken
            && !entry.readonly
            && !entry.revokable
            && reference < self.limit;
        if !accepts {
            self.pages[page].allocated = false;
            return GNTST_general_error;
        }
        entry.taken = true;
        self.pages[page].owner = to;
        self.doms[to].p2m.insert(new_gfn, page);
        GNTST_okay
    }

    /// 0, or the error's number.
    pub(super) fn revoke(&mut self, granter: Dom, reference: u32) -> i32 {
        if reference >= self.limit {
            return 2;
        }
        let entry = self.doms[granter].entries.get(&reference).copied().unwrap_or_default();
        let users = self.users(granter, reference);
        if entry.kind != Kind::Nothing {
            return 16;
        }
        if users.first().is_some_and(|m| !m.revokable) {
            return 1;
        }
        self.switch(|m| m.granter == granter && m.reference == reference);
        0
    }

    fn switch(&mut self, which: impl Fn(&Mapping) -> bool) {
        let one = self.wrong(Mutant::RevokeSwitchesOne);
        for m in self.maps.iter_mut().filter(|m| !m.ended && !m.revoked && m.revokable && which(m)) {
            m.revoked = true;
            m.page = m.stand_in.expect("a revokable mapping has one");
            if one {
                return;
            }
        }
    }

    pub(super) fn balloon(&mut self, by: Dom, gfn: u64) -> bool {
        let Some(page) = self.doms[by].p2m.remove(&gfn) else { return false };
        self.pages[page].allocated = false;
        if self.wrong(Mutant::BalloonFreesAtOnce) {
            self.maps.iter_mut().filter(|m| m.page == page).for_each(|m| m.ended = true);
        }
        true
    }

    pub(super) fn die(&mut self, who: Dom) {
        self.doms[who].dead = true;
        if !self.wrong(Mutant::DeathRevokesNothing) {
            self.switch(|m| m.granter == who);
        }
        self.maps.iter_mut().filter(|m| m.by == who).for_each(|m| m.ended = true);
        for page in std::mem::take(&mut self.doms[who].p2m).into_values() {
            self.pages[page].allocated = false;
        }
        for page in self.pages.iter_mut().filter(|p| p.owner == who) {
            page.allocated = false;
        }
    }
}
