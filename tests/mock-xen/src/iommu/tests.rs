use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_all_mfns, IOMMU_QUERY_map_cap, IOMMU_page_order_shift, IOMMUOP_lookup_foreign_page,
    IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_query_caps, IOMMUOP_readable, IOMMUOP_swap_mfn,
    IOMMUOP_unmap_foreign_page, IOMMUOP_unmap_page, pv_iommu_op,
};
use xen_ioreq::seam::{ForeignMap, IommuOp, Prot};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

use crate::testing::{
    DOM0, Emulator, GUEST_FRAMES, RW, foreign_op, guest, iommu, machine, unmap_foreign, vcpu,
};
use crate::{
    BusAccess, Caller, Config, DomainConfig, Fault, FaultPlan, Iommu, Profile, RmrrRange, Site, VcpuError,
    ViolationKind, When,
};

const MAP: u16 = IOMMUOP_map_foreign_page;
const LOOKUP: u16 = IOMMUOP_lookup_foreign_page;

fn map(c: &Caller, bfn: u64, gfn: u64, d: DomId, ioserver: u16) -> Result<(), Errno> {
    iommu(c, &mut foreign_op(MAP, bfn, gfn, d, ioserver))
}

fn lookup(c: &Caller, gfn: u64, d: DomId, ioserver: u16) -> Result<u64, Errno> {
    let mut op = foreign_op(LOOKUP, !0, gfn, d, ioserver);
    iommu(c, &mut op)?;
    Ok(op.bfn)
}

fn own(c: &Caller, subop: u16, bfn: u64, gfn: u64, flags: u16) -> Result<(), Errno> {
    iommu(c, &mut pv_iommu_op { bfn, gfn, ..pv_iommu_op::new(subop, flags) })
}

fn caps(c: &Caller) -> u16 {
    let mut op = pv_iommu_op::new(IOMMUOP_query_caps, 0x3ff);
    iommu(c, &mut op).unwrap();
    op.flags
}

#[test]
fn query_caps_tells_what_the_machine_has() {
    let can = IOMMU_QUERY_map_cap | 9 << IOMMU_page_order_shift;
    let kinds = [
        (Iommu::Absent, 0),
        (Iommu::Passthrough, 0),
        (Iommu::On, can),
        (Iommu::OneToOne, can | IOMMU_QUERY_map_all_mfns),
    ];
    for (kind, expected) in kinds {
        let m = machine(Config { iommu: kind, ..Config::default() });
        assert_eq!(caps(&m.caller(DOM0).unwrap()), expected, "{kind:?}");
    }
}

#[test]
fn stock_xen_and_guests_have_no_iommu_op() {
    let m = machine(Config { profile: Profile::Stock, ..Config::default() });
    let mut op = pv_iommu_op { status: 77, ..pv_iommu_op::new(IOMMUOP_query_caps, 5) };
    let before = op;
    assert_eq!(m.caller(DOM0).unwrap().iommu_op(std::slice::from_mut(&mut op)), Err(Errno::ENOSYS));
    assert_eq!(op, before);
    let m = machine(Config::default());
    let d = guest(&m, 1);
    assert_eq!(vcpu(&m, d, 0).iommu_op(&mut [op]), Err(VcpuError::Hypercall(Errno::ENOSYS)));
}

