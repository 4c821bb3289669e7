//! Doorbells and interrupts that are eventfds: by the kernel and by the loop, to the same effect.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ioreq_server::dm::{Interrupt, IsaIrq, Pin};
use ioreq_server::eventfd::{Doorbell, Doorbells, Irqfd, TieError};
use ioreq_server::pci::Sbdf;
use ioreq_server::{Connection, Outcome, Width};
use mock_xen::{Caller, Config, Machine};
use rustix::event::{EventfdFlags, eventfd};
use xen_ioreq::seam::{EventFdError, EventFds};
use xen_ioreq::{DomId, Errno};

use crate::rig::*;

const BELL: u64 = 0xf100_0050;

/// A machine whose dom0 has a kernel with eventfds, or one without.
fn machine_with(eventfds: bool) -> Arc<Machine> {
    Machine::new(Config { frames: 2048, xen_frames: 8, eventfds, ..Config::default() }).unwrap()
}

fn connect_with(m: &Arc<Machine>) -> (Arc<Caller>, Connection) {
    let caller = Arc::new(m.caller(DOM0).unwrap());
    (caller.clone(), Connection::new(caller.clone(), caller.clone()).with_eventfds(caller))
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How often it was rung since the last time.
fn count(fd: &OwnedFd) -> u64 {
    let mut bytes = [0; 8];
    match rustix::io::read(fd, &mut bytes) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(rustix::io::Errno::AGAIN) => 0,
        Err(e) => panic!("{e}"),
    }
}

fn signal(fd: &OwnedFd) {
    rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
}

/// Doorbells, served.
fn doorbells(m: &Arc<Machine>, d: DomId) -> (Arc<Doorbells>, Serving) {
    let (bells, guest) = Doorbells::create(&connect_with(m).1, d).unwrap();
    (bells, serve_all(vec![guest]))
}

/// A doorbell of four bytes.
fn bell() -> Doorbell {
    Doorbell { addr: BELL, width: Width::Dword }
}

#[test]
fn a_doorbell_rings_alike_with_and_without_the_kernel_but_with_it_no_device_hears_of_it() {
    for kernel in [true, false] {
        let m = machine_with(kernel);
        let d = guest(&m, 1);
        let (bells, s) = doorbells(&m, d);
        let queue = new_eventfd();
        let rung = bells.add(bell(), vec![(3, queue.try_clone().unwrap())]).unwrap();
        assert_eq!(rung.is_rung_by_kernel(), kernel);
        let v = vcpu(&m, d, 0);
        for _ in 0..5 {
            v.mmio_write(BELL, 4, 0xabcd_0003).unwrap();
        }
        assert_eq!(count(&queue), 5);
        assert_eq!(s.stats().mmio, if kernel { 0 } else { 5 });
        // What is no doorbell's goes to the server, and comes back.
        v.mmio_write(BELL, 4, 4).unwrap();
        v.mmio_write(BELL, 2, 3).unwrap();
        assert_eq!(v.mmio_read(BELL, 4), Ok(0xffff_ffff));
        assert_eq!((count(&queue), s.stats().unknown_register), (0, 3));
        // Dropped, it is nobody's.
        drop(rung);
        v.mmio_write(BELL, 4, 3).unwrap();
        assert_eq!((count(&queue), s.stats().unknown_register), (0, 3));
    }
}

#[test]
fn four_vcpus_ring_while_they_use_the_device_and_no_ring_is_lost_or_doubled() {
    const EACH: u64 = 400;
    for kernel in [true, false] {
        let m = machine_with(kernel);
        let d = guest(&m, 4);
        let main = serve(&m, d, Options::default());
        Cells::attach(&main.bus);
        Reads::attach(&main.bus, BELL & !0xfff, |_| Outcome::Ok(7));
        // Created later, so that the doorbells are asked first.
        let (bells, s) = doorbells(&m, d);
        let queues: Vec<_> = (0..4).map(|_| new_eventfd()).collect();
        let rings = (0..).zip(&queues).map(|(n, q)| (n, q.try_clone().unwrap())).collect();
        let rung = bells.add(bell(), rings).unwrap();
        std::thread::scope(|t| {
            for id in 0..4u32 {
                let m = &m;
                t.spawn(move || {
                    let v = vcpu(m, d, id);
                    for n in 0..EACH {
                        v.mmio_write(BELL, 4, u64::from(id)).unwrap();
                        let at = MEMORY + 8 * u64::from(id);
                        v.mmio_write(at, 8, n).unwrap();
                        assert_eq!(v.mmio_read(at, 8), Ok(n));
                        assert_eq!(v.mmio_read(BELL + 8, 4), Ok(7));
                    }
                });
            }
        });
        assert_eq!(queues.iter().map(count).collect::<Vec<_>>(), [EACH; 4]);
        assert_eq!(s.stats().mmio, if kernel { 0 } else { 4 * EACH });
        drop(rung);
    }
}

