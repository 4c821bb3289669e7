//! `/dev/xen/evtchn`: this domain's event channels through one pollable descriptor.
#![expect(unsafe_code, reason = "ioctls")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::ioctl::ioctl;
use super::{OpenError, open};
use crate::abi::evtchn::*;
use crate::seam::{BlockingEvents, EventChannels};
use crate::{DomId, Errno, Port};

/// Ports that one system call moves: the driver's buffer is a page.
const PORTS_PER_CALL: usize = 128;

/// An open `/dev/xen/evtchn`, non-blocking. Ports bound through it are closed with it.
#[derive(Debug)]
pub struct Evtchn {
    fd: OwnedFd,
    waker: Option<Waker>,
    /// Whether the descriptor blocks at the moment.
    blocks: AtomicBool,
}

/// The other end of a channel of this domain to itself: an event through it wakes who sleeps in a read.
#[derive(Debug)]
struct Waker {
    end: OwnedFd,
    /// The port at this end.
    port: Port,
    /// The port at the sleeper's end.
    sleeper: Port,
}

impl Evtchn {
    /// Opens the device.
    pub fn open() -> Result<Self, OpenError> {
        let fd = open("/dev/xen/evtchn", "xen-evtchn", OFlags::NONBLOCK)?;
        Ok(Self { fd, waker: None, blocks: AtomicBool::new(false) })
    }

    /// Opens the device twice and ties the two together, so that a thread can sleep in [`BlockingEvents::wait`] and be
    /// woken by another. Before any restriction: one that is restricted cannot bind such a channel.
    pub fn open_blocking() -> Result<Self, OpenError> {
        let (mut events, end) = (Self::open()?, Self::open()?);
        let tie = || {
            let sleeper = events.bind_unbound(DomId::SELF)?;
            Ok((sleeper, end.bind_interdomain(DomId::SELF, sleeper)?))
        };
        let (sleeper, port) =
            tie().map_err(|errno: Errno| OpenError::Other { path: "/dev/xen/evtchn", errno })?;
        events.waker = Some(Waker { end: end.fd, port, sleeper });
        Ok(events)
    }

    /// Makes reads block, or not. A system call only where it changes.
    fn set_blocking(&self, on: bool) -> Result<(), Errno> {
        if self.blocks.load(Ordering::Acquire) != on {
            let flags = rustix::fs::fcntl_getfl(&self.fd)?;
            rustix::fs::fcntl_setfl(
                &self.fd,
                if on { flags - OFlags::NONBLOCK } else { flags | OFlags::NONBLOCK },
            )?;
            self.blocks.store(on, Ordering::Release);
        }
        Ok(())
    }

    /// From then on only ports of `domid` can be bound; what is bound stays. Errors leave the descriptor as it was:
    /// EACCES if it is restricted already, ENOTTY where the kernel is too old.
    pub fn restrict(self, domid: DomId) -> Result<Self, (Self, Errno)> {
        // The waker's end too, which is a descriptor that could bind as well; first, since it can do without.
        let end = self.waker.as_ref().map_or(Ok(0), |w| restrict(w.end.as_fd(), domid));
        match end.and_then(|_| restrict(self.fd.as_fd(), domid)) {
            Ok(_) => Ok(self),
            Err(e) => Err((self, e)),
        }
    }

    /// A new port for a virtual interrupt, `VIRQ_*`. Errors: EEXIST if somebody has it, EACCES when restricted.
    pub fn bind_virq(&self, virq: u32) -> Result<Port, Errno> {
        self.bind(IOCTL_EVTCHN_BIND_VIRQ, &mut ioctl_evtchn_bind_virq { virq })
    }

    fn bind<T: FromBytes + IntoBytes>(&self, opcode: u32, arg: &mut T) -> Result<Port, Errno> {
        let port = self.call(opcode, arg)?;
        u32::try_from(port).map(Port).map_err(|_| Errno::EIO)
    }

    fn call<T: FromBytes + IntoBytes>(&self, opcode: u32, arg: &mut T) -> Result<i32, Errno> {
        // SAFETY: the callers in this file pass each opcode with its own struct, and none holds an address.
        unsafe { ioctl(self.fd.as_fd(), opcode, arg) }
    }
}

