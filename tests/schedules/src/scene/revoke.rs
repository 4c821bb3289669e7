//! A granter takes a page back while others map it, copy by it, look at it and unmap it.

use xen_ioreq::Errno;
use xen_ioreq::abi::grant_table::{GNTST_bad_handle, GNTST_general_error};

use super::guest::{Dom, End, REVOKABLE, Refused, Version};
use super::seat::{By, Seat};
use super::uses::{Granter, How, copy_once, look, refused, use_once, use_until_death};
use super::world::{COPIES, OWN, PAGE, PUBLIC, REF, STAND_IN, WRITTEN, World, granted, play};
use crate::Checker;

/// Has the page back. `false`: the domain is dead.
fn take_back(w: &World, g: &Dom, how: Granter) -> bool {
    if how == Granter::Right && !g.withdraw(REF) {
        g.close(REF);
        match g.revoke(REF) {
            Ok(()) => {
                let marks = g.marks(REF);
                assert!(marks == 0 || w.dying(g.id), "it may be used again, {marks:#x}");
            }
            Err(Errno::ESRCH) => return false,
            Err(e) => panic!("revoke: {e}"),
        }
    }
    w.keep_secret(g, PAGE)
}

/// A mapping is made, used and ended meanwhile.
pub fn beside_a_map(checker: Checker, by: By, version: Version, how: Granter) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(version, by, REVOKABLE);
        play(|s| {
            s.spawn(|| take_back(&w, &g, how));
            s.spawn(|| use_once(&g, &m, by, How::Revokable));
        });
        w.still_secret(&g, PAGE);
        w.end([g, m]);
    })
}

/// Two copy meanwhile, out of the page and into it: there is nearly always a pin. When it is over nobody gets in.
pub fn beside_copies(checker: Checker, version: Version, how: Granter) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(version, By::Cpu, REVOKABLE);
        play(|s| {
            s.spawn(|| {
                take_back(&w, &g, how);
                if how == Granter::Right {
                    let late = m.copy(End::Grant(g.id, REF), End::Own(COPIES), 1);
                    assert_eq!(late, Err(Refused::Status(GNTST_general_error)));
                }
            });
            s.spawn(|| copy_once(&w, &g, &m));
            s.spawn(|| copy_once(&w, &g, &m));
        });
        w.still_secret(&g, PAGE);
        w.end([g, m]);
    })
}

/// Two mappings are there, and each is unmapped by two threads at once: one of them has done it.
pub fn beside_unmaps(checker: Checker) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, By::Device, REVOKABLE);
        let (kernel, user) = (Seat::new(&m, By::Device), Seat::new(&m, By::Cpu));
        let first = kernel.map(g.id, REF, false, Some(STAND_IN)).expect("it is granted");
        let second = user.map(g.id, REF, true, Some(COPIES)).expect("it is granted");
        let (first_at, second_at) = (kernel.address(), user.address());
        play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            // The parts for CPU and device one by one.
            s.spawn(|| {
                assert_eq!(m.unmap(first.handle, first_at, 0), Ok(()));
                assert_eq!(m.unmap(first.handle, 0, first.bus_addr), Ok(()));
            });
            let unmap = || m.unmap(second.handle, second_at, 0);
            let unmaps: Vec<_> = (0..2).map(|_| s.spawn(unmap)).collect();
            let done: Vec<_> = unmaps.into_iter().map(|t| t.join().expect("no panic")).collect();
            let late = Err(Refused::Status(GNTST_bad_handle));
            assert!(done == [Ok(()), late] || done == [late, Ok(())], "{done:?}");
        });
        w.still_secret(&g, PAGE);
        drop((kernel, user));
        w.end([g, m]);
    })
}

/// A mapping to read only is unmapped, and somebody copies out of the page: two pins of one kind, which end in any order, each once.
pub fn beside_an_unmap_and_a_copy(checker: Checker) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, By::Cpu, REVOKABLE);
        let seat = Seat::new(&m, By::Cpu);
        let (mapped, at) =
            (seat.map(g.id, REF, true, Some(STAND_IN)).expect("it is granted"), seat.address());
        play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            s.spawn(|| assert_eq!(m.unmap(mapped.handle, at, 0), Ok(())));
            s.spawn(|| copy_once(&w, &g, &m));
        });
        drop(seat);
        w.still_secret(&g, PAGE);
        w.end([g, m]);
    })
}

/// Everything at once: one mapping is there and is unmapped, another is made, used and ended, and somebody copies.
pub fn beside_everything(checker: Checker, version: Version) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(version, By::Cpu, REVOKABLE);
        let seat = Seat::new(&m, By::Cpu);
        let mapped = seat.map(g.id, REF, true, Some(COPIES)).expect("it is granted");
        let seat = play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            s.spawn(|| use_once(&g, &m, By::Cpu, How::Revokable));
            s.spawn(|| copy_once(&w, &g, &m));
            let unmapper = s.spawn(|| {
                look(&seat, &mapped);
                assert_eq!(seat.unmap(&mapped), Ok(()));
                seat
            });
            unmapper.join().expect("no panic")
        });
        drop(seat);
        w.still_secret(&g, PAGE);
        w.end([g, m]);
    })
}

