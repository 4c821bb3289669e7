//! MSI-X: a table of messages in a BAR, each of which the guest can mask, and bits for those that wait.
//!
//! Raised from any thread. Once the guest has masked a message and that write is over, none comes any more: a message goes to
//! Xen under the table's lock.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::msi::Delivery;
use super::regs::{MSIX_ENTRY, MSIX_ENTRY_MASKED};
use crate::device::Width;
use crate::dm::{Dm, DmError};
use crate::outcome::IoError;

/// Most messages of a function.
pub const MAX_MESSAGES: u16 = 2048;

/// Where table and pending bits are: in memory BARs of the function, at multiples of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixPlace {
    /// BAR and byte offset of the table, 16 bytes a message.
    pub table: (u8, u32),
    /// BAR and byte offset of the pending bits, 8 bytes for 64 messages.
    pub pending: (u8, u32),
}

/// The messages of a function. Clones are the same table.
#[derive(Clone)]
pub struct MsixTable(Arc<Table>);

struct Table {
    dm: Dm,
    messages: u16,
    state: Mutex<State>,
}

struct State {
    enabled: bool,
    masked: bool,
    master: bool,
    entries: Vec<Entry>,
    /// A bit a message.
    pending: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
}

impl Entry {
    const AT_FIRST: Self = Self { address: 0, data: 0, masked: true };

    fn quad(self, n: u64) -> u64 {
        if n == 0 { self.address } else { u64::from(self.data) | u64::from(self.masked) << 32 }
    }

    fn set_quad(&mut self, n: u64, value: u64) {
        if n == 0 {
            // Messages are dwords.
            self.address = value & !3;
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "the two halves of it")]
            let (data, control) = (value as u32, (value >> 32) as u32);
            (self.data, self.masked) = (data, control & MSIX_ENTRY_MASKED != 0);
        }
    }
}

impl State {
    fn is_pending(&self, n: u16) -> bool {
        self.pending.get(usize::from(n) / 64).is_some_and(|w| w & 1 << (n % 64) != 0)
    }

    fn set_pending(&mut self, n: u16, on: bool) {
        if let Some(word) = self.pending.get_mut(usize::from(n) / 64) {
            *word = *word & !(1 << (n % 64)) | u64::from(on) << (n % 64);
        }
    }

    /// What is to be sent now, of a message that wants to be.
    fn message(&self, n: u16) -> Result<Entry, Delivery> {
        match self.entries.get(usize::from(n)) {
            _ if !self.enabled || !self.master => Err(Delivery::Disabled),
            Some(entry) if !self.masked && !entry.masked => Ok(*entry),
            Some(_) => Err(Delivery::Pending),
            None => Err(Delivery::Disabled),
        }
    }
}

impl MsixTable {
    /// A table of so many messages, 1 to 2048, which are sent by `dm`. All are masked. `None`: another number.
    pub fn new(messages: u16, dm: Dm) -> Option<Self> {
        if !(1..=MAX_MESSAGES).contains(&messages) {
            return None;
        }
        let state = State {
            enabled: false,
            masked: false,
            master: false,
            entries: vec![Entry::AT_FIRST; messages.into()],
            pending: vec![0; usize::from(messages).div_ceil(64)],
        };
        Some(Self(Arc::new(Table { dm, messages, state: Mutex::new(state) })))
    }

    /// How many messages it has.
    pub fn messages(&self) -> u16 {
        self.0.messages
    }

    /// Raises message `n`. A masked one waits, however often it is raised. A number that it does not have is
    /// [`Delivery::Disabled`].
    pub fn raise(&self, n: u16) -> Result<Delivery, DmError> {
        let mut state = self.0.state.lock();
        match state.message(n) {
            Ok(entry) => {
                self.0.dm.inject_msi(entry.address, entry.data)?;
                Ok(Delivery::Injected)
            }
            Err(Delivery::Pending) => {
                state.set_pending(n, true);
                Ok(Delivery::Pending)
            }
            Err(other) => Ok(other),
        }
    }

    /// Takes back a message that waits: its cause has gone.
    pub fn withdraw(&self, n: u16) {
        self.0.state.lock().set_pending(n, false);
    }

    /// Whether message `n` waits.
    pub fn is_pending(&self, n: u16) -> bool {
        self.0.state.lock().is_pending(n)
    }

    /// Whether the guest has it on, masked or not.
    pub fn is_enabled(&self) -> bool {
        let state = self.0.state.lock();
        state.enabled && state.master
    }

