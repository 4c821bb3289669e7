//! A type 0 configuration space: bytes, which of them the guest may write, and what they mean.
//!
//! Knows nothing of a bus: after a write [`ConfigSpace::placements`] says where the BARs are decoded now.

use super::bar::{Bar, Kind, Placement};
use super::msi::{Message, MsiLine};
use super::regs;
use crate::device::{Space, Width};
use crate::outcome::IoError;

const SIZE: usize = regs::CONFIG_SIZE as usize;
const BARS: usize = 6;

/// A configuration space that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There are BARs 0 to 5, and a 64-bit one needs the next as well.
    #[error("BAR {index} does not exist or is taken")]
    BarIndex {
        /// The BAR.
        index: u8,
    },
    /// Not a power of two, or out of bounds.
    #[error("BAR {index} cannot have {size:#x} bytes")]
    BarSize {
        /// The BAR.
        index: u8,
        /// Its size in bytes.
        size: u64,
    },
    /// Capabilities begin at a multiple of 4 after the header and end inside the space.
    #[error("{len} bytes at {offset:#x} are not in the part of the space that is free for devices")]
    Place {
        /// Byte offset.
        offset: u16,
        /// Length in bytes.
        len: usize,
    },
    /// Something else is there.
    #[error("{offset:#x} is taken")]
    Taken {
        /// Byte offset.
        offset: u16,
    },
    /// A value and its mask of different length.
    #[error("register at {offset:#x}: value and mask differ in length")]
    Mask {
        /// Byte offset.
        offset: u16,
    },
}

/// Power state of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerState {
    /// Working.
    D0,
    /// Suspended.
    D3Hot,
}

/// Builds a [`ConfigSpace`].
#[derive(Clone, Debug)]
pub struct ConfigBuilder {
    space: ConfigSpace,
    /// Bytes from the end of the header on that mean something.
    taken: [bool; SIZE],
    /// Where the offset of the next capability goes.
    link: usize,
    error: Option<ConfigError>,
}

/// What a guest sees of a function.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    value: [u8; SIZE],
    /// Bits that the guest can change.
    writable: [u8; SIZE],
    bars: [Option<Bar>; BARS],
    msi: Option<(usize, MsiLine)>,
    pm: Option<usize>,
}

impl ConfigBuilder {
    /// A function of `vendor` and `device`, with an empty header of type 0.
    pub fn new(vendor: u16, device: u16) -> Self {
        let space =
            ConfigSpace { value: [0; SIZE], writable: [0; SIZE], bars: [None; BARS], msi: None, pm: None };
        let link = usize::from(regs::CAPABILITY_LIST);
        let mut b = Self { space, taken: [false; SIZE], link, error: None };
        b.put(regs::VENDOR_ID, &vendor.to_le_bytes(), &[]);
        b.put(regs::DEVICE_ID, &device.to_le_bytes(), &[]);
        let command = regs::COMMAND_IO
            | regs::COMMAND_MEMORY
            | regs::COMMAND_MASTER
            | regs::COMMAND_PARITY
            | regs::COMMAND_SERR
            | regs::COMMAND_INTX_DISABLE;
        b.put(regs::COMMAND, &[0, 0], &command.to_le_bytes());
        b.put(regs::CACHE_LINE_SIZE, &[0], &[0xff]);
        b.put(regs::LATENCY_TIMER, &[0], &[0xff]);
        b.put(regs::INTERRUPT_LINE, &[0], &[0xff]);
        b
    }

    fn put(&mut self, at: u16, value: &[u8], writable: &[u8]) {
        let at = usize::from(at);
        for (to, from) in self.space.value.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
        for (to, from) in self.space.writable.iter_mut().skip(at).zip(writable) {
            *to = *from;
        }
    }

    fn fail(&mut self, e: ConfigError) {
        // The first one is the one to tell.
        self.error.get_or_insert(e);
    }

    /// Takes a place after the header, for something of `len` bytes.
    fn take(&mut self, offset: u16, len: usize) -> bool {
        let start = usize::from(offset);
        let range = start.checked_add(len).and_then(|end| self.taken.get_mut(start..end));
        match range {
            Some(_) if offset < regs::HEADER_END => self.fail(ConfigError::Place { offset, len }),
            Some(range) if range.contains(&true) => self.fail(ConfigError::Taken { offset }),
            Some(range) => {
                range.fill(true);
                return true;
            }
            None => self.fail(ConfigError::Place { offset, len }),
        }
        false
    }

    /// Base class, subclass and programming interface.
    pub fn class(mut self, base: u8, sub: u8, prog_if: u8) -> Self {
        self.put(regs::PROG_IF, &[prog_if, sub, base], &[]);
        self
    }

