//! What a device reaches: memory of this process at bus frames that the IOMMU translates, and nothing else.
//!
//! A [`DmaSpace`] is a container's or an iommufd's; [`DmaFrames`] puts memory at bus frames that an allocator of `pviommu`
//! chooses; a [`Reach`] is that, until it is dropped. What the IOMMU does not take back is never freed.
#![expect(unsafe_code, reason = "a device is told where to write")]

use std::fmt;
use std::mem::{self, offset_of};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use iommufd_bindings::iommufd::{
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA as IOAS_MAP_FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as IOAS_MAP_READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as IOAS_MAP_WRITEABLE,
};
use parking_lot::Mutex;
use pviommu::{BfnAllocator, BfnBlock, BfnSpace, OwnFrame, OwnFrames, OwnMemory};
use vfio_bindings::bindings::vfio::{
    VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, vfio_iommu_type1_info,
};
use xen_ioreq::seam::{Mapping, MappingOwner};
use xen_ioreq::{Bfn, Errno, PAGE_SHIFT, PAGE_SIZE};

use super::chain::{capabilities, dword, pairs, quad};
use super::error::os;
use super::ioctl::Stretch;
use super::{DmaMemory, VfioError, ioctl};

/// Who translates.
#[derive(Debug)]
enum Translator {
    /// A container with a type 1 IOMMU.
    Container(OwnedFd),
    /// An address space of an iommufd.
    Iommufd { fd: OwnedFd, ioas: u32 },
}

/// The addresses that a device may put on the bus.
#[derive(Debug)]
pub struct DmaSpace {
    translator: Translator,
    ranges: Vec<Range<Bfn>>,
    page_sizes: u64,
    mappings: Option<u32>,
}

/// Whole frames between the first and the last usable byte.
fn frames((first, last): (u64, u64)) -> Range<Bfn> {
    let page = PAGE_SIZE as u128;
    let number = |bytes: u128| u64::try_from(bytes / page).unwrap_or(u64::MAX);
    Bfn(number(u128::from(first) + page - 1))..Bfn(number(u128::from(last) + 1))
}

impl DmaSpace {
    pub(super) fn of_container(container: OwnedFd) -> Result<Self, VfioError> {
        let info = ioctl::iommu_info(&container).map_err(os("VFIO_IOMMU_GET_INFO"))?;
        let (ranges, page_sizes, mappings) = described(&info);
        Ok(Self { translator: Translator::Container(container), ranges, page_sizes, mappings })
    }

    pub(super) fn of_iommufd(fd: OwnedFd, ioas: u32) -> Result<Self, VfioError> {
        let (ranges, alignment) = ioctl::ioas_ranges(&fd, ioas).map_err(os("IOMMU_IOAS_IOVA_RANGES"))?;
        let ranges = ranges.into_iter().map(frames).filter(|r| !r.is_empty()).collect();
        Ok(Self {
            translator: Translator::Iommufd { fd, ioas },
            ranges,
            page_sizes: alignment,
            mappings: None,
        })
    }

    /// The bus frames that can be mapped, ascending.
    pub fn ranges(&self) -> &[Range<Bfn>] {
        &self.ranges
    }

    /// The sizes of pages that the IOMMU takes, in bytes: a bit for each. Of an iommufd the smallest is known only.
    pub fn page_sizes(&self) -> u64 {
        self.page_sizes
    }

    /// How many more mappings there could be, where that is limited.
    pub fn mappings(&self) -> Option<u32> {
        self.mappings
    }

    /// What of `window` can be mapped, for an allocator.
    pub fn bfns(&self, window: Range<Bfn>) -> BfnSpace {
        let mut space = BfnSpace::new(window);
        let mut end = Bfn(0);
        for range in &self.ranges {
            space = space.without(end..range.start);
            end = range.end;
        }
        space.without(end..Bfn(u64::MAX))
    }

    /// # Safety
    /// As [`ioctl::map_dma`].
    unsafe fn map(&self, at: Stretch) -> rustix::io::Result<()> {
        match &self.translator {
            Translator::Container(fd) => {
                let flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
                // SAFETY: the caller's promise.
                unsafe { ioctl::map_dma(fd, at, flags) }
            }
            Translator::Iommufd { fd, ioas } => {
                let flags = IOAS_MAP_FIXED_IOVA | IOAS_MAP_READABLE | IOAS_MAP_WRITEABLE;
                // SAFETY: the caller's promise.
                unsafe { ioctl::ioas_map(fd, *ioas, at, flags) }
            }
        }
    }

