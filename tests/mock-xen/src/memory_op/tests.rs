use xen_ioreq::abi::dm_op::{XEN_DMOP_destroy_ioreq_server, xen_dm_op_destroy_ioreq_server};
use xen_ioreq::abi::iommu_op::IOMMUOP_map_foreign_page;
use xen_ioreq::abi::ioreq::HVM_IOREQSRV_BUFIOREQ_ATOMIC;
use xen_ioreq::abi::memory::{
    XENMEM_current_reservation, XENMEM_decrease_reservation, XENMEM_maximum_gpfn, XENMEM_maximum_reservation,
    XENMEM_populate_physmap, XENMEM_remove_from_physmap, xen_memory_domain, xen_memory_reservation,
    xen_remove_from_physmap,
};
use xen_ioreq::seam::{ForeignMap, MemoryOp, Prot};
use xen_ioreq::{DomId, Errno, Gfn};
use zerocopy::IntoBytes;

use crate::testing::{
    DOM0, Emulator, GUEST_FRAMES, dm, foreign_op, guest, iommu, machine, scope, unmap_foreign, vcpu,
};
use crate::{Caller, Config, DomainConfig, Profile};

fn reservation(c: &Caller, cmd: u32, d: DomId, gfns: &[u64], order: u32) -> i64 {
    let mut arg = xen_memory_reservation {
        nr_extents: gfns.len() as u64,
        extent_order: order,
        domid: d.0,
        ..Default::default()
    };
    c.memory_op(cmd, arg.as_mut_bytes(), &mut gfns.to_vec()).unwrap()
}

fn decrease(c: &Caller, d: DomId, gfns: &[u64]) -> i64 {
    reservation(c, XENMEM_decrease_reservation, d, gfns, 0)
}

fn populate(c: &Caller, d: DomId, gfns: &[u64]) -> i64 {
    reservation(c, XENMEM_populate_physmap, d, gfns, 0)
}

fn map(e: &Emulator, bfn: u64, gfn: u64, ioserver: u16) {
    iommu(&e.caller, &mut foreign_op(IOMMUOP_map_foreign_page, bfn, gfn, e.domid, ioserver)).unwrap();
}

#[test]
fn a_frame_that_nobody_holds_is_free_at_once() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let free = m.free_frames();
    let v = vcpu(&m, d, 0);
    assert_eq!(v.decrease_reservation(&[Gfn(3), Gfn(4)]), Ok(2));
    assert_eq!((m.free_frames(), m.domain_info(d).unwrap().tot_pages), (free + 2, GUEST_FRAMES - 2));
    assert_eq!(v.populate_physmap(&[Gfn(4)]), Ok(1));
    assert_eq!(m.free_frames(), free + 1);
    assert_eq!(v.mmio_read(0x3000, 4), Ok(0xffff_ffff), "a hole");
    assert_eq!(v.mmio_read(0x4000, 4), Ok(0), "a fresh frame");
    m.assert_clean();
}

#[test]
fn a_list_is_done_up_to_its_first_hole() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    assert_eq!(decrease(&c, d, &[GUEST_FRAMES]), 0);
    assert_eq!(decrease(&c, d, &[1, GUEST_FRAMES, 2]), 1);
    assert_eq!(reservation(&c, XENMEM_decrease_reservation, d, &[8, 16], 3), 2);
    assert_eq!(m.domain_info(d).unwrap().tot_pages, GUEST_FRAMES - 17);
    assert_eq!(reservation(&c, XENMEM_populate_physmap, d, &[8], 3), 1);
    m.assert_clean();
}

