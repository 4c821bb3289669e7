use xen_ioreq::abi::dm_op::{
    XEN_DMOP_IO_RANGE_MEMORY, XEN_DMOP_IO_RANGE_PCI, XEN_DMOP_IO_RANGE_PORT, XEN_DMOP_inject_msi, pci_sbdf,
    xen_dm_op_inject_msi,
};

use super::*;
use crate::testing::{Emulator, GUEST_FRAMES, guest, machine, scope, vcpu};
use crate::{Config, DomainConfig, Vcpu};

/// An emulator in this thread, the guest's code in another.
fn run<R: Send>(
    e: &Emulator,
    requests: usize,
    v: &mut Vcpu,
    code: impl FnOnce(&Vcpu) -> R + Send,
) -> (Vec<xen_ioreq::abi::ioreq::ioreq>, R) {
    let (m, d) = (v.machine.clone(), v.domain.id);
    scope(&m, d, |s| {
        let guest = s.spawn(move || code(v));
        let seen = e.serve(requests, |r| 0x1234_5678_9abc_def0 ^ r.addr);
        (seen, guest.join().unwrap())
    })
}

#[test]
fn port_and_memory_accesses_go_to_the_server_that_claims_them_and_bring_its_answer() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x101f);
    e.claim(XEN_DMOP_IO_RANGE_MEMORY, 0xfe00_0000, 0xfe00_0fff);
    let mut v = vcpu(&m, d, 0);
    let (seen, got) = run(&e, 4, &mut v, |v| {
        v.pio_write(0x1004, 2, 0xffff_4321).unwrap();
        let a = v.pio_read(0x1008, 1).unwrap();
        v.mmio_write(0xfe00_0010, 8, 0x55).unwrap();
        (a, v.mmio_read(0xfe00_0018, 4).unwrap())
    });
    let short =
        |r: &xen_ioreq::abi::ioreq::ioreq| (r.r#type, r.addr, r.size, r.count, r.bits & 0x20 != 0, r.data);
    assert_eq!(
        seen.iter().map(short).collect::<Vec<_>>(),
        [
            (0, 0x1004, 2, 1, false, 0x4321),
            (0, 0x1008, 1, 1, true, 0),
            (1, 0xfe00_0010, 8, 1, false, 0x55),
            (1, 0xfe00_0018, 4, 1, true, 0),
        ]
    );
    assert_eq!(got, (0xf8, 0x9abc_def0 ^ 0xfe00_0018));
    m.assert_clean();
}

#[test]
fn what_nobody_claims_reads_all_ones_and_an_access_across_the_end_of_a_range_is_nobodys() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1001);
    e.claim(XEN_DMOP_IO_RANGE_MEMORY, 0xfe00_0000, 0xfe00_0003);
    let v = vcpu(&m, d, 0);
    assert_eq!(v.pio_read(0x1000, 4).unwrap(), u32::MAX);
    assert_eq!(v.pio_read(0x2000, 1).unwrap(), 0xff);
    assert_eq!(v.mmio_read(0xfe00_0000, 8).unwrap(), u64::MAX);
    v.mmio_write(0xfe00_0002, 4, 1).unwrap();
    assert!(e.take(0).is_none());
    assert_eq!(v.pio_read(0x1000, 3), Err(VcpuError::Size(3)));
    assert_eq!(v.pio_read(0x1000, 8), Err(VcpuError::Size(8)));
}

#[test]
fn the_highest_server_number_wins_among_those_that_are_enabled() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let (low, high) = (Emulator::atomic(&m, d), Emulator::atomic(&m, d));
    for e in [&low, &high] {
        e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1003);
    }
    let mut v = vcpu(&m, d, 0);
    run(&high, 1, &mut v, |v| v.pio_read(0x1000, 4).unwrap());
    crate::testing::set_state(&high.caller, d, high.id, false).unwrap();
    run(&low, 1, &mut v, |v| v.pio_read(0x1000, 4).unwrap());
}