    /// When this returns well, the IOMMU has forgotten the stretch, its caches included.
    fn unmap(&self, iova: u64, size: u64) -> Result<(), VfioError> {
        let got = match &self.translator {
            Translator::Container(fd) => ioctl::unmap_dma(fd, iova, size).map_err(os("VFIO_IOMMU_UNMAP_DMA")),
            Translator::Iommufd { fd, ioas } => {
                ioctl::ioas_unmap(fd, *ioas, iova, size).map_err(os("IOMMU_IOAS_UNMAP"))
            }
        }?;
        let bfn = Bfn(iova >> PAGE_SHIFT);
        if got == size { Ok(()) } else { Err(VfioError::Unmapped { bfn, got, wanted: size }) }
    }
}

/// What `VFIO_IOMMU_GET_INFO` says: usable frames, page sizes, mappings that are left. A kernel that tells no ranges has them all.
fn described(info: &[u8]) -> (Vec<Range<Bfn>>, u64, Option<u32>) {
    let flags = dword(info, offset_of!(vfio_iommu_type1_info, flags)).unwrap_or(0);
    let sizes = quad(info, offset_of!(vfio_iommu_type1_info, iova_pgsizes));
    let sizes = sizes.filter(|_| flags & VFIO_IOMMU_INFO_PGSIZES != 0).unwrap_or(PAGE_SIZE as u64);
    let first = dword(info, offset_of!(vfio_iommu_type1_info, cap_offset)).unwrap_or(0);
    let find = |id| capabilities(info, first).find(|c| c.id == id);
    let ranges = match find(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
        Some(capability) => pairs(capability),
        None => vec![(0, u64::MAX)],
    };
    let ranges = ranges.into_iter().map(frames).filter(|r| !r.is_empty()).collect();
    let mappings = find(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL).and_then(|c| dword(c.bytes, 8));
    (ranges, sizes, mappings)
}

/// Memory of this process at a bus frame, until this is dropped.
#[must_use = "what is dropped is out of the device's reach"]
pub struct Reach {
    space: Arc<DmaSpace>,
    bfns: Arc<BfnAllocator>,
    /// `None` only once it is given back.
    block: Option<BfnBlock>,
    memory: Arc<DmaMemory>,
}

impl Reach {
    fn new(space: &Arc<DmaSpace>, bfns: &Arc<BfnAllocator>, memory: &Arc<DmaMemory>) -> Result<Self, Errno> {
        let order = memory.pages().next_power_of_two().trailing_zeros();
        let block = bfns.alloc(order).ok_or(Errno::ENOSPC)?;
        let at = Stretch { address: memory.address(), iova: block.first().addr(), size: memory.bytes() };
        // SAFETY: memory that its owner touches only as what others write to. It lives as long as this, which unmaps it.
        if let Err(e) = unsafe { space.map(at) } {
            bfns.free(block);
            return Err(e.into());
        }
        Ok(Self { space: space.clone(), bfns: bfns.clone(), block: Some(block), memory: memory.clone() })
    }

    /// The bus frame of the first page; those of the others follow.
    pub fn first(&self) -> Bfn {
        self.block.as_ref().map_or(Bfn(0), BfnBlock::first)
    }

    /// What is there.
    pub fn memory(&self) -> &Arc<DmaMemory> {
        &self.memory
    }
}

impl Drop for Reach {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        match self.space.unmap(block.first().addr(), self.memory.bytes()) {
            Ok(()) => self.bfns.free(block),
            Err(e) => {
                log::error!("{e}: {} pages are lost, the device may reach them", self.memory.pages());
                mem::forget(self.memory.clone());
            }
        }
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach")
            .field("first", &self.first())
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// Memory of this process within a device's reach.
pub struct DmaFrames {
    space: Arc<DmaSpace>,
    bfns: Arc<BfnAllocator>,
}

impl DmaFrames {
    /// Memory at bus frames of `window`, as far as they can be mapped: what the device's own address width allows.
    pub fn new(space: Arc<DmaSpace>, window: Range<Bfn>) -> Self {
        let bfns = Arc::new(BfnAllocator::new(&space.bfns(window)));
        Self { space, bfns }
    }

    /// Brings memory within the device's reach, at bus frames of the allocator's choice.
    ///
    /// # Errors
    /// ENOSPC: no bus frames are free. ENOMEM: the kernel does not pin so much for this process (`ulimit -l`).
    pub fn map(&self, memory: &Arc<DmaMemory>) -> Result<Reach, Errno> {
        Reach::new(&self.space, &self.bfns, memory)
    }
}

impl fmt::Debug for DmaFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaFrames").field("space", &self.space).finish_non_exhaustive()
    }
}

