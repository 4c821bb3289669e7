//! Eventfds that the kernel of the emulator's domain ties to a guest, as Linux's privcmd does from 6.6 and 6.7 on.
//!
//! An ioeventfd answers a doorbell before the emulator hears of the request; the event still comes, as on Linux. An irqfd is
//! served by a thread, where Linux injects within the write. As there, irqfds end with their process and ioeventfds do not.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use xen_ioreq::abi::ioreq::IOREQ_TYPE_COPY;
use xen_ioreq::abi::privcmd_eventfd::{QUEUE_NOTIFY_VQ_MASK, VIRTIO_MMIO_QUEUE_NOTIFY};
use xen_ioreq::seam::{Doorbell, EventFdError, EventFds};
use xen_ioreq::{DomId, Errno, VcpuId};

use crate::caller::{Caller, RestrictedCaller};
use crate::domain::Domain;
use crate::ioreq::Server;
use crate::ioreq::request::Request;
use crate::machine::Machine;
use crate::process::Held;
use crate::sync::{Mutex, RwLock};
use crate::{dm_op, evtchn};

/// A descriptor as the kernel holds it, and the number by which its owner names it. (Linux knows the file behind it; here one
/// file has one name.)
struct Tied {
    number: RawFd,
    fd: OwnedFd,
}

impl Tied {
    /// EBADF: no more descriptors. EINVAL: it is no eventfd, as far as one can see.
    fn new(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let kept = fd.try_clone_to_owned().map_err(|_| Errno::EBADF)?;
        let is_one = std::fs::read_link(format!("/proc/self/fd/{}", kept.as_raw_fd()))
            .is_ok_and(|what| what.to_string_lossy().contains("[eventfd]"));
        if is_one { Ok(Self { number: fd.as_raw_fd(), fd: kept }) } else { Err(Errno::EINVAL) }
    }
}

struct Bell {
    tied: Tied,
    vcpus: usize,
    addr: u64,
    width: u32,
    value: u16,
}

/// The doorbells of a server.
#[derive(Default)]
pub(crate) struct Bells(RwLock<Vec<Bell>>);

impl Bells {
    /// Rings for a request, if it is that of a doorbell: then it is answered.
    pub(crate) fn ring(&self, vcpu: VcpuId, r: &Request) -> bool {
        let bells = self.0.read();
        let Some(bell) = bells.iter().find(|b| b.matches(vcpu, r)) else { return false };
        // Fails only when the counter is full, and then the reader has enough to do.
        let _ = rustix::io::write(&bell.tied.fd, &1u64.to_ne_bytes());
        true
    }
}

impl Bell {
    fn matches(&self, vcpu: VcpuId, r: &Request) -> bool {
        usize::try_from(vcpu.0).is_ok_and(|v| v < self.vcpus)
            && (r.ty, r.read) == (IOREQ_TYPE_COPY, false)
            && (r.addr, r.size) == (self.addr, self.width)
            && r.data & u64::from(QUEUE_NOTIFY_VQ_MASK) == u64::from(self.value)
    }
}

/// An irqfd's thread.
struct Wire {
    number: RawFd,
    domid: DomId,
    stop: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl Wire {
    fn end(self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        // It ends by itself if it ends itself: when a dm_op of its own kills the process.
        if self.thread.thread().id() != std::thread::current().id() {
            let _ = self.thread.join();
        }
    }
}

/// The irqfds of a process.
#[derive(Default)]
pub(crate) struct Wires(Mutex<Vec<Wire>>);

impl Held for Wires {
    fn let_go(&self) {
        std::mem::take(&mut *self.0.lock()).into_iter().for_each(Wire::end);
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn new_eventfd() -> Result<OwnedFd, Errno> {
    eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| Errno(e.raw_os_error()))
}

impl Wires {
    pub(crate) fn assign(
        &self,
        machine: &Arc<Machine>,
        caller: &Arc<Domain>,
        domid: DomId,
        op: &[u8],
        fd: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let (tied, stop) = (Tied::new(fd)?, Arc::new(new_eventfd()?));
        let mut wires = self.0.lock();
        if wires.iter().any(|w| w.number == tied.number) {
            return Err(Errno::EBUSY);
        }
        let (number, stopped) = (tied.number, stop.clone());
        let (machine, caller, mut op) = (machine.clone(), caller.clone(), op.to_vec());
        let thread = std::thread::spawn(move || {
            let mut count = [0; 8];
            loop {
                let mut fds = [PollFd::new(&*stopped, PollFlags::IN), PollFd::new(&tied.fd, PollFlags::IN)];
                if poll(&mut fds, None).is_err() {
                    continue;
                }
                if !fds[0].revents().is_empty() {
                    return;
                }
                // Nobody hears of an operation that fails, as on Linux.
                if rustix::io::read(&tied.fd, &mut count).is_ok() {
                    let _ = dm_op::dm_op(&machine, &caller, domid, &mut [&mut op]);
                }
            }
        });
        wires.push(Wire { number, domid, stop, thread });
        Ok(())
    }

