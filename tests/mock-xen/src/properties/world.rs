//! The machine under test, and what runs on it: guests with vCPUs, emulators in dom0 and in a stub domain, their devices.
//!
//! Everything that is done, is done to the machine and to the [naive model](super::book); [`super::compare`] holds them
//! side by side.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use xen_ioreq::abi::dm_op::{XEN_DMOP_destroy_ioreq_server, xen_dm_op_destroy_ioreq_server};
use xen_ioreq::abi::ioreq::{IOREQ_TYPE_INVALIDATE, ioreq};
use xen_ioreq::seam::ForeignPages;
use xen_ioreq::{Bfn, DomId, Gfn, Mfn, VcpuId};

use super::agree;
use super::book::{Book, Page, Why};
use super::mutants::Mutant;
use super::step::{ACTORS, GFNS, MAX_PAGES};
use crate::ioreq::Shared;
use crate::testing::{DOM0, Emulator, dm, scope};
use crate::{BusPort, Caller, Config, DomainConfig, Iommu, Machine, OwnFrames, Profile, RmrrRange, Vcpu};

/// A notice: of which guest, to which server, in which vCPU's slot (none: the ring), its data, frames free by then.
pub(super) type Told = (DomId, u16, Option<u32>, u64, u64);
pub(super) const VCPUS: u32 = 2;
/// Machine frames from here on stand for one that is not known.
pub(super) const UNKNOWN: u64 = 1 << 60;

/// What kind of domain it is, and how it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dom {
    pub(super) guest: bool,
    pub(super) target: Option<DomId>,
    /// Of its device's table; where all RAM is in there; a BFN that the firmware uses.
    pub(super) controls: bool,
    pub(super) offset: u64,
    pub(super) rmrr: u64,
    pub(super) max: u64,
    pub(super) dying: bool,
}

/// A process of an emulator's, with its server as long as the guest lives.
pub(super) struct Actor {
    pub(super) by: DomId,
    pub(super) guest: DomId,
    pub(super) process: u64,
    pub(super) caller: Caller,
    pub(super) emulator: Option<Emulator>,
    /// What the server shares with it.
    pub(super) pages: Vec<Page>,
}

impl Actor {
    pub(super) fn id(&self) -> Option<u16> {
        self.emulator.as_ref().map(|e| e.id)
    }
}

/// A CPU mapping of guest memory.
pub(super) struct HostMap {
    pub(super) process: u64,
    pub(super) holds: Vec<u64>,
    pub(super) mapped: ForeignPages,
}

/// Memory of an emulator's own.
pub(super) struct Own {
    pub(super) process: u64,
    pub(super) by: DomId,
    pub(super) number: u64,
    pub(super) frames: OwnFrames,
}

pub(super) struct World {
    pub(super) machine: Arc<Machine>,
    pub(super) book: Book,
    pub(super) mutant: Option<Mutant>,
    pub(super) toolstack: Caller,
    pub(super) guests: Vec<DomId>,
    /// One that is no more.
    pub(super) dead: DomId,
    pub(super) vcpus: BTreeMap<DomId, Vec<Vcpu>>,
    pub(super) actors: Vec<Actor>,
    /// Devices, by the domain that has them.
    pub(super) ports: BTreeMap<DomId, BusPort>,
    pub(super) host: Vec<HostMap>,
    pub(super) own: Vec<Own>,
    /// What was left in each frame.
    pub(super) contents: BTreeMap<u64, u64>,
    /// Pages when they were last looked at: owner, frame, whether a server's.
    pub(super) before: BTreeMap<Page, (DomId, u64, bool)>,
    /// Sub-operations and their statuses, each as often as it was met.
    pub(super) met: BTreeMap<(u16, i32), u64>,
    /// Notices that came, of this step.
    pub(super) got: Vec<Told>,
    next_domain: u16,
    next: u64,
}

