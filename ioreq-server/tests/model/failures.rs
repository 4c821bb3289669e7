//! Devices that defer, fail, panic and forget: no vCPU waits for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ioreq_server::{IoError, OnError, Outcome};
use mock_xen::VcpuError;

use crate::rig::*;

#[test]
fn deferred_access_is_answered_from_another_thread() {
    let m = machine();
    let d = guest(&m, 2);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let tokens = deferring(&s.bus, 0xe000_0000);
    let waiting = std::thread::spawn({
        let v = vcpu(&m, d, 0);
        move || v.mmio_read(0xe000_0004, 4)
    });
    let token = tokens.recv().unwrap();
    // The other vCPU is served meanwhile.
    assert_eq!(vcpu(&m, d, 1).mmio_read(MEMORY, 4), Ok(0));
    assert!(!waiting.is_finished());
    token.answer(Ok(0xffff_1234_5678));
    assert_eq!(waiting.join().unwrap(), Ok(0x1234_5678));
}

#[test]
fn deferred_string_instruction_goes_on_after_each_answer() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let tokens = deferring(&s.bus, 0xe000_0000);
    let v = vcpu(&m, d, 0);
    let waiting = std::thread::spawn(move || {
        v.rep_mmio(0xe000_0000, 2, true, 0x1000, 5, false).unwrap();
        v
    });
    for i in 0..5 {
        tokens.recv().unwrap().answer(Ok(0x100 + i));
    }
    let v = waiting.join().unwrap();
    let mut got = [0; 12];
    v.ram_read(0x1000, &mut got).unwrap();
    assert_eq!(got, [0, 1, 1, 1, 2, 1, 3, 1, 4, 1, 0, 0]);
}

#[test]
fn dropped_obligation_reads_all_ones() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let tokens = deferring(&s.bus, 0xe000_0000);
    let waiting = std::thread::spawn({
        let v = vcpu(&m, d, 0);
        move || v.mmio_read(0xe000_0000, 8)
    });
    drop(tokens.recv().unwrap());
    assert_eq!(waiting.join().unwrap(), Ok(u64::MAX));
}

#[test]
fn panicking_device_costs_one_access_and_not_the_loop() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    Reads::attach(&s.bus, 0xe000_0000, |_| panic!("a bug in a device"));
    Reads::attach(&s.bus, 0xe000_1000, |_| Outcome::Err(IoError::NoRegister));
    let v = vcpu(&m, d, 0);
    assert_eq!(v.mmio_read(0xe000_0000, 4), Ok(0xffff_ffff));
    assert_eq!(v.mmio_read(0xe000_1000, 4), Ok(0xffff_ffff));
    v.mmio_write(MEMORY, 4, 5).unwrap();
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(5));
    let stats = s.stats();
    assert_eq!((stats.panics, stats.unknown_register), (1, 1));
}

#[test]
fn broken_device_crashes_only_the_guest_whose_operator_wants_it() {
    let m = machine();
    let (a, b) = (guest(&m, 1), guest(&m, 1));
    let guests: Vec<_> = [(a, OnError::CrashGuest), (b, OnError::AllOnes)]
        .into_iter()
        .map(|(d, on_error)| {
            let guest = make(&m, d, Options { on_error, ..Options::default() });
            Reads::attach(guest.bus(), 0xe000_0000, |_| panic!("a bug in a device"));
            Cells::attach(guest.bus());
            guest
        })
        .collect();
    let _s = serve_all(guests);
    let (va, vb) = (vcpu(&m, a, 0), vcpu(&m, b, 0));
    let _ = va.mmio_read(0xe000_0000, 4);
    assert!(matches!(va.mmio_read(MEMORY, 4), Err(VcpuError::Stopped(_))));
    assert_eq!(vb.mmio_read(0xe000_0000, 4), Ok(0xffff_ffff));
    assert_eq!(vb.mmio_read(MEMORY, 4), Ok(0));
}

#[test]
fn overflow_of_the_event_ring_loses_no_request() {
    let m = machine();
    let d = guest(&m, 8);
    let (events, conn) = Moody::connect(&m);
    let guest = make_on(&conn, d, Options::default());
    Cells::attach(guest.bus());
    let s = serve_all(vec![guest]);
    s.sleep_at_once();
    for round in 0..50 {
        // Whatever comes first is lost, and its port stays masked.
        events.lose.store(true, Ordering::SeqCst);
        std::thread::scope(|t| {
            for id in 0..8 {
                let m = &m;
                t.spawn(move || assert_eq!(vcpu(m, d, id).mmio_read(MEMORY, 4), Ok(0)));
            }
        });
        assert_eq!(s.stats().event_ring_resets, round + 1);
    }
    assert_eq!(s.stats().mmio, 8 * 50);
}

#[test]
fn another_thread_may_unplug_a_device_while_the_guest_runs() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let bus = Arc::clone(&s.bus);
    let id = Reads::attach(&bus, 0xe000_0000, |_| Outcome::Ok(3));
    let v = vcpu(&m, d, 0);
    assert_eq!(v.mmio_read(0xe000_0000, 4), Ok(3));
    std::thread::spawn(move || bus.detach(id).unwrap()).join().unwrap();
    assert_eq!(v.mmio_read(0xe000_0000, 4), Ok(0xffff_ffff));
}
