//! Servers come and go while guests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ioreq_server::claims::{ClaimError, RangeClaims};
use ioreq_server::{
    BufferedMode, EventSource, GuestError, GuestLoop, Notices, Progress, Server, ServerError, Space,
};
use xen_ioreq::abi::ioreq::SLOT_BITS_OFFSET;
use xen_ioreq::seam::ResourceMap;
use xen_ioreq::{DomId, Gfn};

use crate::rig::*;

#[test]
fn server_taken_down_while_a_vcpu_waits_answers_all_ones_and_frees_everything() {
    let m = machine();
    let d = guest(&m, 1);
    let before = m.free_frames();
    let s = serve(&m, d, Options::default());
    let tokens = deferring(&s.bus, 0xe000_0000);
    let v = vcpu(&m, d, 0);
    let waiting = std::thread::spawn(move || {
        let got = v.mmio_read(0xe000_0000, 4);
        (v, got)
    });
    let token = tokens.recv().unwrap();
    drop(s);
    let (v, got) = waiting.join().unwrap();
    assert_eq!(got, Ok(0xffff_ffff));
    // Too late to harm anybody; and the page that it kept is free once it is gone.
    token.answer(Ok(1));
    assert_eq!(v.mmio_read(0xe000_0000, 4), Ok(0xffff_ffff));
    assert_eq!(m.free_frames(), before);
    m.assert_clean();
}

#[test]
fn server_is_replaced_while_the_guest_runs() {
    let m = machine();
    let d = guest(&m, 1);
    let before = m.free_frames();
    let v = vcpu(&m, d, 0);
    for round in 0..20 {
        let s = serve(&m, d, Options::default());
        Cells::attach(&s.bus);
        v.mmio_write(MEMORY, 8, round).unwrap();
        assert_eq!(v.mmio_read(MEMORY, 8), Ok(round));
        drop(s);
        assert_eq!(v.mmio_read(MEMORY, 8), Ok(u64::MAX));
    }
    assert_eq!(m.free_frames(), before);
}

#[test]
fn two_servers_on_one_domain_each_get_their_ranges() {
    let m = machine();
    let d = guest(&m, 1);
    let a = serve(&m, d, Options::default());
    let b = serve(&m, d, Options::default());
    Reads::attach(&a.bus, 0xe000_0000, |_| ioreq_server::Outcome::Ok(0xa));
    Reads::attach(&b.bus, 0xe100_0000, |_| ioreq_server::Outcome::Ok(0xb));
    let v = vcpu(&m, d, 0);
    assert_eq!((v.mmio_read(0xe000_0000, 1), v.mmio_read(0xe100_0000, 1)), (Ok(0xa), Ok(0xb)));
    drop(b);
    assert_eq!((v.mmio_read(0xe000_0000, 1), v.mmio_read(0xe100_0000, 1)), (Ok(0xa), Ok(0xff)));
}

#[test]
fn ninth_server_is_refused_with_what_to_do() {
    let m = machine();
    let d = guest(&m, 1);
    let conn = connect(&m);
    let mut servers: Vec<_> = (0..8).map(|_| Server::create(&conn, d, BufferedMode::Off).unwrap()).collect();
    let e = Server::create(&conn, d, BufferedMode::Off).unwrap_err();
    assert_eq!(e, ServerError::TooMany { domid: d });
    servers.pop();
    // In each state dropping gives the place back.
    drop(Server::create(&conn, d, BufferedMode::Atomic).unwrap().map().unwrap());
    drop(Server::create(&conn, d, BufferedMode::Atomic).unwrap().map().unwrap().enable().unwrap());
    drop(Server::create(&conn, d, BufferedMode::Legacy).unwrap());
    m.assert_clean();
}

#[test]
fn no_such_domain_is_an_error_that_names_it() {
    let m = machine();
    let e = Server::create(&connect(&m), DomId(77), BufferedMode::Off).unwrap_err();
    assert_eq!(e.to_string(), "creating an IOREQ server: d77: create_ioreq_server: ESRCH");
}

