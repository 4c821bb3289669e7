#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::sync::Arc;

use parking_lot::Mutex;
use xen_ioreq::abi::dm_op::XEN_DMOP_inject_msi;
use xen_ioreq::seam::DmOp;
use xen_ioreq::{DomId, Errno};

mod ecam;
mod intx;
mod messages;
mod power;
mod property;

use super::*;
use crate::bus::{Bus, Hint, Target};
use crate::claims::LocalClaims;
use crate::device::{Access, Space, Width};
use crate::dm::Dm;
use crate::outcome::{IoError, Outcome};

/// A function with all kinds of BARs.
fn space() -> ConfigSpace {
    ConfigBuilder::new(0x8086, 0x1616)
        .class(3, 0, 0)
        .revision(9)
        .subsystem(0x1028, 0x0665)
        .interrupt_pin(1)
        .bar(0, Bar::mem64(16 << 20))
        .bar(2, Bar::mem64(256 << 20).prefetchable())
        .bar(4, Bar::io(64))
        .bar(5, Bar::mem32(4096))
        .msi(0x90, Msi::new())
        .power_management(0xd0, PowerManagement::new())
        .register32(0x50, 0xc0, 0)
        .register32(0x5c, 0x1230_0000, 0)
        .register32(0xfc, 0, !0)
        .build()
        .unwrap()
}

fn dword(c: &ConfigSpace, at: u64) -> u32 {
    c.read(at, Width::Dword).unwrap()
}

fn set(c: &mut ConfigSpace, at: u64, value: u32) {
    c.write(at, Width::Dword, value).unwrap();
}

#[test]
fn header_says_what_was_built() {
    let c = space();
    assert_eq!(dword(&c, 0), 0x1616_8086);
    assert_eq!(dword(&c, 8), 0x0300_0009);
    assert_eq!(dword(&c, 0x2c), 0x0665_1028);
    assert_eq!(c.read(0x3d, Width::Byte), Ok(1));
    assert_eq!(dword(&c, 0x50), 0xc0);
    assert_eq!(dword(&c, 0x5c), 0x1230_0000);
    assert_eq!(c.read(0x0e, Width::Byte), Ok(0));
}

#[test]
fn capabilities_are_a_list_in_the_order_of_building() {
    let c = space();
    assert_eq!(c.read(6, Width::Word), Ok(0x10));
    assert_eq!(c.read(0x34, Width::Byte), Ok(0x90));
    assert_eq!(c.read(0x90, Width::Word), Ok(0xd005));
    assert_eq!(c.read(0xd0, Width::Word), Ok(0x0001));
}

#[test]
fn capabilities_without_an_offset_go_behind_what_is_there() {
    let vendor = [8, 1, 2, 3, 4, 5];
    let c = ConfigBuilder::new(1, 1)
        .register32(0x44, 0, 0)
        .capability(regs::CAP_ID_VENDOR, None, &vendor, &[0, 0xff, 0, 0, 0, 0])
        .msi(None, Msi::new().wide())
        .power_management(0x40, PowerManagement::new())
        .build();
    assert_eq!(c.unwrap_err(), ConfigError::Taken { offset: 0x40 });
    let mut c = ConfigBuilder::new(1, 1)
        .register(0x40, &[7], &[0])
        .capability(regs::CAP_ID_VENDOR, None, &vendor, &[0, 0xff, 0, 0, 0, 0])
        .msi(None, Msi::new().wide())
        .power_management(None, PowerManagement::new())
        .build()
        .unwrap();
    assert_eq!(c.read(0x34, Width::Byte), Ok(0x44));
    assert_eq!((dword(&c, 0x44), dword(&c, 0x48)), (0x0108_4c09, 0x0504_0302));
    assert_eq!(c.read(0x4c, Width::Word), Ok(0x5c05));
    assert_eq!(c.read(0x5c, Width::Word), Ok(0x0001));
    set(&mut c, 0x44, !0);
    assert_eq!(dword(&c, 0x44), 0xff08_4c09);
}

#[test]
fn status_bits_are_raised_by_the_device_and_cleared_by_the_guests_ones() {
    let mut c = space();
    c.raise_status(0xffff);
    assert_eq!(c.read(6, Width::Word), Ok(0xf910), "those that there are");
    set(&mut c, 4, 0x3000_0006);
    assert_eq!(c.read(6, Width::Word), Ok(0xc910));
    assert_eq!(c.command(), 6, "the same write sets the command");
    c.write(7, Width::Byte, 0xff).unwrap();
    assert_eq!(c.read(6, Width::Word), Ok(0x0010));
    let mut c = ConfigBuilder::new(1, 1).clearable32(0x40, 0xff, 0x0f).build().unwrap();
    set(&mut c, 0x40, 0x5);
    assert_eq!(dword(&c, 0x40), 0xfa);
    set(&mut c, 0x40, !0);
    assert_eq!(dword(&c, 0x40), 0xf0);
}

