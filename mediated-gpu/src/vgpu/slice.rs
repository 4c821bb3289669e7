//! A guest's slice of graphics memory: a low part behind the aperture, a high part beyond it, and fences.
//!
//! Addresses are not translated: what a guest calls GM address X is X in the physical table, and PVINFO tells
//! it which part is its own. So a slice is a real allocation, and slices never overlap each other or the host's.

use std::collections::BTreeMap;

use xen_ioreq::{PAGE_MASK, PAGE_SHIFT};

/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;
/// Fence registers of gen8 hardware.
pub const FENCES: u32 = 32;

/// Size of a slice. Sizes in bytes, multiples of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceSize {
    /// Graphics memory behind the aperture.
    pub low: u64,
    /// Graphics memory beyond the aperture.
    pub high: u64,
    /// Fence registers.
    pub fences: u32,
}

/// The sizes as operators know them from GVT-g (`GVTg_V4_1` and so on, i915 `gvt/vgpu.c`): the number says how many
/// fit on a GPU with a 1 GiB aperture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VgpuType {
    /// 512 MiB low, 2 GiB high.
    V4_1,
    /// 256 MiB low, 1 GiB high.
    V4_2,
    /// 128 MiB low, 512 MiB high.
    V4_4,
    /// 64 MiB low, 384 MiB high.
    V4_8,
    /// Another size, for tests and for guests that need little.
    Custom(SliceSize),
}

impl VgpuType {
    /// The types that have names, the largest first.
    pub const NAMED: [Self; 4] = [Self::V4_1, Self::V4_2, Self::V4_4, Self::V4_8];

    /// The type of this size, by its name if it has one.
    pub fn of_size(size: SliceSize) -> Self {
        Self::NAMED.into_iter().find(|kind| kind.size() == size).unwrap_or(Self::Custom(size))
    }

    /// The size of the type.
    pub const fn size(self) -> SliceSize {
        let (low, high) = match self {
            Self::V4_1 => (512, 2048),
            Self::V4_2 => (256, 1024),
            Self::V4_4 => (128, 512),
            Self::V4_8 => (64, 384),
            Self::Custom(size) => return size,
        };
        SliceSize { low: low * MIB, high: high * MIB, fences: 4 }
    }

    /// Its weight among others, as in i915 `gvt/vgpu.c`; of another size, a weight for each 32 MiB of low memory, 1 to 16.
    pub fn weight(self) -> u32 {
        u32::try_from(self.size().low / (32 * MIB)).unwrap_or(u32::MAX).clamp(1, 16)
    }
}

/// A stretch of graphics memory: bytes `base .. base + size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GmRange {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl GmRange {
    /// First byte after the range.
    pub const fn end(self) -> u64 {
        self.base.saturating_add(self.size)
    }

    /// Whether bytes `addr .. addr + len` all lie inside. A length of 0 counts as 1.
    pub const fn contains(self, addr: u64, len: u64) -> bool {
        let len = if len == 0 { 1 } else { len };
        match addr.checked_add(len) {
            Some(end) => addr >= self.base && end <= self.end(),
            None => false,
        }
    }

    /// Page-table indexes of the range.
    fn pages(self) -> std::ops::Range<u32> {
        index_of(self.base)..index_of(self.end())
    }
}

/// The index of the entry that maps a GM address; addresses beyond any table give an index beyond any table.
pub(crate) fn index_of(addr: u64) -> u32 {
    u32::try_from(addr >> PAGE_SHIFT).unwrap_or(u32::MAX)
}

/// A slice, allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The part behind the aperture.
    pub low: GmRange,
    /// The part beyond it.
    pub high: GmRange,
    /// Fence registers of the guest, numbered from 0 for it.
    pub fences: u32,
}

impl Slice {
    /// Whether bytes `addr .. addr + len` lie in one part of the slice.
    pub const fn contains(&self, addr: u64, len: u64) -> bool {
        self.low.contains(addr, len) || self.high.contains(addr, len)
    }

    /// Entries of the slice.
    pub fn entries(&self) -> usize {
        self.low.pages().len().saturating_add(self.high.pages().len())
    }

    /// Where entry `index` of the physical table stands among the slice's entries, if it is one of them.
    pub fn position(&self, index: u32) -> Option<usize> {
        let (low, high) = (self.low.pages(), self.high.pages());
        let offset = if low.contains(&index) {
            index - low.start
        } else if high.contains(&index) {
            (index - high.start).checked_add(u32::try_from(low.len()).ok()?)?
        } else {
            return None;
        };
        usize::try_from(offset).ok()
    }

