//! A function's MSI: what the guest has programmed, and how to raise it from any thread.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::dm::{Dm, DmError};

/// An MSI capability, without masking of single messages (MSI-X has that).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Msi {
    /// Number of messages, as a power of two: 0 to 5.
    pub(super) order: u8,
    pub(super) wide: bool,
}

impl Msi {
    /// One message, whose address has 32 bits.
    pub const fn new() -> Self {
        Self { order: 0, wide: false }
    }

    /// `1 << order` messages, 32 at most. The guest may allow fewer.
    #[must_use]
    pub const fn messages(self, order: u8) -> Self {
        Self { order, ..self }
    }

    /// Addresses of 64 bits.
    #[must_use]
    pub const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) enabled: bool,
    pub(super) master: bool,
    pub(super) address: u64,
    pub(super) data: u32,
    /// Messages that the guest allows, as a power of two.
    pub(super) order: u8,
}

/// What became of a raised interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Xen has it.
    Injected,
    /// The guest has masked it (MSI-X): it comes when that ends.
    Pending,
    /// The guest has it off, or forbids the function to write to memory, or has put the function to sleep. As on hardware
    /// it is lost.
    Disabled,
}

/// The MSI of a function. Clones are the same line.
#[derive(Clone, Debug, Default)]
pub struct MsiLine(Arc<Mutex<Message>>);

impl MsiLine {
    /// Raises the first message, with address and data as the guest wrote them.
    pub fn raise(&self, dm: &Dm) -> Result<Delivery, DmError> {
        self.raise_message(0, dm)
    }

    /// Raises a message. Where the guest allows fewer, those beyond share what it allows: the number is in the low bits of
    /// the data.
    pub fn raise_message(&self, number: u8, dm: &Dm) -> Result<Delivery, DmError> {
        // Copied, so that the guest's config accesses do not wait for the hypercall.
        let message = *self.0.lock();
        if message.enabled && message.master {
            let low = (1u32 << message.order) - 1;
            dm.inject_msi(message.address, message.data & !low | u32::from(number) & low)?;
            Ok(Delivery::Injected)
        } else {
            Ok(Delivery::Disabled)
        }
    }

    /// Whether a raised interrupt would be delivered now.
    pub fn is_enabled(&self) -> bool {
        let message = self.0.lock();
        message.enabled && message.master
    }

    /// How many messages the guest allows.
    pub fn allowed(&self) -> u8 {
        1 << self.0.lock().order
    }

    pub(super) fn set(&self, message: Message) {
        *self.0.lock() = message;
    }
}
