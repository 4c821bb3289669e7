//! The doorbells of one server that the kernel has been told of, all taken back before the server's ports and slots go.
#![expect(unsafe_code, reason = "slots that the kernel uses until a doorbell is taken back")]

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use xen_ioreq::seam::{self, EventFdError, EventFds};
use xen_ioreq::{DomId, Errno, Port, VcpuId};

use super::Doorbell;
use crate::slot::{KernelWrite, Slots};

pub(crate) struct KernelBells {
    domid: DomId,
    eventfds: Option<Arc<dyn EventFds>>,
    assigned: Mutex<Assigned>,
}

#[derive(Default)]
struct Assigned {
    /// The slots of the server; none before it is enabled, and again when it goes.
    slots: Weak<Slots>,
    bells: Vec<(Doorbell, u16, Arc<OwnedFd>)>,
    /// Taken back. A vCPU that chose the server before that may still come: were such a write the kernel's again by then, it could
    /// be one that the kernel has passed over and that we leave to it.
    retired: Vec<KernelWrite>,
}

const RETIRED: EventFdError = EventFdError::Unsupported("a doorbell that was taken back once is the loop's");
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
        for (bell, value, fd) in assigned.bells.drain(..) {
            if let Some(slots) = &slots {
                self.deassign(slots, bell, value, &fd);
            }
        }
    }

    /// All of `rings`, or none. Before the address is claimed: what came earlier the kernel would not look at again.
    pub(super) fn assign(&self, bell: Doorbell, rings: &[(u16, Arc<OwnedFd>)]) -> Result<(), EventFdError> {
        let eventfds = self.eventfds.as_ref().ok_or(NOT_GIVEN)?;
        let mut assigned = self.assigned.lock();
        let slots = assigned.slots.upgrade().ok_or(Errno::ENODEV)?;
        let ports = ports(&slots)?;
        let wanted = writes(bell, rings.iter().map(|(value, _)| *value));
        if wanted.iter().any(|w| assigned.retired.contains(w)) {
            return Err(RETIRED);
        }
        let had = assigned.bells.len();
        for (value, fd) in rings {
            let to_seam = to_seam(self.domid, &slots, &ports, bell, *value);
            // SAFETY: `close` takes it back before the server unbinds its ports and lets go of the slots, and `release` earlier;
            // both come here under the same lock. A server that is leaked keeps both for ever.
            if let Err(e) = unsafe { eventfds.assign_ioeventfd(&to_seam, fd.as_fd()) } {
                for (bell, value, fd) in assigned.bells.drain(had..) {
                    self.deassign(&slots, bell, value, &fd);
                }
                return Err(e);
            }
            assigned.bells.push((bell, *value, fd.clone()));
        }
        slots.leave_to_kernel(&wanted);
        Ok(())
    }

    /// After the address has been given back: no more such writes come.
    pub(super) fn release(&self, bell: Doorbell) {
        let mut assigned = self.assigned.lock();
        let (gone, left) = std::mem::take(&mut assigned.bells).into_iter().partition(|(b, ..)| *b == bell);
        assigned.bells = left;
        let (gone, slots): (Vec<_>, _) = (gone, assigned.slots.upgrade());
        let Some(slots) = slots else { return };
        for (bell, value, fd) in &gone {
            self.deassign(&slots, *bell, *value, fd);
        }
        let gone = writes(bell, gone.iter().map(|(_, value, _)| *value));
        slots.take_from_kernel(&gone);
        assigned.retired.extend(gone);
    }

    fn deassign(&self, slots: &Arc<Slots>, bell: Doorbell, value: u16, fd: &OwnedFd) {
        let (Some(eventfds), Ok(ports)) = (&self.eventfds, ports(slots)) else { return };
        let bell = to_seam(self.domid, slots, &ports, bell, value);
        if let Err(e) = eventfds.deassign_ioeventfd(&bell, fd.as_fd()) {
            log::error!("{}: taking back a doorbell: {e}", self.domid);
        }
    }
}

fn to_seam<'a>(
    domid: DomId,
    slots: &'a Slots,
    ports: &'a [Port],
    bell: Doorbell,
    value: u16,
) -> seam::Doorbell<'a> {
    let Doorbell { addr, width } = bell;
    seam::Doorbell { domid, slots: slots.pages(), ports, addr, width: width.bytes(), value }
}

fn writes(bell: Doorbell, values: impl Iterator<Item = u16>) -> Vec<KernelWrite> {
    values.map(|value| KernelWrite { addr: bell.addr, size: bell.width.bytes(), value }).collect()
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
