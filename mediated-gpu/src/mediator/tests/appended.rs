//! Work that is appended to the context that runs, against what an execlist port may say of it.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::rig::*;
use crate::gen8::cmd::{self, AtomicOp, AtomicSize, Compare};
use crate::gen8::context::{
    CSB_ACTIVE_TO_IDLE, CSB_COMPLETE, CSB_ELEMENT_SWITCH, CSB_ENTRIES, CSB_IDLE_TO_ACTIVE, CSB_LITE_RESTORE,
    CSB_PREEMPTED, Descriptor, STATE_OFFSET, hwsp, state,
};
use crate::gen8::regs::RING_VALID;

/// Work waits until this dword is as large as its number.
const GATE: u64 = DATA;
/// How often work of a context was executed, and which was the last: 8 bytes a context.
const DONE: u64 = DATA + 0x1000;
/// Images and rings of the contexts.
const PLACES: [(u64, u64); 2] = [(CONTEXT, RING), (0x6000, 0x8000)];
const LITE: u32 = CSB_LITE_RESTORE | CSB_PREEMPTED;

/// Two contexts of a guest's, on one engine.
struct Two {
    g: TestGuest,
    tails: [u32; 2],
    /// Pieces of work that each was given.
    given: [u32; 2],
    /// Of both.
    all: u32,
    /// Entry that was read last.
    read: u32,
}

impl Two {
    fn new(host: &Host) -> Self {
        let mut g = host.guest();
        g.start();
        let two = Self { g, tails: [0; 2], given: [0; 2], all: 0, read: 5 };
        for (c, (_, ring)) in PLACES.iter().enumerate() {
            two.set_state(c, state::RING_START, two.g.gm(*ring) as u32);
            two.set_state(c, state::RING_CTL, (RING_SIZE - 4096) | RING_VALID);
        }
        two
    }

    fn set_state(&self, c: usize, index: usize, value: u32) {
        self.g.write32(PLACES[c].0 + STATE_OFFSET + 4 * index as u64, value);
    }

    fn descriptor(&self, c: usize) -> u64 {
        Descriptor::ggtt(self.g.gm(PLACES[c].0) as u32, ID + c as u32).0
    }

    /// One more piece of work for a context; its number among the work of both.
    fn append(&mut self, c: usize) -> u32 {
        (self.given[c], self.all) = (self.given[c] + 1, self.all + 1);
        let done = self.g.gm(DONE + 8 * c as u64);
        let mut work = cmd::semaphore_wait(self.g.gm(GATE), Compare::GreaterOrEqual, self.all).to_vec();
        work.extend(cmd::atomic(done, AtomicOp::Inc, AtomicSize::Dword, 0, 0));
        work.extend(cmd::store_dword(done + 4, self.given[c]));
        work.resize(work.len().next_multiple_of(2), cmd::MI_NOOP);
        for dword in work {
            self.g.write32(PLACES[c].1 + u64::from(self.tails[c]), dword);
            self.tails[c] = (self.tails[c] + 4) % RING_SIZE;
        }
        self.set_state(c, state::RING_TAIL, self.tails[c]);
        self.all
    }

    fn submit(&self, first: usize, second: Option<usize>) {
        self.g.submit_raw(self.descriptor(first), second.map_or(0, |c| self.descriptor(c)));
    }

    fn open(&self, up_to: u32) {
        self.g.write32(GATE, up_to);
    }

    /// The last piece of a context's work that was executed.
    fn done(&self, c: usize) -> u32 {
        self.g.read32(DONE + 8 * c as u64 + 4)
    }

    /// How many pieces were, in all.
    fn count(&self, c: usize) -> u32 {
        self.g.read32(DONE + 8 * c as u64)
    }

    /// Entries that came since the last call.
    fn news(&mut self) -> Vec<(u32, u32)> {
        let newest = self.g.read32(HWSP + hwsp::CSB_WRITE);
        let mut news = vec![];
        while self.read != newest {
            self.read = (self.read + 1) % CSB_ENTRIES;
            let at = HWSP + hwsp::CSB + 8 * u64::from(self.read);
            news.push((self.g.read32(at), self.g.read32(at + 4)));
        }
        news
    }

    #[track_caller]
    fn expect(&mut self, entries: &[(u32, u32)]) {
        let mut came = vec![];
        eventually("the entries", || {
            came.extend(self.news());
            came.len() >= entries.len()
        });
        assert_eq!(came, entries);
    }
}

const A: u32 = ID;
const B: u32 = ID + 1;

