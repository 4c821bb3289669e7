//! A channel for a thread that waits for nothing else.

use std::fmt;
use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use xen_ioreq::Errno;
use xen_ioreq::seam::EventChannels;

use super::{Channel, ChannelError};
use crate::xenstore::PeerWatch;

/// The operations of a [`Channel`], which wait until they can go on. None ends in [`ChannelError::WouldBlock`].
pub struct Blocking<'a, E: EventChannels> {
    channel: &'a mut Channel<E>,
    watch: Option<&'a mut dyn PeerWatch>,
}

impl<'a, E: EventChannels> Blocking<'a, E> {
    pub(super) fn new(channel: &'a mut Channel<E>) -> Self {
        Self { channel, watch: None }
    }

    /// Notices, too, that the peer's domain goes. Without it an operation waits for a peer that was destroyed for ever.
    #[must_use]
    pub fn watching(self, watch: &'a mut dyn PeerWatch) -> Self {
        Self { watch: Some(watch), ..self }
    }

    /// The channel.
    pub fn channel(&self) -> &Channel<E> {
        self.channel
    }

    /// As [`Channel::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, ChannelError> {
        self.until(|channel| channel.read(out))
    }

    /// As [`Channel::recv`].
    ///
    /// # Errors
    /// As there.
    pub fn recv(&mut self, out: &mut [u8]) -> Result<(), ChannelError> {
        self.until(|channel| channel.recv(out))
    }

    /// As [`Channel::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&mut self, data: &[u8]) -> Result<(), ChannelError> {
        self.until(|channel| channel.send(data))
    }

    /// Writes all of `data`, which may be longer than the ring.
    ///
    /// # Errors
    /// As [`Channel::write`]; some of it may have been written.
    pub fn write_all(&mut self, mut data: &[u8]) -> Result<(), ChannelError> {
        while !data.is_empty() {
            let n = self.until(|channel| channel.write(data))?;
            data = data.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until the peer has done something, or has gone.
    ///
    /// # Errors
    /// [`ChannelError::Events`], [`ChannelError::Watch`].
    pub fn wait(&mut self) -> Result<(), ChannelError> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.channel.events.pollable(), PollFlags::IN)];
        fds.extend(self.watch.iter().map(|w| PollFd::from_borrowed_fd(w.pollable(), PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut fds, None))
            .map_err(|e| ChannelError::Events(Errno::from(e)))?;
        let news = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if let Some(watch) = self.watch.as_mut().filter(|_| news)
            && watch.has_gone().map_err(|e| ChannelError::Watch(e.errno()))?
        {
            self.channel.peer_died();
        }
        self.channel.acknowledge()
    }

    fn until<R>(
        &mut self,
        mut work: impl FnMut(&mut Channel<E>) -> Result<R, ChannelError>,
    ) -> Result<R, ChannelError> {
        loop {
            match work(self.channel) {
                Err(ChannelError::WouldBlock) => self.wait()?,
                done => return done,
            }
        }
    }
}

impl<E: EventChannels> io::Read for Blocking<'_, E> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match Blocking::read(self, buf) {
            Err(ChannelError::Closed) => Ok(0),
            other => Ok(other?),
        }
    }
}

impl<E: EventChannels> io::Write for Blocking<'_, E> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(self.until(|channel| channel.write(buf))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<E: EventChannels + fmt::Debug> fmt::Debug for Blocking<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").field("channel", &self.channel).finish_non_exhaustive()
    }
}
