//! Any accesses of a guest to the configuration space of two functions with BARs: nothing panics, who it is never changes,
//! and what is decoded lies where it may.

use std::sync::Arc;

use super::Input;
use crate::bus::{Bus, Hint, Target};
use crate::claims::LocalClaims;
use crate::device::{Access, Space, Width};
use crate::outcome::Outcome;
use crate::pci::{Bar, ConfigBuilder, ConfigSpace, Function, Msi, PciEndpoint, Sbdf};

/// Accesses of one run.
const ACCESSES: usize = 256;
const BARS: [(u8, Bar); 4] = [
    (0, Bar::mem32(0x1000)),
    (1, Bar::mem64(0x10_0000).prefetchable()),
    (3, Bar::io(32)),
    (4, Bar::mem32(16)),
];

/// Answers a BAR's read with which BAR it is and where in it.
struct Echo;

impl Function for Echo {
    fn name(&self) -> &str {
        "echo"
    }
    fn bar_read(&self, a: &Access) -> Outcome<u64> {
        Outcome::Ok(u64::from(a.region.0) << 24 | a.offset)
    }
    fn bar_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

fn config(device: u16) -> ConfigSpace {
    let builder = ConfigBuilder::new(0x8086, device).class(3, 0, 0).msi(0x90, Msi::new());
    let builder = BARS.into_iter().fold(builder, |b, (index, bar)| b.bar(index, bar));
    match builder.build() {
        Ok(config) => config,
        Err(e) => unreachable!("a function that can be: {e}"),
    }
}

/// Accesses: a byte for the function, width and direction; a register (16 bits, or 32 of them); what is written.
pub fn config_space(data: &[u8]) {
    let mut input = Input(data);
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let functions: Vec<_> = [(Sbdf::new(0, 0, 2, 0), 0x1616u16), (Sbdf::new(0, 0, 3, 0), 0x1617)]
        .into_iter()
        .filter_map(|(sbdf, device)| {
            PciEndpoint::attach(&bus, sbdf, config(device), Arc::new(Echo)).ok().map(|e| (sbdf, device, e))
        })
        .collect();
    assert_eq!(functions.len(), 2);
    let hint = Hint::default();
    for _ in 0..ACCESSES {
        if input.is_empty() {
            break;
        }
        let what = input.u8();
        let sbdf = functions[usize::from(what & 1)].0;
        let width = [Width::Byte, Width::Word, Width::Dword, Width::Dword][usize::from(what >> 1 & 3)];
        let register = if what & 8 == 0 { u32::from(input.u16() & 0xff) } else { input.u32() };
        let target = Target { space: Space::Pci, addr: sbdf.0.into(), register, width, vcpu: None };
        if what & 0x10 == 0 {
            let _ = bus.write(&target, input.u32().into(), &hint);
        } else if let Outcome::Ok(value) = bus.read(&target, &hint) {
            assert_eq!(value & !width.mask(), 0);
        }
    }
    for (sbdf, device, endpoint) in &functions {
        let target =
            Target { space: Space::Pci, addr: sbdf.0.into(), register: 0, width: Width::Dword, vcpu: None };
        let id = u64::from(*device) << 16 | 0x8086;
        assert!(matches!(bus.read(&target, &hint), Outcome::Ok(v) if v == id), "who it is has changed");
        for p in endpoint.with_config(|c| c.placements().collect::<Vec<_>>()) {
            // As large as it was declared, and aligned to that.
            let size = p.last - p.start + 1;
            assert!(size.is_power_of_two() && p.start % size == 0 && p.start != 0, "{p:?}");
            // Decoded here, unless something else is there.
            let target =
                Target { space: p.space, addr: p.start, register: 0, width: Width::Dword, vcpu: None };
            let Outcome::Ok(value) = bus.read(&target, &hint) else { continue };
            assert!(
                BARS.iter().any(|(index, _)| u64::from(*index) << 24 == value & 0xff00_0000),
                "{value:#x}"
            );
        }
    }
    for (sbdf, _, endpoint) in functions {
        assert!(endpoint.detach().is_ok());
        let target =
            Target { space: Space::Pci, addr: sbdf.0.into(), register: 0, width: Width::Dword, vcpu: None };
        assert!(matches!(bus.read(&target, &hint), Outcome::Err(_)));
    }
    // Nothing is left behind.
    assert_eq!(format!("{bus:?}"), "{}");
}
