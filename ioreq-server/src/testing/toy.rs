//! A device of three small memories behind a slot and an executor, and what it has to do with: guest RAM with a hole, an
//! emulator that records what it is told.
#![allow(clippy::cast_possible_truncation, reason = "offsets in small arrays")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use xen_ioreq::abi::ioreq::{Bits, ioreq};
use xen_ioreq::seam::DmOp;
use xen_ioreq::{DomId, Errno, IoServerId, PAGE_SIZE, Port, VcpuId};
use zerocopy::IntoBytes;

use super::{Pages, Ram, Sent};
use crate::bus::{Bus, Hint, Window};
use crate::claims::LocalClaims;
use crate::device::{Access, Device, MmioDevice, PciConfigDevice, PioDevice, Region, Space};
use crate::dm::Dm;
use crate::exec::Exec;
use crate::guest::{Notices, OnError};
use crate::memory::GuestMemory;
use crate::outcome::{Deferred, IoError, Outcome};
use crate::request::Invalidation;
use crate::slot::{Slots, VcpuPort};
use crate::traps::WriteTraps;

pub(crate) const PORTS: u64 = 0xc000;
pub(crate) const MEMORY: u64 = 0xf000_0000;
pub(crate) const FUNCTION: u64 = 0x10;
pub(crate) const SIZE: usize = 64;
pub(crate) const RAM_PAGES: usize = 3;
/// The middle page of guest RAM is ballooned out.
pub(crate) const HOLE: u64 = 1;

/// How the device answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Prompt,
    /// Defers everything and answers at once.
    DefersAnswered,
    /// Defers everything; the test answers.
    DefersQueued,
    /// Fails from the n-th access on.
    FailsAt(u64),
    /// Panics at the n-th access.
    PanicsAt(u64),
    /// Defers and drops the obligation.
    Forgets,
}

pub(crate) type Late = (Deferred, Result<u64, IoError>);

/// Three small memories, one in each space.
pub(crate) struct Toy {
    pub(crate) cells: [Mutex<Vec<u8>>; 3],
    mood: Mood,
    pub(crate) count: AtomicU64,
    pub(crate) late: Mutex<Vec<Late>>,
}

impl Toy {
    fn access(&self, space: Space, a: &Access, write: Option<u64>) -> Outcome<u64> {
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        match self.mood {
            Mood::FailsAt(at) if n >= at => return Outcome::Err(IoError::Broken("as told")),
            Mood::PanicsAt(at) if n >= at => panic!("as told"),
            _ => {}
        }
        let mut cells = self.cells[space as usize].lock();
        let start = a.offset as usize;
        let Some(part) = cells.get_mut(start..start + a.width.bytes() as usize) else {
            return Outcome::Err(IoError::NoRegister);
        };
        let value = match write {
            Some(v) => {
                part.copy_from_slice(&v.to_le_bytes()[..part.len()]);
                0
            }
            None => {
                let mut bytes = [0xaa; 8];
                bytes[..part.len()].copy_from_slice(part);
                u64::from_le_bytes(bytes)
            }
        };
        drop(cells);
        match self.mood {
            Mood::DefersAnswered => {
                let (token, defer) = Deferred::new();
                token.answer(Ok(value));
                Outcome::Defer(defer)
            }
            Mood::DefersQueued => {
                let (token, defer) = Deferred::new();
                self.late.lock().push((token, Ok(value)));
                Outcome::Defer(defer)
            }
            Mood::Forgets => {
                let (token, defer) = Deferred::new();
                drop(token);
                Outcome::Defer(defer)
            }
            _ => Outcome::Ok(value),
        }
    }

    fn write(&self, space: Space, a: &Access, value: u64) -> Outcome<()> {
        match self.access(space, a, Some(value)) {
            Outcome::Ok(_) => Outcome::Ok(()),
            Outcome::Err(e) => Outcome::Err(e),
            Outcome::Defer(d) => Outcome::Defer(d),
        }
    }
}

impl Device for Toy {
    fn name(&self) -> &str {
        "toy"
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

impl PioDevice for Toy {
    fn pio_read(&self, a: &Access) -> Outcome<u64> {
        self.access(Space::Pio, a, None)
    }
    fn pio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Pio, a, value)
    }
}

impl MmioDevice for Toy {
    fn mmio_read(&self, a: &Access) -> Outcome<u64> {
        self.access(Space::Mmio, a, None)
    }
    fn mmio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Mmio, a, value)
    }
}

