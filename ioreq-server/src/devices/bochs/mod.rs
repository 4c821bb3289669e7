//! A display that a stock Linux guest draws its console on (module `bochs`): a PCI function with a framebuffer (BAR 0) and
//! registers (BAR 2; QEMU's docs/specs/standard-vga.rst).
//!
//! The framebuffer is memory of the guest's: it is moved to wherever the guest puts BAR 0, so that the guest draws at its own
//! speed. It stays the guest's when the display is gone.

mod edid;

use std::sync::Arc;

use parking_lot::Mutex;
use xen_ioreq::{Gfn, PAGE_SIZE};

use self::edid::EDID;
use crate::pci::{AttachError, Bar, ConfigBuilder, ConfigSpace, Function, PciEndpoint, Sbdf};
use crate::{Access, Bus, Dm, GuestMemory, IoError, MemoryError, Outcome, Width};

/// In BAR 2: the EDID from 0 on, the DISPI registers (16 bits each), and two of QEMU's: the size of these, and the byte order.
const DISPI: u64 = 0x500;
const EXTENSION: u64 = 0x600;
const BYTE_ORDER: u64 = 0x604;
const LITTLE_ENDIAN: u64 = 0x1e1e_1e1e;
/// DISPI registers, by number.
const ID: usize = 0;
const XRES: usize = 1;
const YRES: usize = 2;
const BPP: usize = 3;
const ENABLE: usize = 4;
const VIRT_WIDTH: usize = 6;
const X_OFFSET: usize = 8;
const Y_OFFSET: usize = 9;
const MEMORY_64K: usize = 10;
const ID5: u16 = 0xb0c5;

/// What a display shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Red, green, blue of each pixel, line by line from the top.
    pub rgb: Vec<u8>,
}

/// There is no picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// The guest has not set a mode of 32 bits a pixel.
    #[error("the guest has not set a mode of 32 bits")]
    NoMode,
    /// What it shows is not all in the framebuffer, or is not there.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// The display.
pub struct BochsDisplay {
    dm: Dm,
    memory: GuestMemory,
    dispi: Mutex<[u16; 11]>,
    /// Where the framebuffer is.
    at: Mutex<Gfn>,
}

impl BochsDisplay {
    /// Frames of the framebuffer: 16 MiB.
    pub const FRAMES: u32 = 4096;
    /// The same in bytes.
    pub const BYTES: u64 = Self::FRAMES as u64 * PAGE_SIZE as u64;

    /// Plugs a display in. Its framebuffer are the [`FRAMES`](Self::FRAMES) frames of the guest's from `first` on, where they
    /// wait until the guest has placed the BAR.
    ///
    /// # Errors
    /// The address is taken.
    pub fn attach(
        bus: &Arc<Bus>,
        sbdf: Sbdf,
        dm: Dm,
        memory: GuestMemory,
        first: Gfn,
    ) -> Result<Arc<Self>, AttachError> {
        let config = ConfigBuilder::new(0x1234, 0x1111)
            .class(0x03, 0x80, 0)
            .revision(2)
            .subsystem(0x1af4, 0x1100)
            .bar(0, Bar::mem32(Self::BYTES).prefetchable())
            .bar(2, Bar::mem32(0x1000))
            .build()?;
        let mut dispi = [0; 11];
        dispi[ID] = ID5;
        dispi[MEMORY_64K] = u16::try_from(Self::BYTES >> 16).unwrap_or(u16::MAX);
        let display = Arc::new(Self { dm, memory, dispi: Mutex::new(dispi), at: Mutex::new(first) });
        PciEndpoint::attach(bus, sbdf, config, display.clone())?;
        Ok(display)
    }

