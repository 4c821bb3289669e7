//! What the table costs in memory: counted, at sizes just after its indices have doubled or it got a large chunk.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pviommu::{BfnSpace, Client, Config, Mapped, Ports};
use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_all_mfns, IOMMU_QUERY_map_cap, IOMMUOP_lookup_foreign_page, IOMMUOP_query_caps,
    IOMMUOP_unmap_foreign_page, pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

struct Counting(AtomicUsize);

#[global_allocator]
static HEAP: Counting = Counting(AtomicUsize::new(0));

// SAFETY: the system's allocator does the work; counting changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// A hypervisor that agrees to everything, and where it tells bus frames, tells the frame's own number.
struct Agrees {
    caps: u16,
}

impl IommuOp for Agrees {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        for op in ops {
            op.status = if op.subop_id > IOMMUOP_unmap_foreign_page { Errno::ENOSYS.status() } else { 0 };
            if op.subop_id == IOMMUOP_query_caps {
                op.flags = self.caps;
            } else if op.subop_id == IOMMUOP_lookup_foreign_page {
                op.bfn = op.gfn;
            }
        }
        Ok(())
    }
}

/// Both modes in one test: the counter is of the whole process.
#[test]
fn a_live_mapping_costs_at_most_64_bytes() {
    costs_at_most_64_bytes(IOMMU_QUERY_map_cap, "map");
    costs_at_most_64_bytes(IOMMU_QUERY_map_all_mfns, "lookup");
}

fn costs_at_most_64_bytes(caps: u16, mode: &str) {
    let config =
        Config { bfns: BfnSpace::new(Bfn(0)..Bfn(1 << 21)), max_per_guest: u32::MAX, ..Config::default() };
    let ports = Ports { iommu: Some(Arc::new(Agrees { caps })), foreign: None };
    let client = Client::start(ports, config).unwrap();
    let guest = client.attach(DomId(1), IoServerId(0)).unwrap();
    let before = HEAP.0.load(Ordering::Relaxed);
    let mut held: Vec<Mapped> = Vec::with_capacity(1_000_000);
    let own = held.capacity() * size_of::<Mapped>();
    // Shards double at about 81920, 163840, 327680, 655360; chunks are large from 65536 on, of told bus frames from 262144.
    for n in [
        60_000, 65_600, 82_000, 85_000, 131_100, 164_000, 168_000, 262_200, 328_000, 335_000, 393_300,
        656_000, 670_000, 1_000_000,
    ] {
        let gfns: Vec<Gfn> = (held.len() as u64..n).map(Gfn).collect();
        for batch in gfns.chunks(1024) {
            held.extend(guest.map(batch).into_iter().map(Result::unwrap));
        }
        drop(gfns);
        let bytes = HEAP.0.load(Ordering::Relaxed) - before - own;
        let each = bytes / held.len();
        assert!((20..=64).contains(&each), "{mode}: {each} bytes each of {n}");
    }
}
