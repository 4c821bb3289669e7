//! Power states: which there are, what they switch off, and what comes back.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const PM: u64 = 0x40;
const CONTROL: u64 = PM + 4;

fn function(pm: PowerManagement) -> ConfigSpace {
    ConfigBuilder::new(1, 1)
        .bar(0, Bar::mem32(4096))
        .bar(1, Bar::io(16))
        .power_management(PM as u16, pm)
        .msi(0x50, Msi::new())
        .register32(0x60, 0x1234, !0)
        .build()
        .unwrap()
}

/// Asks for a power state.
fn ask(c: &mut ConfigSpace, state: u32) -> Effect {
    c.write(CONTROL, Width::Byte, state).unwrap()
}

#[test]
fn the_capability_says_what_there_is() {
    let word = |pm| function(pm).read(PM + 2, Width::Word).unwrap();
    let control = |pm| function(pm).read(CONTROL, Width::Word).unwrap();
    assert_eq!((word(PowerManagement::new()), control(PowerManagement::new())), (3, 8));
    assert_eq!(word(PowerManagement::new().d1().d2()), 0x603);
    assert_eq!(word(PowerManagement::new().pme()), 0x4803);
    assert_eq!(control(PowerManagement::new().soft_reset()), 0);
}

#[test]
fn a_function_goes_only_where_there_is_a_way() {
    use PowerState::{D0, D1, D2, D3Hot};
    let full = PowerManagement::new().d1().d2();
    let without_d1 = PowerManagement::new().d2();
    for (pm, from, asked, wanted) in [
        (full, D0, D1, D1),
        (full, D0, D3Hot, D3Hot),
        (full, D1, D2, D2),
        (full, D1, D3Hot, D3Hot),
        (full, D2, D1, D2),
        (full, D3Hot, D2, D3Hot),
        (full, D3Hot, D1, D3Hot),
        (full, D2, D0, D0),
        (full, D3Hot, D0, D0),
        (without_d1, D0, D1, D0),
        (without_d1, D0, D2, D2),
        (PowerManagement::new(), D0, D2, D0),
        (PowerManagement::new(), D3Hot, D1, D3Hot),
    ] {
        let mut c = function(pm);
        ask(&mut c, from as u32);
        assert_eq!(c.power_state(), from);
        let effect = ask(&mut c, asked as u32);
        assert_eq!(c.power_state(), wanted, "{pm:?}: {from:?} to {asked:?}");
        assert_eq!(effect, Effect { power: (from != wanted).then_some((from, wanted)), reset: false });
        assert_eq!(c.read(CONTROL, Width::Byte).unwrap() & 3, wanted as u32, "and says so");
    }
}

#[test]
fn a_function_that_sleeps_decodes_nothing_and_raises_nothing() {
    let mut c = function(PowerManagement::new().d1());
    let ((sent, dm), line) = (messages(), c.msi().unwrap());
    set(&mut c, 0x10, 0xf000_0000);
    set(&mut c, 0x14, 0xc000);
    set(&mut c, 0x54, 0xfee0_0000);
    c.write(0x52, Width::Word, 1).unwrap();
    set(&mut c, 4, 7);
    assert_eq!(c.placements().count(), 2);
    for state in [1, 3] {
        ask(&mut c, state);
        assert_eq!(c.placements().count(), 0);
        assert!(!c.is_bus_master() && !line.is_enabled());
        assert_eq!(line.raise(&dm), Ok(Delivery::Disabled));
        assert_eq!(c.command(), 7, "configuration is read as it was");
        ask(&mut c, 0);
        assert_eq!(c.placements().count(), 2, "and all is back");
        assert_eq!(line.raise(&dm), Ok(Delivery::Injected));
    }
    assert_eq!(sent.0.lock().len(), 2);
}

#[test]
fn the_way_from_d3_resets_a_function_that_says_so_but_for_its_pme() {
    let mut c = function(PowerManagement::new().soft_reset().pme().d2());
    let fresh = *c.bytes();
    assert!(!c.raise_pme(), "not allowed yet");
    c.write(CONTROL, Width::Word, 0x100).unwrap();
    assert!(c.raise_pme());
    set(&mut c, 0x10, 0xf000_0000);
    set(&mut c, 4, 7);
    set(&mut c, 0x60, 5);
    c.write(0x3c, Width::Byte, 11).unwrap();
    // From D2 it is not.
    c.write(CONTROL, Width::Word, 0x102).unwrap();
    assert_eq!(c.write(CONTROL, Width::Word, 0x100).map(|e| e.reset), Ok(false));
    assert_eq!(dword(&c, 0x60), 5);
    c.write(CONTROL, Width::Word, 0x103).unwrap();
    let effect = c.write(CONTROL, Width::Word, 0x100).unwrap();
    assert_eq!(effect, Effect { power: Some((PowerState::D3Hot, PowerState::D0)), reset: true });
    let mut wanted = fresh;
    wanted[CONTROL as usize + 1] = 0x81;
    assert_eq!(c.bytes(), &wanted);
    assert_eq!(c.placements().count(), 0);
    c.write(CONTROL, Width::Word, 0x8100).unwrap();
    assert_eq!(c.read(CONTROL, Width::Word), Ok(0x100), "a one clears the status");
}

#[test]
fn a_function_without_pme_never_signals_it() {
    let mut c = function(PowerManagement::new());
    c.write(CONTROL, Width::Word, 0xff00).unwrap();
    assert!(!c.raise_pme());
    assert_eq!(c.read(CONTROL, Width::Word), Ok(8));
}

/// Counts what it is told.
#[derive(Default)]
struct Sleeper {
    resets: AtomicU32,
    changes: Mutex<Vec<(PowerState, PowerState)>>,
}

impl Function for Sleeper {
    fn name(&self) -> &str {
        "sleeper"
    }
    fn bar_read(&self, _: &Access) -> Outcome<u64> {
        Outcome::Ok(7)
    }
    fn power_changed(&self, from: PowerState, to: PowerState) {
        self.changes.lock().push((from, to));
    }
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_device_hears_of_it_and_its_ranges_follow() {
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let sleeper = Arc::new(Sleeper::default());
    let config = function(PowerManagement::new().soft_reset());
    PciEndpoint::attach(&bus, GPU, config, sleeper.clone()).unwrap();
    let mmio = || read(&bus, &at(Space::Mmio, 0xf000_0000, 0, Width::Dword));
    let place = || {
        config_write(&bus, GPU, 0x10, Width::Dword, 0xf000_0000);
        config_write(&bus, GPU, 4, Width::Word, 2);
    };
    place();
    assert_eq!(mmio(), Ok(7));
    config_write(&bus, GPU, CONTROL as u32, Width::Word, 3);
    assert_eq!(mmio(), Err(IoError::NoDevice));
    assert_eq!(sleeper.resets.load(Ordering::Relaxed), 0);
    config_write(&bus, GPU, CONTROL as u32, Width::Word, 0);
    assert_eq!(sleeper.resets.load(Ordering::Relaxed), 1);
    assert_eq!(mmio(), Err(IoError::NoDevice), "its BAR is to be placed anew");
    place();
    assert_eq!(mmio(), Ok(7));
    use PowerState::{D0, D3Hot};
    assert_eq!(*sleeper.changes.lock(), [(D0, D3Hot), (D3Hot, D0)]);
}