#[test]
fn claims_outlive_their_server_and_refuse() {
    let m = machine();
    let d = guest(&m, 1);
    let server = Server::create(&connect(&m), d, BufferedMode::Off).unwrap();
    let claims = server.claims();
    claims.claim(Space::Mmio, 0x1000, 0x1fff).unwrap();
    drop(server);
    assert_eq!(claims.claim(Space::Mmio, 0x1000, 0x1fff), Err(ClaimError::Gone));
    assert_eq!(claims.release(Space::Mmio, 0x1000, 0x1fff), Err(ClaimError::Gone));
}

#[test]
fn guests_join_and_leave_a_running_loop() {
    let m = machine();
    let first = guest(&m, 1);
    let s = serve(&m, first, Options::default());
    Cells::attach(&s.bus);
    let others: Vec<_> = (0..4)
        .map(|_| {
            let d = guest(&m, 2);
            let g = make(&m, d, Options::default());
            Cells::attach(g.bus());
            // Asks before anybody listens.
            let v = vcpu(&m, d, 0);
            let early = std::thread::spawn(move || (v.mmio_read(MEMORY, 4), v));
            let key = s.on_loop(move |l| l.add(g).unwrap());
            let (got, v) = early.join().unwrap();
            assert_eq!(got, Ok(0));
            (key, v)
        })
        .collect();
    assert_eq!(s.on_loop(|l| l.guests()), 5);
    for (key, v) in others {
        assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
        assert!(s.on_loop(move |l| l.remove(key).is_some()));
        assert_eq!(v.mmio_read(MEMORY, 4), Ok(0xffff_ffff));
        assert!(s.on_loop(move |l| l.remove(key).is_none()));
    }
    assert_eq!(vcpu(&m, first, 0).mmio_read(MEMORY, 4), Ok(0));
}

#[test]
fn death_of_a_guest_leaves_the_others_served() {
    let m = machine();
    let (a, b) = (guest(&m, 1), guest(&m, 1));
    let before = m.free_frames();
    let guests = vec![make(&m, a, Options::default()), make(&m, b, Options::default())];
    for g in &guests {
        Cells::attach(g.bus());
    }
    let s = serve_all(guests);
    let vb = vcpu(&m, b, 0);
    assert_eq!(vb.mmio_read(MEMORY, 4), Ok(0));
    m.destroy_domain(a).unwrap();
    assert_eq!(vb.mmio_read(MEMORY, 4), Ok(0));
    drop(s);
    assert_eq!(m.free_frames(), before + RAM_FRAMES);
    m.assert_clean();
}

/// A pipe's reading end that stops the loop when it has read "stop".
struct Control(std::io::PipeReader, String);

impl EventSource for Control {
    fn register(&mut self, registry: &mio::Registry, token: mio::Token) -> std::io::Result<()> {
        use std::os::fd::AsRawFd;
        let fd = self.0.as_raw_fd();
        registry.register(&mut mio::unix::SourceFd(&fd), token, mio::Interest::READABLE)
    }
    fn deregister(&mut self, registry: &mio::Registry) -> std::io::Result<()> {
        use std::os::fd::AsRawFd;
        registry.deregister(&mut mio::unix::SourceFd(&self.0.as_raw_fd()))
    }
    fn ready(&mut self, handle: &ioreq_server::LoopHandle) -> std::io::Result<Progress> {
        use std::io::Read;
        let mut byte = [0];
        // One byte is known to be there; the writer sends the next after this one was read.
        self.0.read_exact(&mut byte)?;
        self.1.push(char::from(byte[0]));
        if self.1 == "x" {
            handle.stop();
        }
        Ok(Progress::Idle)
    }
}

