//! What the tests on the model hypervisor share: a machine, a guest, the client that serves it, a device that caches
//! translations.
#![allow(dead_code, reason = "each test uses a part of it")]
#![expect(unsafe_code, reason = "a device writes through the pointers that its pins give")]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

use mock_xen::{BusAccess, BusPort, Caller, Config as Machinery, DomainConfig, Iommu, Machine, Profile};
use parking_lot::Mutex;
use pviommu::{
    Client, Config, DeviceFlush, Draining, Guest, Mode, OwnFrame, OwnFrames, OwnMemory, OwnPages, Ports,
    ProcessMemory, Released,
};
use xen_ioreq::abi::dm_op::{PAYLOAD_OFFSET, XEN_DMOP_create_ioreq_server, xen_dm_op_create_ioreq_server};
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation, XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::seam::{DmOp, MemoryOp};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const DOM0: DomId = DomId(0);
/// RAM of a guest.
pub(crate) const FRAMES: u64 = 64;

/// A hypervisor and what translates for devices.
pub(crate) type Kind = (Profile, Iommu);

/// Every kind of machine that the client can meet.
pub(crate) const KINDS: [Kind; 8] = [
    (Profile::Draft, Iommu::On),
    (Profile::Draft, Iommu::OneToOne),
    (Profile::Draft, Iommu::Passthrough),
    (Profile::Draft, Iommu::Absent),
    (Profile::Xs, Iommu::OneToOne),
    (Profile::Xs, Iommu::Passthrough),
    (Profile::Xs, Iommu::Absent),
    (Profile::Stock, Iommu::On),
];

/// A device with a translation cache: a page stays pinned from its first access to the next flush.
pub(crate) struct Device {
    port: BusPort,
    client: Client,
    cache: Mutex<BTreeMap<Bfn, Cached>>,
}

struct Cached {
    page: NonNull<u8>,
    token: u64,
}

// SAFETY: a pointer that is only used in an unsafe act.
unsafe impl Send for Cached {}

impl Device {
    pub(crate) fn new(machine: &Arc<Machine>, client: &Client) -> Self {
        let port = machine.bus_port(DOM0, "the device").unwrap();
        Self { port, client: client.clone(), cache: Mutex::default() }
    }

    fn page(&self, bfn: Bfn) -> NonNull<u8> {
        let pin = || match self.client.soft() {
            Some(soft) => {
                let pin = soft.pin(bfn).unwrap();
                Cached { page: pin.ptr, token: pin.token }
            }
            None => {
                let pin = self.port.pin(bfn, BusAccess::Write).unwrap();
                Cached { page: pin.ptr, token: pin.token }
            }
        };
        self.cache.lock().entry(bfn).or_insert_with(pin).page
    }

    pub(crate) fn write(&self, bfn: Bfn, value: u8) {
        // SAFETY: the page is pinned, 4096 bytes, and written by nobody else at this offset meanwhile.
        unsafe { self.page(bfn).as_ptr().write_volatile(value) }
    }
}

impl DeviceFlush for Device {
    fn flush(&self) {
        for (bfn, Cached { token, .. }) in std::mem::take(&mut *self.cache.lock()) {
            match self.client.soft() {
                Some(soft) => soft.unpin(token),
                None => self.port.unpin_token(bfn, token),
            }
        }
    }
}

/// A process that is not the client's, which gives guests frames and takes them.
pub(crate) struct Toolstack(Arc<Caller>);

impl Toolstack {
    pub(crate) fn new(machine: &Arc<Machine>) -> Self {
        Self(Arc::new(machine.caller(DOM0).unwrap()))
    }

    fn reservation(&self, cmd: u32, domid: DomId, gfn: Gfn) {
        let mut arg = xen_memory_reservation { nr_extents: 1, domid: domid.0, ..Default::default() };
        let done = self.0.memory_op(cmd, arg.as_mut_bytes(), &mut [gfn.0]);
        assert_eq!(done, Ok(1));
    }

    pub(crate) fn balloon_out(&self, domid: DomId, gfn: Gfn) {
        self.reservation(XENMEM_decrease_reservation, domid, gfn);
    }

    pub(crate) fn populate(&self, domid: DomId, gfn: Gfn) {
        self.reservation(XENMEM_populate_physmap, domid, gfn);
    }

