//! A guest's mappings with all that meets in them: a device that goes by its PTE, the notice that a frame has gone, somebody who maps
//! the same guest frame again, the last reference that goes, the guest's death.
//!
//! The client is whole; the hypervisor below it is as small as it can be, and says what must never happen.

mod iommu;
mod stock;

use std::ptr::NonNull;
use std::sync::Arc;

use iommu::{Profile, PvIommu};

use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

use crate::bfn::BfnSpace;
use crate::checker::{Checker, join, spawn};
use crate::client::{Client, Config};
use crate::guest::{EVERYTHING, Guest};
use crate::mapping::{DeviceFlush, Draining, Mapped};
use crate::mode::{Device, Ports};
use crate::soft::SoftIommu;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

const GUEST: DomId = DomId(1);
const SERVER: IoServerId = IoServerId(0);
/// Its one frame.
const GFN: Gfn = Gfn(3);
const FIRST: Bfn = Bfn(16);
const WINDOW: u64 = 4;

/// What hypervisor there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xen {
    /// Without PV-IOMMU: a bus frame is a foreign mapping.
    Stock,
    /// With it, as in the draft: bus frames are mapped by hypercall.
    PvIommu,
    /// With it, as it was shipped: bus frames are looked up.
    Shipped,
    /// As in the draft, with a physical device, whose bus the emulator looks at by mappings of its own.
    Viewed,
    /// The same as it was shipped.
    ViewedShipped,
}

/// When an owner drops the PTE of a mapping that drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pte {
    /// Before the flush.
    DroppedFirst,
    /// Only after it.
    DroppedLate,
}

/// What the guest does with its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balloon {
    /// It gives it away.
    Out,
    /// It gives it away and gets another.
    OutAndIn,
}

/// Who is at work meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// A device, by its PTE.
    Dma,
    /// Somebody who maps the guest frame, reaches it and lets go.
    Map,
    /// Both.
    Both,
    /// The emulator, which looks at what is at the bus frame of the PTE.
    Look,
}

/// A hypervisor with one guest that has one guest frame.
trait Host: Send + Sync {
    fn ports(self: Arc<Self>) -> Ports;
    /// The guest gives its frame away.
    fn balloon(&self, how: Balloon);
    /// A device uses what is at a bus frame, where something must be.
    fn reach(&self, soft: Option<&SoftIommu>, bfn: Bfn);
    /// The emulator looks at a page that it has mapped: it must be the guest's.
    fn see(&self, page: NonNull<u8>);
    /// When all is over: nothing is held, and what has gone is free.
    fn check(&self);
}

/// A device that goes by one PTE, 0 for scratch. While it works, a flush waits.
struct Gpu {
    host: Arc<dyn Host>,
    soft: Option<Arc<SoftIommu>>,
    pte: AtomicU64,
    works: Mutex<()>,
}

impl Gpu {
    fn dma(&self) {
        let _works = self.works.lock();
        let bfn = Bfn(self.pte.load(Ordering::Acquire));
        if bfn != Bfn(0) {
            self.reach(bfn);
        }
    }

    fn reach(&self, bfn: Bfn) {
        self.host.reach(self.soft.as_deref(), bfn);
    }
}

impl DeviceFlush for Gpu {
    fn flush(&self) {
        drop(self.works.lock());
    }
}

/// All of it, with the frame mapped and a PTE for it.
struct World {
    host: Arc<dyn Host>,
    gpu: Arc<Gpu>,
    client: Client,
    guest: Guest,
    /// The PTE's reference.
    held: Mutex<Option<Mapped>>,
}

impl World {
    fn new(xen: Xen) -> Arc<Self> {
        let (host, ports): (Arc<dyn Host>, Ports) = match xen {
            Xen::Stock => {
                let host = stock::Stock::new();
                (host.clone(), host.ports())
            }
            Xen::PvIommu | Xen::Shipped | Xen::Viewed | Xen::ViewedShipped => {
                let shipped = matches!(xen, Xen::Shipped | Xen::ViewedShipped);
                let host = PvIommu::new(if shipped { Profile::Shipped } else { Profile::Draft });
                (host.clone(), host.ports())
            }
        };
        let bfns = BfnSpace::new(FIRST..Bfn(FIRST.0 + WINDOW));
        let physical = matches!(xen, Xen::Viewed | Xen::ViewedShipped);
        let device = if physical { Device::Physical } else { Device::Software };
        let client =
            Client::start(ports, Config { bfns, device, ..Config::default() }).expect("a mode for it");
        let guest = client.attach(GUEST, SERVER).expect("the first");
        let mapped = guest.map_one(GFN).expect("there is a frame");
        let pte = AtomicU64::new(mapped.bfn().0);
        let soft = client.soft().cloned();
        let gpu = Arc::new(Gpu { host: host.clone(), soft, pte, works: Mutex::new(()) });
        Arc::new(Self { host, gpu, client, guest, held: Mutex::new(Some(mapped)) })
    }

