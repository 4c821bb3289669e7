use std::panic::{AssertUnwindSafe, catch_unwind};

use xen_ioreq::abi::iommu_op::{
    IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_unmap_foreign_page, pv_iommu_op,
};
use xen_ioreq::seam::{EventChannels, ForeignMap, IommuOp, Prot};
use xen_ioreq::{Bfn, Errno, Gfn};

use crate::testing::{DOM0, Emulator, foreign_op, guest, iommu, machine, scope, unmap_foreign, vcpu};
use crate::{BusAccess, Config, Fault, FaultPlan, Killed, Moment, Rule, Site, When};

fn dies<R>(call: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(call)).is_err_and(|payload| payload.is::<Killed>())
}

fn kill(nth: u64, moment: Moment) -> FaultPlan {
    FaultPlan::one(Site::Call, When::Nth(nth), Fault::Kill(moment))
}

#[test]
fn the_kernel_gives_back_what_a_dead_process_had_and_the_hypervisor_keeps_its_device_mappings() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let free = m.free_frames();
    let c = m.caller(DOM0).unwrap();
    let pages = c.map_foreign(d, &[Gfn(3), Gfn(1), Gfn(99)], Prot::ReadWrite).unwrap();
    let own = c.alloc_frames(2).unwrap();
    let port = c.bind_unbound(d).unwrap();
    iommu(&c, &mut foreign_op(IOMMUOP_map_foreign_page, 0x10, 5, d, e.id)).unwrap();
    let mut op = foreign_op(IOMMUOP_map_page, 0x11, own.gfns()[0].0, DOM0, 0);
    iommu(&c, &mut op).unwrap();
    assert_eq!(m.references(d, Gfn(1)), Ok(2));

    c.kill();
    assert_eq!((m.references(d, Gfn(1)), m.references(d, Gfn(5))), (Ok(1), Ok(2)));
    assert_eq!(m.free_frames(), free - 1, "the own page that a device reaches stays, the other does not");
    assert_eq!(c.notify(port), Err(Errno::ENOTCONN));
    assert_eq!(c.iommu_op(&mut []), Err(Errno::ESRCH));
    assert_eq!(c.map_foreign(d, &[Gfn(1)], Prot::Read).map(|_| ()).err(), Some(Errno::ESRCH));
    // What it still thinks it has is not given back twice.
    drop((pages, own));
    m.assert_clean();
    // The next process of the domain finds the mapping.
    assert_eq!(unmap_foreign(&e.caller, 0x10, e.id), Ok(()));
    m.assert_clean();
}

#[test]
fn a_process_killed_before_a_call_has_not_made_it_and_one_killed_after_it_has() {
    for (moment, refs) in [(Moment::Before, 1), (Moment::After, 2)] {
        let m = machine(Config::default());
        let d = guest(&m, 1);
        let e = Emulator::atomic(&m, d);
        let c = m.caller(DOM0).unwrap();
        m.inject(kill(1, moment));
        let mut op = foreign_op(IOMMUOP_map_foreign_page, 0x10, 5, d, e.id);
        assert!(dies(|| iommu(&c, &mut op)));
        assert_eq!(m.references(d, Gfn(5)), Ok(refs), "{moment:?}");
        assert!(!dies(|| c.iommu_op(std::slice::from_ref(&op).to_vec().as_mut_slice())), "it dies once");
    }
}

#[test]
fn a_process_killed_within_a_batch_has_made_the_operations_before() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let c = m.caller(DOM0).unwrap();
    m.inject(kill(1, Moment::Within(2)));
    let mut ops: Vec<_> =
        (0..4).map(|i| foreign_op(IOMMUOP_map_foreign_page, 0x10 + i, i, d, e.id)).collect();
    assert!(dies(|| c.iommu_op(&mut ops)));
    assert_eq!([0, 1, 2, 3].map(|g| m.references(d, Gfn(g)).unwrap()), [2, 2, 1, 1]);
}

