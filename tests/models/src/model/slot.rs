//! A vCPU's sync slot: Xen's side of it and the emulator's, beside the end of the server.

use std::sync::Arc;

use xen_ioreq::abi::ioreq::ioreq;

use super::emulator::{Events, Guest, PORT, VCPU};
use crate::checker::{Checker, join, spawn};
use crate::emulator::slot::{Slots, VcpuPort};
use crate::ioreq::request::Request;

/// How the emulator answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Where it took the request.
    AtOnce,
    /// From another thread.
    Deferred,
    /// Never: the request is dropped.
    Dropped,
}

/// Whether the emulator's notifications arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// As they should.
    Yes,
    /// The answer stands in the slot and nobody is told.
    No,
}

fn slots(guest: &Arc<Guest>) -> Arc<Slots> {
    let vcpus = vec![VcpuPort { vcpu: VCPU, port: PORT }];
    Arc::new(Slots::new(guest.slots().mapping(), vcpus, Arc::new(Events(guest.clone()))))
}

/// The vCPU's request number `n`; its answer is `n` more.
fn request(n: u64) -> Request {
    Request::mmio(0x1000 * n, 4, true, 100 * n)
}

fn answer(copy: &ioreq) -> u64 {
    let n = copy.data / 100;
    assert_eq!((copy.addr, copy.size, copy.count), (0x1000 * n, 4, 1), "all of one request");
    101 * n
}

/// A vCPU sends `requests` one after the other: each is answered, with what belongs to it.
pub fn requests_are_answered(checker: Checker, requests: u64, how: Answer, notified: Notified) -> usize {
    checker.run(move || {
        let guest = Guest::new(notified == Notified::No);
        let slots = slots(&guest);
        let emulator = {
            let guest = guest.clone();
            spawn(move || {
                let mut taken = 0;
                while taken < requests {
                    // It looks before it sleeps, so the event alone does not order what it sees.
                    let Some(request) = slots.take(0) else {
                        guest.wait_event();
                        continue;
                    };
                    taken += 1;
                    let data = answer(request.request());
                    match how {
                        Answer::AtOnce => request.answer(data),
                        Answer::Dropped => drop(request),
                        Answer::Deferred => {
                            let parked = request.park();
                            join(spawn(move || parked.answer(data)));
                        }
                    }
                }
            })
        };
        for n in 1..=requests {
            let expected = if how == Answer::Dropped { u64::MAX } else { 101 * n };
            assert_eq!(guest.request(&request(n)), Some(expected), "the answer to this request");
        }
        join(emulator);
    })
}

/// A vCPU sends two requests while the server is taken down; the first is answered from another thread, if it was taken. The
/// vCPU never waits for ever, and gets no answer but its own, all-ones, or none because the server has gone.
pub fn the_server_ends_beside_requests(checker: Checker) -> usize {
    checker.run(|| {
        let guest = Guest::new(false);
        let slots = slots(&guest);
        let emulator = {
            let guest = guest.clone();
            spawn(move || {
                let late = slots.take(0).map(|request| {
                    let data = answer(request.request());
                    let parked = request.park();
                    spawn(move || parked.answer(data))
                });
                slots.close();
                guest.destroy();
                if let Some(late) = late {
                    join(late);
                }
            })
        };
        for n in 1..=2 {
            let got = guest.request(&request(n));
            let allowed = [Some(101 * n), Some(u64::MAX), None];
            assert!(allowed.contains(&got), "an answer to another request: {got:?}");
            if got.is_none() {
                // Xen sends nothing to a server that has gone.
                break;
            }
        }
        join(emulator);
    })
}