impl World {
    pub(super) fn new(config: &Config, mutant: Option<Mutant>) -> Self {
        let config =
            Config { rmrrs: vec![RmrrRange { first: Bfn(0x700), last: Bfn(0x700) }], ..config.clone() };
        let machine = Machine::new(config.clone()).unwrap();
        let toolstack = machine.caller(DOM0).unwrap();
        let mut w = Self {
            book: Book { config, ..Book::default() },
            mutant,
            toolstack,
            guests: Vec::new(),
            dead: DomId(0x6000),
            vcpus: BTreeMap::new(),
            actors: Vec::new(),
            ports: [(DOM0, machine.bus_port(DOM0, "dom0's device").unwrap())].into(),
            host: Vec::new(),
            own: Vec::new(),
            contents: BTreeMap::new(),
            before: BTreeMap::new(),
            met: BTreeMap::new(),
            got: Vec::new(),
            next_domain: 1,
            next: 0,
            machine,
        };
        w.know(DOM0, None, true);
        for guest in 0..2 {
            w.new_guest(guest);
        }
        w.new_stub(0, true);
        for who in 0..ACTORS {
            w.new_server(usize::from(who), 2);
        }
        w
    }

    /// A number that was not there before.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Tells the naive model of a domain and of what Xen itself lets its devices reach.
    fn know(&mut self, id: DomId, target: Option<DomId>, device: bool) {
        let config = self.book.config.clone();
        let (all, xens) = (config.frames, config.xen_frames);
        let dom0 = id == DOM0;
        let controls =
            device && config.iommu != Iommu::Absent && !(dom0 && config.iommu == Iommu::Passthrough);
        let offset = if config.profile == Profile::Xs && controls { config.foreign_offset } else { 0 };
        let guest = !dom0 && target.is_none();
        let rmrr = if dom0 { 0x700 } else { 0x701 };
        let max = if guest { MAX_PAGES } else { u64::MAX };
        self.book.domains.insert(id, Dom { guest, target, controls, offset, rmrr, max, dying: false });
        let frames = match config.iommu {
            Iommu::OneToOne if dom0 => xens..all,
            Iommu::Passthrough if dom0 => 0..all,
            Iommu::Absent if device => 0..all,
            _ => 0..0,
        };
        self.book.bare.extend(frames.map(|mfn| ((id, mfn as u64 + offset), mfn as u64)));
    }

    pub(super) fn new_guest(&mut self, slot: usize) {
        let id = DomId(self.next_domain);
        self.next_domain += 1;
        let config =
            DomainConfig { domid: Some(id), max_pages: MAX_PAGES, vcpus: VCPUS, ..DomainConfig::default() };
        self.machine.create_domain(&config).unwrap();
        self.know(id, None, false);
        let vcpus = (0..VCPUS).map(|v| self.machine.vcpu(id, VcpuId(v)).unwrap()).collect();
        self.vcpus.insert(id, vcpus);
        self.guests.insert(slot, id);
        if slot + 1 < self.guests.len() {
            self.guests.remove(slot + 1);
        }
        for who in 0..3 {
            let of = usize::from(who == 2);
            if of == slot && self.actors.len() <= who {
                self.new_actor(who, DOM0, id);
            } else if of == slot {
                self.actors[who].guest = id;
            }
        }
    }

    /// Another stub domain in place of the one that was there, for a guest.
    pub(super) fn new_stub(&mut self, target: usize, device: bool) {
        let id = DomId(self.next_domain);
        self.next_domain += 1;
        let target = self.guests[target];
        let config = DomainConfig {
            domid: Some(id),
            hvm: false,
            target: Some(target),
            device_assigned: device,
            rmrrs: vec![RmrrRange { first: Bfn(0x701), last: Bfn(0x701) }],
            ..DomainConfig::default()
        };
        self.machine.create_domain(&config).unwrap();
        self.know(id, Some(target), device);
        if device {
            self.ports.insert(id, self.machine.bus_port(id, "the stub domain's device").unwrap());
        }
        self.new_actor(3, id, target);
    }

