//! The loop: what it takes it unmasks, what overflows is recovered, who is idle costs nothing, who is busy starves nobody.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use ioreq_server::GuestLoop;
use ioreq_server::sources::{Control, Timer};
use mock_xen::{Config, Machine};
use xen_ioreq::abi::ioreq::{Bits, SLOT_BITS_OFFSET, STATE_IOREQ_READY};
use xen_ioreq::abi::memory::XENMEM_resource_ioreq_server;
use xen_ioreq::seam::{Mapping, ResourceMap};
use xen_ioreq::{DomId, IoServerId};

use crate::rig::*;

/// The slots of a server, as who watches from outside sees them.
struct Slots(Mapping);

impl Slots {
    fn of(m: &Arc<Machine>, d: DomId, server: IoServerId) -> Self {
        let caller = m.caller(DOM0).unwrap();
        Self(caller.map_resource(d, XENMEM_resource_ioreq_server, server.0.into(), 1, 1).unwrap())
    }

    fn is_ready(&self, vcpu: usize) -> bool {
        Bits::unpack(byte(&self.0, vcpu * 32 + SLOT_BITS_OFFSET)).state == STATE_IOREQ_READY
    }
}

/// Lets the loop stand still until all of `vcpus` have sent a request, then go on; each of them reads the register at `at`.
fn all_at_once(s: &Serving, m: &Arc<Machine>, d: DomId, slots: &Slots, vcpus: u32, at: u64) {
    let gate = Arc::new(Barrier::new(2));
    let standing = gate.clone();
    s.handle.call(move |_| {
        standing.wait();
        standing.wait();
    });
    gate.wait();
    std::thread::scope(|t| {
        for id in 0..vcpus {
            t.spawn(move || assert_eq!(vcpu(m, d, id).mmio_read(at, 4), Ok(0)));
        }
        while !(0..vcpus as usize).all(|v| slots.is_ready(v)) {
            std::thread::yield_now();
        }
        gate.wait();
    });
}

#[test]
fn a_whole_page_of_vcpus_that_ask_at_once_are_all_answered() {
    let m = machine();
    let d = guest(&m, 128);
    let guest = make(&m, d, Options::default());
    let slots = Slots::of(&m, d, guest.server().id());
    Cells::attach(guest.bus());
    let s = serve_all(vec![guest]);
    for round in 1..=3 {
        all_at_once(&s, &m, d, &slots, 128, MEMORY);
        assert_eq!(s.stats().mmio, round * 128);
    }
    assert_eq!((s.stats().event_ring_resets, s.stats().malformed), (0, 0));
}

#[test]
fn an_event_ring_that_overflows_for_want_of_room_loses_no_request() {
    // Room for 4 events, and 16 vCPUs that send one each while nobody reads.
    let config = Config { frames: 2048, xen_frames: 8, evtchn_ring: 4, ..Config::default() };
    let m = Machine::new(config).unwrap();
    let d = guest(&m, 16);
    let guest = make(&m, d, Options::default());
    let slots = Slots::of(&m, d, guest.server().id());
    Cells::attach(guest.bus());
    let s = serve_all(vec![guest]);
    s.sleep_at_once();
    for round in 1..=20 {
        all_at_once(&s, &m, d, &slots, 16, MEMORY);
        assert_eq!(s.stats().mmio, round * 16);
        assert!(s.stats().event_ring_resets >= round, "the ring has overflowed in each round");
    }
}

#[test]
fn each_port_that_was_taken_is_unmasked_once() {
    let m = machine();
    let d = guest(&m, 8);
    let (events, conn) = Moody::connect(&m);
    let guest = make_on(&conn, d, Options::default());
    Cells::attach(guest.bus());
    let s = serve_all(vec![guest]);
    for patience in [Duration::ZERO, Duration::from_micros(20), Duration::from_secs(3600)] {
        s.on_loop(move |l| l.set_patience(patience));
        std::thread::scope(|t| {
            for id in 0..8 {
                let m = &m;
                t.spawn(move || {
                    let v = vcpu(m, d, id);
                    for n in 0..200 {
                        v.mmio_write(MEMORY + 8 * u64::from(id), 8, n).unwrap();
                    }
                });
            }
        });
    }
    // With nobody left to ask, a call that has been obeyed comes after everything else, and nothing is held back for
    // the sake of looking.
    s.sleep_at_once();
    let v = vcpu(&m, d, 0);
    v.mmio_read(MEMORY, 8).unwrap();
    s.on_loop(|_| ());
    let count = |ports: &[xen_ioreq::Port]| {
        ports.iter().fold(BTreeMap::new(), |mut all: BTreeMap<_, u32>, p| {
            *all.entry(*p).or_default() += 1;
            all
        })
    };
    let (taken, unmasked) = (count(&events.taken.lock()), count(&events.unmasked.lock()));
    assert_eq!(taken, unmasked);
    // Every vCPU's port, and no other but the ring's.
    assert!((8..=9).contains(&taken.len()), "{taken:?}");
}

