//! Entries of the global graphics translation table (GGTT).

use xen_ioreq::{Bfn, PAGE_SHIFT};

/// Byte offset of the GTT in BAR0.
pub const GTT_OFFSET: u32 = 8 << 20;
/// Bytes per entry.
pub const PTE_SIZE: u32 = 8;
/// Entries of a table of 8 MiB, which maps 4 GiB of graphics memory.
pub const GGTT_ENTRIES: u32 = 1 << 20;
/// An entry is present (i915 `GEN8_PAGE_PRESENT`).
pub const PTE_PRESENT: u64 = 1;
/// The address of the page, bits 45:12 (a width of 46 bits, i915 `GTT_HAW`).
pub const PTE_ADDR_MASK: u64 = ((1 << 46) - 1) & !((1 << PAGE_SHIFT) - 1);

/// Entries of the table of a GPU whose GMCH_CTRL is this (i915 `gen8_get_total_gtt_size`): bits 7:6 say 0, 2, 4 or 8 MiB.
pub const fn ggtt_entries(gmch_ctrl: u16) -> u32 {
    match gmch_ctrl >> 6 & 3 {
        0 => 0,
        n => (1 << n << 20) / PTE_SIZE,
    }
}

/// A GGTT entry as it stands in the table. i915 writes nothing but the address and the present bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// An entry that maps nothing.
    pub const ABSENT: Self = Self(0);

    /// An entry for a bus frame; `None` if the frame lies beyond the 46 bits of an address.
    pub const fn new(bfn: Bfn) -> Option<Self> {
        let addr = bfn.addr();
        if bfn.0 >> (64 - PAGE_SHIFT) != 0 || addr & PTE_ADDR_MASK != addr {
            return None;
        }
        Some(Self(addr | PTE_PRESENT))
    }

    /// Whether the entry maps a page.
    pub const fn present(self) -> bool {
        self.0 & PTE_PRESENT != 0
    }

    /// The number of the frame in the address field, present or not: a BFN in a physical table, a GFN in what
    /// a guest writes.
    pub const fn frame(self) -> u64 {
        (self.0 & PTE_ADDR_MASK) >> PAGE_SHIFT
    }

    /// The bus frame, if present.
    pub const fn bfn(self) -> Option<Bfn> {
        if self.present() { Some(Bfn(self.frame())) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_survives_the_round_trip() {
        for n in [0, 1, 0x1234_5678, (1 << 34) - 1] {
            assert_eq!(Pte::new(Bfn(n)).and_then(Pte::bfn), Some(Bfn(n)));
        }
    }

    #[test]
    fn frame_beyond_46_bits_is_refused() {
        for n in [1 << 34, 1 << 52, u64::MAX] {
            assert_eq!(Pte::new(Bfn(n)), None);
        }
    }

    #[test]
    fn a_table_has_the_size_that_the_host_bridge_says() {
        assert_eq!([0, 1, 2, 3].map(|n| ggtt_entries(n << 6 | 0xff3f)), [0, 1 << 18, 1 << 19, GGTT_ENTRIES]);
    }

    #[test]
    fn entry_that_a_stock_i915_wrote_decodes() {
        let pte = Pte(0x6cb_7001);
        assert_eq!(pte.bfn(), Some(Bfn(0x6cb7)));
        assert_eq!(Pte(0x6cb_7000).bfn(), None);
    }
}
