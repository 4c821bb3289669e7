//! Who waits for whom while frames are let go, on slots whose vCPUs are threads of the test's.

use std::collections::BTreeSet;
use std::time::Duration;

use xen_ioreq::abi::dm_op::{xen_dm_op, xen_dm_op_set_mem_type};
use xen_ioreq::abi::ioreq::{self as abi, Bits, SLOT_BITS_OFFSET};
use xen_ioreq::seam::{DmOp, MOST_PAUSED_OPS};
use xen_ioreq::{Errno, Port};
use zerocopy::{FromBytes, IntoBytes};

use super::letting::Done;
use super::*;
use crate::slot::VcpuPort;
use crate::testing::{Pages, Sent};

/// Says yes to everything, and notes which frames became RAM in each pause.
#[derive(Default)]
struct Yes(Mutex<Vec<Vec<u64>>>);

impl DmOp for Yes {
    fn dm_op(&self, _: DomId, _: &mut [&mut [u8]]) -> Result<(), Errno> {
        Ok(())
    }
}

impl PausedDmOp for Yes {
    fn paused_dm_op(&self, _: DomId, ops: &mut [xen_dm_op]) -> Result<Vec<Result<(), Errno>>, Errno> {
        let frame =
            |op: &xen_dm_op| xen_dm_op_set_mem_type::read_from_prefix(op.u.as_bytes()).unwrap().0.first_pfn;
        self.0.lock().push(ops.iter().map(frame).collect());
        Ok(vec![Ok(()); ops.len()])
    }
}

struct Nobody;

impl Watcher for Nobody {
    fn written(&self, _: Gfn) {}
}

struct Rig {
    xen: Arc<Yes>,
    traps: Arc<WriteTraps>,
    pages: Pages,
    slots: Arc<Slots>,
}

fn rig(vcpus: u32) -> Rig {
    let xen = Arc::new(Yes::default());
    let traps = WriteTraps::new(Dm::new(xen.clone(), DomId(1)), IoServerId(0), Some(xen.clone()));
    let pages = Pages::new(1);
    let ports = (0..vcpus).map(|v| VcpuPort { vcpu: VcpuId(v), port: Port(1 + v) }).collect();
    let slots = Arc::new(Slots::new(pages.mapping(), ports, Arc::new(Sent::default())));
    Rig { xen, traps: Arc::new(traps), pages, slots }
}

impl Rig {
    /// What a test lets go it lets go itself.
    fn without_thread(&self) {
        let mut state = self.traps.state.lock();
        state.slots = Arc::downgrade(&self.slots);
        state.has_thread = true;
    }

    /// Frames that are trapped, and whose letting go has begun.
    fn leave(&self, frames: std::ops::Range<u64>) {
        for gfn in frames.map(Gfn) {
            self.traps.set(gfn, Arc::new(Nobody)).unwrap();
            self.traps.clear(gfn);
        }
    }

    fn set_state(&self, vcpu: u32, state: u8) {
        let bits = Bits { state, ..Bits::default() }.pack();
        self.pages.write(vcpu as usize * size_of::<abi::ioreq>() + SLOT_BITS_OFFSET, &[bits]);
    }

    fn state(&self, vcpu: u32) -> u8 {
        Bits::unpack(self.pages.read::<1>(vcpu as usize * size_of::<abi::ioreq>() + SLOT_BITS_OFFSET)[0])
            .state
    }
}

#[test]
fn frames_that_come_back_after_each_pause_keep_no_other_from_going() {
    let rig = rig(1);
    let most = MOST_PAUSED_OPS as u64;
    rig.without_thread();
    rig.leave(0..2 * most);
    let mut gone = BTreeSet::new();
    for _ in 0..2 {
        let mut state = rig.traps.state.lock();
        assert!(matches!(rig.traps.let_some_go(&mut state, Duration::ZERO), Done::Gone));
        gone.extend(rig.xen.0.lock().pop().unwrap());
        // Somebody writes to each of the first.
        (0..most).for_each(|n| rig.traps.hold(&mut state, Gfn(n)));
    }
    assert!((0..2 * most).all(|n| gone.contains(&n)), "{gone:?}");
}

