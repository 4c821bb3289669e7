//! A type 0 configuration space: bytes, which of them the guest may write and how, and what they mean.
//!
//! Knows nothing of a bus: after a write [`ConfigSpace::placements`] says where the BARs are decoded now.

mod builder;

pub use builder::{ConfigBuilder, ConfigError, Offset};

use super::bar::{Bar, Kind, Placement};
use super::intx::IntxLine;
use super::msi::{Message, MsiLine};
use super::msix::PlacedMsix;
use super::power::{PowerManagement, PowerState};
use super::{MsixTable, regs};
use crate::device::{Space, Width};
use crate::outcome::IoError;

const SIZE: usize = regs::CONFIG_SIZE as usize;
const BARS: usize = 6;

/// What a write has brought about besides a new value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Another power state: the one before, and the one now.
    pub power: Option<(PowerState, PowerState)>,
    /// The function was reset, by the way from D3hot to D0.
    pub reset: bool,
}

/// What a guest sees of a function. A clone has bytes of its own, and shares interrupts.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    value: [u8; SIZE],
    /// As the function was built.
    initial: [u8; SIZE],
    /// Bits that the guest can change.
    writable: [u8; SIZE],
    /// Bits that the guest clears by writing 1.
    clearable: [u8; SIZE],
    bars: [Option<Bar>; BARS],
    pm: Option<(usize, PowerManagement)>,
    /// Kept beside its register, which alone says what was asked for.
    power: PowerState,
    msi: Option<Msi>,
    msix: Option<(usize, PlacedMsix)>,
    intx: Option<IntxLine>,
}