#[test]
fn work_appended_to_the_context_that_runs_is_taken_while_it_runs_and_done_without_a_switch() {
    let host = Host::new();
    let mut two = Two::new(&host);
    two.append(0);
    two.submit(0, None);
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A)]);
    for _ in 0..3 {
        two.append(0);
        two.submit(0, None);
        two.expect(&[(LITE, A)]);
        assert_eq!(two.g.reg(BCS + 0x238), A, "it is on the engine");
    }
    assert_eq!(two.done(0), 0, "the first waits");
    two.open(4);
    two.expect(&[(CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, A)]);
    eventually("it is idle", || two.g.idle());
    assert_eq!((two.done(0), two.count(0)), (4, 4));
}

#[test]
fn a_pair_that_begins_with_the_context_that_runs_replaces_what_stood_behind_it() {
    let host = Host::new();
    let mut two = Two::new(&host);
    two.append(0);
    two.append(1);
    two.submit(0, Some(1));
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A)]);
    two.append(0);
    two.submit(0, None);
    two.expect(&[(LITE, A)]);
    two.open(3);
    two.expect(&[(CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, A)]);
    assert_eq!((two.done(0), two.done(1)), (2, 0), "nobody asked for the other any more");
    two.append(0);
    two.submit(0, Some(1));
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A)]);
    two.append(0);
    two.append(1);
    two.submit(0, Some(1));
    two.expect(&[(LITE, A)]);
    two.open(6);
    two.expect(&[(CSB_COMPLETE | CSB_ELEMENT_SWITCH, A), (CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, B)]);
    assert_eq!((two.done(0), two.done(1)), (4, 2));
}

#[test]
fn a_pair_goes_on_from_its_second_element() {
    let host = Host::new();
    let mut two = Two::new(&host);
    two.append(0);
    two.append(1);
    two.submit(0, Some(1));
    two.open(1);
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A), (CSB_COMPLETE | CSB_ELEMENT_SWITCH, A)]);
    two.append(1);
    two.append(0);
    two.submit(1, Some(0));
    two.expect(&[(LITE, B)]);
    two.open(4);
    two.expect(&[(CSB_COMPLETE | CSB_ELEMENT_SWITCH, B), (CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, A)]);
    assert_eq!((two.done(0), two.done(1)), (2, 2));
}

#[test]
fn the_same_context_twice_is_two_elements_and_what_comes_counts_once() {
    let host = Host::new();
    let mut two = Two::new(&host);
    two.append(0);
    two.submit(0, Some(0));
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A)]);
    two.append(0);
    two.submit(0, Some(0));
    two.expect(&[(LITE, A)]);
    two.open(2);
    two.expect(&[(CSB_COMPLETE | CSB_ELEMENT_SWITCH, A), (CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, A)]);
    assert_eq!(two.done(0), 2);
}

#[test]
fn a_context_that_hangs_goes_on_hanging_when_more_is_appended_and_its_neighbour_does_not() {
    let host = Host::new();
    let (mut two, mut good) = (Two::new(&host), host.guest());
    good.start();
    two.g.write32(RING, 0xffff_ffff);
    two.set_state(0, state::RING_TAIL, 8);
    two.submit(0, None);
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A)]);
    eventually("it is refused", || two.g.vgpu.statistics().refusals == 1 && two.g.idle());
    two.submit(0, None);
    two.expect(&[(LITE, A)]);
    good.run(&cmd::store_dword(good.gm(DATA), 5));
    two.submit(1, None);
    two.expect(&[(CSB_PREEMPTED, A), (CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, B)]);
}

#[test]
fn a_guest_that_appends_for_ever_keeps_no_other_from_the_engine() {
    let host = Host::new();
    let (mut two, mut good) = (Two::new(&host), host.guest());
    good.start();
    two.append(0);
    two.submit(0, None);
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A)]);
    good.emit(&cmd::store_dword(good.gm(DATA), 9));
    good.submit();
    two.append(0);
    two.submit(0, None);
    two.expect(&[(LITE, A)]);
    two.open(1_000_000);
    eventually("the other has its turn", || {
        // As much as its ring holds, all the time.
        while two.given[0] - two.done(0) < 64 {
            two.append(0);
            two.submit(0, None);
        }
        good.read32(DATA) == 9
    });
    good.wait(1);
}

#[test]
fn what_has_been_appended_when_a_vgpu_is_saved_is_done_by_its_successor() {
    let mut host = Host::new();
    let mut two = Two::new(&host);
    two.append(0);
    two.append(1);
    two.submit(0, None);
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A)]);
    two.append(0);
    two.submit(0, Some(1));
    two.expect(&[(LITE, A)]);
    let vgpu = two.g.vgpu.clone();
    let paused = std::thread::spawn(move || vgpu.pause());
    eventually("no more begins", || two.g.vgpu.is_paused());
    two.open(1);
    paused.join().unwrap();
    assert_eq!((two.done(0), two.g.idle()), (1, false), "the rest is still to come");
    let config = crate::vgpu::config::config(CONFIG.aperture).unwrap();
    let saved = crate::saved::SavedGuest::new(CONFIG.aperture, &config, two.g.vgpu.save().unwrap());
    host.mediator().destroy(two.g.vgpu.id()).unwrap();
    drop(host.mediator.take());
    let world = host.world.clone();
    host = Host::on(world);
    two.g.vgpu = host.restore(&saved, &two.g).unwrap();
    two.open(3);
    two.g.vgpu.resume();
    two.expect(&[(CSB_COMPLETE | CSB_ELEMENT_SWITCH, A), (CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, B)]);
    assert_eq!((two.done(0), two.done(1)), (2, 1));
}

