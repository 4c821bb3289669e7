//! Registers that a guest may read in memory, page by page, and which of them have changed since that memory was written.
//!
//! A page is here if all it holds is right as memory: it counts nothing, and no read of it does anything. That leaves out the
//! engines' pages, in each of which is a clock, [`gt::GDRST`](crate::gen8::regs::gt::GDRST)'s, whose read waits, and all that a
//! driver does not read while it works.

use smallvec::SmallVec;

use super::State;
use super::interrupts;
use super::registers::{Kind, RegisterFile};
use crate::gen8::regs::irq;

/// Their first bytes: TLBs' invalidations and faults; interrupts.
pub(crate) const PAGES: [u32; 2] = [0x4000, 0x4_4000];
/// Bytes of a page.
pub(crate) const PAGE: u32 = 0x1000;

/// Changes that are noted one by one.
const FEW: usize = 16;

/// What has changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// There is somebody who wants to know.
    pub(super) noted: bool,
    /// More than are noted one by one.
    many: bool,
    few: SmallVec<[u32; FEW]>,
}

impl Changes {
    /// A dword of the register file has.
    pub(super) fn note(&mut self, offset: u32) {
        if !self.noted || self.many || !PAGES.contains(&(offset & !(PAGE - 1))) {
            return;
        }
        if self.few.len() < FEW {
            self.few.push(offset & !3);
        } else {
            self.many = true;
        }
    }
}

impl State {
    /// From now on changes are noted, or are not; at first, all is one.
    pub(crate) fn note_changes(&mut self, noted: bool) {
        self.file.changes = Changes { noted, many: noted, few: SmallVec::new() };
    }

    /// Whether there are changes.
    pub(crate) fn has_changed(&self) -> bool {
        self.file.changes.many || !self.file.changes.few.is_empty()
    }

    /// Calls `f(offset, value)` for every dword of the pages that may read otherwise than when this was called last.
    pub(crate) fn take_changes(&mut self, mut f: impl FnMut(u32, u32)) {
        let Changes { noted, many, few } = std::mem::take(&mut self.file.changes);
        self.file.changes.noted = noted;
        if many {
            let all = PAGES.into_iter().flat_map(|page| (page..page + PAGE).step_by(4));
            all.for_each(|offset| f(offset, self.shown(offset)));
            return;
        }
        if few.iter().any(|offset| interrupts::concerns(*offset)) {
            f(irq::GEN8_MASTER_IRQ, self.shown(irq::GEN8_MASTER_IRQ));
        }
        few.into_iter().for_each(|offset| f(offset, self.shown(offset)));
    }

    /// What a dword of the pages reads as.
    pub(super) fn shown(&self, offset: u32) -> u32 {
        match offset {
            irq::GEN8_MASTER_IRQ => interrupts::master(&self.file),
            _ if matches!(RegisterFile::kind(offset), Kind::Unknown) => u32::MAX,
            _ => self.file.get(offset),
        }
    }
}
