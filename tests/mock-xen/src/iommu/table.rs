//! An IOMMU page table: BFN to MFN with permissions, read by devices without a lock.
//!
//! Every entry counts the translations that devices hold of it. Whoever changes entries holds the frame table's
//! lock; a device moves only the count, by compare-and-swap on a word that also carries the entry's generation,
//! so an unmap learns exactly how many translations it broke.

use xen_ioreq::{Bfn, DomId, Mfn};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{OnceLock, spin_loop};

const FANOUT_BITS: u32 = 9;
const FANOUT: usize = 1 << FANOUT_BITS;
/// Levels of the tree.
const LEVELS: u32 = 4;
/// Bus frame numbers have at most this many bits.
pub(crate) const BFN_BITS_MAX: u32 = FANOUT_BITS * LEVELS;

/// Why a BFN is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `map_page`: the domain's own frame, one reference.
    Own,
    /// `map_foreign_page`: as long as there are M2B entries.
    Foreign,
    /// Put there by the hypervisor at the start, or by `map_page` with `no_ref_cnt`; no reference.
    OneToOne,
    /// Put there by the hypervisor in the place of a foreign frame that its guest has given away.
    Scratch,
    /// A grant that is mapped for devices, or what has come in its place. The mapping holds the reference.
    Grant,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    pub(crate) mfn: Mfn,
    /// For which domain's sake, `None` for a one-to-one entry that nobody has registered for.
    pub(crate) domain: Option<DomId>,
    pub(crate) kind: Kind,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

// The state word: valid, readable, writeable, being repointed, 28 bits of generation, 32 bits of count.
const VALID: u64 = 1;
const READ: u64 = 2;
const WRITE: u64 = 4;
const BUSY: u64 = 8;
const GENERATION_ONE: u64 = 16;
const COUNT_ONE: u64 = 1 << 32;
const LOW: u64 = COUNT_ONE - 1;
// The target word: 32 bits of MFN, 16 of domain, 3 of kind.
const DOMAIN_SHIFT: u32 = 32;
const KIND_SHIFT: u32 = 48;

#[derive(Default)]
struct Entry {
    state: AtomicU64,
    target: AtomicU64,
}

fn pack_target(t: &Translation) -> u64 {
    let kind = match t.kind {
        Kind::Own => 0,
        Kind::Foreign => 1,
        Kind::OneToOne => 2u64,
        Kind::Scratch => 3,
        Kind::Grant => 4,
    };
    let domain = t.domain.unwrap_or(DomId(u16::MAX));
    (t.mfn.0 & u64::from(u32::MAX)) | u64::from(domain.0) << DOMAIN_SHIFT | kind << KIND_SHIFT
}

fn unpack(state: u64, target: u64) -> Translation {
    let domain = u16::try_from(target >> DOMAIN_SHIFT & 0xffff).unwrap_or(u16::MAX);
    Translation {
        mfn: Mfn(target & u64::from(u32::MAX)),
        domain: (domain != u16::MAX).then_some(DomId(domain)),
        kind: match target >> KIND_SHIFT & 7 {
            0 => Kind::Own,
            1 => Kind::Foreign,
            2 => Kind::OneToOne,
            3 => Kind::Scratch,
            _ => Kind::Grant,
        },
        read: state & READ != 0,
        write: state & WRITE != 0,
    }
}

struct Node<T>(Box<[OnceLock<T>; FANOUT]>);

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self(Box::new([const { OnceLock::new() }; FANOUT]))
    }
}

struct Leaf(Box<[Entry; FANOUT]>);

impl Default for Leaf {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| Entry::default())))
    }
}

/// A domain's table.
#[derive(Default)]
pub(crate) struct BusTable {
    root: Node<Node<Node<Leaf>>>,
}

/// A translation that a device holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned {
    pub(crate) translation: Translation,
    /// The entry's state without its count; tells on release whether it is still the same mapping.
    pub(crate) generation: u32,
}

/// The index at a level, 3 being the root's.
fn index(bfn: Bfn, level: u32) -> usize {
    // 9 bits.
    #[allow(clippy::cast_possible_truncation, reason = "masked to 9 bits")]
    let i = (bfn.0 >> (FANOUT_BITS * level)) as usize & (FANOUT - 1);
    i
}

impl BusTable {
    fn entry(&self, bfn: Bfn) -> Option<&Entry> {
        if bfn.0 >> BFN_BITS_MAX != 0 {
            return None;
        }
        let leaf = self
            .root
            .0
            .get(index(bfn, 3))?
            .get()?
            .0
            .get(index(bfn, 2))?
            .get()?
            .0
            .get(index(bfn, 1))?
            .get()?;
        leaf.0.get(index(bfn, 0))
    }

