use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_ioreq::seam::EventChannels;
use xen_ioreq::{DomId, Errno, Port};

use super::EvtchnDevice;
use crate::testing::{DOM0, machine};
use crate::{Config, DomainConfig};

fn readable(d: &EvtchnDevice) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(d.pollable(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

fn pending(d: &EvtchnDevice) -> Vec<Port> {
    let mut out = [Port(0); 4];
    let n = d.pending(&mut out).unwrap();
    out[..n].to_vec()
}

/// A wake-up that finds nothing makes the descriptor quiet.
fn quiet(d: &EvtchnDevice) -> bool {
    d.pending(&mut [Port(0)]) == Ok(0) && !readable(d)
}

/// Two ends of a channel, quiet.
fn pair(config: Config, channels: usize) -> (EvtchnDevice, EvtchnDevice, Vec<(Port, Port)>) {
    let m = machine(config);
    let other = m.create_domain(&DomainConfig::default()).unwrap();
    let (a, b) = (m.open_evtchn(DOM0).unwrap(), m.open_evtchn(other).unwrap());
    let mut ports = Vec::new();
    for _ in 0..channels {
        let pa = a.bind_unbound(other).unwrap();
        let pb = b.bind_interdomain(DOM0, pa).unwrap();
        assert_eq!(pending(&b), [pb], "a new binding is pending");
        b.unmask(&[pb]).unwrap();
        assert!(quiet(&b));
        ports.push((pa, pb));
    }
    (a, b, ports)
}

#[test]
fn an_event_makes_the_descriptor_readable_until_it_is_taken() {
    let (a, b, ports) = pair(Config::default(), 1);
    let (pa, pb) = ports[0];
    assert!(!readable(&b));
    a.notify(pa).unwrap();
    a.notify(pa).unwrap();
    assert!(readable(&b));
    assert_eq!(pending(&b), [pb]);
    assert!(quiet(&b));
    b.notify(pb).unwrap();
    assert_eq!(pending(&a), [pa]);
}

#[test]
fn a_port_that_was_taken_stays_masked_and_fires_again_when_unmasked_if_an_event_came_meanwhile() {
    let (a, b, ports) = pair(Config::default(), 1);
    let (pa, pb) = ports[0];
    a.notify(pa).unwrap();
    assert_eq!(pending(&b), [pb]);
    a.notify(pa).unwrap();
    assert!(quiet(&b));
    b.unmask(&[pb]).unwrap();
    assert!(readable(&b));
    assert_eq!(pending(&b), [pb]);
    b.unmask(&[pb]).unwrap();
    assert!(quiet(&b), "that one event was taken");
}

#[test]
fn many_pending_ports_are_taken_in_order_in_pieces_and_the_descriptor_stays_readable_between() {
    let (a, b, ports) = pair(Config::default(), 6);
    for (pa, _) in &ports {
        a.notify(*pa).unwrap();
    }
    let all: Vec<_> = ports.iter().map(|p| p.1).collect();
    assert_eq!(pending(&b), all[..4]);
    assert!(readable(&b));
    assert_eq!(pending(&b), all[4..]);
    assert!(quiet(&b));
}

#[test]
fn an_edge_triggered_poller_that_stops_at_a_short_read_misses_no_event() {
    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    let (a, b, ports) = pair(Config::default(), 1);
    let (pa, pb) = ports[0];
    let poller = epoll::create(CreateFlags::CLOEXEC).unwrap();
    epoll::add(&poller, b.pollable(), EventData::new_u64(0), EventFlags::IN | EventFlags::ET).unwrap();
    for _ in 0..3 {
        a.notify(pa).unwrap();
        let mut events = Vec::with_capacity(4);
        let woken = epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), None).unwrap();
        assert_eq!((woken, pending(&b)), (1, vec![pb]));
        b.unmask(&[pb]).unwrap();
    }
}

