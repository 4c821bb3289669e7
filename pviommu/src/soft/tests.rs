use std::sync::Arc;

use xen_ioreq::seam::ForeignMap;
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, Gfn};

use super::*;
use crate::fake::{Fake, Foreign, Kind};

const D: DomId = DomId(1);

fn pages(xen: &Arc<Fake>, n: u64) -> Vec<MappedPage> {
    let gfns: Vec<Gfn> = (0..n).map(Gfn).collect();
    let foreign = Foreign(xen.clone());
    let pages = foreign.map_foreign(D, &gfns, Prot::ReadWrite).unwrap();
    pages.into_pages().into_iter().map(Result::unwrap).collect()
}

fn xen(n: u64) -> Arc<Fake> {
    let xen = Fake::new(Kind::Stock);
    (0..n).for_each(|g| xen.populate(D, Gfn(g)));
    xen
}

fn insert(iommu: &SoftIommu, bfn: Bfn, page: MappedPage) -> bool {
    iommu.insert(bfn, page.ptr(), Some(page))
}

#[test]
fn a_bus_frame_outside_the_window_or_without_a_page_faults() {
    let iommu = SoftIommu::new(Bfn(100), 10);
    for bfn in [0, 99, 100, 109, 100 + 2 * 1024, u64::MAX] {
        assert_eq!(iommu.pin(Bfn(bfn)), Err(NotMapped { bfn: Bfn(bfn) }));
    }
}

#[test]
fn a_pinned_page_is_not_removed() {
    let xen = xen(1);
    let iommu = SoftIommu::new(Bfn(0), 10);
    let page = pages(&xen, 1).pop().unwrap();
    xen.balloon_out(D, Gfn(0));
    assert!(insert(&iommu, Bfn(3), page));
    let pin = iommu.pin(Bfn(3)).unwrap();
    assert!(iommu.remove(Bfn(3)).is_err());
    assert_eq!(xen.frames(), 1);
    iommu.unpin(pin.token);
    assert!(iommu.remove(Bfn(3)).is_ok());
    assert_eq!(xen.frames(), 0);
    assert!(iommu.pin(Bfn(3)).is_err());
}

#[test]
fn a_page_is_not_put_where_one_is() {
    let xen = xen(2);
    let iommu = SoftIommu::new(Bfn(0), 10);
    let mut pages = pages(&xen, 2);
    assert!(insert(&iommu, Bfn(3), pages.pop().unwrap()));
    assert!(!insert(&iommu, Bfn(3), pages.pop().unwrap()));
}

#[test]
fn a_replaced_page_waits_for_its_own_pins_only() {
    let xen = xen(1);
    let iommu = SoftIommu::new(Bfn(0), 10);
    let page = || pages(&xen, 1).pop().unwrap();
    assert!(insert(&iommu, Bfn(3), page()));
    let old = iommu.pin(Bfn(3)).unwrap();
    assert!(iommu.replace(Bfn(3), page()));
    let new = iommu.pin(Bfn(3)).unwrap();
    assert_ne!((old.ptr, old.token), (new.ptr, new.token));
    // Not twice: the first one is still in use.
    assert!(!iommu.replace(Bfn(3), page()));
    assert!(iommu.retire(Bfn(3)).is_err());
    assert_eq!(read(old), 100);
    iommu.unpin(old.token);
    assert!(iommu.retire(Bfn(3)).is_ok());
    assert_eq!(read(new), 100);
    assert!(iommu.remove(Bfn(3)).is_err());
    iommu.unpin(new.token);
    assert!(iommu.remove(Bfn(3)).is_ok());
}

#[test]
fn a_predecessor_that_nobody_retired_goes_with_the_next_one_or_with_the_page() {
    let xen = xen(1);
    let iommu = SoftIommu::new(Bfn(0), 10);
    let page = || pages(&xen, 1).pop().unwrap();
    assert!(insert(&iommu, Bfn(3), page()));
    assert!(iommu.replace(Bfn(3), page()));
    assert!(iommu.replace(Bfn(3), page()));
    xen.balloon_out(D, Gfn(0));
    assert!(iommu.remove(Bfn(3)).is_ok());
    assert_eq!(xen.frames(), 0);
}

#[test]
fn an_unpin_too_many_changes_nothing() {
    let xen = xen(1);
    let iommu = SoftIommu::new(Bfn(0), 10);
    assert!(insert(&iommu, Bfn(3), pages(&xen, 1).pop().unwrap()));
    let pin = iommu.pin(Bfn(3)).unwrap();
    iommu.unpin(pin.token);
    iommu.unpin(pin.token);
    iommu.unpin(u64::MAX);
    assert!(iommu.pin(Bfn(3)).is_ok());
}

/// Devices pin and unpin while pages are replaced and removed under them: what they see is always a page of that gfn.
#[test]
fn devices_never_see_a_page_that_was_unmapped() {
    let xen = xen(1);
    let iommu = SoftIommu::new(Bfn(0), 10);
    let page = || pages(&xen, 1).pop().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(pin) = iommu.pin(Bfn(3)) {
                        assert_eq!(read(pin), 100);
                        iommu.unpin(pin.token);
                    }
                }
            });
        }
        for _ in 0..500 {
            assert!(insert(&iommu, Bfn(3), page()));
            assert!(iommu.replace(Bfn(3), page()));
            while iommu.retire(Bfn(3)).is_err() {
                std::thread::yield_now();
            }
            while iommu.remove(Bfn(3)).is_err() {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    xen.balloon_out(D, Gfn(0));
    assert_eq!(xen.frames(), 0);
}

#[expect(unsafe_code, reason = "looks at what a device would see")]
fn read(pin: SoftPin) -> u64 {
    // SAFETY: a pin is 4096 bytes, valid until it is unpinned.
    unsafe { pin.ptr.cast::<u64>().as_ptr().read_volatile() }
}
