//! Pages of the mediator's own that hold shadow tables.
//!
//! A page that held a table is not used for another before a flush: until then an engine may know it as what it was.

use pviommu::{OwnError, OwnPages};
use xen_ioreq::Bfn;

use crate::gen8::ppgtt::{ENTRIES, ENTRY_SIZE, Entry};
use crate::mediator::memory::LINE;
use crate::mediator::reserve::Own;

/// Pages that are taken at once.
const CHUNK: usize = 16;

/// The pages, free or in use.
pub(super) struct Pages {
    own: Own,
    chunks: Vec<OwnPages>,
    free: Vec<Bfn>,
    /// Free after the next flush.
    used: Vec<Bfn>,
}

impl Pages {
    pub(super) fn new(own: Own) -> Self {
        Self { own, chunks: Vec::new(), free: Vec::new(), used: Vec::new() }
    }

    /// A page that no engine knows.
    pub(super) fn take(&mut self) -> Result<Bfn, OwnError> {
        if self.free.is_empty() && self.used.len() >= CHUNK {
            self.own.gpu.ggtt_flush();
            self.free.append(&mut self.used);
        }
        if self.free.is_empty() {
            let chunk = self.own.take(CHUNK)?;
            self.free.extend((0..CHUNK).filter_map(|i| chunk.bfn(i)));
            self.chunks.push(chunk);
        }
        self.free.pop().ok_or(OwnError::NoMemory { pages: 1, errno: xen_ioreq::Errno::ENOMEM })
    }

    /// Gives a page back to which no entry leads any more.
    pub(super) fn give_back(&mut self, page: Bfn) {
        self.used.push(page);
    }

    /// Writes entries to a table: place and value.
    pub(super) fn write(&self, page: Bfn, entries: &[(usize, Entry)]) {
        // Neighbours in one go.
        for run in entries.chunk_by(|a, b| a.0 + 1 == b.0) {
            let Some((first, _)) = run.first() else { continue };
            let mut bytes = Vec::with_capacity(run.len() * ENTRY_SIZE);
            run.iter().for_each(|(_, e)| bytes.extend_from_slice(&e.0.to_le_bytes()));
            if let Err(e) = self.own.memory.write(page, first * ENTRY_SIZE, &bytes) {
                log::error!("a shadow table is out of reach: {e}");
            }
        }
    }

    /// Makes all entries of a table the same.
    pub(super) fn fill(&self, page: Bfn, entry: Entry) {
        let all: Vec<_> = (0..ENTRIES).map(|i| (i, entry)).collect();
        self.write(page, &all);
    }

    /// Which entries in a page of the guest's are not as they were: place and what is there now.
    pub(super) fn changed(&self, page: Bfn, known: &[u64]) -> Option<Vec<(usize, Entry)>> {
        let (lines, rest) = known.as_chunks::<LINE>();
        debug_assert!(rest.is_empty(), "a table is whole lines");
        match self.own.memory.changed(page, lines) {
            Ok(changed) => Some(changed.into_iter().map(|(at, entry)| (at, Entry(entry))).collect()),
            Err(e) => {
                log::warn!("a page of a guest's table is out of reach: {e}");
                None
            }
        }
    }

    /// As [`Own::entries`].
    pub(super) fn entries(&self, page: Bfn) -> Option<Vec<u64>> {
        self.own.entries(page)
    }

    /// Gives everything back. No context runs with any of it, nor ever will.
    pub(super) fn close(&mut self) {
        self.free.clear();
        self.used.clear();
        self.chunks.drain(..).for_each(|chunk| self.own.give_back(chunk));
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.close();
    }
}
