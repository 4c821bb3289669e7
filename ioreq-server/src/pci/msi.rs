//! A function's MSI: what the guest has programmed, and how to raise it from any thread.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::dm::{Dm, DmError};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) enabled: bool,
    pub(super) master: bool,
    pub(super) address: u64,
    pub(super) data: u32,
}

/// What became of a raised interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Xen has it.
    Injected,
    /// The guest has MSI off, or forbids the function to write to memory. As on hardware it is lost.
    Disabled,
}

/// The MSI of a function. Clones are the same line.
#[derive(Clone, Debug, Default)]
pub struct MsiLine(Arc<Mutex<Message>>);

impl MsiLine {
    /// Raises the interrupt, with address and data as the guest wrote them.
    pub fn raise(&self, dm: &Dm) -> Result<Delivery, DmError> {
        // Copied, so that the guest's config accesses do not wait for the hypercall.
        let message = *self.0.lock();
        if message.enabled && message.master {
            dm.inject_msi(message.address, message.data)?;
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

    pub(super) fn set(&self, message: Message) {
        *self.0.lock() = message;
    }
}
