//! A helper of the software GPU's blitter at its seat: work that is offered, withdrawn, taken, waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::checker::{Checker, Frame, join, spawn};
use crate::seat::Seat;
use crate::sync::atomic::AtomicU32;

/// When who offers work lets go of what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// When the offer is settled.
    First,
    /// Before it is.
    Late,
}

/// A part that whoever comes first does, in pages that stay until the offer is settled.
struct Work {
    next: AtomicU32,
    /// How often each was done; two threads can be at it.
    done: [AtomicU32; 2],
    pages: [Frame; 2],
}

impl Work {
    fn new() -> Self {
        let done = [0; 2].map(AtomicU32::new);
        Self { next: AtomicU32::new(0), done, pages: [Frame::new(), Frame::new()] }
    }

    fn go(&self) {
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed) as usize;
            let Some((done, page)) = self.done.get(n).zip(self.pages.get(n)) else { return };
            page.touch();
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An engine has a helper, and `rounds` times work that it offers while it does it, too; it calls the helper before, and releases
/// it in between, or has it rest. Every part is done once, no page is used after its end, and both come to their end, whoever sleeps.
pub fn work_is_shared(checker: Checker, rounds: usize, settle: Settle) -> usize {
    checker.run(move || {
        let seat = Arc::new(Seat::<usize>::new());
        let works: Arc<Vec<Work>> = Arc::new((0..rounds).map(|_| Work::new()).collect());
        // What is offered is which.
        let names: Arc<Vec<usize>> = Arc::new((0..rounds).collect());
        let helper = {
            let (seat, works, names) = (seat.clone(), works.clone(), names.clone());
            spawn(move || {
                while let Some(work) = seat.take(|_, _| ()) {
                    let n = names.iter().position(|n| std::ptr::eq(n, work)).expect("what is offered");
                    works[n].go();
                    seat.done();
                }
            })
        };
        for (round, (work, name)) in works.iter().zip(names.iter()).enumerate() {
            seat.call();
            let offered = seat.offer(name);
            work.go();
            if settle == Settle::Late {
                work.pages.iter().for_each(Frame::end);
            }
            if offered {
                seat.settle(|_| ());
            }
            if settle == Settle::First {
                work.pages.iter().for_each(Frame::end);
            }
            if round % 2 == 0 { seat.rest() } else { seat.release() }
        }
        seat.dismiss();
        join(helper);
        for work in works.iter() {
            assert!(work.done.iter().all(|n| n.load(Ordering::Relaxed) == 1), "each part is done once");
        }
    })
}
