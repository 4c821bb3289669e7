use xen_ioreq::abi::dm_op::*;
use xen_ioreq::abi::hvm_op::{
    HVMMEM_ioreq_server, HVMMEM_mmio_dm, HVMMEM_ram_ro, HVMMEM_ram_rw, HVMMEM_unused,
};
use xen_ioreq::{Gfn, VcpuId};

use super::*;
use crate::testing::{
    DOM0, Emulator, GUEST_FRAMES, create_server, dm, guest, machine, map_range, scope, set_state, vcpu,
};
use crate::{Caller, Config, DomainConfig, ShutdownReason, VcpuError};
use xen_ioreq::abi::ioreq::{STATE_IOREQ_NONE, STATE_IORESP_READY};
use xen_ioreq::seam::{DmOp, PausedDmOp, ResourceMap};
use zerocopy::IntoBytes;

fn destroy(c: &Caller, d: DomId, id: u16) -> Result<(), Errno> {
    dm(c, d, XEN_DMOP_destroy_ioreq_server, &mut xen_dm_op_destroy_ioreq_server { id, pad: 0 })
}

fn info(c: &Caller, d: DomId, id: u16, flags: u16) -> Result<xen_dm_op_get_ioreq_server_info, Errno> {
    let mut data = xen_dm_op_get_ioreq_server_info { id, flags, ..Default::default() };
    dm(c, d, XEN_DMOP_get_ioreq_server_info, &mut data).map(|()| data)
}

fn set_type(c: &Caller, d: DomId, first_pfn: u64, nr: u32, mem_type: u16) -> Result<(), Errno> {
    dm(c, d, XEN_DMOP_set_mem_type, &mut xen_dm_op_set_mem_type { nr, mem_type, pad: 0, first_pfn })
}

fn claim_type(c: &Caller, d: DomId, id: u16, flags: u32) -> Result<(), Errno> {
    let mut data = xen_dm_op_map_mem_type_to_ioreq_server {
        id,
        r#type: HVMMEM_ioreq_server,
        flags,
        ..Default::default()
    };
    dm(c, d, XEN_DMOP_map_mem_type_to_ioreq_server, &mut data)
}

fn msi(c: &Caller, d: DomId, addr: u64, data: u32) -> Result<(), Errno> {
    dm(c, d, XEN_DMOP_inject_msi, &mut xen_dm_op_inject_msi { data, pad: 0, addr })
}

#[test]
fn framing_fails_in_the_order_of_xen_s_checks() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let pv = m.create_domain(&DomainConfig { hvm: false, ..Default::default() }).unwrap();
    let (c, unprivileged) = (m.caller(DOM0).unwrap(), m.caller(pv).unwrap());
    let mut a = [0u8; 32];
    a[..4].copy_from_slice(&XEN_DMOP_nr_vcpus.to_le_bytes());
    let (mut b, mut e) = ([0u8; 4], [0u8; 4]);
    assert_eq!(c.dm_op(DomId(99), &mut [&mut a, &mut b, &mut e]), Err(Errno::E2BIG));
    assert_eq!(c.dm_op(DomId(99), &mut [&mut a]), Err(Errno::ESRCH));
    assert_eq!(c.dm_op(DOM0, &mut [&mut a]), Err(Errno::EPERM), "the caller itself");
    assert_eq!(c.dm_op(DomId::SELF, &mut [&mut a]), Err(Errno::ESRCH));
    assert_eq!(c.dm_op(pv, &mut [&mut a]), Err(Errno::EINVAL), "not a guest of that kind");
    assert_eq!(unprivileged.dm_op(d, &mut [&mut a]), Err(Errno::EPERM));
    assert_eq!(c.dm_op(d, &mut []), Err(Errno::ENODATA));
    assert_eq!(c.dm_op(d, &mut [&mut a[..7]]), Err(Errno::EFAULT));
    assert_eq!(c.dm_op(d, &mut [&mut a[..11]]), Err(Errno::EFAULT), "shorter than the operation");
    assert_eq!(c.dm_op(d, &mut [&mut a[..12]]), Ok(()), "exactly as long");
    a[4] = 1;
    assert_eq!(c.dm_op(d, &mut [&mut a]), Err(Errno::EINVAL), "pad");
    a[..4].copy_from_slice(&21u32.to_le_bytes());
    assert_eq!(c.dm_op(d, &mut [&mut a]), Err(Errno::EOPNOTSUPP), "before pad");
    for op in [0u32, 19, 21, u32::MAX] {
        a[..8].copy_from_slice(&u64::from(op).to_le_bytes());
        assert_eq!(c.dm_op(d, &mut [&mut a]), Err(Errno::EOPNOTSUPP), "op {op}");
    }
}

