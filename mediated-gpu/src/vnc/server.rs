//! The thread that serves all clients.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use slab::Slab;

use super::Screen;
use super::address::{Listener, Stream};
use super::client::Client;
use super::pixels::Picture;
use crate::privilege::{ThreadKind, narrow};

/// Clients at a time; further ones are turned away.
const CLIENTS: usize = 8;
/// How often the screen is looked at while a client waits.
const LOOK: Duration = Duration::from_millis(40);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What is shown where there is nothing.
const NOTHING: (u16, u16) = (640, 480);
/// Bytes that are read from a client before others have their turn.
const TURN: usize = 64 << 10;

const STOP: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);

/// A view that is open. Dropped, it ends: clients are disconnected.
pub struct View {
    stop: Arc<(AtomicBool, Waker)>,
    thread: Option<JoinHandle<()>>,
}

struct Connected {
    stream: Stream,
    client: Client,
    since: Instant,
}

struct Server {
    poll: Poll,
    listener: Listener,
    screen: Arc<dyn Screen>,
    clients: Slab<Connected>,
    /// When the screen was looked at last.
    looked: Instant,
    stop: Arc<(AtomicBool, Waker)>,
}

impl View {
    /// Shows a screen to whoever comes.
    pub fn start(mut listener: Listener, screen: Arc<dyn Screen>) -> io::Result<Self> {
        let poll = Poll::new()?;
        listener.register(poll.registry(), LISTENER)?;
        let stop = Arc::new((AtomicBool::new(false), Waker::new(poll.registry(), STOP)?));
        let looked = Instant::now();
        let mut server = Server { poll, listener, screen, clients: Slab::new(), looked, stop: stop.clone() };
        let thread = std::thread::Builder::new().name("viewers".into()).spawn(move || {
            narrow(ThreadKind::Viewers);
            if let Err(e) = server.run() {
                log::error!("the live view ended: {e}");
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::SeqCst);
        if let Err(e) = self.stop.1.wake() {
            log::error!("the live view cannot be told to end: {e}");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the live view had panicked");
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

impl Server {
    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(16);
        let mut again = false;
        while !self.stop.0.load(Ordering::SeqCst) {
            let timeout = if again { Some(Duration::ZERO) } else { self.timeout() };
            if let Err(e) = self.poll.poll(&mut events, timeout)
                && e.kind() != io::ErrorKind::Interrupted
            {
                return Err(e);
            }
            if events.iter().any(|e| e.token() == LISTENER) {
                self.accept()?;
            }
            // Every client has its turn: there are few, and one that has nothing costs a system call.
            again = self.turns(events.iter().next().is_some() || again);
            // However often clients ask.
            if self.looked.elapsed() >= LOOK && self.clients.iter().any(|(_, c)| c.client.is_waiting()) {
                self.looked = Instant::now();
                let picture = self.picture();
                self.clients.iter_mut().for_each(|(_, c)| c.client.show(&picture));
                again |= self.turns(true);
            }
        }
        Ok(())
    }

    /// How long to wait for events. For ever, unless somebody waits for news or is late.
    fn timeout(&self) -> Option<Duration> {
        let each = self.clients.iter().filter_map(|(_, c)| match c.client.is_running() {
            false => Some(HANDSHAKE.saturating_sub(c.since.elapsed())),
            true => c.client.is_waiting().then(|| LOOK.saturating_sub(self.looked.elapsed())),
        });
        each.min()
    }

    fn picture(&self) -> Picture {
        let (width, height) = NOTHING;
        let Some(surface) = self.screen.picture() else { return Picture::black(width, height) };
        match (u16::try_from(surface.width), u16::try_from(surface.height)) {
            (Ok(width), Ok(height)) => Picture::new(width, height, &surface.bgrx),
            _ => Picture::black(width, height),
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok(stream) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                // No descriptor left, most likely: the next one may have better luck.
                Err(e) => {
                    log::warn!("a viewer could not be let in: {e}");
                    return Ok(());
                }
            };
            if self.clients.len() >= CLIENTS {
                log::warn!("a viewer is turned away: there are {CLIENTS}");
                continue;
            }
            let client = Client::new(self.picture());
            let entry = self.clients.vacant_entry();
            stream.register(self.poll.registry(), Token(entry.key()))?;
            entry.insert(Connected { stream, client, since: Instant::now() });
        }
    }

    /// Reads and writes what can be, and parts with clients that have gone or are late. Whether there is more to read.
    fn turns(&mut self, events: bool) -> bool {
        let mut more = false;
        self.clients.retain(|_, connected| {
            if !connected.client.is_running() && connected.since.elapsed() >= HANDSHAKE {
                log::info!("a viewer is parted with: its handshake takes too long");
                return false;
            }
            if !events {
                return true;
            }
            match connected.turn() {
                Ok(unread) => {
                    more |= unread;
                    true
                }
                Err(e) => {
                    log::info!("a viewer is gone: {e}");
                    false
                }
            }
        });
        more
    }
}

impl Connected {
    /// Whether there may be more to read.
    fn turn(&mut self) -> io::Result<bool> {
        let mut buf = [0; 4096];
        let mut read = 0;
        self.write()?;
        // Who does not take what it asked for is not heard.
        while self.client.unsent().is_empty() && read < TURN {
            match self.stream.read(&mut buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    read += n;
                    self.client.receive(buf.get(..n).unwrap_or(&[])).map_err(io::Error::other)?;
                    self.write()?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(read >= TURN)
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.client.unsent().is_empty() {
            match self.stream.write(self.client.unsent()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.client.sent(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
