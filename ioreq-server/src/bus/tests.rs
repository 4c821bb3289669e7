use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::claims::LocalClaims;
use crate::device::{Access, MmioDevice, PioDevice};
use crate::outcome::IoError;

/// Reads give the region in the high half and the offset in the low one.
struct Echo(&'static str);

impl Device for Echo {
    fn name(&self) -> &str {
        self.0
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Echo {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        Outcome::Ok(u64::from(a.region.0) << 32 | a.offset)
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

/// Claims that can be told to refuse.
#[derive(Default)]
struct Moody {
    claims: LocalClaims,
    refuse: AtomicBool,
}

impl RangeClaims for Moody {
    fn claim(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(ClaimError::Empty { space, start, last });
        }
        self.claims.claim(space, start, last)
    }
    fn release(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(ClaimError::Unknown { space, start, last });
        }
        self.claims.release(space, start, last)
    }
}

fn mmio(start: u64, last: u64, region: u32) -> Window {
    Window { space: Space::Mmio, start, last, region: Region(region) }
}

fn read(bus: &Bus, addr: u64, width: Width) -> Result<u64, IoError> {
    let target = Target { space: Space::Mmio, addr, register: 0, width, vcpu: None };
    match bus.read(&target, &Hint::default()) {
        Outcome::Ok(v) => Ok(v),
        Outcome::Err(e) => Err(e),
        Outcome::Defer(_) => unreachable!("nobody defers"),
    }
}

#[test]
fn access_finds_its_range_only_as_a_whole() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let id = bus.attach(Arc::new(Echo("echo")));
    bus.map(id, mmio(0x1000, 0x1fff, 1)).unwrap();
    bus.map(id, mmio(0x2000, 0x2fff, 2)).unwrap();
    bus.map(id, mmio(u64::MAX - 0xfff, u64::MAX, 3)).unwrap();
    assert_eq!(read(&bus, 0x1000, Width::Qword), Ok(1 << 32));
    assert_eq!(read(&bus, 0x1ff8, Width::Qword), Ok(1 << 32 | 0xff8));
    assert_eq!(read(&bus, 0x2ffc, Width::Dword), Ok(0xffc));
    assert_eq!(read(&bus, 0x1ffc, Width::Qword), Err(IoError::NoDevice));
    assert_eq!(read(&bus, 0xfff, Width::Word), Err(IoError::NoDevice));
    assert_eq!(read(&bus, 0x3000, Width::Byte), Err(IoError::NoDevice));
    assert_eq!(read(&bus, u64::MAX, Width::Byte), Ok(0xff));
    assert_eq!(read(&bus, u64::MAX - 2, Width::Qword), Err(IoError::NoDevice));
}

#[test]
fn access_that_wraps_is_nobodys_even_where_a_range_has_every_address() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let id = bus.attach(Arc::new(Echo("echo")));
    bus.map(id, mmio(0, u64::MAX, 1)).unwrap();
    assert_eq!(read(&bus, u64::MAX - 7, Width::Qword), Ok(1 << 32 | (u64::MAX - 7)));
    assert_eq!(read(&bus, u64::MAX - 6, Width::Qword), Err(IoError::NoDevice));
}

#[test]
fn session_sees_every_change_at_its_next_access() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let (mut session, hint) = (bus.session(), Hint::default());
    let mut read = |addr| {
        let target = Target { space: Space::Mmio, addr, register: 0, width: Width::Byte, vcpu: None };
        match session.read(&target, &hint) {
            Outcome::Ok(v) => Some(v),
            Outcome::Err(_) => None,
            Outcome::Defer(_) => unreachable!("nobody defers"),
        }
    };
    assert_eq!(read(0x1000), None);
    let id = bus.attach(Arc::new(Echo("echo")));
    bus.map(id, mmio(0x1000, 0x1fff, 0)).unwrap();
    assert_eq!(read(0x1018), Some(0x18));
    bus.unmap(id, Space::Mmio, 0x1000).unwrap();
    assert_eq!(read(0x1018), None);
    bus.map(id, mmio(0x1010, 0x1fff, 0)).unwrap();
    assert_eq!(read(0x1018), Some(0x8));
    bus.detach(id).unwrap();
    assert_eq!(read(0x1018), None);
}