#[test]
fn there_are_eight_servers_and_the_first_free_number_is_taken() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    assert_eq!(create_server(&c, d, 3), Err(Errno::EINVAL));
    for i in 0..8 {
        assert_eq!(create_server(&c, d, 2), Ok(i));
    }
    assert_eq!(create_server(&c, d, 2), Err(Errno::ENOSPC));
    destroy(&c, d, 3).unwrap();
    assert_eq!(destroy(&c, d, 3), Err(Errno::ENOENT));
    assert_eq!(create_server(&c, d, 0), Ok(3));
}

#[test]
fn a_server_is_its_emulator_s_alone() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let stub = DomainConfig { hvm: false, target: Some(d), ..Default::default() };
    let stub = m.create_domain(&stub).unwrap();
    let (c, other) = (m.caller(DOM0).unwrap(), m.caller(stub).unwrap());
    let id = create_server(&c, d, 2).unwrap();
    assert_eq!(info(&other, d, id, XEN_DMOP_no_gfns).err(), Some(Errno::EPERM));
    assert_eq!(map_range(&other, d, id, 0, 1, 1), Err(Errno::EPERM));
    assert_eq!(set_state(&other, d, id, true), Err(Errno::EPERM));
    assert_eq!(destroy(&other, d, id), Err(Errno::EPERM));
    assert_eq!(claim_type(&other, d, id, 2), Err(Errno::EPERM));
    assert_eq!(other.map_resource(d, 0, u32::from(id), 0, 2).err(), Some(Errno::EPERM));
    for id in [7, 8, u16::MAX] {
        assert_eq!(info(&c, d, id, XEN_DMOP_no_gfns).err(), Some(Errno::ENOENT));
        assert_eq!(map_range(&c, d, id, 0, 1, 1), Err(Errno::ENOENT));
        assert_eq!(set_state(&c, d, id, true), Err(Errno::ENOENT));
        assert_eq!(claim_type(&c, d, id, 2), Err(Errno::ENOENT));
    }
}

#[test]
fn ranges_fail_with_the_error_of_each_case() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let id = create_server(&c, d, 2).unwrap();
    let range = |op, ty, start, end, pad| {
        let mut data = xen_dm_op_ioreq_server_range { id, pad, r#type: ty, start, end };
        dm(&c, d, op, &mut data)
    };
    let (map, unmap) = (XEN_DMOP_map_io_range_to_ioreq_server, XEN_DMOP_unmap_io_range_from_ioreq_server);
    assert_eq!(range(map, 1, 0x1000, 0x1fff, 0), Ok(()));
    assert_eq!(range(map, 1, 0x1fff, 0x2000, 0), Err(Errno::EEXIST));
    assert_eq!(range(map, 0, 0x1fff, 0x2000, 0), Ok(()), "another type");
    assert_eq!(range(map, 1, 0x3001, 0x3000, 0), Err(Errno::EINVAL));
    assert_eq!(range(map, 3, 0, 1, 0), Err(Errno::EINVAL));
    assert_eq!(range(map, 1, 0x5000, 0x5fff, 1), Err(Errno::EINVAL), "pad");
    assert_eq!(range(unmap, 1, 0x1800, 0x2000, 0), Err(Errno::ENOENT));
    assert_eq!(range(unmap, 1, 0x1800, 0x18ff, 0), Ok(()));
}

