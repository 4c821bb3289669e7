use super::*;
use crate::testing::vcpu;

fn query(d: &Dom, dom: DomId) -> gnttab_query_size {
    let mut arg = gnttab_query_size { dom: dom.0, ..Default::default() };
    op(&d.caller, GNTTABOP_query_size, &mut arg).unwrap();
    arg
}

fn set_version(d: &Dom, version: u32) -> (Result<(), Errno>, u32) {
    let mut arg = gnttab_set_version { version };
    let done = op(&d.caller, GNTTABOP_set_version, &mut arg);
    (done, arg.version)
}

#[test]
fn a_table_grows_to_its_limit_and_its_frames_are_the_domains() {
    let m = machine(Config { max_grant_frames: 4, ..Config::default() });
    let free = m.free_frames();
    let a = pv(&m);
    assert_eq!((query(&a, a.id).nr_frames, query(&a, DomId::SELF).max_nr_frames), (1, 4));
    let two = a.frames(GNTTABOP_setup_table, 2).unwrap();
    assert_eq!(query(&a, a.id).nr_frames, 2);
    assert_eq!(
        a.frames(GNTTABOP_setup_table, 1).unwrap(),
        two[..1],
        "only those that were asked for are told"
    );
    assert_eq!(a.frames(GNTTABOP_setup_table, 5), Err(GNTST_general_error));
    let info = m.frame(xen_ioreq::Mfn(two[1])).unwrap();
    assert_eq!(info.owner, Some(a.id));
    let mut arg = gnttab_setup_table { dom: DomId::SELF.0, nr_frames: 2, ..Default::default() };
    a.caller.grant_table_frames(GNTTABOP_setup_table, arg.as_mut_bytes(), &mut [0]).unwrap();
    assert_eq!(arg.status, GNTST_bad_virt_addr, "no room in the list");
    assert_eq!(a.frames(GNTTABOP_get_status_frames, 1), Err(GNTST_general_error), "version 1 has none");
    assert_eq!(a.frames(GNTTABOP_get_status_frames, 0), Ok(Vec::new()));
    assert_eq!(a.caller.map_table(&[two[1] + 1]).err(), Some(Errno::EINVAL));
    all_back(&m, vec![a], free);
}

#[test]
fn a_table_of_another_domain_is_for_who_controls_it() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    assert_eq!(query(&a, b.id).status, GNTST_permission_denied);
    assert_eq!(query(&a, DomId(99)).status, GNTST_bad_domain);
    let dom0 = m.caller(DomId(0)).unwrap();
    let mut arg = gnttab_query_size { dom: b.id.0, ..Default::default() };
    op(&dom0, GNTTABOP_query_size, &mut arg).unwrap();
    assert_eq!((arg.status, arg.nr_frames), (GNTST_okay, 1));
    let version = |c: &Caller, dom: DomId| {
        let mut arg = gnttab_get_version { dom: dom.0, ..Default::default() };
        op(c, GNTTABOP_get_version, &mut arg).map(|()| arg.version)
    };
    assert_eq!(version(&dom0, b.id), Ok(1));
    assert_eq!(version(&a.caller, b.id), Err(Errno::EPERM));
    assert_eq!(version(&a.caller, DomId(99)), Err(Errno::ESRCH));
}

#[test]
fn the_version_changes_both_ways_and_keeps_the_reserved_entries_alone() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (mut a, b) = (pv(&m), pv(&m));
    a.grant(1, b.id, 3, GTF_permit_access);
    a.grant(9, b.id, 4, GTF_permit_access);
    let room = Room::new(&b, 1);
    let map = b.map(&a, 1, GNTMAP_host_map, room.addr(0)).unwrap();
    assert_eq!(set_version(&a, 2), (Ok(()), 2), "a reserved one may be in use");
    a.map_tables();
    assert_eq!(a.marks(1), GTF_reading | GTF_writing);
    m.assert_clean();
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(a.marks(1), 0);
    let own = ptr(DomId::SELF, 5, 0);
    assert_eq!(b.copy(ptr(a.id, 9, 0), own, 1, GNTCOPY_source_gref), GNTST_general_error, "it was zeroed");
    assert_eq!(b.copy(ptr(a.id, 1, 0), own, 1, GNTCOPY_source_gref), GNTST_okay);
    assert_eq!(set_version(&a, 2), (Ok(()), 2));
    assert_eq!(set_version(&a, 3), (Err(Errno::EINVAL), 2));
    a.grant_v2(256 - 1, b.id, GTF_permit_access, 0, 4);
    let map = b.map(&a, 255, GNTMAP_host_map, room.addr(0)).unwrap();
    assert_eq!(a.marks(255), GTF_reading | GTF_writing);
    assert_eq!(set_version(&a, 1), (Err(Errno::EBUSY), 2), "an entry is in use");
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(set_version(&a, 1), (Err(Errno::EBUSY), 2), "a status frame is mapped");
    a.status = None;
    a.grant_v2(2, b.id, GTF_permit_access, 0, 1 << 33);
    assert_eq!(set_version(&a, 1), (Err(Errno::ERANGE), 2), "a frame that version 1 cannot say");
    a.grant_v2(2, b.id, GTF_transitive, 0, 0);
    assert_eq!(set_version(&a, 1), (Err(Errno::ERANGE), 2));
    a.grant_v2(2, b.id, 0, 0, 0);
    assert_eq!(set_version(&a, 1), (Ok(()), 1));
    assert_eq!((a.flags(1), a.frame(1)), (GTF_permit_access, 3));
    drop(room);
    all_back(&m, vec![a, b], free);
    let old = machine(Config { grant_table_v2: false, ..Config::default() });
    assert_eq!(set_version(&pv(&old), 2), (Err(Errno::ENOSYS), 1));
}

