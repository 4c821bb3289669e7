//! The global graphics translation table: one atomic word an entry.

use std::sync::atomic::{AtomicU64, Ordering};

use xen_ioreq::Bfn;

use crate::gen8::gtt::Pte;

/// The table.
pub(super) struct Ggtt {
    entries: Box<[AtomicU64]>,
}

impl Ggtt {
    pub(super) fn new(entries: u32) -> Self {
        Self { entries: (0..entries).map(|_| AtomicU64::new(Pte::ABSENT.0)).collect() }
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).unwrap_or(u32::MAX)
    }

    /// `None`: there is no such entry.
    pub(super) fn read(&self, index: u64) -> Option<Pte> {
        let entry = self.entries.get(usize::try_from(index).ok()?)?;
        Some(Pte(entry.load(Ordering::Acquire)))
    }

    /// A frame that an entry cannot hold is written as not present: the engine will fault rather than reach another.
    pub(super) fn write(&self, index: u32, bfn: Option<Bfn>) {
        let pte = match bfn.map(Pte::new) {
            None => Pte::ABSENT,
            Some(Some(pte)) => pte,
            Some(None) => {
                log::error!("GGTT entry {index:#x}: bus frame {bfn:?} is beyond 46 bits, made not present");
                Pte::ABSENT
            }
        };
        match usize::try_from(index).ok().and_then(|i| self.entries.get(i)) {
            Some(entry) => entry.store(pte.0, Ordering::Release),
            None => log::error!("GGTT entry {index:#x} is beyond the table's {:#x}", self.entries.len()),
        }
    }
}
