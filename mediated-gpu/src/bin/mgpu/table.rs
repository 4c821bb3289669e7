//! The frames of a guest's that become its translation table, or its console's framebuffer: given to it before it runs, far
//! from what it uses, and besides what its toolstack lets it have.

use ioreq_server::devices::{BochsDisplay, populate};
use mediated_gpu::mediator::TABLE_FRAMES;
use xen_ioreq::linux::Privcmd;
use xen_ioreq::{DomId, Gfn};

use crate::Error;

/// Where they wait until the guest has placed its BAR: beyond the memory that a guest of up to 60 GiB has, below a hole of PCI's.
pub(crate) const PARKED: Gfn = Gfn(0xf0_0000);
/// Where its console's framebuffer waits for a BAR, behind that.
const CONSOLE_PARKED: Gfn = Gfn(0xf1_0000);

/// How many frames a guest may have: its table's and its console's are not among those that a toolstack counts, so each time
/// that one says how many there may be, as `xl mem-set` does, they are added. Without them the guest's last balloon-in would
/// fail for ever.
#[derive(Debug)]
pub(crate) struct Limit {
    domid: DomId,
    /// Frames besides.
    besides: u64,
    /// As it was set here.
    ours: u64,
}

impl Limit {
    /// There is nothing besides.
    pub(crate) fn none(domid: DomId, ours: u64) -> Self {
        Self { domid, besides: 0, ours }
    }

    /// There is room for the table already.
    pub(crate) fn found(domid: DomId, ours: u64) -> Self {
        Self { domid, besides: TABLE_FRAMES.into(), ours }
    }

    /// Makes room for so many frames more.
    fn widen(&mut self, raw: &Privcmd, frames: u32) -> Result<(), Error> {
        let ours = self.ours.saturating_add(frames.into());
        raw.set_max_frames(self.domid, ours)?;
        self.ours = ours;
        self.besides += u64::from(frames);
        Ok(())
    }

    /// The guest may have `now` frames. If that is another's word, it gets those besides again.
    pub(crate) fn keep(&mut self, raw: &Privcmd, now: u64) {
        if now == self.ours || self.besides == 0 {
            return;
        }
        let most = now.saturating_add(self.besides);
        match raw.set_max_frames(self.domid, most) {
            Ok(()) => self.ours = most,
            Err(e) => {
                log::warn!("{}: there is no room for its table beside {now} frames: {e}", self.domid);
                self.ours = now;
            }
        }
    }
}

/// Gives a guest, which may have `most` frames, those of its table besides: the first of them, and what keeps room for them.
pub(crate) fn give(raw: &Privcmd, domid: DomId, most: u64) -> Result<(Gfn, Limit), Error> {
    let mut limit = Limit::none(domid, most);
    limit.widen(raw, TABLE_FRAMES)?;
    populate(raw, domid, PARKED, TABLE_FRAMES)?;
    Ok((PARKED, limit))
}

/// The same for its console's framebuffer.
pub(crate) fn give_console(raw: &Privcmd, domid: DomId, limit: &mut Limit) -> Result<Gfn, Error> {
    limit.widen(raw, BochsDisplay::FRAMES)?;
    populate(raw, domid, CONSOLE_PARKED, BochsDisplay::FRAMES).map_err(|e| format!("--console: {e}"))?;
    Ok(CONSOLE_PARKED)
}
