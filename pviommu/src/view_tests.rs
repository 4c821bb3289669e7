//! What a process sees of a physical device's bus, and the pages of its own that it shows there.

use std::sync::Arc;

use proptest::prelude::*;
use xen_ioreq::seam::MappingOwner;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId, PAGE_SIZE};

use crate::fake::{Fake, Foreign, Gpu, Kind, OFFSET};
use crate::*;

const D: DomId = DomId(3);
const KINDS: [Kind; 2] = [Kind::Draft, Kind::Shipped];

struct World {
    xen: Arc<Fake>,
    client: Client,
    guest: Guest,
}

fn world(kind: Kind, frames: u64) -> World {
    let xen = Fake::new(kind);
    let ports = Ports { iommu: Some(xen.clone()), foreign: Some(Arc::new(Foreign(xen.clone()))) };
    let client = Client::start(ports, Config { device: Device::Physical, ..Config::default() }).unwrap();
    let guest = client.attach(D, IoServerId(1)).unwrap();
    (0..frames).for_each(|gfn| xen.populate(D, Gfn(gfn)));
    World { xen, client, guest }
}

impl World {
    fn view(&self) -> &View {
        self.client.view().unwrap()
    }

    fn seen(&self, bfn: Bfn) -> Option<u64> {
        let pin = self.view().pin(bfn).ok()?;
        let mfn = read(pin);
        self.view().unpin(pin.token);
        Some(mfn)
    }

    fn release(&self, draining: impl IntoIterator<Item = Draining>) -> Released {
        let (quiesced, held) = self.client.quiesce(draining, &Gpu::default());
        assert!(held.is_empty());
        self.client.release(quiesced)
    }
}

#[expect(unsafe_code, reason = "looks at what a process would see")]
fn read(pin: SoftPin) -> u64 {
    // SAFETY: a pin is 4096 bytes, valid until it is unpinned.
    unsafe { pin.ptr.cast::<u64>().as_ptr().read_volatile() }
}

#[test]
fn only_a_process_with_a_physical_device_and_foreign_mappings_sees_its_bus() {
    let xen = Fake::new(Kind::Draft);
    let start = |device, foreign: bool| {
        let foreign = foreign.then(|| Arc::new(Foreign(xen.clone())) as _);
        let ports = Ports { iommu: Some(xen.clone()), foreign };
        Client::start(ports, Config { device, ..Config::default() }).unwrap()
    };
    assert!(start(Device::Physical, true).view().is_some());
    assert!(start(Device::Physical, false).view().is_none());
    assert!(start(Device::Software, true).view().is_none());
}

#[test]
fn a_frame_is_seen_from_its_mapping_to_its_release_and_held_no_longer() {
    for kind in KINDS {
        let w = world(kind, 4);
        let m = w.guest.map_one(Gfn(2)).unwrap();
        let (bfn, mfn) = (m.bfn(), w.xen.mfn(D, Gfn(2)));
        assert_eq!(w.seen(bfn), mfn, "{kind:?}");
        assert_eq!(w.seen(Bfn(bfn.0 + 1)), None);
        w.xen.balloon_out(D, Gfn(2));
        assert_eq!(w.seen(bfn), mfn, "what was not announced is seen as it was");
        assert_eq!(w.xen.frames(), 4, "and held");
        let released = w.release(m.put());
        assert_eq!((released.mappings, released.failed.len()), (1, 0));
        assert_eq!((w.seen(bfn), w.xen.frames()), (None, 3));
    }
}

#[test]
fn what_a_notice_may_have_changed_is_looked_at_afresh() {
    for kind in KINDS {
        let w = world(kind, 4);
        let [same, other] = [1, 2].map(|gfn| w.guest.map_one(Gfn(gfn)).unwrap());
        let before = [&same, &other].map(|m| w.seen(m.bfn()));
        w.xen.balloon_out(D, Gfn(2));
        w.xen.populate(D, Gfn(2));
        w.guest.notice(EVERYTHING);
        let draining = w.guest.take_draining().unwrap();
        assert_eq!(w.seen(same.bfn()), before[0]);
        // Its mapping is stale, and not seen as somebody else's: the guest has another frame there.
        assert_eq!(w.seen(other.bfn()), w.xen.mfn(D, Gfn(2)), "{kind:?}");
        assert_ne!(w.seen(other.bfn()), before[1]);
        drop((same, other));
        // The shipped interface is asked by mapping: what it says of the new frame is a mapping, which nobody wants.
        let gone = if kind == Kind::Shipped { 2 } else { 1 };
        assert_eq!(w.release(draining).mappings, gone, "{kind:?}");
        assert_eq!(w.release(w.guest.die()).failed.len(), 0);
        assert_eq!(w.xen.frames(), 4);
    }
}