#[test]
fn other_descriptors_wake_the_loop_and_may_stop_it() {
    use std::io::Write;
    let mut l = GuestLoop::new().unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    l.add_source(Box::new(Control(reader, String::new()))).unwrap();
    let thread = std::thread::spawn(move || l.run().unwrap());
    writer.write_all(b"x").unwrap();
    thread.join().unwrap();
}

struct Lost(std::sync::mpsc::Sender<String>);

impl Notices for Lost {
    fn lost(&self, reason: &GuestError) {
        self.0.send(reason.to_string()).unwrap();
    }
}

#[test]
fn guest_whose_event_channels_fail_is_given_up_and_said() {
    let m = machine();
    let d = guest(&m, 1);
    let (events, conn) = Moody::connect(&m);
    let (tx, rx) = channel();
    let g = make_on(&conn, d, Options { notices: Arc::new(Lost(tx)), ..Options::default() });
    Cells::attach(g.bus());
    let s = serve_all(vec![g]);
    s.sleep_at_once();
    let v = vcpu(&m, d, 0);
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
    events.fail.store(true, Ordering::SeqCst);
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(0xffff_ffff));
    assert_eq!(rx.recv().unwrap(), format!("{d} ios0: reading of its event channels: EIO"));
    assert_eq!(s.on_loop(|l| l.guests()), 0);
}

/// Xen wakes no vCPU that waits for a server when that goes: whatever is on its way at that moment must be answered,
/// notices too, which come to a server without ranges.
#[test]
fn guest_goes_on_whenever_its_server_is_taken_down() {
    const VCPUS: u32 = 4;
    let m = stock_machine();
    let d = guest(&m, VCPUS);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let vcpus: Vec<_> = (0..VCPUS)
            .map(|i| {
                let (v, stop) = (vcpu(&m, d, i), &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let value = v.mmio_read(MEMORY, 4).expect("the domain lives");
                        // All-ones while nobody serves, and where the server goes before it answers.
                        assert!(value == 0 || value == 0xffff_ffff, "{value:#x}");
                        let gfn = [Gfn(u64::from(i))];
                        assert_eq!(v.decrease_reservation(&gfn), Ok(1));
                        assert_eq!(v.populate_physmap(&gfn), Ok(1));
                    }
                })
            })
            .collect();
        for _ in 0..300 {
            let s = serve(&m, d, Options::default());
            Cells::attach(&s.bus);
            let deadline = Instant::now() + Duration::from_secs(60);
            while s.stats().mmio < 3 * u64::from(VCPUS) {
                if Instant::now() > deadline {
                    m.destroy_domain(d).unwrap();
                    panic!("a vCPU waits for a server that has gone");
                }
                std::thread::yield_now();
            }
            drop(s);
        }
        stop.store(true, Ordering::SeqCst);
        vcpus.into_iter().for_each(|v| v.join().expect("it goes on"));
    });
}

/// What a killed emulator leaves: its server, for whose answer a vCPU waits. Whoever destroys that must wake the vCPU.
#[test]
fn guest_that_waits_for_a_server_of_a_dead_emulator_goes_on_with_the_next_one() {
    let m = machine();
    let d = guest(&m, 1);
    let dm = connect(&m).dm(d);
    let dead = dm.create_server(BufferedMode::Off).unwrap();
    let caller = m.caller(DomId(0)).unwrap();
    let slots = caller.map_resource(d, 0, dead.0.into(), 1, 1).unwrap();
    dm.set_state(dead, true).unwrap();
    dm.map_range(dead, Space::Mmio, MEMORY, MEMORY + 0xfff).unwrap();
    let v = vcpu(&m, d, 0);
    let waiting = std::thread::spawn(move || (v.mmio_read(MEMORY, 4), v));
    while byte(&slots, SLOT_BITS_OFFSET) == 0 {
        std::thread::yield_now();
    }
    dm.destroy_server(dead).unwrap();
    assert!(!waiting.is_finished());
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let (value, v) = waiting.join().unwrap();
    assert_eq!(value, Ok(0));
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
}
