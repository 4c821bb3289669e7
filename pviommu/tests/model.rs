//! The client on the model hypervisor: map, DMA, balloon, invalidate, quiesce, unmap, with the oracle watching and
//! frames counted. Each test runs on every kind of machine that the client can meet.
#![expect(unsafe_code, reason = "looks at what a device has written")]

mod world;

use mock_xen::{Fault, FaultPlan, Iommu, Profile, Site, ViolationKind, When};
use pviommu::{Cause, DeviceFlush, Draining, EVERYTHING, MapError, Mapped, Mode};
use world::{FRAMES, KINDS, Kind, World, own_pages, world};
use xen_ioreq::abi::iommu_op::{
    IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_readable, IOMMUOP_unmap_foreign_page,
    IOMMUOP_writeable, pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, Errno, Gfn};

/// Forgets to flush.
struct Careless;

impl DeviceFlush for Careless {
    fn flush(&self) {}
}

#[test]
fn each_machine_brings_its_mode() {
    for kind in KINDS {
        let mode = world(kind).client.mode().clone();
        let right = match kind {
            (Profile::Stock, _) => matches!(mode, Mode::Soft { .. }),
            (_, Iommu::Absent | Iommu::Passthrough) => matches!(mode, Mode::Lookup { iommu: false, .. }),
            (Profile::Xs, _) => matches!(mode, Mode::Lookup { iommu: true, offset: 0x3e0_0000 }),
            _ => matches!(mode, Mode::Map { max_order: 9, .. }),
        };
        assert!(right, "{kind:?}: {mode}");
    }
}

#[test]
fn a_ballooned_page_comes_back_exactly_when_it_is_released() {
    for mode in KINDS {
        for named in [true, false] {
            let w = world(mode);
            let m = w.guest.map_one(Gfn(7)).unwrap();
            let stays = w.guest.map_one(Gfn(8)).unwrap();
            w.device.write(m.bfn(), 0x5a);
            w.device.write(stays.bfn(), 0xa5);
            assert_eq!((w.byte(Gfn(7)), w.byte(Gfn(8))), (0x5a, 0xa5));

            w.balloon_out(Gfn(7));
            // The device still has the old translation, and uses it.
            w.device.write(m.bfn(), 0x5b);
            assert_eq!(w.come_back(), 0, "{mode:?}");

            w.guest.notice(if named { m.bfn().0 } else { EVERYTHING });
            let draining = w.guest.take_draining().unwrap();
            let ending: Vec<_> = draining.iter().filter(|d| d.ends_use()).map(Draining::gfn).collect();
            assert_eq!(ending, [Gfn(7)]);
            assert!(m.put().is_none());
            let released = w.release(draining);
            assert_eq!((released.mappings, released.failed.len()), (1, 0));
            assert_eq!(w.come_back(), 1);

            w.device.write(stays.bfn(), 0xa6);
            assert_eq!(w.byte(Gfn(8)), 0xa6);
            w.device.flush();
            w.machine.assert_clean();
        }
    }
}

#[test]
fn a_device_that_does_not_flush_is_caught() {
    for mode in KINDS {
        let w = world(mode);
        let m = w.guest.map_one(Gfn(7)).unwrap();
        w.device.write(m.bfn(), 1);
        w.balloon_out(Gfn(7));
        let (quiesced, _) = w.client.quiesce(m.put(), &Careless);
        let released = w.client.release(quiesced);
        if w.client.soft().is_some() {
            // The soft IOMMU knows who has the page, and keeps it.
            assert_eq!((released.mappings, released.failed.len(), w.come_back()), (0, 1, 0));
            w.machine.assert_clean();
        } else {
            assert_eq!(released.mappings, 1);
            assert_ne!(w.machine.violation_count(), 0, "{mode:?}");
        }
    }
}

