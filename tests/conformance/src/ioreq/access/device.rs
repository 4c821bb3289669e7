//! The device of the rows: ports, a page of memory and a PCI function that keep what is written to them.
//!
//! One port is a stream: each read takes the next bytes of 0, 1, 2, ..., so a repetition that is lost, doubled or out of
//! order shows in what the guest got.

use std::sync::{Mutex, PoisonError};

use guest::rows::{LINE, Line, MSI, NEXT, ORDER, Order, PORT, PORTS, Table};
use ioreq_server::device::Region;
use ioreq_server::dm::{DirtyVram, DmError, IsaIrq, MemType, PciLink, Pin};
use ioreq_server::pci::Sbdf;
use ioreq_server::{Access, Device, Dm, IoError, MmioDevice, Outcome, PciConfigDevice, PioDevice, Width};
use xen_ioreq::{Errno, Gfn, IoServerId, PAGE_SIZE, VcpuId};

use super::together::Together;

/// Offset of the stream among the ports.
const STREAM: u64 = 8;
/// Offset of the port at which a table is asked for.
const ASK_NEXT: u64 = (NEXT - PORT) as u64;
/// Offset of the port at which an MSI is asked for.
const ASK: u64 = (MSI - PORT) as u64;
/// Offset of the port at which something is to be done with a frame.
const DO: u64 = (ORDER - PORT) as u64;
/// Offset of the port at which an interrupt line is to be changed.
const DRIVE: u64 = (LINE - PORT) as u64;
/// Its memory.
pub(super) const MEMORY: Region = Region(0);
/// The VGA window.
pub(super) const WINDOW: Region = Region(1);
/// Offsets in the memory at which CPUs meet.
const MEETINGS: std::ops::Range<u64> = 0x400..0x800;
/// Vendor 8086, device 1616, class 0300.
const CONFIG: [(usize, u8); 6] = [(0, 0x86), (1, 0x80), (2, 0x16), (3, 0x16), (10, 0), (11, 3)];
/// Where the local APIC with number 0 takes messages; a vCPU's has twice its number, which goes into bits 12 to 19.
const APIC: u64 = 0xfee0_0000;

/// See the head of the module.
pub(super) struct RowsDevice {
    dm: Dm,
    server: IoServerId,
    table: Table,
    together: Together,
    state: Mutex<State>,
}

struct State {
    ports: Vec<u8>,
    memory: Vec<u8>,
    config: Vec<u8>,
    stream: u8,
    tracked: Option<DirtyVram>,
    /// Who is still to be given the table.
    performers: Vec<VcpuId>,
}

impl RowsDevice {
    /// `server` is the one whose `dm` this is; the vCPUs `performers` are given `table`, each once.
    pub(super) fn new(dm: Dm, server: IoServerId, table: Table, performers: &[VcpuId]) -> Self {
        let mut config = vec![0; 256];
        for (at, byte) in CONFIG {
            config[at] = byte;
        }
        let state = State {
            ports: vec![0; usize::from(PORTS)],
            memory: vec![0; PAGE_SIZE],
            config,
            stream: 0,
            tracked: None,
            performers: performers.to_vec(),
        };
        Self { dm, server, table, together: Together::new(performers.len()), state: Mutex::new(state) }
    }

    /// Does what the guest asks for with a frame; what came of it, as the guest is told.
    fn obey(&self, word: u32) -> u32 {
        let gfn = Gfn((word >> 4).into());
        let Some(order) = Order::ALL.into_iter().find(|o| *o as u32 == word & 0xf) else { return u32::MAX };
        told(self.perform(order, gfn))
    }

    /// The same with an interrupt line.
    fn drive(&self, word: u32) -> u32 {
        let Some(line) = Line::of_word(word) else { return u32::MAX };
        let done = match line {
            Line::Isa { irq, up } => IsaIrq::new(irq).map(|irq| self.dm.set_isa_irq(irq, up)),
            Line::Intx { device, pin, up } => [Pin::A, Pin::B, Pin::C, Pin::D]
                .get(usize::from(pin))
                .map(|pin| self.dm.set_pci_intx(Sbdf::new(0, 0, device, 0), *pin, up)),
            Line::Link { link, irq } => {
                let to = IsaIrq::new(irq).filter(|i| i.number() != 0);
                PciLink::new(link).map(|link| self.dm.set_pci_link_route(link, to))
            }
        };
        done.map_or(REFUSED | Errno::EINVAL.0.unsigned_abs(), |done| told(done.map(|()| 0)))
    }

