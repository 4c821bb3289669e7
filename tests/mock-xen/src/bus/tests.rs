use std::panic::{AssertUnwindSafe, catch_unwind};

use xen_ioreq::abi::iommu_op::{IOMMUOP_map_foreign_page, IOMMUOP_unmap_page, pv_iommu_op};
use xen_ioreq::{Bfn, Gfn};

use super::*;
use crate::testing::{DOM0, Emulator, foreign_op, guest, iommu, machine, unmap_foreign, vcpu};
use crate::{Config, Iommu};

fn map(e: &Emulator, bfn: u64, gfn: u64) {
    iommu(&e.caller, &mut foreign_op(IOMMUOP_map_foreign_page, bfn, gfn, e.domid, e.id)).unwrap();
}

#[test]
fn a_device_reads_what_the_guest_wrote_and_a_balloon_that_waits_for_it_is_clean() {
    let m = machine(Config { fail_fast: true, ..Config::default() });
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    map(&e, 0x10, 5);
    let v = vcpu(&m, d, 0);
    v.mmio_write(0x5000, 1, 0x42).unwrap();
    let port = m.bus_port(DOM0, "gpu").unwrap();
    let pin = port.pin(Bfn(0x10), BusAccess::Write).unwrap();
    v.decrease_reservation(&[Gfn(5)]).unwrap();
    assert_eq!(crate::memory::peek(pin.ptr), 0x42, "still there while it is used");
    port.unpin(pin);
    assert_eq!(unmap_foreign(&e.caller, 0x10, e.id), Ok(()));
    assert!(port.pin(Bfn(0x10), BusAccess::Read).is_err());
    assert_eq!(m.bus_faults(), 1);
    m.assert_clean();
}

#[test]
fn an_unmap_with_a_live_pin_is_told_with_the_frame_s_history() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    map(&e, 0x10, 5);
    let port = m.bus_port(DOM0, "gpu").unwrap();
    let pin = port.pin(Bfn(0x10), BusAccess::Write).unwrap();
    vcpu(&m, d, 0).decrease_reservation(&[Gfn(5)]).unwrap();
    assert_eq!(m.violation_count(), 0);
    unmap_foreign(&e.caller, 0x10, e.id).unwrap();
    let kinds: Vec<_> = m.violations().iter().map(|v| v.kind).collect();
    // Too early an unmap, and then the frame is free under the device's hands.
    assert_eq!(
        kinds,
        [ViolationKind::UnmappedWhilePinned { pins: 1 }, ViolationKind::FreedWhilePinned { pins: 1 }]
    );
    let text = m.violations()[1].to_string();
    for part in [
        "put behind gfn 0x5 of d1",
        "M2B entry (0x10, d0, ios0) added",
        "ballooned out",
        "INVALIDATE",
        "freed",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    port.unpin(pin);
    assert!(catch_unwind(AssertUnwindSafe(|| m.assert_clean())).is_err());
}

#[test]
fn dma_through_a_mapping_without_reference_to_a_freed_frame_and_to_its_next_owner_is_told() {
    let m = machine(Config { iommu: Iommu::OneToOne, ..Config::default() });
    let d = guest(&m, 1);
    let (e, port) = (Emulator::atomic(&m, d), m.bus_port(DOM0, "gpu").unwrap());
    let mut op = foreign_op(xen_ioreq::abi::iommu_op::IOMMUOP_lookup_foreign_page, 0, 5, d, e.id);
    iommu(&e.caller, &mut op).unwrap();
    let bfn = Bfn(op.bfn);
    port.unpin(port.pin(bfn, BusAccess::Write).unwrap());
    assert_eq!(m.violation_count(), 0);
    vcpu(&m, d, 0).decrease_reservation(&[Gfn(5)]).unwrap();
    unmap_foreign(&e.caller, bfn.0, e.id).unwrap();
    // The one-to-one map still leads there.
    port.unpin(port.pin(bfn, BusAccess::Write).unwrap());
    let other = guest(&m, 1);
    port.unpin(port.pin(bfn, BusAccess::Write).unwrap());
    let kinds: Vec<_> = m.violations().iter().map(|v| v.kind).collect();
    assert_eq!(
        kinds,
        [ViolationKind::DmaToFreeFrame, ViolationKind::DmaToForeignFrame { owner: other, expected: None }]
    );
    assert_eq!(m.violations()[0].who, "gpu");
}

