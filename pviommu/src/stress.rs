//! Threads map, hold, put, balloon, invalidate and release at once: what is held is always reachable, and at the end
//! every frame is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

use crate::fake::{Fake, Foreign, Gpu, Kind};
use crate::*;

const GFNS: u64 = 8;

/// While a reference is held the device reaches a live frame of that guest.
fn reach(xen: &Fake, client: &Client, domid: DomId, m: &Mapped) {
    match client.soft() {
        None => assert_eq!(xen.dma(m.bfn()).map(|(owner, _)| owner), Some(domid)),
        Some(soft) => {
            let pin = soft.pin(m.bfn()).expect("what is held is mapped");
            assert_ne!(read(pin), 0, "an unmapped page");
            soft.unpin(pin.token);
        }
    }
}

#[expect(unsafe_code, reason = "looks at what a device would see")]
fn read(pin: SoftPin) -> u64 {
    // SAFETY: a pin is 4096 bytes, valid until it is unpinned.
    unsafe { pin.ptr.cast::<u64>().as_ptr().read_volatile() }
}

/// A device during whose flush everything is taken into use again.
struct Busy<'a> {
    guests: &'a [Guest; 2],
    held: Mutex<Vec<(DomId, Mapped)>>,
}

impl DeviceFlush for Busy<'_> {
    fn flush(&self) {
        for guest in self.guests {
            let all: Vec<Gfn> = (0..GFNS).map(Gfn).collect();
            let mapped = guest.map(&all).into_iter().flatten();
            self.held.lock().extend(mapped.map(|m| (guest.domid(), m)));
        }
    }
}

fn guest_thread(xen: &Fake, client: &Client, guest: &Guest, seed: u64, draining: &Mutex<Vec<Draining>>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held: Vec<Mapped> = Vec::new();
    for _ in 0..30000 {
        if rng.bool() && held.len() < 20 {
            let gfns: Vec<Gfn> = (0..rng.u64(1..4)).map(|_| Gfn(rng.u64(0..GFNS))).collect();
            held.extend(guest.map(&gfns).into_iter().flatten());
        } else if !held.is_empty() {
            let last = held.swap_remove(rng.usize(0..held.len())).put();
            draining.lock().extend(last);
        }
        if let Some(m) = rng.choice(&held) {
            reach(xen, client, guest.domid(), m);
        }
    }
}

fn run(kind: Kind) {
    let xen = Fake::new(kind);
    let ports = Ports { iommu: Some(xen.clone()), foreign: Some(Arc::new(Foreign(xen.clone()))) };
    let bfns = BfnSpace::new(Bfn(0x1000)..Bfn(0x1040));
    let client = Client::start(ports, Config { bfns, ..Config::default() }).unwrap();
    let guests = [1, 2].map(|d| client.attach(DomId(d), IoServerId(0)).unwrap());
    for guest in &guests {
        (0..GFNS).for_each(|g| xen.populate(guest.domid(), Gfn(g)));
    }
    let draining = Mutex::new(Vec::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let workers: Vec<_> = (0..4)
            .map(|t| {
                let (xen, client, draining, guest) = (&xen, &client, &draining, &guests[t % 2]);
                s.spawn(move || guest_thread(xen, client, guest, t as u64, draining))
            })
            .collect();
        s.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(99);
            while !stop.load(Ordering::Relaxed) {
                let (guest, gfn) = (&guests[rng.usize(0..2)], Gfn(rng.u64(0..GFNS)));
                if xen.mfn(guest.domid(), gfn).is_some() {
                    xen.balloon_out(guest.domid(), gfn);
                    guest.notice(if rng.bool() { EVERYTHING } else { 0x1000 + rng.u64(0..0x40) });
                } else {
                    xen.populate(guest.domid(), gfn);
                }
                std::thread::yield_now();
            }
        });
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut batch = std::mem::take(&mut *draining.lock());
                for guest in guests.iter().filter(|g| g.has_work()) {
                    batch.extend(guest.take_draining().unwrap());
                }
                let busy = Busy { guests: &guests, held: Mutex::default() };
                let (quiesced, held) = client.quiesce(batch, &busy);
                draining.lock().extend(held);
                // What fails comes back with the next look.
                drop(client.release(quiesced));
                busy.held.into_inner().iter().for_each(|(domid, m)| reach(&xen, &client, *domid, m));
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        stop.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|r| r.unwrap());
    });
    let mut batch = draining.into_inner();
    for guest in &guests {
        batch.extend(guest.take_draining().unwrap());
        batch.extend(guest.die());
    }
    let (quiesced, held) = client.quiesce(batch, &Gpu::default());
    assert!(held.is_empty());
    assert!(client.release(quiesced).failed.is_empty());
    assert!(guests.iter().all(Guest::is_empty));
    assert_eq!(client.stats().mappings, 0);
    let populated: usize =
        guests.iter().map(|g| (0..GFNS).filter(|f| xen.mfn(g.domid(), Gfn(*f)).is_some()).count()).sum();
    assert_eq!(xen.frames(), populated);
}

#[test]
fn what_is_held_is_reachable_whatever_the_other_threads_do_in_map_mode() {
    run(Kind::Draft);
}

#[test]
fn what_is_held_is_reachable_whatever_the_other_threads_do_in_lookup_mode() {
    run(Kind::Shipped);
}

#[test]
fn what_is_held_is_reachable_whatever_the_other_threads_do_in_soft_mode() {
    run(Kind::Stock);
}
