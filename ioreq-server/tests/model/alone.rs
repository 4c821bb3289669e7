//! A loop that sleeps on its one guest's event channels instead of polling: it must hear everybody all the same.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ioreq_server::Connection;
use mock_xen::{Caller, Machine};
use xen_ioreq::seam::{BlockingEvents, EventChannels};
use xen_ioreq::{DomId, Errno, Port};

use crate::rig::*;

/// The model's event channels, with a way to sleep on them.
struct Sleeping {
    caller: Caller,
    woken: AtomicBool,
    waits: AtomicU32,
}

impl Sleeping {
    fn connect(machine: &Arc<Machine>) -> (Arc<Self>, Connection) {
        let caller = || machine.caller(DOM0).unwrap();
        let events =
            Arc::new(Self { caller: caller(), woken: AtomicBool::new(false), waits: AtomicU32::new(0) });
        (events.clone(), Connection::new(Arc::new(caller()), events))
    }
}

impl EventChannels for Sleeping {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.caller.pollable()
    }
    fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        self.caller.bind_interdomain(remote, port)
    }
    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        self.caller.bind_unbound(remote)
    }
    fn unbind(&self, port: Port) -> Result<(), Errno> {
        self.caller.unbind(port)
    }
    fn notify(&self, port: Port) -> Result<(), Errno> {
        self.caller.notify(port)
    }
    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.caller.pending(out)
    }
    fn unmask(&self, ports: &[Port]) -> Result<(), Errno> {
        self.caller.unmask(ports)
    }
    fn reset_ring(&self) -> Result<(), Errno> {
        self.caller.reset_ring()
    }
    fn blocking(&self) -> Option<&dyn BlockingEvents> {
        Some(self)
    }
}

impl BlockingEvents for Sleeping {
    fn wait(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        loop {
            let n = self.caller.pending(out)?;
            if n > 0 || self.woken.swap(false, Ordering::SeqCst) {
                return Ok(n);
            }
            std::thread::yield_now();
        }
    }
    fn wake(&self) -> Result<(), Errno> {
        self.woken.store(true, Ordering::SeqCst);
        Ok(())
    }
}

#[test]
fn a_sleeping_loop_answers_accesses_and_hears_calls_and_stop() {
    let m = machine();
    let d = guest(&m, 2);
    let before = m.free_frames();
    let (events, conn) = Sleeping::connect(&m);
    let s = serve_all(vec![make_on(&conn, d, Options::default())]);
    Cells::attach(&s.bus);
    let (v, w) = (vcpu(&m, d, 0), vcpu(&m, d, 1));
    let other = std::thread::spawn(move || {
        (0..500).for_each(|n| assert_eq!(w.mmio_write(MEMORY + 8, 8, n), Ok(())));
        w.mmio_read(MEMORY + 8, 8)
    });
    for n in 0..500 {
        v.mmio_write(MEMORY, 8, n).unwrap();
        assert_eq!(v.mmio_read(MEMORY, 8), Ok(n));
        if n % 50 == 0 {
            assert_eq!(s.on_loop(|l| l.guests()), 1);
        }
    }
    assert_eq!(other.join().unwrap(), Ok(499));
    assert!(events.waits.load(Ordering::SeqCst) > 0);
    // Stops although nothing more comes from the guest.
    drop(s);
    assert_eq!(v.mmio_read(MEMORY, 8), Ok(u64::MAX));
    drop((v, conn, events));
    assert!(m.free_frames() <= before);
    m.assert_clean();
}

#[test]
fn a_second_guest_makes_it_poll_and_its_going_lets_it_sleep_again() {
    let m = machine();
    let (d, e) = (guest(&m, 1), guest(&m, 1));
    let (events, conn) = Sleeping::connect(&m);
    let s = serve_all(vec![make_on(&conn, d, Options::default())]);
    Cells::attach(&s.bus);
    let (v, w) = (vcpu(&m, d, 0), vcpu(&m, e, 0));
    assert_eq!(v.mmio_write(MEMORY, 4, 1), Ok(()));

    let second = make(&m, e, Options::default());
    let bus = second.bus().clone();
    let key = s.on_loop(move |l| l.add(second).unwrap());
    Cells::attach(&bus);
    for n in 0..50 {
        assert_eq!(w.mmio_write(MEMORY, 4, n), Ok(()));
        assert_eq!(v.mmio_write(MEMORY, 4, n), Ok(()));
    }
    let waits = events.waits.load(Ordering::SeqCst);
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(49));
    assert_eq!(events.waits.load(Ordering::SeqCst), waits);

    drop(s.on_loop(move |l| l.remove(key)));
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(49));
    assert_eq!(s.on_loop(|l| l.guests()), 1);
    assert!(events.waits.load(Ordering::SeqCst) > waits);
}
