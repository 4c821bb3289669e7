#![allow(clippy::cast_possible_truncation, reason = "test values are small")]

use std::sync::Arc;

use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

use crate::fake::{Fake, Foreign, Gpu, Kind};
use crate::*;

const D: DomId = DomId(3);
const KINDS: [Kind; 3] = [Kind::Draft, Kind::Shipped, Kind::Stock];

struct World {
    xen: Arc<Fake>,
    client: Client,
    guest: Guest,
    gpu: Gpu,
}

fn world_with(kind: Kind, config: Config) -> World {
    let xen = Fake::new(kind);
    let client = Client::start(ports(&xen), config).unwrap();
    let guest = client.attach(D, IoServerId(1)).unwrap();
    for gfn in 0..64 {
        xen.populate(D, Gfn(gfn));
    }
    World { xen, client, guest, gpu: Gpu::default() }
}

fn world(kind: Kind) -> World {
    world_with(kind, Config { bfns: BfnSpace::new(Bfn(0x1000)..Bfn(0x1200)), ..Config::default() })
}

fn ports(xen: &Arc<Fake>) -> Ports {
    Ports { iommu: Some(xen.clone()), foreign: Some(Arc::new(Foreign(xen.clone()))) }
}

impl World {
    /// The frame that the device reaches now.
    fn reach(&self, bfn: Bfn) -> Option<u64> {
        let Some(soft) = self.client.soft() else { return self.xen.dma(bfn).map(|(_, mfn)| mfn) };
        let pin = soft.pin(bfn).ok()?;
        let mfn = read(pin);
        soft.unpin(pin.token);
        Some(mfn)
    }

    fn out(&self, draining: impl IntoIterator<Item = Draining>) -> Released {
        let (quiesced, held) = self.client.quiesce(draining, &self.gpu);
        assert!(held.is_empty(), "{held:?}");
        self.client.release(quiesced)
    }
}

#[expect(unsafe_code, reason = "looks at what a device would see")]
fn read(pin: SoftPin) -> u64 {
    // SAFETY: a pin is 4096 bytes, valid until it is unpinned.
    unsafe { pin.ptr.cast::<u64>().as_ptr().read_volatile() }
}

#[test]
fn each_kind_of_hypervisor_gets_its_mode_in_one_line() {
    let lines = KINDS.map(|k| world(k).client.mode().to_string());
    assert_eq!(
        lines,
        [
            "map: we choose bus frames 0x1000..0x1200 (page order up to 9), the IOMMU maps them",
            "lookup: the hypervisor tells bus frames (1:1 map at 0x3e00000)",
            "soft: no iommu_op here, bus frames 0x1000..0x1200 are foreign mappings of this process (software devices only)",
        ]
    );
}

#[test]
fn what_cannot_be_safe_is_refused() {
    let stock = Fake::new(Kind::Stock);
    let physical = Config { device: Device::Physical, ..Config::default() };
    assert_eq!(Client::start(ports(&stock), physical.clone()).unwrap_err(), StartError::PhysicalNeedsIommu);
    let no_foreign = Ports { foreign: None, ..ports(&stock) };
    assert_eq!(Client::start(no_foreign, Config::default()).unwrap_err(), StartError::NothingToMapWith);
    let draft = Fake::new(Kind::Draft);
    draft.fail_after(0, Errno::EPERM);
    assert_eq!(
        Client::start(ports(&draft), physical).unwrap_err(),
        StartError::Refused { errno: Errno::EPERM }
    );
    let empty = Config { bfns: BfnSpace::new(Bfn(4)..Bfn(4)), ..Config::default() };
    assert!(matches!(
        Client::start(ports(&draft), empty).unwrap_err(),
        StartError::BadWindow { frames: 0, .. }
    ));
}

