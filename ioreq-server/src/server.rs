//! The life of an IOREQ server: created, mapped, enabled, gone.
//!
//! Each step consumes the one before, so that a server that is not mapped cannot be enabled. Dropping it in any state
//! takes down what is there, in the order of varstored and demu: ranges, (answers to who waits), ports, state,
//! mapping, server. The guest may run all the while: for it the devices have been unplugged.

mod bury;
mod error;

use std::fmt;
use std::sync::Arc;

use xen_ioreq::abi::memory::{XENMEM_resource_ioreq_server, XENMEM_resource_ioreq_server_frame_bufioreq};
use xen_ioreq::seam::{EventChannels, Mapping};
use xen_ioreq::{DomId, Errno, IoServerId, Port, VcpuId};

use self::bury::{bury, bury_left};
pub use self::error::{Endpoint, ServerError};
use crate::claims::ServerClaims;
use crate::connection::Connection;
use crate::device::Space;
use crate::dm::{BufferedMode, Dm, DmError};
use crate::eventfd::KernelBells;
use crate::memory::GuestMemory;
use crate::record::Record;
use crate::ring::Ring;
use crate::slot::{Slots, VcpuPort, remote_ports};
use crate::traps::{WriteTraps, carry_out};

/// Frame of the first page of sync slots (`XENMEM_resource_ioreq_server_frame_ioreq(0)`).
const FIRST_SLOT_FRAME: u32 = 1;

/// State: exists in Xen.
#[derive(Debug)]
pub struct Created(());
/// State: its shared pages are mapped here.
#[derive(Debug)]
pub struct Mapped(());
/// State: its event channels are bound and requests come.
#[derive(Debug)]
pub struct Enabled {
    slots: Arc<Slots>,
}

/// An IOREQ server of one guest, in state `S`.
#[derive(Debug)]
pub struct Server<S> {
    // Dropped before `raw`, which unmaps the last of the shared pages before it destroys the server.
    state: S,
    raw: Raw,
}

/// What there is to take down.
struct Raw {
    dm: Dm,
    conn: Connection,
    id: IoServerId,
    mode: BufferedMode,
    claims: Arc<ServerClaims>,
    traps: Arc<WriteTraps>,
    bells: Arc<KernelBells>,
    record: Option<Arc<Record>>,
    sync: Option<Mapping>,
    ring: Option<Ring>,
    slots: Option<Arc<Slots>>,
    ports: Vec<Port>,
    ring_port: Option<Port>,
    enabled: bool,
}

impl<S> Server<S> {
    /// The guest.
    pub fn domid(&self) -> DomId {
        self.raw.dm.domid()
    }

    /// Its number.
    pub fn id(&self) -> IoServerId {
        self.raw.id
    }

    /// Where to claim ranges. Outlives the server, and then refuses.
    pub fn claims(&self) -> Arc<ServerClaims> {
        self.raw.claims.clone()
    }

    /// Where writes to RAM are trapped. Outlives the server, and then refuses.
    pub fn write_traps(&self) -> Arc<WriteTraps> {
        self.raw.traps.clone()
    }

    /// Device-model operations on the guest.
    pub fn dm(&self) -> &Dm {
        &self.raw.dm
    }

    /// The guest's memory.
    pub fn guest_memory(&self) -> GuestMemory {
        self.raw.conn.guest_memory(self.domid())
    }
}

impl Server<Created> {
    /// Creates a server for `domid`.
    pub fn create(conn: &Connection, domid: DomId, mode: BufferedMode) -> Result<Self, ServerError> {
        let dm = conn.dm(domid);
        let id = dm.create_server(mode).map_err(|e| match e.errno {
            Errno::ENOSPC => ServerError::TooMany { domid },
            _ => ServerError::Create(e),
        })?;
        let claims = Arc::new(ServerClaims::new(dm.clone(), id));
        let traps = Arc::new(WriteTraps::new(dm.clone(), id, conn.pauses.clone()));
        let bells = Arc::new(KernelBells::new(domid, conn.eventfds.clone()));
        let raw = Raw {
            dm,
            conn: conn.clone(),
            id,
            mode,
            claims,
            traps,
            bells,
            record: None,
            sync: None,
            ring: None,
            slots: None,
            ports: Vec::new(),
            ring_port: None,
            enabled: false,
        };
        Ok(Self { state: Created(()), raw })
    }