    /// Bytes of the table, and of the pending bits.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let messages = u64::from(self.0.messages);
        (messages * MSIX_ENTRY, messages.div_ceil(64) * 8)
    }

    /// What the guest's configuration says.
    pub(super) fn set(&self, enabled: bool, masked: bool, master: bool) {
        let mut state = self.0.state.lock();
        (state.enabled, state.masked, state.master) = (enabled, masked, master);
        // After each write to configuration space, so mostly there is nothing.
        if state.pending.iter().any(|word| *word != 0) {
            self.deliver(&mut state, 0..self.0.messages);
        }
    }

    /// As at first.
    pub(super) fn reset(&self) {
        let mut state = self.0.state.lock();
        state.entries.fill(Entry::AT_FIRST);
        state.pending.fill(0);
        (state.enabled, state.masked) = (false, false);
    }

    /// Sends those messages that wait and may be sent now.
    fn deliver(&self, state: &mut State, which: Range<u16>) {
        for n in which {
            if state.is_pending(n)
                && let Ok(entry) = state.message(n)
            {
                state.set_pending(n, false);
                if let Err(e) = self.0.dm.inject_msi(entry.address, entry.data) {
                    log::warn!("an interrupt is lost: {e}");
                }
            }
        }
    }

    /// A read of the table at a byte offset in it.
    pub(super) fn read(&self, offset: u64, width: Width) -> Result<u64, IoError> {
        let (n, quad, shift) = aligned(offset, width)?;
        let state = self.0.state.lock();
        let entry = state.entries.get(usize::from(n)).ok_or(IoError::NoRegister)?;
        Ok(entry.quad(quad) >> shift & width.mask())
    }

    /// A write to the table. What waits goes when it is unmasked.
    pub(super) fn write(&self, offset: u64, width: Width, value: u64) -> Result<(), IoError> {
        let (n, quad, shift) = aligned(offset, width)?;
        let mut state = self.0.state.lock();
        let entry = state.entries.get_mut(usize::from(n)).ok_or(IoError::NoRegister)?;
        let mask = width.mask() << shift;
        let new = entry.quad(quad) & !mask | value << shift & mask;
        entry.set_quad(quad, new);
        self.deliver(&mut state, n..n + 1);
        Ok(())
    }

    /// A read of the pending bits. Writes to them do nothing.
    pub(super) fn read_pending(&self, offset: u64, width: Width) -> Result<u64, IoError> {
        aligned(offset, width)?;
        let state = self.0.state.lock();
        let word = usize::try_from(offset / 8).ok().and_then(|i| state.pending.get(i));
        Ok(word.ok_or(IoError::NoRegister)? >> (offset % 8 * 8) & width.mask())
    }
}

/// Message, half of its entry and bit offset in that, of an access that is an aligned dword or two.
fn aligned(offset: u64, width: Width) -> Result<(u16, u64, u64), IoError> {
    let good = matches!(width, Width::Dword | Width::Qword);
    if !good || !offset.is_multiple_of(u64::from(width.bytes())) {
        return Err(IoError::BadAccess);
    }
    let n = u16::try_from(offset / MSIX_ENTRY).map_err(|_| IoError::NoRegister)?;
    Ok((n, offset % MSIX_ENTRY / 8, offset % 8 * 8))
}

impl fmt::Debug for MsixTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MsixTable").field("messages", &self.0.messages).finish_non_exhaustive()
    }
}

/// The parts of a function's BARs that are table and pending bits.
#[derive(Clone, Debug)]
pub(super) struct PlacedMsix {
    pub(super) table: MsixTable,
    pub(super) place: MsixPlace,
}

/// What of a function's MSI-X is at some place.
pub(super) enum MsixPart {
    Table(u64),
    Pending(u64),
}

impl PlacedMsix {
    /// What is there, with the offset in it, if the access begins in either. One that leaves it is refused by the part.
    pub(super) fn at(&self, bar: u32, offset: u64) -> Option<MsixPart> {
        let (table, pending) = self.table.sizes();
        let within = |(b, start): (u8, u32), len: u64| {
            let rel = offset.checked_sub(start.into())?;
            (bar == u32::from(b) && rel < len).then_some(rel)
        };
        within(self.place.table, table)
            .map(MsixPart::Table)
            .or_else(|| within(self.place.pending, pending).map(MsixPart::Pending))
    }
}