#[test]
fn a_mapping_lives_from_map_to_release_and_every_frame_comes_back() {
    for kind in KINDS {
        let w = world(kind);
        let before = w.xen.frames();
        let m = w.guest.map_one(Gfn(5)).unwrap();
        let again = w.guest.map_one(Gfn(5)).unwrap();
        assert_eq!(m.bfn(), again.bfn());
        assert_eq!(w.reach(m.bfn()), w.xen.mfn(D, Gfn(5)), "{kind:?}");
        let bfn = m.bfn();

        w.xen.balloon_out(D, Gfn(5));
        assert_eq!(w.xen.frames(), before, "the mapping holds the frame");
        assert!(w.reach(bfn).is_some());
        assert!(m.put().is_none());
        let last = again.put().expect("the last reference");
        assert_eq!((last.cause(), last.gfn(), last.bfn()), (Cause::LastPut, Gfn(5), bfn));
        assert_eq!(w.xen.frames(), before, "nothing is unmapped by a put");

        let released = w.out([last]);
        assert_eq!((released.mappings, released.failed.len()), (1, 0));
        assert_eq!(*w.gpu.flushes.lock(), 1);
        assert_eq!(w.xen.frames(), before - 1);
        assert!(w.guest.is_empty());
    }
}

#[test]
fn many_misses_go_in_one_call_and_duplicates_share_one_mapping() {
    for kind in KINDS {
        let w = world(kind);
        // The first frame ever may cost more.
        drop(w.out(w.guest.map_one(Gfn(0)).unwrap().put()));
        let calls = w.xen.calls();
        let mut gfns: Vec<Gfn> = (0..64).map(Gfn).collect();
        gfns.push(Gfn(7));
        gfns.push(Gfn(1000));
        gfns.push(Gfn(1000));
        let mapped = w.guest.map(&gfns);
        assert_eq!(mapped.len(), 67);
        assert_eq!(mapped[7].as_ref().unwrap().bfn(), mapped[64].as_ref().unwrap().bfn());
        for hole in &mapped[65..] {
            let e = hole.as_ref().unwrap_err();
            assert!(e.is_hole(), "{e}");
            assert!(e.to_string().contains("d3 gfn 0x3e8: E"), "{e}");
        }
        assert_eq!(w.xen.calls(), calls + 1);
        let draining: Vec<Draining> = mapped.into_iter().flatten().filter_map(Mapped::put).collect();
        assert_eq!(draining.len(), 64);
        let calls = w.xen.calls();
        assert_eq!(w.out(draining).mappings, 64);
        assert!(w.xen.calls() <= calls + 1);
        assert_eq!(w.xen.frames(), 64);
        assert!(w.guest.is_empty());
    }
}

#[test]
fn an_invalidated_frame_is_found_drained_and_freed_and_others_stay() {
    for kind in KINDS {
        for everything in [true, false] {
            let w = world(kind);
            let gone = w.guest.map_one(Gfn(1)).unwrap();
            let stays = w.guest.map_one(Gfn(2)).unwrap();
            w.xen.balloon_out(D, Gfn(1));
            assert!(!w.guest.has_work());
            w.guest.notice(if everything { EVERYTHING } else { gone.bfn().0 });
            assert!(w.guest.has_work());
            let draining = w.guest.take_draining().unwrap();
            assert!(!w.guest.has_work());
            let ending: Vec<_> =
                draining.iter().filter(|d| d.ends_use()).map(|d| (d.cause(), d.gfn())).collect();
            assert_eq!(ending, [(Cause::Invalidated, Gfn(1))]);
            assert!(w.guest.lookup(Gfn(1)).is_none(), "no new reference");

            // Still held: not released, whatever is flushed.
            let (quiesced, held) = w.client.quiesce(draining, &w.gpu);
            assert_eq!(held.len(), 1);
            assert_eq!(w.client.release(quiesced).mappings, 0);
            assert_eq!(w.xen.frames(), 64);
            assert!(gone.put().is_none());
            assert_eq!(w.out(held).mappings, 1);
            assert_eq!(w.xen.frames(), 63);
            assert_eq!(w.reach(stays.bfn()), w.xen.mfn(D, Gfn(2)));
        }
    }
}

