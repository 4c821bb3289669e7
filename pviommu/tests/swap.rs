//! Mappings that the hypervisor may swap a scratch frame into, and such that it may not.

mod world;

use mock_xen::ViolationKind;
use pviommu::{Config, DeviceFlush, Draining, EVERYTHING, Mapped};
use world::{KINDS, Kind, World, world, world_with};
use xen_ioreq::{Bfn, Gfn};

/// Machines on which we choose bus frames.
const MAP: [Kind; 2] = [KINDS[0], KINDS[1]];

fn swapping(kind: Kind) -> World {
    world_with(kind, Config { swap_mfn: true, ..Config::default() })
}

/// One access, by a device that keeps no translation of it.
fn access(w: &World, bfn: Bfn, value: u8) {
    w.device.write(bfn, value);
    w.device.flush();
}

#[test]
fn a_frame_that_was_ballooned_out_is_free_at_once_and_its_entries_go_after_the_notice() {
    for kind in MAP {
        for named in [true, false] {
            let w = swapping(kind);
            let m = w.guest.map_one(Gfn(7)).unwrap();
            access(&w, m.bfn(), 0x5a);
            assert_eq!(w.byte(Gfn(7)), 0x5a);
            let before = w.come_back();
            w.balloon_out(Gfn(7));
            assert_eq!(w.come_back(), before + 1, "nobody was waited for");
            // What the device still does there harms nobody.
            access(&w, m.bfn(), 0x5b);
            w.guest.notice(if named { m.bfn().0 } else { EVERYTHING });
            let draining = w.guest.take_draining().unwrap();
            assert_eq!(draining.iter().map(Draining::gfn).collect::<Vec<_>>(), [Gfn(7)]);
            assert!(m.put().is_none());
            assert_eq!(w.release(draining).mappings, 1);
            assert_eq!(w.come_back(), 1, "scratch is gone, too");
            w.machine.assert_clean();
        }
    }
}

#[test]
fn a_frame_that_comes_back_takes_the_place_of_scratch() {
    for kind in MAP {
        let w = swapping(kind);
        let m = w.guest.map_one(Gfn(7)).unwrap();
        w.balloon_out(Gfn(7));
        w.populate(Gfn(7));
        access(&w, m.bfn(), 1);
        assert_eq!(w.byte(Gfn(7)), 0, "it was scratch");
        w.guest.notice(m.bfn().0);
        assert!(w.guest.take_draining().unwrap().is_empty());
        access(&w, m.bfn(), 2);
        assert_eq!(w.byte(Gfn(7)), 2);
        assert_eq!(w.release(m.put()).mappings, 1);
        assert_eq!(w.machine.references(w.guest.domid(), Gfn(7)), Ok(1));
        assert_eq!(w.come_back(), 0);
        w.machine.assert_clean();
    }
}

#[test]
fn a_dead_guest_has_no_frames_left_and_its_mappings_end_as_others_do() {
    for kind in MAP {
        let w = swapping(kind);
        let mapped: Vec<Mapped> = w.guest.map(&[1, 2, 3].map(Gfn)).into_iter().map(Result::unwrap).collect();
        w.machine.destroy_domain(w.guest.domid()).unwrap();
        assert_eq!(w.machine.domain_info(w.guest.domid()), None, "no zombie");
        let draining = w.guest.die();
        drop(mapped);
        assert_eq!(w.release(draining).mappings, 3);
        assert!(w.guest.is_empty());
        w.machine.assert_clean();
    }
}

#[test]
fn a_device_that_keeps_translations_must_not_be_given_such_mappings() {
    for kind in MAP {
        let w = swapping(kind);
        let m = w.guest.map_one(Gfn(7)).unwrap();
        w.device.write(m.bfn(), 1);
        w.balloon_out(Gfn(7));
        let kinds: Vec<ViolationKind> = w.machine.violations().iter().map(|v| v.kind).collect();
        assert!(kinds.contains(&ViolationKind::SwappedWhilePinned { pins: 1 }), "{kinds:?}");
        w.device.flush();
    }
}

#[test]
fn nothing_is_swapped_unless_it_was_asked_for() {
    for kind in MAP {
        let w = world(kind);
        let m = w.guest.map_one(Gfn(7)).unwrap();
        w.balloon_out(Gfn(7));
        assert_eq!(w.come_back(), 0, "the mapping holds it");
        assert_eq!(w.release(m.put()).mappings, 1);
        assert_eq!(w.come_back(), 1);
    }
}

#[test]
fn where_the_hypervisor_chooses_there_is_nothing_to_swap() {
    for kind in KINDS.into_iter().filter(|k| !MAP.contains(k)) {
        let w = swapping(kind);
        let m = w.guest.map_one(Gfn(7)).unwrap();
        w.balloon_out(Gfn(7));
        assert_eq!(w.come_back(), 0, "{kind:?}");
        assert_eq!(w.release(m.put()).mappings, 1);
        assert_eq!(w.come_back(), 1, "{kind:?}");
        w.machine.assert_clean();
    }
}
