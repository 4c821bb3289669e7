//! A table that is memory of the guest's: it writes entries there without a trap, and they count from its next flush on,
//! as on hardware, whose translations are cached until then.
//!
//! At a flush the slice's part of it is compared with what the shadow stands for. A page of it that the guest has
//! ballooned out holds nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use pviommu::Mapped;
use xen_ioreq::{Bfn, Gfn, PAGE_SHIFT};

use super::{ShadowGgtt, Writers};
use crate::gen8::gtt::{PTE_SIZE, Pte};

/// Entries of a page.
const IN_PAGE: u32 = (1 << PAGE_SHIFT) / PTE_SIZE;

/// Where the guest's table is.
#[derive(Debug)]
pub(super) struct Lent {
    first: Gfn,
    /// What keeps its pages where they are, by their place in the table.
    pages: BTreeMap<u32, Mapped>,
}

impl Lent {
    /// Takes out what keeps pages at these bus frames.
    pub(super) fn revoke(&mut self, bfns: &[Bfn]) -> Vec<Mapped> {
        let gone: Vec<_> =
            self.pages.iter().filter(|(_, m)| bfns.contains(&m.bfn())).map(|(page, _)| *page).collect();
        gone.into_iter().filter_map(|page| self.pages.remove(&page)).collect()
    }

    pub(super) fn into_pages(self) -> impl Iterator<Item = Mapped> {
        self.pages.into_values()
    }
}

impl ShadowGgtt {
    /// From now on the guest's table is memory of the guest's, from this frame on.
    pub(crate) fn lend_table(&self, first: Gfn) {
        let mut writers = self.writers.lock();
        if !writers.closed {
            let before = writers.lent.replace(Lent { first, pages: BTreeMap::new() });
            let gone = before.into_iter().flat_map(Lent::into_pages);
            let gone: Vec<_> = gone.filter_map(Mapped::put).collect();
            writers.stale.extend(gone);
        }
    }

    /// Makes the shadow stand for what the table in the guest's memory holds now, if it is there.
    pub(crate) fn compare_table(&self) {
        let mut writers = self.lock_after_notices();
        let Some(mut lent) = writers.lent.take() else { return };
        let mut pages: Vec<_> = self.parts.slice.indexes().map(|index| index / IN_PAGE).collect();
        pages.dedup();
        for page in pages {
            self.compare_page(&mut writers, &mut lent, page);
        }
        self.count(&writers);
        writers.lent = Some(lent);
    }

    fn compare_page(&self, writers: &mut Writers, lent: &mut Lent, page: u32) {
        let entries = self.page(lent, page);
        let first = page * IN_PAGE;
        let changed: Vec<(u32, usize, Pte)> = {
            let table = self.table.read();
            let looked_at = (first..).zip(&entries).filter_map(|(index, entry)| {
                let at = self.parts.slice.position(index)?;
                // One that leads to scratch although it is present is tried again: its frame may be there now.
                let stands = table.guest(at) == *entry;
                (!stands || (Pte(*entry).present() && table.target(at).is_none())).then_some((
                    index,
                    at,
                    Pte(*entry),
                ))
            });
            looked_at.collect()
        };
        if changed.is_empty() {
            return;
        }
        let gfns: Vec<_> =
            changed.iter().filter(|(_, _, e)| e.present()).map(|(_, _, e)| Gfn(e.frame())).collect();
        let mut mapped = self.parts.frames.map(&gfns).into_iter();
        let mut table = self.table.write();
        let mut old = Vec::new();
        for (index, at, entry) in changed {
            let new = if entry.present() { mapped.next().and_then(Result::ok) } else { None };
            self.parts.stats.mappings.add(u64::from(new.is_some()));
            self.parts.stats.map_failures.add(u64::from(entry.present() && new.is_none()));
            old.extend(self.enter(&mut table, index, at, entry, new));
        }
        drop(table);
        writers.stale.extend(old.into_iter().filter_map(Mapped::put));
    }

    /// What a page of the guest's table holds; zeros, if it is not there.
    fn page(&self, lent: &mut Lent, page: u32) -> Vec<u64> {
        let bfn = match lent.pages.get(&page) {
            Some(mapped) => Some(mapped.bfn()),
            None => self.map(Gfn(lent.first.0.saturating_add(page.into()))).map(|mapped| {
                let bfn = mapped.bfn();
                lent.pages.insert(page, mapped);
                bfn
            }),
        };
        bfn.and_then(|bfn| self.parts.own.entries(bfn)).unwrap_or_else(|| vec![0; IN_PAGE as usize])
    }

    /// Whether the guest's table is memory of the guest's.
    pub(crate) fn is_lent(&self) -> bool {
        self.writers.lock().lent.is_some()
    }

    /// Notes how many references there are.
    pub(super) fn count(&self, writers: &Writers) {
        let lent = writers.lent.as_ref().map_or(0, |l| l.pages.len());
        let stats = &self.parts.stats;
        stats.live_process_mappings.set(writers.ppgtt.held() + lent);
        if !writers.stale.is_empty() {
            self.dirty.store(true, Ordering::Release);
        }
    }
}