#[test]
fn the_shared_pages_are_a_resource_that_belongs_to_the_guest_without_counting_against_it() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let (with, without) = (create_server(&c, d, 1).unwrap(), create_server(&c, d, 0).unwrap());
    let (free, tot) = (m.free_frames(), m.domain_info(d).unwrap().tot_pages);
    assert_eq!(c.resource_size(d, 0, 77), Ok(2));
    assert_eq!(c.resource_size(d, 2, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!([0, 1, 2].map(|id| c.resource_size(d, 1, id)), [Ok(64), Ok(8), Ok(0)], "grant table");
    assert_eq!(c.resource_size(d, 99, 0), Ok(0xffff_ffa1), "an error that Xen takes for a size");
    let both = c.map_resource(d, 0, u32::from(with), 0, 2).unwrap();
    assert_eq!((m.free_frames(), m.domain_info(d).unwrap().tot_pages), (free - 2, tot));
    assert_eq!(both.pages(), 2);
    assert_eq!(c.map_resource(d, 0, u32::from(without), 0, 1).err(), Some(Errno::ENOENT), "no ring");
    assert!(c.map_resource(d, 0, u32::from(without), 1, 1).is_ok());
    assert_eq!(c.map_resource(d, 0, u32::from(with), 2, 1).err(), Some(Errno::EINVAL));
    assert_eq!(c.map_resource(d, 0, u32::from(with), u32::MAX, 2).err(), Some(Errno::EINVAL));
    assert_eq!(c.map_resource(d, 0, 5, 0, 1).err(), Some(Errno::ENOENT));
    destroy(&c, d, with).unwrap();
    destroy(&c, d, without).unwrap();
    assert_eq!(m.free_frames(), free - 2, "the mapping still holds them");
    drop(both);
    assert_eq!(m.free_frames(), free);
    m.assert_clean();
}

#[test]
fn get_info_tells_the_port_of_the_ring_and_has_no_frames_to_offer() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let (with, without) = (create_server(&c, d, 1).unwrap(), create_server(&c, d, 0).unwrap());
    assert_ne!(info(&c, d, with, XEN_DMOP_no_gfns).unwrap().bufioreq_port, 0);
    assert_eq!(info(&c, d, without, XEN_DMOP_no_gfns).unwrap().bufioreq_port, 0);
    assert_eq!(info(&c, d, with, 2).err(), Some(Errno::EINVAL));
    assert_eq!(info(&c, d, with, 0).err(), Some(Errno::ENOMEM));
    let _mapped = c.map_resource(d, 0, u32::from(with), 1, 1).unwrap();
    assert_eq!(info(&c, d, with, 0).err(), Some(Errno::EPERM));
}

#[test]
fn an_msi_reaches_the_vcpus_that_it_names_and_ends_their_halt() {
    let m = machine(Config::default());
    let d = guest(&m, 2);
    let c = m.caller(DOM0).unwrap();
    let (v0, v1) = (vcpu(&m, d, 0), vcpu(&m, d, 1));
    msi(&c, d, 0xfeef_f000, 0x40).unwrap();
    assert_eq!(msi(&c, d, 0xfeef_f000, 0x140), Err(Errno::ESRCH), "local APICs are off at first");
    assert_eq!((v0.take_interrupt().unwrap(), v1.take_interrupt().unwrap()), (None, None));
    msi(&c, d, 0xfee0_2000, 0x41).unwrap();
    assert_eq!((v0.take_interrupt().unwrap(), v1.take_interrupt().unwrap()), (None, Some(0x41)));
    for data in [0x30, 0xf0, 0x30] {
        msi(&c, d, 0xfee0_0000, data).unwrap();
    }
    let taken: Vec<_> = (0..3).map(|_| v0.take_interrupt().unwrap()).collect();
    assert_eq!(taken, [Some(0xf0), Some(0x30), None], "highest first, and twice the same is once");
    msi(&c, d, 0xfeef_f000, 0x50).unwrap();
    assert_eq!((v0.take_interrupt().unwrap(), v1.take_interrupt().unwrap()), (Some(0x50), Some(0x50)));
    msi(&c, d, 0xfeef_f000, 0x151).unwrap();
    assert_eq!((v0.take_interrupt().unwrap(), v1.take_interrupt().unwrap()), (Some(0x51), None));
    assert_eq!(msi(&c, d, 0xfee0_0000, 0), Err(Errno::ERANGE), "an event channel of number 0");
    assert_eq!(msi(&c, d, 0xfee0_5000, 0), Ok(()), "an event channel that nobody has bound");
    assert_eq!(msi(&c, d, 0xfee0_0000, 0x440), Err(Errno::EINVAL), "NMI");
    assert_eq!(msi(&c, d, 0xfee0_9000, 0x150), Err(Errno::ESRCH), "lowest priority of nobody");
    assert_eq!(msi(&c, d, 0xfee0_0000, 0xf), Ok(()), "no such vector: dropped");
    assert_eq!(v0.take_interrupt().unwrap(), None);
    scope(&m, d, |s| {
        let halted = s.spawn(move || v0.wait_interrupt(None));
        msi(&c, d, 0xfee0_0000, 0x60).unwrap();
        assert_eq!(halted.join().unwrap(), Ok(Some(0x60)));
    });
    assert_eq!(v1.wait_interrupt(Some(std::time::Duration::ZERO)), Ok(None));
}

