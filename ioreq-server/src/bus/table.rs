//! The ranges of a bus at one moment, and the search for the one that an access falls into.
//!
//! The starts lie by themselves, with a directory, so that a search touches few cache lines and takes the same time
//! however many ranges there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::index::Index;
use super::{DeviceId, Target};
use crate::claims::ClaimError;
use crate::device::{Access, Device, Region, Space};
use crate::outcome::{IoError, Outcome};

/// Where the last access was found; the next one is likely there too. Keep one for each vCPU.
#[derive(Debug, Default)]
pub struct Hint([AtomicUsize; 3]);

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) start: u64,
    pub(super) last: u64,
    pub(super) region: Region,
    pub(super) owner: DeviceId,
    pub(super) device: Arc<dyn Device>,
}

impl Entry {
    /// Whether all of an access of `more` bytes after the one at `addr` is in the range.
    #[inline]
    fn holds(&self, addr: u64, more: u64) -> bool {
        // In one comparison: each of two would be as good as random where the accesses are. Below the start it wraps to
        // more than any range is long.
        let end = addr.wrapping_sub(self.start).checked_add(more);
        end.is_some_and(|end| end <= self.last - self.start)
    }

    /// An access that this range holds, as its device sees it.
    #[inline(always)]
    fn access(&self, target: &Target) -> Access {
        let offset = match target.space {
            Space::Pci => u64::from(target.register),
            Space::Pio | Space::Mmio => target.addr - self.start,
        };
        Access { region: self.region, offset, width: target.width, vcpu: target.vcpu }
    }
}

/// The ranges of one space, sorted, without overlaps.
#[derive(Clone, Default)]
struct Ranges {
    /// Of each entry.
    starts: Vec<u64>,
    index: Index,
    entries: Vec<Entry>,
}

/// The ranges, by space.
#[derive(Clone, Default)]
pub(super) struct Table([Ranges; 3]);

impl Ranges {
    fn of(entries: Vec<Entry>) -> Self {
        let starts: Vec<u64> = entries.iter().map(|e| e.start).collect();
        Self { index: Index::new(&starts), starts, entries }
    }

    #[inline]
    fn find(&self, addr: u64, more: u64, hint: &AtomicUsize) -> Option<&Entry> {
        // The hint may be of an older table: it is only a place to look first.
        if let Some(e) = self.entries.get(hint.load(Ordering::Relaxed)).filter(|e| e.holds(addr, more)) {
            return Some(e);
        }
        let index = self.index.last_not_above(&self.starts, addr)?;
        let found = self.entries.get(index).filter(|e| e.holds(addr, more))?;
        hint.store(index, Ordering::Relaxed);
        Some(found)
    }

    /// The same ranges but for a change.
    fn change<R>(&mut self, change: impl FnOnce(&mut Vec<Entry>) -> R) -> R {
        let mut entries = std::mem::take(&mut self.entries);
        let result = change(&mut entries);
        *self = Self::of(entries);
        result
    }
}

impl Table {
    pub(super) fn entries(&self, space: Space) -> &[Entry] {
        &self.0[space as usize].entries
    }

    pub(super) fn insert(&mut self, space: Space, entry: Entry) -> Result<(), ClaimError> {
        let ranges = &mut self.0[space as usize];
        let (start, last) = (entry.start, entry.last);
        if last < start {
            return Err(ClaimError::Empty { space, start, last });
        }
        let at = ranges.starts.partition_point(|s| *s <= last);
        // Ranges do not overlap, so the one before is the one that reaches furthest.
        if let Some(with) = at.checked_sub(1).and_then(|i| ranges.entries.get(i)).filter(|e| e.last >= start)
        {
            let (with_start, with_last) = (with.start, with.last);
            return Err(ClaimError::Overlap { space, start, last, with_start, with_last });
        }
        ranges.change(|entries| entries.insert(at, entry));
        Ok(())
    }

    /// Takes out the first of which `which` is true.
    pub(super) fn remove(&mut self, space: Space, which: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let ranges = &mut self.0[space as usize];
        let index = ranges.entries.iter().position(which)?;
        Some(ranges.change(|entries| entries.remove(index)))
    }

    /// Takes out those of which `keep` is false.
    pub(super) fn retain(&mut self, space: Space, keep: impl FnMut(&Entry) -> bool) {
        self.0[space as usize].change(|entries| entries.retain(keep));
    }

    // Inlined, as what they call: the small fields of a target then stay in registers. Put together in memory and read back
    // as words they would stall the processor for longer than the search takes, and so would a copy of the outcome.
    #[inline(always)]
    pub(super) fn read(&self, target: &Target, hint: &Hint) -> Outcome<u64> {
        let Some(entry) = self.find(target, hint) else { return Outcome::Err(IoError::NoDevice) };
        let (device, access) = (&*entry.device, entry.access(target));
        let outcome = match target.space {
            Space::Pio => device.supports_pio().map(|d| d.pio_read(&access)),
            Space::Mmio => device.supports_mmio().map(|d| d.mmio_read(&access)),
            Space::Pci => device.supports_pci().map(|d| d.config_read(&access)),
        };
        match outcome {
            Some(Outcome::Ok(value)) => Outcome::Ok(value & target.width.mask()),
            Some(other) => other,
            None => Outcome::Err(IoError::NoDevice),
        }
    }

    #[inline(always)]
    pub(super) fn write(&self, target: &Target, value: u64, hint: &Hint) -> Outcome<()> {
        let Some(entry) = self.find(target, hint) else { return Outcome::Err(IoError::NoDevice) };
        let (device, access) = (&*entry.device, entry.access(target));
        let value = value & target.width.mask();
        let outcome = match target.space {
            Space::Pio => device.supports_pio().map(|d| d.pio_write(&access, value)),
            Space::Mmio => device.supports_mmio().map(|d| d.mmio_write(&access, value)),
            Space::Pci => device.supports_pci().map(|d| d.config_write(&access, value)),
        };
        match outcome {
            Some(Outcome::Ok(())) => Outcome::Ok(()),
            Some(other) => other,
            None => Outcome::Err(IoError::NoDevice),
        }
    }

    /// The range that holds all of an access.
    #[inline(always)]
    fn find(&self, target: &Target, hint: &Hint) -> Option<&Entry> {
        let &Target { space, addr, width, .. } = target;
        let more = if space == Space::Pci { 0 } else { u64::from(width.bytes()) - 1 };
        self.0[space as usize].find(addr, more, &hint.0[space as usize])
    }
}
