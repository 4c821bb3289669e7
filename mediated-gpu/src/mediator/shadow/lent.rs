//! A table that is memory of the guest's: it writes entries there without a trap, and they count from its next flush on,
//! as on hardware, whose translations are cached until then.
//!
//! At a flush the slice's part of it is compared with what the shadow stands for: by memory where nothing has changed, and by
//! frames where something has. A page of it that the guest has ballooned out holds nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use pviommu::Mapped;
use xen_ioreq::{Bfn, Gfn, PAGE_SHIFT};

use super::entries::Entry;
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
    fn frame(&self, page: u32) -> Gfn {
        Gfn(self.first.0.saturating_add(page.into()))
    }

    /// Its first frame.
    pub(super) fn first(&self) -> Gfn {
        self.first
    }

    /// Takes out what keeps pages at these bus frames.
    pub(super) fn revoke(&mut self, bfns: &[Bfn]) -> Vec<Mapped> {
        let gone: Vec<_> =
            self.pages.iter().filter(|(_, m)| bfns.contains(&m.bfn())).map(|(page, _)| *page).collect();
        gone.into_iter().filter_map(|page| self.pages.remove(&page)).collect()
    }

    /// Takes out all that keeps pages: they are needed again at the next comparison.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Mapped> {
        std::mem::take(&mut self.pages).into_values()
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
        self.fetch(&mut lent, &pages);
        for page in pages {
            self.compare_page(&mut writers, &lent, page);
        }
        self.count(&writers);
        writers.lent = Some(lent);
    }

    /// Maps those pages of the table that are not mapped, all at once. What is not there is not there.
    fn fetch(&self, lent: &mut Lent, pages: &[u32]) {
        let missing: Vec<u32> = pages.iter().copied().filter(|page| !lent.pages.contains_key(page)).collect();
        let gfns: Vec<Gfn> = missing.iter().map(|page| lent.frame(*page)).collect();
        let mapped = self.parts.frames.map(&gfns).into_iter().map(Result::ok);
        for (page, mapped) in missing.into_iter().zip(mapped) {
            self.parts.stats.mappings.add(u64::from(mapped.is_some()));
            self.parts.stats.map_failures.add(u64::from(mapped.is_none()));
            lent.pages.extend(mapped.map(|mapped| (page, mapped)));
        }
    }

    fn compare_page(&self, writers: &mut Writers, lent: &Lent, page: u32) {
        let kept = lent.pages.get(&page).and_then(|mapped| self.parts.own.entries(mapped.bfn()));
        // One that is not there holds nothing.
        let told = kept.unwrap_or_else(|| vec![0; IN_PAGE as usize]);
        let changed = self.changed(page * IN_PAGE, &told);
        if changed.is_empty() {
            return;
        }
        self.enter_all(writers, changed);
    }

    /// Which entries from `first` on do not stand for what the guest's table says.
    fn changed(&self, first: u32, told: &[u64]) -> Vec<Entry> {
        let table = self.table.read();
        // One that leads to scratch although it is present is tried again: its frame may be there now.
        let waits = |at: usize, told: u64| Pte(told).present() && !table.is_linked(at);
        let entry = |(index, told): (u32, &u64)| {
            let at = self.parts.slice.position(index)?;
            (table.guest(at) != *told || waits(at, *told)).then_some(Entry { index, at, guest: Pte(*told) })
        };
        // Mostly nothing of a page has changed, and then it is told by comparing memory.
        if let Some(start) = self.parts.slice.position(first)
            && table.guests(start..start + told.len()) == told
            && self.parts.slice.position(first + IN_PAGE - 1) == Some(start + told.len() - 1)
            && !(start..).zip(told).any(|(at, told)| waits(at, *told))
        {
            return Vec::new();
        }
        (first..).zip(told).filter_map(entry).collect()
    }

    /// Whether the guest's table is memory of the guest's.
    pub(crate) fn is_lent(&self) -> bool {
        self.writers.lock().lent.is_some()
    }

    /// Notes how many references there are.
    pub(super) fn count(&self, writers: &Writers) {
        let lent = writers.lent.as_ref().map_or(0, |l| l.pages.len());
        let stats = &self.parts.stats;
        stats.live_process_mappings.set(writers.ppgtt.held() + lent + self.parts.shown.count());
        if !writers.stale.is_empty() {
            self.dirty.store(true, Ordering::Release);
        }
    }
}