#[test]
fn writes_to_a_protected_page_go_to_the_server_that_claimed_the_type_and_reads_do_not() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let (e, other) = (Emulator::atomic(&m, d), Emulator::atomic(&m, d));
    let c = &e.caller;
    assert_eq!(set_type(c, d, 5, 1, HVMMEM_ioreq_server), Err(Errno::EINVAL), "nobody claims it");
    assert_eq!(claim_type(c, d, e.id, 1), Err(Errno::EINVAL), "reads are not forwarded");
    assert_eq!(claim_type(c, d, e.id, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE), Ok(()));
    assert_eq!(claim_type(c, d, other.id, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE), Err(Errno::EBUSY));
    assert_eq!(claim_type(c, d, other.id, 0), Err(Errno::EINVAL));
    set_type(c, d, 5, 1, HVMMEM_ioreq_server).unwrap();
    m.write_guest(d, 0x5008, &[7]).unwrap();
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let guest = s.spawn(move || {
            assert_eq!(v.mmio_read(0x5008, 1), Ok(7));
            v.mmio_write(0x5008, 4, 0x99).unwrap();
            v.ram_write(0x5008, &[1; 9]).unwrap();
            v.rep_mmio(0x5000, 4, false, 0x7000, 3, false).unwrap();
            assert_eq!(v.mmio_read(0x5008, 1), Ok(7), "it is for the server to write");
            v
        });
        let seen = e.serve(6, |_| 0);
        let seen: Vec<_> = seen.iter().map(|r| (r.r#type, r.addr, r.data, r.size, r.count)).collect();
        let ones = 0x0101_0101_0101_0101;
        assert_eq!(
            seen,
            [
                (1, 0x5008, 0x99, 4, 1),
                (1, 0x5008, ones, 8, 1),
                (1, 0x5010, 1, 1, 1),
                (1, 0x5000, 0, 4, 1),
                (1, 0x5004, 0, 4, 1),
                (1, 0x5008, 0, 4, 1)
            ]
        );
        let v = guest.join().unwrap();
        // Giving the type up makes ordinary RAM of its pages.
        claim_type(&e.caller, d, e.id, 0).unwrap();
        v.mmio_write(0x5008, 4, 0x77).unwrap();
        assert_eq!(v.mmio_read(0x5008, 4), Ok(0x77));
    });
}

/// A guest writes to a frame of a server's, then reads a port: what comes of the read. `let_go` answers the write, and makes RAM of the
/// frame. `scheduled`: the vCPU is paused between the two.
fn read_after_a_write(scheduled: bool, let_go: impl FnOnce(&Emulator, &dyn Fn())) -> Result<u32, VcpuError> {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    claim_type(&e.caller, d, e.id, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE).unwrap();
    set_type(&e.caller, d, 5, 1, HVMMEM_ioreq_server).unwrap();
    let (v, machine) = (vcpu(&m, d, 0), m.clone());
    std::thread::scope(|s| {
        let guest = s.spawn(move || {
            v.mmio_write(0x5008, 4, 0x99)?;
            assert_eq!(v.mmio_read(0x5008, 4), Ok(0x99));
            if scheduled {
                machine.pause(d).unwrap();
                machine.unpause(d).unwrap();
            }
            v.pio_read(0x1234, 4)
        });
        let ram = || {
            let data = xen_dm_op_set_mem_type { nr: 1, mem_type: HVMMEM_ram_rw, pad: 0, first_pfn: 5 };
            let mut op = xen_dm_op { op: XEN_DMOP_set_mem_type, ..Default::default() };
            data.write_to_prefix(op.u.as_mut_bytes()).unwrap();
            assert_eq!(e.caller.paused_dm_op(d, &mut [op]), Ok(vec![Ok(())]));
        };
        loop {
            e.sleep();
            if e.take(0).is_some() {
                break;
            }
        }
        m.write_guest(d, 0x5008, &[0x99]).unwrap();
        let_go(&e, &ram);
        guest.join().unwrap()
    })
}

#[test]
fn frame_that_becomes_ram_before_its_write_is_answered_leaves_the_answer_over_and_crashes_the_domain() {
    let read = read_after_a_write(false, |e, _| {
        set_type(&e.caller, e.domid, 5, 1, HVMMEM_ram_rw).unwrap();
        e.answer(0, 0);
    });
    assert_eq!(read, Err(VcpuError::Stopped(ShutdownReason::Crash)));
    // Paused or not.
    let read = read_after_a_write(false, |e, ram| {
        ram();
        e.answer(0, 0);
    });
    assert_eq!(read, Err(VcpuError::Stopped(ShutdownReason::Crash)));
}