#[test]
fn a_page_that_is_being_looked_at_stays_mapped_and_is_released_after_that() {
    for kind in KINDS {
        let w = world(kind, 4);
        let [seen, other] = [1, 2].map(|gfn| w.guest.map_one(Gfn(gfn)).unwrap());
        let pin = w.view().pin(seen.bfn()).unwrap();
        let mfn = read(pin);
        w.xen.balloon_out(D, Gfn(1));
        let draining: Vec<_> = [seen.put(), other.put()].into_iter().flatten().collect();
        let released = w.release(draining);
        assert_eq!(released.mappings, 1, "the other one");
        let [(again, ReleaseError::Pinned { gfn: Gfn(1), .. })] =
            <[_; 1]>::try_from(released.failed).unwrap()
        else {
            panic!("{kind:?}")
        };
        assert_eq!((read(pin), w.xen.frames()), (mfn, 4));
        w.view().unpin(pin.token);
        assert_eq!(w.release([again]).mappings, 1);
        assert_eq!(w.xen.frames(), 3);
    }
}

#[test]
fn a_frame_that_cannot_be_mapped_is_not_seen_and_no_harm_is_done() {
    let w = world(Kind::Draft, 4);
    let m = w.guest.map_one(Gfn(1)).unwrap();
    w.xen.foreign_fails(Some(Errno::ENOMEM));
    assert_eq!(w.seen(m.bfn()), None);
    w.xen.foreign_fails(None);
    assert_eq!(w.seen(m.bfn()), w.xen.mfn(D, Gfn(1)));
    assert_eq!(w.release(m.put()).mappings, 1);
    assert_eq!(w.xen.frames(), 4);
}

#[test]
fn of_many_pages_the_first_that_were_mapped_make_room_and_the_rest_stay() {
    let frames = 4096 + 300;
    let w = world(Kind::Draft, frames);
    let all: Vec<_> = (0..frames).map(|gfn| w.guest.map_one(Gfn(gfn)).unwrap()).collect();
    let pin = w.view().pin(all[0].bfn()).unwrap();
    let calls = w.xen.calls();
    let wrong = all.iter().zip(0..).filter(|(m, gfn)| w.seen(m.bfn()) != w.xen.mfn(D, Gfn(*gfn))).count();
    assert_eq!((wrong, w.xen.calls() - calls), (0, usize::try_from(frames).unwrap() - 1));
    let calls = w.xen.calls();
    let last = &all[all.len() - 4000..];
    last.iter().for_each(|m| assert!(w.seen(m.bfn()).is_some()));
    assert_eq!(w.xen.calls(), calls, "those are mapped still");
    assert_eq!(Some(read(pin)), w.xen.mfn(D, Gfn(0)), "the pinned one has stayed");
    w.view().unpin(pin.token);
    let draining: Vec<_> = all.into_iter().filter_map(Mapped::put).collect();
    assert_eq!(w.release(draining).mappings as u64, frames);
    (0..frames).for_each(|gfn| w.xen.balloon_out(D, Gfn(gfn)));
    assert_eq!(w.xen.frames(), 0);
}

/// Pages that nobody else has.
fn pool(pages: usize, mode: &Mode) -> OwnPool {
    struct Leaked;
    #[expect(unsafe_code, reason = "the contract between a mapping and who made it")]
    // SAFETY: the pages are never freed.
    unsafe impl MappingOwner for Leaked {
        fn release(&self, _: usize, _: usize) {}
    }
    let memory = ProcessMemory.take(pages).unwrap();
    let base = memory.page(0).unwrap();
    std::mem::forget(memory);
    let gfns: Vec<Gfn> = (0..pages as u64).map(|n| Gfn(0x500 + 2 * n)).collect();
    OwnPool::new(xen_ioreq::seam::Mapping::new(base, pages, Arc::new(Leaked)), &gfns, mode)
}

