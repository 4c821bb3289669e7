//! Which device answers: our bus against `vm-device`'s, from the address to the value that the device gave.
//!
//! Each range has a device of its own. Both sides read the same addresses, which are drawn anew each round, and must
//! read the same values.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use ioreq_server::bus::{Hint, Target as Where, Window};
use ioreq_server::claims::LocalClaims;
use ioreq_server::{Access, Bus, Device, MmioDevice, Outcome, PioDevice, Region, Space, Width};
use vm_device::bus::{MmioAddress, MmioAddressOffset, MmioRange, PioAddress, PioAddressOffset, PioRange};
use vm_device::device_manager::{IoManager, MmioManager, PioManager};
use vm_device::{DeviceMmio, DevicePio};

use crate::harness::{Figure, Target, interleave, median, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &[
    "dispatch-pio-random",
    "dispatch-pio-run",
    "dispatch-mmio-random",
    "dispatch-mmio-run",
    "dispatch-flat",
];

const ROUNDS: usize = 101;
/// Accesses in a round.
const ACCESSES: usize = 1 << 14;
/// Accesses to consecutive registers of one device, where they come in runs.
const RUN: usize = 16;
/// As many as Xen lets a server have.
const RANGES: usize = 256;

/// Answers with its number and the offset.
#[derive(Clone, Copy)]
struct Echo(u32);

impl Echo {
    fn answer(self, offset: u64) -> u64 {
        u64::from(self.0) << 8 ^ offset
    }
}

impl Device for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }
    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }
}

impl PioDevice for Echo {
    fn pio_read(&self, access: &Access) -> Outcome<u64> {
        Outcome::Ok(self.answer(access.offset))
    }
    fn pio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

impl MmioDevice for Echo {
    fn mmio_read(&self, access: &Access) -> Outcome<u64> {
        Outcome::Ok(self.answer(access.offset))
    }
    fn mmio_write(&self, _: &Access, _: u64) -> Outcome<()> {
        Outcome::Ok(())
    }
}

fn put(data: &mut [u8], value: u64) {
    data.iter_mut().zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
}

impl DevicePio for Echo {
    fn pio_read(&self, _: PioAddress, offset: PioAddressOffset, data: &mut [u8]) {
        put(data, self.answer(offset.into()));
    }
    fn pio_write(&self, _: PioAddress, _: PioAddressOffset, _: &[u8]) {}
}

impl DeviceMmio for Echo {
    fn mmio_read(&self, _: MmioAddress, offset: MmioAddressOffset, data: &mut [u8]) {
        put(data, self.answer(offset));
    }
    fn mmio_write(&self, _: MmioAddress, _: MmioAddressOffset, _: &[u8]) {}
}

/// Ranges of equal size with gaps between them: of ports, or of memory as BARs lie, three quarters below 4 GiB and the rest far
/// above.
struct Layout {
    space: Space,
    ranges: usize,
    /// From one range to the next.
    stride: u64,
    /// Bytes or ports of each.
    size: u64,
}

impl Layout {
    fn new(space: Space, ranges: usize) -> Self {
        let stride = match space {
            // All ports there are.
            Space::Pio => 0x1_0000 / ranges as u64,
            _ => 0x3000,
        };
        Self { space, ranges, stride, size: (stride / 2).min(0x1000) }
    }

    fn start(&self, index: usize) -> u64 {
        let base = match self.space {
            Space::Pio => 0,
            _ if index < self.ranges * 3 / 4 => 0xe000_0000,
            _ => 0x60_0000_0000,
        };
        base + index as u64 * self.stride
    }

    /// Addresses of 4-byte registers: any of any range, or `RUN` in a row of any range.
    fn draw(&self, run: bool, rng: &mut fastrand::Rng) -> Vec<u64> {
        let registers = self.size / 4;
        let mut out = Vec::with_capacity(ACCESSES);
        while out.len() < ACCESSES {
            let (start, first) = (self.start(rng.usize(..self.ranges)), rng.u64(..registers));
            let n = if run { RUN as u64 } else { 1 };
            out.extend((0..n).map(|i| start + (first + i) % registers * 4));
        }
        out
    }

    fn ours(&self) -> Result<Arc<Bus>, String> {
        let bus = Bus::new(Arc::new(LocalClaims::default()));
        for (index, number) in (0..self.ranges).zip(0..) {
            let id = bus.attach(Arc::new(Echo(number)));
            let start = self.start(index);
            let window = Window { space: self.space, start, last: start + self.size - 1, region: Region(0) };
            bus.map(id, window).map_err(|e| e.to_string())?;
        }
        Ok(bus)
    }

