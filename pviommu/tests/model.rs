//! The client on the model hypervisor: map, DMA, balloon, invalidate, quiesce, unmap, with the oracle watching and
//! frames counted. Each test runs in every mode that the model can bring the client into.
#![expect(unsafe_code, reason = "a device writes through the pointers that its pins give")]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

use mock_xen::{BusAccess, BusPort, Caller, Config as Machinery, DomainConfig, Iommu, Machine, Profile};
use parking_lot::Mutex;
use pviommu::{
    BfnSpace, Cause, Client, Config, DeviceFlush, Draining, EVERYTHING, Guest, Mapped, Mode, OwnFrame,
    OwnFrames, OwnMemory, Ports, ProcessMemory, ReclaimError, Released,
};
use xen_ioreq::abi::dm_op::{PAYLOAD_OFFSET, XEN_DMOP_create_ioreq_server, xen_dm_op_create_ioreq_server};
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation, XENMEM_populate_physmap, xen_memory_reservation};
use xen_ioreq::seam::{DmOp, MemoryOp};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};
use zerocopy::{FromBytes, IntoBytes};

const DOM0: DomId = DomId(0);
const FRAMES: u64 = 64;

/// A machine, a guest in it, the client that serves it, a device that caches translations.
struct World {
    machine: Arc<Machine>,
    caller: Arc<Caller>,
    client: Client,
    guest: Guest,
    device: Device,
    free: u64,
}

/// A device with a translation cache: a page stays pinned from its first access to the next flush.
struct Device {
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

    fn write(&self, bfn: Bfn, value: u8) {
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

/// Forgets to flush.
struct Careless;

impl DeviceFlush for Careless {
    fn flush(&self) {}
}

const MODES: [(Profile, Iommu); 5] = [
    (Profile::Draft, Iommu::On),
    (Profile::Draft, Iommu::OneToOne),
    (Profile::Draft, Iommu::Passthrough),
    (Profile::Draft, Iommu::Absent),
    (Profile::Stock, Iommu::On),
];

fn create_server(caller: &Caller, domid: DomId) -> IoServerId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&XEN_DMOP_create_ioreq_server.to_le_bytes());
    caller.dm_op(domid, &mut [&mut bytes]).unwrap();
    IoServerId(xen_dm_op_create_ioreq_server::read_from_prefix(&bytes[PAYLOAD_OFFSET..]).unwrap().0.id)
}

fn world((profile, iommu): (Profile, Iommu)) -> World {
    let config = Machinery { frames: 1024, profile, iommu, ..Machinery::default() };
    let machine = Machine::new(config).unwrap();
    let caller = Arc::new(machine.caller(DOM0).unwrap());
    let ports = Ports { iommu: Some(caller.clone()), foreign: Some(caller.clone()) };
    let client = Client::start(ports, Config::default()).unwrap();
    let port = machine.bus_port(DOM0, "the device").unwrap();
    let device = Device { port, client: client.clone(), cache: Mutex::default() };
    let domid =
        machine.create_domain(&DomainConfig { max_pages: FRAMES + 200, ..DomainConfig::default() }).unwrap();
    machine.populate(domid, Gfn(0), FRAMES).unwrap();
    let server = create_server(&caller, domid);
    let guest = client.attach(domid, server).unwrap();
    let free = machine.free_frames();
    World { machine, caller, client, guest, device, free }
}

impl World {
    fn reservation(&self, cmd: u32, gfn: Gfn) {
        let mut arg =
            xen_memory_reservation { nr_extents: 1, domid: self.guest.domid().0, ..Default::default() };
        let done = self.caller.memory_op(cmd, arg.as_mut_bytes(), &mut [gfn.0]);
        assert_eq!(done, Ok(1));
    }

    fn balloon_out(&self, gfn: Gfn) {
        self.reservation(XENMEM_decrease_reservation, gfn);
    }

    fn populate(&self, gfn: Gfn) {
        self.reservation(XENMEM_populate_physmap, gfn);
    }

    /// What the guest reads in the first byte of a frame.
    fn byte(&self, gfn: Gfn) -> u8 {
        let mut b = [0];
        self.machine.read_guest(self.guest.domid(), gfn.addr(), &mut b).unwrap();
        b[0]
    }

    fn release(&self, draining: impl IntoIterator<Item = Draining>) -> Released {
        let (quiesced, held) = self.client.quiesce(draining, &self.device);
        assert!(held.is_empty(), "{held:?}");
        self.client.release(quiesced)
    }

    /// Frames that have come back since the start; negative if some have gone.
    fn come_back(&self) -> i64 {
        i64::try_from(self.machine.free_frames()).unwrap() - i64::try_from(self.free).unwrap()
    }
}

#[test]
fn each_machine_brings_its_mode() {
    let modes = MODES.map(|m| world(m).client.mode().clone());
    assert!(matches!(modes[0], Mode::Map { .. }));
    assert!(matches!(modes[1], Mode::Map { .. }));
    assert!(matches!(modes[2], Mode::Lookup { iommu: false, .. }));
    assert!(matches!(modes[3], Mode::Lookup { iommu: false, .. }));
    assert!(matches!(modes[4], Mode::Soft { .. }));
}

