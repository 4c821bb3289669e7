//! A byte channel between two domains, which a peer linked with libxenvchan can be the other end of.
//!
//! Two rings in shared pages and an event channel. Bytes go as a stream ([`Channel::read`], [`Channel::write`]) or as packets
//! ([`Channel::recv`], [`Channel::send`]: all of it or nothing), and never block; [`Channel::blocking`] waits. For an event loop
//! the channel is a source of mio's: when it is readable, [`Channel::acknowledge`], then go on until
//! [`ChannelError::WouldBlock`]. Whatever a hostile peer writes to the pages, it can end the channel and nothing else.

mod blocking;
mod layout;
mod ring;
mod setup;
#[cfg(test)]
mod tests;

use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use xen_ioreq::abi::libxenvchan::vchan_interface;
use xen_ioreq::seam::EventChannels;
use xen_ioreq::{Errno, Port};

pub use blocking::Blocking;
pub use layout::{LayoutError, MAX_RING};
pub use setup::{Address, Close, SetupError, Sizes};

use crate::shared::SharedBytes;
use crate::sync::atomic::{Ordering, fence};
use ring::{BadIndex, Consumer, Producer};
use setup::Memory;

/// Value of a byte that says who is there.
const GONE: u8 = 0;
/// The end is there.
const THERE: u8 = 1;
/// The client has not come yet.
const NOT_YET: u8 = 2;
/// What a client's own page holds that takes the place of a page which the server has taken back. No server is in this state.
const TAKEN_BACK: u8 = 0xff;

const CLI_LIVE: usize = offset_of!(vchan_interface, cli_live);
const SRV_LIVE: usize = offset_of!(vchan_interface, srv_live);

/// Why nothing, or not all, went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// not now: the peer has to read or write first, and has been asked to tell
    #[error("the peer has to read or write first")]
    WouldBlock,
    /// the peer has gone, or has taken its pages back, and what it has written was read
    #[error("the other end of the channel is closed")]
    Closed,
    /// the peer showed an index that goes back or beyond the ring: the channel is over
    #[error("the other end of the channel does not keep to the protocol")]
    Protocol,
    /// a packet that does not fit the ring, however empty
    #[error("a packet of {len} bytes does not fit a ring of {size}")]
    TooLong {
        /// Length of the packet in bytes.
        len: usize,
        /// Size of the ring in bytes.
        size: usize,
    },
    /// the event channel fails
    #[error("the event channel of the channel: {0}")]
    Events(Errno),
    /// the watch of the peer's domain fails
    #[error("the watch of the peer's domain: {0}")]
    Watch(Errno),
}

impl From<ChannelError> for io::Error {
    fn from(error: ChannelError) -> Self {
        let kind = match error {
            ChannelError::WouldBlock => io::ErrorKind::WouldBlock,
            ChannelError::Closed => io::ErrorKind::BrokenPipe,
            ChannelError::Protocol => io::ErrorKind::InvalidData,
            ChannelError::TooLong { .. } => io::ErrorKind::InvalidInput,
            ChannelError::Events(errno) | ChannelError::Watch(errno) => return errno.into(),
        };
        Self::new(kind, error)
    }
}

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has made the pages.
    Server,
    /// It has mapped them.
    Client,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No client has come yet, or the last one has left a server that [outlives](Channel::outlive_clients) it. What is written
    /// waits for the next.
    Awaited,
    /// It is there.
    Connected,
    /// It has gone. What it has written before can still be read, unless it took its pages back.
    Gone,
}

/// One end of a channel. Dropping it closes it.
#[derive(Debug)]
pub struct Channel<E: EventChannels> {
    role: Role,
    page: SharedBytes,
    reads: Consumer,
    writes: Producer,
    events: E,
    port: Port,
    /// The peer has not kept to the protocol.
    broken: bool,
    /// The peer's domain has gone.
    dead: bool,
    /// A server that takes one client after the other.
    outlives: bool,
    memory: Memory,
}

