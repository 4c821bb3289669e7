//! The device: a PCI function with a framebuffer (BAR 0) and registers (BAR 2; QEMU's docs/specs/standard-vga.rst).
//!
//! The framebuffer is memory of the guest's: it is populated once, and moved to wherever the guest puts BAR 0, so that the
//! guest draws at its own speed. It stays the guest's when the display is gone.

use std::sync::Arc;

use ioreq_server::pci::{Bar, ConfigBuilder, ConfigSpace, Function, PciEndpoint, Sbdf};
use ioreq_server::{Access, Dm, GuestMemory, IoError, Outcome, Width};
use parking_lot::Mutex;
use xen_ioreq::abi::memory::{XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::seam::MemoryOp;
use xen_ioreq::{DomId, Gfn, PAGE_SIZE};
use zerocopy::IntoBytes as _;

use crate::edid::EDID;
use crate::harness::{Result, Slot};

pub(crate) const SBDF: Sbdf = Sbdf::new(0, 0, 0x10, 0);
/// Frames of the framebuffer: 16 MiB.
pub(crate) const FRAMES: u32 = 4096;
pub(crate) const BYTES: u64 = FRAMES as u64 * PAGE_SIZE as u64;
/// Where they are until the guest has placed the BAR: where no guest of ours has anything, on a 2 MiB boundary.
const PARKED: Gfn = Gfn(0xfd_0000);

/// In BAR 2: the EDID from 0 on, the DISPI registers (16 bits each), and two of QEMU's: the size of these, and the byte order.
pub(crate) const DISPI: u64 = 0x500;
const EXTENSION: u64 = 0x600;
const BYTE_ORDER: u64 = 0x604;
const LITTLE_ENDIAN: u64 = 0x1e1e_1e1e;
/// DISPI registers, by number.
pub(crate) const ID: usize = 0;
pub(crate) const XRES: usize = 1;
pub(crate) const YRES: usize = 2;
pub(crate) const BPP: usize = 3;
pub(crate) const ENABLE: usize = 4;
pub(crate) const VIRT_WIDTH: usize = 6;
const X_OFFSET: usize = 8;
pub(crate) const Y_OFFSET: usize = 9;
pub(crate) const MEMORY_64K: usize = 10;
pub(crate) const ID5: u16 = 0xb0c5;

pub(crate) struct Display {
    dm: Dm,
    memory: GuestMemory,
    dispi: Mutex<[u16; 11]>,
    /// Where the framebuffer is.
    at: Mutex<Gfn>,
}

impl Display {
    /// Populates the framebuffer and plugs the function in.
    pub(crate) fn plug(slot: &Slot<'_>) -> Result<Arc<Self>> {
        populate(slot.frames, slot.dm.domid())?;
        let config = ConfigBuilder::new(0x1234, 0x1111)
            .class(0x03, 0x80, 0)
            .revision(2)
            .subsystem(0x1af4, 0x1100)
            .bar(0, Bar::mem32(BYTES).prefetchable())
            .bar(2, Bar::mem32(0x1000))
            .build()?;
        let mut dispi = [0; 11];
        dispi[ID] = ID5;
        dispi[MEMORY_64K] = u16::try_from(BYTES >> 16)?;
        let (dm, memory) = (slot.dm.clone(), slot.memory.clone());
        let display = Arc::new(Self { dm, memory, dispi: Mutex::new(dispi), at: Mutex::new(PARKED) });
        PciEndpoint::attach(slot.bus, SBDF, config, display.clone())?;
        Ok(display)
    }

    /// Width, height, and RGB of what is shown.
    pub(crate) fn picture(&self) -> Result<(u32, u32, Vec<u8>)> {
        let r = self.dispi.lock().map(u64::from);
        if r[ENABLE] & 1 == 0 || r[BPP] != 32 || r[XRES] == 0 || r[YRES] == 0 {
            return Err("the guest has not set a mode of 32 bits".into());
        }
        let stride = r[VIRT_WIDTH].max(r[XRES]);
        let memory = self.memory.buffer(self.at.lock().0 * PAGE_SIZE as u64, BYTES)?;
        let mut row = vec![0; usize::try_from(4 * r[XRES])?];
        let mut rgb = Vec::new();
        for y in 0..r[YRES] {
            // The guest may say what it likes: what is outside is an error of the buffer's.
            memory.read(4 * ((r[Y_OFFSET] + y) * stride + r[X_OFFSET]), &mut row)?;
            rgb.extend(row.chunks_exact(4).flat_map(|bgrx| [bgrx[2], bgrx[1], bgrx[0]]));
        }
        Ok((r[XRES].try_into()?, r[YRES].try_into()?, rgb))
    }
}

/// Gives the guest the frames, in large pages as far as the host has some.
fn populate(xen: &dyn MemoryOp, domid: DomId) -> Result<()> {
    let mut next = 0;
    for order in [9, 0] {
        let mut list: Vec<u64> =
            (next..u64::from(FRAMES)).step_by(1 << order).map(|i| PARKED.0 + i).collect();
        let nr_extents = list.len() as u64;
        let mut reservation =
            xen_memory_reservation { nr_extents, extent_order: order, domid: domid.0, ..Default::default() };
        let done = xen.memory_op(XENMEM_populate_physmap, reservation.as_mut_bytes(), &mut list)?;
        next += u64::try_from(done)? << order;
        if next == u64::from(FRAMES) {
            return Ok(());
        }
    }
    Err(format!("{domid}: Xen has only {next} of {FRAMES} frames for its framebuffer").into())
}

/// The number of the DISPI register at an offset of BAR 2.
fn register(offset: u64) -> Option<usize> {
    let number = usize::try_from(offset.checked_sub(DISPI)? / 2).ok()?;
    (offset.is_multiple_of(2) && number <= MEMORY_64K).then_some(number)
}

impl Function for Display {
    fn name(&self) -> &str {
        "bochs-display"
    }

    fn bar_read(&self, access: &Access) -> Outcome<u64> {
        let value = match (access.region.0, access.offset, access.width) {
            (2, EXTENSION, Width::Dword) => Some(8),
            (2, BYTE_ORDER, Width::Dword) => Some(LITTLE_ENDIAN),
            (2, at, Width::Word) => register(at).map(|number| self.dispi.lock()[number].into()),
            (2, at, Width::Byte) => usize::try_from(at).ok().and_then(|at| EDID.get(at)).map(|b| (*b).into()),
            _ => None,
        };
        value.ok_or(IoError::NoRegister).into()
    }

    fn bar_write(&self, access: &Access, value: u64) -> Outcome<()> {
        let number =
            register(access.offset).filter(|n| access.region.0 == 2 && ![ID, MEMORY_64K].contains(n));
        if let (Some(number), Width::Word, Ok(value)) = (number, access.width, u16::try_from(value)) {
            self.dispi.lock()[number] = value;
        }
        // Nothing else is for writing, which on hardware is no error.
        Outcome::Ok(())
    }

    fn config_written(&self, _: &Access, config: &ConfigSpace) {
        // While decoding is off, as it is whenever a guest sizes BARs, the memory stays where it was.
        let Some(bar) = config.placements().find(|p| p.index == 0) else { return };
        let to = Gfn(bar.start / PAGE_SIZE as u64);
        let mut at = self.at.lock();
        if *at != to {
            match self.dm.relocate_memory(*at, to, FRAMES) {
                Ok(()) => *at = to,
                Err(e) => eprintln!("the framebuffer stays at {}: {e}", *at),
            }
        }
    }
}