    fn entry_or_new(&self, bfn: Bfn) -> Option<&Entry> {
        if bfn.0 >> BFN_BITS_MAX != 0 {
            return None;
        }
        let upper = self.root.0.get(index(bfn, 3))?.get_or_init(Node::default);
        let middle = upper.0.get(index(bfn, 2))?.get_or_init(Node::default);
        let leaf = middle.0.get(index(bfn, 1))?.get_or_init(Leaf::default);
        leaf.0.get(index(bfn, 0))
    }

    /// What is mapped at `bfn`.
    pub(crate) fn lookup(&self, bfn: Bfn) -> Option<Translation> {
        let e = self.entry(bfn)?;
        loop {
            let state = e.state.load(Ordering::Acquire);
            if state & VALID == 0 {
                return None;
            }
            let t = unpack(state, e.target.load(Ordering::Acquire));
            if state & BUSY == 0 && e.state.load(Ordering::Acquire) & LOW == state & LOW {
                return Some(t);
            }
            spin_loop();
        }
    }

    /// Makes an entry; the frame table's lock is held. `false`: the BFN is taken or has too many bits.
    #[must_use]
    pub(crate) fn map(&self, bfn: Bfn, t: &Translation) -> bool {
        let Some(e) = self.entry_or_new(bfn) else { return false };
        let old = e.state.load(Ordering::Acquire);
        if old & VALID != 0 {
            return false;
        }
        e.target.store(pack_target(t), Ordering::Release);
        let perms = if t.read { READ } else { 0 } | if t.write { WRITE } else { 0 };
        // No device touches an invalid entry, so a plain store is enough; the generation moved at the last unmap.
        e.state.store((old & LOW & !(READ | WRITE)) | VALID | perms, Ordering::SeqCst);
        true
    }