#[test]
fn sizing_reads_size_and_kind() {
    let mut c = space();
    for (at, want) in [
        (0x10, 0xff00_0004),
        (0x14, 0xffff_ffff),
        (0x18, 0xf000_000c),
        (0x1c, 0xffff_ffff),
        (0x20, 0xffff_ffc1),
        (0x24, 0xffff_f000),
        (0x30, 0),
    ] {
        set(&mut c, at, !0);
        assert_eq!(dword(&c, at), want, "{at:#x}");
    }
    // Sizing with decoding on places nothing: every BAR would end with its address space.
    set(&mut c, 4, 3);
    assert_eq!(c.placements().count(), 0);
}

#[test]
fn bars_are_decoded_as_the_command_register_says() {
    let mut c = space();
    set(&mut c, 0x10, 0xf100_0000);
    set(&mut c, 0x18, 0xdead_0000);
    set(&mut c, 0x1c, 1);
    set(&mut c, 0x20, 0x1000);
    assert_eq!(c.placements().count(), 0);
    set(&mut c, 4, 2);
    let mem: Vec<_> = c.placements().map(|p| (p.index, p.space, p.start, p.last)).collect();
    assert_eq!(
        mem,
        [(0, Space::Mmio, 0xf100_0000, 0xf1ff_ffff), (2, Space::Mmio, 0x1_d000_0000, 0x1_dfff_ffff)]
    );
    set(&mut c, 4, 1);
    let io: Vec<_> = c.placements().map(|p| (p.index, p.space, p.start, p.last)).collect();
    assert_eq!(io, [(4, Space::Pio, 0x1000, 0x103f)]);
    // Ports above 64 Ki do not exist.
    set(&mut c, 0x20, 0x1_0000);
    assert_eq!(c.placements().count(), 0);
}

#[test]
fn accesses_outside_or_across_dwords_are_refused() {
    let mut c = space();
    for (at, width) in [(1, Width::Dword), (3, Width::Word), (0xff, Width::Word)] {
        assert_eq!(c.read(at, width), Err(IoError::BadAccess));
        assert_eq!(c.write(at, width, 0), Err(IoError::BadAccess));
    }
    for at in [0x100, 0xfff, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(c.read(at, Width::Byte), Err(IoError::NoRegister));
    }
    assert_eq!(c.read(0, Width::Qword), Err(IoError::BadAccess));
}

#[test]
fn function_that_cannot_be_is_refused() {
    let b = || ConfigBuilder::new(1, 1);
    let refused = |b: ConfigBuilder| b.build().unwrap_err();
    assert_eq!(refused(b().bar(0, Bar::mem32(3000))), ConfigError::BarSize { index: 0, size: 3000 });
    assert_eq!(refused(b().bar(0, Bar::mem32(0))), ConfigError::BarSize { index: 0, size: 0 });
    assert_eq!(refused(b().bar(1, Bar::io(512))), ConfigError::BarSize { index: 1, size: 512 });
    assert_eq!(refused(b().bar(6, Bar::io(4))), ConfigError::BarIndex { index: 6 });
    assert_eq!(refused(b().bar(5, Bar::mem64(4096))), ConfigError::BarIndex { index: 5 });
    assert_eq!(refused(b().bar(0, Bar::mem64(16)).bar(1, Bar::io(4))), ConfigError::BarIndex { index: 1 });
    assert_eq!(refused(b().bar(1, Bar::io(4)).bar(0, Bar::mem64(16))), ConfigError::BarIndex { index: 0 });
    assert_eq!(refused(b().msi(0x92, Msi::new())), ConfigError::Place { offset: 0x92, len: 10 });
    assert_eq!(refused(b().msi(0x38, Msi::new())), ConfigError::Place { offset: 0x38, len: 10 });
    assert_eq!(refused(b().msi(0xf8, Msi::new())), ConfigError::Place { offset: 0xf8, len: 10 });
    assert_eq!(
        refused(b().msi(0x40, Msi::new()).power_management(0x48, PowerManagement::new())),
        ConfigError::Taken { offset: 0x48 }
    );
    assert_eq!(
        refused(b().msi(0x40, Msi::new()).register32(0x44, 0, 0)),
        ConfigError::Taken { offset: 0x44 }
    );
    assert_eq!(refused(b().register(0x40, &[1], &[])), ConfigError::Mask { offset: 0x40 });
    assert_eq!(refused(b().msi(0x40, Msi::new().messages(6))), ConfigError::Messages { order: 6 });
    let twice = |id| ConfigError::Twice { id };
    assert_eq!(refused(b().msi(0x40, Msi::new()).msi(0x50, Msi::new())), twice(5));
    let pm = PowerManagement::new();
    assert_eq!(refused(b().power_management(0x40, pm).power_management(0x50, pm)), twice(1));
    assert_eq!(refused(b().capability(9, 0x40, &[1], &[])), ConfigError::Mask { offset: 0x40 });
    assert_eq!(refused(b().capability(9, None, &[0; 191], &[0; 191])), ConfigError::Full { len: 193 });
    assert_eq!(refused(b().clearable32(0xfe, 0, 0)), ConfigError::Place { offset: 0xfe, len: 4 });
}