#[test]
fn a_page_that_went_out_and_in_again_is_reached_afresh() {
    for mode in KINDS {
        let w = world(mode);
        let old = w.guest.map_one(Gfn(7)).unwrap();
        w.device.write(old.bfn(), 1);
        w.balloon_out(Gfn(7));
        w.populate(Gfn(7));
        assert_eq!(w.come_back(), -1, "the old frame is held");
        w.guest.notice(EVERYTHING);
        let draining = w.guest.take_draining().unwrap();
        let new = if w.client.soft().is_some() {
            assert!(draining.iter().all(|d| d.cause() == Cause::Replaced));
            assert_eq!(w.release(draining).pages, 1);
            old
        } else {
            let new = w.guest.map_one(Gfn(7)).unwrap();
            assert_ne!(new.bfn(), old.bfn());
            drop(old);
            assert_eq!(w.release(draining).mappings, 1);
            new
        };
        assert_eq!(w.come_back(), 0);
        w.device.write(new.bfn(), 2);
        assert_eq!(w.byte(Gfn(7)), 2);
        w.device.flush();
        w.machine.assert_clean();
    }
}

/// A frame was swapped with no notice, and something makes us look: the old one is found and released, and the new one is
/// reached. `look` returns what must be drained.
fn swapped_without_notice(look: impl Fn(&World, Bfn) -> Vec<Draining>) {
    for kind in KINDS {
        let w = world(kind);
        let soft = w.client.soft().is_some();
        let all: Vec<Gfn> = (0..8).map(Gfn).collect();
        let mut mapped: Vec<Mapped> = w.guest.map(&all).into_iter().map(Result::unwrap).collect();
        let bfn = mapped[5].bfn();
        w.device.write(bfn, 1);
        w.balloon_out(Gfn(5));
        w.populate(Gfn(5));
        assert_eq!(w.come_back(), -1, "{kind:?}: the old frame is held");
        assert!(!w.guest.has_work(), "nobody has said anything");

        let draining = look(&w, bfn);
        let found: Vec<(Gfn, Cause)> = draining.iter().map(|d| (d.gfn(), d.cause())).collect();
        let wanted = match w.client.mode() {
            // What cannot be told apart is all made anew.
            Mode::Soft { .. } => vec![(Gfn(5), Cause::Replaced)],
            Mode::Map { .. } => vec![(Gfn(5), Cause::Invalidated)],
            // Who asks for the frame gets it, and nobody wants it yet.
            Mode::Lookup { .. } => vec![(Gfn(5), Cause::Invalidated), (Gfn(5), Cause::LastPut)],
        };
        assert!(found == wanted || soft && found.contains(&wanted[0]), "{kind:?}: {found:?}");
        if !soft {
            drop(mapped.remove(5));
        }
        let released = w.release(draining);
        assert_eq!(released.mappings + released.pages, found.len());
        assert_eq!(w.come_back(), 0, "{kind:?}: it is free");
        let again = w.guest.map_one(Gfn(5)).unwrap();
        w.device.write(again.bfn(), 2);
        assert_eq!(w.byte(Gfn(5)), 2);
        w.device.flush();
        w.machine.assert_clean();
    }
}

#[test]
fn a_frame_swapped_without_notice_is_found_when_its_entry_is_written_anew() {
    swapped_without_notice(|w, bfn| {
        w.guest.doubt(bfn);
        w.guest.take_draining().unwrap()
    });
}

#[test]
fn a_frame_swapped_without_notice_is_found_by_the_next_notice_that_does_not_say_what() {
    swapped_without_notice(|w, _| {
        w.guest.notice(EVERYTHING);
        w.guest.take_draining().unwrap()
    });
}

#[test]
fn a_unit_that_fails_when_it_is_asked_about_a_frame_is_no_end_of_that_frame() {
    for kind in KINDS {
        let w = world(kind);
        let op = match w.client.mode() {
            Mode::Map { .. } => IOMMUOP_map_foreign_page,
            Mode::Lookup { .. } => IOMMUOP_lookup_foreign_page,
            // A mapping made anew has no unit to fail.
            Mode::Soft { .. } => continue,
        };
        let all: Vec<Gfn> = (0..8).map(Gfn).collect();
        let mapped: Vec<Mapped> = w.guest.map(&all).into_iter().map(Result::unwrap).collect();
        let fails = |when| FaultPlan::one(Site::IommuOp(Some(op)), when, Fault::Error(Errno::EIO));
        w.machine.inject(fails(When::Nth(3)));
        w.guest.notice(EVERYTHING);
        assert!(w.guest.take_draining().unwrap().is_empty(), "{kind:?}: it was asked once more");
        assert_eq!(w.machine.faults_met(), 1);
        // One that goes on failing is as good as gone.
        w.machine.inject(fails(When::Always));
        w.guest.notice(EVERYTHING);
        let draining = w.guest.take_draining().unwrap();
        assert_eq!(draining.len(), 8, "{kind:?}");
        w.machine.inject(FaultPlan::default());
        drop(mapped);
        assert_eq!(w.release(draining).mappings, 8);
        w.machine.assert_clean();
    }
}