#[test]
fn doorbells_come_and_go_in_all_widths_while_vcpus_ring_them() {
    const ROUNDS: u64 = 40;
    for kernel in [true, false] {
        let m = machine_with(kernel);
        let d = guest(&m, VCPUS);
        let (bells, _s) = doorbells(&m, d);
        let widths = [Width::Byte, Width::Word, Width::Dword, Width::Qword];
        let queues = widths.map(|_| new_eventfd());
        let now = AtomicU64::new(0);
        let at = |i: usize| BELL + 64 * now.load(Ordering::SeqCst) + 16 * i as u64;
        let sent = meanwhile(
            &m,
            d,
            |v, round, sent: &mut u64| {
                let i = (round + u64::from(v.id().0)) as usize % 4;
                v.mmio_write(at(i), widths[i].bytes() as usize, 9).unwrap();
                *sent += 1;
            },
            |all_round| {
                for _ in 0..ROUNDS {
                    now.fetch_add(1, Ordering::SeqCst);
                    let add = |(i, (width, q)): (usize, (&Width, &OwnedFd))| {
                        let doorbell = Doorbell { addr: at(i), width: *width };
                        let bell = bells.add(doorbell, vec![(9, q.try_clone().unwrap())]).unwrap();
                        assert_eq!(bell.is_rung_by_kernel(), kernel);
                        bell
                    };
                    let all: Vec<_> = widths.iter().zip(&queues).enumerate().map(add).collect();
                    all_round();
                    drop(all);
                }
                // Again, which the loop does.
                let again = bells.add(Doorbell { addr: at(0), width: widths[0] }, vec![(9, new_eventfd())]);
                assert!(!again.unwrap().is_rung_by_kernel());
            },
        );
        let rung: u64 = queues.iter().map(count).sum();
        let sent: u64 = sent.iter().sum();
        // What found no doorbell is lost; each of the others rings once.
        assert!((ROUNDS..=sent).contains(&rung), "{rung} of {sent}");
        m.assert_clean();
    }
}

#[test]
fn two_eventfds_for_one_value_or_two_doorbells_at_one_address_are_refused() {
    let m = machine_with(true);
    let d = guest(&m, 1);
    let (bells, _s) = doorbells(&m, d);
    let e = bells.add(bell(), vec![(2, new_eventfd()), (2, new_eventfd())]).unwrap_err();
    assert_eq!(e, TieError::Twice { domid: d, addr: BELL, value: 2 });
    let _first = bells.add(bell(), vec![(2, new_eventfd())]).unwrap();
    let e = bells.add(Doorbell { addr: BELL + 2, ..bell() }, vec![(3, new_eventfd())]).unwrap_err();
    assert!(matches!(e, TieError::Bus(_)), "{e}");
}

#[test]
fn an_eventfd_that_the_kernel_refuses_is_an_error_and_leaves_nothing() {
    let m = machine_with(true);
    let d = guest(&m, 1);
    let (bells, s) = doorbells(&m, d);
    let no_eventfd: OwnedFd = std::io::pipe().unwrap().0.into();
    let e = bells.add(bell(), vec![(0, new_eventfd()), (1, no_eventfd)]).unwrap_err();
    assert_eq!(e, TieError::Refused { domid: d, what: "doorbell", errno: Errno::EINVAL });
    let v = vcpu(&m, d, 0);
    v.mmio_write(BELL, 4, 1).unwrap();
    assert_eq!(s.stats().mmio, 0, "the address is nobody's");
    let _bell = bells.add(bell(), vec![(1, new_eventfd())]).unwrap();
}

#[test]
fn a_server_that_goes_takes_its_doorbells_back_before_its_ports_whatever_is_kept_of_them() {
    for kernel in [true, false] {
        let m = machine_with(kernel);
        let d = guest(&m, 2);
        let before = m.free_frames();
        let (bells, s) = doorbells(&m, d);
        let queue = new_eventfd();
        let rung = bells.add(bell(), vec![(1, queue.try_clone().unwrap())]).unwrap();
        let v = vcpu(&m, d, 1);
        v.mmio_write(BELL, 4, 1).unwrap();
        drop(s);
        v.mmio_write(BELL, 4, 1).unwrap();
        assert_eq!(count(&queue), 1);
        assert_eq!(m.free_frames(), before);
        drop(rung);
        let late = bells.add(bell(), vec![(2, new_eventfd())]).unwrap_err();
        assert_eq!(late, TieError::Refused { domid: d, what: "doorbell", errno: Errno::ENODEV });
        m.assert_clean();
    }
}

