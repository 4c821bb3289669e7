//! Stock Xen: what a foreign mapping holds is all that protects a frame.
#![expect(unsafe_code, reason = "owners of pages that are numbers")]

use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::seam::{ForeignMap, ForeignPages, Mapping, MappingOwner, Prot};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, PAGE_SIZE};

use super::{Balloon, GFN, GUEST, Host};
use crate::checker::Frame;
use crate::mode::Ports;
use crate::soft::SoftIommu;
use crate::sync::Mutex;

/// Frames that the guest has one after the other.
const FRAMES: usize = 2;

/// A frame ends when it is not the guest's and nobody maps it.
pub(super) struct Stock {
    frames: Vec<Frame>,
    p2m: Mutex<P2m>,
}

struct P2m {
    behind: Option<usize>,
    next: usize,
    maps: [u32; FRAMES],
}

impl Stock {
    pub(super) fn new() -> Arc<Self> {
        let p2m = P2m { behind: Some(0), next: 1, maps: [0; FRAMES] };
        Arc::new(Self { frames: (0..FRAMES).map(|_| Frame::new()).collect(), p2m: Mutex::new(p2m) })
    }

    fn end(&self, p2m: &P2m, frame: usize) {
        if p2m.behind != Some(frame) && p2m.maps[frame] == 0 {
            self.frames[frame].end();
        }
    }

    /// Frame number `n` is mapped at this address, which nobody follows.
    fn address(n: usize) -> NonNull<u8> {
        NonNull::new(std::ptr::without_provenance_mut((n + 1) * PAGE_SIZE)).expect("not zero")
    }
}

impl Host for Stock {
    fn ports(self: Arc<Self>) -> Ports {
        Ports { iommu: None, foreign: Some(Arc::new(Foreign(self))) }
    }

    fn balloon(&self, how: Balloon) {
        let mut p2m = self.p2m.lock();
        let frame = p2m.behind.take().expect("it has one");
        self.end(&p2m, frame);
        if how == Balloon::OutAndIn {
            p2m.behind = Some(p2m.next);
            p2m.next += 1;
        }
    }

    fn reach(&self, soft: Option<&SoftIommu>, bfn: Bfn) {
        let soft = soft.expect("what stock Xen leaves us");
        let pin = soft.pin(bfn).expect("a page is mapped where a PTE or a reference leads");
        self.frames[pin.ptr.as_ptr().addr() / PAGE_SIZE - 1].touch();
        soft.unpin(pin.token);
    }

    fn see(&self, page: NonNull<u8>) {
        self.frames[page.as_ptr().addr() / PAGE_SIZE - 1].touch();
    }

    fn check(&self) {
        let p2m = self.p2m.lock();
        assert_eq!(p2m.maps, [0; FRAMES], "no frame is held");
        for (n, frame) in self.frames.iter().enumerate().take(p2m.next) {
            assert_eq!(frame.has_ended(), p2m.behind != Some(n), "frame {n} ends when it has gone");
        }
    }
}

/// One mapping of a frame, or of a hole.
struct Owner(Arc<Stock>, Option<usize>);

// SAFETY: nobody follows the addresses.
unsafe impl MappingOwner for Owner {
    fn release(&self, _: usize, _: usize) {
        let Some(frame) = self.1 else { return };
        let mut p2m = self.0.p2m.lock();
        p2m.maps[frame] -= 1;
        self.0.end(&p2m, frame);
    }
}

/// The emulator's hand on the hypervisor.
struct Foreign(Arc<Stock>);

impl ForeignMap for Foreign {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], _: Prot) -> Result<ForeignPages, Errno> {
        assert_eq!((domid, gfns), (GUEST, &[GFN][..]), "what the scene maps");
        let mut p2m = self.0.p2m.lock();
        let frame = p2m.behind;
        if let Some(frame) = frame {
            p2m.maps[frame] += 1;
        }
        let owner = Arc::new(Owner(self.0.clone(), frame));
        let mapping = Mapping::new(Stock::address(frame.unwrap_or(FRAMES)), 1, owner);
        Ok(ForeignPages { mapping, errors: vec![frame.is_none().then_some(Errno::EINVAL)] })
    }
}
