//! The handles through which a server reaches the hypervisor: only what a restricted descriptor allows.

use std::fmt;
use std::sync::Arc;

use xen_ioreq::DomId;
use xen_ioreq::seam::{DmOp, EventChannels, EventFds, ForeignMap, PausedDmOp, ResourceMap};

use crate::dm::Dm;
use crate::memory::GuestMemory;

/// What a server needs of the hypervisor. Cheap to clone; servers of one guest may share it, except that the event
/// channels belong to one server alone, which takes every port that becomes pending.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use ioreq_server::Connection;
/// use xen_ioreq::DomId;
/// use xen_ioreq::linux::{Evtchn, Privcmd};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let guest = DomId(7);
/// let privcmd = Privcmd::open()?.restrict(guest).map_err(|(_, e)| e)?;
/// let events = Evtchn::open()?.restrict(guest).map_err(|(_, e)| e)?;
/// let conn = Connection::new(Arc::new(privcmd), Arc::new(events));
/// # drop(conn);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connection {
    pub(crate) dm: Arc<dyn DmOp>,
    pub(crate) resources: Arc<dyn ResourceMap>,
    pub(crate) memory: Arc<dyn ForeignMap>,
    pub(crate) events: Arc<dyn EventChannels>,
    pub(crate) eventfds: Option<Arc<dyn EventFds>>,
    pub(crate) pauses: Option<Arc<dyn PausedDmOp>>,
}

impl Connection {
    /// From a handle for hypercalls and mappings (on Linux privcmd, restricted or not) and one for event channels.
    pub fn new<P, E>(privileged: Arc<P>, events: Arc<E>) -> Self
    where
        P: DmOp + ResourceMap + ForeignMap + 'static,
        E: EventChannels + 'static,
    {
        Self {
            dm: privileged.clone(),
            resources: privileged.clone(),
            memory: privileged,
            events,
            eventfds: None,
            pauses: None,
        }
    }

    /// Lets the kernel serve eventfds where it can: the handle for hypercalls again, as a rule. Under a seccomp filter its two
    /// ioctls must be allowed, also when a server goes.
    #[must_use]
    pub fn with_eventfds(self, eventfds: Arc<dyn EventFds>) -> Self {
        Self { eventfds: Some(eventfds), ..self }
    }

    /// Has a way to pause the guest, without which no write to its RAM can be trapped: an unrestricted handle, which the server's thread
    /// for it uses ([`ThreadKind::Pauser`](crate::privilege::ThreadKind)), and whoever creates it and takes a predecessor's place.
    #[must_use]
    pub fn with_pauses(self, pauses: Arc<dyn PausedDmOp>) -> Self {
        Self { pauses: Some(pauses), ..self }
    }

    /// Device-model operations on `domid`.
    pub fn dm(&self, domid: DomId) -> Dm {
        Dm::new(self.dm.clone(), domid)
    }

    /// The memory of `domid`.
    pub fn guest_memory(&self, domid: DomId) -> GuestMemory {
        GuestMemory::new(self.memory.clone(), domid)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}
