//! Reaching a loop from other threads.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use mio::{Registry, Waker};
use parking_lot::Mutex;
use xen_ioreq::seam::{BlockingEvents, EventChannels};
use xen_ioreq::{DomId, IoServerId};

use super::{GuestKey, GuestLoop, WAKER};
use crate::guest::Guest;
use crate::stats::Stats;

/// What is carried out on the loop's thread.
pub(super) type Command = Box<dyn FnOnce(&mut GuestLoop) + Send>;

/// A guest of a loop, as others may know it.
#[derive(Clone, Debug)]
pub struct GuestInfo {
    /// Its key in the loop.
    pub key: GuestKey,
    /// Its number.
    pub domid: DomId,
    /// The server that serves it.
    pub server: IoServerId,
    /// Its counters.
    pub stats: Arc<Stats>,
}

/// Reaches a loop from other threads.
#[derive(Clone)]
pub struct LoopHandle {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    commands: mpsc::Sender<Command>,
    /// What the loop's thread sleeps on instead of the poll, while it does.
    alone_on: Arc<Mutex<Option<Arc<dyn EventChannels>>>>,
    guests: Arc<Mutex<Vec<GuestInfo>>>,
}

impl LoopHandle {
    pub(super) fn new(registry: &Registry) -> io::Result<(Self, mpsc::Receiver<Command>)> {
        let (sender, commands) = mpsc::channel();
        let handle = Self {
            waker: Arc::new(Waker::new(registry, WAKER)?),
            stop: Arc::default(),
            commands: sender,
            alone_on: Arc::default(),
            guests: Arc::default(),
        };
        Ok((handle, commands))
    }

    /// Makes [`GuestLoop::run`] return after the events at hand.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Has `command` carried out on the loop's thread, e.g. to add or remove a guest. After the loop has been dropped
    /// it is dropped too.
    pub fn call(&self, command: impl FnOnce(&mut GuestLoop) + Send + 'static) {
        if self.commands.send(Box::new(command)).is_ok() {
            self.wake();
        }
    }

    /// The guests of the loop at this moment. Does not wake it.
    pub fn guests(&self) -> Vec<GuestInfo> {
        self.guests.lock().clone()
    }

    pub(super) fn joined(&self, key: GuestKey, guest: &Guest) {
        let (domid, server, stats) = (guest.domid(), guest.server().id(), guest.stats());
        self.guests.lock().push(GuestInfo { key, domid, server, stats });
    }

    pub(super) fn left(&self, key: GuestKey) {
        self.guests.lock().retain(|g| g.key != key);
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Whether somebody has called [`stop`](Self::stop) since the last time.
    pub(super) fn take_stop(&self) -> bool {
        self.stop.swap(false, Ordering::AcqRel)
    }

    /// What the loop's thread sleeps on from now on, if not on the poll.
    pub(super) fn sleeps_on(&self, events: Option<Arc<dyn EventChannels>>) {
        *self.alone_on.lock() = events;
    }

    fn wake(&self) {
        if let Err(e) = self.waker.wake() {
            log::error!("waking an event loop: {e}");
        }
        let alone_on = self.alone_on.lock().clone();
        if let Some(Err(e)) = alone_on.as_deref().and_then(EventChannels::blocking).map(BlockingEvents::wake)
        {
            log::error!("waking an event loop from its guest's events: {e}");
        }
    }
}

impl fmt::Debug for LoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopHandle").field("stop", &self.stop).finish_non_exhaustive()
    }
}
