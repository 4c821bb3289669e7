//! Others who read, copy or map while a grant is revoked.

use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;

use super::*;

#[test]
fn revoke_waits_for_copies_and_lets_no_new_one_in() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let other = m.caller(b.id).unwrap();
    let copy = |c: &Caller, to: u64| {
        let (source, dest) = (ptr(a.id, 9, 0), ptr(DomId::SELF, to, 0));
        let mut arg =
            gnttab_copy { source, dest, len: 4096, flags: GNTCOPY_source_gref, ..Default::default() };
        op(c, GNTTABOP_copy, &mut arg).unwrap();
        arg.status
    };
    let (stop, done) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|s| {
        // Two that overlap: there is nearly always a pin.
        for (c, to) in [(&b.caller, 5), (&other, 6)] {
            let (stop, done, copy) = (&stop, &done, &copy);
            s.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    done.fetch_add(u32::from(copy(c, to) == GNTST_okay), Ordering::SeqCst);
                }
            });
        }
        for _ in 0..100 {
            a.grant(9, b.id, 3, REVOKABLE);
            let before = done.load(Ordering::SeqCst);
            while done.load(Ordering::SeqCst) == before {
                thread::yield_now();
            }
            a.close(9);
            a.revoke(9).unwrap();
            assert_eq!((a.flags(9), m.references(a.id, Gfn(3))), (GTF_revokable, Ok(1)));
            assert_eq!(copy(&b.caller, 7), GNTST_general_error);
        }
        stop.store(true, Ordering::SeqCst);
    });
    m.assert_clean();
}

#[test]
fn a_reader_sees_the_old_page_or_the_new_one_and_never_a_fault() {
    let m = machine(Config::default());
    let (a, b, c) = (pv(&m), pv(&m), hvm(&m));
    let (room, v) = (Room::new(&b, 1), vcpu(&m, c.id, 0));
    let mut v = Some(v);
    // A PV reader would die of a fault, a translated one is told of it.
    for _ in 0..100 {
        a.grant(9, b.id, 3, REVOKABLE);
        a.grant(10, c.id, 3, REVOKABLE);
        let pv = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
        let translated = c.map_revokable(&a, 10, HOST, 100 << 12, 6).unwrap();
        let reader = v.take().unwrap();
        v = thread::scope(|s| {
            s.spawn(|| until(5, || room.byte(0)));
            let reads_on = s.spawn(move || {
                until(6, || {
                    let mut seen = [0];
                    reader.ram_read(100 << 12, &mut seen).unwrap();
                    seen[0]
                });
                reader
            });
            a.close(9);
            a.close(10);
            a.revoke(9).unwrap();
            a.revoke(10).unwrap();
            Some(reads_on.join().unwrap())
        });
        assert_eq!(b.unmap(pv.handle, room.addr(0), 0), GNTST_okay);
        assert_eq!(c.unmap(translated.handle, 100 << 12, 0), GNTST_okay);
    }
    m.assert_clean();
}

/// Reads until the new page is there; before that it is the old one.
fn until(new: u8, read: impl Fn() -> u8) {
    loop {
        match read() {
            3 => {}
            seen => {
                assert_eq!(seen, new);
                return;
            }
        }
    }
}

#[test]
fn a_map_that_races_a_revocation_is_switched_or_refused() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    for round in 0..400 {
        a.grant(9, b.id, 3, REVOKABLE);
        let go = AtomicBool::new(false);
        let mapped = thread::scope(|s| {
            let mapper = s.spawn(|| {
                while !go.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
                b.map_revokable(&a, 9, HOST, room.addr(0), 5)
            });
            go.store(true, Ordering::SeqCst);
            // Each of them is first now and then, whatever the host does.
            for _ in 0..round % 50 * 20 {
                std::hint::spin_loop();
            }
            a.close(9);
            a.revoke(9).unwrap();
            assert_eq!(
                (a.flags(9), m.references(a.id, Gfn(3))),
                (GTF_revokable, Ok(1)),
                "it is over at once"
            );
            mapper.join().unwrap()
        });
        match mapped {
            Ok(map) => {
                assert_eq!(room.byte(0), 5);
                assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
            }
            Err(status) => {
                assert_eq!((status, m.references(b.id, Gfn(5))), (GNTST_general_error, Ok(1)));
            }
        }
    }
    m.assert_clean();
}
