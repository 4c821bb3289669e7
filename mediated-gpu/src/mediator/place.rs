//! Where a guest's own memory is that its vGPU has behind the BAR: the table, and pages of registers that are read without a trap.
//!
//! It was given for the table, and follows the BAR. The table's last pages hold entries that are no guest's: registers are shown
//! in them while the BAR is decoded, and at all other times they are back in the table. What is not in its place traps, so that
//! whatever the guest does to such a frame its registers are right.

use std::sync::Arc;

use ioreq_server::dm::{Dm, DmError, MemType};
use ioreq_server::pci::ConfigSpace;
use parking_lot::Mutex;
use xen_ioreq::{Gfn, PAGE_SHIFT};

use super::{Claim, Legacy, Told, Vgpu};
use crate::gen8::gtt::{GGTT_ENTRIES, GTT_OFFSET, PTE_SIZE};
use crate::vgpu::config::BAR_MMIO;
use crate::vgpu::shown::PAGES;

/// Frames of a table that is memory of the guest's: 8 MiB.
pub const TABLE_FRAMES: u32 = (GGTT_ENTRIES * PTE_SIZE) >> PAGE_SHIFT;
/// Those of them that hold nothing but entries, the others being for registers.
pub(super) const OWN_FRAMES: u32 = TABLE_FRAMES - REGISTER_FRAMES;
const REGISTER_FRAMES: u32 = 2;
const _: () = assert!(REGISTER_FRAMES as usize == PAGES.len());

/// Whether a vGPU that begins may find its guest at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// It may be: nothing is put where it may be reading and writing.
    Running,
    /// It has not run since it was saved, with its table here.
    Stopped(Option<Gfn>),
}

/// Where they are.
pub(crate) struct Place {
    frames: Mutex<Frames>,
    told: Option<Told>,
    /// Has writes to pages of registers come here. `None`: their reads trap, too.
    claim: Option<Claim>,
}

struct Frames {
    /// The table, if there is one.
    at: Option<Gfn>,
    /// The vGPU has been told where it is.
    lent: bool,
    /// The BAR, if the guest has it decoded, when this was looked at last.
    bar: Option<Gfn>,
    /// Where pages of registers are that are not in the table.
    out: [Option<Gfn>; PAGES.len()],
    /// What a successor would go by.
    said: Legacy,
}

impl Place {
    pub(crate) fn new(table: Option<Gfn>, told: Option<Told>, claim: Option<Claim>) -> Arc<Self> {
        let frames =
            Frames { at: table, lent: false, bar: None, out: Default::default(), said: Legacy::default() };
        Arc::new(Self { frames: Mutex::new(frames), told, claim })
    }

    /// A vGPU is there, with this configuration space; its table may be where another has left it.
    pub(super) fn begin(&self, vgpu: &Vgpu, dm: &Dm, config: &ConfigSpace, begins: Begins) {
        let mut frames = self.frames.lock();
        let frames = &mut *frames;
        frames.lent = false;
        match begins {
            Begins::Running => frames.bar = bar(config),
            Begins::Stopped(table) => {
                frames.bar = None;
                frames.at = table.or(frames.at);
            }
        }
        frames.find_out(vgpu);
        frames.recall(vgpu, dm);
        self.follow_locked(frames, vgpu, dm, config);
    }

    /// Has the memory where the BAR is now.
    pub(super) fn follow(&self, vgpu: &Vgpu, dm: &Dm, config: &ConfigSpace) {
        self.follow_locked(&mut self.frames.lock(), vgpu, dm, config);
    }

    fn follow_locked(&self, frames: &mut Frames, vgpu: &Vgpu, dm: &Dm, config: &ConfigSpace) {
        let bar = bar(config);
        let moves = frames.bar != bar;
        frames.bar = bar;
        if moves {
            frames.recall(vgpu, dm);
        }
        // While decoding is off, as it is whenever a guest sizes BARs, the table stays where it was.
        if let (Some(at), Some(bar)) = (frames.at, bar) {
            let to = Gfn(bar.0 + (u64::from(GTT_OFFSET) >> PAGE_SHIFT));
            let mut there = at == to;
            if !there {
                self.tell(frames, [at, to], config);
                // It goes on being written by traps.
                let moved = frames.relocate(dm, at, to);
                let why = moved.inspect_err(|e| log::warn!("{}: the table stays at {at}: {e}", vgpu.id()));
                there = why.is_ok();
            }
            if there && (at != to || !frames.lent) {
                vgpu.lend_table(to);
                frames.lent = true;
                frames.at = Some(to);
            }
            if there && moves {
                self.show(frames, vgpu, dm, bar);
            }
        }
        let places = frames.at;
        self.tell(frames, places, config);
    }

