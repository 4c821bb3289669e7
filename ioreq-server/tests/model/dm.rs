//! Each device-model operation as a device model makes it, seen from the guest or in the machine.

use std::sync::Arc;

use ioreq_server::dm::{CacheAttr, Event, Extent, IsaIrq, MemType, PciLink, Pin, Shutdown};
use ioreq_server::pci::Sbdf;
use ioreq_server::{BufferedMode, Dm, DmError};
use mock_xen::{InjectedEvent, ShutdownReason, VcpuError};
use parking_lot::Mutex;
use xen_ioreq::abi::dm_op as abi;
use xen_ioreq::seam::DmOp;
use xen_ioreq::{DomId, Errno, Gfn, VcpuId};
use zerocopy::FromBytes;

use crate::rig::*;

/// The error of a call that fails.
#[track_caller]
fn refused<T: std::fmt::Debug>(call: Result<T, DmError>) -> Errno {
    call.unwrap_err().errno
}

#[test]
fn levels_of_pins_and_lines_reach_the_interrupts_that_they_are_wired_to() {
    let m = machine();
    let d = guest(&m, 1);
    let dm = connect(&m).dm(d);
    let asserted = || {
        let lines = m.interrupt_lines(d).unwrap();
        (0..48).filter(|gsi| lines.asserted(*gsi)).collect::<Vec<_>>()
    };
    let device = Sbdf::new(0, 0, 3, 0);
    let line = |n| IsaIrq::new(n).unwrap();
    dm.set_pci_intx(device, Pin::B, true).unwrap();
    dm.set_isa_irq(line(4), true).unwrap();
    assert_eq!(asserted(), [4, 29]);
    let link = PciLink::of(device.device(), Pin::B);
    assert_eq!(link.number(), 0);
    dm.set_pci_link_route(link, Some(line(11))).unwrap();
    assert_eq!(asserted(), [4, 11, 29]);
    dm.set_pci_link_route(link, Some(line(10))).unwrap();
    assert_eq!(asserted(), [4, 10, 29], "an asserted line moves along");
    dm.set_pci_intx(device, Pin::B, true).unwrap();
    dm.set_pci_intx(device, Pin::B, false).unwrap();
    assert_eq!(asserted(), [4], "twice the same is once");
    dm.set_isa_irq(line(4), false).unwrap();
    dm.set_pci_link_route(link, None).unwrap();
    assert!(asserted().is_empty());
}

#[test]
fn lines_that_are_not_there_are_refused_before_or_by_xen() {
    let m = machine();
    let d = guest(&m, 1);
    let dm = connect(&m).dm(d);
    assert_eq!((IsaIrq::new(16), PciLink::new(4)), (None, None));
    assert_eq!(refused(dm.set_pci_intx(Sbdf::new(0, 1, 0, 0), Pin::A, true)), Errno::EINVAL);
    assert_eq!(refused(dm.set_pci_intx(Sbdf::new(1, 0, 0, 0), Pin::A, true)), Errno::EINVAL);
    let zero = dm.set_pci_link_route(PciLink::new(0).unwrap(), IsaIrq::new(0));
    assert_eq!(zero.unwrap_err().to_string(), format!("{d}: set_pci_link_route: EINVAL"));
}

#[test]
fn an_msi_for_nobody_and_one_that_is_none_are_refused() {
    let m = machine();
    let d = guest(&m, 1);
    let dm = connect(&m).dm(d);
    assert_eq!(refused(dm.inject_msi(0xfee0_0000, 0)), Errno::ERANGE);
    assert_eq!(refused(dm.inject_msi(0xfee0_0000, 0x541)), Errno::EINVAL);
    assert_eq!(refused(dm.inject_msi(0xfee1_1000, 0x141)), Errno::ESRCH);
}

#[test]
fn events_arrive_as_they_were_injected_one_at_a_time() {
    let m = machine();
    let d = guest(&m, 2);
    let dm = connect(&m).dm(d);
    let v = vcpu(&m, d, 1);
    let none = u32::MAX;
    let was =
        |kind, vector, insn_len, error_code, cr2| InjectedEvent { vector, kind, insn_len, error_code, cr2 };
    for (event, wanted) in [
        (Event::External { vector: 0x31 }, was(0, 0x31, 0, none, 0)),
        (Event::Nmi, was(2, 2, 0, none, 0)),
        (
            Event::Exception { vector: 14, error_code: Some(6), address: 0x1234_5678_9abc },
            was(3, 14, 0, 6, 0x1234_5678_9abc),
        ),
        (Event::Exception { vector: 6, error_code: None, address: 0 }, was(3, 6, 0, none, 0)),
        (Event::Software { vector: 0x80, length: 2 }, was(4, 0x80, 2, none, 0)),
        (Event::SoftwareException { vector: 3, length: 1 }, was(6, 3, 1, none, 0)),
        (Event::Icebp, was(5, 1, 1, none, 0)),
    ] {
        dm.inject_event(VcpuId(1), event).unwrap();
        assert_eq!(refused(dm.inject_event(VcpuId(1), Event::Nmi)), Errno::EBUSY);
        assert_eq!(v.take_event(), Ok(Some(wanted)));
    }
    assert_eq!(refused(dm.inject_event(VcpuId(2), Event::Nmi)), Errno::EINVAL);
}