/// As where a port comes while Linux gives others out: no read has told of it, and nobody is woken for it.
#[test]
fn a_port_that_no_descriptor_tells_of_is_served_all_the_same() {
    let m = machine();
    let d = guest(&m, 16);
    let (events, conn) = Moody::connect(&m);
    let guest = make_on(&conn, d, Options::default());
    let slots = Slots::of(&m, d, guest.server().id());
    Cells::attach(guest.bus());
    let s = serve_all(vec![guest]);
    s.sleep_at_once();
    events.one_by_one.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        all_at_once(&s, &m, d, &slots, 16, MEMORY);
    }
    assert_eq!(s.stats().mmio, 20 * 16);
}

#[test]
fn an_idle_guest_is_not_touched_by_what_others_do() {
    let m = machine();
    let (idle, busy) = (guest(&m, 1), guest(&m, 1));
    let (events, conn) = Moody::connect(&m);
    let guests = [make_on(&conn, idle, Options::default()), make(&m, busy, Options::default())];
    let idle_stats = guests[0].stats();
    guests.iter().for_each(|g| drop(Cells::attach(g.bus())));
    let s = serve_all(guests.into());
    let (v, w) = (vcpu(&m, idle, 0), vcpu(&m, busy, 0));
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
    let touched = || (idle_stats.snapshot().wakeups, events.reads.load(Ordering::SeqCst));
    let before = touched();
    for n in 0..200 {
        assert_eq!(w.mmio_write(MEMORY, 4, n), Ok(()));
        s.on_loop(|_| ());
    }
    // Events of its own may have been on their way; what others do makes no difference.
    let after = touched();
    assert!(after.0 <= before.0 + 8 && after.1 <= before.1 + 8, "{before:?} {after:?}");
}

#[test]
fn a_guest_that_asks_in_a_row_is_answered_without_an_event_now_and_then() {
    const ACCESSES: u64 = 2000;
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    s.on_loop(|l| l.set_patience(Duration::from_secs(1)));
    for n in 0..ACCESSES {
        assert_eq!(v.mmio_write(MEMORY, 8, n), Ok(()));
    }
    let stats = s.stats();
    assert_eq!(stats.mmio, ACCESSES);
    // How many depends on the machine; what it depends on is simulated in `linger`.
    assert!(stats.unannounced > 0, "{stats:?}");
    assert!(stats.wakeups <= ACCESSES + 10, "{stats:?}");
}

/// Time that a thread of this process has run, in nanoseconds, and whether it sleeps.
fn ran(thread: i32) -> (u64, bool) {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/self/task/{thread}/{what}")).unwrap();
    let state = read("stat").rsplit(')').next().unwrap().trim_start().starts_with('S');
    (read("schedstat").split(' ').next().unwrap().parse().unwrap(), state)
}

#[test]
fn a_loop_that_polls_under_load_sleeps_and_uses_no_processor_while_its_guest_is_idle() {
    let m = machine();
    let (d, other) = (guest(&m, 1), guest(&m, 1));
    let s = serve(&m, d, Options::default());
    let busy = serve(&m, other, Options::default());
    Cells::attach(&s.bus);
    Cells::attach(&busy.bus);
    let thread = s.on_loop(|l| {
        l.set_patience(Duration::from_micros(200));
        rustix::thread::gettid().as_raw_nonzero().get()
    });
    let (v, w) = (vcpu(&m, d, 0), vcpu(&m, other, 0));
    for round in 1..=5 {
        for n in 0..200 {
            assert_eq!(v.mmio_write(MEMORY, 8, n), Ok(()));
        }
        assert_eq!(s.stats().mmio, 200 * round);
        // Its last session comes to an end, whatever it found.
        while !ran(thread).1 {
            std::thread::yield_now();
        }
        let asleep = (ran(thread).0, s.stats());
        // A while, in which others are served.
        for n in 0..500 {
            assert_eq!(w.mmio_write(MEMORY, 8, n), Ok(()));
        }
        assert_eq!((ran(thread).0, s.stats()), asleep);
    }
    assert!(s.stats().looks > 0);
}

