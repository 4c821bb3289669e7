use xen_ioreq::abi::iommu_op::{IOMMUOP_map_foreign_page, IOMMUOP_map_page};
use xen_ioreq::seam::{ForeignMap, MemoryOp, Prot};

use super::*;
use crate::testing::{DOM0, Emulator, GUEST_FRAMES, foreign_op, guest, iommu, machine, unmap_foreign, vcpu};
use crate::{BusAccess, VcpuError};

#[test]
fn a_destroyed_domain_gives_everything_back() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let d = guest(&m, 2);
    let e = Emulator::atomic(&m, d);
    let v = vcpu(&m, d, 0);
    assert_eq!(m.free_frames(), free - GUEST_FRAMES - 2);
    m.destroy_domain(d).unwrap();
    // The emulator still has the two shared pages mapped.
    assert_eq!(
        (m.free_frames(), m.domain_info(d).map(|i| (i.dying, i.tot_pages))),
        (free - 2, Some((true, 0)))
    );
    drop(e);
    assert_eq!((m.free_frames(), m.domain_info(d)), (free, None));
    assert_eq!(v.mmio_read(0, 4), Err(VcpuError::Destroyed));
    assert_eq!(v.decrease_reservation(&[Gfn(1)]), Err(VcpuError::Destroyed));
    assert_eq!(m.destroy_domain(d), Err(Errno::ESRCH));
    assert_eq!(m.destroy_domain(DOM0), Err(Errno::EINVAL));
    m.assert_clean();
}

#[test]
fn a_foreign_mapping_makes_a_zombie_until_it_is_released() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let held = c.map_foreign(d, &[Gfn(1)], Prot::ReadWrite).unwrap();
    m.destroy_domain(d).unwrap();
    assert_eq!(m.domain_info(d).map(|i| (i.dying, i.tot_pages)), Some((true, 1)));
    assert_eq!(m.destroy_domain(d), Ok(()), "again changes nothing");
    assert_eq!(m.populate(d, Gfn(0), 1), Err(Errno::ENOMEM));
    let new = c.map_foreign(d, &[Gfn(1)], Prot::ReadWrite).unwrap();
    assert_eq!(new.error(0), Some(Errno::EINVAL), "its address space is gone");
    drop(held);
    assert_eq!((m.free_frames(), m.domain_info(d)), (free, None));
    m.assert_clean();
}

#[test]
fn a_frame_that_devices_reach_outlives_its_guest_until_it_is_unmapped() {
    let m = machine(Config { fail_fast: true, ..Config::default() });
    let free = m.free_frames();
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    iommu(&e.caller, &mut foreign_op(IOMMUOP_map_foreign_page, 0x10, 5, d, e.id)).unwrap();
    let port = m.bus_port(DOM0, "gpu").unwrap();
    m.destroy_domain(d).unwrap();
    port.unpin(port.pin(xen_ioreq::Bfn(0x10), BusAccess::Write).unwrap());
    assert_eq!(m.domain_info(d).map(|i| (i.dying, i.tot_pages)), Some((true, 1)));
    let mut op = foreign_op(IOMMUOP_map_foreign_page, 0x11, 5, d, e.id);
    assert_eq!(iommu(&e.caller, &mut op), Err(Errno::ENXIO), "no new mapping of a dying domain");
    assert_eq!(unmap_foreign(&e.caller, 0x10, e.id), Ok(()));
    drop(e);
    assert_eq!((m.free_frames(), m.domain_info(d)), (free, None));
    m.assert_clean();
}

