//! Event channels: each domain's ports, and what an event at a port does.
//!
//! Lock order: the port tables of two domains in the order of their numbers; inside them a device's ring.

mod device;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use xen_ioreq::{DomId, Errno, Port};

pub(crate) use device::Device;
pub use device::EvtchnDevice;

use crate::domain::Domain;
use crate::vcpu::VcpuState;

/// Ports of a domain, the reserved port 0 included.
const MAX_PORTS: usize = 4096;

/// Who takes the events of a port.
#[derive(Clone)]
pub(crate) enum Sink {
    /// An opened event-channel device.
    Device(Weak<Device>),
    /// Xen itself, for a vCPU that waits.
    Vcpu(Arc<VcpuState>),
    /// Xen itself, which does not wait for anything here.
    Xen,
}

impl Sink {
    fn deliver(&self, port: Port) {
        match self {
            Self::Device(d) => {
                if let Some(d) = d.upgrade() {
                    d.raise(port);
                }
            }
            Self::Vcpu(v) => v.wake.notify(),
            Self::Xen => {}
        }
    }

    /// Whether the port belongs to Xen: the domain may not send through it.
    fn is_xens(&self) -> bool {
        !matches!(self, Self::Device(_))
    }
}

enum Channel {
    Free,
    Unbound { remote: DomId, sink: Sink },
    Interdomain { remote: Weak<Domain>, remote_port: Port, sink: Sink },
}

/// A domain's port table.
#[derive(Default)]
pub(crate) struct Ports(Mutex<Vec<Channel>>);

fn insert(ports: &mut Vec<Channel>, channel: Channel) -> Result<Port, Errno> {
    if ports.is_empty() {
        // Port 0 is never valid.
        ports.push(Channel::Free);
    }
    let free = ports.iter().enumerate().skip(1).find(|(_, c)| matches!(c, Channel::Free)).map(|(i, _)| i);
    let index = free.unwrap_or(ports.len());
    if index >= MAX_PORTS {
        return Err(Errno::ENOSPC);
    }
    let port = Port(u32::try_from(index).map_err(|_| Errno::ENOSPC)?);
    match ports.get_mut(index) {
        Some(c) => *c = channel,
        None => ports.push(channel),
    }
    Ok(port)
}

fn at(ports: &mut [Channel], port: Port) -> Option<&mut Channel> {
    ports.get_mut(usize::try_from(port.0).ok()?)
}

/// A new port of `domain` to which `remote` may bind.
pub(crate) fn alloc_unbound(domain: &Domain, remote: DomId, sink: Sink) -> Result<Port, Errno> {
    insert(&mut domain.ports.0.lock(), Channel::Unbound { remote, sink })
}

/// Turns the unbound end `remote_port` into one that is bound to `local`'s `port`.
fn join(theirs: &mut [Channel], remote_port: Port, local: &Arc<Domain>, port: Port) {
    if let Some(their) = at(theirs, remote_port)
        && let Channel::Unbound { sink, .. } = std::mem::replace(their, Channel::Free)
    {
        *their = Channel::Interdomain { remote: Arc::downgrade(local), remote_port: port, sink };
    }
}

/// A new port of `local` bound to an unbound port of `remote` that waits for `local`. As in Xen the new port is
/// pending at once, since events may have been lost before. EINVAL: no such unbound port.
pub(crate) fn bind_interdomain(
    local: &Arc<Domain>,
    remote: &Arc<Domain>,
    remote_port: Port,
    sink: &Sink,
) -> Result<Port, Errno> {
    let waits = |ports: &mut [Channel]| match at(ports, remote_port) {
        Some(Channel::Unbound { remote, .. }) if *remote == local.id => Ok(()),
        _ => Err(Errno::EINVAL),
    };
    let channel = || Channel::Interdomain { remote: Arc::downgrade(remote), remote_port, sink: sink.clone() };
    // The device must know the port before the first event, so while the tables are locked.
    let adopt = |port| {
        if let Sink::Device(d) = sink
            && let Some(d) = d.upgrade()
        {
            d.adopt(port);
        }
    };
    let two = |ours: &mut Vec<Channel>, theirs: &mut Vec<Channel>| {
        waits(theirs)?;
        let port = insert(ours, channel())?;
        adopt(port);
        join(theirs, remote_port, local, port);
        Ok::<_, Errno>(port)
    };
    let port = match local.id.cmp(&remote.id) {
        std::cmp::Ordering::Equal => {
            let mut ours = local.ports.0.lock();
            waits(&mut ours)?;
            let port = insert(&mut ours, channel())?;
            adopt(port);
            join(&mut ours, remote_port, local, port);
            port
        }
        std::cmp::Ordering::Less => {
            let mut ours = local.ports.0.lock();
            two(&mut ours, &mut remote.ports.0.lock())?
        }
        std::cmp::Ordering::Greater => {
            let mut theirs = remote.ports.0.lock();
            two(&mut local.ports.0.lock(), &mut theirs)?
        }
    };
    sink.deliver(port);
    Ok(port)
}

/// Closes a port; the other end becomes unbound again, waiting for this domain.
pub(crate) fn close(domain: &Domain, port: Port) {
    let old = {
        let mut ports = domain.ports.0.lock();
        at(&mut ports, port).map(|c| std::mem::replace(c, Channel::Free))
    };
    let Some(Channel::Interdomain { remote, remote_port, .. }) = old else { return };
    let Some(remote) = remote.upgrade() else { return };
    let mut theirs = remote.ports.0.lock();
    let Some(c) = at(&mut theirs, remote_port) else { return };
    // A domain that is being dropped cannot be upgraded any more; its number is then nobody else's yet.
    let bound_to_us = matches!(c, Channel::Interdomain { remote: r, remote_port: p, .. }
        if *p == port && r.upgrade().is_none_or(|r| r.id == domain.id));
    if bound_to_us && let Channel::Interdomain { sink, .. } = std::mem::replace(c, Channel::Free) {
        *c = Channel::Unbound { remote: domain.id, sink };
    }
}

/// Closes every port.
pub(crate) fn close_all(domain: &Domain) {
    let count = domain.ports.0.lock().len();
    for port in 1..count {
        if let Ok(port) = u32::try_from(port) {
            close(domain, Port(port));
        }
    }
}

/// Sends an event through a port of `domain`. Only Xen itself (`from_xen`) may send through its own ports. EINVAL: no
/// such port. An event at an unbound port is lost, silently.
pub(crate) fn notify(domain: &Domain, port: Port, from_xen: bool) -> Result<(), Errno> {
    let (remote, remote_port) = {
        let mut ports = domain.ports.0.lock();
        match at(&mut ports, port) {
            None | Some(Channel::Free) => return Err(Errno::EINVAL),
            Some(Channel::Unbound { sink, .. } | Channel::Interdomain { sink, .. })
                if !from_xen && sink.is_xens() =>
            {
                return Err(Errno::EINVAL);
            }
            Some(Channel::Unbound { .. }) => return Ok(()),
            Some(Channel::Interdomain { remote, remote_port, .. }) => (remote.upgrade(), *remote_port),
        }
    };
    let Some(remote) = remote else { return Ok(()) };
    let sink = {
        let mut ports = remote.ports.0.lock();
        match at(&mut ports, remote_port) {
            Some(Channel::Interdomain { sink, .. }) => sink.clone(),
            _ => return Ok(()),
        }
    };
    sink.deliver(remote_port);
    Ok(())
}