#[test]
fn frames_that_the_guest_writes_are_found_and_no_others() {
    let m = machine();
    let d = guest(&m, 1);
    let conn = connect(&m);
    let v = vcpu(&m, d, 0);
    let mut vram = conn.dm(d).track_dirty_vram(Gfn(8), 20).unwrap();
    let all: Vec<_> = (8..28).map(Gfn).collect();
    assert_eq!(vram.dirty().unwrap().collect::<Vec<_>>(), all, "at first, all");
    assert_eq!(vram.dirty().unwrap().count(), 0);
    for at in [0x8000, 0x1b_fff, 0x1c000, 0x7000, 0x10_ffe] {
        v.ram_write(at, &[1]).unwrap();
    }
    v.mmio_write(0x11ffc, 8, u64::MAX).unwrap();
    conn.guest_memory(d).write(0x9000, b"by a mapping").unwrap();
    let seen = [0x8, 0x10, 0x11, 0x12, 0x1b].map(Gfn);
    assert_eq!(vram.dirty().unwrap().collect::<Vec<_>>(), seen);
    assert_eq!(vram.dirty().unwrap().count(), 0);
    // Somebody else's tracking takes its place; then nothing is known, so all may have been written.
    let other = conn.dm(d).track_dirty_vram(Gfn(30), 1).unwrap();
    assert_eq!(vram.dirty().unwrap().count(), 20);
    drop((other, vram));
    assert_eq!(refused(conn.dm(d).track_dirty_vram(Gfn(8), 0)), Errno::EINVAL);
    assert_eq!(refused(conn.dm(d).track_dirty_vram(Gfn(0), (1 << 18) + 1)), Errno::EINVAL);
}

#[test]
fn types_of_frames_change_what_the_guests_accesses_do() {
    let m = machine();
    let d = guest(&m, 1);
    let conn = connect(&m);
    let dm = conn.dm(d);
    let v = vcpu(&m, d, 0);
    v.ram_write(0x5000, &[7]).unwrap();
    dm.set_mem_type(Gfn(5), 2, MemType::RamRo).unwrap();
    v.mmio_write(0x5000, 1, 9).unwrap();
    assert_eq!(v.mmio_read(0x5000, 1), Ok(7), "dropped");
    dm.set_mem_type(Gfn(5), 2, MemType::RamRw).unwrap();
    v.mmio_write(0x5000, 1, 9).unwrap();
    assert_eq!(v.mmio_read(0x5000, 1), Ok(9));
    let server = dm.create_server(BufferedMode::Off).unwrap();
    assert_eq!(refused(dm.set_mem_type(Gfn(5), 1, MemType::IoreqServer)), Errno::EINVAL, "nobody's");
    dm.claim_mem_type(server).unwrap();
    assert_eq!(refused(dm.claim_mem_type(server)), Errno::EBUSY);
    dm.set_mem_type(Gfn(5), 1, MemType::IoreqServer).unwrap();
    v.mmio_write(0x5000, 1, 1).unwrap();
    assert_eq!(v.mmio_read(0x5000, 1), Ok(9), "the write went to a server that is not enabled");
    dm.release_mem_type(server).unwrap();
    assert_eq!(refused(dm.release_mem_type(server)), Errno::EINVAL);
    v.mmio_write(0x5000, 1, 1).unwrap();
    assert_eq!(v.mmio_read(0x5000, 1), Ok(1), "RAM again");
    dm.set_mem_type(Gfn(5), 1, MemType::MmioDm).unwrap();
    assert_eq!(v.mmio_read(0x5000, 1), Ok(0xff));
    assert_eq!(refused(dm.set_mem_type(Gfn(5), 1, MemType::RamRw)), Errno::EINVAL, "no way back");
    assert_eq!(refused(dm.set_mem_type(Gfn(5), 0, MemType::RamRw)), Errno::EINVAL);
    assert_eq!(refused(dm.set_mem_type(Gfn(RAM_FRAMES), 1, MemType::RamRw)), Errno::EINVAL);
}