#[derive(Clone, Debug)]
struct Msi {
    at: usize,
    wide: bool,
    /// Messages that it has, as a power of two.
    order: u8,
    line: MsiLine,
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
        let range = Self::range(offset, width)?;
        let bytes = self.value.get(range.clone()).ok_or(IoError::NoRegister)?;
        let mut out = [0; 4];
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = *from;
        }
        // The one bit that changes without the guest or the device writing it.
        let status = usize::from(regs::STATUS);
        if range.contains(&status)
            && self.intx.as_ref().is_some_and(IntxLine::is_wanted)
            && let Some(byte) = out.get_mut(status - range.start)
        {
            *byte |= regs::STATUS_INTERRUPT.to_le_bytes()[0];
        }
        Ok(u32::from_le_bytes(out))
    }

    /// Writes those bits that can be written, and clears those that are cleared by a 1. Writes to what cannot are no error,
    /// as on hardware.
    pub fn write(&mut self, offset: u64, width: Width, value: u32) -> Result<Effect, IoError> {
        let range = Self::range(offset, width)?;
        let old = self.value.get_mut(range.clone()).ok_or(IoError::NoRegister)?;
        let writable = self.writable.get(range.clone()).ok_or(IoError::NoRegister)?;
        let clearable = self.clearable.get(range).ok_or(IoError::NoRegister)?;
        for (((old, mask), clear), new) in
            old.iter_mut().zip(writable).zip(clearable).zip(value.to_le_bytes())
        {
            *old = (*old & !mask | new & mask) & !(new & clear);
        }
        let effect = self.change_power();
        self.update();
        Ok(effect)
    }

    /// Sets bytes from the device's side, writable or not.
    pub fn set(&mut self, offset: u16, bytes: &[u8]) {
        for (to, from) in self.value.iter_mut().skip(offset.into()).zip(bytes) {
            *to = *from;
        }
        // Power states are the guest's to choose.
        if let Some((at, _)) = self.pm {
            self.put_power(at, self.power);
        }
        self.update();
    }

    /// Gives the guest back what it had written in another life of this function, of which `image` is the
    /// [`bytes`](Self::bytes): as if it wrote all of it anew. What it cannot write, or only clear, stays as it is. This is what a
    /// driver does after a reset, and it leaves the function as a reset does, but where it was.
    pub fn restore(&mut self, image: &[u8; SIZE]) {
        for ((to, from), mask) in self.value.iter_mut().zip(image).zip(&self.writable) {
            *to = *to & !mask | from & mask;
        }
        self.change_power();
        self.update();
    }

    /// Notes what befell the function as a master or a target: bits of the status register that the guest clears
    /// ([`regs::STATUS_CLEARABLE`]); others are ignored.
    pub fn raise_status(&mut self, bits: u16) {
        let at = usize::from(regs::STATUS);
        self.put_word(at, self.word(at) | bits & regs::STATUS_CLEARABLE);
    }

    /// Notes that the function wants to be woken; whether it may say so (PME#). Without the capability it may not.
    pub fn raise_pme(&mut self) -> bool {
        let Some((at, _)) = self.pm.filter(|(_, pm)| pm.has_pme()) else { return false };
        let control = at + usize::from(regs::PM_CONTROL);
        self.put_word(control, self.word(control) | regs::PM_PME_STATUS);
        self.word(control) & regs::PM_PME_ENABLE != 0
    }

    fn word(&self, at: usize) -> u16 {
        match self.value.get(at..).and_then(|s| s.first_chunk()) {
            Some(b) => u16::from_le_bytes(*b),
            None => 0,
        }
    }

    fn put_word(&mut self, at: usize, word: u16) {
        if let Some(bytes) = self.value.get_mut(at..).and_then(|s| s.first_chunk_mut()) {
            *bytes = word.to_le_bytes();
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

    /// Whether the function may write to memory: the guest lets it, and it is awake.
    pub fn is_bus_master(&self) -> bool {
        self.command() & regs::COMMAND_MASTER != 0 && self.power == PowerState::D0
    }

    /// The power state.
    pub fn power_state(&self) -> PowerState {
        self.power
    }

    /// The MSI, if the function has one.
    pub fn msi(&self) -> Option<MsiLine> {
        self.msi.as_ref().map(|m| m.line.clone())
    }

    /// The MSI-X, if the function has one.
    pub fn msix(&self) -> Option<MsixTable> {
        self.msix.as_ref().map(|(_, m)| m.table.clone())
    }

    pub(super) fn placed_msix(&self) -> Option<PlacedMsix> {
        self.msix.as_ref().map(|(_, m)| m.clone())
    }

    /// The interrupt pin, if the function drives one.
    pub fn intx(&self) -> Option<IntxLine> {
        self.intx.clone()
    }

    /// All bytes as they are now, but for the interrupt bit of the status register.
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.value
    }

    /// Where the guest wants the BARs to be decoded now: those that are placed, as far as command register and power state
    /// allow.
    pub fn placements(&self) -> impl Iterator<Item = Placement> + '_ {
        let command = if self.power == PowerState::D0 { self.command() } else { 0 };
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

    fn put_power(&mut self, at: usize, state: PowerState) {
        let control = at + usize::from(regs::PM_CONTROL);
        self.put_word(control, self.word(control) & !regs::PM_STATE_MASK | state as u16);
    }

    /// Carries out what the power register asks for.
    fn change_power(&mut self) -> Effect {
        let Some((at, pm)) = self.pm else { return Effect::default() };
        let control = at + usize::from(regs::PM_CONTROL);
        let (from, asked) = (self.power, PowerState::from_bits(self.word(control)));
        let to = pm.after(from, asked);
        self.power = to;
        self.put_power(at, to);
        let reset = pm.resets(from, to);
        if reset {
            // What is about PME# outlives a reset: it may be what has woken the function.
            let kept = self.word(control) & (regs::PM_PME_ENABLE | regs::PM_PME_STATUS);
            self.value = self.initial;
            self.put_word(control, self.word(control) | kept);
            if let Some((_, msix)) = &self.msix {
                msix.table.reset();
            }
        }
        Effect { power: (from != to).then_some((from, to)), reset }
    }

    /// Tells the interrupts what holds now.
    fn update(&self) {
        let master = self.is_bus_master();
        let mut messages = false;
        if let Some(msi) = &self.msi {
            let control = self.word(msi.at + usize::from(regs::MSI_CONTROL));
            let enabled = control & regs::MSI_ENABLE != 0;
            messages |= enabled;
            let low = self.dword(msi.at + usize::from(regs::MSI_ADDRESS)).into();
            let high = self.dword(msi.at + usize::from(regs::MSI_ADDRESS_HIGH));
            let (address, data) = if msi.wide {
                (u64::from(high) << 32 | low, regs::MSI_DATA_64)
            } else {
                (low, regs::MSI_DATA_32)
            };
            // The guest may write more than there are.
            let allowed = (control >> regs::MSI_ALLOWED_SHIFT & regs::MSI_COUNT_MASK).to_le_bytes()[0];
            msi.line.set(Message {
                enabled,
                master,
                address,
                data: self.word(msi.at + usize::from(data)).into(),
                order: allowed.min(msi.order),
            });
        }
        if let Some((at, msix)) = &self.msix {
            let control = self.word(at + usize::from(regs::MSIX_CONTROL));
            let enabled = control & regs::MSIX_ENABLE != 0;
            messages |= enabled;
            msix.table.set(enabled, control & regs::MSIX_MASK_ALL != 0, master);
        }
        if let Some(intx) = &self.intx {
            // A function that has messages on must not use its pin.
            let off = self.command() & regs::COMMAND_INTX_DISABLE != 0;
            intx.allow(!off && !messages && self.power == PowerState::D0);
        }
    }
}
