//! The soft IOMMU: a device that pins a page, and those who put another behind its bus frame, retire the old one and
//! take all away.
#![expect(unsafe_code, reason = "owners of pages that are numbers")]

use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::seam::{MappedPage, Mapping, MappingOwner};
use xen_ioreq::{Bfn, PAGE_SIZE};

use crate::checker::{Checker, Frame, join, spawn};
use crate::soft::SoftIommu;

const BFN: Bfn = Bfn(5);

/// How the device does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Pins a page, uses it, unpins it.
    Careful,
    /// Uses the page once more when it has unpinned it.
    UsesAfterUnpin,
}

/// Pages that end when they are unmapped.
struct Pages(Vec<Frame>);

/// Page number `n` is at this address, which nobody follows.
fn address(n: usize) -> NonNull<u8> {
    NonNull::new(std::ptr::without_provenance_mut((n + 1) * PAGE_SIZE)).expect("not zero")
}

struct Owner(Arc<Pages>, usize);

// SAFETY: nobody follows the addresses.
unsafe impl MappingOwner for Owner {
    fn release(&self, first: usize, count: usize) {
        assert_eq!((first, count), (0, 1), "one page");
        self.0.0[self.1].end();
    }
}

impl Pages {
    fn new(n: usize) -> Arc<Self> {
        Arc::new(Self((0..n).map(|_| Frame::new()).collect()))
    }

    fn map(self: &Arc<Self>, n: usize) -> MappedPage {
        let mapping = Mapping::new(address(n), 1, Arc::new(Owner(self.clone(), n)));
        mapping.into_pages().pop().expect("one page")
    }

    fn touch(&self, ptr: NonNull<u8>) {
        self.0[ptr.as_ptr().addr() / PAGE_SIZE - 1].touch();
    }

    fn ended(&self) -> usize {
        self.0.iter().filter(|page| page.has_ended()).count()
    }
}

/// A window in which one bus frame has a page.
fn world(pages: &Arc<Pages>) -> Arc<SoftIommu> {
    let iommu = SoftIommu::new(BFN, 1);
    assert!(iommu.insert(BFN, address(0), Some(pages.map(0))), "nothing is there");
    Arc::new(iommu)
}

fn dma(iommu: &SoftIommu, pages: &Pages, device: Device) {
    let Ok(pin) = iommu.pin(BFN) else { return };
    pages.touch(pin.ptr);
    iommu.unpin(pin.token);
    if device == Device::UsesAfterUnpin {
        pages.touch(pin.ptr);
    }
}

/// `devices` pin the page while a fresh one is put behind its bus frame `rounds` times, the old one retired when its pins
/// have gone, and in the end all is taken away: no page ends while it is pinned, all of them end, each once.
pub fn pins_beside_replacement(checker: Checker, devices: usize, rounds: usize, device: Device) -> usize {
    checker.run(move || {
        let pages = Pages::new(rounds + 1);
        let iommu = world(&pages);
        let threads: Vec<_> = (0..devices)
            .map(|_| {
                let (iommu, pages) = (iommu.clone(), pages.clone());
                spawn(move || dma(&iommu, &pages, device))
            })
            .collect();
        for n in 1..=rounds {
            // With a predecessor in use there is no room for another; the fresh one ends then.
            iommu.replace(BFN, pages.map(n));
            drop(iommu.retire(BFN));
        }
        if let Ok(gone) = iommu.remove(BFN) {
            MappedPage::drop_all(gone.collect());
        }
        threads.into_iter().for_each(join);
        if let Ok(gone) = iommu.remove(BFN) {
            MappedPage::drop_all(gone.collect());
        } else {
            panic!("a pin is left when nobody has one");
        }
        assert_eq!(pages.ended(), rounds + 1, "each page ends");
        assert!(iommu.pin(BFN).is_err(), "nothing is there");
    })
}

/// While a device pins, one thread puts a fresh page behind the bus frame, another retires what is old, a third takes all
/// away: whatever comes first, no page ends while it is pinned, none is lost.
pub fn pins_beside_replace_retire_and_remove(checker: Checker) -> usize {
    checker.run(|| {
        let pages = Pages::new(2);
        let iommu = world(&pages);
        let replace = {
            let (iommu, pages) = (iommu.clone(), pages.clone());
            spawn(move || {
                iommu.replace(BFN, pages.map(1));
                drop(iommu.retire(BFN));
            })
        };
        let remove = {
            let iommu = iommu.clone();
            spawn(move || {
                if let Ok(gone) = iommu.remove(BFN) {
                    MappedPage::drop_all(gone.collect());
                }
            })
        };
        dma(&iommu, &pages, Device::Careful);
        join(replace);
        join(remove);
        if let Ok(gone) = iommu.remove(BFN) {
            MappedPage::drop_all(gone.collect());
        }
        assert_eq!(pages.ended(), 2, "each page ends");
    })
}