#[test]
fn frame_that_becomes_ram_in_a_pause_once_the_answer_has_been_taken_leaves_nothing_over() {
    let read = read_after_a_write(false, |e, ram| {
        e.answer(0, 0);
        while e.slot_state(0) != STATE_IOREQ_NONE {
            std::thread::yield_now();
        }
        ram();
    });
    assert_eq!(read, Ok(u32::MAX));
}

#[test]
fn answer_that_was_left_over_is_forgotten_when_the_vcpu_is_scheduled_anew() {
    let read = read_after_a_write(true, |e, ram| {
        ram();
        e.answer(0, 0);
    });
    assert_eq!(read, Ok(u32::MAX));
}

#[test]
fn paused_vcpu_does_not_come_back_for_its_answer() {
    let read = read_after_a_write(false, |e, ram| {
        e.caller.machine().pause(e.domid).unwrap();
        e.answer(0, 0);
        ram();
        assert_eq!(e.slot_state(0), STATE_IORESP_READY);
        e.caller.machine().unpause(e.domid).unwrap();
    });
    assert_eq!(read, Err(VcpuError::Stopped(ShutdownReason::Crash)), "what it comes back to is RAM");
}

#[test]
fn write_to_a_frame_of_the_type_that_nobody_claims_is_tried_until_it_is_ram_or_somebody_does() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let dead = Emulator::atomic(&m, d);
    claim_type(&dead.caller, d, dead.id, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE).unwrap();
    set_type(&dead.caller, d, 5, 2, HVMMEM_ioreq_server).unwrap();
    destroy(&dead.caller, d, dead.id).unwrap();
    let e = Emulator::atomic(&m, d);
    let c = &e.caller;
    assert_eq!(claim_type(c, d, e.id, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE), Err(Errno::EBUSY), "two are left");
    set_type(c, d, 6, 1, HVMMEM_ram_rw).unwrap();
    assert_eq!(claim_type(c, d, e.id, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE), Err(Errno::EBUSY), "one is left");
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let (tell, told) = std::sync::mpsc::channel();
        let guest = s.spawn(move || {
            tell.send(()).unwrap();
            v.mmio_write(0x5000, 4, 0x33).unwrap();
            v.mmio_read(0x5000, 4)
        });
        told.recv().unwrap();
        assert!(!guest.is_finished());
        set_type(c, d, 5, 1, HVMMEM_ram_rw).unwrap();
        assert_eq!(guest.join().unwrap(), Ok(0x33));
    });
    assert_eq!(claim_type(c, d, e.id, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE), Ok(()));
}

#[test]
fn types_change_only_as_xen_allows() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let c = &e.caller;
    let v = vcpu(&m, d, 0);
    v.mmio_write(0x5000, 4, 0x11).unwrap();
    set_type(c, d, 5, 1, HVMMEM_ram_ro).unwrap();
    v.mmio_write(0x5000, 4, 0x22).unwrap();
    assert_eq!(v.mmio_read(0x5000, 4), Ok(0x11), "the write was dropped");
    claim_type(c, d, e.id, 2).unwrap();
    assert_eq!(set_type(c, d, 5, 1, HVMMEM_ioreq_server), Err(Errno::EINVAL), "from read-only");
    set_type(c, d, 5, 1, HVMMEM_mmio_dm).unwrap();
    assert_eq!(v.mmio_read(0x5000, 4), Ok(0xffff_ffff));
    assert_eq!(set_type(c, d, 5, 1, HVMMEM_ram_rw), Err(Errno::EINVAL), "no way back");
    for (first, nr, ty) in
        [(0, 0, 0), (GUEST_FRAMES, 1, 0), (u64::MAX, 2, 0), (1, 1, HVMMEM_unused), (1, 1, 5)]
    {
        assert_eq!(set_type(c, d, first, nr, ty), Err(Errno::EINVAL), "{first:#x} {nr} {ty}");
    }
}

