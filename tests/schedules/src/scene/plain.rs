//! Grants that only their mapper gives back: many uses at once, and what the granter may do with its table and page meanwhile.

use xen_ioreq::abi::grant_table::{
    GNTST_bad_domain, GNTST_bad_page, GNTST_eagain, GNTST_general_error, GTF_accept_transfer,
    GTF_permit_access,
};
use xen_ioreq::{Errno, Gfn};

use super::guest::{Dom, End, MARKS, Refused, Version};
use super::seat::{By, Seat};
use super::uses::{Granter, How, copy_once, refused, use_once, use_until_death};
use super::world::{PAGE, PUBLIC, REF, World, granted, play};
use crate::Checker;
use crate::sync::yield_now;

const RW: How = How::Plain { readonly: false };
/// Where a domain has nothing.
const NEW: u64 = 6;
const RO: How = How::Plain { readonly: true };

/// Has the page back, or waits until its mappers have let go.
fn wait_for(w: &World, g: &Dom, how: Granter) {
    if how == Granter::Right && !g.withdraw(REF) {
        g.close(REF);
        while g.marks(REF) != 0 {
            yield_now();
        }
    }
    w.keep_secret(g, PAGE);
}

/// Two map, look and unmap, one copies, and the granter withdraws its entry.
pub fn maps_and_copies_beside_a_withdrawal(
    checker: Checker,
    by: By,
    version: Version,
    how: Granter,
) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(version, by, GTF_permit_access);
        play(|s| {
            s.spawn(|| wait_for(&w, &g, how));
            s.spawn(|| use_once(&g, &m, by, RW));
            if by != By::Vcpu {
                s.spawn(|| use_once(&g, &m, by, RO));
            }
            s.spawn(|| copy_once(&w, &g, &m));
        });
        w.still_secret(&g, PAGE);
        w.end([g, m]);
    })
}

/// A granter tries once to have its entry back, by a compare-exchange or by two looks, while it is being mapped: it has it back, or
/// it is mapped and marked.
pub fn a_map_beside_one_withdrawal(checker: Checker, version: Version) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(version, By::Cpu, GTF_permit_access);
        let seat = Seat::new(&m, By::Cpu);
        let (withdrawn, seat, mapped) = play(|s| {
            let mapper = s.spawn(|| {
                let mapped = seat.map(g.id, REF, false, None).inspect_err(refused);
                (seat, mapped)
            });
            let withdrawn = g.withdraw(REF);
            let (seat, mapped) = mapper.join().expect("no panic");
            (withdrawn, seat, mapped)
        });
        w.machine.assert_clean();
        assert_eq!(g.marks(REF), if mapped.is_ok() { MARKS } else { 0 });
        assert!(!withdrawn || mapped.is_err(), "the page is the granter's again, and mapped");
        assert!(withdrawn || mapped.is_ok() || version == Version::Two, "one of them has its way");
        if let Ok(mapped) = mapped {
            assert_eq!(seat.unmap(&mapped), Ok(()));
        }
        drop(seat);
        w.end([g, m]);
    })
}

/// A page is given away for good while somebody maps it and copies by it: it goes only if nobody uses it, and then nobody does.
pub fn a_transfer_beside_a_map(checker: Checker) -> usize {
    checker.run(move || {
        let w = World::new();
        let (g, r, m) = (w.granter(Version::One), w.granter(Version::One), w.mapper(By::Cpu));
        g.offer(REF, m.id, PAGE, GTF_permit_access);
        r.offer(REF, g.id, 0, GTF_accept_transfer);
        let came = play(|s| {
            let giver = s.spawn(|| {
                let given = g.transfer(PAGE, r.id, REF);
                let came = r.came(REF);
                match given {
                    Ok(()) => assert!(w.keep_secret(&r, came.expect("it has come"))),
                    Err(e) => assert_eq!((e, came), (Refused::Status(GNTST_bad_page), None)),
                }
                came
            });
            s.spawn(|| use_once(&g, &m, By::Cpu, RW));
            s.spawn(|| copy_once(&w, &g, &m));
            giver.join().expect("no panic")
        });
        match came {
            Some(gfn) => assert!(w.still_secret(&r, gfn)),
            None => assert!(w.byte(&g, PAGE << 12).is_some(), "it is the giver's still"),
        }
        w.end([g, r, m]);
    })
}

/// A page is ballooned out while somebody maps it and copies by it, and the hypervisor has its frame for somebody else: who still uses
/// it keeps it from that.
pub fn a_balloon_beside_a_map(checker: Checker) -> usize {
    checker.run(move || {
        let w = World::new();
        let (g, other, m) = (w.granter(Version::One), w.mapper(By::Cpu), w.mapper(By::Cpu));
        g.offer(REF, m.id, PAGE, GTF_permit_access);
        play(|s| {
            s.spawn(|| {
                assert!(g.balloon(PAGE), "it had it");
                // What was freed last is used first.
                w.machine.populate(other.id, Gfn(NEW), 1).expect("there are frames");
                w.keep_secret(&other, NEW)
            });
            s.spawn(|| use_once(&g, &m, By::Cpu, RW));
            s.spawn(|| copy_once(&w, &g, &m));
        });
        assert!(w.still_secret(&other, NEW));
        w.end([g, other, m]);
    })
}