impl<E: EventChannels> Channel<E> {
    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Size in bytes of the ring that this end reads from: no packet that comes is longer.
    pub fn receive_size(&self) -> usize {
        self.reads.size()
    }

    /// Size in bytes of the ring that this end writes to: no packet that goes may be longer.
    pub fn send_size(&self) -> usize {
        self.writes.size()
    }

    /// Who is at the other end. Of a peer that died with its whole domain, and had not granted revokably, nothing tells but
    /// XenStore: [`peer_died`](Self::peer_died), [`Blocking::watching`].
    pub fn peer(&self) -> Peer {
        let (at, not_yet) = match self.role {
            Role::Server => (CLI_LIVE, Peer::Awaited),
            Role::Client => (SRV_LIVE, Peer::Connected),
        };
        match self.page.u8(at).load(Ordering::Acquire) {
            _ if self.broken || self.dead => Peer::Gone,
            GONE if self.outlives => Peer::Awaited,
            GONE => Peer::Gone,
            NOT_YET => not_yet,
            TAKEN_BACK if self.taken_back() => Peer::Gone,
            _ => Peer::Connected,
        }
    }

    /// Takes note that the peer's whole domain has gone, which no page and no event tells. What it had written can still be read.
    pub fn peer_died(&mut self) {
        self.dead = true;
    }

    /// Has a server stay when its client leaves, for the next one of the same domain, or (`false`) not any more:
    /// libxenvchan's `server_persist`. The rings go on where they are, so that what the last one has not read the next one
    /// reads, and a packet that the last one began to write in pieces is one that never ends: what is sent has to say where
    /// it begins. A client has one server, and nothing changes for it.
    pub fn outlive_clients(&mut self, outlives: bool) {
        self.outlives = outlives && self.role == Role::Server;
    }

    /// Reads what is there, at most as much as `out` holds: one byte or more, unless `out` is empty.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`]: nothing there. [`ChannelError::Closed`], [`ChannelError::Protocol`],
    /// [`ChannelError::Events`].
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, ChannelError> {
        self.receive(out, 1.min(out.len()))
    }

    /// Reads a packet of exactly the length of `out`; the other end has to send one of that length, or a stream.
    ///
    /// # Errors
    /// As [`read`](Self::read), with nothing read; [`ChannelError::TooLong`].
    pub fn recv(&mut self, out: &mut [u8]) -> Result<(), ChannelError> {
        let (len, size) = (out.len(), self.reads.size());
        if len > size {
            return Err(ChannelError::TooLong { len, size });
        }
        self.receive(out, len).map(drop)
    }

