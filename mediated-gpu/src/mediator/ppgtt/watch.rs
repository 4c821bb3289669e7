//! Which tables need not be compared: those of whose writes somebody tells.
//!
//! A table that has been quiet for some uses is tracked; from its first write on it is compared at each use again, and must be
//! quiet for twice as long, so that one that is rewritten now and then costs no trap each time. What no processor of the guest's
//! does, nobody tells: a page that the GPU reaches is not tracked, and all tables are compared once after each sweep. After a notice
//! none is tracked: behind a number that is tracked may be another frame, which is not.

use std::sync::Arc;

use foldhash::HashMap;
use xen_ioreq::{Bfn, Gfn};

use super::table::{Key, Kind};
use super::{ITSELF, Ppgtt, at_place};
use crate::gen8::ppgtt::Level;
use crate::mediator::tracker::{PageTracker, Untracked};

/// Uses without a change after which a table is tracked. A trap costs as much as some fifty comparisons.
pub const TRACK_AFTER: u32 = 64;
/// The same, at most, for one that has been written while it was tracked.
const QUIET_MOST: u32 = 4096;
/// Tables that one use begins to track at most: each is a hypercall.
const AT_ONCE: u32 = 8;

/// What a page of the guest's may be, all but a large one, which has no table.
const KINDS: [Kind; 5] = [
    Kind::Directory(Level::Pml4),
    Kind::Directory(Level::Pdp),
    Kind::Directory(Level::Pd),
    Kind::Small,
    Kind::Medium,
];

/// How one knows what a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// By comparing it: the uses since it changed.
    Compared(u32),
    /// It is tracked, and was compared after that in this state of [`Watch::doubts`].
    Told(u64),
}

impl Default for News {
    fn default() -> Self {
        Self::Compared(0)
    }
}

/// What is tracked of a guest.
#[derive(Default)]
pub(super) struct Watch {
    tracker: Option<Arc<dyn PageTracker>>,
    /// Tracked frames, and how many tables each is.
    frames: HashMap<Gfn, u32>,
    /// The bus frames of tracked tables.
    pages: HashMap<Bfn, u32>,
    /// Uses without a change after which a table is tracked.
    quiet: u32,
    /// Frames that are tracked for nobody any more, and not let go yet: that takes a hypercall, which the thread that lets go of
    /// frames may not make. The guest's first write there lets one go as well.
    unneeded: Vec<Gfn>,
    /// How often something may have changed that nobody told.
    doubts: u64,
    /// Notices that had come when this was told last.
    notices: u64,
    /// Tables that this use has begun to track.
    begun: u32,
    /// Somebody has been told why tables are compared.
    said: bool,
}

impl Watch {
    /// Whether a bus frame is a tracked table's.
    pub(super) fn is_page(&self, bfn: Bfn) -> bool {
        !self.pages.is_empty() && self.pages.contains_key(&bfn)
    }
}

fn one_less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) -> bool {
    let Some(count) = counts.get_mut(&key) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(&key);
    }
    last
}

impl Ppgtt {
    /// From now on tables may be tracked, after so many uses without a change, or more.
    pub(in crate::mediator) fn track(&mut self, tracker: Arc<dyn PageTracker>, quiet: u32) {
        self.watch_none();
        (self.watch.tracker, self.watch.quiet) = (Some(tracker), quiet);
    }

    /// Who tells of writes to tables.
    pub(in crate::mediator) fn tracker(&self) -> Option<Arc<dyn PageTracker>> {
        self.watch.tracker.clone()
    }

    /// Something may have changed that nobody told: every table is compared at its next use.
    pub(in crate::mediator) fn doubt(&mut self) {
        self.watch.doubts = self.watch.doubts.wrapping_add(1);
    }

    /// Takes up what has been written.
    pub(super) fn hear(&mut self) {
        self.watch.begun = 0;
        let written = self.watch.tracker.as_ref().map(|t| t.take_written()).unwrap_or_default();
        for gfn in written {
            self.stats.table_writes.add(1);
            let ids: Vec<_> =
                KINDS.iter().filter_map(|kind| self.by_key.get(&Key { kind: *kind, gfn }).copied()).collect();
            for id in ids {
                self.watch_no_more(id);
                self.lose_patience(id);
            }
        }
    }

    fn lose_patience(&mut self, id: usize) {
        if let Some(table) = self.tables.get_mut(id) {
            table.patience = table.patience.max(self.watch.quiet).saturating_mul(2).min(QUIET_MOST);
        }
    }