#[test]
fn map_foreign_fails_with_the_status_of_each_row() {
    let m = machine(Config {
        rmrrs: vec![RmrrRange { first: Bfn(0x700), last: Bfn(0x70f) }],
        ..Config::default()
    });
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let c = &e.caller;
    assert_eq!(map(c, 0x10, 1, d, e.id), Ok(()));
    let rows = [
        ("self by number", map(c, 0x20, 1, DOM0, e.id), Errno::EPERM),
        ("DOMID_SELF", map(c, 0x20, 1, DomId::SELF, e.id), Errno::EPERM),
        ("no such domain", map(c, 0x20, 1, DomId(99), e.id), Errno::ENXIO),
        ("no such server", map(c, 0x20, 1, d, e.id + 1), Errno::ENODEV),
        ("a hole", map(c, 0x20, GUEST_FRAMES, d, e.id), Errno::ENXIO),
        ("RMRR", map(c, 0x70f, 1, d, e.id), Errno::EACCES),
        ("more bits than the unit has", map(c, 1 << 24, 1, d, e.id), Errno::EIO),
        ("BFN taken by another frame", map(c, 0x10, 2, d, e.id), Errno::EPERM),
        (
            "neither readable nor writeable",
            iommu(c, &mut pv_iommu_op { flags: 0, ..foreign_op(MAP, 0x20, 1, d, e.id) }),
            Errno::EINVAL,
        ),
        (
            "an order beyond the unit's",
            iommu(c, &mut pv_iommu_op { flags: RW | 10 << 10, ..foreign_op(MAP, 0x400, 0, d, e.id) }),
            Errno::ENOSPC,
        ),
        (
            "a frame number that is no multiple of the page",
            iommu(c, &mut pv_iommu_op { flags: RW | 1 << 10, ..foreign_op(MAP, 0x20, 1, d, e.id) }),
            Errno::ENOSPC,
        ),
        ("unknown sub-operation", iommu(c, &mut pv_iommu_op::new(99, 0)), Errno::ENOSYS),
    ];
    for (what, got, expected) in rows {
        assert_eq!(got, Err(expected), "{what}");
    }
    assert_eq!(m.references(d, Gfn(1)), Ok(2), "failures left nothing behind");
    m.assert_clean();
}

#[test]
fn a_domain_without_control_maps_nothing_and_one_without_privilege_over_the_guest_neither() {
    for kind in [Iommu::Absent, Iommu::Passthrough] {
        let m = machine(Config { iommu: kind, ..Config::default() });
        let d = guest(&m, 1);
        let e = Emulator::atomic(&m, d);
        assert_eq!(map(&e.caller, 0x10, 1, d, e.id), Err(Errno::EPERM));
        assert_eq!(own(&e.caller, IOMMUOP_map_page, 0x10, 0x100, RW), Err(Errno::EPERM));
        assert_eq!(own(&e.caller, IOMMUOP_unmap_page, 0x10, 0, 0), Err(Errno::ENOENT));
    }
    let m = machine(Config::default());
    let (mine, other) = (guest(&m, 1), guest(&m, 1));
    let stub =
        DomainConfig { hvm: false, target: Some(mine), device_assigned: true, ..DomainConfig::default() };
    let stub = m.create_domain(&stub).unwrap();
    let c = m.caller(stub).unwrap();
    let id = crate::testing::create_server(&c, mine, 2).unwrap();
    assert_eq!(map(&c, 0x10, 1, mine, id), Ok(()));
    assert_eq!(map(&c, 0x11, 1, other, id), Err(Errno::EPERM));
    // The table is the stub domain's own: dom0's devices see nothing there.
    assert!(m.bus_port(DOM0, "dom0 device").unwrap().pin(Bfn(0x10), BusAccess::Read).is_err());
    let port = m.bus_port(stub, "stub device").unwrap();
    port.unpin(port.pin(Bfn(0x10), BusAccess::Read).unwrap());
    // Death of the emulator's domain takes its mappings along.
    drop(c);
    m.destroy_domain(stub).unwrap();
    assert_eq!(m.references(mine, Gfn(1)), Ok(1));
    m.assert_clean();
}

