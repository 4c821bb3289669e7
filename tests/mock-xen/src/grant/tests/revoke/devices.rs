//! Revokable grants that devices have mapped.

use super::*;

#[test]
fn another_mapping_of_the_same_frame_is_not_touched() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let port = m.bus_port(b.id, "device").unwrap();
    a.grant(9, b.id, 3, REVOKABLE);
    a.grant(10, b.id, 3, GTF_permit_access);
    b.map_revokable(&a, 9, DEV, 0, 5).unwrap();
    let plain = b.map(&a, 10, DEV, 0).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    let pin = port.pin(Bfn(plain.dev_bus_addr >> 12), BusAccess::Read).unwrap();
    assert_eq!(peek(pin.ptr), 3);
    port.unpin(pin);
    m.assert_clean();
}

#[test]
fn a_device_that_holds_on_is_told_of_and_loses_the_page_all_the_same() {
    let m = crate::testing::machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let port = m.bus_port(b.id, "device").unwrap();
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, DEV, 0, 5).unwrap();
    let bfn = Bfn(map.dev_bus_addr >> 12);
    let pin = port.pin(bfn, BusAccess::Read).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    assert_eq!(m.violations().first().map(|v| v.kind), Some(ViolationKind::RevokedWhilePinned { pins: 1 }));
    port.unpin(pin);
    let pin = port.pin(bfn, BusAccess::Read).unwrap();
    assert_eq!(peek(pin.ptr), 5);
    port.unpin(pin);
}

#[test]
fn a_device_that_nothing_translates_for_maps_nothing_revokable() {
    let m = machine(Config { iommu: crate::Iommu::Absent, ..Config::default() });
    let (a, b) = (pv(&m), with_device(&m));
    a.grant(9, b.id, 3, REVOKABLE);
    assert_eq!(b.map_revokable(&a, 9, DEV, 0, 5).err(), Some(GNTST_no_device_space));
    let room = Room::new(&b, 1);
    assert_eq!(b.map_revokable(&a, 9, HOST | DEV, room.addr(0), 5).err(), Some(GNTST_no_device_space));
    assert_eq!((a.flags(9), m.references(b.id, Gfn(5))), (REVOKABLE, Ok(1)));
    m.assert_clean();
}
