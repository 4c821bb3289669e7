use super::*;
use crate::testing::vcpu;

fn transfer(from: &Dom, mfn: u64, to: DomId, reference: u32) -> i16 {
    let mut arg = gnttab_transfer { mfn, domid: to.0, r#ref: reference, ..Default::default() };
    op(&from.caller, GNTTABOP_transfer, &mut arg).unwrap();
    arg.status
}

#[test]
fn a_frame_changes_its_owner_with_what_is_in_it() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b, c) = (pv(&m), pv(&m), hvm(&m));
    let mfn = m.mfn(a.id, Gfn(3)).unwrap();
    b.grant(9, a.id, 0, GTF_accept_transfer);
    assert_eq!(transfer(&a, 3, b.id, 9), GNTST_okay);
    let done = GTF_accept_transfer | GTF_transfer_committed | GTF_transfer_completed;
    assert_eq!((b.flags(9), u64::from(b.frame(9))), (done, mfn.0));
    assert_eq!((m.frame(mfn).unwrap().owner, b.byte(mfn.0 << 12)), (Some(b.id), 3));
    let pages = |d: DomId| m.domain_info(d).unwrap().tot_pages;
    assert_eq!((pages(a.id), pages(b.id)), (FRAMES - 1, FRAMES + 1));
    assert_eq!(transfer(&a, 4, b.id, 9), GNTST_general_error, "it is done already, and the frame is lost");
    assert_eq!(pages(a.id), FRAMES - 2);
    m.assert_clean();
    // A translated receiver says where.
    let toolstack = m.caller(DomId(0)).unwrap();
    let table = xen_ioreq::seam::ResourceMap::map_resource(&toolstack, c.id, 1, 0, 0, 1).unwrap();
    let page = Page::of_mapping(&table, 0);
    page.u32(8 * 9 + 4).store(200, Ordering::Relaxed);
    page.u32(8 * 9).store(u32::from(GTF_accept_transfer) | u32::from(a.id.0) << 16, Ordering::Release);
    assert_eq!(transfer(&a, 5, c.id, 9), GNTST_okay);
    let mut seen = [0];
    vcpu(&m, c.id, 0).ram_read(200 << 12, &mut seen).unwrap();
    assert_eq!(seen, [5]);
    drop(table);
    all_back(&m, vec![a, b, c], free);
}

#[test]
fn what_the_giver_keeps_and_what_it_loses() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let (a, b, c) = (pv(&m), pv(&m), hvm(&m));
    let pages = |d: DomId| m.domain_info(d).unwrap().tot_pages;
    b.grant(9, a.id, 0, GTF_accept_transfer);
    a.grant(9, b.id, 4, GTF_permit_access);
    let room = Room::new(&b, 1);
    let map = b.map(&a, 9, GNTMAP_host_map, room.addr(0)).unwrap();
    for (gfn, why) in [(999, "no frame"), (4, "somebody has it mapped")] {
        assert_eq!(transfer(&a, gfn, b.id, 9), GNTST_bad_page, "{why}");
    }
    assert_eq!((pages(a.id), pages(c.id)), (FRAMES, FRAMES));
    assert_eq!(b.unmap(map.handle, room.addr(0), 0), GNTST_okay);
    b.grant(10, a.id, 0, GTF_accept_transfer | GTF_readonly);
    b.grant(11, c.id, 0, GTF_accept_transfer);
    for (i, (to, reference, status)) in (0..).zip([
        (DomId(99), 9, GNTST_bad_domain),
        (b.id, 8, GNTST_general_error),
        (b.id, 10, GNTST_general_error),
        (b.id, 11, GNTST_general_error),
        (b.id, 512, GNTST_general_error),
    ]) {
        assert_eq!(transfer(&a, i, to, reference), status);
        assert_eq!(pages(a.id), FRAMES - 1 - i);
    }
    m.set_max_pages(b.id, FRAMES).unwrap();
    assert_eq!(transfer(&a, 6, b.id, 9), GNTST_general_error, "it may have no more");
    assert_eq!((b.flags(9), b.flags(10)), (GTF_accept_transfer, GTF_accept_transfer | GTF_readonly));
    drop(room);
    all_back(&m, vec![a, b, c], free);
}