#[test]
fn an_identical_entry_takes_no_reference_and_another_server_s_does() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let (a, b) = (Emulator::atomic(&m, d), Emulator::atomic(&m, d));
    for (ioserver, bfn, refs) in [(a.id, 0x10, 2), (a.id, 0x10, 2), (b.id, 0x10, 3), (a.id, 0x11, 4)] {
        assert_eq!(map(&a.caller, bfn, 1, d, ioserver), Ok(()));
        assert_eq!(m.references(d, Gfn(1)), Ok(refs), "bfn {bfn:#x} ios{ioserver}");
    }
    let port = m.bus_port(DOM0, "device").unwrap();
    assert_eq!(unmap_foreign(&a.caller, 0x10, 7), Err(Errno::ENOENT), "another server");
    assert_eq!(unmap_foreign(&a.caller, 0x12, a.id), Err(Errno::ENOENT), "another BFN");
    assert_eq!(unmap_foreign(&a.caller, 0x10, a.id), Ok(()));
    assert_eq!(unmap_foreign(&a.caller, 0x10, a.id), Err(Errno::ENOENT), "twice");
    port.unpin(port.pin(Bfn(0x10), BusAccess::Write).unwrap());
    assert_eq!(unmap_foreign(&a.caller, 0x10, b.id), Ok(()));
    assert!(port.pin(Bfn(0x10), BusAccess::Write).is_err(), "the last entry took the translation along");
    assert_eq!(unmap_foreign(&a.caller, 0x11, a.id), Ok(()));
    assert_eq!(m.references(d, Gfn(1)), Ok(1));
    m.assert_clean();
}

#[test]
fn lookup_finds_what_was_mapped_and_registers_interest() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let (a, b) = (Emulator::atomic(&m, d), Emulator::atomic(&m, d));
    assert_eq!(lookup(&a.caller, 1, d, a.id), Err(Errno::ENOENT), "nothing is there");
    map(&a.caller, 0x10, 1, d, a.id).unwrap();
    assert_eq!(lookup(&a.caller, 1, d, a.id), Ok(0x10));
    assert_eq!(m.references(d, Gfn(1)), Ok(2));
    assert_eq!(lookup(&a.caller, 1, d, b.id), Ok(0x10));
    assert_eq!(m.references(d, Gfn(1)), Ok(3));
    assert_eq!(lookup(&a.caller, GUEST_FRAMES, d, a.id), Err(Errno::ENXIO));
    assert_eq!(lookup(&a.caller, 1, DomId(99), a.id), Err(Errno::ENXIO));
    assert_eq!(lookup(&a.caller, 1, DOM0, a.id), Err(Errno::EPERM));
    assert_eq!(lookup(&a.caller, 1, d, 7), Err(Errno::ENODEV));
}

#[test]
fn without_an_iommu_and_in_a_one_to_one_map_lookup_says_the_machine_frame() {
    for kind in [Iommu::Absent, Iommu::Passthrough, Iommu::OneToOne] {
        let m = machine(Config { iommu: kind, ..Config::default() });
        let d = guest(&m, 1);
        let e = Emulator::atomic(&m, d);
        let bfn = lookup(&e.caller, 1, d, e.id).unwrap();
        assert_eq!(m.references(d, Gfn(1)), Ok(2), "{kind:?}");
        let port = m.bus_port(DOM0, "device").unwrap();
        let pin = port.pin(Bfn(bfn), BusAccess::Write).unwrap();
        m.write_guest(d, 0x1000, &[0x5a]).unwrap();
        assert_eq!(crate::memory::peek(pin.ptr), 0x5a);
        port.unpin(pin);
        m.assert_clean();
        assert_eq!(unmap_foreign(&e.caller, bfn, e.id), Ok(()));
        assert_eq!(m.references(d, Gfn(1)), Ok(1));
        // Nobody has registered for it any more: now the access is wrong, although the bus lets it through.
        port.unpin(port.pin(Bfn(bfn), BusAccess::Write).unwrap());
        let kinds: Vec<_> = m.violations().iter().map(|v| v.kind).collect();
        assert_eq!(kinds, [ViolationKind::DmaToForeignFrame { owner: d, expected: None }], "{kind:?}");
        assert_eq!(unmap_foreign(&e.caller, 1 << 44, e.id), Err(Errno::ENOENT), "beyond all memory");
    }
}