#[test]
fn a_configuration_cycle_goes_to_the_server_of_that_function_and_to_nobody_else() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let sbdf = pci_sbdf(0, 0, 2, 0);
    e.claim(XEN_DMOP_IO_RANGE_PCI, u64::from(sbdf), u64::from(sbdf));
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0xcf8, 0xcff);
    let mut v = vcpu(&m, d, 0);
    let (seen, _) = run(&e, 5, &mut v, |v| {
        v.pio_write(0xcf8, 4, 0x8000_1010).unwrap();
        v.pio_read(0xcfe, 2).unwrap();
        // Not registered: nobody's, although the ports are claimed.
        v.pio_write(0xcf8, 4, 0x8000_1810).unwrap();
        assert_eq!(v.pio_read(0xcfc, 4).unwrap(), u32::MAX);
        // Disabled: plain ports again. A write of two bytes does not reach the latch.
        v.pio_write(0xcf8, 4, 0x0000_1010).unwrap();
        v.pio_read(0xcfc, 4).unwrap();
    });
    let short: Vec<_> = seen.iter().map(|r| (r.r#type, r.addr)).collect();
    assert_eq!(short, [(0, 0xcf8), (2, u64::from(sbdf) << 32 | 0x12), (0, 0xcf8), (0, 0xcf8), (0, 0xcfc)]);
}

#[test]
fn ram_is_read_and_written_in_place_across_pages_and_a_hole_is_told() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let v = vcpu(&m, d, 0);
    let data: Vec<u8> = (0..6000).map(|i| u8::try_from(i % 251).unwrap()).collect();
    v.ram_write(0x1f00, &data).unwrap();
    let mut back = vec![0; 6000];
    v.ram_read(0x1f00, &mut back).unwrap();
    assert_eq!(data, back);
    v.mmio_write(0x2ffe, 4, 0xaabb_ccdd).unwrap();
    assert_eq!(v.mmio_read(0x2ffe, 4).unwrap(), 0xaabb_ccdd);
    let end = GUEST_FRAMES << 12;
    assert_eq!(v.ram_write(end - 4, &[0; 8]), Err(VcpuError::NotRam(end)));
    // The part without RAM is an access that nobody claims.
    v.mmio_write(end - 4, 8, 0).unwrap();
    assert_eq!(v.mmio_read(end - 4, 8).unwrap(), 0xffff_ffff_0000_0000);
}

#[test]
fn string_accesses_carry_a_pointer_and_are_cut_at_pages() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1003);
    e.claim(XEN_DMOP_IO_RANGE_MEMORY, 0xfe00_0000, 0xfe00_ffff);
    let mut v = vcpu(&m, d, 0);
    m.write_guest(d, 0x1ffc, &[1, 2, 3, 4]).unwrap();
    let (seen, _) = run(&e, 7, &mut v, |v| {
        v.rep_mmio(0xfe00_0010, 4, false, 0x2004, 3, true).unwrap();
        v.rep_pio(0x1000, 4, true, 0x1ff8, 4, false).unwrap();
        v.rep_pio(0x1000, 4, true, 0x1ffe, 2, false).unwrap();
    });
    let short: Vec<_> = seen.iter().map(|r| (r.r#type, r.addr, r.data, r.count, r.bits & 0x70)).collect();
    assert_eq!(
        short,
        [
            // Downwards the first element of a page goes alone, and the last of all by its value.
            (1, 0xfe00_0010, 0x2004, 1, 0x50),
            (1, 0xfe00_000c, 0x2000, 1, 0x50),
            (1, 0xfe00_0008, 0x0403_0201, 1, 0),
            (0, 0x1000, 0x1ff8, 2, 0x30),
            (0, 0x1000, 0x2000, 2, 0x30),
            // An element across two pages goes alone.
            (0, 0x1000, 0x1ffe, 1, 0x30),
            (0, 0x1000, 0, 1, 0x20),
        ]
    );
    assert_eq!(v.mmio_read(0x2002, 4).unwrap(), 0x9abc_def0 ^ 0x1000, "the value that came back");
    v.rep_pio(0x3000, 2, true, 0x100, 2, false).unwrap();
    assert_eq!(v.mmio_read(0x100, 4).unwrap(), 0xffff_ffff, "unclaimed");
    assert_eq!(v.rep_pio(0x1000, 4, true, 1 << 40, 1, false), Err(VcpuError::NotRam(1 << 40)));
}

#[test]
fn the_destruction_of_its_server_completes_a_request_with_zero_at_the_next_event() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let other = Emulator::atomic(&m, d);
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1003);
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let guest = s.spawn(move || v.pio_read(0x1000, 4));
        e.sleep();
        assert!(e.take(0).is_some());
        let mut data = xen_ioreq::abi::dm_op::xen_dm_op_destroy_ioreq_server { id: e.id, pad: 0 };
        crate::testing::dm(&e.caller, d, 6, &mut data).unwrap();
        // Neither this nor an interrupt wakes it.
        let mut interrupt = xen_dm_op_inject_msi { addr: 0xfee0_0000, data: 0x41, pad: 0 };
        crate::testing::dm(&e.caller, d, XEN_DMOP_inject_msi, &mut interrupt).unwrap();
        // One that were woken would be done by then; one that is not is never mistaken for it.
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!guest.is_finished());
        other.event(0);
        assert_eq!(guest.join().unwrap(), Ok(0));
    });
    m.assert_clean();
}