    /// Copies what is shown.
    ///
    /// # Errors
    /// See [`PictureError`].
    pub fn picture(&self) -> Result<Picture, PictureError> {
        let registers = *self.dispi.lock();
        let register = |number: usize| registers.get(number).copied().map_or(0, u32::from);
        let (width, height) = (register(XRES), register(YRES));
        if register(ENABLE) & 1 == 0 || register(BPP) != 32 || width == 0 || height == 0 {
            return Err(PictureError::NoMode);
        }
        let stride = u64::from(register(VIRT_WIDTH).max(width));
        let memory = self.memory.buffer(self.at.lock().0 * PAGE_SIZE as u64, Self::BYTES)?;
        let mut row = vec![0; usize::try_from(4 * width).unwrap_or(0)];
        let mut rgb = Vec::new();
        for line in 0..height {
            // The guest may say what it likes: what is outside is an error of the buffer's.
            let pixel = u64::from(register(Y_OFFSET) + line) * stride + u64::from(register(X_OFFSET));
            memory.read(4 * pixel, &mut row)?;
            let (pixels, _) = row.as_chunks();
            rgb.extend(pixels.iter().flat_map(|[blue, green, red, _]| [*red, *green, *blue]));
        }
        Ok(Picture { width, height, rgb })
    }
}

/// The number of the DISPI register at an offset of BAR 2.
fn register(offset: u64) -> Option<usize> {
    let number = usize::try_from(offset.checked_sub(DISPI)? / 2).ok()?;
    (offset.is_multiple_of(2) && number <= MEMORY_64K).then_some(number)
}

impl Function for BochsDisplay {
    fn name(&self) -> &str {
        "bochs-display"
    }

    fn bar_read(&self, access: &Access) -> Outcome<u64> {
        let value = match (access.region.0, access.offset, access.width) {
            (2, EXTENSION, Width::Dword) => Some(8),
            (2, BYTE_ORDER, Width::Dword) => Some(LITTLE_ENDIAN),
            (2, at, Width::Word) => {
                register(at).and_then(|number| self.dispi.lock().get(number).copied()).map(u64::from)
            }
            (2, at, Width::Byte) => usize::try_from(at).ok().and_then(|at| EDID.get(at)).map(|b| (*b).into()),
            _ => None,
        };
        value.ok_or(IoError::NoRegister).into()
    }

    fn bar_write(&self, access: &Access, value: u64) -> Outcome<()> {
        let number =
            register(access.offset).filter(|n| access.region.0 == 2 && ![ID, MEMORY_64K].contains(n));
        if let (Some(number), Width::Word, Ok(value)) = (number, access.width, u16::try_from(value))
            && let Some(register) = self.dispi.lock().get_mut(number)
        {
            *register = value;
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
            match self.dm.relocate_memory(*at, to, Self::FRAMES) {
                Ok(()) => *at = to,
                Err(e) => log::warn!("{}: the framebuffer stays at {}: {e}", self.dm.domid(), *at),
            }
        }
    }
}

