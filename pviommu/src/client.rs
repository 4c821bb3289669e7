//! The client: chosen once at start, shared by all guests and threads.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

use crate::backend::{Backend, LookupBackend, MapBackend, SoftBackend, Viewed};
use crate::bfn::{BfnAllocator, BfnSpace};
use crate::error::{AttachError, ReclaimError, StartError};
use crate::guest::{Guest, GuestInner};
use crate::ledger::Ledger;
use crate::mapping::{DeviceFlush, Draining, Quiesced, Released};
use crate::mode::{Chosen, Device, Mode, Ports, choose};
use crate::reclaim::Reclaimed;
use crate::soft::{MAX_WINDOW, SoftIommu};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, RandomState};
use crate::table::Records;
use crate::view::View;
use crate::wire::Peer;

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// What kind of device reaches memory.
    pub device: Device,
    /// Bus frames to choose from, where it is us who choose.
    pub bfns: BfnSpace,
    /// Most mappings that one guest may have, so that it cannot use up what others need.
    pub max_per_guest: u32,
    /// In map mode, whether the hypervisor may put a scratch frame in the place of one that its guest gives away
    /// (`IOMMUOP_swap_mfn`). Then the guest's frame is free at once, and nobody has to let go of it first: what the
    /// device still writes there is lost, and what it reads is scratch. Entries must be dropped after the notice all the same.
    ///
    /// Only for a device whose every access is translated by the IOMMU at that moment. Never for one that keeps
    /// translations of its own (a translation cache outside the IOMMU, as the software GPU has one): it would reach a frame
    /// that is another guest's by then. Nor where a device must not lose what it writes, as in its command rings; the
    /// choice is the client's, so give those mappings another client with a window of its own.
    pub swap_mfn: bool,
    /// A file of this program's own, for [`Client::reclaim`]: what is looked up, and in map mode which own pages are
    /// mapped, is written there, so that a later life finds it if this one is killed. Beside it a `.lock` and, at times, a
    /// `.new` are made. It need not outlive the host's boot. Without one that is lost until the guest's end, or ours.
    ///
    /// It is written by whoever maps and rewritten by whoever releases (open, ftruncate, pwrite, rename): a process that has
    /// given these up leaves it to a broker.
    /// Behind a broker the ledger is the broker's ([`Broker::with_ledger`](crate::Broker::with_ledger)): a broker lets no unmap
    /// pass of what it has not seen mapped.
    pub ledger: Option<PathBuf>,
}

impl Default for Config {
    /// A software device, [`BfnSpace::default`], 2^22 mappings (16 GiB) a guest, nothing swapped, no ledger.
    fn default() -> Self {
        Self {
            device: Device::Software,
            bfns: BfnSpace::default(),
            max_per_guest: 1 << 22,
            swap_mfn: false,
            ledger: None,
        }
    }
}

/// A PV-IOMMU client. Cheap to clone; the last clone does not release anything, see [`Guest::die`].
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<ClientInner>,
}

pub(crate) struct ClientInner {
    pub(crate) mode: Mode,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) records: Records,
    pub(crate) max_per_guest: u32,
    soft: Option<Arc<SoftIommu>>,
    view: Option<Arc<View>>,
    guests: Mutex<HashMap<DomId, Weak<GuestInner>>>,
    next_guest: AtomicU32,
}

/// Figures of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Mappings that exist now, of all guests, draining ones that are not being released included.
    pub mappings: u64,
    /// Bus frames that are not used again, most of them never, since nobody knows whether a device can reach them.
    pub quarantined: u64,
}

impl Client {
    /// Finds out what the hypervisor offers and chooses. [`mode`](Self::mode) says what, in one line.
    pub fn start(ports: Ports, config: Config) -> Result<Self, StartError> {
        let foreign = ports.foreign.clone().filter(|_| config.device == Device::Physical);
        let chosen = choose(ports, config.device, &config.bfns)?;
        let mut soft = None;
        let (backend, mode): (Box<dyn Backend>, Mode) = match chosen {
            Chosen::Map(wire, mode) => {
                let window = window(&config.bfns)?;
                (Box::new(MapBackend::new(wire, window, config.swap_mfn, ledger(&config)?)), mode)
            }
            Chosen::Lookup(wire, mode) => {
                let iommu = matches!(mode, Mode::Lookup { iommu: true, .. });
                (Box::new(LookupBackend::new(wire, iommu, ledger(&config)?)), mode)
            }
            Chosen::Soft(foreign, mode) => {
                let bfns = BfnAllocator::new(&window(&config.bfns)?);
                let Mode::Soft { window } = &mode else { return Err(StartError::NothingToMapWith) };
                let iommu = Arc::new(SoftIommu::new(window.start, window.end.0 - window.start.0));
                soft = Some(iommu.clone());
                (Box::new(SoftBackend { foreign, bfns, iommu }), mode)
            }
        };
        let view = foreign.map(|foreign| Arc::new(View::new(foreign, &mode)));
        let backend = match &view {
            Some(view) => Box::new(Viewed::new(backend, view.clone())),
            None => backend,
        };
        let records = match &mode {
            Mode::Map { window, .. } | Mode::Soft { window } => {
                Records::of_window(window.start, window.end.0 - window.start.0)
            }
            Mode::Lookup { .. } => Records::of_told(secret()),
        };
        let inner = ClientInner {
            mode,
            backend,
            records,
            max_per_guest: config.max_per_guest,
            soft,
            view,
            guests: Mutex::default(),
            next_guest: AtomicU32::new(1),
        };
        let inner = Arc::new(inner);
        inner.view.iter().for_each(|view| view.serve(&inner));
        Ok(Self { inner })
    }