#[test]
fn a_frame_put_while_its_domain_is_being_destroyed_is_not_left_in_its_address_space() {
    let m = machine(Config::default());
    let free = m.free_frames();
    let d = guest(&m, 1);
    let domain = m.domain(d).unwrap();
    // Where a destruction stands between its mark and its sweep.
    assert!(domain.begin_death());
    assert_eq!(m.populate(d, Gfn(100), 1), Err(Errno::ESRCH));
    let list = &mut [101];
    let mut arg =
        xen_ioreq::abi::memory::xen_memory_reservation { nr_extents: 1, domid: d.0, ..Default::default() };
    let done = m.caller(DOM0).unwrap().memory_op(6, zerocopy::IntoBytes::as_mut_bytes(&mut arg), list);
    assert_eq!(done, Ok(0));
    assert_eq!(m.free_frames(), free - GUEST_FRAMES);
    assert!(domain.p2m.read().get(Gfn(100)).is_none() && domain.p2m.read().get(Gfn(101)).is_none());
    m.assert_clean();
}

#[test]
fn numbers_of_domains_are_given_in_turn_and_not_twice() {
    let m = machine(Config::default());
    let small = DomainConfig::default();
    assert_eq!(m.create_domain(&small), Ok(DomId(1)));
    assert_eq!(m.create_domain(&DomainConfig { domid: Some(DomId(3)), ..small.clone() }), Ok(DomId(3)));
    assert_eq!(m.create_domain(&small), Ok(DomId(2)));
    assert_eq!(m.create_domain(&small), Ok(DomId(4)));
    m.destroy_domain(DomId(2)).unwrap();
    assert_eq!(m.create_domain(&small), Ok(DomId(5)), "a number is not used again at once");
    for bad in [DomId(0), DomId(3), DomId::SELF] {
        let config = DomainConfig { domid: Some(bad), ..small.clone() };
        assert_eq!(m.create_domain(&config), Err(CreateError::DomId(bad)));
    }
    for vcpus in [0, 129] {
        assert_eq!(m.create_domain(&DomainConfig { vcpus, ..small.clone() }), Err(CreateError::Vcpus(vcpus)));
    }
    let listed: Vec<_> = m.domains().iter().map(|i| i.domid.0).collect();
    assert_eq!(listed, [0, 1, 3, 4, 5]);
}

#[test]
fn a_machine_that_makes_no_sense_is_refused() {
    let err = |c: Config| Machine::new(c).err();
    let bad = Config { frames: 8, xen_frames: 8, ..Config::default() };
    assert_eq!(err(bad), Some(CreateError::Frames { frames: 8, xen: 8 }));
    assert_eq!(err(Config { bfn_bits: 37, ..Config::default() }), Some(CreateError::BfnBits(37)));
    assert_eq!(err(Config { bfn_bits: 14, ..Config::default() }), Some(CreateError::BfnBits(14)));
}

#[test]
fn guest_memory_is_read_and_written_across_pages_by_the_toolstack() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    m.write_guest(d, 0x1ffe, &[1, 2, 3, 4]).unwrap();
    let mut out = [0; 4];
    m.read_guest(d, 0x1ffe, &mut out).unwrap();
    assert_eq!(out, [1, 2, 3, 4]);
    assert_eq!(m.write_guest(d, (GUEST_FRAMES << 12) - 1, &[0; 2]), Err(Errno::EINVAL));
    assert_eq!(m.read_guest(DomId(99), 0, &mut out), Err(Errno::ESRCH));
}

#[test]
fn what_only_a_device_still_reached_of_a_destroyed_domain_is_cleared_as_well() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let stub = DomainConfig { hvm: false, target: Some(d), device_assigned: true, ..DomainConfig::default() };
    let stub = m.create_domain(&stub).unwrap();
    let c = m.caller(stub).unwrap();
    let own = c.alloc_frames(1).unwrap();
    let mfn = Mfn(own.gfns()[0].0);
    iommu(&c, &mut foreign_op(IOMMUOP_map_page, 0x10, mfn.0, stub, 0)).unwrap();
    drop(own);
    m.memory().page(mfn).unwrap().write(0, &[0x5a]);
    m.destroy_domain(stub).unwrap();
    assert_eq!(m.memory().page(mfn).unwrap().read_scalar(0, 1), 0);
    m.assert_clean();
}
