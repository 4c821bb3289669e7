//! The event loop: guests, and whatever else has a descriptor, on one mio poll.
//!
//! A guest is drained when its descriptor fires, a few batches at a time so that one busy guest does not starve the
//! others of its loop. A loop for each guest's thread is one `GuestLoop` with one guest.

mod handle;

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use self::handle::Command;
pub use self::handle::{GuestInfo, LoopHandle};
use crate::guest::{Guest, GuestError, Progress};
use crate::sources::EventSource;

const WAKER: Token = Token(0);
/// How long a loop stays awake for the next request of its only guest, unless told otherwise: a few times what it takes to wake
/// a thread on a processor that sleeps, 5 us on the machine itself and 50 inside a virtual one. With less, either side would
/// always have gone to sleep by the time that the other one is awake. On one processor a loop sleeps at once unless told otherwise.
pub const DEFAULT_PATIENCE: Duration = Duration::from_micros(200);

/// None where there is but one processor: whoever looks keeps it from all that could bring the next request.
fn default_patience() -> Duration {
    let several = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    if several { DEFAULT_PATIENCE } else { Duration::ZERO }
}

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// A guest of a loop. Numbers may be used again after it was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestKey(usize);

/// Something else of a loop. Numbers may be used again after it was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey(usize);

/// Serves guests.
pub struct GuestLoop {
    poll: Poll,
    events: Events,
    guests: Slab<Guest>,
    sources: Slab<Box<dyn EventSource>>,
    /// Guests that had more to do when their turn ended.
    unfinished: Vec<usize>,
    /// The same of others.
    unfinished_sources: Vec<usize>,
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
        let (handle, commands) = LoopHandle::new(poll.registry())?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            guests: Slab::new(),
            sources: Slab::new(),
            unfinished: Vec::new(),
            unfinished_sources: Vec::new(),
            sleeping: None,
            patience: default_patience(),
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
        self.handle.joined(GuestKey(key), &guest);
        entry.insert(guest);
        self.unfinished.push(key);
        self.share_patience();
        Ok(GuestKey(key))
    }

    /// Sets how long to stay awake for the next request; zero to sleep at once. More than half a millisecond is taken as
    /// that, so that others get their turn. Only a loop with one guest does: with
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
        self.handle.left(key);
        // Its number may be used again.
        self.sleeping.take_if(|asleep| *asleep == key.0).inspect(|_| self.handle.sleeps_on(None));
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
            if self.handle.stopping() && self.handle.take_stop() {
                break Ok(());
            }
            if self.alone() {
                continue;
            }
            if let Err(e) = self.turn(None) {
                break Err(e);
            }
        };
        self.handle.sleeps_on(None);
        done
    }

    /// A turn of a loop that waits for one guest and nothing else: it sleeps on that guest's event channels, which saves
    /// a system call an access. `false`: this loop, or this guest, must poll.
    fn alone(&mut self) -> bool {
        let alone = self.guests.len() == 1 && self.sources.is_empty();
        let Some(key) = self.sleeping.filter(|_| alone).or_else(|| self.lie_down(alone)) else {
            self.sleeping.take().inspect(|_| self.handle.sleeps_on(None));
            return false;
        };
        self.unfinished.clear();
        self.obey();
        // A command may have removed it, or brought it company.
        let alone = self.guests.len() == 1 && self.sources.is_empty();
        let Some(guest) = self.guests.get_mut(key).filter(|_| alone) else { return true };
        if self.handle.stopping() {
            return true;
        }
        match guest.service_blocking() {
            None => return false,
            Some(Ok(_)) => {}
            Some(Err(e)) => self.lose(key, &e),
        }
        true
    }

    /// The only guest, if this loop can sleep on its event channels: from here on who wakes the loop does it by them, too.
    fn lie_down(&mut self, alone: bool) -> Option<usize> {
        let (key, guest) = self.guests.iter().next().filter(|_| alone)?;
        self.handle.sleeps_on(Some(guest.sleeps_on()?));
        self.sleeping = Some(key);
        // Whoever called before this line woke only the poll: this turn sees to it first.
        Some(key)
    }

    fn lose(&mut self, key: usize, why: &GuestError) {
        log::error!("{why}; this guest is no longer served");
        if let Some(guest) = self.remove(GuestKey(key)) {
            guest.give_up(why);
        }
    }

    /// Waits once, for at most `timeout`, and does what there is to do.
    pub fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let rest = self.unfinished.is_empty() && self.unfinished_sources.is_empty();
        let timeout = if rest { timeout } else { Some(Duration::ZERO) };
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
            _ => {}
        }
        for key in std::mem::take(&mut self.unfinished) {
            self.serve(key);
        }
        for key in std::mem::take(&mut self.unfinished_sources) {
            self.source_ready(key);
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
            // A mistake of who called must not cost the guests their loop.
            if catch_unwind(AssertUnwindSafe(|| command(self))).is_err() {
                log::error!("a call to an event loop panicked");
            }
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
        let ready = catch_unwind(AssertUnwindSafe(|| source.ready(&handle)));
        match ready.unwrap_or_else(|_| Err(io::Error::other("it panicked"))) {
            Ok(Progress::Idle) => {}
            Ok(Progress::More) => self.unfinished_sources.push(key),
            Err(e) => {
                log::error!("an event source failed and is removed: {e}");
                self.remove_source(SourceKey(key));
            }
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