    fn perform(&self, order: Order, gfn: Gfn) -> Result<u32, DmError> {
        match order {
            Order::Claim => self.dm.claim_mem_type(self.server)?,
            Order::Protect => self.dm.set_mem_type(gfn, 1, MemType::IoreqServer)?,
            Order::Plain => self.dm.set_mem_type(gfn, 1, MemType::RamRw)?,
            Order::ReadOnly => self.dm.set_mem_type(gfn, 1, MemType::RamRo)?,
            Order::Release => self.dm.release_mem_type(self.server)?,
            Order::Track => {
                let tracked = self.dm.track_dirty_vram(gfn, 2)?;
                self.with(|s| s.tracked = Some(tracked));
            }
            Order::Written => {
                return self.with(|s| match &mut s.tracked {
                    Some(tracked) => Ok(tracked.dirty()?.map(|f| 1 << (f.0 - gfn.0)).sum()),
                    None => Ok(u32::MAX),
                });
            }
            Order::Untrack => self.with(|s| s.tracked = None),
        }
        Ok(0)
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Above an error's number.
const REFUSED: u32 = 1 << 31;

/// What came of something, as the guest is told.
fn told(done: Result<u32, DmError>) -> u32 {
    done.unwrap_or_else(|e| REFUSED | e.errno.0.unsigned_abs())
}

fn part(bytes: &mut [u8], offset: u64, width: Width) -> Option<&mut [u8]> {
    let at = usize::try_from(offset).ok()?;
    bytes.get_mut(at..at.checked_add(width.bytes() as usize)?)
}

fn load(bytes: &mut [u8], a: &Access) -> Outcome<u64> {
    match part(bytes, a.offset, a.width) {
        Some(part) => Outcome::Ok(part.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))),
        None => Outcome::Err(IoError::NoRegister),
    }
}

fn store(bytes: &mut [u8], a: &Access, value: u64) -> Outcome<()> {
    match part(bytes, a.offset, a.width) {
        Some(part) => {
            for (to, from) in part.iter_mut().zip(value.to_le_bytes()) {
                *to = from;
            }
            Outcome::Ok(())
        }
        None => Outcome::Err(IoError::NoRegister),
    }
}

impl PioDevice for RowsDevice {
    fn pio_read(&self, a: &Access) -> Outcome<u64> {
        self.with(|s| {
            if a.offset == ASK_NEXT {
                let due = s.performers.iter().position(|v| Some(*v) == a.vcpu);
                return Outcome::Ok(due.map_or(0, |i| {
                    s.performers.swap_remove(i);
                    self.table as u64
                }));
            }
            if a.offset != STREAM {
                return load(&mut s.ports, a);
            }
            let mut value = 0;
            for shift in (0..a.width.bytes()).map(|i| 8 * i) {
                value |= u64::from(s.stream) << shift;
                s.stream = s.stream.wrapping_add(1);
            }
            Outcome::Ok(value)
        })
    }

    fn pio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        if a.offset == ASK && a.width == Width::Dword {
            let [vector, ..] = value.to_le_bytes();
            // A refusal shows as an MSI that does not come.
            let apic = u64::from(a.vcpu.unwrap_or_default().0) * 2;
            let _ = self.dm.inject_msi(APIC | apic << 12, vector.into());
            return Outcome::Ok(());
        }
        if matches!(a.offset, DO | DRIVE) && a.width == Width::Dword {
            let [b0, b1, b2, b3, ..] = value.to_le_bytes();
            let word = u32::from_le_bytes([b0, b1, b2, b3]);
            let done = if a.offset == DO { self.obey(word) } else { self.drive(word) };
            return self.with(|s| store(&mut s.ports, a, done.into()));
        }
        self.with(|s| store(&mut s.ports, a, value))
    }
}

impl MmioDevice for RowsDevice {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        if a.region == WINDOW {
            return Outcome::Err(IoError::NoRegister);
        }
        if MEETINGS.contains(&a.offset) {
            return self.together.read(a);
        }
        self.with(|s| load(&mut s.memory, a))
    }

    fn mmio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        if a.region == WINDOW {
            self.together.vga(a, value);
            return Outcome::Ok(());
        }
        if MEETINGS.contains(&a.offset) {
            return self.together.write(a, value);
        }
        self.with(|s| store(&mut s.memory, a, value))
    }
}

impl PciConfigDevice for RowsDevice {
    fn config_read(&self, a: &Access) -> Outcome<u64> {
        self.with(|s| load(&mut s.config, a))
    }

    fn config_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.with(|s| store(&mut s.config, a, value))
    }
}

impl Device for RowsDevice {
    fn name(&self) -> &'static str {
        "the rows' device"
    }

    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }

    fn supports_mmio(&self) -> Option<&dyn MmioDevice> {
        Some(self)
    }

    fn supports_pci(&self) -> Option<&dyn PciConfigDevice> {
        Some(self)
    }
}
