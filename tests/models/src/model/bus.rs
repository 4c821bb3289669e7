//! The model hypervisor's buses: devices that take translations and give them back, while the hypervisor takes entries away,
//! makes new ones, leads them elsewhere and frees frames. What the oracle says rests on these counts.

use std::sync::Arc;

use xen_ioreq::{Bfn, DomId, Mfn};

use crate::bus::{BusAccess, BusPort};
use crate::checker::{Checker, Frame, Thread, join, spawn};
use crate::domain::{Domain, PvIommu};
use crate::frames::{Hold, M2b};
use crate::iommu::{self, BusTable, Kind, Lingering, Pinned, Translation};
use crate::machine::Machine;
use crate::oracle::ViolationKind;

const DOM0: DomId = DomId(0);
const GUEST: DomId = DomId(1);
const BFN: Bfn = Bfn(9);

fn translation(mfn: Mfn, kind: Kind) -> Translation {
    Translation { mfn, domain: Some(GUEST), kind, read: true, write: true }
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is taken away, and another one is made.
    Remap,
    /// It leads to another frame.
    Repoint,
    /// It leads to another frame, unless a device has a translation of it.
    RepointIdle,
}

/// `devices` take a translation and give it back while an entry changes: each gets all of the old entry or all of the new one, and
/// whoever changes it learns exactly how many translations of the old one were in use.
pub fn translations_beside_a_change(checker: Checker, devices: usize, change: Change) -> usize {
    checker.run(move || {
        let table = Arc::new(BusTable::default());
        let (old, new) = (translation(Mfn(1), Kind::Foreign), translation(Mfn(2), Kind::Foreign));
        assert!(table.map(BFN, &old), "nothing is there");
        let first = table.pin(BFN, true).expect("it is there");
        assert!(table.unpin(BFN, first.generation), "it is still there");
        let threads: Vec<Thread<Option<bool>>> = (0..devices)
            .map(|_| {
                let table = table.clone();
                spawn(move || {
                    let Pinned { translation, generation } = table.pin(BFN, true)?;
                    let is_old = generation == first.generation;
                    assert_eq!(translation, if is_old { old } else { new }, "one entry's parts");
                    let still_there = table.unpin(BFN, generation);
                    assert!(is_old || still_there, "the new one stays");
                    Some(still_there)
                })
            })
            .collect();
        let broken = match change {
            Change::Remap => {
                let (was, pins) = table.unmap(BFN).expect("it is there");
                assert_eq!(was, Translation { read: true, write: true, ..old });
                assert!(table.map(BFN, &new), "it is gone");
                Some(pins)
            }
            Change::Repoint => table.repoint(BFN, &new, true),
            Change::RepointIdle => table.repoint(BFN, &new, false),
        };
        let outcomes: Vec<Option<bool>> = threads.into_iter().map(join).collect();
        let late = outcomes.iter().filter(|o| **o == Some(false)).count();
        assert_eq!(late, usize::try_from(broken.unwrap_or(0)).expect("few"), "each that was broken is told");
        if change == Change::RepointIdle {
            assert_eq!(late, 0, "it was not in use");
        } else {
            assert!(broken.is_some(), "it is done");
        }
        if change != Change::Remap {
            assert!(outcomes.iter().all(Option::is_some), "never a fault");
        }
        let left = if broken.is_some() { new } else { old };
        assert_eq!(table.unmap(BFN), Some((left, 0)), "no translation is left");
    })
}

/// A machine with a guest that has one frame, and a port of dom0's devices with what their IOTLB keeps.
fn machine(kind: Kind) -> (Arc<Machine>, Arc<BusTable>, BusPort, Mfn, Arc<Lingering>) {
    let machine = Machine::new(4, 1);
    let table = Arc::new(BusTable::default());
    let mfn = machine.frames(|t| {
        t.open_account(GUEST, 8);
        t.allocate(GUEST, true).expect("there are frames")
    });
    assert!(table.map(BFN, &translation(mfn, kind)), "nothing is there");
    let dom0 = Domain { id: DOM0, pv_iommu: PvIommu::default() };
    let port = BusPort::new(machine.clone(), table.clone(), &dom0, "a device".to_owned());
    (machine, table, port, mfn, dom0.pv_iommu.lingering)
}

fn told(machine: &Machine, is: impl Fn(ViolationKind) -> bool) -> bool {
    machine.oracle().violations().iter().any(|v| is(v.kind))
}

