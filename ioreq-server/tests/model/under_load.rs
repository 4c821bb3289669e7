//! Devices and servers that come, move and go while several vCPUs access them: each access has one answer, from the device
//! that was there or from nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ioreq_server::bus::{DeviceId, Window};
use ioreq_server::pci::{Bar, Cf8Latch, ConfigBuilder, Function, PciEndpoint, Sbdf};
use ioreq_server::{Access, Bus, Device, MmioDevice, Notices, Outcome, Region, Space};
use mock_xen::Vcpu;
use xen_ioreq::Gfn;

use crate::rig::*;

const PLUGS: u64 = 0xd000_0000;
const WINDOW: u64 = 0x1000;

/// Reads give its number and the offset; it counts them.
struct Plug {
    number: u64,
    reads: Arc<AtomicU64>,
}

impl Device for Plug {
    fn name(&self) -> &str {
        "plug"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Plug {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Outcome::Ok(self.number << 16 | a.offset)
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

fn plug(bus: &Bus, number: u64, reads: &Arc<AtomicU64>) -> DeviceId {
    let id = bus.attach(Arc::new(Plug { number, reads: reads.clone() }));
    let start = PLUGS + number % 8 * WINDOW;
    let window = Window { space: Space::Mmio, start, last: start + WINDOW - 1, region: Region(0) };
    bus.map(id, window).unwrap();
    id
}

#[test]
fn devices_come_and_go_under_four_vcpus_and_each_read_is_of_the_one_that_was_there() {
    const GENERATIONS: u64 = 60;
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    let reads = Arc::<AtomicU64>::default();
    let mut there: Vec<_> = (0..8).map(|n| plug(&s.bus, n, &reads)).collect();
    let newest = AtomicU64::new(7);
    let answered = meanwhile(
        &m,
        d,
        |v, round, answered: &mut u64| {
            let window = (round + u64::from(v.id().0)) % 8;
            let offset = round % 500 * 8;
            match v.mmio_read(PLUGS + window * WINDOW + offset, 8).unwrap() {
                u64::MAX => {}
                value => {
                    assert_eq!((value & 0xffff, (value >> 16) % 8), (offset, window));
                    assert!(value >> 16 <= newest.load(Ordering::SeqCst), "{value:#x} is not there yet");
                    *answered += 1;
                }
            }
        },
        |all_round| {
            for generation in 1..=GENERATIONS {
                newest.store(generation * 8 + 7, Ordering::SeqCst);
                for slot in 0..8 {
                    s.bus.detach(there[slot as usize]).unwrap();
                    if slot % 3 == 0 {
                        all_round();
                    }
                    there[slot as usize] = plug(&s.bus, generation * 8 + slot, &reads);
                }
                all_round();
            }
        },
    );
    // No answer of a device was lost, none was given twice.
    assert_eq!(answered.iter().sum::<u64>(), reads.load(Ordering::SeqCst));
    assert!(answered.iter().all(|a| *a > GENERATIONS), "{answered:?}");
    let v = vcpu(&m, d, 0);
    for n in 0..8 {
        assert_eq!(v.mmio_read(PLUGS + n * WINDOW + 8, 8), Ok((GENERATIONS * 8 + n) << 16 | 8));
        s.bus.detach(there[n as usize]).unwrap();
        assert_eq!(v.mmio_read(PLUGS + n * WINDOW + 8, 8), Ok(u64::MAX));
    }
}

/// Reads give the BAR and the offset.
struct Offsets;

impl Function for Offsets {
    fn name(&self) -> &str {
        "offsets"
    }
    fn bar_read(&self, a: &Access) -> Outcome<u64> {
        Outcome::Ok(u64::from(a.region.0 + 1) << 16 | a.offset)
    }
    fn bar_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

#[test]
fn bars_moved_by_one_vcpu_while_three_access_them_answer_where_they_are_and_nowhere_else() {
    const FUNCTION: Sbdf = Sbdf::new(0, 0, 4, 0);
    const MOVES: u32 = 150;
    const MEMORY_AT: [u64; 3] = [0xe000_0000, 0xe100_0000, 0x2_0000_0000];
    const PORTS_AT: [u16; 3] = [0xd000, 0xd040, 0xe000];
    let m = machine();
    let d = guest(&m, VCPUS);
    let s = serve(&m, d, Options::default());
    Cf8Latch::attach(&s.bus).unwrap();
    let config = ConfigBuilder::new(1, 1).bar(0, Bar::mem64(1 << 20)).bar(2, Bar::io(64)).build().unwrap();
    PciEndpoint::attach(&s.bus, FUNCTION, config, Arc::new(Offsets)).unwrap();

    let write = |v: &Vcpu, register: u32, value: u32| {
        v.pio_write(0xcf8, 4, 0x8000_0000 | FUNCTION.0 << 8 | register).unwrap();
        v.pio_write(0xcfc, 4, value).unwrap();
    };
    let place = |v: &Vcpu, n: usize, decoding: bool| {
        if !decoding {
            write(v, 4, 0);
        }
        write(v, 0x10, MEMORY_AT[n] as u32);
        write(v, 0x14, (MEMORY_AT[n] >> 32) as u32);
        write(v, 0x18, PORTS_AT[n].into());
        write(v, 4, 3);
    };
    let moved = AtomicU64::new(0);
    // A bit for each reader and space: it has met the function there.
    let met = AtomicU64::new(0);
    meanwhile(
        &m,
        d,
        |v, round, _: &mut ()| {
            if v.id().0 == 0 {
                // As Linux moves them, with decoding off, and as nobody should, with decoding on.
                let n = (round % 3) as usize;
                place(v, n, round % 2 == 0);
                for other in 0..3 {
                    let memory = if other == n { 1 << 16 | 8 } else { u64::MAX };
                    let port = if other == n { 3 << 16 | 4 } else { u32::MAX };
                    assert_eq!(v.mmio_read(MEMORY_AT[other] + 8, 8), Ok(memory));
                    assert_eq!(v.pio_read(PORTS_AT[other] + 4, 4), Ok(port));
                }
                moved.fetch_add(1, Ordering::SeqCst);
                return;
            }
            for n in 0..3 {
                let offset = round % 1000 * 8;
                let got = v.mmio_read(MEMORY_AT[n] + offset, 8).unwrap();
                assert!(got == u64::MAX || got == 1 << 16 | offset, "{got:#x}");
                let port = v.pio_read(PORTS_AT[n] + 8, 4).unwrap();
                assert!(port == u32::MAX || port == 3 << 16 | 8, "{port:#x}");
                let found = u64::from(got != u64::MAX) | u64::from(port != u32::MAX) << 1;
                met.fetch_or(found << (2 * (v.id().0 - 1)), Ordering::SeqCst);
            }
        },
        |all_round| {
            let all = (1 << (2 * (VCPUS - 1))) - 1;
            while moved.load(Ordering::SeqCst) < u64::from(MOVES) || met.load(Ordering::SeqCst) != all {
                all_round();
            }
        },
    );
    assert_eq!(s.stats().panics, 0);
}

/// Counts notices.
#[derive(Default)]
struct Told(AtomicU64);

impl Notices for Told {
    fn invalidate(&self, _: ioreq_server::Invalidation) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_second_server_comes_and_goes_under_load_and_the_first_one_and_all_notices_are_served() {
    const ROUNDS: usize = 40;
    let m = stock_machine();
    let d = guest(&m, VCPUS);
    let told = Arc::new(Told::default());
    let s = serve(&m, d, Options { notices: told.clone(), ..Options::default() });
    Reads::attach(&s.bus, 0xe000_0000, |a| Outcome::Ok(0xa000 | a.offset));
    let counted = meanwhile(
        &m,
        d,
        |v, round, seen: &mut [u64; 3]| {
            let offset = round % 100 * 8;
            assert_eq!(v.mmio_read(0xe000_0000 + offset, 8), Ok(0xa000 | offset));
            let got = v.mmio_read(0xe100_0000 + offset, 8).unwrap();
            assert!(got == 0xb000 | offset || got == u64::MAX || got == 0, "{got:#x}");
            seen[usize::from(got != 0xb000 | offset)] += 1;
            if round % 16 == 0 {
                // A page of its own; its going is told to whatever servers there are, and waits for each.
                let page = [Gfn(8 + u64::from(v.id().0))];
                assert_eq!(v.decrease_reservation(&page), Ok(1));
                assert_eq!(v.populate_physmap(&page), Ok(1));
                seen[2] += 1;
            }
        },
        |all_round| {
            for round in 0..ROUNDS {
                let second = serve(&m, d, Options::default());
                let device = Reads::attach(&second.bus, 0xe100_0000, |a| Outcome::Ok(0xb000 | a.offset));
                all_round();
                if round % 2 == 0 {
                    second.bus.detach(device).unwrap();
                }
                drop(second);
                all_round();
            }
        },
    );
    let sum = |i: usize| counted.iter().map(|c| c[i]).sum::<u64>();
    assert!(sum(0) > 0 && sum(1) > 0, "{counted:?}");
    assert!(told.0.load(Ordering::SeqCst) >= sum(2), "{counted:?}");
    m.assert_clean();
}