impl PciConfigDevice for Toy {
    fn config_read(&self, a: &Access) -> Outcome<u64> {
        self.access(Space::Pci, a, None)
    }
    fn config_write(&self, a: &Access, value: u64) -> Outcome<()> {
        self.write(Space::Pci, a, value)
    }
}

#[derive(Default)]
pub(crate) struct Heard(pub(crate) Mutex<Vec<Invalidation>>, pub(crate) Mutex<Vec<i64>>);

impl Notices for Heard {
    fn invalidate(&self, what: Invalidation) {
        self.0.lock().push(what);
    }
    fn time_offset(&self, seconds: i64) {
        self.1.lock().push(seconds);
        assert_ne!(seconds, 666, "as told");
    }
}

#[derive(Default)]
pub(crate) struct Ops(pub(crate) Mutex<Vec<u32>>);

impl DmOp for Ops {
    fn dm_op(&self, _: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        self.0.lock().push(u32::from_le_bytes(bufs[0][..4].try_into().unwrap()));
        Ok(())
    }
}

pub(crate) struct Rig {
    pub(crate) toy: Arc<Toy>,
    pub(crate) ram: Arc<Ram>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) ops: Arc<Ops>,
    pub(crate) exec: Arc<Exec>,
    pub(crate) pages: Pages,
    pub(crate) slots: Arc<Slots>,
    pub(crate) sent: Arc<Sent>,
}

pub(crate) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed)).collect()
}

pub(crate) fn rig(mood: Mood, on_error: OnError) -> Rig {
    let cells = [1, 2, 3].map(|seed| Mutex::new(pattern(seed, SIZE)));
    let toy = Arc::new(Toy { cells, mood, count: AtomicU64::new(0), late: Mutex::default() });
    let bus = Bus::new(Arc::new(LocalClaims::default()));
    let id = bus.attach(toy.clone());
    let size = SIZE as u64;
    for (space, start, last) in [
        (Space::Pio, PORTS, PORTS + size - 1),
        (Space::Mmio, MEMORY, MEMORY + size - 1),
        (Space::Pci, FUNCTION, FUNCTION),
    ] {
        bus.map(id, Window { space, start, last, region: Region(0) }).unwrap();
    }
    let ram = Ram::new(RAM_PAGES, &[HOLE]);
    ram.pages.write(0, &pattern(9, RAM_PAGES * PAGE_SIZE));
    let heard = Arc::new(Heard::default());
    let ops = Arc::new(Ops::default());
    let exec = Arc::new(Exec {
        bus,
        memory: GuestMemory::new(ram.clone(), DomId(3)),
        dm: Dm::new(ops.clone(), DomId(3)),
        traps: Arc::new(WriteTraps::new(Dm::new(ops.clone(), DomId(3)), IoServerId(0), None)),
        notices: heard.clone(),
        on_error,
        stats: Arc::default(),
    });
    let pages = Pages::new(1);
    let sent = Arc::new(Sent::default());
    let vcpus = vec![VcpuPort { vcpu: VcpuId(0), port: Port(1) }];
    let slots = Arc::new(Slots::new(pages.mapping(), vcpus, sent.clone()));
    Rig { toy, ram, heard, ops, exec, pages, slots, sent }
}

impl Rig {
    /// Sends a request; the answer, or `None` while it is deferred.
    pub(crate) fn send(&self, request: &ioreq) -> Option<u64> {
        self.sent.0.lock().clear();
        self.pages.write(0, request.as_bytes());
        let taken = self.slots.take(0).expect("READY");
        self.exec.sync(taken, &mut self.exec.bus.session(), &Hint::default());
        self.answer()
    }

    /// As if these came by the buffered ring.
    pub(crate) fn buffered(&self, batch: &[ioreq]) {
        self.exec.buffered(batch, &mut self.exec.bus.session(), &Hint::default());
    }

    pub(crate) fn answer(&self) -> Option<u64> {
        match Bits::unpack(self.pages.read::<1>(30)[0]).state {
            2 => {
                assert!(self.sent.0.lock().is_empty());
                None
            }
            3 => {
                assert_eq!(*self.sent.0.lock(), [Port(1)]);
                Some(self.pages.u64(8))
            }
            other => panic!("state {other}"),
        }
    }

    pub(crate) fn cells(&self) -> [Vec<u8>; 3] {
        [0, 1, 2].map(|i| self.toy.cells[i].lock().clone())
    }

    pub(crate) fn ram(&self) -> Vec<u8> {
        self.ram.pages.read::<{ RAM_PAGES * PAGE_SIZE }>(0).to_vec()
    }
}
