use super::*;

fn table(total: usize) -> FrameTable {
    let memory = Arc::new(HostMemory::new(total).unwrap());
    let mut t = FrameTable::new(memory, Arc::new(Oracle::new(false)), total, 1);
    t.open_account(DomId(1), 3);
    t
}

#[test]
fn a_frame_is_freed_with_its_last_reference_and_charged_until_then() {
    let mut t = table(8);
    let before = t.free_count();
    let m = t.allocate(DomId(1), true).unwrap();
    t.hold(m, Hold::HostMap(DomId(0))).unwrap();
    assert!(t.release(m, Hold::Allocation));
    assert_eq!((t.free_count(), t.account(DomId(1)).unwrap().charged), (before - 1, 1));
    assert!(t.release(m, Hold::HostMap(DomId(0))));
    assert_eq!((t.free_count(), t.account(DomId(1)).unwrap().charged), (before, 0));
    assert_eq!(t.audit(), Vec::<String>::new());
}

#[test]
fn allocation_stops_at_the_limit_and_a_frame_that_does_not_count_passes_it() {
    let mut t = table(8);
    for _ in 0..3 {
        t.allocate(DomId(1), true).unwrap();
    }
    assert_eq!(t.allocate(DomId(1), true), Err(Errno::ENOMEM));
    assert!(t.allocate(DomId(1), false).is_ok());
    assert_eq!(t.audit(), Vec::<String>::new());
}

#[test]
fn a_reference_cannot_be_dropped_twice() {
    let mut t = table(8);
    let m = t.allocate(DomId(1), true).unwrap();
    let e = M2b { bfn: Bfn(9), by: DomId(0), ioserver: 0 };
    t.hold(m, Hold::M2b(e)).unwrap();
    assert!(t.release(m, Hold::M2b(e)));
    assert!(!t.release(m, Hold::M2b(e)));
    assert!(!t.release(m, Hold::HostMap(DomId(0))));
    assert!(t.release(m, Hold::Allocation));
    assert!(!t.release(m, Hold::Allocation));
}

#[test]
fn nobody_can_hold_a_free_frame_or_one_of_xen() {
    let mut t = table(8);
    assert_eq!(t.hold(Mfn(0), Hold::HostMap(DomId(0))), Err(Errno::EINVAL));
    assert_eq!(t.hold(Mfn(5), Hold::HostMap(DomId(0))), Err(Errno::EINVAL));
    assert_eq!(t.hold(Mfn(1 << 40), Hold::HostMap(DomId(0))), Err(Errno::EINVAL));
}

#[test]
fn a_dying_domain_is_reaped_with_its_last_frame() {
    let mut t = table(8);
    let m = t.allocate(DomId(1), true).unwrap();
    t.hold(m, Hold::HostMap(DomId(0))).unwrap();
    t.relinquish(DomId(1));
    assert!(t.reaped.is_empty());
    assert_eq!(t.allocate(DomId(1), true), Err(Errno::ENOMEM));
    t.release(m, Hold::HostMap(DomId(0)));
    assert_eq!(t.reaped, vec![DomId(1)]);
    assert!(t.account(DomId(1)).is_none());
    assert_eq!(t.audit(), Vec::<String>::new());
}

#[test]
fn contents_outlive_a_balloon_and_not_their_domain() {
    let mut t = table(8);
    let left_by = |t: &mut FrameTable, dies: bool| {
        t.open_account(DomId(2), 3);
        let m = t.allocate(DomId(2), true).unwrap();
        t.memory.page(m).unwrap().write(0, &[0x5a]);
        if dies {
            t.relinquish(DomId(2))
        } else {
            assert!(t.release(m, Hold::Allocation))
        }
        m
    };
    let seen = |t: &mut FrameTable, charged| {
        let m = t.allocate(DomId(1), charged).unwrap();
        let mut byte = [0xff];
        t.memory.page(m).unwrap().read(0, &mut byte);
        assert!(t.release(m, Hold::Allocation));
        (m, byte[0])
    };
    let m = left_by(&mut t, false);
    assert_eq!(seen(&mut t, true), (m, 0x5a));
    assert_eq!(seen(&mut t, false), (m, 0), "a frame of Xen's making");
    let m = left_by(&mut t, true);
    assert_eq!(seen(&mut t, true), (m, 0));
}

#[test]
fn books_that_do_not_add_up_are_told() {
    let mut t = table(8);
    let m = t.allocate(DomId(1), true).unwrap();
    t.frame_mut(m).unwrap().host_maps += 1;
    assert_eq!(t.audit().len(), 1);
    t.frame_mut(m).unwrap().host_maps -= 1;
    t.free.pop();
    assert_eq!(t.audit().len(), 1);
}

#[test]
fn what_grants_write_is_no_page_table_and_a_page_table_is_not_written() {
    let mut t = table(8);
    let m = t.allocate(DomId(1), true).unwrap();
    let [read, write] = [Access::Read, Access::Write].map(|a| Hold::Grant(GrantUse::Host, DomId(2), a));
    t.hold(m, write).unwrap();
    assert_eq!(t.hold(m, Hold::Table), Err(Errno::EBUSY));
    assert!(t.release(m, write));
    t.hold(m, Hold::Table).unwrap();
    assert_eq!((t.hold(m, write), t.hold(m, Hold::Table)), (Err(Errno::EBUSY), Err(Errno::EBUSY)));
    t.hold(m, read).unwrap();
    assert_eq!((t.refs(m), t.granted(m).writing, t.audit()), (3, 0, Vec::<String>::new()));
    t.relinquish(DomId(1));
    assert_eq!((t.refs(m), t.is_table(m)), (1, false), "a dead domain has no page tables");
    assert!(t.release(m, read));
    assert_eq!(t.reaped, vec![DomId(1)]);
}

#[test]
fn a_page_table_that_is_written_is_told() {
    let mut t = table(8);
    let m = t.allocate(DomId(1), true).unwrap();
    t.hold(m, Hold::Grant(GrantUse::Host, DomId(2), Access::Write)).unwrap();
    t.frame_mut(m).unwrap().table = true;
    t.frame_mut(m).unwrap().refs += 1;
    assert_eq!(t.audit().len(), 1);
}
