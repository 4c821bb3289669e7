//! A function's pin: what the guest allows, and what Xen is told.

use xen_ioreq::abi::dm_op::{XEN_DMOP_set_pci_intx_level, xen_dm_op, xen_dm_op_set_pci_intx_level};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::dm::Pin;

/// Levels that Xen was told: device, pin, level. Fails while told to.
#[derive(Default)]
struct Levels {
    told: Mutex<Vec<(u8, u8, u8)>>,
    fail: Mutex<bool>,
}

impl DmOp for Levels {
    fn dm_op(&self, _: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        let whole = xen_dm_op::read_from_bytes(bufs[0]).unwrap();
        assert_eq!(whole.op, XEN_DMOP_set_pci_intx_level);
        let (data, _) = xen_dm_op_set_pci_intx_level::read_from_prefix(whole.u.as_bytes()).unwrap();
        assert_eq!((data.domain, data.bus), (0, 0));
        if *self.fail.lock() {
            return Err(Errno::EIO);
        }
        self.told.lock().push((data.device, data.intx, data.level));
        Ok(())
    }
}

struct Bench {
    bus: Arc<Bus>,
    levels: Arc<Levels>,
    endpoint: Arc<PciEndpoint>,
    pin: IntxLine,
}

fn bench() -> Bench {
    let levels = Arc::new(Levels::default());
    let config = ConfigBuilder::new(1, 1)
        .intx(Pin::C, Dm::new(levels.clone(), DomId(1)))
        .msi(0x40, Msi::new())
        .power_management(0x60, PowerManagement::new())
        .build()
        .unwrap();
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let endpoint = PciEndpoint::attach(&bus, GPU, config, Arc::new(Scratch(Mutex::default()))).unwrap();
    let pin = endpoint.intx().unwrap();
    Bench { bus, levels, endpoint, pin }
}

impl Bench {
    fn told(&self) -> Vec<(u8, u8, u8)> {
        std::mem::take(&mut self.levels.told.lock())
    }

    fn status(&self) -> u64 {
        read(&self.bus, &at(Space::Pci, GPU.0.into(), 6, Width::Word)).unwrap() & 8
    }
}

const UP: (u8, u8, u8) = (2, 2, 1);
const DOWN: (u8, u8, u8) = (2, 2, 0);

#[test]
fn xen_hears_of_changes_and_the_status_shows_what_the_function_wants() {
    let b = bench();
    assert_eq!(b.endpoint.with_config(|c| c.read(0x3d, Width::Byte)), Ok(3));
    b.pin.set(true).unwrap();
    b.pin.set(true).unwrap();
    assert_eq!((b.told(), b.status()), (vec![UP], 8));
    assert!(b.pin.is_driven());
    b.pin.set(false).unwrap();
    assert_eq!((b.told(), b.status()), (vec![DOWN], 0));
}

#[test]
fn a_guest_that_forbids_the_pin_sees_the_status_all_the_same() {
    let b = bench();
    b.pin.set(true).unwrap();
    config_write(&b.bus, GPU, 4, Width::Word, 0x400);
    assert_eq!((b.told(), b.status()), (vec![UP, DOWN], 8));
    b.pin.set(false).unwrap();
    b.pin.set(true).unwrap();
    assert_eq!(b.told(), []);
    config_write(&b.bus, GPU, 4, Width::Word, 0);
    assert_eq!(b.told(), [UP], "when it is allowed again, at once");
}

#[test]
fn messages_and_sleep_take_the_pin_down() {
    let b = bench();
    b.pin.set(true).unwrap();
    config_write(&b.bus, GPU, 0x42, Width::Word, 1);
    config_write(&b.bus, GPU, 0x42, Width::Word, 0);
    assert_eq!(b.told(), [UP, DOWN, UP]);
    config_write(&b.bus, GPU, 0x64, Width::Word, 3);
    config_write(&b.bus, GPU, 0x64, Width::Word, 0);
    assert_eq!(b.told(), [DOWN, UP]);
}

#[test]
fn an_unplugged_function_leaves_its_line_down() {
    let b = bench();
    b.pin.set(true).unwrap();
    b.endpoint.detach().unwrap();
    assert_eq!(b.told(), [UP, DOWN]);
    b.pin.set(false).unwrap();
    b.pin.set(true).unwrap();
    assert_eq!(b.told(), []);
    assert!(!b.pin.is_driven() && b.pin.is_wanted());
}

#[test]
fn a_level_that_xen_did_not_take_is_told_again() {
    let b = bench();
    *b.levels.fail.lock() = true;
    assert_eq!(b.pin.set(true).unwrap_err().errno, Errno::EIO);
    assert!(!b.pin.is_driven());
    // A change from the guest's side only logs it.
    config_write(&b.bus, GPU, 0x3c, Width::Byte, 5);
    *b.levels.fail.lock() = false;
    config_write(&b.bus, GPU, 0x3c, Width::Byte, 5);
    assert_eq!(b.told(), [UP]);
}