#[test]
fn interrupt_lines_keep_their_levels_and_refuse_what_does_not_exist() {
    let m = machine(Config::default());
    let config = DomainConfig { legacy_interrupts: true, ..DomainConfig::default() };
    let d = m.create_domain(&config).unwrap();
    let c = m.caller(DOM0).unwrap();
    let intx = |domain, bus, device, intx, level| {
        let mut data = xen_dm_op_set_pci_intx_level { domain, bus, device, intx, level };
        dm(&c, d, XEN_DMOP_set_pci_intx_level, &mut data)
    };
    let isa = |isa_irq, level| {
        dm(&c, d, XEN_DMOP_set_isa_irq_level, &mut xen_dm_op_set_isa_irq_level { isa_irq, level })
    };
    let link = |link, isa_irq| {
        dm(&c, d, XEN_DMOP_set_pci_link_route, &mut xen_dm_op_set_pci_link_route { link, isa_irq })
    };
    assert_eq!([intx(0, 0, 2, 1, 1), isa(5, 1), link(2, 11)], [Ok(()); 3]);
    {
        let domain = m.domain(d).unwrap();
        let lines = domain.interrupts.lock().lines;
        assert_eq!((lines.intx, lines.isa, lines.link_route), ([0, 4, 0, 0], 1 << 5, [0, 0, 11, 0]));
    }
    // INTB of device 2 is GSI 16 + 9, and its link is number 3, which goes nowhere.
    let asserted = |m: &Machine| {
        let lines = m.interrupt_lines(d).unwrap();
        (0..64).filter(|gsi| lines.asserted(*gsi)).collect::<Vec<_>>()
    };
    assert_eq!(asserted(&m), [5, 25]);
    assert_eq!(link(3, 10), Ok(()));
    assert_eq!(asserted(&m), [5, 10, 25]);
    assert_eq!([intx(0, 0, 2, 1, 0), isa(5, 0)], [Ok(()); 2]);
    assert_eq!(m.interrupt_lines(d).unwrap().intx, [0; 4]);
    let bad = [
        intx(1, 0, 2, 1, 1),
        intx(0, 1, 2, 1, 1),
        intx(0, 0, 32, 1, 1),
        intx(0, 0, 2, 4, 1),
        intx(0, 0, 2, 1, 2),
    ];
    assert_eq!(bad, [Err(Errno::EINVAL); 5]);
    assert_eq!([isa(16, 0), isa(5, 2), link(4, 5), link(0, 16)], [Err(Errno::EINVAL); 4]);
}

#[test]
fn the_number_of_vcpus_is_told_and_a_remote_shutdown_stops_them() {
    let m = machine(Config::default());
    let d = guest(&m, 3);
    let c = m.caller(DOM0).unwrap();
    let mut data = xen_dm_op_nr_vcpus::default();
    dm(&c, d, XEN_DMOP_nr_vcpus, &mut data).unwrap();
    assert_eq!(data.vcpus, 3);
    let v = m.vcpu(d, VcpuId(2)).unwrap();
    dm(&c, d, XEN_DMOP_remote_shutdown, &mut xen_dm_op_remote_shutdown { reason: 3 }).unwrap();
    assert_eq!(v.mmio_read(0, 4), Err(VcpuError::Stopped(crate::ShutdownReason::Crash)));
}

#[test]
fn stdvga_writes_go_by_the_ring_and_by_the_slot_when_it_is_full() {
    let m = machine(Config::default());
    let d = m.create_domain(&DomainConfig { stdvga: true, ..Default::default() }).unwrap();
    let e = Emulator::atomic(&m, d);
    e.claim(1, 0xa_0000, 0xb_ffff);
    let v = vcpu(&m, d, 0);
    v.mmio_write(0xa_bcde, 2, 0x1234).unwrap();
    let seen = e.take_buffered();
    assert_eq!(seen.len(), 1);
    let b = seen[0];
    assert_eq!((b.r#type, b.read(), b.size(), b.addr(), b.data), (1, false, 2, 0xa_bcde, 0x1234));
    e.fill_ring();
    scope(&m, d, |s| {
        let guest = s.spawn(move || {
            v.mmio_write(0xa_0000, 1, 0x55).unwrap();
            v.mmio_read(0xa_0000, 1)
        });
        let seen = e.serve(2, |_| 0x66);
        assert_eq!((seen[0].addr, seen[0].data), (0xa_0000, 0x55));
        assert_eq!(guest.join().unwrap(), Ok(0x66));
    });
}

fn relocate(c: &Caller, d: DomId, src_gfn: u64, dst_gfn: u64, size: u32) -> Result<(), Errno> {
    dm(c, d, XEN_DMOP_relocate_memory, &mut xen_dm_op_relocate_memory { size, pad: 0, src_gfn, dst_gfn })
}

#[test]
fn relocated_memory_keeps_its_frames_and_contents_and_frees_what_was_in_its_way() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let before = [m.mfn(d, Gfn(2)).unwrap(), m.mfn(d, Gfn(3)).unwrap()];
    m.write_guest(d, 0x2ffe, b"over").unwrap();
    let free = m.free_frames();
    assert_eq!(relocate(&c, d, 2, 0xf_0000, 2), Ok(()));
    assert_eq!([m.mfn(d, Gfn(0xf_0000)).unwrap(), m.mfn(d, Gfn(0xf_0001)).unwrap()], before);
    assert!(m.mfn(d, Gfn(2)).is_err());
    let mut seen = [0; 4];
    m.read_guest(d, 0xf000_0ffe, &mut seen).unwrap();
    assert_eq!((&seen, m.free_frames()), (b"over", free));

    assert_eq!(relocate(&c, d, 0xf_0000, 4, 2), Ok(()));
    assert_eq!(
        (m.mfn(d, Gfn(5)).unwrap(), m.free_frames()),
        (before[1], free + 2),
        "4 and 5 were in its way"
    );
    assert_eq!(relocate(&c, d, 5, 4, 1), Ok(()));
    assert_eq!(relocate(&c, d, 4, 4, 1), Ok(()), "where it is");
    assert_eq!((m.mfn(d, Gfn(4)).unwrap(), m.free_frames()), (before[1], free + 3));
    m.assert_clean();
}

#[test]
fn relocation_stops_at_a_hole_with_einval_and_what_came_before_has_moved() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let mfn = m.mfn(d, Gfn(GUEST_FRAMES - 1)).unwrap();
    assert_eq!(relocate(&c, d, GUEST_FRAMES - 1, 0x1000, 2), Err(Errno::EINVAL));
    assert_eq!(m.mfn(d, Gfn(0x1000)), Ok(mfn));
    assert_eq!(relocate(&c, d, 0x1000, u64::MAX, 2), Err(Errno::EINVAL), "no such place");
    assert_eq!(m.mfn(d, Gfn(0x1000)), Ok(mfn));
    assert_eq!(relocate(&c, d, 0x2000, 0x3000, 0), Ok(()), "nothing");
    m.assert_clean();
}

