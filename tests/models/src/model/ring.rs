//! The buffered ring: Xen's side of it and the emulator's, and what does not fit.

use std::sync::Arc;

use xen_ioreq::Mfn;
use xen_ioreq::abi::ioreq::{
    BUF_READ_POINTER_OFFSET, BUF_SLOTS_OFFSET, BUF_WRITE_POINTER_OFFSET, IOREQ_BUFFER_SLOT_NUM, ioreq,
};

use super::emulator::{Events, Guest, PORT, VCPU};
use crate::checker::{Checker, join, spawn};
use crate::emulator::ring::Ring;
use crate::emulator::slot::{Slots, VcpuPort};
use crate::ioreq::request::Request;
use crate::ioreq::ring::{Refused, push};
use crate::memory::{HostMemory, Page};
use crate::sync::atomic::Ordering;

/// How the pointers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They run free.
    Legacy,
    /// Xen takes whole turns off both.
    Atomic,
}

/// How the emulator drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// As it should.
    Copies,
    /// It gives the space back before it has copied.
    GivesBackFirst,
}

fn page(memory: &HostMemory) -> Page<'_> {
    memory.page(Mfn(0)).expect("one page")
}

/// A ring of zeros whose pointers are there.
fn memory(read: u32, write: u32) -> Arc<HostMemory> {
    let memory = HostMemory::mixed(1);
    page(&memory).u32(BUF_READ_POINTER_OFFSET).store(read, Ordering::Release);
    page(&memory).u32(BUF_WRITE_POINTER_OFFSET).store(write, Ordering::Release);
    Arc::new(memory)
}

/// Request number `n`: every third is an invalidation, of two slots.
fn request(n: u64) -> Request {
    if n.is_multiple_of(3) {
        Request::invalidate_bfn(n << 32 | n)
    } else {
        Request::mmio(0xa_0000 + n, 4, false, n << 8 | n)
    }
}