#[test]
fn the_end_of_a_mapping_is_a_call_and_can_be_the_last_one() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    m.inject(kill(2, Moment::Before));
    let pages = c.map_foreign(d, &[Gfn(3), Gfn(1)], Prot::Read).unwrap();
    assert!(dies(|| drop(pages)));
    assert_eq!(m.references(d, Gfn(3)), Ok(1), "the kernel has unmapped it");
    m.assert_clean();
}

#[test]
fn faults_are_answers_to_the_operations_that_they_name() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let rule = |site, when, errno| Rule { site, when, fault: Fault::Error(errno) };
    m.inject(FaultPlan {
        rules: vec![
            rule(Site::IommuOp(Some(IOMMUOP_map_foreign_page)), When::Nth(2), Errno::EIO),
            rule(Site::IommuCall, When::Nth(2), Errno::ENOMEM),
            rule(Site::ForeignMap, When::Always, Errno::EAGAIN),
        ],
        seed: 0,
    });
    let mut ops = [1, 2, 3].map(|i| foreign_op(IOMMUOP_map_foreign_page, 0x10 + i, i, d, e.id));
    e.caller.iommu_op(&mut ops).unwrap();
    assert_eq!(ops.map(|op| op.status), [0, Errno::EIO.status(), 0]);
    assert_eq!(e.caller.iommu_op(&mut ops), Err(Errno::ENOMEM));
    let mapped = e.caller.map_foreign(d, &[Gfn(1)], Prot::Read);
    assert_eq!(mapped.map(|_| ()).err(), Some(Errno::EAGAIN));
    assert_eq!(m.faults_met(), 3);
    assert_eq!(m.references(d, Gfn(2)), Ok(1));
}

#[test]
fn a_late_flush_keeps_frames_held_and_within_reach_until_the_next_one() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let free = m.free_frames();
    let port = m.bus_port(DOM0, "device").unwrap();
    let map = |bfn, gfn| iommu(&e.caller, &mut foreign_op(IOMMUOP_map_foreign_page, bfn, gfn, d, e.id));
    map(0x10, 5).unwrap();
    map(0x20, 6).unwrap();
    assert_eq!(vcpu(&m, d, 0).decrease_reservation(&[Gfn(5)]), Ok(1));
    m.inject(FaultPlan::one(Site::IotlbFlush, When::Nth(1), Fault::Error(Errno::EIO)));
    let mut op = pv_iommu_op { bfn: 0x10, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) };
    op.set_unmap_ioserver(e.id);
    assert_eq!(e.caller.iommu_op(std::slice::from_mut(&mut op)), Err(Errno::EIO));
    assert_eq!(op.status, 0, "it has been unmapped");
    assert_eq!(m.free_frames(), free, "and is held");
    let pin = port.pin(Bfn(0x10), BusAccess::Write).expect("the IOTLB knows it");
    port.unpin(pin);
    m.assert_clean();
    // Who uses the bus frame again meanwhile is told of.
    let refs = m.references(d, Gfn(7)).unwrap();
    map(0x10, 7).unwrap();
    assert_eq!(m.references(d, Gfn(7)), Ok(refs + 1));
    assert_eq!(m.violation_count(), 1);
    // The next flush, of whatever, lets it go.
    assert_eq!(unmap_foreign(&e.caller, 0x20, e.id), Ok(()));
    assert_eq!(m.free_frames(), free + 1);
    assert!(port.pin(Bfn(0x20), BusAccess::Read).is_err());
    assert_eq!(m.audit(), Vec::<String>::new());
}

#[test]
fn a_notice_in_whose_way_something_is_goes_by_the_slot() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    iommu(&e.caller, &mut foreign_op(IOMMUOP_map_foreign_page, 0x10, 5, d, e.id)).unwrap();
    m.inject(FaultPlan::one(Site::Notice, When::Always, Fault::Error(Errno::EAGAIN)));
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let call = s.spawn(move || v.decrease_reservation(&[Gfn(5)]));
        let seen = e.serve(1, |r| r.data);
        assert_eq!((seen[0].r#type, seen[0].data, seen[0].size), (8, 0x10, 8));
        assert_eq!(call.join().unwrap(), Ok(1));
    });
    assert_eq!((e.take_invalidates(), m.notices()), (vec![], (1, 1)));
}