#[test]
fn a_late_notice_of_a_bus_frame_that_was_used_again_ends_nothing() {
    for kind in KINDS {
        let w = world(kind);
        let old = w.guest.map_one(Gfn(1)).unwrap();
        let bfn = old.bfn();
        w.xen.balloon_out(D, Gfn(1));
        drop(w.out(old.put()));
        let new: Vec<_> = w.guest.map(&(2..64).map(Gfn).collect::<Vec<_>>());
        w.guest.notice(bfn.0);
        assert!(w.guest.take_draining().unwrap().iter().all(|d| !d.ends_use()));
        drop(new);
    }
}

#[test]
fn a_frame_swapped_without_notice_is_reached_afresh_after_the_next_one() {
    for kind in KINDS {
        let w = world(kind);
        let old = w.guest.map_one(Gfn(1)).unwrap();
        w.xen.balloon_out(D, Gfn(1));
        w.xen.populate(D, Gfn(1));
        assert_eq!(w.xen.frames(), 65, "the old frame is held");
        w.guest.notice(EVERYTHING);
        let draining = w.guest.take_draining().unwrap();
        let now = w.xen.mfn(D, Gfn(1));
        if kind == Kind::Stock {
            // Nothing tells it apart from the old one, so the fresh one is simply there.
            assert!(draining.iter().all(|d| d.cause() == Cause::Replaced));
            assert_eq!(w.reach(old.bfn()), now);
            assert_eq!(w.out(draining).pages, 1);
        } else {
            let new = w.guest.map_one(Gfn(1)).unwrap();
            assert_eq!(w.reach(new.bfn()), now);
            assert_ne!(new.bfn(), old.bfn());
            drop(old.put());
            assert_eq!(w.out(draining).mappings, 1);
        }
        assert_eq!(w.xen.frames(), 64);
    }
}

#[test]
fn a_frame_swapped_without_notice_is_found_by_the_sweep() {
    for kind in [Kind::Draft, Kind::Shipped] {
        let w = world(kind);
        let mapped: Vec<_> = w.guest.map(&(0..64).map(Gfn).collect::<Vec<_>>());
        w.xen.balloon_out(D, Gfn(40));
        w.xen.populate(D, Gfn(40));
        let rounds: Vec<Draining> = (0..8).flat_map(|_| w.guest.sweep(8).unwrap()).collect();
        let found: Vec<_> = rounds.iter().map(|d| (d.gfn(), d.cause())).collect();
        // Who asks for the new frame gets it, where the hypervisor tells bus frames.
        let wanted = [(Gfn(40), Cause::Invalidated), (Gfn(40), Cause::LastPut)];
        assert_eq!(found, wanted[..if kind == Kind::Draft { 1 } else { 2 }]);
        drop(mapped);
        drop(w.out(rounds));
        // What has gone since the round began is not asked about, nor is what has taken its place.
        let rest = w.guest.take_draining().unwrap();
        let _begun = w.guest.sweep(1).unwrap();
        drop(w.out(rest));
        let other = w.client.attach(DomId(9), IoServerId(1)).unwrap();
        (0..64).for_each(|g| w.xen.populate(DomId(9), Gfn(g)));
        let others: Vec<_> = other.map(&(0..64).map(Gfn).collect::<Vec<_>>());
        assert!(w.guest.sweep(100).unwrap().is_empty());
        drop(others);
    }
}

#[test]
fn a_mapping_taken_into_use_while_idle_survives_the_release_of_its_old_token() {
    for kind in KINDS {
        let w = world(kind);
        let idle = w.guest.map_one(Gfn(1)).unwrap().put().unwrap();
        let calls = w.xen.calls();
        let m = w.guest.map_one(Gfn(1)).unwrap();
        assert_eq!(w.xen.calls(), calls, "no hypercall");
        assert!(idle.is_void());
        let released = w.out([idle]);
        assert_eq!(released.mappings, 0);
        assert_eq!(w.reach(m.bfn()), w.xen.mfn(D, Gfn(1)));
        // Also when it is used again between flush and release.
        let (quiesced, _) = w.client.quiesce(m.put(), &w.gpu);
        let m = w.guest.map_one(Gfn(1)).unwrap();
        let released = w.client.release(quiesced);
        assert_eq!((released.mappings, released.revived), (0, 1));
        assert_eq!(w.reach(m.bfn()), w.xen.mfn(D, Gfn(1)));
    }
}