    /// ENODEV: no such irqfd.
    fn deassign(&self, domid: DomId, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut wires = self.0.lock();
        let at = wires.iter().position(|w| (w.number, w.domid) == (fd.as_raw_fd(), domid));
        let wire = at.map(|i| wires.swap_remove(i)).ok_or(Errno::ENODEV)?;
        drop(wires);
        wire.end();
        Ok(())
    }
}

/// The server whose vCPUs' ports are bound to these ports of `caller`'s. EINVAL: there is none.
fn server_of(machine: &Machine, caller: &Domain, bell: &Doorbell<'_>) -> Result<Arc<Server>, Errno> {
    let domain = machine.domain(bell.domid).ok_or(Errno::ESRCH)?;
    let servers = domain.servers.read();
    let is_its = |s: &Server| {
        (0u32..).zip(bell.ports).all(|(i, port)| {
            let theirs = evtchn::peer(caller, *port);
            theirs.is_some() && theirs == s.port_of(VcpuId(i)).map(|port| (bell.domid, port))
        })
    };
    servers.newest_first().find(|s| is_its(s)).cloned().ok_or(Errno::EINVAL)
}

impl Caller {
    fn supports_eventfds(&self) -> Result<(), EventFdError> {
        if self.machine().config().eventfds {
            Ok(())
        } else {
            Err(EventFdError::Unsupported("the model's kernel was built without"))
        }
    }

    fn bells<R>(
        &self,
        bell: &Doorbell<'_>,
        change: impl FnOnce(&mut Vec<Bell>) -> Result<R, Errno>,
    ) -> Result<R, EventFdError> {
        self.supports_eventfds()?;
        let fits = bell.slots.pages() > 0
            && !bell.ports.is_empty()
            && [1, 2, 4, 8].contains(&bell.width)
            && bell.addr >= VIRTIO_MMIO_QUEUE_NOTIFY;
        if !fits {
            return Err(Errno::EINVAL.into());
        }
        let server = server_of(self.machine(), self.domain(), bell)?;
        Ok(change(&mut server.bells.0.write())?)
    }
}

impl EventFds for Caller {
    fn has_irqfd(&self) -> Result<(), EventFdError> {
        self.supports_eventfds()
    }

    fn assign_irqfd(&self, domid: DomId, op: &mut [u8], fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.supports_eventfds()?;
        Ok(self.wires().assign(self.machine(), self.domain(), domid, op, fd)?)
    }

    fn deassign_irqfd(&self, domid: DomId, fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.supports_eventfds()?;
        Ok(self.wires().deassign(domid, fd)?)
    }

    fn has_ioeventfd(&self) -> Result<(), EventFdError> {
        self.supports_eventfds()
    }

    #[expect(unsafe_code, reason = "as the trait has it; nothing of it is used here")]
    unsafe fn assign_ioeventfd(&self, bell: &Doorbell<'_>, fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.bells(bell, |bells| {
            let tied = Tied::new(fd)?;
            if bells.iter().any(|b| b.tied.number == tied.number) {
                return Err(Errno::EBUSY);
            }
            let &Doorbell { addr, width, value, .. } = bell;
            bells.push(Bell { tied, vcpus: bell.ports.len(), addr, width, value });
            Ok(())
        })
    }

    fn deassign_ioeventfd(&self, bell: &Doorbell<'_>, fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.bells(bell, |bells| {
            let at = bells.iter().position(|b| b.tied.number == fd.as_raw_fd()).ok_or(Errno::ENODEV)?;
            bells.remove(at);
            Ok(())
        })
    }
}

impl EventFds for RestrictedCaller {
    fn has_irqfd(&self) -> Result<(), EventFdError> {
        self.unchecked().has_irqfd()
    }

    fn assign_irqfd(&self, domid: DomId, op: &mut [u8], fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.check(domid)?.assign_irqfd(domid, op, fd)
    }

    fn deassign_irqfd(&self, domid: DomId, fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.check(domid)?.deassign_irqfd(domid, fd)
    }

    fn has_ioeventfd(&self) -> Result<(), EventFdError> {
        self.unchecked().has_ioeventfd()
    }

    #[expect(unsafe_code, reason = "as the trait has it")]
    unsafe fn assign_ioeventfd(&self, bell: &Doorbell<'_>, fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        // SAFETY: the caller's promise.
        unsafe { self.check(bell.domid)?.assign_ioeventfd(bell, fd) }
    }

    fn deassign_ioeventfd(&self, bell: &Doorbell<'_>, fd: BorrowedFd<'_>) -> Result<(), EventFdError> {
        self.check(bell.domid)?.deassign_ioeventfd(bell, fd)
    }
}
