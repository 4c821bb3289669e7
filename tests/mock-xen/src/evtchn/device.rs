//! An opened event-channel device, with the manners of Linux's `/dev/xen/evtchn`.
//!
//! A port that fires is put on the ring and masked until its owner unmasks it; the descriptor is readable while the
//! ring has something to tell. Unlike Linux's it stays so until a read finds the ring empty, which spares an
//! edge-triggered reader one system call for each event. A ring that overflows says EFBIG until it is reset.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::EventfdFlags;
use xen_ioreq::seam::EventChannels;
use xen_ioreq::{DomId, Errno, Port};

use super::{MAX_PORTS, Sink, alloc_unbound, bind_interdomain, close, notify};
use crate::domain::Domain;
use crate::machine::Machine;
use crate::process::Held;
use crate::sync::Mutex;

#[derive(Clone, Copy, Default)]
struct PortState {
    masked: bool,
    pending: bool,
}

#[derive(Default)]
struct Ring {
    queue: VecDeque<Port>,
    overflowed: bool,
    /// The descriptor is readable or about to become so.
    signalled: bool,
    ports: BTreeMap<Port, PortState>,
}

impl Ring {
    /// Queues a port and masks it; `true` if the descriptor has to be signalled.
    fn push(&mut self, port: Port, capacity: usize) -> bool {
        let Some(state) = self.ports.get_mut(&port) else { return false };
        if state.masked {
            state.pending = true;
            return false;
        }
        *state = PortState { masked: true, pending: false };
        // Whoever sleeps has found the ring empty; an edge is what wakes it, also when the descriptor is readable.
        let first = self.queue.is_empty() && !self.overflowed;
        if self.queue.len() < capacity {
            self.queue.push_back(port);
        } else {
            self.overflowed = true;
        }
        self.signalled = true;
        first
    }
}

/// What the ports of the device point at.
pub(crate) struct Device {
    fd: OwnedFd,
    capacity: usize,
    ring: Mutex<Ring>,
}

impl Device {
    fn new(capacity: usize) -> Result<Self, Errno> {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        let fd = rustix::event::eventfd(0, flags).map_err(|e| Errno(e.raw_os_error()))?;
        Ok(Self { fd, capacity, ring: Mutex::new(Ring::default()) })
    }

    fn signal(&self) {
        // Fails only when the counter is at its end, and then the descriptor is readable anyway.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable if there is nothing to tell.
    fn settle(&self, ring: &mut Ring) {
        if !ring.queue.is_empty() || ring.overflowed || !ring.signalled {
            return;
        }
        let mut count = [0; 8];
        // A raiser that has set `signalled` but not yet written keeps it set: its write is still to come.
        if rustix::io::read(&self.fd, &mut count).is_ok() {
            ring.signalled = false;
        }
    }

    /// An event has come in.
    pub(super) fn raise(&self, port: Port) {
        let signal = self.ring.lock().push(port, self.capacity);
        // Outside the lock, which the thread that wakes up needs at once.
        if signal {
            self.signal();
        }
    }

    /// Knows a new port.
    pub(super) fn adopt(&self, port: Port) {
        self.ring.lock().ports.insert(port, PortState::default());
    }
}

/// An opened event-channel device of a domain. Closing it closes its ports.
pub struct EvtchnDevice {
    machine: Arc<Machine>,
    domain: Arc<Domain>,
    device: Arc<Device>,
}

impl EvtchnDevice {
    pub(crate) fn new(machine: Arc<Machine>, domain: Arc<Domain>) -> Result<Self, Errno> {
        let device = Arc::new(Device::new(machine.config().evtchn_ring)?);
        Ok(Self { machine, domain, device })
    }

    fn sink(&self) -> Sink {
        Sink::Device(self.device.clone())
    }
}

impl EventChannels for EvtchnDevice {
    fn pollable(&self) -> BorrowedFd<'_> {
        self.device.fd.as_fd()
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: Port) -> Result<Port, Errno> {
        let remote = if remote == DomId::SELF {
            self.domain.clone()
        } else {
            self.machine.domain(remote).ok_or(Errno::ESRCH)?
        };
        bind_interdomain(&self.domain, &remote, remote_port, &self.sink())
    }

    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        let remote = if remote == DomId::SELF { self.domain.id } else { remote };
        let port = alloc_unbound(&self.domain, remote, self.sink())?;
        self.device.adopt(port);
        Ok(port)
    }

    /// EINVAL: more than any port number. ENOTCONN: not a port of this device.
    fn unbind(&self, port: Port) -> Result<(), Errno> {
        if usize::try_from(port.0).map_or(true, |p| p >= MAX_PORTS) {
            return Err(Errno::EINVAL);
        }
        {
            let mut ring = self.device.ring.lock();
            ring.ports.remove(&port).ok_or(Errno::ENOTCONN)?;
            ring.queue.retain(|p| *p != port);
            self.device.settle(&mut ring);
        }
        close(&self.domain, port);
        Ok(())
    }

    fn notify(&self, port: Port) -> Result<(), Errno> {
        notify(&self.domain, port, Some(&self.device))
    }

    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno> {
        let mut ring = self.device.ring.lock();
        if ring.overflowed {
            return Err(Errno::EFBIG);
        }
        let mut n = 0;
        for slot in out.iter_mut() {
            let Some(port) = ring.queue.pop_front() else { break };
            *slot = port;
            n += 1;
        }
        if n == 0 {
            self.device.settle(&mut ring);
        }
        Ok(n)
    }

    fn unmask(&self, ports: &[Port]) -> Result<(), Errno> {
        let signal = {
            let mut ring = self.device.ring.lock();
            let mut signal = false;
            for &port in ports {
                let Some(state) = ring.ports.get_mut(&port) else { continue };
                state.masked = false;
                if state.pending {
                    signal |= ring.push(port, self.device.capacity);
                }
            }
            signal
        };
        if signal {
            self.device.signal();
        }
        Ok(())
    }

    fn reset_ring(&self) -> Result<(), Errno> {
        let mut ring = self.device.ring.lock();
        ring.queue.clear();
        ring.overflowed = false;
        self.device.settle(&mut ring);
        Ok(())
    }
}

impl Held for EvtchnDevice {
    /// Closes its ports.
    fn let_go(&self) {
        let ports = std::mem::take(&mut self.device.ring.lock().ports);
        for port in ports.keys() {
            close(&self.domain, *port);
        }
    }
}

impl Drop for EvtchnDevice {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl fmt::Debug for EvtchnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvtchnDevice").field("domain", &self.domain.id).finish_non_exhaustive()
    }
}
