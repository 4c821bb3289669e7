//! IOREQ servers: the device models of a guest, and which of them answers an access.
//!
//! A server belongs to one guest and one emulator. Its shared pages live as long as anybody uses the server, so a vCPU
//! may look into them without a lock. Selection, sending and the slots' states follow Xen's `common/ioreq.c`.

pub(crate) mod ranges;
pub(crate) mod request;
pub(crate) mod ring;
pub(crate) mod select;
pub(crate) mod slot;

use std::sync::{Arc, Weak};

use xen_ioreq::abi::ioreq::{HVM_IOREQSRV_BUFIOREQ_ATOMIC, HVM_IOREQSRV_BUFIOREQ_OFF};
use xen_ioreq::{DomId, Errno, IoServerId, Mfn, Port, VcpuId};

use self::ranges::RangeSet;
use self::request::Request;
use self::ring::Refused;
use self::slot::Slot;
use crate::domain::Domain;
use crate::eventfd::Bells;
use crate::evtchn::{self, Sink};
use crate::frames::Hold;
use crate::machine::Machine;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// vCPUs for which one page has slots.
pub(crate) const VCPUS_PER_PAGE: u32 = 128;
/// Servers of one domain.
pub(crate) const MAX_SERVERS: usize = 8;

/// A page that a server shares with its emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    Buffered,
    /// Slots of the vCPUs from 128 times this number on.
    Sync(u32),
}

/// A server.
pub(crate) struct Server {
    pub(crate) emulator: DomId,
    mode: u8,
    machine: Weak<Machine>,
    enabled: AtomicBool,
    /// Destroyed: whoever waits for an answer stops waiting.
    gone: AtomicBool,
    /// The buffered ring and the pages of slots: MFN + 1, or 0 while there is none.
    pages: Vec<AtomicU64>,
    /// Serialises the allocation of the pages.
    paging: Mutex<()>,
    pub(crate) ranges: [RwLock<RangeSet>; 3],
    vcpu_ports: Vec<Port>,
    buffered_port: Option<Port>,
    /// Serialises writers of the buffered ring.
    ring: Mutex<()>,
    /// What the emulator's kernel answers by itself.
    pub(crate) bells: Bells,
}

impl Server {
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn has_ring(&self) -> bool {
        self.mode != HVM_IOREQSRV_BUFIOREQ_OFF
    }

    pub(crate) fn buffered_port(&self) -> Option<Port> {
        self.buffered_port
    }

    pub(crate) fn port_of(&self, vcpu: VcpuId) -> Option<Port> {
        self.vcpu_ports.get(usize::try_from(vcpu.0).ok()?).copied()
    }

    fn cell(&self, which: Shared) -> Option<&AtomicU64> {
        match which {
            Shared::Buffered => self.pages.first(),
            Shared::Sync(n) => self.pages.get(1 + usize::try_from(n).ok()?),
        }
    }

    pub(crate) fn page(&self, which: Shared) -> Option<Mfn> {
        self.cell(which)?.load(Ordering::Acquire).checked_sub(1).map(Mfn)
    }

    /// All pages that it may have.
    fn shared(&self) -> impl Iterator<Item = Shared> + use<> {
        let slots = u32::try_from(self.pages.len().saturating_sub(1)).unwrap_or(u32::MAX);
        (0..slots).map(Shared::Sync).chain([Shared::Buffered])
    }

    /// Allocates the shared pages if they are not there yet. They belong to the guest but do not count against its
    /// limit.
    pub(crate) fn ensure_pages(&self, machine: &Machine, domain: &Domain) -> Result<(), Errno> {
        let _paging = self.paging.lock();
        for which in self.shared() {
            if self.page(which).is_some() || (which == Shared::Buffered && !self.has_ring()) {
                continue;
            }
            let mfn = machine.frames(|t| {
                let mfn = t.allocate(domain.id, false)?;
                t.hold(mfn, Hold::HostMap(DomId::XEN))?;
                Ok::<_, Errno>(mfn)
            })?;
            if let Some(cell) = self.cell(which) {
                cell.store(mfn.0 + 1, Ordering::Release);
            }
        }
        Ok(())
    }

    /// The slot of a vCPU, once the page exists.
    pub(crate) fn slot<'m>(&self, machine: &'m Machine, vcpu: VcpuId) -> Option<Slot<'m>> {
        let page = self.page(Shared::Sync(vcpu.0 / VCPUS_PER_PAGE))?;
        Slot::new(machine.memory().page(page)?, VcpuId(vcpu.0 % VCPUS_PER_PAGE))
    }

    /// Marks it as gone; under the write lock of the domain's servers, as all that vCPUs choose by.
    fn end(&self) {
        self.enabled.store(false, Ordering::Release);
        self.gone.store(true, Ordering::Release);
    }

    /// Enables or disables it. As in Xen, the ports are written into the slots when it is enabled, so a page that is
    /// mapped later has none.
    fn set_enabled(&self, machine: &Machine, on: bool) {
        if self.enabled.load(Ordering::Acquire) == on {
            return;
        }
        if on {
            for (i, port) in (0u32..).zip(&self.vcpu_ports) {
                if let Some(slot) = self.slot(machine, VcpuId(i)) {
                    slot.set_port(*port);
                }
            }
        }
        self.enabled.store(on, Ordering::Release);
    }

    /// Sends by the buffered ring.
    pub(crate) fn send_buffered(
        &self,
        machine: &Machine,
        domain: &Domain,
        r: &Request,
    ) -> Result<(), Refused> {
        let port = self.buffered_port.ok_or(Refused)?;
        let mfn = self.page(Shared::Buffered).ok_or(Refused)?;
        let page = machine.memory().page(mfn).ok_or(Refused)?;
        {
            let _ring = self.ring.lock();
            ring::push(page, r, self.mode == HVM_IOREQSRV_BUFIOREQ_ATOMIC)?;
        }
        // The port exists as long as the server.
        let _ = evtchn::notify(domain, port, None);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(machine) = self.machine.upgrade() else { return };
        for which in self.shared() {
            if let Some(mfn) = self.page(which) {
                machine.frames(|t| {
                    // A dying guest has given the allocation up already.
                    t.release(mfn, Hold::Allocation);
                    t.release(mfn, Hold::HostMap(DomId::XEN));
                });
            }
        }
    }
}

