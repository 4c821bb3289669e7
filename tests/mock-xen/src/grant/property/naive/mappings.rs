//! What may be mapped, and how mappings end.

use xen_ioreq::abi::grant_table::*;

use super::{Dom, Kind, Mapping, Mutant, Naive, PageId, User, What};

/// A mapping to be made.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Ask {
    pub(in super::super) by: Dom,
    pub(in super::super) granter: Dom,
    pub(in super::super) reference: u32,
    pub(in super::super) readonly: bool,
    pub(in super::super) place: Option<u64>,
    pub(in super::super) device: bool,
    pub(in super::super) lgfn: Option<u64>,
}

impl Naive {
    pub(in super::super) fn map(&mut self, ask: &Ask) -> i16 {
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
        if stand_in.is_some_and(|page| !ask.readonly && self.may_not_be_written(page)) {
            return Err(GNTST_bad_page);
        }
        let page = self.mappable(ask)?;
        // A translated domain knows a page of its own by one number.
        if self.doms[ask.by].translated && self.pages[page].owner == ask.by {
            self.doms[ask.by].p2m.retain(|_, p| *p != page);
        }
        self.maps.push(Mapping {
            by: ask.by,
            granter: ask.granter,
            reference: ask.reference,
            page,
            readonly: ask.readonly,
            revokable: ask.lgfn.is_some(),
            place: ask.place,
            device: ask.device,
            stand_in,
            revoked: false,
            ended: false,
        });
        Ok(())
    }

    fn mappable(&self, ask: &Ask) -> Result<PageId, i16> {
        let (granter, reference, by) = (ask.granter, ask.reference, ask.by);
        if self.beyond_the_table(granter, reference) {
            return Err(GNTST_bad_gntref);
        }
        let users = self.users(granter, reference);
        let way = |revokable| match (ask.lgfn.is_some(), revokable) {
            (false, true) => Err(GNTST_permission_denied),
            (true, false) => Err(GNTST_bad_gntref),
            _ => Ok(()),
        };
        let first = match users.first() {
            Some(User { by: other, .. }) if *other != by => return Err(GNTST_general_error),
            Some(User { revokable, what: What::Page(page, _), .. }) => {
                way(*revokable)?;
                if ask.lgfn.is_some() && users.len() >= 2 && !self.wrong(Mutant::AThirdMappingIsAllowed) {
                    return Err(GNTST_no_space);
                }
                Some(*page)
            }
            _ => None,
        };
        let entry = self.entry(granter, reference);
        if first.is_none() {
            if entry.kind != Kind::Access || entry.to != by || entry.part.is_some() {
                return Err(GNTST_general_error);
            }
            way(entry.revokable)?;
        }
        self.may_write(&users, entry.readonly, ask.readonly)?;
        let page = match first {
            Some(page) => page,
            None => self.doms[granter].p2m.get(&entry.gfn).copied().ok_or(GNTST_bad_page)?,
        };
        if !ask.readonly && self.may_not_be_written(page) { Err(GNTST_general_error) } else { Ok(page) }
    }

    /// The entry is asked again only for the first use that writes.
    pub(super) fn may_write(&self, users: &[User], entry: bool, readonly: bool) -> Result<(), i16> {
        let asked = !readonly && users.iter().all(|u| u.readonly);
        if asked && entry && !self.wrong(Mutant::ReadonlyIsIgnored) {
            return Err(GNTST_general_error);
        }
        Ok(())
    }

    /// Ends parts of a mapping.
    pub(in super::super) fn unmap(&mut self, index: usize, host: bool, device: bool) -> i16 {
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

    /// 0, or the error's number.
    pub(in super::super) fn revoke(&mut self, granter: Dom, reference: u32) -> i32 {
        if self.beyond_the_table(granter, reference) {
            return 2;
        }
        if self.entry(granter, reference).kind != Kind::Nothing {
            return 16;
        }
        if self.users(granter, reference).first().is_some_and(|u| !u.revokable) {
            return 1;
        }
        self.switch(|m| m.granter == granter && m.reference == reference);
        0
    }

    pub(super) fn switch(&mut self, which: impl Fn(&Mapping) -> bool) {
        let one = self.wrong(Mutant::RevokeSwitchesOne);
        for m in self.maps.iter_mut().filter(|m| !m.ended && !m.revoked && m.revokable && which(m)) {
            m.revoked = true;
            m.page = m.stand_in.expect("a revokable mapping has one");
            if one {
                return;
            }
        }
    }
}