    /// Takes an entry away; the frame table's lock is held. Returns what it was and how many translations devices
    /// held of it.
    pub(crate) fn unmap(&self, bfn: Bfn) -> Option<(Translation, u32)> {
        let e = self.entry(bfn)?;
        let mut old = e.state.load(Ordering::Acquire);
        loop {
            if old & VALID == 0 {
                return None;
            }
            let next = (old & LOW & !(VALID | READ | WRITE)).wrapping_add(GENERATION_ONE) & LOW;
            match e.state.compare_exchange_weak(old, next, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        let pins = u32::try_from(old >> 32).unwrap_or(u32::MAX);
        Some((unpack(old, e.target.load(Ordering::Acquire)), pins))
    }

    /// Changes for whose sake a one-to-one entry is used, or the permissions of a foreign one, in place: the frame
    /// stays, so translations stay valid. The frame table's lock is held.
    pub(crate) fn update(&self, bfn: Bfn, t: &Translation) {
        let Some(e) = self.entry(bfn) else { return };
        e.target.store(pack_target(t), Ordering::Release);
        let perms = if t.read { READ } else { 0 } | if t.write { WRITE } else { 0 };
        let _ = e.state.fetch_update(Ordering::SeqCst, Ordering::Acquire, |s| {
            (s & VALID != 0).then_some(s & !(READ | WRITE) | perms)
        });
    }

    /// Leads an entry to another frame, in one step for devices: they get the old one or the new one, never a fault. The
    /// frame table's lock is held. Returns how many translations of the old frame devices held; `None`: some, and
    /// without `force` nothing was done. An entry that is not there stays so.
    pub(crate) fn repoint(&self, bfn: Bfn, t: &Translation, force: bool) -> Option<u32> {
        let Some(e) = self.entry(bfn) else { return Some(0) };
        // From here on nobody takes a translation, until the target has been written; giving back goes on.
        let begun = e.state.fetch_update(Ordering::SeqCst, Ordering::Acquire, |s| {
            (s & VALID != 0 && (force || s < COUNT_ONE)).then_some(s | BUSY)
        });
        if let Err(s) = begun {
            return (s & VALID == 0).then_some(0);
        }
        e.target.store(pack_target(t), Ordering::Release);
        let perms = if t.read { READ } else { 0 } | if t.write { WRITE } else { 0 };
        let next = |s: u64| (s & LOW & !(READ | WRITE | BUSY)).wrapping_add(GENERATION_ONE) & LOW | perms;
        let done = e.state.fetch_update(Ordering::SeqCst, Ordering::Acquire, |s| Some(next(s)));
        let (Ok(old) | Err(old)) = done;
        Some(u32::try_from(old >> 32).unwrap_or(u32::MAX))
    }

    /// Takes a translation, if the entry allows the access.
    pub(crate) fn pin(&self, bfn: Bfn, write: bool) -> Option<Pinned> {
        let e = self.entry(bfn)?;
        let wanted = VALID | if write { WRITE } else { READ };
        let mut state = e.state.load(Ordering::Acquire);
        loop {
            if state & BUSY != 0 {
                spin_loop();
                state = e.state.load(Ordering::Acquire);
                continue;
            }
            if state & wanted != wanted || state >> 32 == LOW {
                return None;
            }
            let target = e.target.load(Ordering::Acquire);
            // Success means that the entry has not moved since `state` was read, so `target` belongs to it.
            match e.state.compare_exchange_weak(state, state + COUNT_ONE, Ordering::SeqCst, Ordering::Acquire)
            {
                Ok(_) => {
                    let generation = u32::try_from((state & LOW) / GENERATION_ONE).unwrap_or(0);
                    return Some(Pinned { translation: unpack(state, target), generation });
                }
                Err(now) => state = now,
            }
        }
    }

    /// Gives a translation back; `false` if the entry has been unmapped meanwhile.
    pub(crate) fn unpin(&self, bfn: Bfn, generation: u32) -> bool {
        let Some(e) = self.entry(bfn) else { return false };
        let counted = e.state.fetch_update(Ordering::SeqCst, Ordering::Acquire, |s| {
            let same = s & VALID != 0 && (s & LOW) / GENERATION_ONE == u64::from(generation);
            (same && s >= COUNT_ONE).then(|| s - COUNT_ONE)
        });
        counted.is_ok()
    }

    /// Every mapped BFN, in order.
    pub(crate) fn mapped(&self) -> Vec<Bfn> {
        let mut all = Vec::new();
        for (i3, n3) in self.root.0.iter().enumerate() {
            for (i2, n2) in n3.get().iter().flat_map(|n| n.0.iter().enumerate()) {
                for (i1, leaf) in n2.get().iter().flat_map(|n| n.0.iter().enumerate()) {
                    for (i0, e) in leaf.get().iter().flat_map(|l| l.0.iter().enumerate()) {
                        if e.state.load(Ordering::Acquire) & VALID != 0 {
                            all.push(Bfn((((i3 << 9 | i2) << 9 | i1) << 9 | i0) as u64));
                        }
                    }
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(mfn: u64) -> Translation {
        Translation { mfn: Mfn(mfn), domain: Some(DomId(3)), kind: Kind::Foreign, read: true, write: false }
    }

    #[test]
    fn a_mapping_is_found_with_all_that_it_says() {
        let t = BusTable::default();
        let bfn = Bfn(0x7_1234_5678);
        assert!(t.map(bfn, &foreign(0x55)));
        assert!(!t.map(bfn, &foreign(0x66)));
        assert_eq!(t.lookup(bfn), Some(foreign(0x55)));
        assert_eq!(t.mapped(), vec![bfn]);
        assert_eq!(t.unmap(bfn), Some((foreign(0x55), 0)));
        assert_eq!(t.lookup(bfn), None);
        assert_eq!(t.unmap(bfn), None);
        assert!(!t.map(Bfn(1 << BFN_BITS_MAX), &foreign(1)));
    }

    #[test]
    fn a_pin_needs_the_permission_of_the_entry() {
        let t = BusTable::default();
        assert!(t.map(Bfn(1), &foreign(0x55)));
        assert!(t.pin(Bfn(1), false).is_some());
        assert!(t.pin(Bfn(1), true).is_none());
        assert!(t.pin(Bfn(2), false).is_none());
    }

    #[test]
    fn a_repointed_entry_leads_to_the_new_frame_and_keeps_the_old_one_for_who_has_it() {
        let t = BusTable::default();
        assert_eq!(t.repoint(Bfn(1), &foreign(0x66), true), Some(0));
        assert_eq!(t.lookup(Bfn(1)), None, "what is not there stays so");
        assert!(t.map(Bfn(1), &foreign(0x55)));
        let pin = t.pin(Bfn(1), false).unwrap();
        assert_eq!(t.repoint(Bfn(1), &foreign(0x66), false), None, "in use");
        assert_eq!(t.lookup(Bfn(1)), Some(foreign(0x55)));
        assert_eq!(t.repoint(Bfn(1), &foreign(0x66), true), Some(1));
        assert_eq!(t.lookup(Bfn(1)), Some(foreign(0x66)));
        assert!(!t.unpin(Bfn(1), pin.generation), "the old pin is not the new frame's");
        assert_eq!(t.unmap(Bfn(1)).map(|x| x.1), Some(0));
    }

    #[test]
    fn an_unmap_learns_how_many_translations_it_broke_and_a_late_unpin_harms_nobody() {
        let t = BusTable::default();
        assert!(t.map(Bfn(1), &foreign(0x55)));
        let a = t.pin(Bfn(1), false).unwrap();
        let _b = t.pin(Bfn(1), false).unwrap();
        assert_eq!(t.unmap(Bfn(1)).map(|x| x.1), Some(2));
        assert!(t.map(Bfn(1), &foreign(0x66)));
        let c = t.pin(Bfn(1), false).unwrap();
        assert!(!t.unpin(Bfn(1), a.generation));
        assert_eq!(t.unmap(Bfn(1)).map(|x| x.1), Some(1), "the old pin is not the new mapping's");
        assert!(!t.unpin(Bfn(1), c.generation));
    }
}