impl std::fmt::Debug for BochsDisplay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BochsDisplay").field("domid", &self.dm.domid()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use mock_xen::{Config, DomainConfig, Machine};
    use xen_ioreq::{DomId, VcpuId};

    use super::*;
    use crate::devices::populate;
    use crate::pci::{Cf8Latch, regs};
    use crate::{BufferedMode, Connection, Guest, GuestLoop, OnError, Server};

    const SBDF: Sbdf = Sbdf::new(0, 0, 0x10, 0);
    const PARKED: Gfn = Gfn(0xfd_0000);

    /// What a guest's driver does, by a vCPU of the model: places the BARs, sets a mode, draws, moves the framebuffer.
    #[test]
    fn a_driver_draws_a_picture_that_moves_with_its_bar() {
        const FIRST: u32 = 0xe000_0000;
        const SECOND: u32 = 0xd000_0000;
        const REGISTERS: u32 = 0xf000_0000;
        let machine = Machine::new(Config::default()).unwrap();
        let max_pages = BochsDisplay::FRAMES.into();
        let domid = machine.create_domain(&DomainConfig { max_pages, ..DomainConfig::default() }).unwrap();
        let xen = Arc::new(machine.caller(DomId(0)).unwrap());
        let conn = Connection::new(xen.clone(), xen.clone());
        let server = Server::create(&conn, domid, BufferedMode::Atomic).unwrap().map().unwrap();
        let server = server.enable().unwrap();
        let bus = Bus::new(server.claims());
        Cf8Latch::attach(&bus).unwrap();
        populate(&*xen, domid, PARKED, BochsDisplay::FRAMES).unwrap();
        let (dm, memory) = (server.dm().clone(), server.guest_memory());
        let display = BochsDisplay::attach(&bus, SBDF, dm, memory, PARKED).unwrap();
        let mut serving = GuestLoop::new().unwrap();
        serving.add(Guest::new(server, bus, Arc::new(()), OnError::AllOnes)).unwrap();
        let handle = serving.handle();
        let thread = std::thread::spawn(move || serving.run());
        let driver = machine.vcpu(domid, VcpuId(0)).unwrap();
        let configure = |register: u16, value: u32| {
            driver.pio_write(0xcf8, 4, 0x8000_0000 | SBDF.0 << 8 | u32::from(register)).unwrap();
            driver.pio_write(0xcfc, 4, value).unwrap();
        };
        let register = |number: usize| u64::from(REGISTERS) + DISPI + 2 * number as u64;

        assert_eq!(display.picture(), Err(PictureError::NoMode));
        configure(regs::BAR0, FIRST);
        configure(regs::BAR0 + 8, REGISTERS);
        configure(regs::COMMAND, regs::COMMAND_MEMORY.into());
        assert_eq!(driver.mmio_read(register(ID), 2).unwrap(), ID5.into());
        assert_eq!(driver.mmio_read(register(MEMORY_64K), 2).unwrap() << 16, BochsDisplay::BYTES);
        let edid: Vec<u64> =
            (0..128).map(|at| driver.mmio_read(u64::from(REGISTERS) + at, 1).unwrap()).collect();
        assert_eq!((edid[1], edid.iter().sum::<u64>() % 0x100), (0xff, 0), "an EDID and its check sum");
        for (number, value) in
            [(BPP, 32), (XRES, 4), (YRES, 2), (VIRT_WIDTH, 8), (Y_OFFSET, 1), (ENABLE, 0x41)]
        {
            driver.mmio_write(register(number), 2, value).unwrap();
        }
        // The last pixel of the first row, of a line of 8: no request comes of it, it is memory.
        driver.ram_write(u64::from(FIRST) + 4 * (8 + 3), &0x00cc_8844u32.to_le_bytes()).unwrap();
        let mut rgb = vec![0; 4 * 2 * 3];
        rgb[9..12].copy_from_slice(&[0xcc, 0x88, 0x44]);
        let shown = Picture { width: 4, height: 2, rgb };
        assert_eq!(display.picture(), Ok(shown.clone()));
        configure(regs::BAR0, SECOND);
        assert_eq!(display.picture(), Ok(shown), "the framebuffer has moved with its BAR");
        assert!(driver.ram_write(FIRST.into(), &[0]).is_err(), "and left nothing behind");
        for number in [VIRT_WIDTH, YRES] {
            driver.mmio_write(register(number), 2, 0xffff).unwrap();
        }
        assert!(matches!(display.picture(), Err(PictureError::Memory(_))), "not all in the framebuffer");
        handle.stop();
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn a_guest_without_room_for_the_frames_is_told_how_many_it_has() {
        let machine = Machine::new(Config::default()).unwrap();
        let domid =
            machine.create_domain(&DomainConfig { max_pages: 600, ..DomainConfig::default() }).unwrap();
        let xen = machine.caller(DomId(0)).unwrap();
        let wanted = BochsDisplay::FRAMES.into();
        let error = populate(&xen, domid, PARKED, BochsDisplay::FRAMES).unwrap_err();
        assert_eq!(error, crate::devices::PopulateError::TooFew { domid, got: 600, wanted });
    }
}
