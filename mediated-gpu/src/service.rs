//! One guest, served: an IOREQ server, a vGPU on its bus, and a thread that answers.
//!
//! Started before the guest runs or while it does. Stopped, or dropped, it takes everything down in the order that keeps the
//! promise: no access comes any more, then the vGPU lets go of its frames, then Xen forgets us.

mod slot;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use ioreq_server::devices::BochsDisplay;
use ioreq_server::pci::{AttachError, Cf8Latch, Sbdf, host_bridge};
use ioreq_server::{
    BufferedMode, Bus, Connection, Guest, GuestError, GuestLoop, Invalidation, LoopHandle, Notices, OnError,
    Record, Server, ServerError, Stats, WriteTraps,
};
use parking_lot::Mutex;
use pviommu::{AttachError as FramesError, Client};
use xen_ioreq::{DomId, Gfn};

use self::slot::First;
pub use self::slot::{Slot, SlotError};
use crate::mediator::{Claim, Legacy, Mediator, Place, PlugError, Seat, Snapshot, Vgpu};
use crate::privilege::{ThreadKind, narrow};
use crate::saved::SavedGuest;
use crate::vgpu::slice::VgpuType;

/// How a guest is served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The vGPU's type.
    pub kind: VgpuType,
    /// Also claim CF8 and be the host bridge: for a guest without another device model.
    pub pci_root: bool,
    /// The first of [`TABLE_FRAMES`](crate::mediator::TABLE_FRAMES) frames of the guest's, at a number that it does not use,
    /// that become its translation table. Without them each of its writes there traps.
    pub table: Option<Gfn>,
    /// With a table: the guest reads registers that it needs while it works without a trap, in the last frames of it.
    pub registers: bool,
    /// The first of [`BochsDisplay::FRAMES`] frames of the guest's, at a number that it does not use, that become the framebuffer
    /// of a display beside the vGPU, at [`CONSOLE`]. Without them there is none.
    pub console: Option<Gfn>,
    /// Have writes to its page tables trapped that have not changed for so many uses
    /// ([`TRACK_AFTER`](crate::mediator::TRACK_AFTER)), where Xen allows it, so that they need not be compared before each use. `None`:
    /// they are.
    pub track_tables: Option<u32>,
    /// What the guest meets when we are broken.
    pub on_error: OnError,
}

/// Where the display is on a guest's bus: 0000:00:10.0.
pub const CONSOLE: Sbdf = Sbdf::new(0, 0, 0x10, 0);