#[test]
fn two_entries_change_places_unless_one_is_in_use() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    a.grant(10, b.id, 4, GTF_permit_access | GTF_readonly);
    let swap = |ref_a, ref_b| {
        let mut arg = gnttab_swap_grant_ref { ref_a, ref_b, ..Default::default() };
        op(&a.caller, GNTTABOP_swap_grant_ref, &mut arg).unwrap();
        arg.status
    };
    assert_eq!(swap(9, 10), GNTST_okay);
    assert_eq!((a.frame(9), a.frame(10), a.flags(10)), (4, 3, GTF_permit_access));
    assert_eq!((swap(9, 9), swap(9, 512), swap(512, 9)), (GNTST_okay, GNTST_bad_gntref, GNTST_bad_gntref));
    let room = Room::new(&b, 1);
    let map = b.map(&a, 10, GNTMAP_host_map, room.addr(0)).unwrap();
    assert_eq!((swap(9, 10), swap(10, 9)), (GNTST_eagain, GNTST_eagain));
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    m.assert_clean();
}

#[test]
fn a_translated_guest_puts_its_table_where_it_wants_and_grants_by_itself() {
    use xen_ioreq::abi::memory::*;
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b) = (hvm(&m), pv(&m));
    let v = vcpu(&m, a.id, 0);
    assert_eq!(a.frames(GNTTABOP_setup_table, 1), Ok(vec![u64::MAX]), "it is nowhere yet");
    let mut put = xen_add_to_physmap {
        domid: DomId::SELF.0,
        space: XENMAPSPACE_grant_table,
        gpfn: 50,
        ..Default::default()
    };
    v.memory_op(XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).unwrap();
    assert_eq!(a.frames(GNTTABOP_setup_table, 1), Ok(vec![50]));
    v.ram_write((50 << 12) + 9 * 8 + 4, &3u32.to_le_bytes()).unwrap();
    v.ram_write((50 << 12) + 9 * 8, &(u32::from(b.id.0) << 16 | 1).to_le_bytes()).unwrap();
    let room = Room::new(&b, 1);
    let map = b.map(&a, 9, GNTMAP_host_map, room.addr(0)).unwrap();
    assert_eq!(room.byte(0), 3);
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    assert_eq!(v.decrease_reservation(&[Gfn(50)]), Ok(0), "it is Xen's to give");
    put.idx = u64::from(XENMAPIDX_grant_table_status);
    assert!(v.memory_op(XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).is_err(), "version 1 has none");
    assert_eq!(set_version(&a, 2).0, Ok(()));
    put.gpfn = 51;
    v.memory_op(XENMEM_add_to_physmap, put.as_mut_bytes(), &mut []).unwrap();
    let enosys = i16::try_from(Errno::ENOSYS.0).unwrap();
    assert_eq!(a.frames(GNTTABOP_get_status_frames, 1), Err(enosys), "it knows where it put them");
    assert_eq!(set_version(&a, 1).0, Ok(()), "Xen takes it out of the address space itself");
    assert!(v.ram_read(51 << 12, &mut [0]).is_err());
    drop((room, v));
    all_back(&m, vec![a, b], free);
}

#[test]
fn a_cache_is_flushed_of_what_the_caller_may_use() {
    let m = machine(Config::default());
    let (a, b) = (pv(&m), pv(&m));
    a.grant(9, b.id, 3, GTF_permit_access);
    let frame = m.mfn(a.id, Gfn(3)).unwrap().0;
    let flush = |mfn: u64, offset, length, cache_op| {
        let mut arg = gnttab_cache_flush { a: mfn << 12, offset, length, op: cache_op };
        op(&b.caller, GNTTABOP_cache_flush, &mut arg)
    };
    assert_eq!(flush(frame, 0, 64, GNTTAB_CACHE_CLEAN), Err(Errno::EINVAL));
    assert_eq!(flush(0, 0, 64, GNTTAB_CACHE_CLEAN), Err(Errno::EPERM), "Xen's");
    let room = Room::new(&b, 1);
    let map = b.map(&a, 9, GNTMAP_host_map, room.addr(0)).unwrap();
    assert_eq!(flush(frame, 0, 64, GNTTAB_CACHE_CLEAN), Ok(()));
    assert_eq!(flush(frame, 0, 64, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL), Ok(()));
    assert_eq!(flush(frame, 0, 64, GNTTAB_CACHE_INVAL), Err(Errno::EOPNOTSUPP));
    for unknown in [GNTTAB_CACHE_SOURCE_GREF, GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_SOURCE_GREF, 4] {
        assert_eq!(flush(frame, 0, 0, unknown), Err(Errno::EINVAL), "before anything else");
    }
    assert_eq!((flush(frame, 0, 0, GNTTAB_CACHE_CLEAN), flush(frame, 0, 64, 0)), (Ok(()), Ok(())));
    assert_eq!(flush(frame, 4090, 64, GNTTAB_CACHE_CLEAN), Err(Errno::EINVAL));
    assert_eq!(flush(1 << 30, 0, 64, GNTTAB_CACHE_CLEAN), Err(Errno::EINVAL));
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
}
