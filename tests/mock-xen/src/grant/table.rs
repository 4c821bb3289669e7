//! A domain's grant table: its frames, and what the hypervisor remembers of each reference that is in use.
//!
//! The table is locked for reading by whoever uses a grant, for writing by what changes its shape or ends it; then each
//! reference has a lock of its own. Frames come with the first operation that asks for them.

use xen_ioreq::abi::grant_table::{GTF_reading, GTF_writing};
use xen_ioreq::{DomId, Mfn, PAGE_SIZE};

use super::entry::Entry;
use super::pins::{Pins, Side};
use crate::memory::HostMemory;
use crate::sync::{Mutex, OnceLock};

/// References of a block of [`Active`]s.
const BLOCK: usize = 256;
/// Bytes of an entry of version 1, of version 2, and of a status word.
const V1_ENTRY: usize = 8;
const V2_ENTRY: usize = 16;
const STATUS: usize = 2;

/// The part of a frame that is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) first: u16,
    pub(crate) length: u16,
    /// Said by the entry; then it cannot be mapped.
    pub(crate) sub_page: bool,
}

impl Part {
    pub(crate) const WHOLE: Self = Self { first: 0, length: 4096, sub_page: false };
}

/// A mapping of a revokable grant: who has it, by which handle.
pub(crate) type Mapped = (DomId, u32);

/// What is remembered of a reference while it is in use: decided at the first use, whatever the granter writes then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Active {
    pub(crate) pins: Pins,
    pub(crate) domid: DomId,
    pub(crate) frame: Mfn,
    pub(crate) part: Part,
    /// Of a grant that is handed on: whose, and its reference there.
    pub(crate) via: Option<(DomId, u32)>,
    pub(crate) revokable: bool,
    /// Its mappings, if it is revokable: how a revocation finds them, however many others there are.
    pub(crate) maps: [Option<Mapped>; 2],
    /// How many of the pins are copies under way.
    pub(crate) copies: u32,
    /// It is being revoked: nobody gets in any more.
    pub(crate) revoking: bool,
}

impl Default for Active {
    fn default() -> Self {
        Self {
            pins: Pins::default(),
            domid: DomId(0),
            frame: Mfn(0),
            part: Part::WHOLE,
            via: None,
            revokable: false,
            maps: [None; 2],
            copies: 0,
            revoking: false,
        }
    }
}

impl Active {
    /// Whether one more use by this domain is refused, whatever the entry says; `full`: there are too many of the kind.
    pub(crate) fn refuses(&self, by: DomId, full: bool) -> bool {
        self.revoking || (self.pins.any() && (self.domid != by || full))
    }

    /// A copy begins.
    pub(crate) fn begin_copy(&mut self, readonly: bool) {
        self.pins.add(Side::Host, readonly);
        self.copies += 1;
    }

    /// A copy ends.
    pub(crate) fn end_copy(&mut self, entry: Option<Entry<'_>>, readonly: bool) {
        self.copies = self.copies.saturating_sub(1);
        self.unpin(entry, Side::Host, readonly);
    }

    /// One use less. What nobody does any more is no longer marked in the entry.
    pub(crate) fn unpin(&mut self, entry: Option<Entry<'_>>, side: Side, readonly: bool) {
        let writing = self.pins.writing();
        self.pins.sub(side, readonly);
        let mut marks = 0;
        if writing && !self.pins.writing() {
            marks |= GTF_writing;
        }
        if !self.pins.any() {
            marks |= GTF_reading;
            *self = Self { revoking: self.revoking, ..Self::default() };
        }
        if let Some(entry) = entry.filter(|_| marks != 0) {
            entry.clear(marks);
        }
    }
}

/// Whether the revocation of a reference is over, which it is when no copy is under way; then it is forgotten, and the entry is no
/// longer marked. Each copy is a page at most, and no new one begins. Another revocation of it may have come to its end first.
pub(crate) fn drained(active: &Mutex<Active>, entry: Option<Entry<'_>>) -> bool {
    let mut act = active.lock();
    if act.revoking && act.copies == 0 {
        *act = Active::default();
        if let Some(entry) = entry {
            entry.clear(GTF_reading | GTF_writing);
        }
    }
    !act.revoking
}

/// The table.
pub(crate) struct Table {
    /// 1 or 2.
    pub(crate) version: u32,
    pub(crate) frames: Vec<Mfn>,
    /// Frames of the status words, of version 2.
    pub(crate) status: Vec<Mfn>,
    active: Vec<OnceLock<Box<[Mutex<Active>]>>>,
    /// The domain is being destroyed, and its frames are not its own any more.
    pub(crate) dead: bool,
}

impl Table {
    /// A table that may grow to so many frames.
    pub(crate) fn new(max_frames: u32) -> Self {
        let blocks = usize::try_from(max_frames.max(1)).unwrap_or(1) * (PAGE_SIZE / V1_ENTRY / BLOCK);
        Self {
            version: 1,
            frames: Vec::new(),
            status: Vec::new(),
            active: (0..blocks).map(|_| OnceLock::new()).collect(),
            dead: false,
        }
    }

    fn entry_size(&self) -> usize {
        if self.version == 1 { V1_ENTRY } else { V2_ENTRY }
    }

    /// How many frames it has, as its owner is told: the first is there before it is asked for.
    pub(crate) fn nr_frames(&self) -> u32 {
        u32::try_from(self.frames.len().max(1)).unwrap_or(u32::MAX)
    }

    /// Frames of status words for so many frames of entries of version 2.
    pub(crate) fn status_for(frames: u32) -> u32 {
        let per_frame = PAGE_SIZE / STATUS / (PAGE_SIZE / V2_ENTRY);
        frames.div_ceil(u32::try_from(per_frame).unwrap_or(1))
    }

    /// References below this are in the table.
    pub(crate) fn entries(&self) -> u32 {
        let per_frame = u32::try_from(PAGE_SIZE / self.entry_size()).unwrap_or(0);
        self.nr_frames() * per_frame
    }

    /// What is remembered of a reference; `None`: no such reference in the largest table.
    pub(crate) fn active(&self, reference: u32) -> Option<&Mutex<Active>> {
        let index = usize::try_from(reference).ok()?;
        let block = self.active.get(index / BLOCK)?;
        let fresh = || (0..BLOCK).map(|_| Mutex::new(Active::default())).collect();
        block.get_or_init(fresh).get(index % BLOCK)
    }

    /// Every reference of which something may be remembered.
    pub(crate) fn known(&self) -> impl Iterator<Item = (u32, &Mutex<Active>)> {
        let blocks = self.active.iter().enumerate().filter_map(|(i, b)| Some((i * BLOCK, b.get()?)));
        blocks.flat_map(|(first, block)| {
            block.iter().enumerate().filter_map(move |(i, a)| Some((u32::try_from(first + i).ok()?, a)))
        })
    }

    /// The entry of a reference; `None` where no frame has been asked for yet, which is as an entry of zeros.
    pub(crate) fn entry<'m>(&self, memory: &'m HostMemory, reference: u32) -> Option<Entry<'m>> {
        let index = usize::try_from(reference).ok()?;
        let place = |frames: &[Mfn], size: usize| {
            let per_frame = PAGE_SIZE / size;
            let page = memory.page(*frames.get(index / per_frame)?)?;
            Some((page, index % per_frame * size))
        };
        let (page, at) = place(&self.frames, self.entry_size())?;
        if self.version == 1 {
            return Some(Entry::v1(page, at));
        }
        let (status, status_at) = place(&self.status, STATUS)?;
        Some(Entry::v2(page, at, status, status_at))
    }
}