/// What an execlist port is, as its programmer knows it: what is on the engine, what has been submitted and not been
/// acknowledged. With each context the work that it had when it was submitted.
#[derive(Default)]
struct Naive {
    active: VecDeque<(usize, u32)>,
    submitted: VecDeque<Vec<(usize, u32)>>,
}

impl Naive {
    /// Takes an entry. The work that must be done by then.
    fn entry(&mut self, (status, id): (u32, u32)) -> Result<Option<(usize, u32)>, String> {
        let on_engine = self.active.front().map(|(c, _)| ID + *c as u32);
        let comes = self.submitted.front().map(|s| ID + s[0].0 as u32);
        let (right, taken) = match status {
            CSB_IDLE_TO_ACTIVE => (on_engine.is_none() && comes == Some(id), true),
            LITE => (on_engine == Some(id) && comes == Some(id), true),
            _ if status == CSB_COMPLETE | CSB_ELEMENT_SWITCH => {
                (on_engine == Some(id) && self.active.len() == 2, false)
            }
            _ if status == CSB_COMPLETE | CSB_ACTIVE_TO_IDLE => {
                (on_engine == Some(id) && self.active.len() == 1, false)
            }
            _ => (false, false),
        };
        if !right {
            return Err(format!(
                "{status:#x} of {id:#x} with {:?}, and {:?} submitted",
                self.active, self.submitted
            ));
        }
        Ok(if taken {
            self.active = self.submitted.pop_front().unwrap_or_default().into();
            None
        } else {
            self.active.pop_front()
        })
    }
}

/// What a driver does next.
#[derive(Clone, Copy, Debug)]
enum Op {
    Append(usize),
    Submit(usize, Option<usize>),
    /// Lets some more of the work go on.
    Open(u32),
    /// Looks at the entries.
    Look,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..2).prop_map(Op::Append),
        5 => (0usize..2, prop::option::of(0usize..2)).prop_map(|(a, b)| Op::Submit(a, b)),
        3 => (1u32..4).prop_map(Op::Open),
        2 => Just(Op::Look),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_appended_and_submitted_each_entry_fits_and_all_work_is_done_once(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let host = Host::new();
        let mut two = Two::new(&host);
        let mut naive = Naive::default();
        let mut open = 0;
        let look = |two: &mut Two, naive: &mut Naive| {
            for entry in two.news() {
                if let Some((c, work)) = naive.entry(entry).unwrap() {
                    assert!(two.done(c) >= work, "{c} is not done");
                }
            }
        };
        for op in ops {
            match op {
                Op::Append(c) => { two.append(c); }
                // As a driver does: one that has not been acknowledged is waited for.
                Op::Submit(..) if !naive.submitted.is_empty() => look(&mut two, &mut naive),
                Op::Submit(first, second) => {
                    let with = |c: usize| (c, two.given[c]);
                    naive.submitted.push_back([Some(first), second].into_iter().flatten().map(with).collect());
                    two.submit(first, second);
                }
                Op::Open(more) => {
                    open = (open + more).min(two.all);
                    two.open(open);
                }
                Op::Look => look(&mut two, &mut naive),
            }
        }
        two.open(two.all);
        let mut rest = |two: &mut Two| eventually("all is done", || {
            look(two, &mut naive);
            naive.active.is_empty() && naive.submitted.is_empty()
        });
        rest(&mut two);
        prop_assert!((0..2).all(|c| two.done(c) <= two.given[c]));
        // What was dropped with a second element is still in its ring.
        naive_pair(&mut two);
        prop_assert_eq!([two.done(0), two.done(1)], two.given);
        prop_assert_eq!([two.count(0), two.count(1)], two.given, "each once");
        let s = two.g.vgpu.statistics();
        prop_assert_eq!((s.refusals, s.gpu_errors, s.overruns, s.dropped), (0, 0, 0, 0));
    }
}

/// Submits both, and waits.
fn naive_pair(two: &mut Two) {
    two.submit(0, Some(1));
    let (switch, idle) = (CSB_COMPLETE | CSB_ELEMENT_SWITCH, CSB_COMPLETE | CSB_ACTIVE_TO_IDLE);
    two.expect(&[(CSB_IDLE_TO_ACTIVE, A), (switch, A), (idle, B)]);
}
