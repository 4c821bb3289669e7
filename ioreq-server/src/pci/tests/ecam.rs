//! Configuration accesses by memory.

use super::*;

const BASE: u64 = 0xe000_0000;

fn world() -> Arc<Bus> {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    for sbdf in [GPU, Sbdf::new(0, 5, 31, 7)] {
        PciEndpoint::attach(&bus, sbdf, space(), Arc::new(Scratch(Mutex::default()))).unwrap();
    }
    bus
}

fn mem(bus: &Bus, offset: u64, width: Width) -> Result<u64, IoError> {
    read(bus, &at(Space::Mmio, BASE + offset, 0, width))
}

#[test]
fn functions_are_where_their_numbers_put_them() {
    let bus = world();
    Ecam::attach(&bus, BASE, 0, 0..=255).unwrap();
    assert_eq!(mem(&bus, 2 << 15, Width::Dword), Ok(0x1616_8086));
    let far = 5 << 20 | 31 << 15 | 7 << 12;
    assert_eq!(mem(&bus, far | 2, Width::Word), Ok(0x1616));
    assert_eq!(mem(&bus, far | 0x3d, Width::Byte), Ok(1));
    for none in [0, 1 << 15, 2 << 15 | 1 << 12, 1 << 20 | 2 << 15, 255 << 20] {
        assert_eq!(mem(&bus, none, Width::Dword), Err(IoError::NoDevice), "{none:#x}");
    }
    // What a conventional function has not.
    assert_eq!(mem(&bus, 2 << 15 | 0x100, Width::Dword), Err(IoError::NoRegister));
}

#[test]
fn writes_arrive_where_reads_do() {
    let bus = world();
    Ecam::attach(&bus, BASE, 0, 0..=15).unwrap();
    let target = at(Space::Mmio, BASE + (2 << 15) + 0x10, 0, Width::Dword);
    assert!(matches!(bus.write(&target, 0xffff_ffff, &Hint::default()), Outcome::Ok(())));
    let by_ports = at(Space::Pci, GPU.0.into(), 0x10, Width::Dword);
    assert_eq!(read(&bus, &by_ports), Ok(0xff00_0004));
    assert_eq!(mem(&bus, 2 << 15 | 0x10, Width::Dword), Ok(0xff00_0004));
}

#[test]
fn accesses_of_eight_bytes_and_across_dwords_are_refused() {
    let bus = world();
    Ecam::attach(&bus, BASE, 0, 0..=15).unwrap();
    for (offset, width) in [(0, Width::Qword), (1, Width::Dword), (3, Width::Word), (0xfff, Width::Word)] {
        assert_eq!(mem(&bus, 2 << 15 | offset, width), Err(IoError::BadAccess), "{offset:#x}");
    }
}

#[test]
fn a_window_may_begin_with_another_bus_and_be_of_another_segment() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let there = Sbdf::new(3, 0x80, 0, 0);
    PciEndpoint::attach(&bus, there, space(), Arc::new(Scratch(Mutex::default()))).unwrap();
    Ecam::attach(&bus, BASE, 3, 0x80..=0x80).unwrap();
    assert_eq!(mem(&bus, 0, Width::Dword), Ok(0x1616_8086));
    assert_eq!(mem(&bus, 1 << 20, Width::Dword), Err(IoError::NoDevice), "behind the window");
    assert_eq!(Ecam::decode(3, 0x80, 0xfff), Some((there, 0xfff)));
    assert_eq!(Ecam::decode(0, 0x80, 128 << 20), None, "there is no bus 256");
}

#[test]
fn a_window_that_cannot_be_is_refused() {
    let bus = world();
    let base = |base| Ecam::attach(&bus, base, 0, 0..=1).unwrap_err();
    assert_eq!(base(BASE + 4096), EcamError::Base { base: BASE + 4096 });
    assert_eq!(base(u64::MAX - 0xf_ffff), EcamError::Base { base: u64::MAX - 0xf_ffff });
    #[expect(clippy::reversed_empty_ranges, reason = "what is refused")]
    let none = Ecam::attach(&bus, BASE, 0, 2..=1).unwrap_err();
    assert_eq!(none, EcamError::NoBus { first: 2, last: 1 });
    Ecam::attach(&bus, BASE, 0, 0..=1).unwrap();
    assert!(matches!(base(BASE + (1 << 20)), EcamError::Bus { .. }), "over the other");
    assert_eq!(bus.windows(Ecam::attach(&bus, BASE + (2 << 20), 0, 2..=3).unwrap()).len(), 1);
}