fn restrict(fd: BorrowedFd<'_>, domid: DomId) -> Result<i32, Errno> {
    let mut arg = ioctl_evtchn_restrict_domid { domid: domid.0 };
    // SAFETY: the opcode goes with this struct, which holds no address.
    unsafe { ioctl(fd, IOCTL_EVTCHN_RESTRICT_DOMID, &mut arg) }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl EventChannels for Evtchn {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: Port) -> Result<Port, Errno> {
        let mut arg =
            ioctl_evtchn_bind_interdomain { remote_domain: u32::from(remote.0), remote_port: remote_port.0 };
        self.bind(IOCTL_EVTCHN_BIND_INTERDOMAIN, &mut arg)
    }

    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        let mut arg = ioctl_evtchn_bind_unbound_port { remote_domain: u32::from(remote.0) };
        self.bind(IOCTL_EVTCHN_BIND_UNBOUND_PORT, &mut arg)
    }

    fn unbind(&self, port: Port) -> Result<(), Errno> {
        self.call(IOCTL_EVTCHN_UNBIND, &mut ioctl_evtchn_unbind { port: port.0 })?;
        Ok(())
    }

    fn notify(&self, port: Port) -> Result<(), Errno> {
        self.call(IOCTL_EVTCHN_NOTIFY, &mut ioctl_evtchn_notify { port: port.0 })?;
        Ok(())
    }

    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.set_blocking(false)?;
        let mut words = [0u32; PORTS_PER_CALL];
        let mut filled = 0;
        while filled < out.len() {
            let want = PORTS_PER_CALL.min(out.len() - filled);
            let read = match rustix::io::retry_on_intr(|| {
                rustix::io::read(&self.fd, words.get_mut(..want).unwrap_or_default().as_mut_bytes())
            }) {
                Ok(bytes) => bytes / size_of::<u32>(),
                Err(rustix::io::Errno::AGAIN) => break,
                // Ports already taken must reach the caller first; the error will still be there.
                Err(_) if filled > 0 => break,
                Err(e) => return Err(e.into()),
            };
            for (port, word) in out.iter_mut().skip(filled).zip(words.iter().take(read)) {
                *port = Port(*word);
            }
            filled += read;
            if read < want {
                break;
            }
        }
        Ok(filled)
    }

    fn unmask(&self, ports: &[Port]) -> Result<(), Errno> {
        let mut words = [0u32; PORTS_PER_CALL];
        for chunk in ports.chunks(PORTS_PER_CALL) {
            for (word, port) in words.iter_mut().zip(chunk) {
                *word = port.0;
            }
            let mut bytes = words.get(..chunk.len()).unwrap_or_default().as_bytes();
            while !bytes.is_empty() {
                let n = rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, bytes))?;
                if n == 0 {
                    return Err(Errno::EIO);
                }
                bytes = bytes.get(n..).unwrap_or_default();
            }
        }
        Ok(())
    }

    fn reset_ring(&self) -> Result<(), Errno> {
        // The argument of this one is not looked at.
        self.call(IOCTL_EVTCHN_RESET, &mut 0u32)?;
        Ok(())
    }

    fn blocking(&self) -> Option<&dyn BlockingEvents> {
        self.waker.is_some().then_some(self as &dyn BlockingEvents)
    }
}

impl BlockingEvents for Evtchn {
    fn wait(&self, out: &mut [Port]) -> Result<usize, Errno> {
        self.set_blocking(true)?;
        let mut words = [0u32; PORTS_PER_CALL];
        let want = PORTS_PER_CALL.min(out.len());
        let read = match rustix::io::read(&self.fd, words.get_mut(..want).unwrap_or_default().as_mut_bytes())
        {
            Ok(bytes) => bytes / size_of::<u32>(),
            Err(rustix::io::Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        let mut filled = 0;
        for port in words.iter().take(read).map(|word| Port(*word)) {
            if self.waker.as_ref().is_some_and(|w| w.sleeper == port) {
                self.unmask(&[port])?;
            } else if let Some(slot) = out.get_mut(filled) {
                *slot = port;
                filled += 1;
            }
        }
        Ok(filled)
    }

    fn wake(&self) -> Result<(), Errno> {
        let waker = self.waker.as_ref().ok_or(Errno::EOPNOTSUPP)?;
        let mut arg = ioctl_evtchn_notify { port: waker.port.0 };
        // SAFETY: the opcode goes with this struct, which holds no address.
        unsafe { ioctl(waker.end.as_fd(), IOCTL_EVTCHN_NOTIFY, &mut arg) }?;
        Ok(())
    }
}