#[test]
fn the_destruction_of_its_domain_ends_a_wait_with_an_error() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1003);
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let guest = s.spawn(move || {
            let first = v.pio_read(0x1000, 4);
            (first, v.pio_read(0x1000, 4))
        });
        e.sleep();
        m.destroy_domain(d).unwrap();
        let (first, second) = guest.join().unwrap();
        // Either the server or the domain was seen to go first.
        assert!(matches!(first, Ok(0) | Err(VcpuError::Destroyed)), "{first:?}");
        assert_eq!(second, Err(VcpuError::Destroyed));
    });
}

#[test]
fn a_vcpu_that_looks_before_it_sleeps_has_its_answers_and_its_end_like_any_other() {
    for patience in [Duration::from_nanos(1), Duration::from_micros(20), Duration::from_secs(3600)] {
        let m = machine(Config::default());
        let config = DomainConfig { vcpu_patience: patience, ..DomainConfig::default() };
        let d = m.create_domain(&config).unwrap();
        let e = Emulator::atomic(&m, d);
        e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1003);
        let mut v = vcpu(&m, d, 0);
        run(&e, 100, &mut v, |v| (0..100).for_each(|_| assert_eq!(v.pio_read(0x1000, 2), Ok(0xcef0))));
        let ended = scope(&m, d, |s| {
            let guest = s.spawn(move || v.pio_read(0x1000, 2));
            while e.take(0).is_none() {
                std::thread::yield_now();
            }
            m.destroy_domain(d).unwrap();
            guest.join().unwrap()
        });
        // Either the server or the domain was seen to go first.
        assert!(matches!(ended, Ok(0) | Err(VcpuError::Destroyed)), "{ended:?}");
        m.assert_clean();
    }
}

#[test]
fn an_emulator_that_writes_an_unknown_state_crashes_its_guest() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1003);
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let guest = s.spawn(move || v.pio_read(0x1000, 4));
        e.sleep();
        e.set_slot_state(0, 7);
        assert_eq!(guest.join().unwrap(), Err(VcpuError::Stopped(ShutdownReason::Crash)));
    });
}

#[test]
fn a_slot_that_is_not_free_crashes_the_guest_that_would_use_it() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    e.claim(XEN_DMOP_IO_RANGE_PORT, 0x1000, 0x1003);
    e.set_slot_state(0, 2);
    let v = vcpu(&m, d, 0);
    assert_eq!(v.pio_read(0x1000, 4), Err(VcpuError::Stopped(ShutdownReason::Crash)));
    assert_eq!(m.domain_info(d).unwrap().shutdown, Some(ShutdownReason::Crash));
}

#[test]
fn a_paused_guest_goes_on_when_it_is_unpaused() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    m.pause(d).unwrap();
    let v = vcpu(&m, d, 0);
    scope(&m, d, |s| {
        let guest = s.spawn(move || v.mmio_read(0, 4));
        m.unpause(d).unwrap();
        assert_eq!(guest.join().unwrap(), Ok(0));
    });
    assert_eq!(m.unpause(d), Err(Errno::EINVAL));
}

#[test]
fn a_vcpu_has_one_handle_at_a_time() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let v = vcpu(&m, d, 0);
    assert_eq!(m.vcpu(d, VcpuId(0)).err(), Some(Errno::EBUSY));
    assert_eq!(m.vcpu(d, VcpuId(1)).err(), Some(Errno::ENOENT));
    drop(v);
    assert!(m.vcpu(d, VcpuId(0)).is_ok());
}