#[test]
fn a_frame_swapped_without_notice_is_found_by_the_sweep() {
    // All of them, however few at a time.
    swapped_without_notice(|w, _| (0..4).flat_map(|_| w.guest.sweep(2).unwrap()).collect());
    swapped_without_notice(|w, _| w.guest.sweep(1000).unwrap());
}

#[test]
fn a_dead_domain_goes_when_its_mappings_are_released() {
    for mode in KINDS {
        let w = world(mode);
        let gfns: Vec<Gfn> = (0..FRAMES).map(Gfn).collect();
        let mapped: Vec<Mapped> = w.guest.map(&gfns).into_iter().map(Result::unwrap).collect();
        mapped.iter().for_each(|m| w.device.write(m.bfn(), 9));
        if mode.0 == Profile::Xs {
            // That hypervisor frees what was looked up with its domain, whatever a device does there.
            w.device.flush();
        }
        w.machine.destroy_domain(w.guest.domid()).unwrap();
        let zombie = w.machine.domain_info(w.guest.domid()).is_some_and(|i| i.dying);
        assert_eq!(zombie, mode.0 != Profile::Xs, "{mode:?}");
        let draining = w.guest.die();
        drop(mapped);
        assert_eq!(w.release(draining).mappings, gfns.len());
        assert_eq!(w.machine.domain_info(w.guest.domid()), None, "no zombie");
        assert!(w.come_back() >= i64::try_from(FRAMES).unwrap());
        w.machine.assert_clean();
    }
}

#[test]
fn own_pages_are_reached_by_the_device_and_come_back() {
    for mode in KINDS {
        let w = world(mode);
        let own = own_pages(&w.client, &w.caller, 3);
        assert_eq!(own.pages(), 3);
        for i in 0..3 {
            w.device.write(own.bfn(i).unwrap(), 7);
            // SAFETY: the page is ours while `own` lives, and the device is not writing now.
            assert_eq!(unsafe { own.ptr(i).unwrap().as_ptr().read_volatile() }, 7);
        }
        w.client.release_own(own, &w.device).unwrap();
        assert_eq!(w.come_back(), 0);
        w.machine.assert_clean();
    }
}

/// One random life.
fn live(seed: u64, mode: Kind) {
    let w = world(mode);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held: Vec<Mapped> = Vec::new();
    let mut waiting: Vec<Draining> = Vec::new();
    let mut present: Vec<Gfn> = (0..FRAMES).map(Gfn).collect();
    let mut absent: Vec<Gfn> = Vec::new();
    for _ in 0..2000 {
        match rng.u8(0..10) {
            0..3 => {
                let gfn = present[rng.usize(0..present.len())];
                let m = w.guest.map_one(gfn).unwrap();
                let value = rng.u8(..);
                w.device.write(m.bfn(), value);
                // The device and the guest see the same page, unless the guest has just put another one there.
                if !w.guest.has_work() {
                    assert_eq!(w.byte(gfn), value, "seed {seed} {mode:?}");
                }
                held.push(m);
            }
            3 => {
                if let Some(gfn) = rng.choice(&absent) {
                    // A mapping that is not known to be stale yet may still be there.
                    let r = w.guest.map_one(*gfn);
                    assert!(r.is_ok() == w.guest.lookup(*gfn).is_some(), "{r:?}");
                }
            }
            4..7 => {
                if !held.is_empty() {
                    waiting.extend(held.swap_remove(rng.usize(0..held.len())).put());
                }
            }
            7 => {
                if rng.bool() && present.len() > 8 {
                    let gfn = present.swap_remove(rng.usize(0..present.len()));
                    w.balloon_out(gfn);
                    absent.push(gfn);
                    w.guest.notice(EVERYTHING);
                } else if !absent.is_empty() {
                    let gfn = absent.swap_remove(rng.usize(0..absent.len()));
                    w.populate(gfn);
                    present.push(gfn);
                }
            }
            8 => {
                let stale = w.guest.take_draining().unwrap();
                // PTEs go: whoever holds what is stale lets go of it.
                let gone: Vec<Bfn> =
                    stale.iter().filter(|d| d.ends_use() && d.is_held()).map(Draining::bfn).collect();
                held.retain(|m| !gone.contains(&m.bfn()));
                waiting.extend(stale);
            }
            _ => {
                let (quiesced, still) = w.client.quiesce(std::mem::take(&mut waiting), &w.device);
                waiting = still;
                drop(w.client.release(quiesced));
            }
        }
    }
    drop(held);
    waiting.extend(w.guest.take_draining().unwrap());
    waiting.extend(w.guest.die());
    assert!(w.release(waiting).failed.is_empty());
    assert!(w.guest.is_empty());
    assert_eq!(w.come_back(), i64::try_from(absent.len()).unwrap(), "seed {seed} {mode:?}");
    w.machine.assert_clean();
}