#[test]
fn hint_of_an_older_table_misleads_nobody() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let id = bus.attach(Arc::new(Echo("echo")));
    let hint = Hint::default();
    let target = |addr| Target { space: Space::Mmio, addr, register: 0, width: Width::Qword, vcpu: None };
    for i in 0..8 {
        bus.map(id, mmio(i * 0x1000, i * 0x1000 + 0xfff, 0)).unwrap();
    }
    assert!(matches!(bus.read(&target(0x7008), &hint), Outcome::Ok(8)));
    for i in 0..7 {
        bus.unmap(id, Space::Mmio, i * 0x1000).unwrap();
    }
    assert!(matches!(bus.read(&target(0x7010), &hint), Outcome::Ok(0x10)));
    assert!(matches!(bus.read(&target(0x6010), &hint), Outcome::Err(IoError::NoDevice)));
}

#[test]
fn refused_claim_leaves_the_bus_as_it_was() {
    let claims = Arc::new(Moody::default());
    let bus = Bus::new(claims.clone());
    let id = bus.attach(Arc::new(Echo("echo")));
    bus.map(id, mmio(0, 0xfff, 0)).unwrap();
    claims.refuse.store(true, Ordering::SeqCst);
    assert!(matches!(bus.map(id, mmio(0x1000, 0x1fff, 1)), Err(BusError::Claim { .. })));
    assert!(matches!(bus.unmap(id, Space::Mmio, 0), Err(BusError::Claim { .. })));
    assert_eq!(bus.windows(id), [mmio(0, 0xfff, 0)]);
    claims.refuse.store(false, Ordering::SeqCst);
    bus.unmap(id, Space::Mmio, 0).unwrap();
    bus.map(id, mmio(0x1000, 0x1fff, 1)).unwrap();
    assert_eq!(bus.windows(id), [mmio(0x1000, 0x1fff, 1)]);
}

#[test]
fn detached_device_is_gone_and_its_ranges_are_free() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let first = bus.attach(Arc::new(Echo("first")));
    let second = bus.attach(Arc::new(Echo("second")));
    bus.map(first, mmio(0, 0xfff, 0)).unwrap();
    let e = bus.map(second, mmio(0x800, 0x17ff, 0)).unwrap_err();
    assert_eq!(e.to_string(), "second: memory 0x800-0x17ff overlaps 0x0-0xfff");
    bus.detach(first).unwrap();
    assert_eq!(bus.detach(first), Err(BusError::NoDevice));
    assert_eq!(read(&bus, 0, Width::Byte), Err(IoError::NoDevice));
    bus.map(second, mmio(0x800, 0x17ff, 0)).unwrap();
    assert!(matches!(bus.map(first, mmio(0, 1, 0)), Err(BusError::NoDevice)));
}

#[test]
fn space_that_a_device_does_not_offer_is_refused() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let id = bus.attach(Arc::new(Echo("echo")));
    let window = Window { space: Space::Pio, start: 1, last: 2, region: Region(0) };
    assert_eq!(bus.map(id, window).unwrap_err().to_string(), "echo has no ports");
}

/// A device that moves its own window when it is written to.
struct Mover {
    bus: std::sync::Weak<Bus>,
    id: std::sync::OnceLock<DeviceId>,
}

impl Device for Mover {
    fn name(&self) -> &str {
        "mover"
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        None
    }
}

impl MmioDevice for Mover {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        Outcome::Ok(a.offset)
    }
    fn mmio_write(&self, _: &Access, to: u64) -> Outcome<()> {
        let bus = self.bus.upgrade().unwrap();
        let id = *self.id.get().unwrap();
        let old = bus.windows(id)[0];
        bus.unmap(id, Space::Mmio, old.start).unwrap();
        bus.map(id, mmio(to, to + 0xfff, 0)).unwrap();
        Outcome::Ok(())
    }
}

#[test]
fn device_moves_its_range_from_inside_an_access_while_others_read() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let mover = Arc::new(Mover { bus: Arc::downgrade(&bus), id: std::sync::OnceLock::new() });
    let id = bus.attach(mover.clone());
    mover.id.set(id).unwrap();
    bus.map(id, mmio(0x10_0000, 0x10_0fff, 0)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut found = 0u64;
            while !stop.load(Ordering::SeqCst) || found == 0 {
                for page in 0..8 {
                    match read(&bus, 0x10_0000 + page * 0x1000 + 0x18, Width::Byte) {
                        Ok(v) => {
                            assert_eq!(v, 0x18);
                            found += 1;
                        }
                        Err(e) => assert_eq!(e, IoError::NoDevice),
                    }
                }
            }
        });
        let hint = Hint::default();
        for i in 0..2000u64 {
            let at = |i: u64| 0x10_0000 + i % 8 * 0x1000;
            let target =
                Target { space: Space::Mmio, addr: at(i), register: 0, width: Width::Qword, vcpu: None };
            assert!(matches!(bus.write(&target, at(i + 1), &hint), Outcome::Ok(())));
        }
        stop.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
}
