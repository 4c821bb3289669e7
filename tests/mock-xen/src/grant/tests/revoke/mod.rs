//! What the draft leaves open is decided in `docs/revokable-grants.md`; each decision names its test here.

mod afterwards;
mod call;
mod devices;
mod mapping;
mod meanwhile;

use xen_ioreq::Bfn;

use super::*;
use crate::memory::peek;
use crate::testing::vcpu;
use crate::{BusAccess, Profile, ViolationKind};

const HOST: u32 = GNTMAP_host_map;
const RO: u32 = GNTMAP_host_map | GNTMAP_readonly;
const DEV: u32 = GNTMAP_device_map;
const REVOKABLE: u16 = GTF_permit_access | GTF_revokable;

#[test]
fn a_revoked_page_is_the_granters_alone_and_the_mapper_goes_on_with_its_own() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), with_device(&m));
    let (room, port) = (Room::new(&b, 2), m.bus_port(b.id, "device").unwrap());
    a.grant(9, b.id, 3, REVOKABLE);
    let kernel = b.map_revokable(&a, 9, HOST | DEV, room.addr(0), 5).unwrap();
    let user = b.map_revokable(&a, 9, RO, room.addr(1), 6).unwrap();
    assert_eq!((room.byte(0), room.byte(1)), (3, 3));
    assert_eq!(m.references(b.id, Gfn(5)), Ok(2));
    a.close(9);
    assert_eq!(a.revoke(9), Ok(()));
    assert_eq!((a.flags(9), m.references(a.id, Gfn(3))), (GTF_revokable, Ok(1)));
    assert_eq!((room.byte(0), room.byte(1)), (5, 6));
    room.page(0).u8(0).store(55, Ordering::SeqCst);
    assert_eq!((b.byte(5 << 12), a.byte(3 << 12)), (55, 3));
    let pin = port.pin(Bfn(kernel.dev_bus_addr >> 12), BusAccess::Write).unwrap();
    assert_eq!(peek(pin.ptr), 55);
    port.unpin(pin);
    m.assert_clean();
    // The granter uses the reference and the page for something else, and the mapper still unmaps.
    a.grant(9, b.id, 4, GTF_permit_access);
    assert_eq!(b.unmap(kernel.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(b.unmap(kernel.handle, 0, kernel.dev_bus_addr), GNTST_okay);
    assert_eq!(b.unmap(user.handle, room.addr(1), 0), GNTST_okay);
    assert_eq!((m.references(b.id, Gfn(5)), a.flags(9)), (Ok(1), GTF_permit_access));
    drop((room, port));
    all_back(&m, vec![a, b], free);
}

#[test]
fn a_mapper_that_never_unmaps_keeps_a_plain_page_and_loses_a_revokable_one() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (hvm(&m), pv(&m));
    let (v, room) = (vcpu(&m, a.id, 0), Room::new(&b, 2));
    let mut put = xen_ioreq::abi::memory::xen_add_to_physmap {
        domid: DomId::SELF.0,
        space: xen_ioreq::abi::memory::XENMAPSPACE_grant_table,
        gpfn: 50,
        ..Default::default()
    };
    v.memory_op(xen_ioreq::abi::memory::XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).unwrap();
    let entry = |r: u64, flags: u16, gfn: u32| {
        v.ram_write((50 << 12) + r * 8 + 4, &gfn.to_le_bytes()).unwrap();
        v.ram_write((50 << 12) + r * 8, &(u32::from(b.id.0) << 16 | u32::from(flags)).to_le_bytes()).unwrap();
    };
    entry(9, GTF_permit_access, 3);
    entry(10, REVOKABLE, 4);
    b.map(&a, 9, HOST, room.addr(0)).unwrap();
    b.map_revokable(&a, 10, HOST, room.addr(1), 5).unwrap();
    let here = m.free_frames();
    let mut mark = [0; 2];
    v.ram_read((50 << 12) + 9 * 8, &mut mark).unwrap();
    assert_ne!(
        u16::from_le_bytes(mark) & GTF_reading,
        0,
        "the granter sees that it is in use, and can do nothing"
    );
    assert_eq!(v.decrease_reservation(&[Gfn(3)]), Ok(1));
    assert_eq!((m.free_frames(), room.byte(0)), (here, 3), "gone from the granter, and free to nobody");
    entry(10, GTF_revokable, 4);
    let mut revoke = gnttab_revoke { r#ref: 10 };
    v.grant_table_op(GNTTABOP_revoke, revoke.as_mut_bytes(), 1).unwrap();
    assert_eq!(v.decrease_reservation(&[Gfn(4)]), Ok(1));
    assert_eq!((m.free_frames(), room.byte(1)), (here + 1, 5), "the mapper runs on with a page of its own");
    m.assert_clean();
    drop((v, room));
    all_back(&m, vec![b, a], free);
}

#[test]
fn a_hypervisor_without_it_has_no_such_operations_and_ignores_the_flag() {
    for config in [
        Config { profile: Profile::Stock, ..Config::default() },
        Config { revokable: false, ..Config::default() },
    ] {
        let m = machine(config);
        let (a, b) = (pv(&m), pv(&m));
        let room = Room::new(&b, 1);
        assert_eq!(a.revoke(9), Err(Errno::ENOSYS));
        let mut arg = gnttab_map_revokable::default();
        assert_eq!(op(&b.caller, GNTTABOP_map_revokable, &mut arg), Err(Errno::ENOSYS));
        a.grant(9, b.id, 3, REVOKABLE);
        assert!(b.map(&a, 9, HOST, room.addr(0)).is_ok());
        m.assert_clean();
    }
}

/// The table of `docs/revokable-grants.md` and the tests here name each other.
#[test]
fn every_decision_has_its_test_and_every_test_its_decision() {
    let doc = include_str!("../../../../../../docs/revokable-grants.md");
    let here = [
        include_str!("mod.rs"),
        include_str!("afterwards.rs"),
        include_str!("call.rs"),
        include_str!("devices.rs"),
        include_str!("mapping.rs"),
        include_str!("meanwhile.rs"),
    ]
    .concat();
    let decided: Vec<&str> = doc
        .lines()
        .filter(|l| l.starts_with("| ") && l.ends_with("` |"))
        .filter_map(|l| l.trim_end_matches("` |").rsplit('`').next())
        .collect();
    assert!(decided.len() > 20, "{}", decided.len());
    for name in &decided {
        assert!(here.contains(&format!("#[test]\nfn {name}()")), "no test {name}");
    }
    let tests = here.split("#[test]\nfn ").skip(1).filter_map(|t| t.split('(').next());
    for name in tests.filter(|t| *t != "every_decision_has_its_test_and_every_test_its_decision") {
        assert!(name.contains('{') || decided.contains(&name), "no decision names {name}");
    }
}