#[test]
fn a_ring_that_overflows_is_efbig_until_reset_and_then_works_again() {
    let (a, b, ports) = pair(Config { evtchn_ring: 2, ..Config::default() }, 3);
    for (pa, _) in &ports {
        a.notify(*pa).unwrap();
    }
    let mut out = [Port(0); 4];
    assert_eq!(b.pending(&mut out), Err(Errno::EFBIG));
    assert!(readable(&b), "the reader has to find out");
    b.reset_ring().unwrap();
    assert_eq!(b.pending(&mut out), Ok(0));
    assert!(!readable(&b));
    let all: Vec<_> = ports.iter().map(|p| p.1).collect();
    b.unmask(&all).unwrap();
    a.notify(ports[2].0).unwrap();
    assert_eq!(pending(&b), [all[2]]);
}

#[test]
fn binding_fails_with_the_error_of_each_case() {
    let m = machine(Config::default());
    let other = m.create_domain(&DomainConfig::default()).unwrap();
    let (a, b) = (m.open_evtchn(DOM0).unwrap(), m.open_evtchn(other).unwrap());
    let for_dom0 = b.bind_unbound(DOM0).unwrap();
    let for_self = b.bind_unbound(DomId::SELF).unwrap();
    assert_eq!(a.bind_interdomain(DomId(99), for_dom0), Err(Errno::ESRCH));
    assert_eq!(a.bind_interdomain(other, for_self), Err(Errno::EINVAL), "waits for another domain");
    assert_eq!(a.bind_interdomain(other, Port(77)), Err(Errno::EINVAL));
    assert_eq!(a.bind_interdomain(other, Port(0)), Err(Errno::EINVAL));
    let p = a.bind_interdomain(other, for_dom0).unwrap();
    assert_eq!(a.bind_interdomain(other, for_dom0), Err(Errno::EINVAL), "bound already");
    let loopback = b.bind_interdomain(DomId::SELF, for_self).unwrap();
    assert_eq!(pending(&b), [loopback]);
    b.notify(loopback).unwrap();
    assert_eq!(pending(&b), [for_self]);
    assert_eq!(b.notify(p), Ok(()), "ports of two domains may have the same number");
    assert_eq!(a.notify(Port(9)), Err(Errno::ENOTCONN));
    assert_eq!(a.unbind(Port(9)), Err(Errno::ENOTCONN));
}

#[test]
fn a_port_belongs_to_the_device_that_bound_it() {
    let m = machine(Config::default());
    let other = m.create_domain(&DomainConfig::default()).unwrap();
    let (a, a2, b) =
        (m.open_evtchn(DOM0).unwrap(), m.open_evtchn(DOM0).unwrap(), m.open_evtchn(other).unwrap());
    let pa = a.bind_unbound(other).unwrap();
    let pb = b.bind_interdomain(DOM0, pa).unwrap();
    assert_eq!(a2.notify(pa), Err(Errno::ENOTCONN));
    assert_eq!(a2.unbind(pa), Err(Errno::ENOTCONN));
    b.notify(pb).unwrap();
    assert!(readable(&a) && !readable(&a2));
}

#[test]
fn a_closed_end_leaves_the_other_waiting_for_a_new_binding() {
    let m = machine(Config::default());
    let other = m.create_domain(&DomainConfig::default()).unwrap();
    let (a, b) = (m.open_evtchn(DOM0).unwrap(), m.open_evtchn(other).unwrap());
    let pa = a.bind_unbound(other).unwrap();
    let pb = b.bind_interdomain(DOM0, pa).unwrap();
    b.unbind(pb).unwrap();
    assert_eq!(a.notify(pa), Ok(()), "lost");
    let pb = b.bind_interdomain(DOM0, pa).unwrap();
    drop(b);
    let b = m.open_evtchn(other).unwrap();
    assert_eq!(b.notify(pb), Err(Errno::ENOTCONN));
    let pb = b.bind_interdomain(DOM0, pa).unwrap();
    a.notify(pa).unwrap();
    assert_eq!(pending(&b), [pb]);
}