#[test]
fn tokens_and_references_that_are_dropped_come_back_with_the_next_look() {
    for kind in KINDS {
        let w = world(kind);
        drop(w.guest.map_one(Gfn(1)).unwrap());
        drop(w.guest.map_one(Gfn(2)).unwrap().put());
        let (quiesced, _) = w.client.quiesce(w.guest.map_one(Gfn(3)).unwrap().put(), &w.gpu);
        drop(quiesced);
        assert!(w.guest.has_work());
        let mut draining = w.guest.take_draining().unwrap();
        draining.sort_by_key(Draining::gfn);
        assert_eq!(draining.iter().map(Draining::gfn).collect::<Vec<_>>(), [Gfn(1), Gfn(2), Gfn(3)]);
        assert_eq!(w.out(draining).mappings, 3);
        assert!(w.guest.is_empty());
    }
}

#[test]
fn everything_of_a_dead_domain_goes_and_nothing_new_comes() {
    for kind in KINDS {
        let w = world(kind);
        let mapped: Vec<Mapped> = w.guest.map(&[Gfn(1), Gfn(2), Gfn(3)]).into_iter().flatten().collect();
        w.xen.kill(D);
        let draining = w.guest.die();
        assert_eq!(draining.len(), 3);
        assert!(matches!(w.guest.map_one(Gfn(1)), Err(MapError::Dead { .. })));
        mapped.into_iter().for_each(|m| assert!(m.put().is_none()));
        assert_eq!(w.out(draining).mappings, 3);
        assert_eq!(w.xen.frames(), 0, "no zombie");
        // The number can be a new domain's.
        drop(w.guest);
        assert!(w.client.attach(D, IoServerId(1)).is_ok());
    }
}

#[test]
fn a_domain_is_attached_once_and_is_a_guest() {
    let w = world(Kind::Draft);
    assert_eq!(w.client.attach(D, IoServerId(0)).unwrap_err(), AttachError::Already { domid: D });
    assert_eq!(
        w.client.attach(DomId::SELF, IoServerId(0)).unwrap_err(),
        AttachError::NoGuest { domid: DomId::SELF }
    );
    assert_eq!(w.client.guest(D).map(|g| g.domid()), Some(D));
}

#[test]
fn a_failed_unmap_keeps_the_bus_frame_and_can_be_tried_again() {
    for kind in [Kind::Draft, Kind::Shipped] {
        let w = world(kind);
        let m = w.guest.map_one(Gfn(1)).unwrap();
        let bfn = m.bfn();
        w.xen.unmap_fails(Some(Errno::EIO));
        let mut released = w.out(m.put());
        let (draining, e) = released.failed.pop().unwrap();
        assert!(
            matches!(e, ReleaseError::Refused { op: Operation::UnmapForeignPage, errno: Errno::EIO, .. }),
            "{e}"
        );
        assert_eq!((draining.cause(), draining.bfn()), (Cause::Again, bfn));
        if kind == Kind::Draft {
            let other = w.guest.map_one(Gfn(1)).unwrap();
            assert_ne!(other.bfn(), bfn, "not before it was unmapped");
            drop(w.out(other.put()));
        } else {
            assert!(matches!(w.guest.map_one(Gfn(1)), Err(MapError::Draining { .. })));
        }
        w.xen.unmap_fails(None);
        let again = w.guest.take_draining().unwrap();
        assert_eq!(
            w.out(again.into_iter().chain([draining])).mappings,
            if kind == Kind::Draft { 2 } else { 1 }
        );
        assert_eq!(w.xen.frames(), 64);
        assert!(w.guest.is_empty());
    }
}