    /// Whether the shadow of a table stands for what the guest's page holds, without looking.
    pub(super) fn is_known(&self, id: usize) -> bool {
        let doubts = self.watch.doubts;
        self.tables.get(id).is_some_and(|t| t.news == News::Told(doubts) && t.again.is_empty())
    }

    /// Has a table tracked that has been quiet for long, before it is compared. `reached`: see [`Ppgtt::enter`].
    pub(super) fn watch_if_quiet(&mut self, id: usize, guest: Option<Bfn>, reached: &dyn Fn(Bfn) -> bool) {
        let Some(table) = self.tables.get(id) else { return };
        let News::Compared(quiet) = table.news else { return };
        let (gfn, patience) = (table.key.gfn, table.patience.max(self.watch.quiet));
        let (Some(bfn), Some(tracker)) = (guest, &self.watch.tracker) else { return };
        if quiet < patience || self.watch.begun >= AT_ONCE {
            return;
        }
        self.watch.begun += 1;
        let mapped = self.held.leading(bfn).any(|place| at_place(place).1 != ITSELF);
        if mapped || reached(bfn) {
            // It is asked about again when it has been quiet for as long.
            return self.set_news(id, News::Compared(0));
        }
        match tracker.protect(gfn) {
            Ok(()) => {
                *self.watch.frames.entry(gfn).or_default() += 1;
                *self.watch.pages.entry(bfn).or_default() += 1;
                self.set_news(id, News::Told(self.watch.doubts));
                self.stats.tracked_tables.set(self.watch.frames.len());
            }
            Err(e) => {
                match e {
                    Untracked::Any(e) if !std::mem::replace(&mut self.watch.said, true) => {
                        log::warn!("all page tables are compared at each use: {e}");
                    }
                    e => log::debug!("a page table is compared at each use: {e}"),
                }
                self.lose_patience(id);
                self.set_news(id, News::Compared(0));
            }
        }
    }

    fn set_news(&mut self, id: usize, news: News) {
        if let Some(table) = self.tables.get_mut(id) {
            table.news = news;
        }
    }

    /// A table has been compared; `written`: it has changed since the last time.
    pub(super) fn compared(&mut self, id: usize, written: bool) {
        let doubts = self.watch.doubts;
        let Some(table) = self.tables.get_mut(id) else { return };
        match &mut table.news {
            // By whom, nobody told.
            News::Told(_) if written => self.watch_no_more(id),
            News::Told(known) => *known = doubts,
            News::Compared(quiet) => *quiet = if written { 0 } else { quiet.saturating_add(1) },
        }
    }

    /// The GPU may have reached a bus frame, or will: a table there may change without a word from now on.
    pub(in crate::mediator) fn reached(&mut self, bfn: Bfn) {
        if !self.watch.is_page(bfn) {
            return;
        }
        let ids: Vec<_> = self.held.leading(bfn).map(at_place).filter(|(_, at)| *at == ITSELF).collect();
        ids.into_iter().for_each(|(id, _)| self.watch_no_more(id));
    }

    /// A table is not tracked any more: it goes, or must be compared.
    pub(super) fn watch_no_more(&mut self, id: usize) {
        let Some(table) = self.tables.get_mut(id) else { return };
        let News::Told(_) = std::mem::take(&mut table.news) else { return };
        let (gfn, guest) = (table.key.gfn, table.guest);
        if let Some(bfn) = guest {
            one_less(&mut self.watch.pages, bfn);
        }
        if one_less(&mut self.watch.frames, gfn) {
            self.watch.unneeded.push(gfn);
        }
        self.stats.tracked_tables.set(self.watch.frames.len());
    }

    /// Lets frames go that are tracked for nobody any more.
    pub(super) fn let_frames_go(&mut self) {
        let Watch { tracker, unneeded, frames, .. } = &mut self.watch;
        for gfn in unneeded.drain(..).filter(|gfn| !frames.contains_key(gfn)) {
            tracker.iter().for_each(|tracker| tracker.unprotect(gfn));
        }
    }

    /// So many notices have come. Before one, frames may have gone, and come back as plain memory that holds what it did: no table is
    /// tracked until it has been quiet anew.
    pub(in crate::mediator) fn noticed(&mut self, notices: u64) {
        if std::mem::replace(&mut self.watch.notices, notices) != notices {
            self.trust_none();
        }
    }

    fn trust_none(&mut self) {
        if !self.watch.frames.is_empty() {
            let all: Vec<_> = self.tables.iter().map(|(id, _)| id).collect();
            all.into_iter().for_each(|id| self.watch_no_more(id));
        }
    }

    /// No table is tracked any more, and all frames are let go.
    pub(in crate::mediator) fn watch_none(&mut self) {
        self.trust_none();
        self.let_frames_go();
    }
}
