//! How a function is put together: header, BARs, capabilities, registers of its own. What cannot be is found when it is built.

use super::super::intx::IntxLine;
use super::super::msi::MsiLine;
use super::super::msix::{MsixPlace, PlacedMsix};
use super::super::power::{PowerManagement, PowerState};
use super::super::{Bar, Msi as MsiCapability, MsixTable, regs};
use super::{BARS, ConfigSpace, Kind, Msi, SIZE};
use crate::dm::{Dm, Pin};

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
    /// There is no room for another capability.
    #[error("no {len} bytes in a row are left for a capability")]
    Full {
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
    /// More than 32 messages.
    #[error("MSI: a function cannot have 2 to the power of {order} messages")]
    Messages {
        /// The power.
        order: u8,
    },
    /// Table or pending bits are not at a multiple of 8 inside a memory BAR, or lie over one another.
    #[error("MSI-X: {len:#x} bytes at {offset:#x} of BAR {bar} cannot be {what}")]
    Msix {
        /// Table or pending bits.
        what: &'static str,
        /// The BAR.
        bar: u8,
        /// Byte offset.
        offset: u32,
        /// Length in bytes.
        len: u64,
    },
    /// A capability of which there is one at most.
    #[error("a second capability of kind {id:#x}")]
    Twice {
        /// Its number.
        id: u8,
    },
}

/// Where a capability goes: at an offset, or (`None`) behind what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset(Option<u16>);

impl From<u16> for Offset {
    fn from(offset: u16) -> Self {
        Self(Some(offset))
    }
}

