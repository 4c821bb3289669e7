//! A PCI function as a guest finds, sizes, places and uses it.

use std::sync::Arc;
use std::time::Duration;

use ioreq_server::dm::Pin;
use ioreq_server::pci::{
    Bar, Cf8Latch, ConfigBuilder, Delivery, Ecam, Function, Msi, MsixPlace, MsixTable, PciEndpoint, Sbdf,
    host_bridge,
};
use ioreq_server::{Access, Outcome};
use mock_xen::Vcpu;
use parking_lot::Mutex;

use crate::rig::*;

struct Scratch(Mutex<Vec<(u32, u64, u64)>>);

impl Function for Scratch {
    fn name(&self) -> &str {
        "scratch"
    }
    fn bar_read(&self, a: &Access) -> Outcome<u64> {
        Outcome::Ok(u64::from(a.region.0) << 16 | a.offset)
    }
    fn bar_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.0.lock().push((a.region.0, a.offset, value));
        Outcome::Ok(())
    }
}

const GPU: Sbdf = Sbdf::new(0, 0, 2, 0);

fn endpoint(s: &Serving) -> Arc<PciEndpoint> {
    let config = ConfigBuilder::new(0x8086, 0x1616)
        .class(3, 0, 0)
        .bar(0, Bar::mem64(16 << 20))
        .bar(2, Bar::mem64(256 << 20).prefetchable())
        .bar(4, Bar::io(64))
        .msi(0x90, Msi::new())
        .build()
        .unwrap();
    PciEndpoint::attach(&s.bus, GPU, config, Arc::new(Scratch(Mutex::default()))).unwrap()
}

fn select(v: &Vcpu, sbdf: Sbdf, register: u32) {
    v.pio_write(0xcf8, 4, 0x8000_0000 | sbdf.0 << 8 | register & 0xfc).unwrap();
}

fn config_read(v: &Vcpu, sbdf: Sbdf, register: u32) -> u32 {
    select(v, sbdf, register);
    v.pio_read(0xcfc, 4).unwrap()
}

fn config_write(v: &Vcpu, sbdf: Sbdf, register: u32, size: usize, value: u32) {
    select(v, sbdf, register);
    v.pio_write(0xcfc + (register & 3) as u16, size, value).unwrap();
}

#[test]
fn guest_finds_sizes_places_uses_and_moves_a_function() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cf8Latch::attach(&s.bus).unwrap();
    host_bridge(&s.bus).unwrap();
    endpoint(&s);
    let v = vcpu(&m, d, 0);

    // As Linux probes: a byte to CFB, then the latch must read back.
    v.pio_write(0xcfb, 1, 1).unwrap();
    select(&v, Sbdf(0), 0);
    assert_eq!(v.pio_read(0xcf8, 4), Ok(0x8000_0000));
    let found: Vec<_> = (0..32)
        .map(|dev| config_read(&v, Sbdf::new(0, 0, dev, 0), 0))
        .enumerate()
        .filter(|(_, id)| *id != u32::MAX)
        .collect();
    assert_eq!(found, [(0, 0x1237_8086), (2, 0x1616_8086)]);

    config_write(&v, GPU, 0x10, 4, u32::MAX);
    assert_eq!(config_read(&v, GPU, 0x10), 0xff00_0004);
    config_write(&v, GPU, 0x10, 4, 0xf100_0000);
    config_write(&v, GPU, 0x18, 4, 0);
    config_write(&v, GPU, 0x1c, 4, 1);
    config_write(&v, GPU, 0x20, 4, 0xc000);
    assert_eq!(v.mmio_read(0xf100_0040, 4), Ok(0xffff_ffff));
    config_write(&v, GPU, 4, 2, 3);
    assert_eq!(v.mmio_read(0xf100_0040, 4), Ok(0x40));
    assert_eq!(v.mmio_read(0x1_0000_0008, 8), Ok(2 << 16 | 8));
    assert_eq!(v.pio_read(0xc004, 2), Ok(4));
    config_write(&v, GPU, 0x10, 4, 0xe000_0000);
    assert_eq!(v.mmio_read(0xf100_0040, 4), Ok(0xffff_ffff));
    assert_eq!(v.mmio_read(0xe000_0040, 4), Ok(0x40));
    config_write(&v, GPU, 4, 2, 0);
    assert_eq!(v.mmio_read(0xe000_0040, 4), Ok(0xffff_ffff));
}

#[test]
fn msi_arrives_with_the_vector_that_the_guest_chose() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let e = endpoint(&s);
    let line = e.msi().unwrap();
    let dm = connect(&m).dm(d);
    let v = vcpu(&m, d, 0);
    assert_eq!(line.raise(&dm), Ok(Delivery::Disabled));
    config_write(&v, GPU, 0x94, 4, 0xfee0_0000);
    config_write(&v, GPU, 0x98, 2, 0x41);
    config_write(&v, GPU, 0x92, 2, 1);
    config_write(&v, GPU, 4, 2, 4);
    assert_eq!(line.raise(&dm), Ok(Delivery::Injected));
    assert_eq!(v.wait_interrupt(Some(Duration::from_secs(10))), Ok(Some(0x41)));
}