#[test]
fn a_call_that_fails_in_the_middle_has_mapped_what_it_says_and_leaves_nothing_else_behind() {
    let w = world(Kind::Draft);
    w.xen.fail_after(2, Errno::EFAULT);
    let mapped = w.guest.map(&[Gfn(1), Gfn(2), Gfn(3), Gfn(4)]);
    assert_eq!(w.reach(mapped[1].as_ref().unwrap().bfn()), w.xen.mfn(D, Gfn(2)));
    for (gfn, r) in [(3, &mapped[2]), (4, &mapped[3])] {
        let want =
            MapError::Call { op: Operation::MapForeignPage, domid: D, gfn: Gfn(gfn), errno: Errno::EFAULT };
        assert_eq!(*r.as_ref().unwrap_err(), want);
    }
    let draining: Vec<Draining> = mapped.into_iter().flatten().filter_map(Mapped::put).collect();
    assert_eq!(w.out(draining).mappings, 2);
    assert!(w.guest.is_empty());
    (0..64).for_each(|g| w.xen.balloon_out(D, Gfn(g)));
    assert_eq!(w.xen.frames(), 0);
    assert_eq!(w.client.stats(), Stats::default());
}

#[test]
fn what_could_not_be_undone_is_undone_later() {
    let w = world(Kind::Draft);
    let other = w.guest.map_one(Gfn(9)).unwrap();
    // The second is mapped, and not said to be; and it cannot be unmapped.
    w.xen.fail_unsaid(2, Errno::EFAULT);
    w.xen.unmap_fails(Some(Errno::EIO));
    let mapped = w.guest.map(&[Gfn(1), Gfn(2), Gfn(3)]);
    assert!(mapped[0].is_ok() && mapped[1].is_err() && mapped[2].is_err());
    assert_eq!(w.client.stats().quarantined, 2);
    w.xen.balloon_out(D, Gfn(2));
    assert_eq!(w.xen.frames(), 64, "it is held");
    w.xen.unmap_fails(None);
    assert_eq!(w.out(other.put()).mappings, 1);
    assert_eq!((w.xen.frames(), w.client.stats().quarantined), (63, 0));
}

#[test]
fn an_unmap_whose_flush_failed_gives_the_frame_back_but_not_the_bus_frame() {
    let w = world(Kind::Draft);
    let m = w.guest.map_one(Gfn(1)).unwrap();
    let draining = m.put();
    w.xen.fail_after(1, Errno::EIO);
    assert_eq!(w.out(draining).mappings, 1);
    assert_eq!(w.client.stats().quarantined, 1);
}

#[test]
fn a_bus_frame_that_is_reserved_or_taken_is_left_and_another_one_used() {
    let w = world(Kind::Draft);
    w.xen.reserve(Bfn(0x1000));
    w.xen.take(Bfn(0x1001));
    let mapped: Vec<Mapped> =
        w.guest.map(&[Gfn(1), Gfn(2), Gfn(3)]).into_iter().map(Result::unwrap).collect();
    assert!(mapped.iter().all(|m| m.bfn() > Bfn(0x1001)));
    assert_eq!(w.client.stats().quarantined, 2);
}

#[test]
fn a_bus_frame_at_which_the_unit_fails_is_left_and_another_one_used() {
    let w = world(Kind::Draft);
    w.xen.unit_fails_at(Bfn(0x1001));
    let mapped: Vec<Mapped> =
        w.guest.map(&[Gfn(1), Gfn(2), Gfn(3)]).into_iter().map(Result::unwrap).collect();
    assert!(mapped.iter().all(|m| m.bfn() != Bfn(0x1001)));
    assert_eq!(w.client.stats().quarantined, 1);
}

#[test]
fn a_unit_that_fails_everywhere_is_an_error_after_some_tries_and_costs_no_bus_frames() {
    let w = world(Kind::Draft);
    w.xen.unit_broken(true);
    let e = w.guest.map_one(Gfn(1)).unwrap_err();
    assert!(matches!(e, MapError::Frame { errno: Errno::EIO, .. }), "{e}");
    assert!(!e.is_hole());
    assert!((2..=8).contains(&w.xen.seen(IOMMUOP_map_foreign_page)));
    w.xen.unit_broken(false);
    assert!(w.guest.map_one(Gfn(1)).is_ok(), "it was a passing one");
    assert_eq!(w.client.stats().quarantined, 0);
}