    /// The index in the physical table of the entry at `position`: the way back.
    pub fn index(&self, position: usize) -> Option<u32> {
        let position = u32::try_from(position).ok()?;
        let (low, high) = (self.low.pages(), self.high.pages());
        let low_len = u32::try_from(low.len()).ok()?;
        if position < low_len {
            return low.start.checked_add(position);
        }
        high.start.checked_add(position - low_len).filter(|index| high.contains(index))
    }

    /// Every index of the slice in the physical table, low part first: the order of [`position`](Self::position).
    pub fn indexes(&self) -> impl Iterator<Item = u32> + use<> {
        self.low.pages().chain(self.high.pages())
    }
}

/// How the physical table is divided. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GmLayout {
    /// Size of the aperture: low parts end here.
    pub aperture: u64,
    /// What the whole table maps.
    pub total: u64,
    /// What the mediator keeps for its own contexts, rings and batches, at the end of the table.
    pub host: u64,
}

/// A slice could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// The part behind the aperture does not fit any more.
    #[error("no {wanted} MiB of low graphics memory left (largest free piece: {free} MiB)")]
    NoLow {
        /// MiB asked for.
        wanted: u64,
        /// MiB of the largest gap.
        free: u64,
    },
    /// The part beyond the aperture does not fit any more.
    #[error("no {wanted} MiB of high graphics memory left (largest free piece: {free} MiB)")]
    NoHigh {
        /// MiB asked for.
        wanted: u64,
        /// MiB of the largest gap.
        free: u64,
    },
    /// Not so many fences are left.
    #[error("no {wanted} fence registers left ({free} free)")]
    NoFences {
        /// Fences asked for.
        wanted: u32,
        /// Fences left.
        free: u32,
    },
    /// A place that is not free, or beyond the table.
    #[error("graphics memory at {base:#x} ({size:#x} bytes) is not free")]
    Taken {
        /// First byte.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// A size that is zero where it must not be, or not a multiple of a page.
    #[error("a slice needs some low memory, and sizes that are multiples of 4096 bytes")]
    BadSize,
}

/// Hands out slices. First fit, lowest address first.
#[derive(Clone, Debug)]
pub struct SliceAllocator {
    low: Space,
    high: Space,
    fences_free: u32,
    host: GmRange,
}

/// One part of the table, and what is taken of it: base to size.
#[derive(Clone, Debug)]
struct Space {
    range: GmRange,
    taken: BTreeMap<u64, u64>,
}

impl Space {
    /// Takes `size` bytes; the error is the size of the largest gap.
    fn take(&mut self, size: u64) -> Result<GmRange, u64> {
        let (mut at, mut largest) = (self.range.base, 0);
        let ends = self.taken.iter().map(|(base, size)| (*base, *size)).chain([(self.range.end(), 0)]);
        let mut found = None;
        for (base, taken) in ends {
            let gap = base.saturating_sub(at);
            if gap >= size {
                found = Some(at);
                break;
            }
            largest = largest.max(gap);
            at = base.saturating_add(taken);
        }
        let base = found.ok_or(largest)?;
        if size > 0 {
            self.taken.insert(base, size);
        }
        Ok(GmRange { base, size })
    }

    /// Takes these bytes, if they are free.
    fn take_at(&mut self, range: GmRange) -> Result<(), SliceError> {
        let GmRange { base, size } = range;
        let end = base.checked_add(size).filter(|end| base >= self.range.base && *end <= self.range.end());
        let before = self.taken.range(..=base).next_back();
        let free = |end: u64| {
            before.is_none_or(|(at, size)| at.saturating_add(*size) <= base)
                && self.taken.range(base..).next().is_none_or(|(at, _)| *at >= end)
        };
        if size > 0 {
            end.filter(|end| free(*end)).ok_or(SliceError::Taken { base, size })?;
            self.taken.insert(base, size);
        }
        Ok(())
    }

    fn give_back(&mut self, range: GmRange) {
        if self.taken.get(&range.base) == Some(&range.size) {
            self.taken.remove(&range.base);
        }
    }
}

