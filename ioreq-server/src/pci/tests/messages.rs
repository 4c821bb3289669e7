//! MSI with several messages, MSI-X with its table in a BAR.

use super::*;

#[test]
fn msi_sends_the_message_that_was_raised_as_far_as_the_guest_allows() {
    let mut c = ConfigBuilder::new(1, 1).msi(0x40, Msi::new().messages(3).wide()).build().unwrap();
    let ((sent, dm), line) = (messages(), c.msi().unwrap());
    assert_eq!(c.read(0x42, Width::Word), Ok(3 << 1 | 1 << 7));
    set(&mut c, 0x44, 0xfee0_1003);
    set(&mut c, 0x48, 0x12);
    c.write(0x4c, Width::Word, 0x4567).unwrap();
    set(&mut c, 4, 4);
    for (allowed, number, data) in
        [(0, 5, 0x4567), (1, 5, 0x4567), (1, 4, 0x4566), (2, 5, 0x4565), (3, 5, 0x4565), (7, 6, 0x4566)]
    {
        c.write(0x42, Width::Word, allowed << 4 | 1).unwrap();
        assert_eq!(u32::from(line.allowed()), 1 << allowed.min(3));
        assert_eq!(line.raise_message(number, &dm), Ok(Delivery::Injected));
        assert_eq!(sent.0.lock().pop(), Some((0x12_fee0_1000, data)), "{allowed} {number}");
    }
}

const CONTROL: u64 = 0x42;
const TABLE: u64 = 0x1000;
const PENDING: u64 = 0x2000;
const BASE: u64 = 0xf000_0000;

struct Bench {
    bus: Arc<Bus>,
    sent: Arc<Messages>,
    table: MsixTable,
    device: Arc<Scratch>,
    endpoint: Arc<PciEndpoint>,
}

/// A function with 70 messages, placed, awake and allowed everything.
fn bench() -> Bench {
    let (sent, dm) = messages();
    let table = MsixTable::new(70, dm).unwrap();
    let place = MsixPlace { table: (0, TABLE as u32), pending: (0, PENDING as u32) };
    let config = ConfigBuilder::new(1, 1)
        .bar(0, Bar::mem64(0x4000))
        .power_management(0x60, PowerManagement::new().soft_reset())
        .msix(0x40, &table, place)
        .build()
        .unwrap();
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let device = Arc::new(Scratch(Mutex::default()));
    let endpoint = PciEndpoint::attach(&bus, GPU, config, device.clone()).unwrap();
    config_write(&bus, GPU, 0x10, Width::Dword, BASE);
    config_write(&bus, GPU, 4, Width::Word, 6);
    Bench { bus, sent, table, device, endpoint }
}

impl Bench {
    fn control(&self, value: u64) {
        config_write(&self.bus, GPU, CONTROL as u32, Width::Word, value);
    }

    fn read(&self, offset: u64, width: Width) -> Result<u64, IoError> {
        read(&self.bus, &at(Space::Mmio, BASE + offset, 0, width))
    }

    fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), IoError> {
        match self.bus.write(&at(Space::Mmio, BASE + offset, 0, width), value, &Hint::default()) {
            Outcome::Ok(()) => Ok(()),
            Outcome::Err(e) => Err(e),
            Outcome::Defer(_) => unreachable!("nobody defers"),
        }
    }

    /// Programs message `n`, and masks it or not.
    fn program(&self, n: u64, masked: bool) {
        let at = TABLE + 16 * n;
        self.write(at, Width::Qword, 0xfee0_0000 + (n << 12)).unwrap();
        self.write(at + 8, Width::Dword, 0x40 + n).unwrap();
        self.write(at + 12, Width::Dword, masked.into()).unwrap();
    }

    fn sent(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.sent.0.lock())
    }
}

fn message(n: u32) -> (u64, u32) {
    (0xfee0_0000 + (u64::from(n) << 12), 0x40 + n)
}

#[test]
fn the_capability_says_how_many_and_where() {
    let b = bench();
    let config = |r| b.endpoint.with_config(|c| dword(c, r));
    assert_eq!(config(0x40), 69 << 16 | 0x11);
    assert_eq!((config(0x44), config(0x48)), (TABLE as u32, PENDING as u32));
    b.control(0xffff);
    assert_eq!(config(0x40) >> 16, 0xc000 | 69, "enable and mask-all are all that can be written");
}

#[test]
fn a_message_goes_as_programmed_waits_while_masked_and_is_lost_while_off() {
    let b = bench();
    assert_eq!(b.table.raise(0), Ok(Delivery::Disabled));
    b.control(0x8000);
    assert!(b.table.is_enabled());
    b.program(0, false);
    b.program(69, true);
    assert_eq!(b.table.raise(0), Ok(Delivery::Injected));
    assert_eq!(b.sent(), [message(0)]);
    for _ in 0..3 {
        assert_eq!(b.table.raise(69), Ok(Delivery::Pending));
    }
    assert_eq!(b.read(PENDING + 8, Width::Qword), Ok(1 << 5));
    assert_eq!(b.read(PENDING, Width::Dword), Ok(0));
    b.program(69, false);
    assert_eq!(b.sent(), [message(69)], "once, and with what was programmed last");
    assert!(!b.table.is_pending(69));
    assert_eq!(b.table.raise(5), Ok(Delivery::Pending), "masked at first");
    b.table.withdraw(5);
    b.program(5, false);
    assert_eq!(b.sent(), [], "its cause has gone");
    assert_eq!(b.table.raise(70), Ok(Delivery::Disabled), "there is none");
    b.control(0);
    assert_eq!(b.table.raise(0), Ok(Delivery::Disabled));
}