#[test]
fn a_frame_that_is_refused_whatever_the_bus_frame_costs_no_bus_frames() {
    let w = world_with(
        Kind::Draft,
        Config { bfns: BfnSpace::new(Bfn(0x1000)..Bfn(0x1004)), ..Config::default() },
    );
    (0x1000..0x1004).for_each(|b| w.xen.take(Bfn(b)));
    let e = w.guest.map_one(Gfn(1)).unwrap_err();
    assert!(matches!(e, MapError::Frame { errno: Errno::EPERM, .. }), "{e}");
    assert_eq!(w.client.stats().quarantined, 0);
}

#[test]
fn a_guest_has_its_quota_and_no_more() {
    let config = Config { max_per_guest: 2, ..Config::default() };
    for kind in KINDS {
        let w = world_with(kind, config.clone());
        let mapped = w.guest.map(&[Gfn(1), Gfn(2), Gfn(3)]);
        let e = MapError::Quota { domid: D, gfn: Gfn(3), quota: 2 };
        assert_eq!(*mapped[2].as_ref().unwrap_err(), e);
        assert_eq!(mapped.iter().filter(|r| r.is_ok()).count(), 2);
    }
}

#[test]
fn bus_frames_run_out_with_an_error_and_come_back_after_the_release() {
    for kind in [Kind::Draft, Kind::Stock] {
        let w = world_with(kind, Config { bfns: BfnSpace::new(Bfn(8)..Bfn(10)), ..Config::default() });
        let mapped = w.guest.map(&[Gfn(1), Gfn(2), Gfn(3)]);
        assert_eq!(*mapped[2].as_ref().unwrap_err(), MapError::NoBusFrames { domid: D, gfn: Gfn(3) });
        let draining: Vec<Draining> = mapped.into_iter().flatten().filter_map(Mapped::put).collect();
        assert!(
            matches!(w.guest.map_one(Gfn(3)), Err(MapError::NoBusFrames { .. })),
            "not before they are released"
        );
        assert_eq!(w.out(draining).mappings, 2);
        assert!(w.guest.map_one(Gfn(3)).is_ok());
    }
}

#[test]
fn a_shipped_hypervisor_is_never_sent_what_panics_it() {
    // The fake panics there, too.
    let w = world(Kind::Shipped);
    let mapped: Vec<_> = w.guest.map(&(0..80).map(Gfn).collect::<Vec<_>>());
    w.xen.balloon_out(D, Gfn(3));
    w.xen.populate(D, Gfn(3));
    w.guest.notice(EVERYTHING);
    w.guest.notice(12345);
    let draining = w.guest.take_draining().unwrap();
    drop(mapped);
    drop(w.out(draining));
    let rest = w.guest.take_draining().unwrap();
    drop(w.out(rest));
    assert_eq!(w.xen.seen(IOMMUOP_map_foreign_page), 0);
    assert_eq!(w.xen.frames(), 64);
    assert!(w.guest.is_empty());
}

#[test]
fn a_frame_that_moved_to_another_gfn_keeps_one_mapping() {
    let w = world(Kind::Shipped);
    let a = w.guest.map_one(Gfn(1)).unwrap();
    let unmaps = w.xen.seen(IOMMUOP_unmap_foreign_page);
    w.xen.balloon_out(D, Gfn(2));
    w.xen.move_frame(D, Gfn(1), Gfn(2));
    let b = w.guest.map_one(Gfn(2)).unwrap();
    assert_eq!(a.bfn(), b.bfn());
    assert!(w.guest.lookup(Gfn(1)).is_none());
    assert!(a.put().is_none(), "one mapping, two references");
    assert_eq!(w.out(b.put()).mappings, 1);
    assert_eq!(w.xen.seen(IOMMUOP_unmap_foreign_page), unmaps + 1);
    assert_eq!(w.xen.frames(), 63);
}