#[test]
fn frames_move_with_their_contents() {
    let m = machine();
    let d = guest(&m, 1);
    let dm = connect(&m).dm(d);
    let v = vcpu(&m, d, 0);
    v.ram_write(0x5000, b"moves").unwrap();
    dm.relocate_memory(Gfn(5), Gfn(0x100), 3).unwrap();
    let mut there = [0; 5];
    v.ram_read(0x10_0000, &mut there).unwrap();
    assert_eq!(&there, b"moves");
    assert_eq!(v.ram_read(0x5000, &mut there), Err(VcpuError::NotRam(0x5000)));
    assert_eq!(refused(dm.relocate_memory(Gfn(5), Gfn(0x200), 1)), Errno::EINVAL);
    m.assert_clean();
}

#[test]
fn caching_is_pinned_and_unpinned_by_the_same_range() {
    let m = machine();
    let d = guest(&m, 1);
    let dm = connect(&m).dm(d);
    dm.pin_cacheattr(Gfn(8), Gfn(15), Some(CacheAttr::WriteCombining)).unwrap();
    assert_eq!(refused(dm.pin_cacheattr(Gfn(8), Gfn(14), None)), Errno::ENOENT);
    assert_eq!(refused(dm.pin_cacheattr(Gfn(9), Gfn(8), Some(CacheAttr::WriteBack))), Errno::EINVAL);
    dm.pin_cacheattr(Gfn(8), Gfn(15), None).unwrap();
}

#[test]
fn a_guest_goes_down_for_the_reason_given_first() {
    let m = machine();
    for (why, wanted) in [
        (Shutdown::Poweroff, ShutdownReason::Poweroff),
        (Shutdown::Reboot, ShutdownReason::Reboot),
        (Shutdown::Suspend, ShutdownReason::Suspend),
        (Shutdown::Crash, ShutdownReason::Crash),
        (Shutdown::Watchdog, ShutdownReason::Other(4)),
        (Shutdown::SoftReset, ShutdownReason::Other(5)),
    ] {
        let d = guest(&m, 3);
        let dm = connect(&m).dm(d);
        assert_eq!(dm.nr_vcpus(), Ok(3));
        dm.shutdown(why).unwrap();
        dm.crash().unwrap();
        assert_eq!(m.domain_info(d).unwrap().shutdown, Some(wanted));
    }
}

/// Keeps what modified_memory was given; fails from the `fail_at`-th call on.
struct Calls {
    seen: Mutex<Vec<Vec<abi::xen_dm_op_modified_memory_extent>>>,
    fail_at: usize,
}

impl DmOp for Calls {
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        assert_eq!(domid, DomId(9));
        let [first, extents] = bufs else { panic!("two buffers") };
        let (head, _) = abi::xen_dm_op::read_from_prefix(first).unwrap();
        assert_eq!((head.op, head.pad), (abi::XEN_DMOP_modified_memory, 0));
        assert!(extents.len() <= 4096, "more than Linux passes on");
        let list = <[abi::xen_dm_op_modified_memory_extent]>::ref_from_bytes(extents).unwrap();
        assert_eq!(head.u[0], list.len() as u64, "as many as it says, and no progress of ours");
        let mut seen = self.seen.lock();
        if seen.len() == self.fail_at {
            return Err(Errno::EINVAL);
        }
        seen.push(list.to_vec());
        Ok(())
    }
}

#[test]
fn modified_extents_go_in_calls_that_the_kernel_passes_on() {
    let extents: Vec<_> = (0..600).map(|i| Extent { first: Gfn(3 * i), frames: i as u32 + 1 }).collect();
    for (fail_at, wanted) in [(9, Ok(())), (1, Err(Errno::EINVAL))] {
        let calls = Arc::new(Calls { seen: Mutex::default(), fail_at });
        let done = Dm::new(calls.clone(), DomId(9)).modified_memory(&extents);
        assert_eq!(done.map_err(|e| e.errno), wanted);
        let seen = calls.seen.lock();
        let lengths: Vec<_> = seen.iter().map(Vec::len).collect();
        assert_eq!(lengths, if wanted.is_ok() { vec![256, 256, 88] } else { vec![256] });
        for (sent, extent) in seen.iter().flatten().zip(&extents) {
            assert_eq!((sent.first_pfn, sent.nr, sent.pad), (extent.first.0, extent.frames, 0));
        }
    }
    let m = machine();
    connect(&m).dm(guest(&m, 1)).modified_memory(&extents).unwrap();
}
