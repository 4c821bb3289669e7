//! The mapper's side of a revocation: what it sees then, and how its mapping ends.

use super::*;

#[test]
fn after_a_revocation_unmap_looks_at_the_stand_in_and_leaves_the_granter_alone() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    let id = a.id;
    drop(a);
    m.destroy_domain(id).unwrap();
    assert_eq!(m.domain_info(id), None, "nothing of it is held");
    assert_eq!(b.unmap(map.handle, room.addr(1), 0), GNTST_general_error);
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_bad_handle);
    drop(room);
    all_back(&m, vec![b], free);
}

#[test]
fn a_part_that_was_unmapped_is_not_switched() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), with_device(&m));
    let (room, port) = (Room::new(&b, 1), m.bus_port(b.id, "device").unwrap());
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST | DEV, room.addr(0), 5).unwrap();
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    a.close(9);
    a.revoke(9).unwrap();
    let pin = port.pin(Bfn(map.dev_bus_addr >> 12), BusAccess::Read).unwrap();
    assert_eq!(peek(pin.ptr), 5);
    port.unpin(pin);
    m.assert_clean();
    assert_eq!(b.unmap(map.handle, 0, map.dev_bus_addr), GNTST_okay);
    m.assert_clean();
}

#[test]
fn a_mapping_that_was_moved_is_switched_where_it_is() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 2);
    a.grant(9, b.id, 3, REVOKABLE);
    a.grant(10, b.id, 4, REVOKABLE);
    let first = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    let moved = b.map_revokable(&a, 10, HOST, room.addr(1), 6).unwrap();
    assert_eq!(b.replace(first.handle, room.addr(0), room.addr(1)), GNTST_okay);
    assert_eq!((room.byte(0), m.references(b.id, Gfn(5))), (4, Ok(1)));
    a.close(10);
    a.revoke(10).unwrap();
    assert_eq!(room.byte(0), 6);
    m.assert_clean();
    assert_eq!(b.unmap(moved.handle, room.addr(0), 0), GNTST_okay);
    m.assert_clean();
}

#[test]
fn a_stand_in_is_mapped_with_the_rights_of_the_grant() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    let v = vcpu(&m, b.id, 0);
    a.grant(9, b.id, 3, REVOKABLE | GTF_readonly);
    b.map_revokable(&a, 9, RO, 100 << 12, 5).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    v.ram_write(100 << 12, &[77]).unwrap();
    let mut seen = [0];
    v.ram_read(100 << 12, &mut seen).unwrap();
    assert_eq!(seen, [5], "a write is dropped as before");
    m.assert_clean();
}

#[test]
fn a_stand_in_that_is_ballooned_out_is_freed_by_the_unmapping() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), hvm(&m));
    let v = vcpu(&m, b.id, 0);
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST, 100 << 12, 5).unwrap();
    let free = m.free_frames();
    assert_eq!(v.decrease_reservation(&[Gfn(5)]), Ok(1));
    a.close(9);
    a.revoke(9).unwrap();
    let mut seen = [0];
    v.ram_read(100 << 12, &mut seen).unwrap();
    assert_eq!((seen, m.free_frames()), ([5], free));
    assert_eq!(b.unmap(map.handle, 100 << 12, 0), GNTST_okay);
    assert_eq!(m.free_frames(), free + 1);
    m.assert_clean();
}

#[test]
fn death_revokes_what_is_in_use_without_the_entry_being_withdrawn() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, REVOKABLE);
    let map = b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    let id = a.id;
    drop(a);
    m.destroy_domain(id).unwrap();
    assert_eq!((room.byte(0), m.domain_info(id)), (5, None), "no zombie");
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    drop(room);
    all_back(&m, vec![b], free);
}

#[test]
fn a_mapper_is_told_nothing_and_finds_its_own_bytes() {
    use xen_ioreq::Port;
    use xen_ioreq::seam::EventChannels;
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    let room = Room::new(&b, 1);
    a.grant(9, b.id, 3, REVOKABLE);
    b.map_revokable(&a, 9, HOST, room.addr(0), 5).unwrap();
    a.close(9);
    a.revoke(9).unwrap();
    // What a granter's driver clears on its way out, it clears in its own page.
    m.write_guest(a.id, 3 << 12, &[0]).unwrap();
    assert_eq!((room.byte(0), b.caller.pending(&mut [Port(0)])), (5, Ok(0)));
    m.assert_clean();
}
