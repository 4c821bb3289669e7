//! What may be copied, between pages, parts of pages, and by grants handed on.

use xen_ioreq::abi::grant_table::*;

use super::{CELLS, Dom, Kind, Mutant, Naive, PageId, Part, User, What};

/// One end of a copy.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum End {
    Own(u64),
    Ref(Dom, u32),
}

/// A copy of cells.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct CopyAsk {
    pub(in super::super) by: Dom,
    pub(in super::super) source: End,
    pub(in super::super) from: usize,
    pub(in super::super) dest: End,
    pub(in super::super) to: usize,
    pub(in super::super) cells: usize,
}

type Granted = (PageId, Option<Part>);

impl Naive {
    pub(in super::super) fn copy(&mut self, copy: &CopyAsk) -> i16 {
        let done = self.try_copy(copy);
        self.copying.clear();
        done.err().unwrap_or(GNTST_okay)
    }

    fn try_copy(&mut self, c: &CopyAsk) -> Result<(), i16> {
        let dead = |end| matches!(end, End::Ref(g, _) if self.doms[g].dead);
        if dead(c.source) || dead(c.dest) {
            return Err(GNTST_bad_domain);
        }
        let (source, window) = self.end(c.by, c.source, true)?;
        let (dest, dest_window) = self.end(c.by, c.dest, false)?;
        self.within(c.from, c.cells, window)?;
        self.within(c.to, c.cells, dest_window)?;
        let bytes = self.pages[source].cells[c.from..c.from + c.cells].to_vec();
        self.pages[dest].cells[c.to..c.to + c.cells].copy_from_slice(&bytes);
        Ok(())
    }

    fn within(&self, at: usize, cells: usize, part: Option<Part>) -> Result<(), i16> {
        if at + cells > CELLS {
            return Err(GNTST_bad_copy_arg);
        }
        let (first, count) = part.filter(|_| !self.wrong(Mutant::PartsAreIgnored)).unwrap_or((0, CELLS));
        if at < first || at + cells > first + count { Err(GNTST_general_error) } else { Ok(()) }
    }

    fn end(&mut self, by: Dom, end: End, readonly: bool) -> Result<Granted, i16> {
        match end {
            End::Own(gfn) => {
                let page = *self.doms[by].p2m.get(&gfn).ok_or(GNTST_bad_page)?;
                self.writable(page, readonly)?;
                Ok((page, None))
            }
            End::Ref(granter, reference) => self.begin(by, granter, reference, readonly, true),
        }
    }

    fn writable(&self, page: PageId, readonly: bool) -> Result<(), i16> {
        if !readonly && self.may_not_be_written(page) { Err(GNTST_general_error) } else { Ok(()) }
    }

    /// A use by a copy begins, and lasts until all of it is done.
    fn begin(
        &mut self,
        by: Dom,
        granter: Dom,
        reference: u32,
        readonly: bool,
        directly: bool,
    ) -> Result<Granted, i16> {
        if self.beyond_the_table(granter, reference) {
            return Err(GNTST_bad_gntref);
        }
        let (users, entry) = (self.users(granter, reference), self.entry(granter, reference));
        let (what, revokable) = match users.first() {
            Some(first) if first.by != by => return Err(GNTST_general_error),
            Some(first) => {
                self.may_write(&users, entry.readonly, readonly)?;
                // Who begins to write looks where the frame is once more.
                let raises = !readonly && users.iter().all(|u| u.readonly);
                let by_frame =
                    matches!(first.what, What::Page(..)) && !matches!(entry.kind, Kind::HandedOn(..));
                if raises && by_frame {
                    let page = *self.doms[granter].p2m.get(&entry.gfn).ok_or(GNTST_bad_page)?;
                    self.writable(page, readonly)?;
                }
                (first.what, first.revokable)
            }
            None => (self.first_use(by, granter, reference, readonly)?, entry.revokable),
        };
        let mine = User { granter, reference, by, readonly, revokable, what };
        match what {
            What::Page(page, part) => {
                self.writable(page, readonly)?;
                self.copying.push(mine);
                Ok((page, part))
            }
            What::Elsewhere(..) if !directly && !self.wrong(Mutant::HandedOnTwice) => {
                Err(GNTST_general_error)
            }
            What::Elsewhere(root, there) => {
                if root == granter || self.doms[root].dead {
                    return Err(GNTST_general_error);
                }
                self.copying.push(mine);
                self.begin(granter, root, there, readonly, false)
            }
        }
    }

    /// What the entry says to somebody who comes first.
    fn first_use(&self, by: Dom, granter: Dom, reference: u32, readonly: bool) -> Result<What, i16> {
        let entry = self.entry(granter, reference);
        let granted = match entry.kind {
            Kind::Access => true,
            Kind::HandedOn(..) => !entry.revokable,
            Kind::Nothing | Kind::Accept => false,
        };
        if !granted || entry.to != by {
            return Err(GNTST_general_error);
        }
        self.may_write(&[], entry.readonly, readonly)?;
        if let Kind::HandedOn(root, there) = entry.kind {
            return Ok(What::Elsewhere(root, there));
        }
        let page = *self.doms[granter].p2m.get(&entry.gfn).ok_or(GNTST_bad_page)?;
        Ok(What::Page(page, entry.part.filter(|_| self.doms[granter].second_version)))
    }
}
