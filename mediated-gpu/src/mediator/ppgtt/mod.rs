//! The shadows of a guest's per-process tables: what its contexts' page tables say, with every guest frame replaced
//! by the bus frame behind it.
//!
//! Before a context runs, the tables that begin at its root are compared with what their shadows stand for, as a GPU
//! reads them anew after a TLB invalidation; what changed is shadowed anew. A shadow is never the guest's memory.
//! [`watch`] says which need not be compared, since their writes are told of.

mod pages;
mod table;
mod watch;

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use pviommu::{Guest, Mapped, OwnError};
use slab::Slab;
use xen_ioreq::{Bfn, Gfn, PAGE_SHIFT};

use self::pages::Pages;
use self::table::{Key, Kind, Table, To};
pub use self::watch::TRACK_AFTER;
use self::watch::Watch;
use super::reserve::Own;
use super::reverse::ReverseMap;
use super::stats::Stats;
use crate::gen8::ppgtt::{ENTRIES, Entry, Level, RW, Root};

/// Tables that a guest may have at most: they map 8 GiB, and take 90 MiB with what is known of them.
const MOST_TABLES: usize = 4096;
/// In the place of an entry's: the guest's own page of a table.
const ITSELF: usize = ENTRIES;

/// Where a table's entry stands in the way back.
fn place(id: usize, at: usize) -> usize {
    id * (ENTRIES + 1) + at
}

/// The table and the entry of a place.
fn at_place(place: usize) -> (usize, usize) {
    (place / (ENTRIES + 1), place % (ENTRIES + 1))
}

/// The tables of a context cannot be shadowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TablesError {
    /// The guest has too many.
    #[error("more than {MOST_TABLES} page tables")]
    TooMany,
    /// There is no memory for shadows.
    #[error("no memory for shadow tables: {0}")]
    NoPages(#[from] OwnError),
    /// The vGPU goes.
    #[error("the vGPU is being destroyed")]
    Closed,
}

/// Where absent entries of each level lead.
struct Scratch {
    below_pml4: Bfn,
    below_pdp: Bfn,
    below_pd: Bfn,
}

/// A root that a context has used.
#[derive(Debug)]
struct Begin {
    /// The tables that it names: one, or four.
    tables: Vec<usize>,
    /// Contexts on engines that use it now.
    uses: u32,
    /// The guest has said that it goes.
    gone: bool,
    /// The round in which a context last began with it.
    last: u64,
}

/// The shadows of one guest.
pub(super) struct Ppgtt {
    frames: Guest,
    pages: Pages,
    stats: Arc<Stats>,
    /// Where absent pages lead.
    nothing: Bfn,
    scratch: Option<Scratch>,
    tables: Slab<Table>,
    by_key: HashMap<Key, usize>,
    roots: HashMap<Root, Begin>,
    /// What keeps every bus frame in use where it is, and the way back to the entries that lead there.
    held: ReverseMap<Mapped>,
    watch: Watch,
    round: u64,
    failed: Option<TablesError>,
    /// References that no entry needs any more; the caller gives them back after its flush.
    pub(super) put: Vec<Mapped>,
    /// Entries have changed since the caller last looked.
    pub(super) changed: bool,
    /// Entries that led to pages have changed, which a guest tells its GPU by itself.
    pub(super) moved: bool,
}

impl Ppgtt {
    /// No tables. `nothing` is the page to which absent entries lead, for reading only.
    pub(super) fn new(own: Own, frames: Guest, stats: Arc<Stats>, nothing: Bfn) -> Self {
        Self {
            frames,
            pages: Pages::new(own),
            stats,
            nothing,
            scratch: None,
            tables: Slab::new(),
            by_key: HashMap::new(),
            roots: HashMap::new(),
            held: ReverseMap::of_places(),
            watch: Watch::default(),
            round: 0,
            failed: None,
            put: Vec::new(),
            changed: false,
            moved: false,
        }
    }