    /// A new process, in the place of one that has ended.
    pub(super) fn new_actor(&mut self, who: usize, by: DomId, guest: DomId) {
        let (process, caller) = (self.fresh(), self.machine.caller(by).unwrap());
        let actor = Actor { by, guest, process, caller, emulator: None, pages: Vec::new() };
        if who < self.actors.len() {
            self.actors[who] = actor;
        } else {
            self.actors.push(actor);
        }
    }

    /// A server for an emulator that has none, if its guest lives and there is memory for its two pages.
    pub(super) fn new_server(&mut self, who: usize, mode: u8) {
        let (by, guest) = (self.actors[who].by, self.actors[who].guest);
        if self.book.domains.get(&guest).is_none_or(|d| d.dying) || self.book.free() < 2 {
            return;
        }
        let e = Emulator::of(self.machine.caller(by).unwrap(), guest, mode);
        let lowest = (0..).find(|id| !self.book.servers.contains_key(&(guest, *id)));
        agree("id of a new server", &Some(e.id), &lowest);
        self.book.servers.insert((guest, e.id), by);
        self.book.disabled.remove(&(guest, e.id));
        self.book.ringless.remove(&(guest, e.id));
        self.book.ringless.extend((mode == 0).then_some((guest, e.id)));
        let domain = self.machine.domain(guest).unwrap();
        let server = domain.servers.read().get(xen_ioreq::IoServerId(e.id)).cloned().unwrap();
        for mfn in [Shared::Sync(0), Shared::Buffered].into_iter().filter_map(|which| server.page(which)) {
            let page = self.book.bear(guest, Why::Allocation, false, mfn.0);
            // Xen's own mapping, and the emulator's.
            for _ in 0..2 {
                let number = self.fresh();
                self.book.holds.insert((page, Why::Host(number)));
            }
            self.actors[who].pages.push(page);
        }
        self.actors[who].emulator = Some(e);
    }

    /// The end of an emulator's server: Xen's side has gone or goes now, the emulator's with it.
    pub(super) fn end_server(&mut self, who: usize, destroy: bool) {
        let Some(e) = self.actors[who].emulator.take() else { return };
        let (guest, id) = (self.actors[who].guest, e.id);
        if destroy {
            let mut arg = xen_dm_op_destroy_ioreq_server { id, pad: 0 };
            let caller = self.machine.caller(self.actors[who].by).unwrap();
            agree("destroy", &dm(&caller, guest, XEN_DMOP_destroy_ioreq_server, &mut arg), &Ok(()));
        }
        drop(e);
        let pages = std::mem::take(&mut self.actors[who].pages);
        self.book.holds.retain(|h| !pages.contains(&h.0));
        self.book.servers.remove(&(guest, id));
        self.book.queued.retain(|q| (q.0, q.2) != (guest, Some(id)));
        self.book.settle();
    }

    /// The end of a process: the kernel gives back what it had.
    pub(super) fn end_process(&mut self, process: u64) {
        let (gone, left) = std::mem::take(&mut self.host).into_iter().partition(|h| h.process == process);
        self.host = left;
        self.end_host_maps(gone);
        let (gone, left) = std::mem::take(&mut self.own).into_iter().partition(|o| o.process == process);
        self.own = left;
        self.end_own(gone);
        self.book.settle();
    }

    pub(super) fn end_host_maps(&mut self, maps: Vec<HostMap>) {
        for map in maps {
            match self.mutant {
                Some(Mutant::MappingIsKept) => std::mem::forget(map.mapped),
                _ => drop(map.mapped),
            }
            self.book.holds.retain(|h| !matches!(h.1, Why::Host(n) if map.holds.contains(&n)));
        }
    }

    pub(super) fn end_own(&mut self, all: Vec<Own>) {
        for own in all {
            for gfn in own.frames.gfns() {
                if let Some(page) = self.book.p2m.remove(&(own.by, gfn.0)) {
                    self.book.holds.remove(&(page, Why::Allocation));
                }
            }
            drop(own.frames);
            self.book.holds.retain(|h| h.1 != Why::Host(own.number));
        }
    }