impl OwnFrames for DmaFrames {
    /// As [`map`](Self::map).
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        let memory = Arc::new(DmaMemory::new(pages)?);
        let base = memory.page(0).ok_or(Errno::EINVAL)?;
        let reach = self.map(&memory)?;
        let frames = (0..pages as u64).map(|n| OwnFrame::Reachable(Bfn(reach.first().0 + n))).collect();
        let owner = Taken { reach: Mutex::new(Some(reach)), left: AtomicUsize::new(pages) };
        Ok(OwnMemory::new(Mapping::new(base, pages, Arc::new(owner)), frames))
    }
}

/// Out of the device's reach, then freed, when its last page is released.
struct Taken {
    reach: Mutex<Option<Reach>>,
    left: AtomicUsize,
}

// SAFETY: the memory is freed only after every page was released, each exactly once, as the trait says.
unsafe impl MappingOwner for Taken {
    fn release(&self, _first: usize, count: usize) {
        if self.left.fetch_sub(count, Ordering::AcqRel) == count {
            drop(self.reach.lock().take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_frames_between_two_bytes_are_usable() {
        assert_eq!(frames((0, 0xfedf_ffff)), Bfn(0)..Bfn(0xfee00));
        assert_eq!(frames((0xfef0_0001, 0x1_0000_0ffe)), Bfn(0xfef01)..Bfn(0x10_0000));
        assert_eq!(frames((0, u64::MAX)), Bfn(0)..Bfn(1 << 52));
    }

    /// As a kernel with two ranges and 65535 mappings left.
    fn info(first: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |dwords: &[u32]| dwords.iter().for_each(|d| out.extend(d.to_ne_bytes()));
        // struct vfio_iommu_type1_info: argsz, flags, page sizes 4 KiB and 2 MiB, first capability
        put(&[0, 3, 0x20_1000, 0, first, 0]);
        // an iova range: id and version, next, how many
        put(&[1 | 1 << 16, 72, 2, 0, 0, 0, 0xfedf_ffff, 0, 0xfef0_0000, 0, 0xffff_ffff, 0x7f]);
        put(&[3 | 1 << 16, 0, 65535, 0]);
        out
    }

    #[test]
    fn what_can_be_mapped_is_read_from_the_kernels_answer() {
        let (ranges, sizes, mappings) = described(&info(24));
        assert_eq!(ranges, [Bfn(0)..Bfn(0xfee00), Bfn(0xfef00)..Bfn(0x800_0000)]);
        assert_eq!((sizes, mappings), (0x20_1000, Some(65535)));
        let (ranges, _, mappings) = described(&info(0));
        assert_eq!((ranges, mappings), (vec![Bfn(0)..Bfn(1 << 52)], None));
    }

    #[test]
    fn an_allocator_gets_what_lies_in_the_window_and_can_be_mapped() {
        let (ranges, page_sizes, mappings) = described(&info(24));
        let (fd, _) = rustix::pipe::pipe().unwrap();
        let space = DmaSpace { translator: Translator::Container(fd), ranges, page_sizes, mappings };
        let of = |window| space.bfns(window).ranges().collect::<Vec<_>>();
        assert_eq!(of(Bfn(16)..Bfn(0x10000)), [Bfn(16)..Bfn(0x10000)]);
        let around = of(Bfn(0xfed00)..Bfn(0x10_0000));
        assert_eq!(around, [Bfn(0xfed00)..Bfn(0xfee00), Bfn(0xfef00)..Bfn(0x10_0000)]);
        assert_eq!(of(Bfn(0x800_0000)..Bfn(0x900_0000)), []);
    }

    #[test]
    fn memory_that_the_iommu_refuses_is_no_memory_and_its_bus_frames_are_free_again() {
        // A pipe takes no mapping.
        let (fd, _) = rustix::pipe::pipe().unwrap();
        let translator = Translator::Container(fd);
        let space = DmaSpace { translator, ranges: vec![Bfn(0)..Bfn(64)], page_sizes: 4096, mappings: None };
        let frames = DmaFrames::new(Arc::new(space), Bfn(16)..Bfn(32));
        assert_eq!(frames.take(4).unwrap_err(), Errno::ENOTTY);
        assert_eq!(frames.bfns.free_frames(), 16);
        assert_eq!(frames.take(0).unwrap_err(), Errno::EINVAL);
        assert_eq!(frames.take(17).unwrap_err(), Errno::ENOSPC);
    }
}