    /// References to guest frames.
    pub(super) fn held(&self) -> usize {
        self.held.linked()
    }

    /// Brings all shadows from a guest's root on up to date, and gives the root that stands for it. It stays until
    /// [`leave`](Self::leave) is called as often. `reached`: whether the GPU reaches a bus frame by other ways than these tables.
    pub(super) fn enter(&mut self, root: Root, reached: &dyn Fn(Bfn) -> bool) -> Result<Root, TablesError> {
        self.hear();
        // Before one is tracked anew, behind whose number may be another frame now.
        self.let_frames_go();
        let refreshed = self.refresh_root(root, reached).or_else(|e| {
            // Roots that are not in use may be what is too much.
            let idle: Vec<_> = self.roots.iter().filter(|(_, b)| b.uses == 0).map(|(r, _)| *r).collect();
            if idle.iter().all(|r| *r == root) {
                return Err(e);
            }
            idle.into_iter().for_each(|r| self.forget(r));
            self.refresh_root(root, reached)
        });
        self.let_frames_go();
        refreshed?;
        let begin = self.roots.get_mut(&root).ok_or(TablesError::TooMany)?;
        (begin.uses, begin.gone, begin.last) = (begin.uses.saturating_add(1), false, self.round);
        let mut pages = begin.tables.iter().map(|id| self.tables.get(*id).map_or(self.nothing, |t| t.page).0);
        Ok(match root {
            Root::FourLevel(_) => Root::FourLevel(pages.next().unwrap_or(self.nothing.0)),
            Root::ThreeLevel(_) => {
                Root::ThreeLevel(std::array::from_fn(|_| pages.next().unwrap_or_default()))
            }
        })
    }

    /// A context that used the root is on no engine any more.
    pub(super) fn leave(&mut self, root: Root) {
        if let Some(begin) = self.roots.get_mut(&root) {
            begin.uses = begin.uses.saturating_sub(1);
            if begin.uses == 0 && begin.gone {
                self.forget(root);
            }
        }
    }

    /// The guest says that the root goes: its shadows do, unless a context is using them.
    pub(super) fn destroyed(&mut self, root: Root) {
        match self.roots.get_mut(&root) {
            Some(begin) if begin.uses > 0 => begin.gone = true,
            Some(_) => {
                self.forget(root);
                self.let_frames_go();
            }
            None => {}
        }
    }

    fn forget(&mut self, root: Root) {
        if let Some(begin) = self.roots.remove(&root) {
            begin.tables.into_iter().for_each(|id| self.unref(id));
        }
    }

    /// The bus frame to which a root of the guest's maps an address, as the shadows stand.
    pub(super) fn translate(&self, root: Root, addr: u64) -> Option<Bfn> {
        let (_, level) = root.start(addr)?;
        let tables = &self.roots.get(&root)?.tables;
        let first = if level == Level::Pd { usize::try_from(addr >> 30).ok()? } else { 0 };
        let (mut at, mut level) = (*tables.get(first)?, level);
        loop {
            match *self.tables.get(at)?.to.get(level.index(addr))? {
                To::Scratch => return None,
                To::Page(bfn) => return Some(bfn),
                To::Table(below) => (at, level) = (below, level.below()?),
            }
        }
    }

    /// Of the roots that map memory from `first` to `last`, the one with which a context began last. A driver lets a page of its
    /// own answer for all addresses at which it has mapped nothing: memory that is one page, over and over, is not meant.
    pub(super) fn latest(&self, first: u64, last: u64) -> Option<Root> {
        let maps = |root: Root| {
            let (begin, end) = (self.translate(root, first)?, self.translate(root, last)?);
            (begin != end || first >> PAGE_SHIFT == last >> PAGE_SHIFT).then_some(root)
        };
        let recent = self.roots.iter().filter(|(root, _)| maps(**root).is_some());
        recent.max_by_key(|(_, begin)| begin.last).map(|(root, _)| *root)
    }