/// The servers of a domain.
#[derive(Default)]
pub(crate) struct Servers {
    slots: [Option<Arc<Server>>; MAX_SERVERS],
    /// The server that claimed the write-protected memory type.
    pub(crate) mem_type: Option<Arc<Server>>,
}

impl Servers {
    /// Highest number first, as Xen searches them.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.slots.iter().rev().flatten()
    }

    pub(crate) fn get(&self, id: IoServerId) -> Option<&Arc<Server>> {
        self.slots.get(usize::from(id.0))?.as_ref()
    }

    /// ENOENT: no such server. EPERM: another domain's.
    pub(crate) fn of_emulator(&self, id: IoServerId, emulator: DomId) -> Result<&Arc<Server>, Errno> {
        let s = self.get(id).ok_or(Errno::ENOENT)?;
        if s.emulator == emulator { Ok(s) } else { Err(Errno::EPERM) }
    }
}

/// EINVAL: no such mode. ENOSPC: there are 8 already, or no more ports.
pub(crate) fn create(
    machine: &Arc<Machine>,
    domain: &Domain,
    emulator: DomId,
    mode: u8,
) -> Result<IoServerId, Errno> {
    if mode > HVM_IOREQSRV_BUFIOREQ_ATOMIC {
        return Err(Errno::EINVAL);
    }
    let mut servers = domain.servers.write();
    let index = servers.slots.iter().position(Option::is_none).ok_or(Errno::ENOSPC)?;
    let id = IoServerId(u16::try_from(index).map_err(|_| Errno::ENOSPC)?);
    let mut ports = Vec::new();
    let allocated = (|| {
        for v in &domain.vcpus {
            ports.push(evtchn::alloc_unbound(domain, emulator, Sink::Vcpu(v.clone()))?);
        }
        if mode == HVM_IOREQSRV_BUFIOREQ_OFF {
            return Ok(None);
        }
        evtchn::alloc_unbound(domain, emulator, Sink::Xen).map(Some)
    })();
    let buffered_port = match allocated {
        Ok(p) => p,
        Err(e) => {
            for p in ports {
                evtchn::close(domain, p);
            }
            return Err(e);
        }
    };
    let server = Server {
        emulator,
        mode,
        machine: Arc::downgrade(machine),
        enabled: AtomicBool::new(false),
        gone: AtomicBool::new(false),
        pages: (0..=machine.config().slot_pages).map(|_| AtomicU64::new(0)).collect(),
        paging: Mutex::new(()),
        ranges: Default::default(),
        vcpu_ports: ports,
        buffered_port,
        ring: Mutex::new(()),
        bells: Bells::default(),
    };
    if let Some(slot) = servers.slots.get_mut(index) {
        *slot = Some(Arc::new(server));
    }
    Ok(id)
}

/// ENOENT, EPERM as [`Servers::of_emulator`].
pub(crate) fn set_state(
    machine: &Machine,
    domain: &Domain,
    emulator: DomId,
    id: IoServerId,
    enabled: bool,
) -> Result<(), Errno> {
    // The write lock keeps vCPUs from selecting a server that is half enabled.
    let servers = domain.servers.write();
    servers.of_emulator(id, emulator)?.set_enabled(machine, enabled);
    Ok(())
}

/// ENOENT, EPERM as [`Servers::of_emulator`].
pub(crate) fn destroy(domain: &Domain, emulator: DomId, id: IoServerId) -> Result<(), Errno> {
    let server = {
        let mut servers = domain.servers.write();
        servers.of_emulator(id, emulator)?;
        let Some(server) = servers.slots.get_mut(usize::from(id.0)).and_then(Option::take) else {
            return Err(Errno::ENOENT);
        };
        if servers.mem_type.as_ref().is_some_and(|s| Arc::ptr_eq(s, &server)) {
            servers.mem_type = None;
        }
        server.end();
        server
    };
    close_ports(domain, &server);
    Ok(())
}

fn close_ports(domain: &Domain, server: &Server) {
    for port in server.vcpu_ports.iter().chain(&server.buffered_port) {
        evtchn::close(domain, *port);
    }
}

/// Destroys every server of a domain, and those that `emulator` had in it if one is named.
pub(crate) fn destroy_all(domain: &Domain, emulator: Option<DomId>) {
    let doomed: Vec<_> = {
        let mut servers = domain.servers.write();
        let mine = |s: &Arc<Server>| emulator.is_none_or(|e| s.emulator == e);
        if servers.mem_type.as_ref().is_some_and(&mine) {
            servers.mem_type = None;
        }
        servers.slots.iter_mut().filter_map(|s| s.take_if(|s| mine(s))).inspect(|s| s.end()).collect()
    };
    for server in doomed {
        close_ports(domain, &server);
    }
}