    /// Lets go of what drains, as the owner of the PTE, and releases it.
    fn let_go(&self, mut draining: Vec<Draining>, pte: Pte) {
        let ends = draining.iter().any(Draining::ends_use);
        if ends && pte == Pte::DroppedFirst {
            self.gpu.pte.store(0, Ordering::Release);
        }
        let held = if ends { self.held.lock().take() } else { None };
        draining.extend(held.and_then(Mapped::put));
        let (quiesced, _held) = self.client.quiesce(draining, &*self.gpu);
        if ends && pte == Pte::DroppedLate {
            self.gpu.pte.store(0, Ordering::Release);
        }
        // What failed, or is held, comes back with the next look.
        drop(self.client.release(quiesced));
    }

    /// Works notices off.
    fn work(&self, pte: Pte) {
        self.let_go(self.guest.take_draining().expect("the hypervisor answers"), pte);
    }

    /// Maps the frame, reaches it, lets go.
    fn map(&self) {
        if let Ok(mapped) = self.guest.map_one(GFN) {
            self.gpu.reach(mapped.bfn());
            drop(mapped);
        }
    }

    /// Looks at the page of the PTE, if there is one.
    fn look(&self) {
        let view = self.client.view().expect("there is a physical device");
        let bfn = Bfn(self.gpu.pte.load(Ordering::Acquire));
        if let Ok(pin) = view.pin(bfn) {
            self.host.see(pin.ptr);
            view.unpin(pin.token);
        }
    }

    /// When all threads have ended: everything goes, and nothing is lost.
    fn end(&self) {
        while self.guest.has_work() {
            self.work(Pte::DroppedFirst);
        }
        if let (Ok(a), Ok(b)) = (self.guest.map_one(GFN), self.guest.map_one(GFN)) {
            assert_eq!(a.bfn(), b.bfn(), "one mapping of one guest frame");
            assert_eq!(self.client.stats().mappings, 1, "one mapping of one guest frame");
        }
        self.gpu.pte.store(0, Ordering::Release);
        drop(self.held.lock().take());
        let (quiesced, held) = self.client.quiesce(self.guest.die(), &*self.gpu);
        assert!(held.is_empty(), "nobody has a reference");
        assert!(self.client.release(quiesced).failed.is_empty(), "nobody has a pin");
        assert!(self.guest.is_empty(), "no mapping is lost");
        assert_eq!(self.client.stats().mappings, 0);
        self.host.check();
    }
}

/// Runs `scene` with others beside it.
fn scene(
    checker: Checker,
    xen: Xen,
    beside: Beside,
    scene: impl Fn(&Arc<World>) + Send + Sync + 'static,
) -> usize {
    checker.atomics(96).run(move || {
        let world = World::new(xen);
        let begin = |is: Beside, what: fn(&World)| {
            let world = world.clone();
            (beside == is || beside == Beside::Both).then(|| spawn(move || what(&world)))
        };
        let dma = begin(Beside::Dma, |world| world.gpu.dma());
        let map = begin(Beside::Map, World::map);
        let look = (beside == Beside::Look).then(|| {
            let world = world.clone();
            spawn(move || world.look())
        });
        scene(&world);
        dma.into_iter().chain(map).chain(look).for_each(join);
        world.end();
    })
}

/// The guest balloons, and the notice is worked off.
pub fn invalidation(checker: Checker, xen: Xen, beside: Beside, balloon: Balloon, pte: Pte) -> usize {
    scene(checker, xen, beside, move |world| {
        world.host.balloon(balloon);
        world.guest.notice(EVERYTHING);
        world.work(pte);
    })
}

/// The PTE is dropped, with it the last reference, and the mapping is released.
pub fn release(checker: Checker, xen: Xen, beside: Beside) -> usize {
    scene(checker, xen, beside, |world| {
        world.gpu.pte.store(0, Ordering::Release);
        let last = world.held.lock().take().and_then(Mapped::put);
        world.let_go(last.into_iter().collect(), Pte::DroppedFirst);
    })
}

/// The guest dies.
pub fn death(checker: Checker, xen: Xen, beside: Beside) -> usize {
    scene(checker, xen, beside, |world| {
        world.let_go(world.guest.die(), Pte::DroppedFirst);
        assert!(world.guest.map_one(GFN).is_err(), "a dead guest's frames are not mapped");
    })
}