/// A device uses a frame by an entry that holds no reference while the frame is freed: if it still uses it then, the oracle
/// says so, at the one side or at the other.
pub fn a_frame_is_freed_beside_a_pin(checker: Checker) -> usize {
    checker.run(|| {
        let (machine, _, port, mfn, _) = machine(Kind::OneToOne);
        let frame = Arc::new(Frame::new());
        let device = {
            let (machine, frame) = (machine.clone(), frame.clone());
            spawn(move || {
                let pin = port.pin(BFN, BusAccess::Write).expect("it is there");
                if !told(&machine, |kind| kind == ViolationKind::DmaToFreeFrame) {
                    frame.touch();
                }
                port.unpin(pin);
            })
        };
        machine.frames(|t| t.release(mfn, Hold::Allocation));
        if !told(&machine, |kind| kind == ViolationKind::FreedWhilePinned { pins: 1 }) {
            frame.end();
        }
        join(device);
        assert_eq!(machine.frames(|t| t.watch()).pins(mfn), 0, "none is left");
        assert_eq!(machine.frames(|t| t.audit()), Vec::<String>::new());
    })
}

/// Who unmaps a bus frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmap {
    /// The entry, then the reference.
    EntryFirst,
    /// The reference, then the entry.
    ReferenceFirst,
}

/// A device uses a frame by an entry whose reference is the last on it while the entry is taken away: either the oracle says
/// that the entry was in use, or the device has let go before the frame is freed, or it faults.
pub fn an_entry_is_unmapped_beside_a_pin(checker: Checker, unmap: Unmap) -> usize {
    checker.run(move || {
        let (machine, table, port, mfn, _) = machine(Kind::Foreign);
        let entry = M2b { bfn: BFN, by: DOM0, ioserver: 0 };
        machine.frames(|t| {
            t.hold(mfn, Hold::M2b(entry)).expect("it is a guest's");
            t.release(mfn, Hold::Allocation)
        });
        let frame = Arc::new(Frame::new());
        let device = {
            let (machine, frame) = (machine.clone(), frame.clone());
            spawn(move || {
                let Ok(pin) = port.pin(BFN, BusAccess::Write) else { return };
                let early = |kind| {
                    matches!(kind, ViolationKind::UnmappedWhilePinned { .. } | ViolationKind::DmaToFreeFrame)
                };
                if !told(&machine, early) {
                    frame.touch();
                }
                port.unpin(pin);
            })
        };
        if unmap == Unmap::ReferenceFirst {
            machine.frames(|t| t.release(mfn, Hold::M2b(entry)));
        }
        machine.frames(|t| {
            iommu::unmap(t, &table, DOM0, BFN).expect("it is there");
            if unmap == Unmap::EntryFirst {
                t.release(mfn, Hold::M2b(entry));
            }
        });
        if machine.oracle().count() == 0 {
            frame.end();
        }
        join(device);
        assert!(
            told(&machine, |kind| kind == ViolationKind::UnmappedWhilePinned { pins: 1 })
                || !told(&machine, |kind| kind == ViolationKind::DmaToFreeFrame),
            "no entry leads to a free frame"
        );
        assert_eq!(machine.frames(|t| t.watch()).pins(mfn), 0, "none is left");
        assert_eq!(machine.frames(|t| t.audit()), Vec::<String>::new());
    })
}

/// When the frame that a late flush holds is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// When the flush is done.
    First,
    /// Before.
    TooLate,
}

/// A device goes by what its IOTLB still knows of an entry that was taken away, while the flush that was late is done and the frame
/// freed: it faults, or has let go before the frame is freed, or the oracle says that it had not.
pub fn a_late_flush_beside_a_pin(checker: Checker, flush: Flush) -> usize {
    checker.run(move || {
        let (machine, table, port, mfn, lingering) = machine(Kind::Foreign);
        let hold = Hold::Flush(DOM0, BFN);
        let was = machine.frames(|t| {
            t.hold(mfn, hold).expect("it is a guest's");
            t.release(mfn, Hold::Allocation);
            iommu::unmap(t, &table, DOM0, BFN).expect("it is there")
        });
        lingering.keep(BFN, was);
        let frame = Arc::new(Frame::new());
        let device = {
            let (machine, frame) = (machine.clone(), frame.clone());
            spawn(move || {
                let Ok(pin) = port.pin(BFN, BusAccess::Write) else { return };
                if machine.oracle().count() == 0 {
                    frame.touch();
                }
                port.unpin(pin);
            })
        };
        if flush == Flush::First {
            lingering.flush();
        }
        machine.frames(|t| t.release(mfn, hold));
        if machine.oracle().count() == 0 {
            frame.end();
        }
        if flush == Flush::TooLate {
            lingering.flush();
        }
        join(device);
        assert_eq!(machine.frames(|t| t.watch()).pins(mfn), 0, "none is left");
        assert_eq!(machine.frames(|t| t.audit()), Vec::<String>::new());
    })
}