#[test]
fn a_ballooned_page_comes_back_exactly_when_it_is_released() {
    for mode in MODES {
        for named in [true, false] {
            let w = world(mode);
            let m = w.guest.map_one(Gfn(7)).unwrap();
            let stays = w.guest.map_one(Gfn(8)).unwrap();
            w.device.write(m.bfn(), 0x5a);
            w.device.write(stays.bfn(), 0xa5);
            assert_eq!((w.byte(Gfn(7)), w.byte(Gfn(8))), (0x5a, 0xa5));

            w.balloon_out(Gfn(7));
            // The device still has the old translation, and uses it.
            w.device.write(m.bfn(), 0x5b);
            assert_eq!(w.come_back(), 0, "{mode:?}");

            w.guest.notice(if named { m.bfn().0 } else { EVERYTHING });
            let draining = w.guest.take_draining().unwrap();
            let ending: Vec<_> = draining.iter().filter(|d| d.ends_use()).map(Draining::gfn).collect();
            assert_eq!(ending, [Gfn(7)]);
            assert!(m.put().is_none());
            let released = w.release(draining);
            assert_eq!((released.mappings, released.failed.len()), (1, 0));
            assert_eq!(w.come_back(), 1);

            w.device.write(stays.bfn(), 0xa6);
            assert_eq!(w.byte(Gfn(8)), 0xa6);
            w.device.flush();
            w.machine.assert_clean();
        }
    }
}

#[test]
fn a_device_that_does_not_flush_is_caught() {
    for mode in MODES {
        let w = world(mode);
        let m = w.guest.map_one(Gfn(7)).unwrap();
        w.device.write(m.bfn(), 1);
        w.balloon_out(Gfn(7));
        let (quiesced, _) = w.client.quiesce(m.put(), &Careless);
        let released = w.client.release(quiesced);
        if w.client.soft().is_some() {
            // The soft IOMMU knows who has the page, and keeps it.
            assert_eq!((released.mappings, released.failed.len(), w.come_back()), (0, 1, 0));
            w.machine.assert_clean();
        } else {
            assert_eq!(released.mappings, 1);
            assert_ne!(w.machine.violation_count(), 0, "{mode:?}");
        }
    }
}

#[test]
fn a_page_that_went_out_and_in_again_is_reached_afresh() {
    for mode in MODES {
        let w = world(mode);
        let old = w.guest.map_one(Gfn(7)).unwrap();
        w.device.write(old.bfn(), 1);
        w.balloon_out(Gfn(7));
        w.populate(Gfn(7));
        assert_eq!(w.come_back(), -1, "the old frame is held");
        w.guest.notice(EVERYTHING);
        let draining = w.guest.take_draining().unwrap();
        let new = if w.client.soft().is_some() {
            assert!(draining.iter().all(|d| d.cause() == Cause::Replaced));
            assert_eq!(w.release(draining).pages, 1);
            old
        } else {
            let new = w.guest.map_one(Gfn(7)).unwrap();
            assert_ne!(new.bfn(), old.bfn());
            drop(old);
            assert_eq!(w.release(draining).mappings, 1);
            new
        };
        assert_eq!(w.come_back(), 0);
        w.device.write(new.bfn(), 2);
        assert_eq!(w.byte(Gfn(7)), 2);
        w.device.flush();
        w.machine.assert_clean();
    }
}

#[test]
fn a_dead_domain_goes_when_its_mappings_are_released() {
    for mode in MODES {
        let w = world(mode);
        let gfns: Vec<Gfn> = (0..FRAMES).map(Gfn).collect();
        let mapped: Vec<Mapped> = w.guest.map(&gfns).into_iter().map(Result::unwrap).collect();
        mapped.iter().for_each(|m| w.device.write(m.bfn(), 9));
        w.machine.destroy_domain(w.guest.domid()).unwrap();
        assert!(w.machine.domain_info(w.guest.domid()).is_some_and(|i| i.dying), "{mode:?}");
        let draining = w.guest.die();
        drop(mapped);
        assert_eq!(w.release(draining).mappings, gfns.len());
        assert_eq!(w.machine.domain_info(w.guest.domid()), None, "no zombie");
        assert!(w.come_back() >= i64::try_from(FRAMES).unwrap());
        w.machine.assert_clean();
    }
}

#[test]
fn a_new_client_gives_back_what_a_dead_one_left() {
    let w = world(MODES[0]);
    let mapped = w.guest.map(&[Gfn(1), Gfn(2), Gfn(3)]);
    w.balloon_out(Gfn(2));
    // The process is gone, at any point: nothing more is said to the hypervisor.
    mapped.into_iter().for_each(std::mem::forget);
    let bfns = BfnSpace::new(Bfn(1 << 20)..Bfn((1 << 20) + 10_000));
    let ports = Ports { iommu: Some(w.caller.clone()), foreign: None };
    let new = Client::start(ports, Config { bfns, ..Config::default() }).unwrap();
    let other = IoServerId(w.guest.ioserver().0 + 1);
    assert_eq!(new.reclaim(other, &w.device), Ok(0));
    assert_eq!((new.reclaim(w.guest.ioserver(), &w.device), w.come_back()), (Ok(3), 1));
    assert_eq!(w.client.reclaim(other, &w.device), Err(ReclaimError::InUse));
    w.machine.assert_clean();
}

