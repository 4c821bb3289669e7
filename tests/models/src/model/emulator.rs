//! What a vCPU and its emulator have between them: event channels, as far as waking goes, and the vCPU's wait for an answer.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use xen_ioreq::seam::EventChannels;
use xen_ioreq::{DomId, Errno, Mfn, Port, VcpuId};

use crate::ioreq::request::Request;
use crate::ioreq::slot::{Progress, Slot};
use crate::memory::HostMemory;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wake::Wake;

/// The one vCPU, and the port by which it is answered.
pub(super) const VCPU: VcpuId = VcpuId(0);
pub(super) const PORT: Port = Port(7);

/// The guest's side of a server, as Xen has it.
pub(super) struct Guest {
    slots: HostMemory,
    /// The vCPU's sleep.
    wake: Wake,
    /// The emulator's event channel.
    pending: AtomicBool,
    event: Wake,
    /// The server was destroyed.
    gone: AtomicBool,
    /// Whether the emulator's notifications arrive.
    deaf: bool,
}

impl Guest {
    pub(super) fn new(deaf: bool) -> Arc<Self> {
        let guest = Self {
            slots: HostMemory::new(1),
            wake: Wake::default(),
            pending: AtomicBool::new(false),
            event: Wake::default(),
            gone: AtomicBool::new(false),
            deaf,
        };
        guest.slot().set_port(PORT);
        Arc::new(guest)
    }

    pub(super) fn slots(&self) -> &HostMemory {
        &self.slots
    }

    fn slot(&self) -> Slot<'_> {
        Slot::new(self.slots.page(Mfn(0)).expect("one page"), VCPU).expect("the first slot")
    }

    /// Wakes the emulator.
    pub(super) fn notify_emulator(&self) {
        // loom lets an exchange overlook a mere store that came after the exchange before it.
        self.pending.swap(true, Ordering::SeqCst);
        self.event.notify();
    }

    /// Waits for an event.
    pub(super) fn wait_event(&self) {
        self.event.wait(None, || self.pending.swap(false, Ordering::SeqCst));
    }

    /// Destroys the server: whoever waits for an answer stops waiting.
    pub(super) fn destroy(&self) {
        self.gone.store(true, Ordering::Release);
        self.wake.notify();
    }

    /// A request of the vCPU, from slot to answer; `None` if the server went first.
    pub(super) fn request(&self, r: &Request) -> Option<u64> {
        let slot = self.slot();
        slot.post(PORT, r, || false).expect("the emulator keeps to the protocol");
        self.notify_emulator();
        let (mut seen, mut answer) = (0, None);
        self.wake.wait(None, || {
            match slot.progress(&mut seen) {
                Progress::Done(data) => answer = Some(data),
                Progress::Broken(why) => panic!("{why}"),
                Progress::Waiting => return self.gone.load(Ordering::Acquire),
            }
            true
        });
        answer
    }
}

/// The emulator's hand on its event channels.
pub(super) struct Events(pub(super) Arc<Guest>);

impl EventChannels for Events {
    fn notify(&self, port: Port) -> Result<(), Errno> {
        assert_eq!(port, PORT, "the vCPU's port");
        if !self.0.deaf {
            self.0.wake.notify();
        }
        Ok(())
    }

    fn pollable(&self) -> BorrowedFd<'_> {
        unreachable!("nobody polls")
    }

    fn bind_interdomain(&self, _: DomId, _: Port) -> Result<Port, Errno> {
        Err(Errno::ENOSYS)
    }

    fn bind_unbound(&self, _: DomId) -> Result<Port, Errno> {
        Err(Errno::ENOSYS)
    }

    fn unbind(&self, _: Port) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    fn pending(&self, _: &mut [Port]) -> Result<usize, Errno> {
        Err(Errno::ENOSYS)
    }

    fn unmask(&self, _: &[Port]) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    fn reset_ring(&self) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }
}
