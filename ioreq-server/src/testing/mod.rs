//! What the unit tests and the fuzz targets share: pages of plain memory behind the seam's types, a toy device, a naive
//! interpreter of the protocol.
#![expect(unsafe_code, reason = "pages of plain memory stand for shared ones")]

pub(crate) mod naive;
pub(crate) mod toy;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use xen_ioreq::seam::{EventChannels, ForeignMap, ForeignPages, Mapping, MappingOwner, Prot};
use xen_ioreq::{DomId, Errno, Gfn, PAGE_SIZE, Port};

/// Numbers that look random and are the same each time: splitmix64.
#[cfg(test)]
pub(crate) struct Random(pub(crate) u64);

#[cfg(test)]
impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`, or 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap()
    }

    /// One of a list.
    pub(crate) fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Zeroed pages, alive as long as this or a mapping of them.
#[derive(Clone)]
pub(crate) struct Pages(Arc<Heap>);

struct Heap {
    base: NonNull<u8>,
    count: usize,
}

// SAFETY: all accesses below are atomic, and so are those of who is tested.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}
// SAFETY: the pages live until the last reference to the heap is gone; a mapping holds one.
unsafe impl MappingOwner for Heap {
    fn release(&self, _: usize, _: usize) {}
}

fn layout(count: usize) -> Layout {
    Layout::from_size_align(count * PAGE_SIZE, PAGE_SIZE).unwrap()
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `Pages::new` with the same layout.
        unsafe { dealloc(self.base.as_ptr(), layout(self.count)) }
    }
}

impl Pages {
    pub(crate) fn new(count: usize) -> Self {
        // SAFETY: the layout is not empty.
        let base = NonNull::new(unsafe { alloc_zeroed(layout(count)) });
        Self(Arc::new(Heap { base: base.unwrap_or_else(|| handle_alloc_error(layout(count))), count }))
    }

    pub(crate) fn mapping(&self) -> Mapping {
        Mapping::new(self.0.base, self.0.count, self.0.clone())
    }

    /// First byte of a page; valid as long as the pages are.
    pub(crate) fn page(&self, index: usize) -> NonNull<u8> {
        assert!(index < self.0.count);
        // SAFETY: inside the allocation.
        unsafe { self.0.base.add(index * PAGE_SIZE) }
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.0.count * PAGE_SIZE);
        // SAFETY: inside the pages, which live as long as `self`.
        unsafe { AtomicU8::from_ptr(self.0.base.as_ptr().add(at)) }
    }

    pub(crate) fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.byte(at + i).load(Ordering::SeqCst))
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        for (i, b) in bytes.iter().enumerate() {
            self.byte(at + i).store(*b, Ordering::SeqCst);
        }
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.read(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.read(at))
    }
}

/// Guest memory from frame 0 on, with holes.
pub(crate) struct Ram {
    pub(crate) pages: Pages,
    pub(crate) holes: Vec<Gfn>,
    /// Mappings made.
    pub(crate) maps: Mutex<usize>,
}

impl Ram {
    pub(crate) fn new(count: usize, holes: &[u64]) -> Arc<Self> {
        let holes = holes.iter().map(|g| Gfn(*g)).collect();
        Arc::new(Self { pages: Pages::new(count), holes, maps: Mutex::new(0) })
    }
}

impl ForeignMap for Ram {
    fn map_foreign(&self, _: DomId, gfns: &[Gfn], _: Prot) -> Result<ForeignPages, Errno> {
        let [gfn] = gfns else { return Err(Errno::EINVAL) };
        *self.maps.lock() += 1;
        let index = usize::try_from(gfn.0).unwrap();
        let hole = self.holes.contains(gfn) || index >= self.pages.0.count;
        // A hole has pages too: who touches them in spite of the error is not punished here.
        let at = if hole { 0 } else { index * PAGE_SIZE };
        // SAFETY: inside the allocation.
        let base = unsafe { self.pages.0.base.add(at) };
        let mapping = Mapping::new(base, 1, self.pages.0.clone());
        Ok(ForeignPages { mapping, errors: vec![hole.then_some(Errno::ENOENT)] })
    }
}

/// Event channels that record what was sent.
#[derive(Default)]
pub(crate) struct Sent(pub(crate) Mutex<Vec<Port>>);

impl EventChannels for Sent {
    fn pollable(&self) -> BorrowedFd<'_> {
        unimplemented_here()
    }
    fn bind_interdomain(&self, _: DomId, _: Port) -> Result<Port, Errno> {
        Err(Errno::ENOSYS)
    }
    fn bind_unbound(&self, _: DomId) -> Result<Port, Errno> {
        Err(Errno::ENOSYS)
    }
    fn unbind(&self, _: Port) -> Result<(), Errno> {
        Ok(())
    }
    fn notify(&self, port: Port) -> Result<(), Errno> {
        self.0.lock().push(port);
        Ok(())
    }
    fn pending(&self, _: &mut [Port]) -> Result<usize, Errno> {
        Ok(0)
    }
    fn unmask(&self, _: &[Port]) -> Result<(), Errno> {
        Ok(())
    }
    fn reset_ring(&self) -> Result<(), Errno> {
        Ok(())
    }
}

fn unimplemented_here() -> ! {
    panic!("no test polls these")
}
