//! A record in a window of bus frames: its number is the bus frame, so it is used again as soon as that is.

use std::sync::Arc;

use xen_ioreq::{Bfn, Gfn};

use crate::checker::{Checker, Frame, join, spawn};
use crate::sync::Mutex;
use crate::table::{Records, Slot};

const BFN: Bfn = Bfn(16);

/// When a released record's bus frame may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    /// When the record is out of the table.
    AfterWithdrawal,
    /// Before.
    Early,
}

/// One bus frame that two guests have one after the other, and what each maps there.
struct Window {
    records: Records,
    /// The allocator.
    is_free: Mutex<bool>,
    frames: [Frame; 2],
}

impl Window {
    fn release(&self, slot: Slot, epoch: u32, owner: usize, free: Free) -> bool {
        let Some(record) = self.records.get(slot) else { return false };
        if record.state.begin_release(epoch).is_none() {
            return false;
        }
        if free == Free::Early {
            *self.is_free.lock() = true;
        }
        self.records.withdraw(slot);
        self.frames[owner].end();
        if free == Free::AfterWithdrawal {
            *self.is_free.lock() = true;
        }
        self.records.forget(slot);
        true
    }
}

/// Two threads have a token of the same stand and release it; a second guest maps at the bus frame as soon as it is free, and
/// releases its own. Each mapping is released once, and no token reaches into the life of another.
pub fn a_bus_frame_is_used_again_beside_releases(checker: Checker, free: Free) -> usize {
    checker.run(move || {
        let window = Arc::new(Window {
            records: Records::of_window(BFN, 1),
            is_free: Mutex::new(false),
            frames: [Frame::new(), Frame::new()],
        });
        let slot = window.records.insert(1, Gfn(1), BFN).expect("it is free");
        let stand = window.records.get(slot).expect("it was inserted").state.put();
        let release = {
            let window = window.clone();
            spawn(move || window.release(slot, stand.epoch, 0, free))
        };
        let again = {
            let window = window.clone();
            spawn(move || {
                if !std::mem::replace(&mut *window.is_free.lock(), false) {
                    return;
                }
                let slot = window.records.insert(2, Gfn(2), BFN).expect("what is free has no record");
                let record = window.records.get(slot).expect("it was inserted");
                assert_eq!(
                    (record.guest(), record.gfn(), window.records.bfn(slot)),
                    (2, Gfn(2), Some(BFN)),
                    "all of one mapping"
                );
                window.frames[1].touch();
                let stand = record.state.put();
                window.frames[1].touch();
                assert!(window.release(slot, stand.epoch, 1, free), "nobody else has this token");
            })
        };
        let mine = window.release(slot, stand.epoch, 0, free);
        assert_ne!(mine, join(release), "one of the two");
        join(again);
        assert_eq!(window.records.len(), 0, "nothing is left");
    })
}