/// What the emulator makes of it.
fn is(got: &ioreq, n: u64) -> bool {
    let r = request(n);
    (got.r#type, got.addr, got.size, got.data, got.count) == (r.ty, r.addr, r.size, r.data, 1)
}

/// Xen puts `entries` requests in while the emulator drains twice; both begin at pointer `start`. None is lost, doubled, torn or
/// out of turn.
pub fn entries_cross_the_ring(checker: Checker, mode: Mode, start: u32, entries: u64) -> usize {
    checker.run(move || {
        let memory = memory(start, start);
        let ring = Ring::new(memory.mapping(), mode == Mode::Atomic).expect("a page");
        let drains = spawn(move || {
            let mut got = Vec::new();
            ring.drain(&mut got).expect("Xen keeps to the protocol");
            ring.drain(&mut got).expect("Xen keeps to the protocol");
            (ring, got)
        });
        for n in 1..=entries {
            push(page(&memory), &request(n), mode == Mode::Atomic).expect("there is room");
        }
        let (ring, mut got) = join(drains);
        ring.drain(&mut got).expect("Xen keeps to the protocol");
        let all: Vec<u64> = got.iter().map(|g| g.data & 0xff).collect();
        assert_eq!(all, (1..=entries).collect::<Vec<_>>(), "each once, in turn");
        assert!(got.iter().zip(1..).all(|(got, n)| is(got, n)), "whole: {got:?}");
    })
}

/// Entries of old in a ring that has room for one more.
const OLD: u32 = IOREQ_BUFFER_SLOT_NUM - 1;

/// An emulator that is told of entries and of a sync request.
struct Emulator {
    guest: Arc<Guest>,
    slots: Arc<Slots>,
    memory: Arc<HostMemory>,
    ring: Ring,
    /// The requests that came, in turn, by number; 0 for the old ones.
    came: Vec<u64>,
}

impl Emulator {
    fn drain(&mut self, how: Drain) {
        if how == Drain::Copies {
            let mut got = Vec::new();
            self.ring.drain(&mut got).expect("Xen keeps to the protocol");
            self.came.extend(got.iter().map(|g| g.data & 0xff));
            return;
        }
        let page = page(&self.memory);
        let read = page.u32(BUF_READ_POINTER_OFFSET).load(Ordering::Acquire);
        let write = page.u32(BUF_WRITE_POINTER_OFFSET).load(Ordering::Acquire);
        page.u32(BUF_READ_POINTER_OFFSET).fetch_add(write.wrapping_sub(read), Ordering::Release);
        for pointer in (0..write.wrapping_sub(read)).map(|i| read.wrapping_add(i)) {
            let at = BUF_SLOTS_OFFSET + (pointer % IOREQ_BUFFER_SLOT_NUM) as usize * 8;
            self.came.push(page.u64(at).load(Ordering::Relaxed) >> 32 & 0xff);
        }
    }

    /// As a guest's loop does it, until `requests` have come.
    fn serve(mut self, requests: usize, how: Drain) -> Vec<u64> {
        while self.came.len() < OLD as usize + requests {
            if let Some(taken) = self.slots.clone().take(0) {
                // What the vCPU wrote to the ring before it sent the request comes first.
                self.drain(how);
                self.came.push(taken.request().data & 0xff);
                taken.answer(0);
            } else {
                self.guest.wait_event();
                self.drain(how);
            }
        }
        self.came
    }
}

/// A vCPU writes `requests` times to a ring that has room for one while the emulator drains; what finds no room goes by the slot.
/// Each comes once, in turn, by one way or the other.
pub fn what_finds_no_room_goes_by_the_slot(checker: Checker, mode: Mode, requests: u64, how: Drain) -> usize {
    checker.atomics(IOREQ_BUFFER_SLOT_NUM as usize + 48).run(move || {
        let memory = memory(OLD, OLD * 2);
        let guest = Guest::new(false);
        let vcpus = vec![VcpuPort { vcpu: VCPU, port: PORT }];
        let emulator = Emulator {
            guest: guest.clone(),
            slots: Arc::new(Slots::new(guest.slots().mapping(), vcpus, Arc::new(Events(guest.clone())))),
            memory: memory.clone(),
            ring: Ring::new(memory.mapping(), mode == Mode::Atomic).expect("a page"),
            came: Vec::new(),
        };
        let count = usize::try_from(requests).expect("few");
        let serves = spawn(move || emulator.serve(count, how));
        for n in 1..=requests {
            match push(page(&memory), &request(n), mode == Mode::Atomic) {
                Ok(()) => guest.notify_emulator(),
                Err(Refused) => assert_eq!(guest.request(&request(n)), Some(0), "it is answered"),
            }
        }
        let came = join(serves);
        let (old, new) = came.split_at(OLD as usize);
        assert!(old.iter().all(|n| *n == 0), "nothing is overwritten before it is read");
        assert_eq!(new, (1..=requests).collect::<Vec<_>>(), "each once, in turn");
    })
}

/// An emulator writes whatever it likes to the pointers while Xen puts requests in: that ends, with each taken or refused.
pub fn garbage_in_the_pointers_stops_nobody(checker: Checker, mode: Mode, garbage: [u32; 2]) -> usize {
    checker.run(move || {
        let memory = memory(IOREQ_BUFFER_SLOT_NUM, IOREQ_BUFFER_SLOT_NUM);
        let writes = {
            let memory = memory.clone();
            spawn(move || {
                let [read, write] = garbage;
                page(&memory).u32(BUF_READ_POINTER_OFFSET).store(read, Ordering::Release);
                page(&memory).u32(BUF_WRITE_POINTER_OFFSET).store(write, Ordering::Release);
            })
        };
        for n in 2..=3 {
            // Taken or refused: either is an answer.
            let _ = push(page(&memory), &request(n), mode == Mode::Atomic);
        }
        join(writes);
    })
}
