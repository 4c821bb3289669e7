//! Per-process graphics translation tables (PPGTT): entries, levels, roots (i915 `intel_gtt.h`, `gen8_ppgtt.c`).
//!
//! Four levels map 48 bits from one root, three levels 4 GiB from four roots in registers. A directory's entry may
//! map 2 MiB by itself, or say that the table below holds pages of 64 KiB, of which each sixteenth entry counts.

use xen_ioreq::{Bfn, PAGE_SHIFT};

use super::gtt::{PTE_ADDR_MASK, PTE_PRESENT};

/// Entries of a table of any level.
pub const ENTRIES: usize = 512;
/// Bytes of an entry.
pub const ENTRY_SIZE: usize = 8;
/// An entry may be written through (i915 `GEN8_PAGE_RW`). Through one without it writes are lost.
pub const RW: u64 = 1 << 1;
/// Directory pointer and directory: the entry maps memory itself, 1 GiB or 2 MiB (`GEN8_PDE_PS_2M`).
pub const PS: u64 = 1 << 7;
/// Directory: the table below holds pages of 64 KiB (`GEN8_PDE_IPS_64K`).
pub const IPS_64K: u64 = 1 << 11;
/// Of a 2 MiB entry: where its frame begins. b12 is a caching attribute there.
pub const ADDR_2M_MASK: u64 = PTE_ADDR_MASK & !((1 << 21) - 1);
/// Of a 64 KiB entry: where its frame begins.
pub const ADDR_64K_MASK: u64 = PTE_ADDR_MASK & !((1 << 16) - 1);
/// Pages of a 64 KiB entry, which are the entries of the table that it counts for.
pub const PAGES_64K: usize = 16;
/// Bits of an address that a 4-level table translates.
pub const ADDRESS_BITS: u32 = 48;

/// A table's level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Maps pages.
    Pt,
    /// The directory: maps tables, or 2 MiB.
    Pd,
    /// Directory pointers.
    Pdp,
    /// The root of a 4-level table.
    Pml4,
}

impl Level {
    /// Which entry of a table of this level an address goes through.
    pub const fn index(self, addr: u64) -> usize {
        let shift = match self {
            Self::Pt => 12,
            Self::Pd => 21,
            Self::Pdp => 30,
            Self::Pml4 => 39,
        };
        ((addr >> shift) & 0x1ff) as usize
    }

    /// The level of what its entries lead to; `None` for pages.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::Pt => None,
            Self::Pd => Some(Self::Pt),
            Self::Pdp => Some(Self::Pd),
            Self::Pml4 => Some(Self::Pdp),
        }
    }
}

/// An entry of any level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// An entry that leads to a frame, with `flags` beside the address. `None` if the frame lies beyond the 46 bits
    /// of an address.
    pub const fn new(bfn: Bfn, flags: u64) -> Option<Self> {
        match super::gtt::Pte::new(bfn) {
            Some(pte) => Some(Self(pte.0 | flags & !PTE_ADDR_MASK)),
            None => None,
        }
    }

    /// Whether it leads anywhere.
    pub const fn present(self) -> bool {
        self.0 & PTE_PRESENT != 0
    }

    /// Whether it may be written through.
    pub const fn writable(self) -> bool {
        self.0 & RW != 0
    }

    /// The number of the frame in the address field.
    pub const fn frame(self) -> u64 {
        (self.0 & PTE_ADDR_MASK) >> PAGE_SHIFT
    }
}

/// Where a context's tables begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    /// The frame of the PML4.
    FourLevel(u64),
    /// The frames of four directories.
    ThreeLevel([u64; 4]),
}

impl Root {
    /// From the page directory pointers of a context image, by number. Drivers write them without a present bit.
    pub fn of_pointers(four_level: bool, pdps: [u64; 4]) -> Self {
        let frames = pdps.map(|p| Entry(p).frame());
        match frames {
            [pml4, ..] if four_level => Self::FourLevel(pml4),
            all => Self::ThreeLevel(all),
        }
    }

    /// The page directory pointers that say this.
    pub fn pointers(self) -> [u64; 4] {
        match self {
            Self::FourLevel(pml4) => [pml4 << PAGE_SHIFT, 0, 0, 0],
            Self::ThreeLevel(pds) => pds.map(|pd| pd << PAGE_SHIFT),
        }
    }