/// Where messages go.
fn messages() -> (Arc<Messages>, Dm) {
    let messages = Arc::new(Messages::default());
    (messages.clone(), Dm::new(messages, DomId(1)))
}

#[derive(Default)]
struct Messages(Mutex<Vec<(u64, u32)>>);

impl DmOp for Messages {
    fn dm_op(&self, _: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        let b = &bufs[0];
        assert_eq!(u32::from(b[0]), XEN_DMOP_inject_msi);
        let data = u32::from_le_bytes(b[8..12].try_into().unwrap());
        self.0.lock().push((u64::from_le_bytes(b[16..24].try_into().unwrap()), data));
        Ok(())
    }
}

#[test]
fn msi_goes_out_as_programmed_and_only_when_enabled_and_master() {
    let mut c = space();
    let ((sent, dm), line) = (messages(), c.msi().unwrap());
    set(&mut c, 0x94, 0xfee3_7000);
    c.write(0x98, Width::Word, 0x0700).unwrap();
    assert_eq!(line.raise(&dm), Ok(Delivery::Disabled));
    c.write(0x92, Width::Word, 0xffff).unwrap();
    assert_eq!(c.read(0x92, Width::Word), Ok(1));
    assert_eq!(line.raise(&dm), Ok(Delivery::Disabled));
    c.write(4, Width::Word, 6).unwrap();
    assert!(line.is_enabled());
    assert_eq!(line.raise(&dm), Ok(Delivery::Injected));
    c.write(0x92, Width::Word, 0).unwrap();
    assert_eq!(line.raise(&dm), Ok(Delivery::Disabled));
    assert_eq!(*sent.0.lock(), [(0xfee3_7000, 0x700)]);
}

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

fn at(space: Space, addr: u64, register: u32, width: Width) -> Target {
    Target { space, addr, register, width, vcpu: None }
}

fn read(bus: &Bus, target: &Target) -> Result<u64, IoError> {
    match bus.read(target, &Hint::default()) {
        Outcome::Ok(v) => Ok(v),
        Outcome::Err(e) => Err(e),
        Outcome::Defer(_) => unreachable!("nobody defers"),
    }
}

fn config_write(bus: &Bus, sbdf: Sbdf, register: u32, width: Width, value: u64) {
    let target = at(Space::Pci, sbdf.0.into(), register, width);
    assert!(matches!(bus.write(&target, value, &Hint::default()), Outcome::Ok(())));
}

const GPU: Sbdf = Sbdf::new(0, 0, 2, 0);

#[test]
fn ranges_follow_command_and_bar_writes() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let e = PciEndpoint::attach(&bus, GPU, space(), Arc::new(Scratch(Mutex::default()))).unwrap();
    let mmio = |addr| read(&bus, &at(Space::Mmio, addr, 0, Width::Dword));
    config_write(&bus, GPU, 0x10, Width::Dword, 0xf100_0000);
    config_write(&bus, GPU, 0x24, Width::Dword, 0xf000_0000);
    assert_eq!(mmio(0xf100_0010), Err(IoError::NoDevice));
    config_write(&bus, GPU, 4, Width::Word, 2);
    assert_eq!(mmio(0xf100_0010), Ok(0x10));
    assert_eq!(mmio(0xf000_0ffc), Ok(5 << 16 | 0xffc));
    // Moved while decoding is on.
    config_write(&bus, GPU, 0x10, Width::Dword, 0xe000_0000);
    assert_eq!(mmio(0xf100_0010), Err(IoError::NoDevice));
    assert_eq!(mmio(0xe000_0010), Ok(0x10));
    config_write(&bus, GPU, 4, Width::Word, 0);
    assert_eq!(mmio(0xe000_0010), Err(IoError::NoDevice));
    assert!(e.decoded().is_empty());
}