#[test]
fn nothing_goes_while_an_answer_has_not_been_taken() {
    let rig = rig(2);
    rig.without_thread();
    rig.leave(5..6);
    rig.traps.is_answered(Some(VcpuId(1)), []);
    let mut state = rig.traps.state.lock();
    for underway in [abi::STATE_IOREQ_INPROCESS, abi::STATE_IORESP_READY] {
        rig.set_state(1, underway);
        assert!(matches!(rig.traps.let_some_go(&mut state, Duration::ZERO), Done::NotYet));
        assert!(!state.shut, "others get theirs");
    }
    assert!(rig.xen.0.lock().is_empty());
    // The next request, which has no answer yet.
    rig.set_state(1, abi::STATE_IOREQ_READY);
    assert!(matches!(rig.traps.let_some_go(&mut state, Duration::ZERO), Done::Gone));
    assert_eq!(*rig.xen.0.lock(), [[5]]);
}

#[test]
fn while_an_answer_is_waited_for_its_vcpu_goes_on_and_no_other_gets_one() {
    let rig = rig(2);
    rig.without_thread();
    rig.leave(5..6);
    rig.set_state(0, abi::STATE_IOREQ_INPROCESS);
    rig.traps.is_answered(Some(VcpuId(0)), []);
    std::thread::scope(|t| {
        t.spawn(|| {
            let mut state = rig.traps.state.lock();
            // Longer than any test.
            let patience = Duration::from_secs(86400);
            assert!(matches!(rig.traps.let_some_go(&mut state, patience), Done::Gone));
        });
        while !rig.traps.state.lock().shut {
            std::thread::yield_now();
        }
        // The next item of its string instruction.
        rig.traps.is_answered(Some(VcpuId(0)), []);
        rig.set_state(1, abi::STATE_IOREQ_INPROCESS);
        let other = t.spawn(|| {
            rig.traps.is_answered(Some(VcpuId(1)), []);
            rig.xen.0.lock().clone()
        });
        // Time enough for one that does not wait.
        (0..1000).for_each(|_| std::thread::yield_now());
        rig.set_state(0, abi::STATE_IORESP_READY);
        rig.set_state(0, abi::STATE_IOREQ_NONE);
        assert_eq!(other.join().unwrap(), [[5]], "what had gone by then");
    });
    assert_eq!(rig.traps.state.lock().answered, BTreeSet::from([VcpuId(1)]));
}

#[test]
fn vcpus_whose_writes_follow_one_another_without_pause_keep_no_frame_from_going() {
    const VCPUS: u32 = 3;
    const FRAMES: u64 = 20;
    /// Items of a string instruction.
    const ITEMS: usize = 512;
    let rig = rig(VCPUS);
    rig.traps.begin(&rig.slots).unwrap();
    let stop = AtomicBool::new(false);
    let on = || !stop.load(Ordering::SeqCst);
    let runs = AtomicUsize::new(0);
    std::thread::scope(|t| {
        for v in 0..VCPUS {
            let rig = &rig;
            // Takes its answer, and writes again at once.
            t.spawn(move || {
                while on() {
                    match rig.state(v) {
                        abi::STATE_IORESP_READY => {
                            rig.set_state(v, abi::STATE_IOREQ_NONE);
                            rig.set_state(v, abi::STATE_IOREQ_READY);
                        }
                        abi::STATE_IOREQ_NONE => rig.set_state(v, abi::STATE_IOREQ_READY),
                        _ => std::thread::yield_now(),
                    }
                }
            });
        }
        let (rig, runs) = (&rig, &runs);
        t.spawn(move || {
            while on() {
                for taken in (0..VCPUS as usize).filter_map(|v| rig.slots.take(v)) {
                    rig.traps.asks(taken.vcpu());
                    for _ in 0..ITEMS {
                        assert!(rig.traps.is_answered(Some(taken.vcpu()), []).is_empty());
                    }
                    taken.answer(0);
                    runs.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for gfn in 0..FRAMES {
            let before = runs.load(Ordering::SeqCst);
            while runs.load(Ordering::SeqCst) < before + 3 {
                std::thread::yield_now();
            }
            rig.leave(gfn..gfn + 1);
            while !rig.traps.settle() {}
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(rig.xen.0.lock().iter().flatten().count() as u64, FRAMES);
    rig.traps.state.lock().ended = true;
    rig.traps.changed.notify_all();
}
