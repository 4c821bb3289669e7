use xen_ioreq::Bfn;

use super::*;
use crate::testing::vcpu;
use crate::{BusAccess, Fault, FaultPlan, Killed, Moment, Site, When};

const HOST: u32 = GNTMAP_host_map;

#[test]
fn a_dead_granters_page_stays_with_its_mapper_and_so_does_the_domain() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    let (id, before) = (a.id, free - FRAMES - 1);
    a.grant(9, b.id, 3, GTF_permit_access);
    let map = b.map(&a, 9, HOST, room.addr(0)).unwrap();
    m.destroy_domain(id).unwrap();
    assert_eq!((room.byte(0), m.domain_info(id).map(|d| (d.dying, d.tot_pages))), (3, Some((true, 1))));
    assert_eq!(b.map(&a, 9, HOST, room.addr(1)).err(), Some(GNTST_bad_domain));
    assert_eq!(b.copy(ptr(id, 9, 0), ptr(DomId::SELF, 5, 0), 1, GNTCOPY_source_gref), GNTST_bad_domain);
    drop(a);
    m.assert_clean();
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!((m.domain_info(id), m.free_frames()), (None, before));
    drop(room);
    all_back(&m, vec![b], free);
}

#[test]
fn a_dead_mapper_lets_go_of_everything() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b, c) = (pv(&m), with_device(&m), hvm(&m));
    for (reference, to) in [(9, b.id), (10, c.id)] {
        a.grant(reference, to, 3, GTF_permit_access);
    }
    a.grant(11, b.id, 4, GTF_permit_access | GTF_revokable);
    let room = Room::new(&b, 2);
    b.map(&a, 9, HOST | GNTMAP_device_map, room.addr(0)).unwrap();
    b.map_revokable(&a, 11, HOST, room.addr(1), 5).unwrap();
    c.map(&a, 10, HOST, 100 << 12).unwrap();
    for d in [b.id, c.id] {
        m.destroy_domain(d).unwrap();
        m.assert_clean();
    }
    assert_eq!(room.byte(0), 0, "a thread of the dead domain's sees zeros");
    let unused = [9, 10, 11].map(|r| a.flags(r) & (GTF_reading | GTF_writing));
    assert_eq!((unused, m.references(a.id, Gfn(3))), ([0; 3], Ok(1)));
    let mut arg = gnttab_map_grant_ref { flags: HOST, r#ref: 9, dom: a.id.0, ..Default::default() };
    assert_eq!(op(&b.caller, GNTTABOP_map_grant_ref, &mut arg), Err(Errno::ESRCH));
    drop((room, b, c));
    all_back(&m, vec![a], free);
}

#[test]
fn a_killed_process_loses_the_mappings_in_its_address_space() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, GTF_permit_access);
    m.inject(FaultPlan::one(Site::GrantCall, When::Nth(1), Fault::Kill(Moment::After)));
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.map(&a, 9, HOST, room.addr(0))));
    assert!(died.unwrap_err().is::<Killed>());
    assert_eq!((a.flags(9), m.references(a.id, Gfn(3))), (GTF_permit_access, Ok(1)));
    assert_eq!(room.byte(0), 0);
    m.assert_clean();
}

#[test]
fn a_range_that_is_dropped_takes_its_mappings_with_it() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    let room = Room::new(&b, 2);
    let map = b.map(&a, 9, HOST, room.addr(1)).unwrap();
    let gone = room.addr(0);
    drop(room);
    assert_eq!((a.flags(9), b.unmap(map.handle, gone + 4096, 0)), (GTF_permit_access, GNTST_bad_handle));
    assert_eq!(b.map(&a, 9, HOST, gone).err(), Some(GNTST_general_error));
    m.assert_clean();
}

#[test]
fn a_domain_maps_its_own_grant() {
    let m = machine(Config::default());
    let a = pv(&m);
    let room = Room::new(&a, 1);
    a.grant(9, a.id, 3, GTF_permit_access);
    let map = a.map(&a, 9, HOST, room.addr(0)).unwrap();
    assert_eq!(room.byte(0), 3);
    m.assert_clean();
    assert_eq!(a.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    m.assert_clean();
}

#[test]
fn a_frame_put_over_a_mapping_crashes_the_guest_and_harms_nobody_else() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), hvm(&m));
    let v = vcpu(&m, b.id, 0);
    a.grant(9, b.id, 3, GTF_permit_access);
    b.map(&a, 9, HOST, 100 << 12).unwrap();
    assert!(v.populate_physmap(&[Gfn(100)]).is_err(), "the guest has crashed");
    assert!(m.domain_info(b.id).unwrap().shutdown.is_some());
    m.assert_clean();
    drop(v);
    all_back(&m, vec![a, b], free);
}

#[test]
fn devices_of_a_dead_mapper_reach_nothing() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let port = m.bus_port(b.id, "device").unwrap();
    a.grant(9, b.id, 3, GTF_permit_access);
    let map = b.map(&a, 9, GNTMAP_device_map, 0).unwrap();
    m.destroy_domain(b.id).unwrap();
    assert!(port.pin(Bfn(map.dev_bus_addr >> 12), BusAccess::Read).is_err());
    m.assert_clean();
}
