//! What this process sees of a bus on which a physical device is, by bus frame: guests' frames by foreign mappings, made when they are
//! first looked at, and pages of its own.
//!
//! Promises: a page is looked at only while it is mapped here, and the mapping holds its frame; what is asked about after a notice,
//! or released, is not seen any more before the hypervisor is told. Whether the guest has another frame there than the device
//! reaches is not known before that, as nobody tells: either is the guest's own.

use std::collections::VecDeque;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use xen_ioreq::Bfn;
use xen_ioreq::seam::{ForeignMap, MappedPage, Prot};

use crate::client::ClientInner;
use crate::mode::Mode;
use crate::soft::{MAX_WINDOW, NotMapped, Pinned, SoftIommu, SoftPin};
use crate::sync::Mutex;

/// Foreign pages that stay mapped: a Linux process has some 65,000 mappings at most, and the least recently mapped goes first.
const MOST_KEPT: usize = 4096;

/// The pages that a device reaches, as this process reaches them. On a hypervisor that tells bus frames: those of its first 256 GiB of
/// memory.
pub struct View {
    foreign: Arc<dyn ForeignMap>,
    pages: SoftIommu,
    /// Held by who maps a page, and by who takes some away: what is being taken away is not mapped anew. Taken with a guest's
    /// `slow` held, and before the list of guests.
    turn: Mutex<Turn>,
}

struct Turn {
    client: Weak<ClientInner>,
    /// Foreign pages in the order in which they were mapped, some of which may have gone since.
    kept: VecDeque<Bfn>,
}

impl View {
    pub(crate) fn new(foreign: Arc<dyn ForeignMap>, mode: &Mode) -> Self {
        let (base, frames) = match mode {
            Mode::Map { window, .. } | Mode::Soft { window } => (window.start, window.end.0 - window.start.0),
            Mode::Lookup { offset, .. } => (Bfn(*offset), MAX_WINDOW),
        };
        let turn = Mutex::new(Turn { client: Weak::new(), kept: VecDeque::new() });
        Self { foreign, pages: SoftIommu::new(base, frames), turn }
    }

    /// The client whose mappings are looked at.
    pub(crate) fn serve(&self, client: &Arc<ClientInner>) {
        self.turn.lock().client = Arc::downgrade(client);
    }

    /// The page at `bfn`, kept until it is unpinned.
    ///
    /// # Errors
    /// Nothing of this client's is there, or the guest has given it away.
    pub fn pin(&self, bfn: Bfn) -> Result<SoftPin, NotMapped> {
        self.pages.pin(bfn).or_else(|_| {
            let mut turn = self.turn.lock();
            // Whoever had the turn before may have mapped it.
            self.pages.pin(bfn).or_else(|fault| {
                self.look(&mut turn, bfn).ok_or(fault)?;
                self.pages.pin(bfn)
            })
        })
    }

    /// Ends the use of a page. Each pin is given back once.
    pub fn unpin(&self, token: u64) {
        self.pages.unpin(token);
    }

    /// Maps what is at `bfn`.
    fn look(&self, turn: &mut Turn, bfn: Bfn) -> Option<()> {
        let (domid, gfn) = turn.client.upgrade()?.frame_at(bfn)?;
        self.make_room(turn);
        let pages = self.foreign.map_foreign(domid, &[gfn], Prot::ReadWrite);
        let page = pages.inspect_err(|e| log::warn!("{domid}: mapping guest frame {gfn}: {e}")).ok()?;
        let page = page.into_pages().pop()?.ok()?;
        let there = self.pages.insert(bfn, page.ptr(), Some(page));
        if there {
            turn.kept.push_back(bfn);
        }
        there.then_some(())
    }

    fn make_room(&self, turn: &mut Turn) {
        // Once round at most: all of them may be pinned.
        for _ in MOST_KEPT..=turn.kept.len() {
            let Some(oldest) = turn.kept.pop_front() else { return };
            if self.pages.evict(oldest).is_err() {
                turn.kept.push_back(oldest);
            }
        }
    }

    /// Lets go of foreign pages; an answer each, and those that are pinned stay.
    pub(crate) fn forget(&self, bfns: impl Iterator<Item = Bfn>) -> Vec<Result<(), Pinned>> {
        let mut pages = Vec::new();
        let _turn = self.turn.lock();
        let answers = bfns.map(|bfn| self.pages.evict(bfn).map(|page| pages.extend(page))).collect();
        MappedPage::drop_all(pages);
        answers
    }

    /// Shows a page of this process's own at `bfn`; `false` if that is out of sight, or taken.
    pub(crate) fn show(&self, bfn: Bfn, page: NonNull<u8>) -> bool {
        self.pages.insert(bfn, page, None)
    }

    /// Ends that, or says which one is pinned.
    pub(crate) fn hide(&self, bfns: impl Iterator<Item = Bfn>) -> Result<(), Bfn> {
        let mut pinned = Ok(());
        for bfn in bfns {
            if self.pages.remove(bfn).is_err() {
                pinned = Err(bfn);
            }
        }
        pinned
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("pages", &self.pages).finish_non_exhaustive()
    }
}