    /// The first table that an address goes through, and its level; `None` for addresses beyond the tables.
    pub fn start(self, addr: u64) -> Option<(u64, Level)> {
        match self {
            Self::FourLevel(pml4) if addr >> ADDRESS_BITS == 0 => Some((pml4, Level::Pml4)),
            Self::ThreeLevel(pds) => {
                let pd = *pds.get(usize::try_from(addr >> 30).ok()?)?;
                Some((pd, Level::Pd))
            }
            Self::FourLevel(_) => None,
        }
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The frame of its page.
    pub frame: u64,
    /// Whether it may be written: every entry on the way says so.
    pub writable: bool,
}

/// Walks the tables as hardware does: `read(frame, index)` gives an entry of the table in a frame. `Ok(None)`: the
/// address leads nowhere.
pub fn walk<E>(
    root: Root,
    addr: u64,
    mut read: impl FnMut(u64, usize) -> Result<Entry, E>,
) -> Result<Option<Leaf>, E> {
    let Some((mut table, mut level)) = root.start(addr) else { return Ok(None) };
    let (mut writable, mut large) = (true, false);
    loop {
        let mut index = level.index(addr);
        if level == Level::Pt && large {
            index -= index % PAGES_64K;
        }
        let entry = read(table, index)?;
        if !entry.present() {
            return Ok(None);
        }
        writable &= entry.writable();
        let within = |mask: u64, bits: u32| {
            let page = (addr >> PAGE_SHIFT) & ((1 << (bits - PAGE_SHIFT)) - 1);
            Ok(Some(Leaf { frame: ((entry.0 & mask) >> PAGE_SHIFT) + page, writable }))
        };
        match level {
            Level::Pt if large => return within(ADDR_64K_MASK, 16),
            Level::Pt => return within(PTE_ADDR_MASK, PAGE_SHIFT),
            Level::Pd if entry.0 & PS != 0 => return within(ADDR_2M_MASK, 21),
            // Pages of 1 GiB are not known to gen8.
            Level::Pdp if entry.0 & PS != 0 => return Ok(None),
            Level::Pd => large = entry.0 & IPS_64K != 0,
            Level::Pdp | Level::Pml4 => {}
        }
        let Some(below) = level.below() else { return Ok(None) };
        (table, level) = (entry.frame(), below);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use super::*;

    /// Walks tables given as (frame, index) → entry.
    fn to(root: Root, tables: &HashMap<(u64, usize), u64>, addr: u64) -> Option<Leaf> {
        let read =
            |frame, index| Ok::<_, Infallible>(Entry(tables.get(&(frame, index)).copied().unwrap_or(0)));
        walk(root, addr, read).unwrap_or_default()
    }

    fn leaf(frame: u64, writable: bool) -> Option<Leaf> {
        Some(Leaf { frame, writable })
    }

    #[test]
    fn four_levels_take_nine_bits_each() {
        let addr = 5 << 39 | 6 << 30 | 7 << 21 | 8 << 12 | 0x123;
        let tables =
            HashMap::from([((1, 5), 0x2003), ((2, 6), 0x3003), ((3, 7), 0x4003), ((4, 8), 0x9_9003)]);
        assert_eq!(to(Root::FourLevel(1), &tables, addr), leaf(0x99, true));
        assert_eq!(to(Root::FourLevel(1), &tables, addr + 0x1000), None);
        assert_eq!(to(Root::FourLevel(1), &tables, addr | 1 << 48), None, "beyond 48 bits");
    }

    #[test]
    fn three_levels_begin_at_the_gibibytes_directory() {
        let root = Root::of_pointers(false, [0, 0x7000, 0, 0]);
        let tables = HashMap::from([((7, 511), 0x4001), ((4, 0), 0x5003)]);
        assert_eq!(
            to(root, &tables, 1 << 30 | 511 << 21),
            leaf(5, false),
            "the directory's entry is read-only"
        );
        assert_eq!(to(root, &tables, 4 << 30), None);
    }

    #[test]
    fn large_entries_map_their_whole_reach() {
        let tables = HashMap::from([
            ((1, 0), 0x2003),
            ((2, 0), 0x3003),
            ((2, 1), 0x4000_0000 | PS | 3),
            ((3, 0), 0x20_1000 | PS | 3), // b12 is no address
            ((3, 1), 0x4000 | IPS_64K | 3),
            ((4, 16), 0x5_3003), // neither are b15:12
            ((4, 17), 0x6_0003),
        ]);
        let root = Root::FourLevel(1);
        assert_eq!(to(root, &tables, 0x1f_f000), leaf(0x200 + 0x1ff, true));
        assert_eq!(to(root, &tables, (1 << 21) + 0x1_3000), leaf(0x53, true));
        assert_eq!(to(root, &tables, (1 << 21) + 0x1000), None);
        assert_eq!(to(root, &tables, 1 << 30), None, "1 GiB");
    }

    #[test]
    fn pointers_survive_the_round_trip() {
        for root in [Root::FourLevel(0x3_1234), Root::ThreeLevel([1, 2, 0, 4])] {
            let four = matches!(root, Root::FourLevel(_));
            assert_eq!(Root::of_pointers(four, root.pointers()), root);
        }
    }
}