#[test]
fn what_is_not_allowed_or_makes_no_sense_has_nothing_done() {
    let m = machine(Config::default());
    let (d, other) = (guest(&m, 1), guest(&m, 1));
    let dom0 = m.caller(DOM0).unwrap();
    let c = m.caller(d).unwrap();
    assert_eq!(decrease(&c, other, &[1]), 0, "not privileged");
    assert_eq!(decrease(&dom0, DomId(99), &[1]), 0, "no such domain");
    assert_eq!(reservation(&c, XENMEM_decrease_reservation, DomId::SELF, &[0], 10), 0, "order");
    assert_eq!(populate(&dom0, d, &[1 << 36]), 0, "no such frame number");
    assert_eq!(populate(&dom0, d, &[u64::MAX]), 0);
    assert_eq!(dom0.memory_op(XENMEM_decrease_reservation, &mut [0; 3], &mut [1]), Ok(0), "unreadable");
    let mut arg = xen_memory_reservation { nr_extents: 1 << 40, domid: d.0, ..Default::default() };
    assert_eq!(dom0.memory_op(XENMEM_decrease_reservation, arg.as_mut_bytes(), &mut [1]), Ok(0), "too many");
    arg.nr_extents = 5;
    assert_eq!(
        dom0.memory_op(XENMEM_decrease_reservation, arg.as_mut_bytes(), &mut [1, 2]),
        Ok(2),
        "short list"
    );
    assert_eq!(dom0.memory_op(63, &mut [], &mut []), Err(Errno::ENOSYS));
}

#[test]
fn counts_are_told() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let ask = |cmd, d: DomId| c.memory_op(cmd, xen_memory_domain { domid: d.0 }.as_mut_bytes(), &mut []);
    assert_eq!(ask(XENMEM_current_reservation, d), Ok(64));
    assert_eq!(ask(XENMEM_maximum_reservation, d), Ok(80));
    assert_eq!(ask(XENMEM_maximum_gpfn, d), Ok(63));
    assert_eq!(ask(XENMEM_maximum_gpfn, DomId(99)), Err(Errno::ESRCH));
}

#[test]
fn a_page_that_devices_reach_stays_until_it_is_unmapped_and_its_server_is_told_its_bfn() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    map(&e, 0x1_2345, 5, e.id);
    let free = m.free_frames();
    let v = vcpu(&m, d, 0);
    assert_eq!(v.decrease_reservation(&[Gfn(5)]), Ok(1), "does not wait for the emulator");
    assert_eq!((m.free_frames(), m.domain_info(d).unwrap().tot_pages), (free, GUEST_FRAMES));
    assert_eq!(e.drain_ports(), [e.buffered_port()]);
    assert_eq!(e.take_invalidates(), [0x1_2345]);
    // Behind the same number there can be a new frame, while the old one is still held.
    assert_eq!(v.populate_physmap(&[Gfn(5)]), Ok(1));
    assert_eq!(m.free_frames(), free - 1);
    assert_eq!(unmap_foreign(&e.caller, 0x1_2345, e.id), Ok(()));
    assert_eq!((m.free_frames(), m.domain_info(d).unwrap().tot_pages), (free, GUEST_FRAMES));
    assert_eq!(unmap_foreign(&e.caller, 0x1_2345, e.id), Err(Errno::ENOENT));
    m.assert_clean();
}

#[test]
fn each_server_is_told_once_for_each_bfn() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let (a, b, c) = (Emulator::atomic(&m, d), Emulator::atomic(&m, d), Emulator::atomic(&m, d));
    map(&a, 0x10, 5, a.id);
    map(&a, 0x11, 5, a.id);
    map(&a, 0x10, 5, b.id);
    vcpu(&m, d, 0).decrease_reservation(&[Gfn(5)]).unwrap();
    let mut told = a.take_invalidates();
    told.sort_unstable();
    assert_eq!((told, b.take_invalidates(), c.take_invalidates()), (vec![0x10, 0x11], vec![0x10], vec![]));
}