    /// Revision.
    pub fn revision(mut self, revision: u8) -> Self {
        self.put(regs::REVISION_ID, &[revision], &[]);
        self
    }

    /// Subsystem vendor and subsystem.
    pub fn subsystem(mut self, vendor: u16, subsystem: u16) -> Self {
        self.put(regs::SUBSYSTEM_VENDOR_ID, &vendor.to_le_bytes(), &[]);
        self.put(regs::SUBSYSTEM_ID, &subsystem.to_le_bytes(), &[]);
        self
    }

    /// Interrupt pin: 0 none, 1 INTA to 4 INTD.
    pub fn interrupt_pin(mut self, pin: u8) -> Self {
        self.put(regs::INTERRUPT_PIN, &[pin], &[]);
        self
    }

    /// A base address register, at first not placed.
    pub fn bar(mut self, index: u8, bar: Bar) -> Self {
        if let Err(e) = bar.check(index) {
            self.fail(e);
            return self;
        }
        let i = usize::from(index);
        let wide = bar.kind == Kind::Mem64;
        let free = |n: usize| self.space.bars.get(n).is_some_and(Option::is_none);
        let below_is_wide = i
            .checked_sub(1)
            .and_then(|n| self.space.bars.get(n)?.as_ref())
            .is_some_and(|b| b.kind == Kind::Mem64);
        if !free(i) || below_is_wide || wide && !free(i + 1) {
            self.fail(ConfigError::BarIndex { index });
            return self;
        }
        let at = regs::BAR0 + 4 * u16::from(index);
        let mask = bar.address_mask().to_le_bytes();
        let len = if wide { 8 } else { 4 };
        self.put(at, &bar.flags().to_le_bytes(), mask.get(..len).unwrap_or(&[]));
        if let Some(slot) = self.space.bars.get_mut(i) {
            *slot = Some(bar);
        }
        self
    }

    fn capability(&mut self, id: u8, offset: u16, len: u16) -> Option<usize> {
        if !offset.is_multiple_of(4) {
            self.fail(ConfigError::Place { offset, len: len.into() });
            return None;
        }
        if !self.take(offset, len.into()) {
            return None;
        }
        // `take` has found room for it below 0x100.
        let [low, _] = offset.to_le_bytes();
        if let Some(link) = self.space.value.get_mut(self.link) {
            *link = low;
        }
        self.put(offset, &[id, 0], &[]);
        self.link = usize::from(offset) + 1;
        let [status, _] = regs::STATUS_CAP_LIST.to_le_bytes();
        self.put(regs::STATUS, &[status], &[]);
        Some(usize::from(offset))
    }

    /// A power management capability with D0 and D3hot. Capabilities are linked in the order in which they are added.
    pub fn power_management(mut self, offset: u16) -> Self {
        if let Some(at) = self.capability(regs::CAP_ID_PM, offset, regs::PM_LENGTH) {
            self.put(offset + regs::PM_CAPABILITIES, &regs::PM_CAP_VERSION_3.to_le_bytes(), &[]);
            let control = regs::PM_NO_SOFT_RESET.to_le_bytes();
            self.put(offset + regs::PM_CONTROL, &control, &regs::PM_STATE_MASK.to_le_bytes());
            self.space.pm = Some(at);
        }
        self
    }

    /// An MSI capability: one message, 32-bit address, no masking.
    pub fn msi(mut self, offset: u16) -> Self {
        if let Some(at) = self.capability(regs::CAP_ID_MSI, offset, regs::MSI_LENGTH_32) {
            self.put(offset + regs::MSI_CONTROL, &[0, 0], &regs::MSI_ENABLE.to_le_bytes());
            self.put(offset + regs::MSI_ADDRESS, &[0; 4], &0xffff_fffcu32.to_le_bytes());
            self.put(offset + regs::MSI_DATA_32, &[0; 2], &[0xff; 2]);
            self.space.msi = Some((at, MsiLine::default()));
        }
        self
    }

    /// A register of the device's own: its bytes at first, and which bits of them the guest can write.
    pub fn register(mut self, offset: u16, value: &[u8], writable: &[u8]) -> Self {
        if value.len() != writable.len() {
            self.fail(ConfigError::Mask { offset });
        } else if self.take(offset, value.len()) {
            self.put(offset, value, writable);
        }
        self
    }

    /// A 32-bit register of the device's own.
    pub fn register32(self, offset: u16, value: u32, writable: u32) -> Self {
        self.register(offset, &value.to_le_bytes(), &writable.to_le_bytes())
    }

    /// The space, or the first thing that was wrong.
    pub fn build(self) -> Result<ConfigSpace, ConfigError> {
        match self.error {
            Some(e) => Err(e),
            None => Ok(self.space),
        }
    }
}

