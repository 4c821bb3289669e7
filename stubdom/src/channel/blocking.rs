//! A channel for a thread that waits for nothing else.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use xen_ioreq::Errno;
use xen_ioreq::seam::EventChannels;

use super::{Channel, ChannelError};

/// The operations of a [`Channel`], which wait until they can go on. None ends in [`ChannelError::WouldBlock`].
#[derive(Debug)]
pub struct Blocking<'a, E: EventChannels>(&'a mut Channel<E>);

impl<'a, E: EventChannels> Blocking<'a, E> {
    pub(super) fn new(channel: &'a mut Channel<E>) -> Self {
        Self(channel)
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
    /// [`ChannelError::Events`].
    pub fn wait(&mut self) -> Result<(), ChannelError> {
        wait(self.0)
    }

    fn until<R>(
        &mut self,
        mut work: impl FnMut(&mut Channel<E>) -> Result<R, ChannelError>,
    ) -> Result<R, ChannelError> {
        loop {
            match work(self.0) {
                Err(ChannelError::WouldBlock) => wait(self.0)?,
                done => return done,
            }
        }
    }
}

fn wait<E: EventChannels>(channel: &Channel<E>) -> Result<(), ChannelError> {
    let mut fds = [PollFd::from_borrowed_fd(channel.events.pollable(), PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(|e| ChannelError::Events(Errno::from(e)))?;
    channel.acknowledge()
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