/// A mapping is the last that holds a page, ends, and is looked at all the time: what is shown there is the page or nothing, and
/// never what the hypervisor has made of the frame.
pub fn a_balloon_beside_an_unmap(checker: Checker) -> usize {
    checker.run(move || {
        let w = World::new();
        let (g, other, m) = (w.granter(Version::One), w.mapper(By::Cpu), w.mapper(By::Cpu));
        g.offer(REF, m.id, PAGE, GTF_permit_access);
        let seat = Seat::new(&m, By::Cpu);
        let mapped = seat.map(g.id, REF, false, None).expect("it is granted");
        assert!(g.balloon(PAGE), "it had it");
        let (address, free) = (seat.address(), w.machine.free_frames());
        play(|s| {
            s.spawn(|| m.unmap(mapped.handle, address, 0));
            s.spawn(|| {
                while w.machine.free_frames() == free {
                    yield_now();
                }
                w.machine.populate(other.id, Gfn(NEW), 1).expect("there are frames");
                w.keep_secret(&other, NEW)
            });
            for _ in 0..6 {
                let seen = Seat::peek(address);
                assert!(seen.is_none_or(|byte| byte == PUBLIC), "what is another's now is still shown");
            }
        });
        assert!(w.still_secret(&other, NEW));
        drop(seat);
        w.end([g, other, m]);
    })
}

/// What happens to the receiver of a page meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// It takes its acceptance back, if it can.
    Withdraws,
    /// It is destroyed.
    Dies,
}

/// A page is given away, and its receiver wants it no more.
pub fn a_transfer_to_who_goes(checker: Checker, how: Receiver) -> usize {
    checker.run(move || {
        let w = World::new();
        let (g, r) = (w.granter(Version::One), w.granter(Version::One));
        r.offer(REF, g.id, 0, GTF_accept_transfer);
        play(|s| {
            let giver = s.spawn(|| g.transfer(PAGE, r.id, REF));
            let withdrawn = match how {
                Receiver::Withdraws => r.accept_no_more(REF),
                Receiver::Dies => {
                    assert_eq!(w.machine.destroy_domain(r.id), Ok(()));
                    false
                }
            };
            match giver.join().expect("no panic") {
                Ok(()) => assert!(!withdrawn && (how == Receiver::Dies || r.came(REF).is_some())),
                Err(Refused::Status(GNTST_general_error | GNTST_bad_domain)) => {
                    assert!(withdrawn || how == Receiver::Dies);
                }
                Err(e) => panic!("transfer: {e:?}"),
            }
        });
        assert_eq!(w.byte(&g, PAGE << 12), None, "a page that nobody took is lost, too");
        w.end([g, r]);
    })
}

/// What a granter does to its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It changes the version of its entries, and back.
    Version,
    /// It has two entries change their places, and back.
    Swap,
}

/// The table changes while somebody maps and copies: entries in use stay what they are.
pub fn a_change_of_the_table_beside_a_map(checker: Checker, what: Change) -> usize {
    checker.run(move || {
        let (w, g, m) = granted(Version::One, By::Cpu, GTF_permit_access);
        play(|s| {
            s.spawn(|| {
                for version in [2, 1] {
                    let (done, busy) = match what {
                        Change::Version => (g.set_version(version), Refused::Call(Errno::EBUSY)),
                        Change::Swap => (g.swap(REF, REF + 1), Refused::Status(GNTST_eagain)),
                    };
                    assert!(done == Ok(()) || done == Err(busy), "{done:?}");
                }
            });
            s.spawn(|| use_once(&g, &m, By::Cpu, RW));
            s.spawn(|| copy_once(&w, &g, &m));
        });
        w.end([g, m]);
    })
}

/// The granter is destroyed while somebody maps, and keeps it for a while; or both are.
pub fn beside_a_death(checker: Checker, both: bool) -> usize {
    checker.run(move || {
        let (w, mut g, m) = granted(Version::One, By::Device, GTF_permit_access);
        let seat = Seat::new(&m, By::Device);
        let (seat, mapped) = play(|s| {
            s.spawn(|| w.machine.destroy_domain(g.id));
            s.spawn(|| use_until_death(&g, &m, By::Cpu, RO));
            let _copy = s.spawn(|| m.copy(End::Grant(g.id, REF), End::Own(0), 1));
            if both {
                s.spawn(|| w.machine.destroy_domain(m.id));
            }
            let mapper = s.spawn(|| {
                let mapped = seat.map(g.id, REF, false, None).inspect_err(refused).ok();
                (seat, mapped)
            });
            mapper.join().expect("no panic")
        });
        w.machine.assert_clean();
        g.unmap_tables();
        let held = mapped.is_some() && !both;
        assert_eq!(
            w.machine.domain_info(g.id).is_some(),
            held,
            "held by who has its page mapped, and no longer"
        );
        if let (Some(mapped), false) = (mapped, both) {
            assert_eq!(seat.unmap(&mapped), Ok(()));
            assert_eq!(w.machine.domain_info(g.id), None);
        }
        drop(seat);
        w.end([g, m]);
    })
}

/// A guest and its device model are destroyed at once, with a page that they share.
pub fn a_guest_and_its_emulator_die(checker: Checker) -> usize {
    checker.run(move || {
        let w = World::new();
        let (guest, emulator) = (w.mapper(By::Vcpu), w.mapper(By::Cpu));
        w.share_pages(&guest, emulator.id);
        play(|s| {
            s.spawn(|| w.machine.destroy_domain(guest.id));
            s.spawn(|| w.machine.destroy_domain(emulator.id));
        });
        w.end([guest, emulator]);
    })
}
