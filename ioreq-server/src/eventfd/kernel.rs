//! The doorbells of one server that the kernel has been told of, all taken back before the server's ports and slots go.
#![expect(unsafe_code, reason = "slots that the kernel uses until a doorbell is taken back")]

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use xen_ioreq::seam::{self, EventFdError, EventFds};
use xen_ioreq::{DomId, Errno, Port, VcpuId};

use super::Doorbell;
use crate::slot::Slots;

pub(crate) struct KernelBells {
    domid: DomId,
    eventfds: Option<Arc<dyn EventFds>>,
    assigned: Mutex<Assigned>,
}

#[derive(Default)]
struct Assigned {
    /// The slots of the server; none before it is enabled, and again when it goes.
    slots: Weak<Slots>,
    bells: Vec<(Doorbell, Arc<OwnedFd>)>,
}

const NOT_GIVEN: EventFdError = EventFdError::Unsupported("the connection has no eventfds");

impl KernelBells {
    pub(crate) fn new(domid: DomId, eventfds: Option<Arc<dyn EventFds>>) -> Self {
        Self { domid, eventfds, assigned: Mutex::default() }
    }

    pub(crate) fn open(&self, slots: &Arc<Slots>) {
        self.assigned.lock().slots = Arc::downgrade(slots);
    }

    /// Takes all back, and knows no slots any more.
    pub(crate) fn close(&self) {
        let mut assigned = self.assigned.lock();
        let slots = std::mem::take(&mut assigned.slots).upgrade();
        for (bell, fd) in assigned.bells.drain(..) {
            if let Some(slots) = &slots {
                self.deassign(slots, bell, &fd);
            }
        }
    }

    pub(super) fn assign(&self, bell: Doorbell, fd: &Arc<OwnedFd>) -> Result<(), EventFdError> {
        let eventfds = self.eventfds.as_ref().ok_or(NOT_GIVEN)?;
        let mut assigned = self.assigned.lock();
        let slots = assigned.slots.upgrade().ok_or(Errno::ENODEV)?;
        let ports = ports(&slots)?;
        // From here on a request may be the kernel's.
        slots.share();
        let bell_of = to_seam(self.domid, &slots, &ports, bell);
        // SAFETY: `close` takes it back before the server unbinds its ports and lets go of the slots, and `release` earlier; both
        // come here under the same lock. A server that is leaked keeps both for ever.
        unsafe { eventfds.assign_ioeventfd(&bell_of, fd.as_fd()) }?;
        assigned.bells.push((bell, fd.clone()));
        Ok(())
    }

    pub(super) fn release(&self, bell: Doorbell) {
        let mut assigned = self.assigned.lock();
        let Some(at) = assigned.bells.iter().position(|(b, _)| *b == bell) else { return };
        let (_, fd) = assigned.bells.swap_remove(at);
        if let Some(slots) = assigned.slots.upgrade() {
            self.deassign(&slots, bell, &fd);
        }
    }

    fn deassign(&self, slots: &Arc<Slots>, bell: Doorbell, fd: &OwnedFd) {
        let (Some(eventfds), Ok(ports)) = (&self.eventfds, ports(slots)) else { return };
        let bell = to_seam(self.domid, slots, &ports, bell);
        if let Err(e) = eventfds.deassign_ioeventfd(&bell, fd.as_fd()) {
            log::error!("{}: taking back a doorbell: {e}", self.domid);
        }
    }
}

fn to_seam<'a>(domid: DomId, slots: &'a Slots, ports: &'a [Port], bell: Doorbell) -> seam::Doorbell<'a> {
    let Doorbell { addr, width, value } = bell;
    seam::Doorbell { domid, slots: slots.pages(), ports, addr, width: width.bytes(), value }
}

/// The ports of the vCPUs from 0 on. The kernel takes the nth port for that of vCPU n, and looks into one page only.
fn ports(slots: &Slots) -> Result<Vec<Port>, EventFdError> {
    let vcpus = slots.vcpus();
    let in_order = (0..).zip(vcpus).all(|(n, v)| v.vcpu == VcpuId(n));
    if !in_order || vcpus.len() > xen_ioreq::abi::ioreq::SLOTS_PER_PAGE {
        return Err(EventFdError::Unsupported("the kernel serves the first 128 vCPUs or none"));
    }
    Ok(vcpus.iter().map(|v| v.port).collect())
}

impl fmt::Debug for KernelBells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelBells")
            .field("assigned", &self.assigned.lock().bells.len())
            .finish_non_exhaustive()
    }
}