#[test]
fn with_a_full_ring_or_none_the_notice_is_synchronous_and_the_guest_waits() {
    for mode in [0, 1] {
        let m = machine(Config::default());
        let d = guest(&m, 1);
        let e = Emulator::new(&m, d, mode);
        map(&e, 0x10, 5, e.id);
        map(&e, 0x11, 6, e.id);
        if mode != 0 {
            e.fill_ring();
        }
        let v = vcpu(&m, d, 0);
        let seen = scope(&m, d, |s| {
            let guest = s.spawn(move || v.decrease_reservation(&[Gfn(5), Gfn(6)]));
            let seen = e.serve(2, |_| 0);
            assert_eq!(guest.join().unwrap(), Ok(2));
            seen
        });
        let short: Vec<_> = seen.iter().map(|r| (r.r#type, r.size, r.count, r.bits & 0x70, r.data)).collect();
        assert_eq!(short, [(8, 8, 1, 0, 0x10), (8, 8, 1, 0, 0x11)]);
        assert_eq!(m.notices(), (2, 2));
    }
}

#[test]
fn a_notice_that_the_toolstack_caused_waits_for_the_guest_s_next_resume() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::new(&m, d, 0);
    map(&e, 0x10, 5, e.id);
    let c = m.caller(DOM0).unwrap();
    assert_eq!(decrease(&c, d, &[5]), 1, "returns at once");
    assert!(e.take(0).is_none());
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let guest = s.spawn(move || v.mmio_read(0, 4));
        assert_eq!(e.serve(1, |_| 0)[0].data, 0x10);
        assert_eq!(guest.join().unwrap(), Ok(0));
    });
}

#[test]
fn at_the_limit_nothing_is_populated_until_a_held_page_is_let_go() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    m.set_max_pages(d, GUEST_FRAMES).unwrap();
    let c = m.caller(DOM0).unwrap();
    let held = c.map_foreign(d, &[Gfn(5)], Prot::ReadWrite).unwrap();
    assert_eq!(decrease(&c, d, &[5]), 1);
    assert_eq!(populate(&c, d, &[5]), 0);
    drop(held);
    assert_eq!(populate(&c, d, &[5]), 1);
    m.assert_clean();
}

#[test]
fn a_frame_swapped_in_over_another_tells_nobody_and_the_old_one_stays_charged_until_death() {
    for profile in [Profile::Draft, Profile::Stock] {
        let m = machine(Config { profile, ..Config::default() });
        let before = m.free_frames();
        let d = guest(&m, 1);
        let e = Emulator::atomic(&m, d);
        let with_server = m.free_frames();
        let held = e.caller.map_foreign(d, &[Gfn(5)], Prot::ReadWrite).unwrap();
        let v = vcpu(&m, d, 0);
        v.mmio_write(0x5000, 4, 0x77).unwrap();
        assert_eq!(v.populate_physmap(&[Gfn(5)]), Ok(1));
        assert_eq!(v.mmio_read(0x5000, 4), Ok(0), "another frame");
        assert_eq!(crate::memory::peek(held.mapping.base()), 0x77, "the old one is still mapped");
        assert_eq!((e.take(0), e.take_buffered()), (None, vec![]));
        drop(held);
        assert_eq!(m.free_frames(), with_server - 1);
        assert_eq!(m.domain_info(d).unwrap().tot_pages, GUEST_FRAMES + 1);
        drop(e);
        drop(v);
        m.destroy_domain(d).unwrap();
        assert_eq!((m.free_frames(), m.domain_info(d)), (before, None));
        m.assert_clean();
    }
}

#[test]
fn a_page_removed_from_the_physmap_stays_its_owner_s() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let free = m.free_frames();
    let c = m.caller(DOM0).unwrap();
    let mut arg = xen_remove_from_physmap { domid: d.0, gpfn: 5, ..Default::default() };
    assert_eq!(c.memory_op(XENMEM_remove_from_physmap, arg.as_mut_bytes(), &mut []), Ok(0));
    assert_eq!(c.memory_op(XENMEM_remove_from_physmap, arg.as_mut_bytes(), &mut []), Err(Errno::ENOENT));
    assert_eq!((m.free_frames(), m.domain_info(d).unwrap().tot_pages), (free, GUEST_FRAMES));
    m.assert_clean();
}

