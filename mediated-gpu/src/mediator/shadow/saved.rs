//! What the guest wrote to its table, taken down, and entered again with whatever frames are behind the numbers then.

use xen_ioreq::Gfn;

use super::ShadowGgtt;
use super::entries::Entry;
use crate::gen8::gtt::Pte;
use crate::mediator::saved::SavedEntries;

/// Entries that are mapped at once.
const CHUNK: usize = 512;

impl ShadowGgtt {
    /// The entries that are not 0, and where the table is if it is memory of the guest's.
    pub(crate) fn save(&self) -> (Vec<SavedEntries>, Option<Gfn>) {
        let writers = self.writers.lock();
        let table = self.table.read();
        let mut runs: Vec<SavedEntries> = Vec::new();
        let mut next = None;
        for (at, index) in (0..self.parts.slice.entries()).zip(0u32..) {
            let guest = table.guest(at);
            if guest == 0 {
                continue;
            }
            match runs.last_mut().filter(|_| next == Some(at)) {
                Some(run) => run.entries.push(guest),
                None => runs.push(SavedEntries { first: index, entries: vec![guest] }),
            }
            next = Some(at + 1);
        }
        (runs, writers.lent.as_ref().map(super::Lent::first))
    }

    /// Enters what was saved. Entries beyond the slice are not entered.
    pub(crate) fn load(&self, runs: &[SavedEntries]) {
        for run in runs {
            for (chunk, entries) in (0..).zip(run.entries.chunks(CHUNK)) {
                self.load_chunk(run.first as usize + chunk * CHUNK, entries);
            }
        }
        self.flush_if_dirty();
    }

    fn load_chunk(&self, first: usize, entries: &[u64]) {
        let entry = |(at, guest): (usize, &u64)| {
            let index = self.parts.slice.index(at)?;
            Some(Entry { index, at, guest: Pte(*guest) })
        };
        let entries = (first..).zip(entries).filter_map(entry).collect();
        let mut writers = self.lock_after_notices();
        self.enter_all(&mut writers, entries);
    }
}