impl SliceAllocator {
    /// Divides the table. Parts of `layout` that exceed `total` are cut to it.
    pub fn new(layout: GmLayout) -> Self {
        let total = layout.total & !PAGE_MASK;
        let aperture = (layout.aperture & !PAGE_MASK).min(total);
        let host = (layout.host & !PAGE_MASK).min(total - aperture);
        let high_size = total - aperture - host;
        Self {
            low: Space { range: GmRange { base: 0, size: aperture }, taken: BTreeMap::new() },
            high: Space { range: GmRange { base: aperture, size: high_size }, taken: BTreeMap::new() },
            fences_free: FENCES,
            host: GmRange { base: aperture + high_size, size: host },
        }
    }

    /// What the mediator keeps for itself.
    pub fn host(&self) -> GmRange {
        self.host
    }

    /// Takes a slice.
    pub fn allocate(&mut self, size: SliceSize) -> Result<Slice, SliceError> {
        if size.low == 0 || size.low & PAGE_MASK != 0 || size.high & PAGE_MASK != 0 {
            return Err(SliceError::BadSize);
        }
        let Some(fences_free) = self.fences_free.checked_sub(size.fences) else {
            return Err(SliceError::NoFences { wanted: size.fences, free: self.fences_free });
        };
        let low = self
            .low
            .take(size.low)
            .map_err(|free| SliceError::NoLow { wanted: size.low / MIB, free: free / MIB })?;
        let high = match self.high.take(size.high) {
            Ok(high) => high,
            Err(free) => {
                self.low.give_back(low);
                return Err(SliceError::NoHigh { wanted: size.high / MIB, free: free / MIB });
            }
        };
        self.fences_free = fences_free;
        Ok(Slice { low, high, fences: size.fences })
    }

    /// Takes this slice and no other.
    pub fn allocate_at(&mut self, slice: Slice) -> Result<(), SliceError> {
        let Slice { low, high, fences } = slice;
        if low.size == 0 || [low.base, low.size, high.base, high.size].iter().any(|v| v & PAGE_MASK != 0) {
            return Err(SliceError::BadSize);
        }
        let Some(fences_free) = self.fences_free.checked_sub(fences) else {
            return Err(SliceError::NoFences { wanted: fences, free: self.fences_free });
        };
        self.low.take_at(low)?;
        self.high.take_at(high).inspect_err(|_| self.low.give_back(low))?;
        self.fences_free = fences_free;
        Ok(())
    }

    /// How many slices of a size could be taken now, one after the other: what mdev calls `available_instances`.
    pub fn available(&self, size: SliceSize) -> u32 {
        let mut rest = self.clone();
        let mut count = 0;
        while rest.allocate(size).is_ok() {
            count += 1;
        }
        count
    }

