use xen_ioreq::Bfn;

use super::*;
use crate::memory::peek;
use crate::{BusAccess, Iommu, ViolationKind};

const DEV: u32 = GNTMAP_device_map;

#[test]
fn a_device_reaches_the_page_from_the_mapping_to_the_unmapping() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), with_device(&m));
    let (port, room) = (m.bus_port(b.id, "device").unwrap(), Room::new(&b, 1));
    a.grant(9, b.id, 3, GTF_permit_access);
    a.grant(10, b.id, 4, GTF_permit_access | GTF_readonly);
    let both = b.map(&a, 9, DEV | GNTMAP_host_map, room.addr(0)).unwrap();
    let ro = b.map(&a, 10, DEV | GNTMAP_readonly, 0).unwrap();
    let bfn = |map: &gnttab_map_grant_ref| Bfn(map.dev_bus_addr >> 12);
    let pin = port.pin(bfn(&both), BusAccess::Write).unwrap();
    assert_eq!(peek(pin.ptr), 3);
    port.unpin(pin);
    assert!(port.pin(bfn(&ro), BusAccess::Write).is_err());
    let pin = port.pin(bfn(&ro), BusAccess::Read).unwrap();
    assert_eq!(peek(pin.ptr), 4);
    port.unpin(pin);
    assert_eq!(m.references(a.id, Gfn(3)), Ok(3));
    m.assert_clean();
    assert_eq!(b.unmap(both.handle, 0, both.dev_bus_addr + 4096), GNTST_bad_dev_addr);
    assert_eq!(b.unmap(both.handle, 0, both.dev_bus_addr), GNTST_okay);
    assert!(port.pin(bfn(&both), BusAccess::Read).is_err());
    assert_eq!((room.byte(0), m.references(a.id, Gfn(3))), (3, Ok(2)), "the CPU's part stays");
    assert_eq!(b.unmap(both.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(b.unmap(ro.handle, 0, ro.dev_bus_addr), GNTST_okay);
    drop((room, port));
    all_back(&m, vec![a, b], free);
}

#[test]
fn a_device_that_keeps_a_translation_past_the_unmapping_is_told_of() {
    let m = crate::testing::machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let port = m.bus_port(b.id, "device").unwrap();
    a.grant(9, b.id, 3, GTF_permit_access);
    let map = b.map(&a, 9, DEV, 0).unwrap();
    let pin = port.pin(Bfn(map.dev_bus_addr >> 12), BusAccess::Read).unwrap();
    assert_eq!(b.unmap(map.handle, 0, map.dev_bus_addr), GNTST_okay);
    assert_eq!(m.violations().first().map(|v| v.kind), Some(ViolationKind::UnmappedWhilePinned { pins: 1 }));
    port.unpin(pin);
}

#[test]
fn without_an_iommu_the_address_is_the_machines_and_the_oracle_knows_for_whom() {
    let m = machine(Config { iommu: Iommu::Absent, ..Config::default() });
    let (a, b) = (pv(&m), with_device(&m));
    let port = m.bus_port(b.id, "device").unwrap();
    a.grant(9, b.id, 3, GTF_permit_access);
    a.grant(10, b.id, 4, GTF_permit_access | GTF_revokable);
    let (first, second) = (b.map(&a, 9, DEV, 0).unwrap(), b.map(&a, 9, DEV, 0).unwrap());
    assert_eq!(first.dev_bus_addr, m.mfn(a.id, Gfn(3)).unwrap().0 << 12);
    let reach = || {
        let pin = port.pin(Bfn(first.dev_bus_addr >> 12), BusAccess::Write).unwrap();
        port.unpin(pin);
    };
    reach();
    assert_eq!(b.unmap(first.handle, 0, first.dev_bus_addr), GNTST_okay);
    reach();
    assert_eq!(
        b.map_revokable(&a, 10, DEV, 0, 5).err(),
        Some(GNTST_no_device_space),
        "it could not be taken back"
    );
    assert_eq!(b.unmap(second.handle, 0, second.dev_bus_addr), GNTST_okay);
    m.assert_clean();
}

#[test]
fn where_bus_frames_have_no_bits_left_there_is_no_device_space() {
    let m = Machine::new(Config { frames: 1024, xen_frames: 8, bfn_bits: 36, ..Config::default() }).unwrap();
    let (a, b) = (pv(&m), with_device(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, GTF_permit_access);
    let both = b.map(&a, 9, DEV | GNTMAP_host_map, room.addr(0));
    assert_eq!(both.err(), Some(GNTST_no_device_space));
    assert_eq!((a.flags(9), m.references(a.id, Gfn(3))), (GTF_permit_access, Ok(1)), "nothing is left of it");
    m.assert_clean();
}
