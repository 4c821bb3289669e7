//! A region of the device: a BAR, the ROM, the config space.

use std::mem::offset_of;
use std::ops::Range;

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ROM_REGION_INDEX, VFIO_PCI_VGA_REGION_INDEX, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};

use super::chain::{capabilities, dword, pairs, quad};

/// A region, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// VFIO's region index: 0-5 are the BARs, 6 the ROM, 7 the config space.
    pub index: u32,
    /// Length in bytes.
    pub size: u64,
    /// Where it starts in the device's descriptor.
    pub(super) offset: u64,
    flags: u32,
    /// What of it may be mapped, in bytes from its start.
    mappable: Vec<Range<u64>>,
}

/// What a region of an index is called.
pub fn region_name(index: u32) -> &'static str {
    const BARS: [&str; 6] = ["BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5"];
    match index {
        VFIO_PCI_BAR0_REGION_INDEX..=VFIO_PCI_BAR5_REGION_INDEX => BARS[index as usize],
        VFIO_PCI_ROM_REGION_INDEX => "ROM",
        VFIO_PCI_CONFIG_REGION_INDEX => "config",
        VFIO_PCI_VGA_REGION_INDEX => "VGA",
        _ => "vendor's",
    }
}

impl Region {
    /// From what `VFIO_DEVICE_GET_REGION_INFO` answered; `None` for a region of no bytes, which the device does not have.
    pub(super) fn parse(index: u32, answer: &[u8]) -> Option<Self> {
        let flags = dword(answer, offset_of!(vfio_region_info, flags))?;
        let size = quad(answer, offset_of!(vfio_region_info, size))?;
        let offset = quad(answer, offset_of!(vfio_region_info, offset))?;
        let first = dword(answer, offset_of!(vfio_region_info, cap_offset))?;
        if size == 0 {
            return None;
        }
        let sparse = capabilities(answer, first).find(|c| c.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP);
        let whole = 0..size;
        let mappable = match sparse {
            _ if flags & VFIO_REGION_INFO_FLAG_MMAP == 0 => Vec::new(),
            None => vec![whole],
            Some(sparse) => pairs(sparse)
                .into_iter()
                .filter_map(|(at, len)| Some(at..at.checked_add(len)?))
                .filter(|r| !r.is_empty() && r.end <= size)
                .collect(),
        };
        Some(Self { index, size, offset, flags, mappable })
    }

    /// Whether it can be read.
    pub fn readable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_READ != 0
    }

    /// Whether it can be written.
    pub fn writable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_WRITE != 0
    }

    /// What of it can be mapped into this process, in bytes from its start.
    pub fn mappable(&self) -> &[Range<u64>] {
        &self.mappable
    }

    /// What it is called: `BAR0`, `config`.
    pub fn name(&self) -> &'static str {
        region_name(self.index)
    }

    /// Where `len` bytes at `offset` lie in the descriptor, if they are inside.
    pub(super) fn position(&self, offset: u64, len: usize) -> Option<u64> {
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        if end <= self.size { self.offset.checked_add(offset) } else { None }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer with a sparse capability of these areas, unless there are none.
    pub(in crate::vfio) fn answer(flags: u32, size: u64, areas: &[(u64, u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        let cap = if areas.is_empty() { 0 } else { 32u32 };
        for d in [0, flags, 0, cap] {
            out.extend(d.to_ne_bytes());
        }
        out.extend(size.to_ne_bytes());
        out.extend((1u64 << 40).to_ne_bytes());
        if !areas.is_empty() {
            let count = u32::try_from(areas.len()).unwrap();
            for d in [VFIO_REGION_INFO_CAP_SPARSE_MMAP | 1 << 16, 0, count, 0] {
                out.extend(d.to_ne_bytes());
            }
            out.extend(areas.iter().flat_map(|a| [a.0, a.1]).flat_map(u64::to_ne_bytes));
        }
        out
    }

    const ALL: u32 = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP;

    #[test]
    fn a_region_is_mappable_whole_in_parts_or_not_at_all() {
        let mappable = |flags, areas: &[(u64, u64)]| {
            Region::parse(0, &answer(flags, 0x4000, areas)).unwrap().mappable().to_vec()
        };
        assert_eq!(mappable(ALL, &[]), vec![0..0x4000; 1]);
        assert_eq!(mappable(ALL, &[(0, 0x1000), (0x3000, 0x1000)]), [0..0x1000, 0x3000..0x4000]);
        assert_eq!(mappable(ALL & !VFIO_REGION_INFO_FLAG_MMAP, &[(0, 0x1000)]), []);
        let wrong = [(0x3000, 0x2000), (u64::MAX, 2), (0x1000, 0)];
        assert_eq!(mappable(ALL, &wrong), []);
    }

    #[test]
    fn a_region_without_bytes_and_an_answer_that_is_cut_off_are_none() {
        assert_eq!(Region::parse(3, &answer(ALL, 0, &[])), None);
        assert_eq!(Region::parse(3, &answer(ALL, 16, &[])[..24]), None);
    }

    #[test]
    fn an_access_that_leaves_its_region_has_no_position() {
        let r = Region::parse(0, &answer(ALL, 16, &[])).unwrap();
        assert_eq!(r.position(12, 4), Some((1 << 40) + 12));
        assert_eq!(r.position(13, 4), None);
        assert_eq!(r.position(u64::MAX, 4), None);
    }

    #[test]
    fn regions_have_the_names_that_operators_know() {
        assert_eq!([0, 5, 6, 7, 9].map(region_name), ["BAR0", "BAR5", "ROM", "config", "vendor's"]);
    }
}