impl From<Option<u16>> for Offset {
    fn from(offset: Option<u16>) -> Self {
        Self(offset)
    }
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

impl ConfigBuilder {
    /// A function of `vendor` and `device`, with an empty header of type 0.
    pub fn new(vendor: u16, device: u16) -> Self {
        let none = [0; SIZE];
        let space = ConfigSpace {
            value: none,
            initial: none,
            writable: none,
            clearable: none,
            bars: [None; BARS],
            pm: None,
            power: PowerState::D0,
            msi: None,
            msix: None,
            intx: None,
        };
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
        b.clear_by_one(regs::STATUS, &regs::STATUS_CLEARABLE.to_le_bytes());
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

    fn clear_by_one(&mut self, at: u16, bits: &[u8]) {
        for (to, from) in self.space.clearable.iter_mut().skip(at.into()).zip(bits) {
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

    /// The first place behind everything that is there, at a multiple of 4.
    fn behind(&self, len: usize) -> Option<u16> {
        let end = self.taken.iter().rposition(|t| *t).map_or(usize::from(regs::HEADER_END), |last| last + 1);
        let start = end.next_multiple_of(4);
        if start + len > SIZE { None } else { u16::try_from(start).ok() }
    }

    /// Base class, subclass and programming interface.
    #[must_use]
    pub fn class(mut self, base: u8, sub: u8, prog_if: u8) -> Self {
        self.put(regs::PROG_IF, &[prog_if, sub, base], &[]);
        self
    }

    /// Revision.
    #[must_use]
    pub fn revision(mut self, revision: u8) -> Self {
        self.put(regs::REVISION_ID, &[revision], &[]);
        self
    }

    /// Subsystem vendor and subsystem.
    #[must_use]
    pub fn subsystem(mut self, vendor: u16, subsystem: u16) -> Self {
        self.put(regs::SUBSYSTEM_VENDOR_ID, &vendor.to_le_bytes(), &[]);
        self.put(regs::SUBSYSTEM_ID, &subsystem.to_le_bytes(), &[]);
        self
    }

    /// The device has functions beside this one. Said by function 0.
    #[must_use]
    pub fn multifunction(mut self) -> Self {
        self.put(regs::HEADER_TYPE, &[regs::HEADER_MULTIFUNCTION], &[]);
        self
    }

    /// Interrupt pin: 0 none, 1 INTA to 4 INTD. For a function that says it has one and never drives it.
    #[must_use]
    pub fn interrupt_pin(mut self, pin: u8) -> Self {
        self.put(regs::INTERRUPT_PIN, &[pin], &[]);
        self
    }

    /// An interrupt pin that is driven through `dm`, see [`ConfigSpace::intx`].
    #[must_use]
    pub fn intx(mut self, pin: Pin, dm: Dm) -> Self {
        self.space.intx = Some(IntxLine::new(pin, dm));
        self.interrupt_pin(pin as u8 + 1)
    }

    /// A base address register, at first not placed.
    #[must_use]
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

    /// Links a capability of `len` bytes in; where it is.
    fn link(&mut self, id: u8, offset: Offset, len: usize) -> Option<u16> {
        let Some(offset) = offset.0.or_else(|| self.behind(len)) else {
            self.fail(ConfigError::Full { len });
            return None;
        };
        if !offset.is_multiple_of(4) {
            self.fail(ConfigError::Place { offset, len });
            return None;
        }
        if !self.take(offset, len) {
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
        Some(offset)
    }

    /// A capability of the caller's making: number `id`, and behind the two bytes of number and link these bytes, of which the
    /// guest can write those bits. Capabilities are linked in the order in which they are added.
    #[must_use]
    pub fn capability(mut self, id: u8, offset: impl Into<Offset>, value: &[u8], writable: &[u8]) -> Self {
        if value.len() != writable.len() {
            self.fail(ConfigError::Mask { offset: offset.into().0.unwrap_or(0) });
        } else if let Some(at) = self.link(id, offset.into(), 2 + value.len()) {
            self.put(at + 2, value, writable);
        }
        self
    }

    /// A power management capability.
    #[must_use]
    pub fn power_management(mut self, offset: impl Into<Offset>, pm: PowerManagement) -> Self {
        if self.space.pm.is_some() {
            self.fail(ConfigError::Twice { id: regs::CAP_ID_PM });
            return self;
        }
        if let Some(at) = self.link(regs::CAP_ID_PM, offset.into(), regs::PM_LENGTH.into()) {
            self.put(at + regs::PM_CAPABILITIES, &pm.capabilities().to_le_bytes(), &[]);
            let (value, writable, clearable) = pm.control();
            self.put(at + regs::PM_CONTROL, &value.to_le_bytes(), &writable.to_le_bytes());
            self.clear_by_one(at + regs::PM_CONTROL, &clearable.to_le_bytes());
            self.space.pm = Some((at.into(), pm));
        }
        self
    }

    /// An MSI capability.
    #[must_use]
    pub fn msi(mut self, offset: impl Into<Offset>, msi: MsiCapability) -> Self {
        let MsiCapability { order, wide } = msi;
        if order > 5 {
            self.fail(ConfigError::Messages { order });
            return self;
        }
        if self.space.msi.is_some() {
            self.fail(ConfigError::Twice { id: regs::CAP_ID_MSI });
            return self;
        }
        let len = if wide { regs::MSI_LENGTH_64 } else { regs::MSI_LENGTH_32 };
        if let Some(at) = self.link(regs::CAP_ID_MSI, offset.into(), len.into()) {
            let control = u16::from(order) << regs::MSI_CAPABLE_SHIFT | if wide { regs::MSI_64 } else { 0 };
            // With one message there is nothing to choose.
            let choice = if order == 0 { 0 } else { regs::MSI_COUNT_MASK << regs::MSI_ALLOWED_SHIFT };
            let writable = regs::MSI_ENABLE | choice;
            self.put(at + regs::MSI_CONTROL, &control.to_le_bytes(), &writable.to_le_bytes());
            self.put(at + regs::MSI_ADDRESS, &[0; 4], &0xffff_fffcu32.to_le_bytes());
            if wide {
                self.put(at + regs::MSI_ADDRESS_HIGH, &[0; 4], &[0xff; 4]);
            }
            let data = if wide { regs::MSI_DATA_64 } else { regs::MSI_DATA_32 };
            self.put(at + data, &[0; 2], &[0xff; 2]);
            self.space.msi = Some(Msi { at: at.into(), wide, order, line: MsiLine::default() });
        }
        self
    }

    /// An MSI-X capability, whose table and pending bits lie in BARs of the function: [`PciEndpoint`](super::super::PciEndpoint)
    /// answers accesses there, the device never sees them.
    #[must_use]
    pub fn msix(mut self, offset: impl Into<Offset>, table: &MsixTable, place: MsixPlace) -> Self {
        if self.space.msix.is_some() {
            self.fail(ConfigError::Twice { id: regs::CAP_ID_MSIX });
            return self;
        }
        if let Some(at) = self.link(regs::CAP_ID_MSIX, offset.into(), regs::MSIX_LENGTH.into()) {
            let control = (table.messages() - 1) & regs::MSIX_SIZE_MASK;
            let writable = regs::MSIX_ENABLE | regs::MSIX_MASK_ALL;
            self.put(at + regs::MSIX_CONTROL, &control.to_le_bytes(), &writable.to_le_bytes());
            let (bar, start) = place.table;
            self.put(at + regs::MSIX_TABLE, &(start | u32::from(bar)).to_le_bytes(), &[]);
            let (bar, start) = place.pending;
            self.put(at + regs::MSIX_PBA, &(start | u32::from(bar)).to_le_bytes(), &[]);
            self.space.msix = Some((at.into(), PlacedMsix { table: table.clone(), place }));
        }
        self
    }

    /// A register of the device's own: its bytes at first, and which bits of them the guest can write.
    #[must_use]
    pub fn register(mut self, offset: u16, value: &[u8], writable: &[u8]) -> Self {
        if value.len() != writable.len() {
            self.fail(ConfigError::Mask { offset });
        } else if self.take(offset, value.len()) {
            self.put(offset, value, writable);
        }
        self
    }

    /// A 32-bit register of the device's own.
    #[must_use]
    pub fn register32(self, offset: u16, value: u32, writable: u32) -> Self {
        self.register(offset, &value.to_le_bytes(), &writable.to_le_bytes())
    }

    /// A 32-bit register of the device's own whose bits the guest clears by writing 1: what it holds at first, and which bits
    /// those are.
    #[must_use]
    pub fn clearable32(mut self, offset: u16, value: u32, clearable: u32) -> Self {
        if self.take(offset, 4) {
            self.put(offset, &value.to_le_bytes(), &[]);
            self.clear_by_one(offset, &clearable.to_le_bytes());
        }
        self
    }

    /// The space, or the first thing that was wrong.
    pub fn build(mut self) -> Result<ConfigSpace, ConfigError> {
        // BARs may have come after it.
        if let Some((_, msix)) = self.space.msix.clone() {
            self.check_msix(&msix);
        }
        match self.error {
            Some(e) => Err(e),
            None => {
                self.space.initial = self.space.value;
                self.space.update();
                Ok(self.space)
            }
        }
    }

    fn check_msix(&mut self, msix: &PlacedMsix) {
        let (table, pending) = msix.table.sizes();
        for ((bar, offset), len, what) in
            [(msix.place.table, table, "the table"), (msix.place.pending, pending, "the pending bits")]
        {
            let memory = self.space.bars.get(usize::from(bar)).copied().flatten();
            let memory = memory.filter(|b| b.kind != Kind::Io);
            let fits = |b: Bar| offset.is_multiple_of(8) && u64::from(offset) + len <= b.size;
            if !memory.is_some_and(fits) {
                self.fail(ConfigError::Msix { what, bar, offset, len });
            }
        }
        let ((bar, t), (other, p)) = (msix.place.table, msix.place.pending);
        let (t, p) = (u64::from(t), u64::from(p));
        if bar == other && t < p + pending && p < t + table {
            let offset = msix.place.pending.1;
            self.fail(ConfigError::Msix { what: "the pending bits", bar, offset, len: pending });
        }
    }
}
