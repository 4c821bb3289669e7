//! Telling a guest what happens on its engines: status entries in its registers and its status page, and interrupts.
//!
//! In the order in which it happened, whoever tells it: one at a time, with `order` locked, before `state`. An MSI is sent
//! after both. What may wait ([`vgpu`](crate::vgpu)) is told at its time by one thread for all vGPUs, if nothing else comes first.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::guest::Vgpu;
use crate::gen8::context::{Descriptor, hwsp};
use crate::physical::Engine;
use crate::privilege::{ThreadKind, narrow};
use crate::vgpu::{EngineError, Event, StatusEntry, Telling, VgpuId};

/// Who tells a guest.
pub(super) struct Teller {
    order: Mutex<()>,
    clock: Arc<AlarmClock>,
}

impl Teller {
    pub(super) fn new(clock: Arc<AlarmClock>) -> Self {
        Self { order: Mutex::default(), clock }
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
                teller.clock.set(self.id(), time);
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
    fn tell_in_time(&self) {
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

/// Has guests told what was held, at its time.
#[derive(Default)]
pub(super) struct AlarmClock {
    /// The lock is held for moments, with no other taken under it.
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

#[derive(Default)]
struct Alarms {
    members: BTreeMap<VgpuId, Arc<Vgpu>>,
    times: BTreeMap<VgpuId, Instant>,
    /// Who is being told.
    current: Option<VgpuId>,
    closed: bool,
}

impl AlarmClock {
    /// Starts the thread.
    pub(super) fn spawn(self: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let clock = self.clone();
        std::thread::Builder::new().name("alarm clock".into()).spawn(move || {
            narrow(ThreadKind::Device);
            while let Some(vgpu) = clock.next() {
                let told = catch_unwind(AssertUnwindSafe(|| vgpu.tell_in_time()));
                if told.is_err() {
                    log::error!("{}: telling it panicked", vgpu.id());
                }
                drop(vgpu);
                clock.alarms.lock().current = None;
                clock.changed.notify_all();
            }
        })
    }

    /// A vGPU comes.
    pub(super) fn add(&self, vgpu: &Arc<Vgpu>) {
        self.alarms.lock().members.insert(vgpu.id(), vgpu.clone());
    }

    /// A vGPU goes. When this returns nothing of it is held here any more.
    pub(super) fn remove(&self, id: VgpuId) {
        let mut alarms = self.alarms.lock();
        alarms.members.remove(&id);
        alarms.times.remove(&id);
        while alarms.current == Some(id) {
            self.changed.wait(&mut alarms);
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.alarms.lock().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn set(&self, id: VgpuId, time: Instant) {
        self.alarms.lock().times.insert(id, time);
        self.changed.notify_all();
    }

    /// Waits for the next time. `None`: closed.
    fn next(&self) -> Option<Arc<Vgpu>> {
        let mut alarms = self.alarms.lock();
        loop {
            if alarms.closed {
                return None;
            }
            let first = alarms.times.iter().min_by_key(|(_, time)| **time).map(|(id, time)| (*id, *time));
            match first {
                Some((id, time)) if time <= Instant::now() => {
                    alarms.times.remove(&id);
                    if let Some(vgpu) = alarms.members.get(&id).cloned() {
                        alarms.current = Some(id);
                        return Some(vgpu);
                    }
                }
                Some((_, time)) => {
                    self.changed.wait_until(&mut alarms, time);
                }
                None => self.changed.wait(&mut alarms),
            }
        }
    }
}

impl std::fmt::Debug for AlarmClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlarmClock").finish_non_exhaustive()
    }
}