#[test]
fn a_busy_guest_starves_neither_other_guests_nor_timers_nor_calls() {
    let m = machine();
    let (busy, other) = (guest(&m, 8), guest(&m, 1));
    let guests = vec![make(&m, busy, Options::default()), make(&m, other, Options::default())];
    guests.iter().for_each(|g| drop(Cells::attach(g.bus())));
    let s = serve_all(guests);
    let ticks = Arc::new(AtomicU64::new(0));
    let counted = ticks.clone();
    let (timer, alarm) = Timer::new(move |n, _| {
        counted.fetch_add(n, Ordering::SeqCst);
        Ok(())
    })
    .unwrap();
    s.on_loop(move |l| l.add_source(Box::new(timer)).unwrap());
    alarm.every(Duration::from_micros(100)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|t| {
        for id in 0..8 {
            let (m, stop) = (&m, &stop);
            t.spawn(move || {
                let v = vcpu(m, busy, id);
                while !stop.load(Ordering::SeqCst) {
                    v.mmio_read(MEMORY, 4).unwrap();
                }
            });
        }
        let w = vcpu(&m, other, 0);
        let before = ticks.load(Ordering::SeqCst);
        for n in 0..200 {
            assert_eq!(w.mmio_write(MEMORY, 4, n), Ok(()));
            assert_eq!(s.on_loop(|l| l.guests()), 2);
        }
        // As long as it takes: it comes.
        while ticks.load(Ordering::SeqCst) < before + 5 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_loop_for_each_guest_and_one_loop_for_many_serve_alike() {
    let m = machine();
    let domains: Vec<_> = (0..6).map(|_| guest(&m, 1)).collect();
    let (alone, together) = domains.split_at(3);
    let make = |d: &DomId| {
        let g = make(&m, *d, Options::default());
        Cells::attach(g.bus());
        g
    };
    let mut serving: Vec<_> = alone.iter().map(|d| serve_all(vec![make(d)])).collect();
    serving.push(serve_all(together.iter().map(make).collect()));
    std::thread::scope(|t| {
        for d in &domains {
            let m = &m;
            t.spawn(move || {
                let v = vcpu(m, *d, 0);
                for n in 0..300 {
                    v.mmio_write(MEMORY, 8, n).unwrap();
                    assert_eq!(v.mmio_read(MEMORY, 8), Ok(n));
                }
            });
        }
    });
    let served: Vec<_> = serving.iter().flat_map(|s| s.handle.guests()).collect();
    assert_eq!(served.iter().map(|g| g.domid).collect::<Vec<_>>(), domains);
    assert!(served.iter().all(|g| g.stats.snapshot().mmio == 600));
}

#[test]
fn a_panic_in_a_call_costs_the_guests_nothing() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    s.handle.call(|_| panic!("a mistake of who called"));
    assert_eq!(vcpu(&m, d, 0).mmio_read(MEMORY, 4), Ok(0));
    assert_eq!(s.on_loop(|l| l.guests()), 1);
}

#[test]
fn an_operator_lists_guests_reads_counters_and_stops_the_loop() {
    let m = machine();
    let domains = [guest(&m, 1), guest(&m, 1)];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let mut l = GuestLoop::new().unwrap();
    for d in domains {
        let g = make(&m, d, Options::default());
        Cells::attach(g.bus());
        l.add(g).unwrap();
    }
    l.add_source(Box::new(Control::bind(&path).unwrap())).unwrap();
    let thread = std::thread::spawn(move || l.run().unwrap());
    let v = vcpu(&m, domains[1], 0);
    for _ in 0..3 {
        v.mmio_read(MEMORY, 4).unwrap();
    }
    let mut peer = UnixStream::connect(&path).unwrap();
    let [a, b] = domains.map(|d| d.0);
    peer.write_all(format!("guests\nstats {b}\nstop\n").as_bytes()).unwrap();
    let lines: Vec<String> = BufReader::new(peer).lines().map(Result::unwrap).collect();
    assert_eq!(lines[..3], [format!("{a} 0"), format!("{b} 0"), "ok".to_owned()]);
    assert!(lines.contains(&format!("{b} 0 mmio 3")) && lines.contains(&format!("{b} 0 malformed 0")));
    assert!(!lines.iter().any(|l| l.starts_with(&format!("{a} 0 "))));
    assert_eq!(lines[lines.len() - 2..], ["ok", "ok"]);
    thread.join().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_device_whose_answers_wait_for_a_timer_is_served_by_the_same_loop() {
    let m = machine();
    let d = guest(&m, 4);
    let guest = make(&m, d, Options::default());
    let tokens = deferring(guest.bus(), 0xe000_0000);
    let s = serve_all(vec![guest]);
    let (tx, rx) = channel();
    let mut waiting: Vec<ioreq_server::Deferred> = Vec::new();
    let answered = Arc::new(AtomicU32::new(0));
    let count = answered.clone();
    let (timer, alarm) = Timer::new(move |_, _| {
        waiting.extend(tokens.try_iter());
        for token in waiting.drain(..) {
            token.answer(Ok(u64::from(count.fetch_add(1, Ordering::SeqCst))));
        }
        Ok(())
    })
    .unwrap();
    s.on_loop(move |l| l.add_source(Box::new(timer)).unwrap());
    alarm.every(Duration::from_micros(50)).unwrap();
    std::thread::scope(|t| {
        for id in 0..4 {
            let (m, tx) = (&m, tx.clone());
            t.spawn(move || {
                let v = vcpu(m, d, id);
                (0..25).for_each(|_| tx.send(v.mmio_read(0xe000_0000, 4).unwrap()).unwrap());
            });
        }
    });
    let mut got: Vec<_> = rx.try_iter().collect();
    got.sort_unstable();
    assert_eq!(got, (0..100).collect::<Vec<u64>>());
}