#[test]
fn map_page_maps_own_frames_only_and_unmap_page_undoes_it() {
    let m = machine(Config {
        rmrrs: vec![RmrrRange { first: Bfn(0x700), last: Bfn(0x700) }],
        ..Config::default()
    });
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let c = &e.caller;
    let free = m.free_frames();
    let buffer = c.alloc_frames(2).unwrap();
    let (a, b) = (buffer.gfns()[0].0, buffer.gfns()[1].0);
    assert_eq!(own(c, IOMMUOP_map_page, 0x10, a, RW), Ok(()));
    assert_eq!(own(c, IOMMUOP_map_page, 0x10, a, RW), Err(Errno::EPERM), "taken, even identically");
    assert_eq!(own(c, IOMMUOP_map_page, 0x11, 1 << 30, RW), Err(Errno::EPERM), "not its own");
    assert_eq!(own(c, IOMMUOP_map_page, 0x700, b, RW), Err(Errno::EACCES), "RMRR");
    assert_eq!(own(c, IOMMUOP_map_page, 0x11, b, 0), Err(Errno::EINVAL), "no permission");
    assert_eq!(own(c, IOMMUOP_map_page, 0x11, b, RW | IOMMUOP_swap_mfn), Err(Errno::EINVAL));
    assert_eq!(own(c, IOMMUOP_map_page, 0x11, b, IOMMUOP_readable), Ok(()));
    assert_eq!(map(c, 0x10, 1, d, e.id), Err(Errno::EPERM), "an own mapping is in the way");
    let port = m.bus_port(DOM0, "device").unwrap();
    assert!(port.pin(Bfn(0x11), BusAccess::Write).is_err());
    port.unpin(port.pin(Bfn(0x11), BusAccess::Read).unwrap());
    // The frame is held by the mapping although its owner gave it up.
    drop(buffer);
    assert_eq!(m.free_frames(), free - 2);
    assert_eq!(own(c, IOMMUOP_unmap_page, 0x10, 0, 0), Ok(()));
    assert_eq!(own(c, IOMMUOP_unmap_page, 0x10, 0, 0), Err(Errno::ENOENT));
    assert_eq!(own(c, IOMMUOP_unmap_page, 0x11, 0, 0), Ok(()));
    assert_eq!(m.free_frames(), free);
    map(c, 0x10, 1, d, e.id).unwrap();
    assert_eq!(own(c, IOMMUOP_unmap_page, 0x10, 0, 0), Err(Errno::ENOENT), "a foreign mapping");
    m.assert_clean();
}

#[test]
fn a_failing_operation_does_not_stop_the_batch() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let mut ops: Vec<_> = (0..128).map(|i| foreign_op(MAP, 0x100 + i, i, d, e.id)).collect();
    e.caller.iommu_op(&mut ops).unwrap();
    let failed = ops.iter().filter(|o| o.status == Errno::ENXIO.status()).count();
    assert_eq!((failed, ops.iter().filter(|o| o.status == 0).count()), (64, 64));
    assert_eq!(e.caller.iommu_op(&mut []), Ok(()));
}

#[test]
fn scratch_is_held_until_the_iotlb_has_forgotten_it() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let c = &e.caller;
    let swap = |bfn, gfn| pv_iommu_op { flags: RW | IOMMUOP_swap_mfn, ..foreign_op(MAP, bfn, gfn, d, e.id) };
    let free = m.free_frames();
    let v = vcpu(&m, d, 0);
    iommu(c, &mut swap(0x10, 1)).unwrap();
    iommu(c, &mut swap(0x20, 2)).unwrap();
    assert_eq!(v.decrease_reservation(&[Gfn(1), Gfn(2)]), Ok(2));
    assert_eq!(m.free_frames(), free + 2 - 1, "both frames are back, and one is scratch");
    let flushes = m.iotlb_flushes();
    // Another frame in the place of the one, without an unmap; the other is unmapped. Nobody needs scratch any more.
    m.inject(FaultPlan::one(Site::IotlbFlush, When::Always, Fault::Error(Errno::EIO)));
    assert_eq!(c.iommu_op(&mut [foreign_op(MAP, 0x10, 3, d, e.id)]), Err(Errno::EIO));
    let mut op = pv_iommu_op { bfn: 0x20, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) };
    op.set_unmap_ioserver(e.id);
    assert_eq!(c.iommu_op(&mut [op]), Err(Errno::EIO));
    assert_eq!((m.free_frames(), m.iotlb_flushes()), (free + 1, flushes));
    let port = m.bus_port(DOM0, "device").unwrap();
    port.unpin(port.pin(Bfn(0x20), BusAccess::Write).unwrap());
    m.inject(FaultPlan::default());
    assert_eq!(c.iommu_op(&mut []), Ok(()));
    assert_eq!((m.free_frames(), m.iotlb_flushes()), (free + 2, flushes + 1));
    assert!(port.pin(Bfn(0x20), BusAccess::Write).is_err());
    m.assert_clean();
}