    /// Puts pages of registers where the guest, which is enabling them, will read them.
    fn show(&self, frames: &mut Frames, vgpu: &Vgpu, dm: &Dm, bar: Gfn) {
        let Some(claim) = self.claim.as_ref().filter(|_| vgpu.leaves_room_behind(OWN_FRAMES)) else { return };
        if let Err(e) = claim() {
            log::warn!("{}: each read of its registers traps: {e}", vgpu.id());
            return;
        }
        for (page, first) in PAGES.into_iter().enumerate() {
            let Some(home) = frames.home(page) else { continue };
            let to = Gfn(bar.0 + u64::from(first >> PAGE_SHIFT));
            if let Err(e) = dm.relocate_memory(home, to, 1) {
                // The guest has given it away.
                log::debug!("{}: reads of registers at {first:#x} trap: {e}", vgpu.id());
                continue;
            }
            frames.set_out(page, Some(to));
            let shown = vgpu.show_registers(page, to) && dm.set_mem_type(to, 1, MemType::IoreqServer).is_ok();
            if !shown {
                log::warn!("{}: reads of registers at {first:#x} trap", vgpu.id());
                frames.recall_one(page, vgpu, dm);
            }
        }
    }

    /// Pages of registers go back to the table: the vGPU goes.
    pub(crate) fn end(&self, vgpu: &Vgpu, dm: &Dm) {
        let mut frames = self.frames.lock();
        frames.recall(vgpu, dm);
        frames.bar = None;
    }

    /// Tells what a successor needs, if it is news.
    fn tell(&self, frames: &mut Frames, places: impl IntoIterator<Item = Gfn>, config: &ConfigSpace) {
        let Some(told) = &self.told else { return };
        let now = Legacy { table: places.into_iter().collect(), config: Some(*config.bytes()) };
        if frames.said != now {
            told(&now);
            frames.said = now;
        }
    }
}

impl Frames {
    /// Where a page of registers is in the table.
    fn home(&self, page: usize) -> Option<Gfn> {
        home(self.at?, page)
    }

    fn set_out(&mut self, page: usize, at: Option<Gfn>) {
        if let Some(out) = self.out.get_mut(page) {
            *out = at;
        }
    }

    /// A predecessor has left pages where the BAR was, if they are not in the table.
    fn find_out(&mut self, vgpu: &Vgpu) {
        let Some(table) = self.at else { return };
        let bar = table.0.checked_sub(u64::from(GTT_OFFSET) >> PAGE_SHIFT);
        for (page, first) in PAGES.into_iter().enumerate() {
            if self.out.get(page) == Some(&None)
                && let Some(bar) = bar
                && home(table, page).is_some_and(|home| !vgpu.has_frame(home))
            {
                self.set_out(page, Some(Gfn(bar + u64::from(first >> PAGE_SHIFT))));
            }
        }
    }

    /// Puts pages of registers back into the table: they trap from here on.
    fn recall(&mut self, vgpu: &Vgpu, dm: &Dm) {
        (0..PAGES.len()).for_each(|page| self.recall_one(page, vgpu, dm));
    }

    fn recall_one(&mut self, page: usize, vgpu: &Vgpu, dm: &Dm) {
        let out = self.out.get_mut(page).and_then(Option::take);
        let (Some(out), Some(home)) = (out, self.home(page)) else { return };
        vgpu.hide_registers(page);
        if let Err(e) = dm.relocate_memory(out, home, 1) {
            log::debug!(
                "{}: the guest has given away what its registers were shown in at {out}: {e}",
                vgpu.id()
            );
        }
    }

    /// Moves the table. Of the pages that are for registers some may be missing.
    fn relocate(&self, dm: &Dm, at: Gfn, to: Gfn) -> Result<(), DmError> {
        dm.relocate_memory(at, to, OWN_FRAMES)?;
        for page in 0..PAGES.len() {
            if let (Some(at), Some(to)) = (home(at, page), home(to, page))
                && let Err(e) = dm.relocate_memory(at, to, 1)
            {
                log::debug!("a page for registers is not at {at}: {e}");
            }
        }
        Ok(())
    }
}

/// The BAR's first frame, if the guest has it decoded.
fn bar(config: &ConfigSpace) -> Option<Gfn> {
    config.placements().find(|p| p.index == BAR_MMIO).map(|p| Gfn(p.start >> PAGE_SHIFT))
}

/// Where a page of registers is in a table.
fn home(table: Gfn, page: usize) -> Option<Gfn> {
    table.checked_add(u64::from(OWN_FRAMES) + page as u64)
}