#[test]
fn without_an_iommu_a_device_reaches_xen_itself_and_the_oracle_says_so() {
    let m = machine(Config { iommu: Iommu::Absent, ..Config::default() });
    let port = m.bus_port(DOM0, "gpu").unwrap();
    port.unpin(port.pin(Bfn(0), BusAccess::Read).unwrap());
    let kinds: Vec<_> = m.violations().iter().map(|v| v.kind).collect();
    assert_eq!(kinds, [ViolationKind::DmaToXenFrame]);
    assert!(port.pin(Bfn(1 << 20), BusAccess::Read).is_err(), "no memory there");
}

#[test]
fn a_frame_freed_under_a_one_to_one_pin_is_told() {
    let m = machine(Config { iommu: Iommu::OneToOne, ..Config::default() });
    let c = m.caller(DOM0).unwrap();
    let buffer = c.alloc_frames(1).unwrap();
    let port = m.bus_port(DOM0, "gpu").unwrap();
    let pin = port.pin(Bfn(buffer.gfns()[0].0), BusAccess::Read).unwrap();
    assert_eq!(m.violation_count(), 0, "its own frame");
    drop(buffer);
    let kinds: Vec<_> = m.violations().iter().map(|v| v.kind).collect();
    assert_eq!(kinds, [ViolationKind::FreedWhilePinned { pins: 1 }]);
    port.unpin(pin);
}

#[test]
fn a_hole_punched_into_the_one_to_one_map_under_a_pin_is_told() {
    let m = machine(Config { iommu: Iommu::OneToOne, ..Config::default() });
    let c = m.caller(DOM0).unwrap();
    let buffer = c.alloc_frames(1).unwrap();
    let bfn = buffer.gfns()[0].0;
    let port = m.bus_port(DOM0, "gpu").unwrap();
    let pin = port.pin(Bfn(bfn), BusAccess::Read).unwrap();
    iommu(&c, &mut pv_iommu_op { bfn, ..pv_iommu_op::new(IOMMUOP_unmap_page, 0) }).unwrap();
    let kinds: Vec<_> = m.violations().iter().map(|v| v.kind).collect();
    assert_eq!(kinds, [ViolationKind::UnmappedWhilePinned { pins: 1 }]);
    port.unpin(pin);
}

#[test]
fn a_machine_that_fails_fast_panics_where_the_violation_happens() {
    let m = machine(Config { iommu: Iommu::Absent, fail_fast: true, ..Config::default() });
    let port = m.bus_port(DOM0, "gpu").unwrap();
    let hit = catch_unwind(AssertUnwindSafe(|| port.pin(Bfn(0), BusAccess::Read)));
    let text = hit.unwrap_err().downcast::<String>().unwrap();
    assert!(text.contains("gpu: DMA to a frame of the hypervisor"), "{text}");
    // Nothing is stuck: the machine can still be asked.
    assert_eq!(m.violation_count(), 1);
}

#[test]
fn pins_of_many_threads_against_unmaps_leave_neither_pins_nor_false_alarms() {
    let m = machine(Config { fail_fast: true, ..Config::default() });
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let port = m.bus_port(DOM0, "gpu").unwrap();
    // Pins are taken only under the lock that the unmap takes for writing: a device that is told to stop and stops.
    let running = parking_lot::RwLock::new(());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                for _ in 0..2000 {
                    let _running = running.read();
                    if let Ok(pin) = port.pin(Bfn(0x10), BusAccess::Write) {
                        port.unpin(pin);
                    }
                }
            });
        }
        for _ in 0..300 {
            map(&e, 0x10, 5);
            let _stopped = running.write();
            unmap_foreign(&e.caller, 0x10, e.id).unwrap();
        }
    });
    m.assert_clean();
}