#[test]
fn where_nothing_translates_one_domain_s_entries_say_nothing_of_another_s_devices() {
    let m = machine(Config { iommu: Iommu::Absent, ..Config::default() });
    let d = guest(&m, 1);
    let stub = DomainConfig { hvm: false, target: Some(d), device_assigned: true, ..DomainConfig::default() };
    let stub = m.create_domain(&stub).unwrap();
    let (e, theirs) = (Emulator::atomic(&m, d), Emulator::of(m.caller(stub).unwrap(), d, 2));
    let bfn = lookup(&e.caller, 1, d, e.id).unwrap();
    let device = m.bus_port(stub, "stub device").unwrap();
    device.unpin(device.pin(Bfn(bfn), BusAccess::Read).unwrap());
    assert_eq!(m.violation_count(), 1, "nothing holds the frame for it");
    assert_eq!(lookup(&theirs.caller, 1, d, theirs.id), Ok(bfn));
    unmap_foreign(&e.caller, bfn, e.id).unwrap();
    device.unpin(device.pin(Bfn(bfn), BusAccess::Read).unwrap());
    assert_eq!(m.violation_count(), 1);
}

#[test]
fn for_a_domain_without_a_device_a_bus_frame_is_a_machine_frame() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let stub =
        m.create_domain(&DomainConfig { hvm: false, target: Some(d), ..DomainConfig::default() }).unwrap();
    let e = Emulator::of(m.caller(stub).unwrap(), d, 2);
    let mfn = m.mfn(d, Gfn(1)).unwrap().0;
    assert_eq!(map(&e.caller, 0x10, 1, d, e.id), Err(Errno::EPERM));
    assert_eq!(lookup(&e.caller, 1, d, e.id), Ok(mfn));
    assert_eq!(m.m2b(d, Gfn(1)).unwrap(), [(Bfn(mfn), stub, IoServerId(e.id))]);
    assert_eq!(unmap_foreign(&e.caller, mfn + 1, e.id), Err(Errno::ENOENT));
    assert_eq!(unmap_foreign(&e.caller, mfn, e.id), Ok(()));
    assert_eq!(lookup(&e.caller, 2, d, e.id), Ok(m.mfn(d, Gfn(2)).unwrap().0));
    m.destroy_domain(stub).unwrap();
    assert_eq!((m.references(d, Gfn(1)), m.references(d, Gfn(2))), (Ok(1), Ok(1)));
}

#[test]
fn on_the_shipped_hypervisor_a_lookup_ends_with_the_guest_also_for_the_oracle() {
    let iommu = Iommu::Passthrough;
    let m = machine(Config { profile: Profile::Xs, iommu, ..Config::default() });
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let bfn = lookup(&c, 1, d, 0).unwrap();
    let pages = c.map_foreign(d, &[Gfn(1)], Prot::Read).unwrap();
    m.destroy_domain(d).unwrap();
    // The frame is still the dead guest's, because somebody has it mapped, and nothing holds it for the device.
    let port = m.bus_port(DOM0, "device").unwrap();
    port.unpin(port.pin(Bfn(bfn), BusAccess::Read).unwrap());
    let kinds: Vec<_> = m.violations().iter().map(|v| v.kind).collect();
    assert_eq!(kinds, [ViolationKind::DmaToForeignFrame { owner: d, expected: None }]);
    drop(pages);
    assert_eq!(m.domain_info(d), None);
}