#[test]
fn a_lookup_of_a_bus_frame_that_is_draining_waits_for_its_release() {
    let w = world(Kind::Shipped);
    let a = w.guest.map_one(Gfn(1)).unwrap();
    w.xen.balloon_out(D, Gfn(2));
    w.xen.move_frame(D, Gfn(1), Gfn(2));
    w.guest.notice(EVERYTHING);
    let draining = w.guest.take_draining().unwrap();
    let e = w.guest.map_one(Gfn(2)).unwrap_err();
    assert_eq!(e, MapError::Draining { domid: D, gfn: Gfn(2), bfn: a.bfn() });
    drop(a);
    assert_eq!(w.out(draining).mappings, 1);
    assert!(w.guest.map_one(Gfn(2)).is_ok());
}

#[test]
fn a_failed_revalidation_keeps_its_notices() {
    for kind in KINDS {
        let w = world(kind);
        let m = w.guest.map_one(Gfn(1)).unwrap();
        w.xen.balloon_out(D, Gfn(1));
        w.guest.notice(EVERYTHING);
        w.xen.foreign_fails(Some(Errno::ENOMEM));
        w.xen.fail_after(0, Errno::EFAULT);
        let e = w.guest.take_draining().unwrap_err();
        assert!(matches!(e.errno, Errno::ENOMEM | Errno::EFAULT));
        assert!(w.guest.has_work());
        w.xen.foreign_fails(None);
        let draining = w.guest.take_draining().unwrap();
        assert_eq!(draining.len(), 1);
        drop(m);
        drop(w.out(draining));
        assert_eq!(w.xen.frames(), 63);
    }
}

#[test]
fn a_flood_of_notices_becomes_one_look_at_everything() {
    let w = world(Kind::Draft);
    let m = w.guest.map_one(Gfn(1)).unwrap();
    w.xen.balloon_out(D, Gfn(1));
    (0..100_000).for_each(|i| w.guest.notice(i));
    assert_eq!(w.guest.take_draining().unwrap().len(), 1);
    drop(m);
}

#[test]
fn own_pages_are_reached_and_given_back() {
    let gpu = Gpu::default();
    let soft = world(Kind::Stock);
    let own = soft.client.own(3, &ProcessMemory).unwrap();
    let bfn = own.bfn(2).unwrap();
    let pin = soft.client.soft().unwrap().pin(bfn).unwrap();
    assert_eq!(Some(pin.ptr), own.ptr(2));
    assert_eq!(soft.client.release_own(own, &gpu), Err(OwnError::Pinned { bfn }));
    let own = soft.client.own(1, &ProcessMemory).unwrap();
    let bfn = own.bfn(0).unwrap();
    soft.client.release_own(own, &gpu).unwrap();
    assert!(soft.client.soft().unwrap().pin(bfn).is_err());

    struct At(Vec<OwnFrame>);
    impl OwnFrames for At {
        fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
            let Ok(memory) = ProcessMemory.take(pages) else { return Err(Errno::ENOMEM) };
            Ok(memory.with_frames(self.0.clone()))
        }
    }
    let map = world(Kind::Draft);
    assert_eq!(
        map.client.own(1, &ProcessMemory).unwrap_err(),
        OwnError::Unreachable { frame: OwnFrame::Private }
    );
    let frames = vec![OwnFrame::Frame(Gfn(77)), OwnFrame::Reachable(Bfn(5))];
    let own = map.client.own(2, &At(frames.clone())).unwrap();
    assert_eq!((own.bfn(0), own.bfn(1)), (Some(Bfn(0x1000)), Some(Bfn(5))));
    map.client.release_own(own, &gpu).unwrap();
    assert_eq!((map.xen.seen(IOMMUOP_map_page), map.xen.seen(IOMMUOP_unmap_page)), (1, 1));
    assert!(world(Kind::Shipped).client.own(2, &At(frames)).is_err());
    assert!(world(Kind::Shipped).client.own(1, &At(vec![OwnFrame::Reachable(Bfn(5))])).is_ok());
}