    /// As [`create`](Self::create), of a server that stands in `record` from before the guest can reach it until it has taken leave of
    /// the guest: should this process be killed, the next one finds it there. Then call [`Server::succeed`].
    ///
    /// Where the guest has as many servers as Xen allows, what a predecessor has left makes room.
    pub fn create_recorded(
        conn: &Connection,
        domid: DomId,
        mode: BufferedMode,
        record: &Arc<Record>,
    ) -> Result<Self, ServerError> {
        let mut created = Self::create(conn, domid, mode);
        if matches!(created, Err(ServerError::TooMany { .. })) && !record.left().is_empty() {
            bury_left(conn, domid, record, |_| false, None)
                .map_err(|source| ServerError::Record { domid, source })?;
            created = Self::create(conn, domid, mode);
        }
        let mut server = created?;
        record.add(server.id()).map_err(|source| ServerError::Record { domid, source })?;
        server.raw.record = Some(record.clone());
        Ok(server)
    }

    /// Maps the ring and all pages of sync slots, as many as Xen says there are.
    pub fn map(mut self) -> Result<Server<Mapped>, ServerError> {
        let Raw { conn, id, mode, .. } = &self.raw;
        let (domid, server) = (self.domid(), *id);
        let kind = XENMEM_resource_ioreq_server;
        let number = u32::from(server.0);
        let fail = |what| move |errno| ServerError::Map { domid, server, what, errno };
        let frames =
            conn.resources.resource_size(domid, kind, number).map_err(fail("shared pages (their number)"))?;
        let slot_frames = frames
            .checked_sub(FIRST_SLOT_FRAME)
            .filter(|n| *n > 0)
            .ok_or_else(|| fail("sync slots")(Errno::ENODATA))?;
        let sync = conn
            .resources
            .map_resource(domid, kind, number, FIRST_SLOT_FRAME, slot_frames)
            .map_err(fail("sync slots"))?;
        let ring = match mode {
            BufferedMode::Off => None,
            BufferedMode::Legacy | BufferedMode::Atomic => {
                let frame = XENMEM_resource_ioreq_server_frame_bufioreq;
                let page = conn
                    .resources
                    .map_resource(domid, kind, number, frame, 1)
                    .map_err(fail("buffered ring"))?;
                let ring = Ring::new(page, *mode == BufferedMode::Atomic);
                Some(ring.ok_or_else(|| fail("buffered ring")(Errno::ENODATA))?)
            }
        };
        self.raw.sync = Some(sync);
        self.raw.ring = ring;
        Ok(Server { state: Mapped(()), raw: self.raw })
    }
}

impl Server<Mapped> {
    /// Enables the server and binds its event channels. Xen writes their numbers into the slots when a server is enabled,
    /// so this is the order; a request that comes in between is not lost, since binding makes a port pending.
    ///
    /// Then wakes every vCPU: one that waited for another server when that was destroyed unanswered, as after an
    /// emulator was killed, stands until somebody does.
    pub fn enable(mut self) -> Result<Server<Enabled>, ServerError> {
        let (domid, server) = (self.domid(), self.id());
        let dm_error = |source| ServerError::Dm { server, source };
        self.raw.dm.set_state(server, true).map_err(dm_error)?;
        self.raw.enabled = true;
        let sync = self.raw.sync.take().ok_or(ServerError::Map {
            domid,
            server,
            what: "sync slots",
            errno: Errno::ENODATA,
        })?;
        let mut vcpus = Vec::new();
        for (vcpu, remote) in remote_ports(&sync) {
            let port = self.raw.bind(remote, Endpoint::Vcpu(vcpu))?;
            self.raw.wake(vcpu, port);
            vcpus.push(VcpuPort { vcpu, port });
        }
        if vcpus.is_empty() {
            return Err(ServerError::NoVcpu { domid, server });
        }
        if self.raw.ring.is_some() {
            let remote = self.raw.dm.buffered_port(server).map_err(dm_error)?;
            self.raw.ring_port = Some(self.raw.bind(remote, Endpoint::Ring)?);
        }
        let slots = Arc::new(Slots::new(sync, vcpus, self.raw.conn.events.clone()));
        self.raw.slots = Some(slots.clone());
        self.raw.bells.open(&slots);
        if let Err(e) = self.raw.traps.begin(&slots) {
            log::warn!("{domid}: no thread lets go of frames: no write to its RAM is trapped: {e}");
        }
        Ok(Server { state: Enabled { slots }, raw: self.raw })
    }
}

