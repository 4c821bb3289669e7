//! Accesses of every kind, from a vCPU to a device and back.

use ioreq_server::{BufferedMode, Space};
use xen_ioreq::PAGE_SIZE;

use crate::rig::*;

#[test]
fn every_width_reads_back_what_was_written() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    let value = 0x8877_6655_4433_2211u64;
    for size in [1, 2, 4, 8] {
        let want = value & (u64::MAX >> (64 - 8 * size));
        v.mmio_write(MEMORY + 0x10, size, value).unwrap();
        assert_eq!(v.mmio_read(MEMORY + 0x10, size), Ok(want));
        if size < 8 {
            v.pio_write(PORTS + 0x20, size, value as u32).unwrap();
            assert_eq!(v.pio_read(PORTS + 0x20, size), Ok(want as u32));
        }
    }
    let stats = s.stats();
    assert_eq!((stats.mmio, stats.pio, stats.malformed, stats.unclaimed), (8, 6, 0, 0));
}

#[test]
fn what_nobody_claims_reads_all_ones_and_the_guest_goes_on() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    assert_eq!(v.mmio_read(MEMORY + SIZE, 4), Ok(0xffff_ffff));
    assert_eq!(v.pio_read(0x80, 1), Ok(0xff));
    // Across the end of the range: Xen finds no server for it.
    assert_eq!(v.mmio_read(MEMORY + SIZE - 2, 2), Ok(0));
    assert_eq!(v.pio_read(PORTS + 0xfe, 4), Ok(u32::MAX));
}

#[test]
fn string_instructions_go_up_and_down() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let cells = Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    let data: Vec<u8> = (0..64).map(|i| i ^ 0x5a).collect();
    v.ram_write(0x2000, &data).unwrap();

    // rep movs to MMIO, then back to elsewhere, upwards and downwards.
    v.rep_mmio(MEMORY, 4, false, 0x2000, 16, false).unwrap();
    let mut back = vec![0; 64];
    v.rep_mmio(MEMORY, 4, true, 0x3000, 16, false).unwrap();
    v.ram_read(0x3000, &mut back).unwrap();
    assert_eq!(back, data);
    v.rep_mmio(MEMORY + 60, 4, true, 0x4000 + 60, 16, true).unwrap();
    v.ram_read(0x4000, &mut back).unwrap();
    assert_eq!(back, data);

    // rep outs of 2 bytes to one port: the last item stays; downwards it is the first.
    cells.log.lock().clear();
    v.rep_pio(PORTS, 2, false, 0x2000, 8, false).unwrap();
    let items: Vec<_> = cells.log.lock().iter().map(|l| l.4 as u16).collect();
    let want: Vec<_> = data[..16].chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    assert_eq!(items, want);
    v.rep_pio(PORTS, 2, true, 0x5010, 4, true).unwrap();
    let mut ins = [0; 8];
    v.ram_read(0x500a, &mut ins).unwrap();
    assert_eq!(ins, [data[14], data[15]].repeat(4)[..]);
}

#[test]
fn string_instruction_into_a_ballooned_page_does_not_stop_the_guest() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    v.decrease_reservation(&[xen_ioreq::Gfn(3)]).unwrap();
    // The model's vCPU refuses the instruction itself; what reaches us in spite of that is for the unit tests.
    assert!(v.rep_mmio(MEMORY, 4, true, 3 * PAGE_SIZE as u64, 4, false).is_err());
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
}

#[test]
fn buffered_writes_come_before_the_sync_access_that_follows_them() {
    for mode in [BufferedMode::Atomic, BufferedMode::Legacy, BufferedMode::Off] {
        let m = machine();
        let d = guest(&m, 1);
        let s = serve(&m, d, Options { mode, ..Options::default() });
        let cells = Cells::attach(&s.bus);
        let v = vcpu(&m, d, 0);
        for round in 0..200u64 {
            for i in 0..8 {
                v.mmio_write(0xa_0000 + 8 * i, if i % 2 == 0 { 4 } else { 8 }, round * 100 + i).unwrap();
            }
            assert_eq!(v.mmio_read(0xa_0038, 8), Ok(round * 100 + 7));
        }
        let log = cells.log.lock();
        let writes: Vec<_> = log.iter().filter(|l| !l.1).map(|l| l.4).collect();
        let want: Vec<_> = (0..200).flat_map(|r| (0..8).map(move |i| r * 100 + i)).collect();
        assert_eq!(writes, want, "{mode:?}");
        assert!(log.iter().all(|l| l.0 == Space::Mmio));
        let buffered = s.stats().buffered;
        // Without a ring all are sync; with one, only those that found it full.
        if mode == BufferedMode::Off {
            assert_eq!(buffered, 0)
        } else {
            assert!(buffered > 0)
        }
        assert_eq!(s.stats().ring_faults, 0);
    }
}

#[test]
fn many_vcpus_at_once_each_get_their_own_answers() {
    let m = machine();
    let d = guest(&m, 16);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    std::thread::scope(|t| {
        for id in 0..16 {
            let m = &m;
            t.spawn(move || {
                let v = vcpu(m, d, id);
                let at = MEMORY + u64::from(id) * 8;
                for i in 0..300u64 {
                    let value = u64::from(id) << 32 | i;
                    v.mmio_write(at, 8, value).unwrap();
                    assert_eq!(v.mmio_read(at, 8), Ok(value));
                }
            });
        }
    });
    assert_eq!(s.stats().mmio, 16 * 600);
}