#[test]
fn bar_over_another_is_not_decoded_until_it_is_moved_away() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let e = PciEndpoint::attach(&bus, GPU, space(), Arc::new(Scratch(Mutex::default()))).unwrap();
    config_write(&bus, GPU, 4, Width::Word, 2);
    config_write(&bus, GPU, 0x10, Width::Dword, 0xf100_0000);
    config_write(&bus, GPU, 0x24, Width::Dword, 0xf100_1000);
    assert_eq!(e.decoded().len(), 1);
    assert_eq!(e.with_config(|c| c.read(0x24, Width::Dword)), Ok(0xf100_1000));
    config_write(&bus, GPU, 0x10, Width::Dword, 0xe000_0000);
    assert_eq!(e.decoded().len(), 2);
}

/// Counts what this thread's tests warn of.
struct Warnings;

thread_local! {
    static WARNED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }
    fn log(&self, record: &log::Record<'_>) {
        WARNED.set(WARNED.get() + u32::from(self.enabled(record.metadata())));
    }
    fn flush(&self) {}
}

#[test]
fn guest_that_places_bars_over_others_for_ever_does_not_fill_the_log() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let e = PciEndpoint::attach(&bus, GPU, space(), Arc::new(Scratch(Mutex::default()))).unwrap();
    log::set_logger(&Warnings).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    config_write(&bus, GPU, 4, Width::Word, 2);
    config_write(&bus, GPU, 0x10, Width::Dword, 0xf100_0000);
    WARNED.set(0);
    for n in 0..1000 {
        config_write(&bus, GPU, 0x24, Width::Dword, 0xf100_0000 + n * 0x1000);
        assert_eq!(e.decoded().len(), 1);
    }
    assert_eq!(WARNED.get(), 9, "the first eight, and that there may be more");
}

#[test]
fn unplugged_function_reads_as_absent() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let e = PciEndpoint::attach(&bus, GPU, space(), Arc::new(Scratch(Mutex::default()))).unwrap();
    config_write(&bus, GPU, 0x10, Width::Dword, 0xf100_0000);
    config_write(&bus, GPU, 4, Width::Word, 2);
    let again = PciEndpoint::attach(&bus, GPU, space(), Arc::new(Scratch(Mutex::default()))).unwrap_err();
    assert_eq!(again.to_string(), "0000:00:02.0: scratch: PCI 0x10-0x10 overlaps 0x10-0x10");
    e.detach().unwrap();
    assert_eq!(read(&bus, &at(Space::Pci, GPU.0.into(), 0, Width::Dword)), Err(IoError::NoDevice));
    assert_eq!(read(&bus, &at(Space::Mmio, 0xf100_0000, 0, Width::Dword)), Err(IoError::NoDevice));
}

#[test]
fn cf8_gives_back_the_last_dword_and_swallows_bytes() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    Cf8Latch::attach(&bus).unwrap();
    let hint = Hint::default();
    let port = |p, width| at(Space::Pio, p, 0, width);
    assert_eq!(read(&bus, &port(0xcf8, Width::Dword)), Ok(0));
    assert!(matches!(bus.write(&port(0xcf8, Width::Dword), 0x8000_0000, &hint), Outcome::Ok(())));
    assert!(matches!(bus.write(&port(0xcfb, Width::Byte), 1, &hint), Outcome::Ok(())));
    assert_eq!(read(&bus, &port(0xcf8, Width::Dword)), Ok(0x8000_0000));
    assert_eq!(read(&bus, &port(0xcf9, Width::Byte)), Err(IoError::BadAccess));
    assert!(Cf8Latch::attach(&bus).is_err());
}

#[test]
fn host_bridge_is_the_one_that_linux_looks_for() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let bridge = host_bridge(&bus).unwrap();
    let config = |register| read(&bus, &at(Space::Pci, bridge.sbdf().0.into(), register, Width::Dword));
    assert_eq!(config(0), Ok(0x1237_8086));
    assert_eq!(config(8).map(|class| class >> 16), Ok(0x0600));
}

#[test]
fn sbdf_is_written_as_lspci_does() {
    assert_eq!(Sbdf::new(1, 0x80, 31, 7).to_string(), "0001:80:1f.7");
    assert_eq!(GPU.0, 0x10);
}