#[test]
fn hostile_bars_keep_the_guest_going() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    Cells::attach(&s.bus);
    let e = endpoint(&s);
    let v = vcpu(&m, d, 0);
    config_write(&v, GPU, 4, 2, 7);
    for value in [0, u32::MAX, 0xf000_0000, 0xfee0_0000, 0x0000_1000, 0xffff_0000, 1 << 24] {
        for bar in [0x10, 0x14, 0x18, 0x1c, 0x20] {
            config_write(&v, GPU, bar, 4, value);
        }
        // What others have is theirs still.
        assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
        assert_eq!(v.pio_read(PORTS, 4), Ok(0));
    }
    e.detach().unwrap();
    assert_eq!(config_read(&v, GPU, 0), u32::MAX);
}

#[test]
fn messages_of_a_table_wait_while_the_guest_masks_them_and_then_arrive() {
    let m = machine();
    let d = guest(&m, 2);
    let s = serve(&m, d, Options::default());
    let table = MsixTable::new(3, connect(&m).dm(d)).unwrap();
    let config = ConfigBuilder::new(0x1af4, 0x1041)
        .bar(1, Bar::mem32(0x2000))
        .msix(0x40, &table, MsixPlace { table: (1, 0), pending: (1, 0x1000) })
        .build()
        .unwrap();
    PciEndpoint::attach(&s.bus, GPU, config, Arc::new(Scratch(Mutex::default()))).unwrap();
    let (v0, v1) = (vcpu(&m, d, 0), vcpu(&m, d, 1));
    let bar = 0xf100_0000;
    config_write(&v0, GPU, 0x14, 4, bar as u32);
    config_write(&v0, GPU, 4, 2, 6);
    config_write(&v0, GPU, 0x42, 2, 0x8000);
    // The third goes to the second vCPU.
    v0.mmio_write(bar + 32, 8, 0xfee0_2000).unwrap();
    v0.mmio_write(bar + 40, 4, 0x51).unwrap();
    assert_eq!(table.raise(2), Ok(Delivery::Pending));
    assert_eq!(v0.mmio_read(bar + 0x1000, 8), Ok(0b100));
    assert_eq!(v1.take_interrupt(), Ok(None));
    v0.mmio_write(bar + 44, 4, 0).unwrap();
    assert_eq!(v1.wait_interrupt(Some(Duration::from_secs(10))), Ok(Some(0x51)));
    assert_eq!(v0.mmio_read(bar + 0x1000, 8), Ok(0));
    assert_eq!(v0.mmio_read(bar + 0x800, 4), Ok(1 << 16 | 0x800), "what is not the table is the device's");
}

#[test]
fn a_pin_is_up_while_the_function_wants_it_and_the_guest_lets_it() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    let config = ConfigBuilder::new(1, 1).intx(Pin::A, connect(&m).dm(d)).build().unwrap();
    let e = PciEndpoint::attach(&s.bus, GPU, config, Arc::new(Scratch(Mutex::default()))).unwrap();
    let v = vcpu(&m, d, 0);
    // INTA of device 2
    let up = || m.interrupt_lines(d).unwrap().asserted(24);
    let pin = e.intx().unwrap();
    pin.set(true).unwrap();
    assert!(up());
    assert_eq!(config_read(&v, GPU, 4) >> 16 & 8, 8);
    config_write(&v, GPU, 4, 2, 0x400);
    assert!(!up());
    config_write(&v, GPU, 4, 2, 0);
    assert!(up());
    e.detach().unwrap();
    assert!(!up());
}

#[test]
fn functions_are_found_by_memory_too() {
    let m = machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, Options::default());
    host_bridge(&s.bus).unwrap();
    endpoint(&s);
    let window = 0xe000_0000;
    Ecam::attach(&s.bus, window, 0, 0..=63).unwrap();
    let v = vcpu(&m, d, 0);
    let found: Vec<_> = (0..32u64)
        .filter_map(|device| Some((device, v.mmio_read(window + (device << 15), 4).ok()?)))
        .filter(|(_, id)| *id != 0xffff_ffff)
        .collect();
    assert_eq!(found, [(0, 0x1237_8086), (2, 0x1616_8086)]);
    v.mmio_write(window + (2 << 15) + 0x3c, 1, 11).unwrap();
    assert_eq!(v.mmio_read(window + (2 << 15) + 0x3c, 1), Ok(11));
    assert_eq!(v.mmio_read(window + (63 << 20), 4), Ok(0xffff_ffff));
    assert_eq!(v.mmio_read(window + (2 << 15), 8), Ok(u64::MAX), "no access is that wide");
}
