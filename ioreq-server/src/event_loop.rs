//! The event loop: guests, and whatever else has a descriptor, on one mio poll.
//!
//! A guest is drained when its descriptor fires, a few batches at a time so that one busy guest does not starve the
//! others of its loop. A loop for each guest's thread is one `GuestLoop` with one guest.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;
use xen_ioreq::seam::{BlockingEvents, EventChannels};

use crate::guest::{Guest, GuestError, Progress};

const WAKER: Token = Token(0);
/// How long a loop stays awake for the next request of its only guest, unless told otherwise: a few round trips between
/// two threads.
pub const DEFAULT_PATIENCE: Duration = Duration::from_micros(20);

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// Something else that a loop waits for: a timer, signals, a control socket.
pub trait EventSource: Send {
    /// Registers its descriptors, all with this token.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;
    /// Takes them back.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;
    /// A descriptor fired. Read to `WouldBlock`: it fires again only when something new comes. An error removes the
    /// source.
    fn ready(&mut self, handle: &LoopHandle) -> io::Result<()>;
}

/// A guest of a loop. Numbers may be used again after it was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestKey(usize);

/// Something else of a loop. Numbers may be used again after it was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey(usize);

type Command = Box<dyn FnOnce(&mut GuestLoop) + Send>;

/// Reaches a loop from other threads.
#[derive(Clone)]
pub struct LoopHandle {
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    commands: mpsc::Sender<Command>,
    /// What the loop's thread sleeps on instead of the poll, while it does.
    alone_on: Arc<Mutex<Option<Arc<dyn EventChannels>>>>,
}