#[test]
fn own_pages_are_seen_where_a_device_reaches_them_until_they_are_given_back() {
    for kind in KINDS {
        let w = world(kind, 1);
        let pool = pool(8, w.client.mode());
        let own = w.client.own(3, &pool).unwrap();
        assert_eq!(pool.free_pages(), 5);
        for i in 0..3 {
            let pin = w.view().pin(own.bfn(i).unwrap()).unwrap();
            assert_eq!(Some(pin.ptr), own.ptr(i));
            w.view().unpin(pin.token);
            if kind == Kind::Shipped {
                assert_eq!(own.bfn(i), Some(Bfn(0x500 + 2 * i as u64 + OFFSET)));
            }
        }
        let first = own.bfn(0).unwrap();
        let pin = w.view().pin(first).unwrap();
        let pinned = w.client.own(2, &pool).unwrap();
        w.client.release_own(pinned, &Gpu::default()).unwrap();
        assert_eq!(pool.free_pages(), 5);
        w.view().unpin(pin.token);
        w.client.release_own(own, &Gpu::default()).unwrap();
        assert_eq!((pool.free_pages(), w.view().pin(first).is_err()), (8, true));
    }
}

#[test]
fn own_pages_that_are_lost_or_looked_at_are_nobody_elses() {
    for kind in KINDS {
        let w = world(kind, 1);
        let pool = pool(8, w.client.mode());
        drop(w.client.own(3, &pool).unwrap());
        assert_eq!(pool.free_pages(), 5, "a device may reach them");
        let own = w.client.own(2, &pool).unwrap();
        let bfn = own.bfn(1).unwrap();
        let _pin = w.view().pin(bfn).unwrap();
        assert_eq!(w.client.release_own(own, &Gpu::default()), Err(OwnError::Pinned { bfn }));
        assert_eq!(pool.free_pages(), 3);
    }
}

#[test]
fn own_pages_out_of_sight_are_refused_and_come_back() {
    // Frames below the 1:1 map's first.
    let w = world(Kind::Shipped, 1);
    let mode = Mode::Lookup { iommu: true, offset: 1 };
    let pool = pool(4, &mode);
    assert_eq!(w.client.own(2, &pool).unwrap_err(), OwnError::NoBusFrames);
    assert_eq!(pool.free_pages(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_pool_hands_out_what_is_free_zeroed_and_once_as_a_naive_list_of_pages_says(
        steps in prop::collection::vec((any::<bool>(), 1usize..9), 1..60),
    ) {
        const PAGES: usize = 24;
        let mode = Mode::Lookup { iommu: true, offset: 0x1000 };
        let pool = pool(PAGES, &mode);
        let mut free = [true; PAGES];
        let mut out: Vec<(usize, OwnMemory)> = Vec::new();
        for (take, n) in steps {
            if !take {
                if !out.is_empty() {
                    let (first, memory) = out.swap_remove(n % out.len());
                    free[first..first + memory.pages()].fill(true);
                    drop(memory);
                }
            } else {
                let naive = (0..=PAGES - n).find(|first| free[*first..first + n].iter().all(|f| *f));
                match (naive, pool.take(n)) {
                    (None, Err(e)) => prop_assert_eq!(e, Errno::ENOMEM),
                    (Some(first), Ok(memory)) => {
                        for i in 0..n {
                            let frame = OwnFrame::Reachable(Bfn(0x1500 + 2 * (first + i) as u64));
                            prop_assert_eq!(memory.frames()[i], frame);
                            prop_assert_eq!(dirty(&memory, i), 0);
                        }
                        free[first..first + n].fill(false);
                        out.push((first, memory));
                    }
                    (naive, got) => prop_assert!(false, "{:?} {:?}", naive, got),
                }
            }
            prop_assert_eq!(pool.free_pages(), free.iter().filter(|f| **f).count());
        }
        prop_assert_eq!(pool.take(0).unwrap_err(), Errno::EINVAL);
    }
}

/// What a page's last quadword was, which is something else from here on.
#[expect(unsafe_code, reason = "access to pages that are handed out")]
fn dirty(memory: &OwnMemory, page: usize) -> u64 {
    let at = memory.page(page).unwrap().as_ptr().wrapping_add(PAGE_SIZE - 8).cast::<u64>();
    // SAFETY: the last quadword of a page that is ours until `memory` goes.
    unsafe { at.replace(u64::MAX) }
}
