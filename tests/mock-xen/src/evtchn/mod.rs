//! Event channels: each domain's ports, and what an event at a port does.
//!
//! Lock order: the port tables of two domains in the order of their numbers; inside them a device's ring.

mod device;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use xen_ioreq::{DomId, Errno, Port};

pub(crate) use device::Device;
pub use device::EvtchnDevice;

use crate::domain::Domain;
use crate::sync::Mutex;
use crate::vcpu::VcpuState;

/// Ports of a domain, the reserved port 0 included.
const MAX_PORTS: usize = 4096;

/// Who takes the events of a port.
#[derive(Clone)]
pub(crate) enum Sink {
    /// An opened event-channel device, which closes its ports before it goes.
    Device(Arc<Device>),
    /// Xen itself, for a vCPU that waits.
    Vcpu(Arc<VcpuState>),
    /// Xen itself, which does not wait for anything here.
    Xen,
}

impl Sink {
    fn deliver(&self, port: Port) {
        match self {
            Self::Device(d) => d.raise(port),
            Self::Vcpu(v) => v.event(),
            Self::Xen => {}
        }
    }
}

enum Channel {
    Free,
    Unbound {
        remote: DomId,
        sink: Sink,
    },
    /// `peer` is the sink of the other end, kept here so that sending takes one lock.
    Interdomain {
        remote: Weak<Domain>,
        remote_port: Port,
        sink: Sink,
        peer: Sink,
    },
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

/// Turns the unbound end `remote_port` into one that is bound to `local`'s `port`, whose events go to `peer`.
fn join(theirs: &mut [Channel], remote_port: Port, local: &Arc<Domain>, port: Port, peer: &Sink) {
    if let Some(their) = at(theirs, remote_port)
        && let Channel::Unbound { sink, .. } = std::mem::replace(their, Channel::Free)
    {
        let remote = Arc::downgrade(local);
        *their = Channel::Interdomain { remote, remote_port: port, sink, peer: peer.clone() };
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
        Some(Channel::Unbound { remote, sink }) if *remote == local.id => Ok(sink.clone()),
        _ => Err(Errno::EINVAL),
    };
    let channel =
        |peer| Channel::Interdomain { remote: Arc::downgrade(remote), remote_port, sink: sink.clone(), peer };
    // The device must know the port before the first event, so while the tables are locked.
    let adopt = |port| {
        if let Sink::Device(d) = sink {
            d.adopt(port);
        }
    };
    let two = |ours: &mut Vec<Channel>, theirs: &mut Vec<Channel>| {
        let peer = waits(theirs)?;
        let port = insert(ours, channel(peer))?;
        adopt(port);
        join(theirs, remote_port, local, port, sink);
        Ok::<_, Errno>(port)
    };
    let port = match local.id.cmp(&remote.id) {
        std::cmp::Ordering::Equal => {
            let mut ours = local.ports.0.lock();
            let peer = waits(&mut ours)?;
            let port = insert(&mut ours, channel(peer))?;
            adopt(port);
            join(&mut ours, remote_port, local, port, sink);
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

/// Who is at the other end of a port.
pub(crate) fn peer(domain: &Domain, port: Port) -> Option<(DomId, Port)> {
    match at(&mut domain.ports.0.lock(), port)? {
        Channel::Interdomain { remote, remote_port, .. } => Some((remote.upgrade()?.id, *remote_port)),
        Channel::Free | Channel::Unbound { .. } => None,
    }
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

/// Sends an event through a port of `domain`, for one of its devices or (`None`) for Xen itself. ENOTCONN: not a port
/// of that device. An event at an unbound port is lost, silently.
pub(crate) fn notify(domain: &Domain, port: Port, by: Option<&Arc<Device>>) -> Result<(), Errno> {
    let allowed = |sink: &Sink| match (sink, by) {
        (Sink::Device(owner), Some(by)) => Arc::ptr_eq(owner, by),
        (_, by) => by.is_none(),
    };
    let (peer, remote_port) = {
        let mut ports = domain.ports.0.lock();
        match at(&mut ports, port) {
            None | Some(Channel::Free) => return Err(Errno::ENOTCONN),
            Some(Channel::Unbound { sink, .. } | Channel::Interdomain { sink, .. }) if !allowed(sink) => {
                return Err(Errno::ENOTCONN);
            }
            Some(Channel::Unbound { .. }) => return Ok(()),
            Some(Channel::Interdomain { peer, remote_port, .. }) => (peer.clone(), *remote_port),
        }
    };
    // A device that has closed the port meanwhile does not know it any more and ignores the event.
    peer.deliver(remote_port);
    Ok(())
}