impl ConfigSpace {
    /// The bytes of an access, if it is one: inside the space, not across a dword.
    fn range(offset: u64, width: Width) -> Result<std::ops::Range<usize>, IoError> {
        let start = usize::try_from(offset).map_err(|_| IoError::NoRegister)?;
        if start >= SIZE {
            // Extended registers are those of PCI Express, which this is not.
            return Err(IoError::NoRegister);
        }
        let len = width.bytes() as usize;
        if start % 4 + len > 4 {
            return Err(IoError::BadAccess);
        }
        Ok(start..start + len)
    }

    /// Reads 1, 2 or 4 bytes that do not cross a dword.
    pub fn read(&self, offset: u64, width: Width) -> Result<u32, IoError> {
        let bytes = self.value.get(Self::range(offset, width)?).ok_or(IoError::NoRegister)?;
        let mut out = [0; 4];
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(u32::from_le_bytes(out))
    }

    /// Writes those bits that can be written. Writes to what cannot are no error, as on hardware.
    pub fn write(&mut self, offset: u64, width: Width, value: u32) -> Result<(), IoError> {
        let range = Self::range(offset, width)?;
        let old = self.value.get_mut(range.clone()).ok_or(IoError::NoRegister)?;
        let writable = self.writable.get(range).ok_or(IoError::NoRegister)?;
        for ((old, mask), new) in old.iter_mut().zip(writable).zip(value.to_le_bytes()) {
            *old = *old & !mask | new & mask;
        }
        self.legalise_power_state();
        self.update_msi();
        Ok(())
    }

    /// Sets bytes from the device's side, writable or not.
    pub fn set(&mut self, offset: u16, bytes: &[u8]) {
        for (to, from) in self.value.iter_mut().skip(offset.into()).zip(bytes) {
            *to = *from;
        }
        self.update_msi();
    }

    fn word(&self, at: usize) -> u16 {
        match self.value.get(at..).and_then(|s| s.first_chunk()) {
            Some(b) => u16::from_le_bytes(*b),
            None => 0,
        }
    }

    fn dword(&self, at: usize) -> u32 {
        match self.value.get(at..).and_then(|s| s.first_chunk()) {
            Some(b) => u32::from_le_bytes(*b),
            None => 0,
        }
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.word(regs::COMMAND.into())
    }

    /// Whether the guest lets the function write to memory.
    pub fn is_bus_master(&self) -> bool {
        self.command() & regs::COMMAND_MASTER != 0
    }

    /// The power state.
    pub fn power_state(&self) -> PowerState {
        match self.pm {
            Some(at) if self.word(at + usize::from(regs::PM_CONTROL)) & regs::PM_STATE_MASK != 0 => {
                PowerState::D3Hot
            }
            _ => PowerState::D0,
        }
    }

    /// The MSI, if the function has one.
    pub fn msi(&self) -> Option<MsiLine> {
        self.msi.as_ref().map(|(_, line)| line.clone())
    }

    /// All bytes as they are now.
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.value
    }

    /// Where the guest wants the BARs to be decoded now: those that are placed, as far as the command register allows.
    pub fn placements(&self) -> impl Iterator<Item = Placement> + '_ {
        let command = self.command();
        (0u8..).zip(&self.bars).filter_map(move |(index, bar)| {
            let bar = bar.as_ref()?;
            let at = usize::from(regs::BAR0) + 4 * usize::from(index);
            let low = u64::from(self.dword(at));
            let high = if bar.kind == Kind::Mem64 { u64::from(self.dword(at + 4)) } else { 0 };
            let placement = bar.place(index, high << 32 | low)?;
            let enable = if placement.space == Space::Pio { regs::COMMAND_IO } else { regs::COMMAND_MEMORY };
            (command & enable != 0).then_some(placement)
        })
    }

    /// A write of a state that the function does not have (D1, D2) leaves it where it was: D0.
    fn legalise_power_state(&mut self) {
        let Some(at) = self.pm else { return };
        if let Some(control) = self.value.get_mut(at + usize::from(regs::PM_CONTROL)) {
            let state = u16::from(*control) & regs::PM_STATE_MASK;
            if state == 1 || state == 2 {
                *control &= !3;
            }
        }
    }

    fn update_msi(&self) {
        let Some((at, line)) = &self.msi else { return };
        line.set(Message {
            enabled: self.word(at + usize::from(regs::MSI_CONTROL)) & regs::MSI_ENABLE != 0,
            master: self.is_bus_master(),
            address: self.dword(at + usize::from(regs::MSI_ADDRESS)).into(),
            data: self.word(at + usize::from(regs::MSI_DATA_32)).into(),
        });
    }
}
