//! Telling a guest what happens on its engines: status entries in its registers and its status page, and interrupts.
//!
//! In the order in which it happened, whoever tells it: one at a time, with `order` locked, before `state`. An MSI is sent
//! after both. What may wait ([`vgpu`](crate::vgpu)) is told at its [time](super::timetable), if nothing else comes first.

use std::sync::Arc;

use parking_lot::Mutex;

use super::guest::{Task, Vgpu};
use super::timetable::Timetable;
use crate::gen8::context::{Descriptor, hwsp};
use crate::physical::Engine;
use crate::vgpu::{EngineError, Event, StatusEntry, Telling};

/// Who tells a guest.
pub(super) struct Teller {
    order: Mutex<()>,
    times: Arc<Timetable<Vgpu>>,
}

impl Teller {
    pub(super) fn new(times: Arc<Timetable<Vgpu>>) -> Self {
        Self { order: Mutex::default(), times }
    }
}

impl Vgpu {
    /// A status entry is due: to the registers, then to the guest's status page.
    pub(super) fn push_status(&self, e: Engine, epoch: u64, status: u32, id: u32) {
        self.happened(e, epoch, Event::Status { status, id });
    }

    /// Events (`GT_*` bits) are to show in the identity registers.
    pub(super) fn raise(&self, e: Engine, epoch: u64, bits: u32) {
        self.happened(e, epoch, Event::Raise(bits));
    }

    fn happened(&self, e: Engine, epoch: u64, event: Event) {
        let teller = self.teller();
        let order = teller.order.lock();
        let telling = self.state().lock().happened(e, epoch, event);
        let due = match telling {
            Telling::Now => self.tell_held(),
            Telling::WithOthers => false,
            Telling::At(time) => {
                self.stats().held.add(1);
                teller.times.set(self.id(), Task::Tell, time);
                false
            }
        };
        drop(order);
        if due {
            self.interrupt();
        }
    }

    /// Tells what is held.
    pub(super) fn tell(&self) {
        let order = self.teller().order.lock();
        let due = self.tell_held();
        drop(order);
        if due {
            self.interrupt();
        }
    }

    /// The same when the guest asks.
    pub(super) fn tell_who_asks(&self) {
        self.state().lock().is_asked();
        self.tell();
    }

    /// The same at its time.
    pub(super) fn tell_in_time(&self) {
        let order = self.teller().order.lock();
        self.state().lock().time_has_come();
        let due = self.tell_held();
        drop(order);
        if due {
            self.interrupt();
        }
    }

    /// With `order` locked. `true`: an MSI is due.
    fn tell_held(&self) -> bool {
        let mut due = false;
        loop {
            let mut state = self.state().lock();
            let Some((e, epoch, event)) = state.next_event() else { return due };
            match event {
                Event::Raise(bits) => due |= state.raise(e, epoch, bits),
                Event::Status { status, id } => {
                    let entry = state.push_status(e, epoch, status, id);
                    drop(state);
                    entry.into_iter().for_each(|entry| self.write_status(entry));
                }
            }
        }
    }

    /// The entry, then the pointer.
    fn write_status(&self, entry: StatusEntry) {
        let StatusEntry { page, slot, status, id } = entry;
        let both = u64::from(id) << 32 | u64::from(status);
        let at = page.saturating_add(hwsp::CSB + 8 * u64::from(slot));
        let pointer = page.saturating_add(hwsp::CSB_WRITE);
        let written = self
            .ggtt()
            .write(at, &both.to_le_bytes())
            .and_then(|()| self.ggtt().write(pointer, &slot.to_le_bytes()));
        if let Err(e) = written {
            log::debug!("{}: the status page is not there: {e}", self.id());
        }
    }

    /// Bans a context, and tells why.
    pub(super) fn ban(&self, e: Engine, epoch: u64, context: Descriptor, error: EngineError) {
        let order = self.teller().order.lock();
        let held = self.tell_held();
        let due = self.state().lock().fail(e, epoch, context, error);
        drop(order);
        if held || due {
            self.interrupt();
        }
    }
}