    /// Writes as much of `data` as there is room for: one byte or more, unless `data` is empty.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`]: no room. [`ChannelError::Closed`], [`ChannelError::Protocol`];
    /// [`ChannelError::Events`]: the bytes are in the ring, but the peer was not told.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, ChannelError> {
        self.transmit(data, 1.min(data.len()))
    }

    /// Writes all of `data`. Where one end waits with packets of `a` bytes and the other with packets of `b`, the ring must hold
    /// `a + b - 1`, or each could wait for the other.
    ///
    /// # Errors
    /// As [`write`](Self::write), with nothing written; [`ChannelError::TooLong`].
    pub fn send(&mut self, data: &[u8]) -> Result<(), ChannelError> {
        let (len, size) = (data.len(), self.writes.size());
        if len > size {
            return Err(ChannelError::TooLong { len, size });
        }
        self.transmit(data, len).map(drop)
    }

    fn receive(&mut self, out: &mut [u8], want: usize) -> Result<usize, ChannelError> {
        if want == 0 {
            return Ok(0);
        }
        let ready = self.reads.ready(want);
        let mut ready = self.checked(ready)?;
        if ready < want {
            if self.peer() != Peer::Gone {
                return Err(ChannelError::WouldBlock);
            }
            // Its last bytes were there before it said that it goes.
            let last = self.reads.ready(want);
            ready = self.checked(last)?;
            if ready < want {
                return Err(ChannelError::Closed);
            }
        }
        let (n, tell) = self.reads.get(out);
        // Only now is it known whose page was read.
        self.still_shared()?;
        self.tell(tell)?;
        Ok(n)
    }

    fn transmit(&mut self, data: &[u8], want: usize) -> Result<usize, ChannelError> {
        if want == 0 {
            return Ok(0);
        }
        if self.peer() == Peer::Gone {
            return Err(if self.broken { ChannelError::Protocol } else { ChannelError::Closed });
        }
        let room = self.writes.room(want);
        if self.checked(room)? < want {
            return Err(ChannelError::WouldBlock);
        }
        let (n, tell) = self.writes.put(data);
        self.still_shared()?;
        self.tell(tell)?;
        Ok(n)
    }

    /// Ends the channel if the peer's index was no index.
    fn checked(&mut self, looked: Result<usize, BadIndex>) -> Result<usize, ChannelError> {
        if self.broken {
            return Err(ChannelError::Protocol);
        }
        // An index of a page that took the place of the peer's is nobody's fault.
        self.still_shared()?;
        looked.map_err(|BadIndex| {
            self.broken = true;
            self.say_gone();
            ChannelError::Protocol
        })
    }

    /// Whether the server has taken the shared page back, and what is here is our own.
    fn taken_back(&self) -> bool {
        self.memory.may_be_taken_back() && self.page.u8(SRV_LIVE).load(Ordering::Acquire) == TAKEN_BACK
    }

    fn still_shared(&self) -> Result<(), ChannelError> {
        // After everything that was copied, which an acquire of this one load would not say.
        fence(Ordering::Acquire);
        if self.taken_back() { Err(ChannelError::Closed) } else { Ok(()) }
    }

    fn tell(&self, tell: bool) -> Result<(), ChannelError> {
        if tell { self.events.notify(self.port).map_err(ChannelError::Events) } else { Ok(()) }
    }

    /// Says that this end has gone, and wakes the peer. It may have gone itself, so nothing can fail.
    fn say_gone(&self) {
        let ours = if self.role == Role::Server { SRV_LIVE } else { CLI_LIVE };
        self.page.u8(ours).store(GONE, Ordering::Release);
        let _ = self.events.notify(self.port);
    }

    /// Takes note of an event and lets the next one come. What it was about is found by reading and writing: do that
    /// afterwards, before waiting again.
    ///
    /// # Errors
    /// [`ChannelError::Events`].
    pub fn acknowledge(&self) -> Result<(), ChannelError> {
        let mut ports = [Port::default(); 4];
        loop {
            match self.events.pending(&mut ports) {
                Ok(0) => return Ok(()),
                Ok(n) => self.events.unmask(ports.get(..n).unwrap_or_default()),
                Err(Errno::EFBIG) => self.events.reset_ring().and_then(|()| self.events.unmask(&[self.port])),
                Err(e) => Err(e),
            }
            .map_err(ChannelError::Events)?;
        }
    }

    /// The same channel for a thread that waits for nothing else.
    pub fn blocking(&mut self) -> Blocking<'_, E> {
        Blocking::new(self)
    }

    /// Closes the channel; the peer can still read what was written. A server gets its pages back to deal with.
    pub fn close(mut self) -> Close {
        std::mem::take(&mut self.memory).into_close()
    }
}

impl<E: EventChannels> Drop for Channel<E> {
    fn drop(&mut self) {
        self.say_gone();
        // The port first: the pages may be unmapped as soon as they are dropped.
        let _ = self.events.unbind(self.port);
    }
}

impl<E: EventChannels> Source for Channel<E> {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.events.pollable().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.events.pollable().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.events.pollable().as_raw_fd()).deregister(registry)
    }
}

/// As a socket that does not block: an error of kind `WouldBlock`, and 0 at the end.
impl<E: EventChannels> io::Read for Channel<E> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match Channel::read(self, buf) {
            Err(ChannelError::Closed) => Ok(0),
            other => Ok(other?),
        }
    }
}

/// As a socket that does not block.
impl<E: EventChannels> io::Write for Channel<E> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(Channel::write(self, buf)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