/// A guest could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Its IOREQ server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Its mappings.
    #[error(transparent)]
    Frames(#[from] FramesError),
    /// Its vGPU.
    #[error(transparent)]
    Plug(#[from] PlugError),
    /// The PCI root, or the display.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The ports of the PCI root.
    #[error("ports 0xcf8-0xcfb of {domid}: {source} (does the guest have another device model?)")]
    Cf8 {
        /// The guest.
        domid: DomId,
        /// Why not.
        source: ioreq_server::bus::BusError,
    },
    /// Its thread or its event loop.
    #[error("a thread for {domid}: {source}")]
    Thread {
        /// The guest.
        domid: DomId,
        /// Why not.
        source: io::Error,
    },
}

/// A guest that is being served.
pub struct Service {
    domid: DomId,
    slot: Arc<Slot>,
    console: Option<Arc<BochsDisplay>>,
    stats: Arc<Stats>,
    handle: LoopHandle,
    thread: Option<JoinHandle<()>>,
    lost: Arc<Mutex<Option<GuestError>>>,
}

/// Passes notices on to the vGPU, and keeps why the loop gave the guest up.
struct Ears {
    slot: Arc<Slot>,
    lost: Arc<Mutex<Option<GuestError>>>,
}

impl Notices for Ears {
    fn invalidate(&self, what: Invalidation) {
        Notices::invalidate(&*self.slot.vgpu(), what);
    }

    fn lost(&self, reason: &GuestError) {
        log::error!("{reason}");
        self.lost.lock().get_or_insert_with(|| reason.clone());
    }
}

/// What the record says of the function, and that it is told what becomes of it.
fn seat(record: &Arc<Record>) -> Seat {
    let legacy = Legacy::from_bytes(&record.note()).unwrap_or_else(|| {
        log::warn!("{record:?}: what a predecessor has noted makes no sense; the function begins anew");
        Legacy::default()
    });
    let record = record.clone();
    let told = move |legacy: &Legacy| {
        if let Err(e) = record.keep(&legacy.to_bytes()) {
            log::warn!("a successor will not know where the guest has its function: {e}");
        }
    };
    Seat { config: legacy.config, told: Some(Box::new(told)), ..Seat::default() }
}

/// Claims the type of memory whose writes come to the server.
fn claim(traps: Arc<WriteTraps>) -> Claim {
    Box::new(move || traps.claim())
}

impl Service {
    /// Serves a guest. `conn` is this guest's own (its event channels belong to one server).
    pub fn start(
        conn: &Connection,
        client: &Client,
        mediator: &Arc<Mediator>,
        domid: DomId,
        options: Options,
    ) -> Result<Self, ServiceError> {
        Self::begin(conn, client, mediator, domid, options, None, None)
    }

    /// As [`start`](Self::start), so that a successor can take our place if this process is killed, and in the place of a
    /// predecessor that was: what it left in Xen is destroyed. Where one has served this guest before, killed or not, the
    /// guest finds the function where it had put it, as after a reset.
    pub fn succeed(
        conn: &Connection,
        client: &Client,
        mediator: &Arc<Mediator>,
        domid: DomId,
        options: Options,
        record: &Arc<Record>,
    ) -> Result<Self, ServiceError> {
        Self::begin(conn, client, mediator, domid, options, Some(record), None)
    }

    /// Serves a guest that was saved and restored, and that has not run since, with the vGPU that it had: of the type and
    /// the table that are saved, whatever the options say. With a record, a successor can take our place.
    pub fn restore(
        conn: &Connection,
        client: &Client,
        mediator: &Arc<Mediator>,
        domid: DomId,
        options: Options,
        saved: &SavedGuest,
        record: Option<&Arc<Record>>,
    ) -> Result<Self, ServiceError> {
        Self::begin(conn, client, mediator, domid, options, record, Some(saved))
    }

    fn begin(
        conn: &Connection,
        client: &Client,
        mediator: &Arc<Mediator>,
        domid: DomId,
        options: Options,
        record: Option<&Arc<Record>>,
        saved: Option<&SavedGuest>,
    ) -> Result<Self, ServiceError> {
        let server = match record {
            Some(record) => Server::create_recorded(conn, domid, BufferedMode::Atomic, record),
            None => Server::create(conn, domid, BufferedMode::Atomic),
        };
        let server = server?.map()?.enable()?;
        let frames = client.attach(domid, server.id())?;
        let bus = Bus::new(server.claims());
        if options.pci_root {
            Cf8Latch::attach(&bus).map_err(|source| ServiceError::Cf8 { domid, source })?;
            host_bridge(&bus)?;
        }
        let attach =
            |first| BochsDisplay::attach(&bus, CONSOLE, conn.dm(domid), server.guest_memory(), first);
        let console = options.console.map(attach).transpose()?;
        let Seat { config, told, .. } = record.map(seat).unwrap_or_default();
        let dm = conn.dm(domid);
        let claim = options.registers.then(|| claim(server.write_traps()));
        let place = Place::new(options.table, told, claim);
        let traps = options.track_tables.map(|quiet| (server.write_traps(), quiet));
        let parts = slot::Parts { mediator: mediator.clone(), frames, bus: bus.clone(), dm, place, traps };
        let first = match saved {
            Some(saved) => First::Saved(saved),
            None => First::New(options.kind, config.as_ref()),
        };
        let slot = Arc::new(Slot::new(parts, first)?);
        match server.succeed() {
            Ok(0) => {}
            Ok(n) => log::warn!("{domid}: {n} servers of a predecessor that was killed are gone"),
            Err(e) => {
                if let Err(e) = slot.destroy() {
                    log::error!("{e}");
                }
                return Err(e.into());
            }
        }
        let lost = Arc::new(Mutex::new(None));
        let ears = Arc::new(Ears { slot: slot.clone(), lost: lost.clone() });
        let guest = Guest::new(server, bus, ears, options.on_error);
        let stats = guest.stats();
        match Self::spawn(domid, guest) {
            Ok((handle, thread)) => {
                Ok(Self { domid, slot, console, stats, handle, thread: Some(thread), lost })
            }
            Err(source) => {
                if let Err(e) = slot.destroy() {
                    log::error!("{e}");
                }
                Err(ServiceError::Thread { domid, source })
            }
        }
    }

    fn spawn(domid: DomId, guest: Guest) -> io::Result<(LoopHandle, JoinHandle<()>)> {
        let mut guests = GuestLoop::new()?;
        guests.add(guest)?;
        let handle = guests.handle();
        let thread = std::thread::Builder::new().name(format!("guest-{}", domid.0)).spawn(move || {
            narrow(ThreadKind::EventLoop);
            if let Err(e) = guests.run() {
                log::error!("{domid}: the event loop failed: {e}");
            }
        })?;
        Ok((handle, thread))
    }

    /// The guest.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// Its vGPU, or the last that it had.
    pub fn vgpu(&self) -> Arc<Vgpu> {
        self.slot.vgpu()
    }

    /// Its display, if it has one.
    pub fn console(&self) -> Option<&Arc<BochsDisplay>> {
        self.console.as_ref()
    }

    /// Where its vGPU is plugged in.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// Its loop.
    pub fn handle(&self) -> &LoopHandle {
        &self.handle
    }

    /// The counters of what came from it.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// What came from it.
    pub fn requests(&self) -> ioreq_server::Snapshot {
        self.stats.snapshot()
    }

    /// Why it is not served any more, if that is so.
    pub fn lost(&self) -> Option<GuestError> {
        self.lost.lock().clone()
    }

    /// Stops serving; every frame of the guest is released. Says what its vGPU did in its life.
    pub fn stop(mut self) -> Snapshot {
        self.take_down()
    }

    fn take_down(&mut self) -> Snapshot {
        let vgpu = self.slot.vgpu();
        let Some(thread) = self.thread.take() else { return vgpu.statistics() };
        // While it is served: afterwards what registers are shown in is plain memory.
        self.slot.hide_registers();
        self.handle.stop();
        if thread.join().is_err() {
            log::error!("{}: its thread had panicked", self.domid);
        }
        match self.slot.destroy() {
            Ok(_) | Err(SlotError::Empty) => {}
            Err(e) => log::error!("{e}"),
        }
        vgpu.statistics()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.take_down();
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("domid", &self.domid)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
