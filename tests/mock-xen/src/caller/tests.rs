use xen_ioreq::abi::dm_op::{XEN_DMOP_nr_vcpus, xen_dm_op_nr_vcpus};

use super::*;
use crate::Config;
use crate::testing::{DOM0, GUEST_FRAMES, dm, guest, machine};

#[test]
fn foreign_pages_lie_side_by_side_in_the_order_asked_for_and_holes_are_errors() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    for (gfn, byte) in [(9u64, 0x99), (3, 0x33), (4, 0x44)] {
        m.write_guest(d, gfn << 12, &[byte]).unwrap();
    }
    for prot in [Prot::Read, Prot::ReadWrite] {
        let pages = c.map_foreign(d, &[Gfn(9), Gfn(GUEST_FRAMES), Gfn(3), Gfn(4), Gfn(9)], prot).unwrap();
        assert_eq!(pages.errors, [None, Some(Errno::EINVAL), None, None, None]);
        let at = |i| crate::memory::peek(pages.mapping.page(i).unwrap());
        assert_eq!([at(0), at(2), at(3), at(4)], [0x99, 0x33, 0x44, 0x99]);
        assert_eq!((m.references(d, Gfn(9)), m.references(d, Gfn(3))), (Ok(3), Ok(2)));
    }
    assert_eq!((m.references(d, Gfn(9)), m.references(d, Gfn(3))), (Ok(1), Ok(1)));
    m.assert_clean();
}

#[test]
fn pages_of_a_mapping_are_released_one_by_one() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let mut pages =
        c.map_foreign(d, &[Gfn(9), Gfn(3), Gfn(GUEST_FRAMES)], Prot::ReadWrite).unwrap().into_pages();
    assert_eq!(pages.pop().unwrap().err(), Some(Errno::EINVAL));
    drop(pages.remove(0));
    assert_eq!((m.references(d, Gfn(9)), m.references(d, Gfn(3))), (Ok(1), Ok(2)));
    drop(pages);
    assert_eq!(m.references(d, Gfn(3)), Ok(1));
    m.assert_clean();
}

#[test]
fn mapping_fails_with_the_error_of_each_case() {
    let m = machine(Config::default());
    let (d, other) = (guest(&m, 1), guest(&m, 1));
    let c = m.caller(DOM0).unwrap();
    let map = |c: &dyn ForeignMap, d, gfns: &[Gfn]| c.map_foreign(d, gfns, Prot::Read).map(|_| ()).err();
    assert_eq!(map(&c, DomId(99), &[Gfn(1)]), Some(Errno::ESRCH));
    assert_eq!(map(&c, d, &[]), Some(Errno::EINVAL));
    assert_eq!(map(&m.caller(other).unwrap(), d, &[Gfn(1)]), Some(Errno::EPERM));
    let r = c.restrict(d);
    assert_eq!(map(&r, other, &[Gfn(1)]), Some(Errno::EPERM));
    assert_eq!(map(&r, d, &[Gfn(1)]), None);
    let mut op = xen_dm_op_nr_vcpus::default();
    assert_eq!(dm(&r, other, XEN_DMOP_nr_vcpus, &mut op), Err(Errno::EPERM));
    assert_eq!(dm(&r, d, XEN_DMOP_nr_vcpus, &mut op), Ok(()));
    assert_eq!(r.resource_size(other, 0, 0), Err(Errno::EPERM));
    assert_eq!(r.map_resource(other, 0, 0, 0, 1).err(), Some(Errno::EPERM));
}

#[test]
fn own_frames_are_zeroed_neighbours_in_memory_and_come_back() {
    let m = machine(Config::default());
    let c = m.caller(DOM0).unwrap();
    // What a guest leaves in a frame when it balloons it out, the next owner finds; not so in memory of a kernel's.
    let d = guest(&m, 1);
    m.write_guest(d, 0, &[0x5a]).unwrap();
    assert_eq!(crate::testing::vcpu(&m, d, 0).decrease_reservation(&[Gfn(0)]), Ok(1));
    let free = m.free_frames();
    let own = c.alloc_frames(3).unwrap();
    assert_eq!((own.gfns().len(), own.bytes(), m.free_frames()), (3, 3 * 4096, free - 3));
    assert_eq!(crate::memory::peek(own.ptr()), 0);
    drop(own);
    assert_eq!(m.free_frames(), free);
    assert_eq!(c.alloc_frames(1 << 20).err(), Some(Errno::ENOMEM));
    assert_eq!(c.alloc_frames(0).err(), Some(Errno::EINVAL));
    assert_eq!(m.free_frames(), free);
    m.assert_clean();
}

#[test]
fn physinfo_counts_free_frames_for_dom0_alone() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let info = c.physinfo().unwrap();
    assert_eq!((info.free_pages, info.total_pages), (m.free_frames(), 1024));
    assert_eq!(m.caller(d).unwrap().physinfo().err(), Some(Errno::EPERM));
    let mut op = xen_sysctl { cmd: XEN_SYSCTL_physinfo, interface_version: 1, ..Default::default() };
    assert_eq!(c.sysctl(op.as_mut_bytes()), Err(Errno::EACCES));
    op = xen_sysctl { cmd: 99, interface_version: XEN_SYSCTL_INTERFACE_VERSION, ..Default::default() };
    assert_eq!(c.sysctl(op.as_mut_bytes()), Err(Errno::ENOSYS));
    assert_eq!(c.sysctl(&mut [0; 4]), Err(Errno::EFAULT));
    assert_eq!(m.caller(DomId(99)).err(), Some(Errno::ESRCH));
}