#[test]
fn whatever_the_guest_does_the_oracle_is_content_and_frames_add_up() {
    for seed in 0..4 {
        KINDS.into_iter().for_each(|mode| live(seed, mode));
    }
}

#[test]
fn a_shipped_hypervisor_is_not_sent_what_it_does_not_survive() {
    for iommu in [Iommu::OneToOne, Iommu::Passthrough, Iommu::Absent] {
        let w = world((Profile::Xs, iommu));
        let gfns: Vec<Gfn> = (0..FRAMES + 8).map(Gfn).collect();
        let mapped: Vec<Mapped> = w.guest.map(&gfns).into_iter().flatten().collect();
        for gfn in [3, 4].map(Gfn) {
            w.balloon_out(gfn);
            w.populate(gfn);
        }
        // Notices say anything, and so may a guest's entries.
        [0, 7, 1 << 44, u64::MAX - 1, mapped[5].bfn().0].into_iter().for_each(|data| w.guest.notice(data));
        [Bfn(0), Bfn(1 << 44), mapped[3].bfn()].into_iter().for_each(|bfn| w.guest.doubt(bfn));
        let mut draining = w.guest.take_draining().unwrap();
        draining.extend(w.guest.sweep(1000).unwrap());
        w.guest.notice(EVERYTHING);
        draining.extend(w.guest.take_draining().unwrap());
        draining.extend(w.guest.die());
        drop(mapped);
        assert!(w.release(draining).failed.is_empty());
        assert_eq!(w.come_back(), 0);
        w.machine.assert_clean();

        // The oracle would have told.
        let mut op = pv_iommu_op { bfn: 1 << 44, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) };
        if iommu == Iommu::OneToOne {
            let flags = IOMMUOP_readable | IOMMUOP_writeable;
            op =
                pv_iommu_op { domid: w.guest.domid().0, ..pv_iommu_op::new(IOMMUOP_map_foreign_page, flags) };
        }
        w.caller.iommu_op(std::slice::from_mut(&mut op)).unwrap();
        assert!(matches!(w.machine.violations()[0].kind, ViolationKind::HostPanic { .. }), "{iommu:?}");
    }
}

#[test]
fn a_shipped_hypervisor_without_the_map_that_it_tells_of_is_refused_at_the_first_frame() {
    let w = world((Profile::Xs, Iommu::On));
    let errors: Vec<MapError> =
        w.guest.map(&[100, 7, 8].map(Gfn)).into_iter().map(Result::unwrap_err).collect();
    assert!(errors.iter().all(|e| matches!(e, MapError::NothingMapped { .. })), "{errors:?}");
    assert!(errors[1].to_string().ends_with("boot it without dom0-iommu=strict"), "{}", errors[1]);
    // One frame is held, until its domain ends; no more are.
    let refs = |gfn| w.machine.references(w.guest.domid(), Gfn(gfn)).unwrap();
    assert_eq!([refs(7), refs(8)], [2, 1]);
    assert!(w.guest.map_one(Gfn(9)).is_err());
    assert_eq!(refs(9), 1);
    assert!(w.guest.is_empty());
    w.machine.destroy_domain(w.guest.domid()).unwrap();
    assert_eq!(w.come_back(), i64::try_from(FRAMES).unwrap());
    w.machine.assert_clean();
}