/// Ties an interrupt; a loop serves it if the kernel does not.
fn tie(m: &Arc<Machine>, d: DomId, interrupt: Interrupt, s: &Serving) -> (OwnedFd, Option<Irqfd>) {
    let fd = new_eventfd();
    match connect_with(m).1.irqfd(d, interrupt, fd.try_clone().unwrap()).unwrap() {
        kernel @ Irqfd::Kernel(_) => (fd, Some(kernel)),
        Irqfd::Loop(source) => {
            s.on_loop(move |l| l.add_source(Box::new(source)).unwrap());
            (fd, None)
        }
    }
}

#[test]
fn a_write_to_an_irqfd_injects_an_msi_by_the_kernel_and_by_the_loop() {
    for kernel in [true, false] {
        let m = machine_with(kernel);
        let d = guest(&m, 2);
        let s = serve(&m, d, Options::default());
        // To the second vCPU.
        let msi = Interrupt::Msi { addr: 0xfee0_2000, data: 0x61 };
        let (fd, irqfd) = tie(&m, d, msi, &s);
        assert_eq!(irqfd.is_some(), kernel);
        let v = vcpu(&m, d, 1);
        // From its first resume on its local APIC takes something.
        assert_eq!(v.take_interrupt(), Ok(None));
        for _ in 0..20 {
            signal(&fd);
            assert_eq!(v.wait_interrupt(Some(Duration::from_secs(20))), Ok(Some(0x61)));
        }
        assert_eq!(vcpu(&m, d, 0).take_interrupt(), Ok(None));
        drop(irqfd);
        if kernel {
            // Taken back: what is written stays in the eventfd.
            signal(&fd);
            assert_eq!(count(&fd), 1);
            assert_eq!(v.take_interrupt(), Ok(None));
        }
    }
}

#[test]
fn irqfds_assert_pins_and_isa_lines() {
    for kernel in [true, false] {
        let m = machine_with(kernel);
        let d = guest(&m, 1);
        let s = serve(&m, d, Options::default());
        let isa = IsaIrq::new(5).unwrap();
        let sbdf = Sbdf::new(0, 0, 2, 0);
        let pin = tie(&m, d, Interrupt::Pin { sbdf, pin: Pin::A }, &s);
        let line = tie(&m, d, Interrupt::Isa(isa), &s);
        // INTA of device 2
        let up = |gsi| m.interrupt_lines(d).unwrap().asserted(gsi);
        for (fd, gsi) in [(&pin.0, 24), (&line.0, 5)] {
            assert!(!up(gsi));
            signal(fd);
            while !up(gsi) {
                std::thread::yield_now();
            }
        }
        let dm = connect(&m).dm(d);
        dm.set_isa_irq(isa, false).unwrap();
        dm.set_pci_intx(sbdf, Pin::A, false).unwrap();
        assert!(!up(24) && !up(5));
    }
}

#[test]
fn irqfds_refuse_what_the_kernel_refuses_and_end_with_their_process() {
    let m = machine_with(true);
    let d = guest(&m, 1);
    let (caller, conn) = connect_with(&m);
    let msi = Interrupt::Msi { addr: 0xfee0_0000, data: 0x61 };
    let fd = new_eventfd();
    let _tied = conn.irqfd(d, msi, fd.try_clone().unwrap()).unwrap();
    let no_eventfd: OwnedFd = std::io::pipe().unwrap().0.into();
    let e = conn.irqfd(d, msi, no_eventfd).unwrap_err();
    assert_eq!(e.to_string(), format!("{d}: irqfd: EINVAL"));
    let restricted = m.caller(DOM0).unwrap().restrict(d);
    let mut op = [0; 32];
    use std::os::fd::AsFd;
    assert_eq!(
        restricted.assign_irqfd(DomId(d.0 + 1), &mut op, fd.as_fd()),
        Err(EventFdError::Refused(Errno::EPERM))
    );
    caller.kill();
    signal(&fd);
    assert_eq!((count(&fd), vcpu(&m, d, 0).take_interrupt()), (1, Ok(None)));
}

#[test]
fn a_kernel_without_eventfds_says_unsupported() {
    let m = machine_with(false);
    let caller = m.caller(DOM0).unwrap();
    for answer in [caller.has_irqfd(), caller.has_ioeventfd()] {
        assert!(matches!(answer, Err(EventFdError::Unsupported(_))), "{answer:?}");
    }
    let with = machine_with(true);
    let caller = with.caller(DOM0).unwrap();
    assert_eq!((caller.has_irqfd(), caller.has_ioeventfd()), (Ok(()), Ok(())));
}