#[test]
fn the_mask_of_all_keeps_every_message_and_lets_them_go_together() {
    let b = bench();
    for n in [0, 1, 64] {
        b.program(n, n == 1);
    }
    b.control(0xc000);
    for n in [64, 1, 0] {
        assert_eq!(b.table.raise(n), Ok(Delivery::Pending));
    }
    assert_eq!(b.read(PENDING, Width::Qword), Ok(3));
    b.control(0x8000);
    assert_eq!(b.sent(), [message(0), message(64)]);
    assert_eq!(b.read(PENDING, Width::Qword), Ok(2), "one is masked by itself");
    assert_eq!(b.read(PENDING + 8, Width::Qword), Ok(0));
}

#[test]
fn without_bus_mastering_or_power_nothing_is_sent() {
    let b = bench();
    b.control(0x8000);
    b.program(0, false);
    config_write(&b.bus, GPU, 4, Width::Word, 2);
    assert_eq!(b.table.raise(0), Ok(Delivery::Disabled));
    config_write(&b.bus, GPU, 4, Width::Word, 6);
    config_write(&b.bus, GPU, 0x64, Width::Word, 3);
    assert_eq!(b.table.raise(0), Ok(Delivery::Disabled));
    // The reset masks all, and forgets what waited and what was programmed.
    config_write(&b.bus, GPU, 0x64, Width::Word, 0);
    config_write(&b.bus, GPU, 0x10, Width::Dword, BASE);
    config_write(&b.bus, GPU, 4, Width::Word, 6);
    assert_eq!(b.read(TABLE, Width::Qword), Ok(0));
    assert_eq!(b.read(TABLE + 8, Width::Qword), Ok(1 << 32));
    assert_eq!(b.table.raise(0), Ok(Delivery::Disabled));
    assert_eq!(b.sent(), []);
}

#[test]
fn the_table_is_accessed_by_aligned_dwords_and_the_device_sees_none_of_it() {
    let b = bench();
    for (offset, width) in [(0, Width::Byte), (2, Width::Word), (2, Width::Dword), (4, Width::Qword)] {
        for base in [TABLE, PENDING] {
            assert_eq!(b.read(base + offset, width), Err(IoError::BadAccess), "{offset}");
        }
        assert_eq!(b.write(TABLE + offset, width, 0), Err(IoError::BadAccess), "{offset}");
    }
    b.write(TABLE, Width::Dword, 0xfee0_0007).unwrap();
    b.write(TABLE + 4, Width::Dword, 9).unwrap();
    assert_eq!(b.read(TABLE, Width::Qword), Ok(0x9_fee0_0004));
    b.write(TABLE + 12, Width::Dword, 0xffff_fffe).unwrap();
    assert_eq!(b.read(TABLE + 12, Width::Dword), Ok(0), "nothing but the mask");
    b.write(PENDING, Width::Qword, u64::MAX).unwrap();
    assert_eq!(b.read(PENDING, Width::Qword), Ok(0));
    // Right behind both, and before: the device's.
    let behind = TABLE + 70 * 16;
    assert_eq!(b.read(behind, Width::Byte), Ok(behind & 0xff));
    b.write(PENDING + 16, Width::Dword, 5).unwrap();
    b.write(0, Width::Byte, 6).unwrap();
    assert_eq!(*b.device.0.lock(), [(0, PENDING + 16, 5), (0, 0, 6)]);
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    let table = |n| MsixTable::new(n, messages().1);
    assert!(table(0).is_none() && table(2049).is_none());
    let built = |bar: Bar, t: (u8, u32), p: (u8, u32)| {
        let place = MsixPlace { table: t, pending: p };
        let b = ConfigBuilder::new(1, 1).msix(None, &table(64).unwrap(), place).bar(1, bar);
        b.build().map(drop)
    };
    let bad = |what, bar, offset, len| Err(ConfigError::Msix { what, bar, offset, len });
    let mem = Bar::mem32(0x1000);
    assert_eq!(built(mem, (1, 0), (1, 0x400)), Ok(()), "side by side");
    assert_eq!(built(mem, (1, 0x408), (1, 0x400)), Ok(()));
    assert_eq!(built(mem, (0, 0), (1, 0)), bad("the table", 0, 0, 0x400), "no such BAR");
    assert_eq!(built(Bar::io(256), (1, 0), (1, 0)), bad("the table", 1, 0, 0x400), "ports");
    assert_eq!(built(mem, (1, 4), (1, 0x800)), bad("the table", 1, 4, 0x400), "crooked");
    assert_eq!(built(mem, (1, 0xc08), (1, 0)), bad("the table", 1, 0xc08, 0x400), "beyond the end");
    assert_eq!(built(mem, (1, 0), (9, 0)), bad("the pending bits", 9, 0, 8));
    assert_eq!(built(mem, (1, 0), (1, 0x3f8)), bad("the pending bits", 1, 0x3f8, 8), "in the table");
}