    /// Points every entry that leads to a bus frame at scratch, and empties the shadow of a table that was there. How many entries.
    pub(super) fn revoke(&mut self, bfn: Bfn) -> usize {
        let places = self.held.entries(bfn);
        for (id, at) in places.iter().copied().map(at_place) {
            if at == ITSELF {
                self.blank(id);
            } else if let Some(table) = self.tables.get_mut(id) {
                let entry = Entry(table.seen.get(at).copied().unwrap_or(0));
                table.set(at, entry, To::Scratch);
                self.pages.write(table.page, &[(at, Entry::new(self.nothing, 0).unwrap_or_default())]);
                self.drop_reference(id, at);
            }
        }
        places.len()
    }

    /// Ends all of it: no context runs any more, nor ever will.
    pub(super) fn close(&mut self) {
        self.watch_none();
        self.put.extend(std::mem::replace(&mut self.held, ReverseMap::of_places()).into_references());
        self.tables.clear();
        self.by_key.clear();
        self.roots.clear();
        self.scratch = None;
        self.changed = true;
        self.pages.close();
    }

    fn refresh_root(&mut self, root: Root, reached: &dyn Fn(Bfn) -> bool) -> Result<(), TablesError> {
        self.make_scratch()?;
        (self.round, self.failed) = (self.round.wrapping_add(1), None);
        if !self.roots.contains_key(&root) {
            let (frames, level) = match root {
                Root::FourLevel(pml4) => (vec![pml4], Level::Pml4),
                Root::ThreeLevel(pds) => (pds.to_vec(), Level::Pd),
            };
            let mut begin = Begin { tables: Vec::new(), uses: 0, gone: false, last: 0 };
            for gfn in frames {
                match self.table(Key { kind: Kind::of(level), gfn: Gfn(gfn) }) {
                    Ok(id) => begin.tables.extend(self.refer(id)),
                    Err(e) => {
                        begin.tables.into_iter().for_each(|id| self.unref(id));
                        return Err(e);
                    }
                }
            }
            self.roots.insert(root, begin);
        }
        let tables = self.roots.get(&root).map(|b| b.tables.clone()).unwrap_or_default();
        tables.into_iter().for_each(|id| self.refresh(id, reached));
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Makes the tables to which absent entries lead.
    fn make_scratch(&mut self) -> Result<(), OwnError> {
        if self.scratch.is_some() {
            return Ok(());
        }
        let mut below = self.nothing;
        let mut made = [Bfn(0); 3];
        for page in &mut made {
            *page = self.pages.take()?;
            self.pages.fill(*page, Entry::new(below, 0).unwrap_or_default());
            below = *page;
        }
        let [below_pd, below_pdp, below_pml4] = made;
        self.scratch = Some(Scratch { below_pml4, below_pdp, below_pd });
        Ok(())
    }

    /// The entry of an absent thing in a table of this kind.
    fn absent(&self, kind: Kind) -> Entry {
        let to = match (kind, &self.scratch) {
            (Kind::Directory(Level::Pml4), Some(s)) => s.below_pml4,
            (Kind::Directory(Level::Pdp), Some(s)) => s.below_pdp,
            (Kind::Directory(_), Some(s)) => s.below_pd,
            _ => self.nothing,
        };
        Entry::new(to, 0).unwrap_or_default()
    }

    /// The shadow of a table, made if there is none. Nothing refers to a new one yet.
    fn table(&mut self, key: Key) -> Result<usize, TablesError> {
        if let Some(id) = self.by_key.get(&key) {
            return Ok(*id);
        }
        if self.tables.len() >= MOST_TABLES {
            return Err(TablesError::TooMany);
        }
        let page = self.pages.take()?;
        self.pages.fill(page, self.absent(key.kind));
        let id = self.tables.insert(Table::new(key, page));
        self.held.grow(place(id + 1, 0));
        self.by_key.insert(key, id);
        Ok(id)
    }

    /// Compares a table and all below it with what the shadows stand for.
    fn refresh(&mut self, id: usize, reached: &dyn Fn(Bfn) -> bool) {
        let Some(table) = self.tables.get_mut(id) else { return };
        if std::mem::replace(&mut table.round, self.round) == self.round {
            return;
        }
        let key = table.key;
        let guest = self.guest_page(id, key);
        let changed = if self.is_known(id) {
            Vec::new()
        } else {
            self.watch_if_quiet(id, guest, reached);
            let changed = self.changed(id, key, guest);
            let written = self.tables.get(id).is_some_and(|t| t.are_new(&changed));
            self.compared(id, written);
            changed
        };
        match key.kind {
            Kind::Directory(level) => self.directory(id, level, &changed, reached),
            Kind::Small | Kind::Medium | Kind::Large => self.leaves(id, &changed),
        }
    }

    /// Where the guest's page of a table is, if it is there and the table has one.
    fn guest_page(&mut self, id: usize, key: Key) -> Option<Bfn> {
        if key.kind == Kind::Large {
            return None;
        }
        let table = self.tables.get_mut(id)?;
        if table.guest.is_none() {
            match self.frames.map_one(key.gfn) {
                Ok(mapped) => {
                    self.stats.mappings.add(1);
                    table.guest = Some(mapped.bfn());
                    self.held.link([place(id, ITSELF)], mapped.bfn(), mapped, &mut self.put);
                }
                Err(e) => {
                    self.stats.map_failures.add(1);
                    log::debug!("a page table is not there: {e}");
                }
            }
        }
        table.guest
    }

    /// The entries for which the shadow does not stand, and what they are now: all 0, if the guest's page is not there.
    fn changed(&self, id: usize, key: Key, guest: Option<Bfn>) -> Vec<(usize, Entry)> {
        let Some(table) = self.tables.get(id) else { return Vec::new() };
        if let (Kind::Directory(_) | Kind::Small, Some(bfn)) = (key.kind, guest)
            && let Some(changed) = self.pages.changed(bfn, &table.seen)
        {
            return table.with_again(changed);
        }
        let raw = guest.and_then(|bfn| self.pages.entries(bfn)).unwrap_or_default();
        let mut entries = key.entries(&raw);
        entries.resize(ENTRIES, 0);
        table.changed(&entries)
    }

    /// Shadows entries that lead to pages: the new mapping, the way back, the entry; then the old mapping may go.
    fn leaves(&mut self, id: usize, changed: &[(usize, Entry)]) {
        if changed.is_empty() {
            return;
        }
        let gfns: Vec<_> = changed.iter().filter(|(_, e)| e.present()).map(|(_, e)| Gfn(e.frame())).collect();
        let mut mapped = self.frames.map(&gfns).into_iter();
        let absent = self.absent(Kind::Small);
        let Self { tables, held, put, watch, .. } = self;
        let Some(table) = tables.get_mut(id) else { return };
        let page = table.page;
        let mut writes = Vec::with_capacity(changed.len());
        let (mut filled, mut made, mut failed) = (false, 0, 0);
        let mut reached = Vec::new();
        for &(at, entry) in changed {
            let new = if entry.present() { mapped.next().and_then(Result::ok) } else { None };
            let target = new.and_then(|m| Some((Entry::new(m.bfn(), entry.0 & RW)?, m)));
            made += u64::from(target.is_some());
            failed += u64::from(entry.present() && target.is_none());
            let (shadow, to) = match &target {
                Some((shadow, m)) => (*shadow, To::Page(m.bfn())),
                None => (absent, To::Scratch),
            };
            let before = table.set(at, entry, to);
            // Absent entries are in no cache of hardware's, but what they lead to here may be.
            filled |= before == To::Scratch && to != To::Scratch;
            match target {
                // The same frame is taken before it is let go.
                Some((_, m)) => {
                    let bfn = m.bfn();
                    held.link([place(id, at)], bfn, m, put);
                    reached.extend(watch.is_page(bfn).then_some(bfn));
                }
                None => put.extend(held.unlink(place(id, at))),
            }
            writes.push((at, shadow));
        }
        self.stats.mappings.add(made);
        self.stats.map_failures.add(failed);
        reached.into_iter().for_each(|bfn| self.reached(bfn));
        if filled {
            self.write(id, &writes);
        } else {
            self.pages.write(page, &writes);
            self.moved = true;
        }
    }

    /// Shadows entries that lead to tables: the tables below first, then the entries, then what nothing leads to goes.
    fn directory(
        &mut self,
        id: usize,
        level: Level,
        changed: &[(usize, Entry)],
        reached: &dyn Fn(Bfn) -> bool,
    ) {
        let mut old = Vec::new();
        for &(at, entry) in changed {
            let to = match Key::below(level, entry).map(|key| self.table(key)) {
                Some(Ok(below)) => self.refer(below).map_or(To::Scratch, To::Table),
                Some(Err(e)) => {
                    self.failed = Some(e);
                    To::Scratch
                }
                None => To::Scratch,
            };
            if let Some(table) = self.tables.get_mut(id)
                && let To::Table(below) = table.set(at, entry, to)
            {
                old.push(below);
            }
        }
        let below = self.tables.get(id).map(Table::tables_below).unwrap_or_default();
        below.into_iter().for_each(|id| self.refresh(id, reached));
        let shadow = |&(at, entry): &(usize, Entry)| {
            let table = self.tables.get(id)?;
            let shadow = match *table.to.get(at)? {
                To::Table(below) => Entry::new(self.tables.get(below)?.page, entry.0 & RW),
                To::Page(_) | To::Scratch => None,
            };
            Some((at, shadow.unwrap_or(self.absent(table.key.kind))))
        };
        let writes: Vec<_> = changed.iter().filter_map(shadow).collect();
        self.write(id, &writes);
        old.into_iter().for_each(|below| self.unref(below));
    }

    fn write(&mut self, id: usize, entries: &[(usize, Entry)]) {
        if let Some(table) = self.tables.get(id).filter(|_| !entries.is_empty()) {
            self.pages.write(table.page, entries);
            self.changed = true;
        }
    }

    fn refer(&mut self, id: usize) -> Option<usize> {
        let table = self.tables.get_mut(id)?;
        table.refs = table.refs.saturating_add(1);
        Some(id)
    }

    /// One entry or root leads there no more. With the last, the shadow goes, and what it leads to.
    fn unref(&mut self, id: usize) {
        let Some(table) = self.tables.get_mut(id) else { return };
        table.refs = table.refs.saturating_sub(1);
        if table.refs > 0 {
            return;
        }
        self.watch_no_more(id);
        let table = self.tables.remove(id);
        self.by_key.remove(&table.key);
        self.pages.give_back(table.page);
        self.let_go(id, &table);
    }

    /// A table whose page is gone maps nothing.
    fn blank(&mut self, id: usize) {
        self.watch_no_more(id);
        let Some(table) = self.tables.get_mut(id) else { return };
        let Table { refs, round, patience, .. } = *table;
        let fresh = Table { refs, round, patience, ..Table::new(table.key, table.page) };
        let old = std::mem::replace(table, fresh);
        self.pages.fill(old.page, self.absent(old.key.kind));
        self.let_go(id, &old);
    }

    fn let_go(&mut self, id: usize, old: &Table) {
        self.changed = true;
        if old.guest.is_some() {
            self.drop_reference(id, ITSELF);
        }
        for (at, to) in old.to.iter().enumerate() {
            match *to {
                To::Scratch => {}
                To::Page(_) => self.drop_reference(id, at),
                To::Table(below) => self.unref(below),
            }
        }
    }

    fn drop_reference(&mut self, id: usize, at: usize) {
        self.changed = true;
        self.put.extend(self.held.unlink(place(id, at)));
    }
}