/// A mapper looks all the time: at the granter's page until it looks at its own.
pub fn beside_a_reader(checker: Checker, by: By) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, by, REVOKABLE);
        let seat = Seat::new(&m, by);
        let mapped = seat.map(g.id, REF, false, Some(STAND_IN)).expect("it is granted");
        let seat = play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            let reader = s.spawn(move || {
                let mut last = PUBLIC;
                for _ in 0..6 {
                    let byte = look(&seat, &mapped).expect("it is alive");
                    assert!(last == PUBLIC || byte == OWN, "it has looked at its own page before");
                    last = byte;
                }
                seat
            });
            reader.join().expect("no panic")
        });
        assert_eq!(seat.read(&mapped), Some(OWN));
        seat.write(&mapped, WRITTEN);
        assert_eq!(w.byte(&m, (STAND_IN << 12) + 1), Some(WRITTEN), "what it writes is in its own page");
        w.still_secret(&g, PAGE);
        w.machine.assert_clean();
        assert_eq!(seat.unmap(&mapped), Ok(()));
        drop(seat);
        w.end([g, m]);
    })
}

/// The same reference is revoked twice at once, and who is through first grants its page anew. A mapping by the new grant is nothing
/// to the other revocation.
pub fn beside_another(checker: Checker) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, By::Cpu, REVOKABLE);
        let seat = Seat::new(&m, By::Cpu);
        let kept = play(|s| {
            s.spawn(|| copy_once(&w, &g, &m));
            g.close(REF);
            s.spawn(|| match g.revoke(REF) {
                // Or it has been granted anew.
                Ok(()) | Err(Errno::EBUSY) => {}
                Err(e) => panic!("revoke: {e}"),
            });
            assert_eq!(g.revoke(REF), Ok(()));
            assert_eq!(g.marks(REF), 0, "it may be used again");
            g.offer(REF, m.id, PAGE, REVOKABLE);
            let mapped = seat.map(g.id, REF, false, Some(STAND_IN));
            mapped.expect("what was revoked may be granted anew at once")
        });
        w.machine.assert_clean();
        assert_ne!(g.marks(REF), 0, "it is in use");
        assert_eq!(seat.unmap(&kept), Ok(()));
        drop(seat);
        w.end([g, m]);
    })
}

/// The granter's table is asked for meanwhile, which waits for whoever is inside.
pub fn beside_copies_and_a_change_of_the_table(checker: Checker) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, By::Cpu, REVOKABLE);
        play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            s.spawn(|| copy_once(&w, &g, &m));
            s.spawn(|| assert_eq!(g.setup(g.id), Ok(())));
        });
        w.still_secret(&g, PAGE);
        w.end([g, m]);
    })
}

/// The granter is destroyed meanwhile, while others map and copy.
pub fn beside_the_granters_death(checker: Checker, version: Version) -> usize {
    checker.run(move || {
        let (w, mut g, m) = granted(version, By::Cpu, REVOKABLE);
        play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            s.spawn(|| use_once(&g, &m, By::Cpu, How::Revokable));
            s.spawn(|| copy_once(&w, &g, &m));
            s.spawn(|| w.machine.destroy_domain(g.id));
        });
        g.unmap_tables();
        assert_eq!(w.machine.domain_info(g.id), None, "nothing of it is held");
        w.end([g, m]);
    })
}

/// The granter is destroyed while a mapper that never unmaps has its page, or is about to have it.
pub fn of_a_mapper_that_keeps_it_by_death(checker: Checker, by: By) -> usize {
    checker.run(move || {
        let (w, mut g, m) = granted(Version::One, by, REVOKABLE);
        let seat = Seat::new(&m, by);
        let kept = play(|s| {
            s.spawn(|| w.machine.destroy_domain(g.id));
            let mapper = s.spawn(|| {
                let mapped = seat.map(g.id, REF, false, Some(STAND_IN)).inspect_err(refused).ok();
                if let Some(mapped) = &mapped {
                    look(&seat, mapped);
                }
                (seat, mapped)
            });
            mapper.join().expect("no panic")
        });
        g.unmap_tables();
        assert_eq!(w.machine.domain_info(g.id), None, "nothing of it is held");
        let (seat, mapped) = kept;
        if let Some(mapped) = mapped {
            assert_eq!(seat.read(&mapped), Some(OWN));
            w.machine.assert_clean();
            assert_eq!(seat.unmap(&mapped), Ok(()));
        }
        drop(seat);
        w.end([g, m]);
    })
}

/// The mapper is destroyed meanwhile.
pub fn beside_the_mappers_death(checker: Checker, by: By) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, by, REVOKABLE);
        play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            s.spawn(|| use_until_death(&g, &m, by, How::Revokable));
            s.spawn(|| w.machine.destroy_domain(m.id));
        });
        assert!(w.still_secret(&g, PAGE));
        let id = m.id;
        drop(m);
        assert_eq!(w.machine.domain_info(id), None, "nothing of it is held");
        w.end([g]);
    })
}

/// The mapper's process ends meanwhile, and what it has mapped with it.
pub fn beside_the_end_of_a_process(checker: Checker) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, By::Cpu, REVOKABLE);
        play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            s.spawn(|| use_until_death(&g, &m, By::Cpu, How::Revokable));
            s.spawn(|| m.caller.kill());
        });
        assert!(w.still_secret(&g, PAGE));
        w.end([g, m]);
    })
}

/// A grant that is handed on is copied by meanwhile: it is pinned at its root, too, and the one in the middle dies.
pub fn at_the_root_of_a_grant_that_is_handed_on(checker: Checker) -> usize {
    checker.run(move || {
        let w = World::new();
        let (g, middle, m) = (w.granter(Version::One), w.granter(Version::Two), w.mapper(By::Cpu));
        g.offer(REF, middle.id, PAGE, REVOKABLE);
        middle.hand_on(REF, m.id, g.id, REF);
        play(|s| {
            s.spawn(|| take_back(&w, &g, Granter::Right));
            s.spawn(|| copy_once(&w, &middle, &m));
            s.spawn(|| w.machine.destroy_domain(middle.id));
        });
        assert!(w.still_secret(&g, PAGE));
        w.end([g, middle, m]);
    })
}