impl Server<Enabled> {
    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.state.slots
    }

    pub(crate) fn kernel_bells(&self) -> &Arc<KernelBells> {
        &self.raw.bells
    }

    pub(crate) fn ring(&self) -> Option<&Ring> {
        self.raw.ring.as_ref()
    }

    pub(crate) fn ring_port(&self) -> Option<Port> {
        self.raw.ring_port
    }

    pub(crate) fn events(&self) -> &dyn EventChannels {
        &*self.raw.conn.events
    }

    pub(crate) fn events_shared(&self) -> Arc<dyn EventChannels> {
        self.raw.conn.events.clone()
    }

    /// Destroys a server of the guest whose process was killed, and wakes the vCPUs that wait for its answers: they have them
    /// now (zero for a read), but Xen tells nobody. Not needed for one that was destroyed before this server was
    /// [enabled](Server::enable).
    ///
    /// Writes to RAM that it had trapped and not carried out are, and no frame is trapped for it any more.
    pub fn bury(&self, dead: IoServerId) -> Result<(), DmError> {
        let buried = bury(&self.raw.conn, self.domid(), dead, |addr| self.is_claimed(addr), Some(self));
        // Also after an error: somebody else may have destroyed it, and woken nobody.
        self.wake_all();
        buried
    }

    /// Takes the place of a predecessor that was killed: [buries](Self::bury) the servers that it has left, by the record. Those
    /// that are gone already are no error. Their number.
    ///
    /// Best called when the ranges are claimed, so that there is no moment without a device, and before or while requests
    /// are served. Does nothing for a server without a record.
    pub fn succeed(&self) -> Result<usize, ServerError> {
        let domid = self.domid();
        let Some(record) = &self.raw.record else { return Ok(0) };
        let buried = bury_left(&self.raw.conn, domid, record, |addr| self.is_claimed(addr), Some(self));
        self.wake_all();
        buried.map_err(|source| ServerError::Record { domid, source })
    }

    fn is_claimed(&self, addr: u64) -> bool {
        self.raw.claims.covers(Space::Mmio, addr)
    }

    fn wake_all(&self) {
        self.state.slots.vcpus().iter().for_each(|v| self.raw.wake(v.vcpu, v.port));
    }

    /// vCPUs that the server serves.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> + '_ {
        self.state.slots.vcpus().iter().map(|v| v.vcpu)
    }
}

impl Raw {
    /// Sends a vCPU an event that says nothing, so that it looks again at what it waits for.
    fn wake(&self, vcpu: VcpuId, port: Port) {
        if let Err(e) = self.conn.events.notify(port) {
            log::debug!("{} {}: waking {vcpu}: {e}", self.dm.domid(), self.id);
        }
    }

    fn bind(&mut self, remote: Port, whose: Endpoint) -> Result<Port, ServerError> {
        let (domid, server) = (self.dm.domid(), self.id);
        let port = self.conn.events.bind_interdomain(domid, remote).map_err(|errno| ServerError::Bind {
            domid,
            server,
            whose,
            errno,
        })?;
        self.ports.push(port);
        Ok(port)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A guest that died took the server along, so errors are no news here.
        let hush = |r: Result<(), DmError>| {
            if let Err(e) = r {
                log::debug!("taking down {}: {e}", self.id);
            }
        };
        self.claims.close();
        // From here on no request comes, so that those in the slots are all that are left to be answered: the end of a
        // server wakes no vCPU that waits for it.
        // Nothing may be trapped for a server that does not answer.
        let memory = self.conn.guest_memory(self.dm.domid());
        self.traps.close(self.slots.as_ref(), &memory);
        if self.enabled {
            hush(self.dm.set_state(self.id, false));
        }
        if let Some(slots) = self.slots.as_ref().filter(|_| self.traps.is_used()) {
            carry_out(&slots.left(), &memory, |_| false);
        }
        // The kernel lets go of slots and ports before we do.
        self.bells.close();
        if let Some(slots) = &self.slots {
            slots.close();
        }
        for port in self.ports.drain(..) {
            if let Err(e) = self.conn.events.unbind(port) {
                log::debug!("taking down {}: unbinding {port}: {e}", self.id);
            }
        }
        self.ring = None;
        self.sync = None;
        // Unless a deferred access is being answered this moment: then that answer, which comes too late, ends first.
        self.slots = None;
        // Nobody waits for it any more, and once it is destroyed the number may be somebody else's.
        if let Some(Err(e)) = self.record.take().map(|record| record.strike(self.id)) {
            log::error!("{e}: remove the file, in which {} stands as if it were there", self.id);
        }
        hush(self.dm.destroy_server(self.id));
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("domid", &self.dm.domid())
            .field("id", &self.id)
            .field("mode", &self.mode)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}