    /// What was chosen.
    pub fn mode(&self) -> &Mode {
        &self.inner.mode
    }

    /// The soft IOMMU through which a software device reaches memory; `None` in other modes.
    pub fn soft(&self) -> Option<&Arc<SoftIommu>> {
        self.inner.soft.as_ref()
    }

    /// What this process sees of the bus on which a physical device is; `None` for a software device, or without a way to map
    /// foreign frames.
    pub fn view(&self) -> Option<&Arc<View>> {
        self.inner.view.as_ref()
    }

    /// Gives back what an earlier life of this program, ended before it could, left mapped. To be called after the device
    /// was reset and before anything is mapped ([`ReclaimError::InUse`] otherwise); flushes the device.
    ///
    /// * *map*: unmaps the whole window for `ioserver`, 1024 bus frames a hypercall, and the own pages of the ledger.
    ///   Once for each server that the earlier life may have had.
    /// * *lookup*: unmaps every bus frame that the ledger knows, whichever server it was for; what the earlier life was
    ///   about to look up is looked up again (for `ioserver` if its own server has gone) and given back.
    /// * *soft*: nothing, since foreign mappings end with their process.
    ///
    /// What could not be given back is in [`Reclaimed`], and in the ledger for the next life.
    pub fn reclaim(
        &self,
        ioserver: IoServerId,
        device: &(impl DeviceFlush + ?Sized),
    ) -> Result<Reclaimed, ReclaimError> {
        if self.stats().mappings != 0 {
            return Err(ReclaimError::InUse);
        }
        device.flush();
        let mut out = Reclaimed::default();
        match self.inner.backend.reclaim(ioserver, &mut out) {
            Ok(()) => Ok(out),
            Err(errno) => {
                log::warn!("before it failed: {out}");
                Err(ReclaimError::Refused { ioserver, errno })
            }
        }
    }

    /// Begins to serve a guest. `ioserver` is the IOREQ server that hears of its frames' end. One [`Guest`] (and its
    /// clones) a domain.
    pub fn attach(&self, domid: DomId, ioserver: IoServerId) -> Result<Guest, AttachError> {
        if domid >= DomId::FIRST_RESERVED {
            return Err(AttachError::NoGuest { domid });
        }
        let mut guests = self.inner.guests.lock();
        if guests.get(&domid).is_some_and(|g| g.strong_count() != 0) {
            return Err(AttachError::Already { domid });
        }
        guests.retain(|_, g| g.strong_count() != 0);
        let id = self.inner.next_guest.fetch_add(1, Ordering::Relaxed);
        let guest = Guest::new(self.inner.clone(), id, Peer { domid, ioserver }, secret());
        guests.insert(domid, Arc::downgrade(&guest.inner));
        Ok(guest)
    }

    /// The guest of a domain, if it is attached.
    pub fn guest(&self, domid: DomId) -> Option<Guest> {
        let inner = self.inner.guests.lock().get(&domid)?.upgrade()?;
        Some(Guest { inner })
    }

    /// Makes sure that the device cannot reach what is draining: flushes it once, if there is anything. PTEs that hold the
    /// bus frames must have been removed before.
    ///
    /// What still has references is given back as the second value: somebody holds a [`Mapped`](crate::Mapped) and
    /// may have a PTE. What was taken into use again is left out.
    pub fn quiesce(
        &self,
        draining: impl IntoIterator<Item = Draining>,
        device: &(impl DeviceFlush + ?Sized),
    ) -> (Quiesced, Vec<Draining>) {
        let (held, items): (Vec<_>, Vec<_>) =
            draining.into_iter().filter(|d| !d.is_void()).partition(Draining::is_held);
        // References are looked at before the flush: who put one has removed its PTE by then, and none can be taken
        // after, except by taking the whole mapping into use again, which a release sees.
        if !items.is_empty() {
            device.flush();
        }
        (Quiesced { items }, held)
    }