    /// Does something on a vCPU, and answers what comes by the slots meanwhile if that may be.
    pub(super) fn on_vcpu<R: Send>(
        &mut self,
        guest: DomId,
        vcpu: usize,
        slots: bool,
        call: impl FnOnce(&Vcpu) -> R + Send,
    ) -> R {
        let v = self.vcpus.get_mut(&guest).and_then(|v| v.get_mut(vcpu)).unwrap();
        if !slots {
            return call(v);
        }
        let emulators: Vec<&Emulator> =
            self.actors.iter().filter(|a| a.guest == guest).filter_map(|a| a.emulator.as_ref()).collect();
        let done = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let over = AtomicBool::new(false);
        let (machine, got) = (&self.machine, &mut self.got);
        let mut odd: Vec<ioreq> = Vec::new();
        let result = scope(machine, guest, |s| {
            let (fd, flag) = (&done, &over);
            let call = s.spawn(move || {
                let result = call(v);
                flag.store(true, Ordering::SeqCst);
                rustix::io::write(fd, &1u64.to_ne_bytes()).unwrap();
                result
            });
            loop {
                let over = over.load(Ordering::SeqCst);
                for e in &emulators {
                    e.drain_ports();
                    for v in 0..VCPUS {
                        let Some(r) = e.take(v as usize) else { continue };
                        got.push((guest, e.id, Some(v), r.data, machine.free_frames()));
                        // As released Xen words it, or as the draft would.
                        let form = if r.data == u64::MAX { (4, 0) } else { (8, 1) };
                        if r.r#type != IOREQ_TYPE_INVALIDATE || (r.size, r.count) != form || r.addr != 0 {
                            odd.push(r);
                        }
                        e.answer(v as usize, 0);
                    }
                }
                if over {
                    return call.join().unwrap();
                }
                let mut fds: Vec<PollFd<'_>> = emulators.iter().map(|e| poll(e.pollable())).collect();
                fds.push(poll(done.as_fd()));
                rustix::event::poll(&mut fds, None).unwrap();
            }
        });
        agree("requests that are no notices", &odd, &Vec::new());
        result
    }

    /// Whether something can come by a slot of a vCPU that runs now. The machine is asked as well, so that what the naive model
    /// does not expect is told and not waited for.
    pub(super) fn slots_in_use(&self, guest: DomId, vcpu: u32) -> bool {
        let config = &self.book.config;
        config.profile != Profile::Draft
            || config.wildcard
            || self.book.ringless.iter().any(|s| s.0 == guest)
            || self.machine.domain(guest).is_some_and(|d| d.vcpus[vcpu as usize].has_to_tell())
    }

    /// The machine frame of a guest's page, as the machine says.
    pub(super) fn mfn(&self, guest: DomId, gfn: u64) -> u64 {
        self.machine.mfn(guest, Gfn(gfn)).map_or(u64::MAX, |mfn| mfn.0)
    }

    pub(super) fn left_in(&self, page: Page) -> u64 {
        self.contents.get(&self.book.pages[&page].1).copied().unwrap_or(0)
    }

    pub(super) fn leave_in(&mut self, page: Page, stamp: u64) {
        self.contents.insert(self.book.pages[&page].1, stamp);
    }

    /// Whether a page is one that a server shares with its emulator.
    pub(super) fn servers_own(&self, page: Page) -> bool {
        self.actors.iter().any(|a| a.pages.contains(&page))
    }

    /// Guest frame numbers, and one beyond.
    pub(super) fn gfns() -> std::ops::RangeInclusive<u64> {
        0..=GFNS
    }
}

/// The first bytes of a frame.
pub(super) fn stamp_of(machine: &Machine, mfn: u64) -> u64 {
    machine.memory().page(Mfn(mfn)).map_or(u64::MAX, |page| page.read_scalar(0, 8))
}

fn poll(fd: std::os::fd::BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}