#[test]
fn relocation_beyond_the_last_frame_number_is_refused_before_anything_moves() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let before = m.mfn(d, Gfn(8));
    assert_eq!(relocate(&c, d, 8, u64::MAX, 1), Err(Errno::EINVAL));
    assert_eq!(relocate(&c, d, 8, u64::MAX - 1, 2), Err(Errno::EOVERFLOW));
    assert_eq!(relocate(&c, d, u64::MAX, 8, 1), Err(Errno::EOVERFLOW));
    let mut padded = xen_dm_op_relocate_memory { size: 1, pad: 1, src_gfn: 8, dst_gfn: 9 };
    assert_eq!(dm(&c, d, XEN_DMOP_relocate_memory, &mut padded), Err(Errno::EINVAL));
    assert_eq!(m.mfn(d, Gfn(8)), before);
    m.destroy_domain(d).unwrap();
    m.assert_clean();
}

fn track(c: &Caller, d: DomId, first_pfn: u64, nr: u32, bitmap: &mut [u8]) -> Result<(), Errno> {
    let mut whole = xen_dm_op { op: XEN_DMOP_track_dirty_vram, ..Default::default() };
    xen_dm_op_track_dirty_vram { nr, pad: 0, first_pfn }.write_to_prefix(whole.u.as_mut_bytes()).unwrap();
    c.dm_op(d, &mut [whole.as_mut_bytes(), bitmap])
}

#[test]
fn tracked_frames_are_all_written_at_first_and_then_those_that_the_guest_has_written() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let v = vcpu(&m, d, 0);
    let mut bits = [0u8; 2];
    let mut look = |first, nr| track(&c, d, first, nr, &mut bits).map(|()| bits);
    assert_eq!(look(4, 10), Ok([0xff, 0xff]), "the rest of the last byte too");
    assert_eq!(look(4, 10), Ok([0, 0]));
    v.ram_write(0x5ffe, &[1; 4]).unwrap();
    v.mmio_write(0xd000, 4, 7).unwrap();
    assert_eq!(v.mmio_read(0x5ffe, 4), Ok(0x0101_0101), "the writes arrive");
    v.mmio_write(0x3000, 4, 7).unwrap();
    m.write_guest(d, 0x8000, &[1]).unwrap();
    assert_eq!(look(4, 10), Ok([0b110, 0b10]), "frames 5, 6 and 13; not another's, nor those outside");
    assert_eq!(look(4, 10), Ok([0, 0]));
    // A frame that was ballooned out and in is RAM anew, and so counts as written.
    let mfn = m.domain(d).unwrap().p2m.write().remove(Gfn(7)).unwrap();
    assert_eq!(look(4, 10), Ok([0, 0]), "a hole is not");
    m.domain(d).unwrap().put(Gfn(7), mfn).unwrap();
    assert_eq!(look(4, 10), Ok([0b1000, 0]));
    assert_eq!(look(5, 9), Ok([0xff, 0xff]), "another range begins anew");
    v.mmio_write(0x4000, 4, 7).unwrap();
    assert_eq!(look(5, 9), Ok([0, 0]), "and the old one is not tracked any more");
    assert_eq!(look(0, 0), Ok([0, 0]));
    assert_eq!(look(5, 9), Ok([0xff, 0xff]), "stopped and begun");
}