    /// Ends mappings: the hypervisor gets its references back, in batches of 1024, and after that, flush included, the
    /// bus frames are free to be used again.
    ///
    /// A mapping with live references cannot be released; there is no way to say it:
    ///
    /// ```compile_fail,E0308
    /// # use pviommu::{Client, Mapped};
    /// fn f(client: &Client, mapped: Mapped) {
    ///     let _ = client.release(mapped);
    /// }
    /// ```
    ///
    /// Nor can one that is merely draining:
    ///
    /// ```compile_fail,E0308
    /// # use pviommu::{Client, Draining};
    /// fn f(client: &Client, draining: Draining) {
    ///     let _ = client.release(draining);
    /// }
    /// ```
    ///
    /// Nobody else makes a `Quiesced`:
    ///
    /// ```compile_fail,E0451
    /// # use pviommu::{Client, Draining, Quiesced};
    /// fn f(client: &Client, draining: Draining) {
    ///     let _ = client.release(Quiesced { items: vec![draining] });
    /// }
    /// ```
    ///
    /// A reference is not used after it was given back, and not copied:
    ///
    /// ```compile_fail,E0382
    /// # use pviommu::Mapped;
    /// fn f(mapped: Mapped) {
    ///     let _ = mapped.put();
    ///     println!("{}", mapped.bfn());
    /// }
    /// ```
    ///
    /// This is the way:
    ///
    /// ```
    /// # use pviommu::{Client, DeviceFlush, Mapped};
    /// fn f(client: &Client, device: &dyn DeviceFlush, mapped: Mapped) {
    ///     // … the PTE with `mapped.bfn()` is scratch now …
    ///     if let Some(draining) = mapped.put() {
    ///         let (quiesced, _held) = client.quiesce([draining], device);
    ///         let released = client.release(quiesced);
    ///         for (_, e) in &released.failed {
    ///             eprintln!("{e}");
    ///         }
    ///     }
    /// }
    /// ```
    pub fn release(&self, quiesced: Quiesced) -> Released {
        let mut items = quiesced.items;
        let mut out = Released::default();
        // Guest by guest: each locks its own.
        items.sort_by_key(|d| d.domid());
        while let Some(last) = items.last() {
            let inner = last.guest.clone();
            let of_it = items.partition_point(|d| d.domid() < inner.domid());
            let (mine, others): (Vec<_>, Vec<_>) =
                items.drain(of_it..).partition(|d| Arc::ptr_eq(&d.guest, &inner));
            // A domain that was detached and attached again has two.
            items.extend(others);
            Guest { inner }.release(mine, &mut out);
        }
        out
    }

    /// Its figures.
    pub fn stats(&self) -> Stats {
        Stats { mappings: self.inner.records.len() as u64, quarantined: self.inner.backend.quarantined() }
    }
}

impl ClientInner {
    /// Whether it is known at any time which pages a device uses.
    pub(crate) fn counts_pins(&self) -> bool {
        self.soft.is_some()
    }

    /// Which guest's frame is mapped at a bus frame, if one is and is not being released.
    pub(crate) fn frame_at(&self, bfn: Bfn) -> Option<(DomId, Gfn)> {
        let (guest, gfn) = self.records.find(bfn, |_, record| (record.guest(), record.gfn()))?;
        let guests = self.guests.lock();
        let mut served = guests.values().filter_map(Weak::upgrade);
        Some((served.find(|g| g.id() == guest)?.domid(), gfn))
    }
}

impl fmt::Debug for ClientInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientInner").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("mode", self.mode())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// The ledger, if there is to be one.
fn ledger(config: &Config) -> Result<Option<Ledger>, StartError> {
    let Some(path) = &config.ledger else { return Ok(None) };
    Ledger::open(path).map(Some).map_err(|error| StartError::Ledger { path: path.clone(), error })
}

/// The window, if it can be served.
fn window(space: &BfnSpace) -> Result<BfnSpace, StartError> {
    let frames = space.bounds().map_or(0, |b| b.end.0 - b.start.0);
    if (1..=MAX_WINDOW).contains(&frames) {
        Ok(space.clone())
    } else {
        Err(StartError::BadWindow { frames, most: MAX_WINDOW })
    }
}

/// A number that guests do not know.
fn secret() -> u64 {
    RandomState::new().hash_one(0u8)
}