impl LoopHandle {
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

/// Serves guests.
pub struct GuestLoop {
    poll: Poll,
    events: Events,
    guests: Slab<Guest>,
    sources: Slab<Box<dyn EventSource>>,
    /// Guests that had more to do when their turn ended.
    unfinished: Vec<usize>,
    /// The guest on whose event channels the loop sleeps, when it does.
    sleeping: Option<usize>,
    patience: Duration,
    handle: LoopHandle,
    commands: mpsc::Receiver<Command>,
}

/// Whose a token is. Guests and sources take every other number after the waker's.
enum Who {
    Waker,
    Guest(usize),
    Source(usize),
}

fn guest_token(key: usize) -> Token {
    Token(1 + 2 * key)
}

fn source_token(key: usize) -> Token {
    Token(2 + 2 * key)
}

fn who(token: Token) -> Who {
    match token.0.checked_sub(1) {
        None => Who::Waker,
        Some(n) if n % 2 == 0 => Who::Guest(n / 2),
        Some(n) => Who::Source(n / 2),
    }
}

impl GuestLoop {
    /// An empty loop.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, commands) = mpsc::channel();
        let handle = LoopHandle { waker, stop: Arc::default(), commands: sender, alone_on: Arc::default() };
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            guests: Slab::new(),
            sources: Slab::new(),
            unfinished: Vec::new(),
            sleeping: None,
            patience: DEFAULT_PATIENCE,
            handle,
            commands,
        })
    }

    /// For other threads.
    pub fn handle(&self) -> LoopHandle {
        self.handle.clone()
    }

    /// Takes a guest in. What it asked for before is carried out in the next turn.
    pub fn add(&mut self, guest: Guest) -> io::Result<GuestKey> {
        let entry = self.guests.vacant_entry();
        let key = entry.key();
        let fd = guest.pollable().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), guest_token(key), Interest::READABLE)?;
        entry.insert(guest);
        self.unfinished.push(key);
        self.share_patience();
        Ok(GuestKey(key))
    }

    /// Sets how long to stay awake for the next request; zero to sleep at once. Only a loop with one guest does: with
    /// several, one would wait at the others' cost.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
        self.share_patience();
    }

    fn share_patience(&mut self) {
        let patience = if self.guests.len() == 1 { self.patience } else { Duration::ZERO };
        for (_, guest) in &mut self.guests {
            guest.set_patience(patience);
        }
    }

    /// Lets a guest go, still served by nobody but not taken down until the value is dropped.
    pub fn remove(&mut self, key: GuestKey) -> Option<Guest> {
        let guest = self.guests.try_remove(key.0)?;
        let fd = guest.pollable().as_raw_fd();
        if let Err(e) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            log::debug!("{}: leaving its event loop: {e}", guest.domid());
        }
        self.share_patience();
        Some(guest)
    }

    /// A guest of the loop.
    pub fn guest(&self, key: GuestKey) -> Option<&Guest> {
        self.guests.get(key.0)
    }

    /// The guests of the loop.
    pub fn iter(&self) -> impl Iterator<Item = (GuestKey, &Guest)> {
        self.guests.iter().map(|(key, guest)| (GuestKey(key), guest))
    }

    /// Number of guests.
    pub fn guests(&self) -> usize {
        self.guests.len()
    }

    /// Adds something else to wait for.
    pub fn add_source(&mut self, mut source: Box<dyn EventSource>) -> io::Result<SourceKey> {
        let entry = self.sources.vacant_entry();
        source.register(self.poll.registry(), source_token(entry.key()))?;
        Ok(SourceKey({
            let key = entry.key();
            entry.insert(source);
            key
        }))
    }

    /// Removes it again.
    pub fn remove_source(&mut self, key: SourceKey) -> Option<Box<dyn EventSource>> {
        let mut source = self.sources.try_remove(key.0)?;
        if let Err(e) = source.deregister(self.poll.registry()) {
            log::debug!("a source leaving its event loop: {e}");
        }
        Some(source)
    }

    /// Serves until [`LoopHandle::stop`].
    pub fn run(&mut self) -> io::Result<()> {
        let done = loop {
            if self.handle.stop.swap(false, Ordering::AcqRel) {
                break Ok(());
            }
            if self.alone() {
                continue;
            }
            if let Err(e) = self.turn(None) {
                break Err(e);
            }
        };
        self.handle.alone_on.lock().take();
        done
    }

    /// A turn of a loop that waits for one guest and nothing else: it sleeps on that guest's event channels, which saves
    /// a system call an access. `false`: this loop, or this guest, must poll.
    fn alone(&mut self) -> bool {
        let only = match self.guests.iter().next() {
            Some((key, guest)) if self.guests.len() == 1 && self.sources.is_empty() => {
                guest.sleeps_on().map(|events| (key, events))
            }
            _ => None,
        };
        let Some((key, events)) = only else {
            self.sleeping.take().inspect(|_| *self.handle.alone_on.lock() = None);
            return false;
        };
        if self.sleeping != Some(key) {
            *self.handle.alone_on.lock() = Some(events);
            self.sleeping = Some(key);
            // Whoever called before this line woke only the poll: the next turn sees to it first.
        }
        self.unfinished.clear();
        self.obey();
        // A command may have removed it, or brought it company.
        let alone = self.guests.len() == 1 && self.sources.is_empty();
        let Some(guest) = self.guests.get_mut(key).filter(|_| alone) else { return true };
        if self.handle.stop.load(Ordering::Acquire) {
            return true;
        }
        match guest.service_blocking() {
            None => return false,
            Some(Ok(_)) => {}
            Some(Err(e)) => self.lose(key, &e),
        }
        true
    }

    fn lose(&mut self, key: usize, why: &GuestError) {
        log::error!("{why}; this guest is no longer served");
        if let Some(guest) = self.remove(GuestKey(key)) {
            guest.give_up(why);
        }
    }

    /// Waits once, for at most `timeout`, and does what there is to do.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = if self.unfinished.is_empty() { timeout } else { Some(Duration::ZERO) };
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        for key in std::mem::take(&mut self.unfinished) {
            self.serve(key);
        }
        // Taken out, since serving needs the rest of `self`.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match who(event.token()) {
                Who::Waker => self.obey(),
                Who::Guest(key) => self.serve(key),
                Who::Source(key) => self.source_ready(key),
            }
        }
        self.events = events;
        Ok(())
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            command(self);
        }
    }

    fn serve(&mut self, key: usize) {
        // An event may be older than the removal of its guest.
        let Some(guest) = self.guests.get_mut(key) else { return };
        match guest.service() {
            Ok(Progress::Idle) => {}
            Ok(Progress::More) => self.unfinished.push(key),
            Err(e) => self.lose(key, &e),
        }
    }

    fn source_ready(&mut self, key: usize) {
        let handle = self.handle.clone();
        let Some(source) = self.sources.get_mut(key) else { return };
        if let Err(e) = source.ready(&handle) {
            log::error!("an event source failed and is removed: {e}");
            self.remove_source(SourceKey(key));
        }
    }
}

impl fmt::Debug for GuestLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestLoop")
            .field("guests", &self.guests)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}