#[test]
fn tracking_fails_in_the_order_of_xen_s_checks() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let mut data = xen_dm_op_track_dirty_vram { nr: 1, pad: 0, first_pfn: 4 };
    assert_eq!(dm(&c, d, XEN_DMOP_track_dirty_vram, &mut data), Err(Errno::EINVAL), "no second buffer");
    assert_eq!(track(&c, d, 4, 9, &mut [0]), Err(Errno::EINVAL), "a short one");
    assert_eq!(track(&c, d, 4, (1 << 18) + 1, &mut [0; 1 << 16]), Err(Errno::EINVAL));
    assert_eq!(track(&c, d, 0, 1 << 18, &mut [0; 1 << 15]), Ok(()), "1 GiB");
    assert_eq!(track(&c, d, 0, 0, &mut []), Ok(()), "to stop takes no bits");
}

#[test]
fn an_event_waits_for_its_vcpu_and_another_for_that_one() {
    let m = machine(Config::default());
    let d = guest(&m, 2);
    let c = m.caller(DOM0).unwrap();
    let inject = |vcpuid, vector, pad0, pad1| {
        let mut data = xen_dm_op_inject_event {
            vcpuid,
            vector,
            r#type: XEN_DMOP_EVENT_hw_exc,
            pad0,
            error_code: 2,
            pad1,
            cr2: 0xdead,
            ..Default::default()
        };
        dm(&c, d, XEN_DMOP_inject_event, &mut data)
    };
    let v = vcpu(&m, d, 1);
    assert_eq!(v.take_event(), Ok(None));
    assert_eq!(inject(1, 14, 0, 0), Ok(()));
    assert_eq!(inject(1, 13, 0, 0), Err(Errno::EBUSY));
    assert_eq!(inject(0, 13, 0, 0), Ok(()), "another vCPU");
    let event = v.take_event().unwrap().unwrap();
    assert_eq!((event.vector, event.kind, event.error_code, event.cr2), (14, 3, 2, 0xdead));
    assert_eq!(inject(1, 13, 0, 0), Ok(()));
    assert_eq!([inject(2, 13, 0, 0), inject(0, 13, 1, 0), inject(0, 13, 0, 1)], [Err(Errno::EINVAL); 3]);
}

#[test]
fn caching_is_pinned_by_ranges_that_do_not_overlap() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let pin = |start, end, r#type| {
        let mut data = xen_dm_op_pin_memory_cacheattr { start, end, r#type, pad: 0 };
        dm(&c, d, XEN_DMOP_pin_memory_cacheattr, &mut data)
    };
    let (wc, delete) = (XEN_DMOP_MEM_CACHEATTR_WC, XEN_DMOP_DELETE_MEM_CACHEATTR);
    assert_eq!(pin(4, 7, wc), Ok(()));
    assert_eq!(pin(4, 7, XEN_DMOP_MEM_CACHEATTR_WB), Ok(()), "changed");
    assert_eq!(pin(7, 9, wc), Err(Errno::EBUSY));
    assert_eq!(pin(4, 6, delete), Err(Errno::ENOENT));
    assert_eq!(pin(4, 7, delete), Ok(()));
    assert_eq!(pin(4, 7, delete), Err(Errno::ENOENT));
    assert_eq!([pin(5, 4, wc), pin(0, 1 << 40, wc), pin(4, 7, 2)], [Err(Errno::EINVAL); 3]);
    assert!((0..64).all(|i| pin(i, i, wc) == Ok(())));
    assert_eq!(pin(64, 64, wc), Err(Errno::ENOSPC));
}

#[test]
fn modified_memory_takes_two_buffers_and_looks_at_none_while_nothing_is_logged() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    let mut data = xen_dm_op_modified_memory { nr_extents: 1, opaque: 0 };
    assert_eq!(dm(&c, d, XEN_DMOP_modified_memory, &mut data), Err(Errno::EINVAL));
    let mut whole = xen_dm_op { op: XEN_DMOP_modified_memory, ..Default::default() };
    data.write_to_prefix(whole.u.as_mut_bytes()).unwrap();
    assert_eq!(c.dm_op(d, &mut [whole.as_mut_bytes(), &mut []]), Ok(()));
}