    fn theirs(&self) -> Result<IoManager, String> {
        let mut manager = IoManager::new();
        for (index, number) in (0..self.ranges).zip(0..) {
            let (start, device) = (self.start(index), Arc::new(Echo(number)));
            let done = if self.space == Space::Pio {
                let short = |n: u64| u16::try_from(n).map_err(|e| e.to_string());
                let range = PioRange::new(PioAddress(short(start)?), short(self.size)?);
                range.and_then(|range| manager.register_pio(range, device))
            } else {
                let range = MmioRange::new(MmioAddress(start), self.size);
                range.and_then(|range| manager.register_mmio(range, device))
            };
            done.map_err(|e| e.to_string())?;
        }
        Ok(manager)
    }
}

/// Reads them all through ours; the sum of what was read.
fn read_ours(bus: &Bus, space: Space, addresses: &[u64]) -> u64 {
    let (mut session, hint) = (bus.session(), Hint::default());
    let mut sum = 0u64;
    for &addr in addresses {
        let at = Where { space, addr, register: 0, width: Width::Dword, vcpu: None };
        if let Outcome::Ok(value) = session.read(&at, &hint) {
            sum = sum.wrapping_add(value);
        }
    }
    sum
}

fn read_theirs(manager: &IoManager, space: Space, addresses: &[u64]) -> u64 {
    let mut sum = 0u64;
    for &addr in addresses {
        let mut data = [0; 4];
        let done = if space == Space::Pio {
            #[expect(clippy::cast_possible_truncation, reason = "ports")]
            manager.pio_read(PioAddress(addr as u16), &mut data)
        } else {
            manager.mmio_read(MmioAddress(addr), &mut data)
        };
        if done.is_ok() {
            sum = sum.wrapping_add(u32::from_le_bytes(data).into());
        }
    }
    sum
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn ns(seconds: f64) -> f64 {
    seconds / ACCESSES as f64 * 1e9
}

fn compare(name: &'static str, space: Space, run: bool) -> Result<Figure, String> {
    let layout = Layout::new(space, RANGES);
    let (ours, theirs) = (layout.ours()?, layout.theirs()?);
    let rng = RefCell::new(fastrand::Rng::with_seed(11));
    let addresses = RefCell::new(Vec::new());
    let sums = Cell::new((0u64, 0u64));
    let turn = Cell::new(false);
    // Whoever comes first in a round draws.
    let draw = || {
        if !turn.replace(!turn.get()) {
            *addresses.borrow_mut() = layout.draw(run, &mut rng.borrow_mut());
        }
    };
    let (ratio, o, p) = interleave(
        ROUNDS,
        || {
            draw();
            let mut sum = 0;
            let time = seconds(|| sum = read_ours(&ours, space, &addresses.borrow()));
            sums.set((sums.get().0.wrapping_add(sum), sums.get().1));
            time
        },
        || {
            draw();
            let mut sum = 0;
            let time = seconds(|| sum = read_theirs(&theirs, space, &addresses.borrow()));
            sums.set((sums.get().0, sums.get().1.wrapping_add(sum)));
            time
        },
    );
    if sums.get().0 != sums.get().1 || sums.get().0 == 0 {
        return Err("the two buses read different values".into());
    }
    let detail = format!("{:.1} ns an access, vm-device {:.1} ns, {RANGES} ranges", ns(o), ns(p));
    Ok(Figure { name, ratio: 1.0 / ratio, target: Target::AtLeast(2.0), detail })
}

/// Ours with many ranges against ours with few.
fn flat() -> Result<Figure, String> {
    const SIZES: [usize; 3] = [16, 256, 4096];
    let mut rng = fastrand::Rng::with_seed(12);
    let mut sides = SIZES.map(|n| Layout::new(Space::Mmio, n)).map(|layout| (layout.ours(), layout));
    let mut times = [(); SIZES.len()].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for ((bus, layout), times) in sides.iter_mut().zip(&mut times) {
            let bus = bus.as_ref().map_err(Clone::clone)?;
            let addresses = layout.draw(false, &mut rng);
            let mut sum = 0;
            times.push(seconds(|| sum = read_ours(bus, Space::Mmio, &addresses)));
            if sum == 0 {
                return Err("the bus reads nothing".into());
            }
        }
    }
    let [few, _, many] = &times;
    let mut ratios: Vec<f64> = many.iter().zip(few).map(|(m, f)| m / f).collect();
    let each = times.map(|mut t| format!("{:.1}", ns(median(&mut t)))).join(", ");
    let detail = format!("4096 ranges to 16, MMIO, random; an access at 16, 256, 4096: {each} ns");
    Ok(Figure { name: "dispatch-flat", ratio: median(&mut ratios), target: Target::AtMost(2.0), detail })
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    Ok(vec![
        compare("dispatch-pio-random", Space::Pio, false)?,
        compare("dispatch-pio-run", Space::Pio, true)?,
        compare("dispatch-mmio-random", Space::Mmio, false)?,
        compare("dispatch-mmio-run", Space::Mmio, true)?,
        flat()?,
    ])
}