#[test]
fn stock_xen_tells_every_enabled_server_that_something_changed_and_the_guest_waits_for_all() {
    let m = machine(Config { profile: Profile::Stock, ..Config::default() });
    let d = guest(&m, 1);
    let (a, b, off) = (Emulator::atomic(&m, d), Emulator::new(&m, d, 0), Emulator::atomic(&m, d));
    crate::testing::set_state(&off.caller, d, off.id, false).unwrap();
    let free = m.free_frames();
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let guest = s.spawn(move || v.decrease_reservation(&[Gfn(5), Gfn(6)]));
        a.sleep();
        b.sleep();
        // Both requests are there at once, after the frames have gone.
        let (ra, rb) = (a.take(0).unwrap(), b.take(0).unwrap());
        assert_eq!(m.free_frames(), free + 2);
        for r in [ra, rb] {
            assert_eq!((r.r#type, r.size, r.count, r.addr, r.data, r.bits & 0x70), (8, 4, 0, 0, u64::MAX, 0));
        }
        a.answer(0, 0);
        assert!(!guest.is_finished());
        b.answer(0, 0);
        assert_eq!(guest.join().unwrap(), Ok(2));
    });
    assert!(off.take(0).is_none() && a.take_buffered().is_empty());
    m.assert_clean();
}

#[test]
fn on_stock_xen_the_toolstack_s_decreases_reach_each_vcpu_once_at_its_next_resume() {
    let m = machine(Config { profile: Profile::Stock, ..Config::default() });
    let d = guest(&m, 2);
    let e = Emulator::atomic(&m, d);
    let c = m.caller(DOM0).unwrap();
    assert_eq!(decrease(&c, d, &[4]), 1);
    for i in [0, 1] {
        assert_eq!(vcpu(&m, d, i).mmio_read(0, 4), Ok(0), "nothing is kept for a guest that has never run");
    }
    assert_eq!(decrease(&c, d, &[5]), 1);
    assert_eq!(decrease(&c, d, &[6]), 1);
    assert!(e.take(0).is_none() && e.take(1).is_none());
    for i in [0, 1] {
        let v = vcpu(&m, d, i);
        scope(&m, d, |s| {
            let guest = s.spawn(move || [v.mmio_read(0, 4), v.mmio_read(0, 4)]);
            assert_eq!(e.serve(1, |_| 0)[0].data, u64::MAX);
            assert_eq!(guest.join().unwrap(), [Ok(0), Ok(0)]);
        });
    }
    assert_eq!(decrease(&c, d, &[GUEST_FRAMES]), 0);
    assert_eq!(vcpu(&m, d, 0).mmio_read(0, 4), Ok(0), "a hole changes nothing");
    assert_eq!(populate(&c, d, &[5]), 1);
    assert_eq!(vcpu(&m, d, 0).mmio_read(0, 4), Ok(0), "neither does a populate");
}

#[test]
fn a_notice_is_for_the_server_that_mapped_and_not_for_another_with_its_number() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let destroy = |e: Emulator| {
        let mut arg = xen_dm_op_destroy_ioreq_server { id: e.id, pad: 0 };
        dm(&c, d, XEN_DMOP_destroy_ioreq_server, &mut arg).unwrap();
    };
    let old = Emulator::atomic(&m, d);
    map(&old, 0x10, 3, old.id);
    // By the slot, which the vCPU has not come to when the server ends.
    old.fill_ring();
    assert_eq!(decrease(&c, d, &[3]), 1);
    destroy(old);
    let new = Emulator::atomic(&m, d);
    let v = vcpu(&m, d, 0);
    assert_eq!(v.ram_read(0, &mut [0]), Ok(()), "nobody is waited for");
    assert_eq!(new.take_invalidates(), vec![]);

    // Another domain's server with the same number, which has mapped the same frame at the same bus frame.
    let stub = DomainConfig { hvm: false, target: Some(d), device_assigned: true, ..DomainConfig::default() };
    let stub = m.create_domain(&stub).unwrap();
    map(&new, 0x20, 4, new.id);
    destroy(new);
    let theirs = Emulator::of(m.caller(stub).unwrap(), d, HVM_IOREQSRV_BUFIOREQ_ATOMIC);
    map(&theirs, 0x20, 4, theirs.id);
    assert_eq!(v.decrease_reservation(&[Gfn(4)]), Ok(1));
    assert_eq!(theirs.take_invalidates(), [0x20]);
    m.assert_clean();
}