    /// A guest with RAM, and an IOREQ server of dom0's for it.
    pub(crate) fn guest(&self) -> (DomId, IoServerId) {
        let machine = self.0.machine();
        let config = DomainConfig { max_pages: FRAMES + 200, ..DomainConfig::default() };
        let domid = machine.create_domain(&config).unwrap();
        machine.populate(domid, Gfn(0), FRAMES).unwrap();
        (domid, self.server(domid))
    }

    /// Another IOREQ server of dom0's.
    pub(crate) fn server(&self, domid: DomId) -> IoServerId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&XEN_DMOP_create_ioreq_server.to_le_bytes());
        self.0.dm_op(domid, &mut [&mut bytes]).unwrap();
        let id = xen_dm_op_create_ioreq_server::read_from_prefix(&bytes[PAYLOAD_OFFSET..]).unwrap().0.id;
        IoServerId(id)
    }
}

/// dom0's own frames, as the model hands them out.
struct Dom0Frames(Arc<Caller>, u64, fn(Gfn, u64) -> OwnFrame);

impl OwnFrames for Dom0Frames {
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        let (mapping, gfns) = self.0.alloc_frames(pages)?.into_mapping();
        Ok(OwnMemory::new(mapping, gfns.into_iter().map(|gfn| self.2(gfn, self.1)).collect()))
    }
}

/// Own pages, from where they come in the client's mode.
pub(crate) fn own_pages(client: &Client, caller: &Arc<Caller>, pages: usize) -> OwnPages {
    let source: Box<dyn OwnFrames> = match *client.mode() {
        Mode::Map { .. } => Box::new(Dom0Frames(caller.clone(), 0, |gfn, _| OwnFrame::Frame(gfn))),
        // Without translation bus frames are machine frames, and a PV domain knows those of its own; in a 1:1 map they
        // lie behind its offset.
        Mode::Lookup { offset, .. } => Box::new(Dom0Frames(caller.clone(), offset, |gfn, offset| {
            OwnFrame::Reachable(Bfn(gfn.0 + offset))
        })),
        Mode::Soft { .. } => Box::new(ProcessMemory),
    };
    client.own(pages, &*source).unwrap()
}

pub(crate) fn machine((profile, iommu): Kind) -> Arc<Machine> {
    Machine::new(Machinery { frames: 1024, profile, iommu, ..Machinery::default() }).unwrap()
}

/// All of a caller.
pub(crate) fn ports(caller: &Arc<Caller>) -> Ports {
    Ports { iommu: Some(caller.clone()), foreign: Some(caller.clone()) }
}

pub(crate) struct World {
    pub(crate) machine: Arc<Machine>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) client: Client,
    pub(crate) guest: Guest,
    pub(crate) device: Device,
    pub(crate) toolstack: Toolstack,
    free: u64,
}

pub(crate) fn world(kind: Kind) -> World {
    world_with(kind, Config::default())
}

pub(crate) fn world_with(kind: Kind, config: Config) -> World {
    let machine = machine(kind);
    let caller = Arc::new(machine.caller(DOM0).unwrap());
    let client = Client::start(ports(&caller), config).unwrap();
    let toolstack = Toolstack::new(&machine);
    let (domid, server) = toolstack.guest();
    let guest = client.attach(domid, server).unwrap();
    let (device, free) = (Device::new(&machine, &client), machine.free_frames());
    World { machine, caller, client, guest, device, toolstack, free }
}

impl World {
    pub(crate) fn balloon_out(&self, gfn: Gfn) {
        self.toolstack.balloon_out(self.guest.domid(), gfn);
    }

    pub(crate) fn populate(&self, gfn: Gfn) {
        self.toolstack.populate(self.guest.domid(), gfn);
    }

    /// What the guest reads in the first byte of a frame.
    pub(crate) fn byte(&self, gfn: Gfn) -> u8 {
        let mut b = [0];
        self.machine.read_guest(self.guest.domid(), gfn.addr(), &mut b).unwrap();
        b[0]
    }

    pub(crate) fn release(&self, draining: impl IntoIterator<Item = Draining>) -> Released {
        let (quiesced, held) = self.client.quiesce(draining, &self.device);
        assert!(held.is_empty(), "{held:?}");
        self.client.release(quiesced)
    }

    /// Frames that have come back since the start; negative if some have gone.
    pub(crate) fn come_back(&self) -> i64 {
        i64::try_from(self.machine.free_frames()).unwrap() - i64::try_from(self.free).unwrap()
    }
}