    /// Takes a slice back. The caller has pointed its entries at scratch.
    pub fn free(&mut self, slice: Slice) {
        self.low.give_back(slice.low);
        self.high.give_back(slice.high);
        self.fences_free = self.fences_free.saturating_add(slice.fences).min(FENCES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: GmLayout = GmLayout { aperture: 256 * MIB, total: 4096 * MIB, host: 64 * MIB };

    #[test]
    fn four_of_the_smallest_type_fit_in_256_mib_and_the_fifth_is_told_why_not() {
        let mut a = SliceAllocator::new(LAYOUT);
        let slices: Vec<_> = (0..4).map(|_| a.allocate(VgpuType::V4_8.size()).unwrap()).collect();
        assert_eq!(a.allocate(VgpuType::V4_8.size()), Err(SliceError::NoLow { wanted: 64, free: 0 }));
        for (i, s) in slices.iter().enumerate() {
            for t in slices.iter().skip(i + 1) {
                assert!(s.low.end() <= t.low.base && s.high.end() <= t.high.base);
            }
            assert!(s.low.end() <= LAYOUT.aperture && s.high.base >= LAYOUT.aperture);
            assert!(s.high.end() <= a.host().base);
        }
        a.free(slices[1]);
        assert_eq!(a.allocate(VgpuType::V4_8.size()), Ok(slices[1]));
    }

    #[test]
    fn available_instances_go_down_with_what_there_is_and_come_back() {
        let of = |a: &SliceAllocator| VgpuType::NAMED.map(|kind| a.available(kind.size()));
        let mut a = SliceAllocator::new(GmLayout { aperture: 1024 * MIB, ..LAYOUT });
        // The high part is what is short: 3 GiB less the host's.
        assert_eq!(of(&a), [1, 2, 5, 7]);
        let large = a.allocate(VgpuType::V4_2.size()).unwrap();
        let small = a.allocate(VgpuType::V4_8.size()).unwrap();
        assert_eq!(of(&a), [0, 1, 3, 4]);
        a.free(large);
        // In two pieces: what is behind the small one, and what was the large one's.
        assert_eq!(of(&a), [0, 2, 5, 6]);
        a.free(small);
        assert_eq!(of(&a), [1, 2, 5, 7]);
        let few = SliceAllocator::new(LAYOUT);
        assert_eq!(of(&few), [0, 1, 2, 4]);
    }

    #[test]
    fn a_slice_is_taken_again_where_it_was_unless_somebody_is_there() {
        let mut a = SliceAllocator::new(LAYOUT);
        let slices: Vec<_> = (0..3).map(|_| a.allocate(VgpuType::V4_8.size()).unwrap()).collect();
        for s in &slices {
            assert!(matches!(a.allocate_at(*s), Err(SliceError::Taken { .. })));
        }
        a.free(slices[1]);
        let part = |base: u64, size: u64| Slice { low: GmRange { base, size }, ..slices[1] };
        for (base, size) in
            [(63 * MIB, 2 * MIB), (127 * MIB, 2 * MIB), (65 * MIB, 64 * MIB), (256 * MIB, MIB), (!4095, 4096)]
        {
            assert_eq!(a.allocate_at(part(base, size)), Err(SliceError::Taken { base, size }));
        }
        assert_eq!(a.allocate_at(part(64 * MIB + 1, MIB)), Err(SliceError::BadSize));
        assert_eq!(a.allocate_at(part(64 * MIB, 0)), Err(SliceError::BadSize));
        // Nothing of what was refused is taken.
        assert_eq!(a.allocate_at(slices[1]), Ok(()));
        assert_eq!(a.available(VgpuType::V4_8.size()), 1);
    }

    #[test]
    fn failure_in_the_high_part_leaves_the_low_part_free() {
        let mut a = SliceAllocator::new(LAYOUT);
        let huge = SliceSize { low: MIB, high: 1 << 40, fences: 0 };
        assert!(matches!(a.allocate(huge), Err(SliceError::NoHigh { .. })));
        let whole = SliceSize { low: 256 * MIB, high: 0, fences: 32 };
        let s = a.allocate(whole).unwrap();
        assert_eq!(s.low, GmRange { base: 0, size: 256 * MIB });
        assert!(matches!(
            a.allocate(SliceSize { low: 4096, high: 0, fences: 1 }),
            Err(SliceError::NoFences { .. })
        ));
    }

    #[test]
    fn size_that_is_no_multiple_of_a_page_is_refused() {
        let mut a = SliceAllocator::new(LAYOUT);
        for size in [
            SliceSize { low: 0, high: 4096, fences: 0 },
            SliceSize { low: 5000, high: 4096, fences: 0 },
            SliceSize { low: 4096, high: 1, fences: 0 },
        ] {
            assert_eq!(a.allocate(size), Err(SliceError::BadSize));
        }
    }

    #[test]
    fn position_and_indexes_agree_and_nothing_else_has_a_position() {
        let mut a = SliceAllocator::new(LAYOUT);
        a.allocate(SliceSize { low: 8192, high: 4096, fences: 0 }).unwrap();
        let s = a.allocate(SliceSize { low: 3 * 4096, high: 2 * 4096, fences: 0 }).unwrap();
        let indexes: Vec<_> = s.indexes().collect();
        assert_eq!(indexes, [2, 3, 4, 65537, 65538]);
        for (position, index) in indexes.iter().enumerate() {
            assert_eq!(s.position(*index), Some(position));
            assert_eq!(s.index(position), Some(*index));
        }
        assert_eq!(s.index(indexes.len()), None);
        for index in [0, 1, 5, 65536, 65539, u32::MAX] {
            assert_eq!(s.position(index), None);
        }
        assert_eq!(s.entries(), 5);
    }

    #[test]
    fn range_that_wraps_or_leaves_the_slice_is_not_contained() {
        let r = GmRange { base: 4096, size: 8192 };
        assert!(r.contains(4096, 8192) && r.contains(12287, 1));
        assert!(!r.contains(4095, 1) && !r.contains(12287, 2) && !r.contains(12288, 0));
        assert!(!r.contains(u64::MAX, 2) && !r.contains(8192, u64::MAX));
    }
}