/// dom0's own frames, as the model hands them out.
struct Dom0Frames(Arc<Caller>, fn(Gfn) -> OwnFrame);

impl OwnFrames for Dom0Frames {
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        let (mapping, gfns) = self.0.alloc_frames(pages)?.into_mapping();
        Ok(OwnMemory::new(mapping, gfns.into_iter().map(self.1).collect()))
    }
}

#[test]
fn own_pages_are_reached_by_the_device_and_come_back() {
    for mode in MODES {
        let w = world(mode);
        let as_frames = Dom0Frames(w.caller.clone(), OwnFrame::Frame);
        // Without translation bus frames are machine frames, and a PV domain knows those of its own.
        let as_bus_frames = Dom0Frames(w.caller.clone(), |gfn| OwnFrame::Reachable(Bfn(gfn.0)));
        let source: &dyn OwnFrames = match w.client.mode() {
            Mode::Map { .. } => &as_frames,
            Mode::Lookup { .. } => &as_bus_frames,
            Mode::Soft { .. } => &ProcessMemory,
        };
        let own = w.client.own(3, source).unwrap();
        assert_eq!(own.pages(), 3);
        for i in 0..3 {
            w.device.write(own.bfn(i).unwrap(), 7);
            // SAFETY: the page is ours while `own` lives, and the device is not writing now.
            assert_eq!(unsafe { own.ptr(i).unwrap().as_ptr().read_volatile() }, 7);
        }
        w.client.release_own(own, &w.device).unwrap();
        assert_eq!(w.come_back(), 0);
        w.machine.assert_clean();
    }
}

/// One random life.
fn live(seed: u64, mode: (Profile, Iommu)) {
    let w = world(mode);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held: Vec<Mapped> = Vec::new();
    let mut waiting: Vec<Draining> = Vec::new();
    let mut present: Vec<Gfn> = (0..FRAMES).map(Gfn).collect();
    let mut absent: Vec<Gfn> = Vec::new();
    for _ in 0..2000 {
        match rng.u8(0..10) {
            0..3 => {
                let gfn = present[rng.usize(0..present.len())];
                let m = w.guest.map_one(gfn).unwrap();
                let value = rng.u8(..);
                w.device.write(m.bfn(), value);
                // The device and the guest see the same page, unless the guest has just put another one there.
                if !w.guest.has_work() {
                    assert_eq!(w.byte(gfn), value, "seed {seed} {mode:?}");
                }
                held.push(m);
            }
            3 => {
                if let Some(gfn) = rng.choice(&absent) {
                    // A mapping that is not known to be stale yet may still be there.
                    let r = w.guest.map_one(*gfn);
                    assert!(r.is_ok() == w.guest.lookup(*gfn).is_some(), "{r:?}");
                }
            }
            4..7 => {
                if !held.is_empty() {
                    waiting.extend(held.swap_remove(rng.usize(0..held.len())).put());
                }
            }
            7 => {
                if rng.bool() && present.len() > 8 {
                    let gfn = present.swap_remove(rng.usize(0..present.len()));
                    w.balloon_out(gfn);
                    absent.push(gfn);
                    w.guest.notice(EVERYTHING);
                } else if !absent.is_empty() {
                    let gfn = absent.swap_remove(rng.usize(0..absent.len()));
                    w.populate(gfn);
                    present.push(gfn);
                }
            }
            8 => {
                let stale = w.guest.take_draining().unwrap();
                // PTEs go: whoever holds what is stale lets go of it.
                let gone: Vec<Bfn> =
                    stale.iter().filter(|d| d.ends_use() && d.is_held()).map(Draining::bfn).collect();
                held.retain(|m| !gone.contains(&m.bfn()));
                waiting.extend(stale);
            }
            _ => {
                let (quiesced, still) = w.client.quiesce(std::mem::take(&mut waiting), &w.device);
                waiting = still;
                drop(w.client.release(quiesced));
            }
        }
    }
    drop(held);
    waiting.extend(w.guest.take_draining().unwrap());
    waiting.extend(w.guest.die());
    assert!(w.release(waiting).failed.is_empty());
    assert!(w.guest.is_empty());
    assert_eq!(w.come_back(), i64::try_from(absent.len()).unwrap(), "seed {seed} {mode:?}");
    w.machine.assert_clean();
}

#[test]
fn whatever_the_guest_does_the_oracle_is_content_and_frames_add_up() {
    for seed in 0..4 {
        MODES.into_iter().for_each(|mode| live(seed, mode));
    }
}
