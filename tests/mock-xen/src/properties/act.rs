//! Taking a step: on the machine, and by the naive model.

use std::collections::BTreeMap;

use xen_ioreq::abi::iommu_op::{
    IOMMUOP_query_caps, IOMMUOP_unmap_foreign_page, IOMMUOP_unmap_page, pv_iommu_op,
};
use xen_ioreq::abi::memory::{
    XENMAPSPACE_shared_info, XENMEM_add_to_physmap, XENMEM_decrease_reservation, XENMEM_populate_physmap,
    XENMEM_remove_from_physmap, xen_add_to_physmap, xen_memory_reservation, xen_remove_from_physmap,
};
use xen_ioreq::seam::{ForeignMap, MemoryOp, Prot};
use xen_ioreq::{Bfn, DomId, Errno, Gfn};
use zerocopy::IntoBytes;

use super::book::Why;
use super::step::{At, End, Hindrance, Memory, Step};
use super::world::{HostMap, Own, UNKNOWN, World};
use super::{agree, disagree};
use crate::memory::Page as Bytes;
use crate::testing::{DOM0, set_state};
use crate::{BusAccess, Fault, FaultPlan, Profile, Site, VcpuError, When};

impl World {
    /// Takes a step.
    pub(super) fn act(&mut self, step: &Step) {
        if let Some(mutant) = self.mutant {
            mutant.before(&mut self.book, step);
        }
        match step {
            Step::Iommu { who, ops, end } => self.iommu(usize::from(*who), ops, *end),
            Step::Memory { guest, vcpu, what, gfns, order, hindrance } => {
                let guest = self.guests[usize::from(*guest)];
                self.memory(guest, vcpu.map(u32::from), *what, gfns, *order, *hindrance);
            }
            Step::Touch { guest, vcpu, gfn, write } => {
                self.touch(self.guests[usize::from(*guest)], u32::from(*vcpu), *gfn, *write);
            }
            Step::GuestCall { guest } => {
                let guest = self.guests[usize::from(*guest)];
                let slots = self.slots_in_use(guest, 0);
                let mut op = pv_iommu_op::new(IOMMUOP_query_caps, 0);
                let got = self.on_vcpu(guest, 0, slots, |v| v.iommu_op(std::slice::from_mut(&mut op)));
                self.book.resume(guest, 0);
                agree("iommu_op of a guest", &got, &Err(VcpuError::Hypercall(Errno::ENOSYS)));
            }
            Step::HostMap { who, guest, gfns, write } => {
                self.host_map(usize::from(*who), *guest, gfns, *write)
            }
            Step::HostEnd(n) if !self.host.is_empty() => {
                let map = self.host.swap_remove(usize::from(*n) % self.host.len());
                self.end_host_maps(vec![map]);
            }
            Step::Own { who, count } => self.own(usize::from(*who), usize::from(*count)),
            Step::OwnEnd(n) if !self.own.is_empty() => {
                let own = self.own.swap_remove(usize::from(*n) % self.own.len());
                self.end_own(vec![own]);
            }
            Step::HostEnd(_) | Step::OwnEnd(_) => {}
            Step::Dma { who, at, write } => self.dma(self.actors[usize::from(*who)].by, at, *write),
            Step::SetMax { guest, max } => {
                let guest = self.guests[usize::from(*guest)];
                agree("set_max_pages", &self.machine.set_max_pages(guest, *max), &Ok(()));
                self.book.domains.get_mut(&guest).unwrap().max = *max;
            }
            Step::Server { who, mode: None } => self.end_server(usize::from(*who), true),
            Step::Server { who, mode: Some(mode) } => {
                if self.actors[usize::from(*who)].emulator.is_none() {
                    self.new_server(usize::from(*who), *mode);
                }
            }
            Step::Enable { who, on } => self.enable(usize::from(*who), *on),
            Step::Kill { who } => {
                self.actors[usize::from(*who)].caller.kill();
                self.replace(usize::from(*who));
            }
            Step::GuestDies { guest } => {
                self.guest_dies(usize::from(*guest));
                self.new_guest(usize::from(*guest));
                self.servers();
            }
            Step::StubDies { target, device } => {
                self.stub_dies();
                self.new_stub(usize::from(*target), *device);
                self.servers();
            }
        }
        if let Some(mutant) = self.mutant {
            mutant.after(&mut self.book, step, self.dead);
        }
        self.book.settle();
    }

    /// A server for every emulator that has none.
    fn servers(&mut self) {
        for who in 0..self.actors.len() {
            if self.actors[who].emulator.is_none() {
                self.new_server(who, 2);
            }
        }
    }

    /// A process was killed: another takes its place, ends its server and makes its own.
    pub(super) fn replace(&mut self, who: usize) {
        let (process, by, guest) = (self.actors[who].process, self.actors[who].by, self.actors[who].guest);
        self.end_process(process);
        self.end_server(who, true);
        self.new_actor(who, by, guest);
        self.book.settle();
        self.new_server(who, 2);
    }

    pub(super) fn guest_dies(&mut self, slot: usize) {
        let guest = self.guests[slot];
        self.vcpus.remove(&guest);
        agree("destroy", &self.machine.destroy_domain(guest), &Ok(()));
        self.book.destroy(guest);
        for who in 0..self.actors.len() {
            if self.actors[who].guest == guest {
                self.end_server(who, false);
            }
        }
        self.book.settle();
        self.dead = guest;
    }

    pub(super) fn stub_dies(&mut self) {
        let (stub, process) = (self.actors[3].by, self.actors[3].process);
        self.ports.remove(&stub);
        agree("destroy", &self.machine.destroy_domain(stub), &Ok(()));
        self.book.destroy(stub);
        self.end_server(3, false);
        self.end_process(process);
        self.dead = stub;
    }

    fn enable(&mut self, who: usize, on: bool) {
        let (guest, by) = (self.actors[who].guest, self.actors[who].by);
        let Some(id) = self.actors[who].id() else { return };
        let caller = self.machine.caller(by).unwrap();
        agree("set_ioreq_server_state", &set_state(&caller, guest, id, on), &Ok(()));
        if on {
            self.book.disabled.remove(&(guest, id));
        } else {
            self.book.disabled.insert((guest, id));
        }
    }

    fn touch(&mut self, guest: DomId, vcpu: u32, gfn: u64, write: bool) {
        let (slots, stamp) = (self.slots_in_use(guest, vcpu), self.fresh());
        let mut bytes = [0; 8];
        let got = self.on_vcpu(guest, vcpu as usize, slots, |v| match write {
            true => v.ram_write(gfn << 12, &stamp.to_ne_bytes()),
            false => v.ram_read(gfn << 12, &mut bytes),
        });
        self.book.resume(guest, vcpu);
        match self.book.p2m.get(&(guest, gfn)) {
            None => agree("access to a hole", &got, &Err(VcpuError::NotRam(gfn << 12))),
            Some(page) => {
                agree("access to memory", &got, &Ok(()));
                if write {
                    let page = *page;
                    self.leave_in(page, stamp);
                } else {
                    let expected = self.left_in(*page);
                    agree("what the guest reads", &u64::from_ne_bytes(bytes), &expected);
                }
            }
        }
    }

    fn memory(
        &mut self,
        guest: DomId,
        vcpu: Option<u32>,
        what: Memory,
        gfns: &[u64],
        order: u32,
        hindrance: Hindrance,
    ) {
        let n = 1u64 << order;
        let (cmd, mut arg) = match what {
            Memory::Decrease | Memory::Populate => {
                let arg = xen_memory_reservation {
                    nr_extents: gfns.len() as u64,
                    extent_order: order,
                    domid: guest.0,
                    ..Default::default()
                };
                let decrease = matches!(what, Memory::Decrease);
                let cmd = if decrease { XENMEM_decrease_reservation } else { XENMEM_populate_physmap };
                (cmd, arg.as_bytes().to_vec())
            }
            Memory::Remove => {
                let arg = xen_remove_from_physmap { domid: guest.0, gpfn: gfns[0], ..Default::default() };
                (XENMEM_remove_from_physmap, arg.as_bytes().to_vec())
            }
            Memory::Share => {
                let arg = xen_add_to_physmap {
                    domid: guest.0,
                    space: XENMAPSPACE_shared_info,
                    gpfn: gfns[0],
                    ..Default::default()
                };
                (XENMEM_add_to_physmap, arg.as_bytes().to_vec())
            }
        };
        if matches!(what, Memory::Share)
            && self.book.the(Why::Shared(guest)).is_none()
            && self.book.free() == 0
        {
            return;
        }
        // By the toolstack: it does not wait, whatever is in the way.
        let hindered = hindrance != Hindrance::Nothing;
        let rings: Vec<_> = self.book.servers.keys().copied().filter(|s| s.0 == guest).collect();
        let ringless = self.book.ringless.clone();
        let emulators =
            || self.actors.iter().filter(|a| a.guest == guest).filter_map(|a| a.emulator.as_ref());
        match hindrance {
            Hindrance::Nothing => {}
            Hindrance::Full => emulators().filter(|e| e.has_ring()).for_each(|e| e.fill_ring()),
            Hindrance::Fault => {
                self.machine.inject(FaultPlan::one(Site::Notice, When::Always, Fault::Error(Errno::EAGAIN)));
            }
        }
        let mut list = gfns.to_vec();
        let got = match vcpu {
            None => self.toolstack.memory_op(cmd, &mut arg, &mut list),
            Some(v) => {
                let slots = self.slots_in_use(guest, v) || hindered;
                let call = |vcpu: &crate::Vcpu| vcpu.memory_op(cmd, &mut arg, &mut list);
                self.on_vcpu(guest, v as usize, slots, call).map_err(|e| match e {
                    VcpuError::Hypercall(e) => e,
                    other => disagree(format!("a vCPU stops: {other}")),
                })
            }
        };
        self.machine.inject(FaultPlan::default());
        let emulators = self.actors.iter().filter(|a| a.guest == guest).filter_map(|a| a.emulator.as_ref());
        if hindrance == Hindrance::Full {
            emulators.filter(|e| e.has_ring()).for_each(|e| e.empty_ring());
        }
        if let Some(v) = vcpu {
            self.book.resume(guest, v);
        }
        self.book.ringless.extend(rings.iter().filter(|_| hindered));
        let mfns: BTreeMap<u64, u64> = (0..16).map(|gfn| (gfn, self.mfn(guest, gfn))).collect();
        let expected = match what {
            Memory::Decrease => Ok(self.book.decrease(guest, gfns, n, vcpu)),
            Memory::Populate => {
                let done = self.book.populate(guest, gfns, n, |gfn| mfns[&gfn]);
                for (first, gfn) in
                    gfns[..done].iter().flat_map(|first| (*first..first + n).map(move |g| (first, g)))
                {
                    agree("frames of an extent lie in a row", &mfns[&gfn], &(mfns[first] + gfn - first));
                }
                Ok(done)
            }
            Memory::Remove if self.book.p2m.contains_key(&(guest, gfns[0])) => {
                self.book.take_out(guest, gfns[0], vcpu);
                Ok(0)
            }
            Memory::Remove => Err(Errno::ENOENT),
            Memory::Share => {
                self.book.share(guest, gfns[0], vcpu, mfns[&gfns[0]]);
                Ok(0)
            }
        };
        agree("memory_op", &got, &expected.map(|done| i64::try_from(done).unwrap()));
        self.book.ringless = ringless;
        if let Some(v) = vcpu {
            self.book.resume(guest, v);
        }
    }

    fn host_map(&mut self, who: usize, guest: u8, gfns: &[u64], write: bool) {
        let d = self.whose(who, guest);
        let prot = if write { Prot::ReadWrite } else { Prot::Read };
        let list: Vec<Gfn> = gfns.iter().map(|g| Gfn(*g)).collect();
        let a = &self.actors[who];
        let got = a.caller.map_foreign(d, &list, prot);
        let over = a.by == DOM0 || self.book.domains[&a.by].target == Some(d);
        let dom = self.book.domains.get(&d);
        let expected = match dom {
            None => Some(Errno::ESRCH),
            Some(_) if !over => Some(Errno::EPERM),
            Some(_) => None,
        };
        agree("map_foreign", &got.as_ref().err().copied(), &expected);
        let Ok(mapped) = got else { return };
        let (process, mut holds) = (a.process, Vec::new());
        for (i, gfn) in gfns.iter().enumerate() {
            let page = self.book.p2m.get(&(d, *gfn)).copied();
            agree("a page of map_foreign", &mapped.error(i), &page.is_none().then_some(Errno::EINVAL));
            let Some(page) = page else { continue };
            // One hold for each time that it is in the list.
            let hold = self.fresh();
            self.book.holds.insert((page, Why::Host(hold)));
            holds.push(hold);
            let bytes = Bytes::of_mapping(&mapped.mapping, i);
            let expected = self.left_in(page);
            agree("what a mapping shows", &bytes.read_scalar(0, 8), &expected);
            if write {
                let stamp = self.fresh();
                bytes.write_scalar(0, 8, stamp);
                self.leave_in(page, stamp);
            }
        }
        self.host.push(HostMap { process, holds, mapped });
        if self.host.len() > 8 {
            let oldest = self.host.remove(0);
            self.end_host_maps(vec![oldest]);
        }
    }

    fn own(&mut self, who: usize, count: usize) {
        let (by, process, number) = (self.actors[who].by, self.actors[who].process, self.fresh());
        let got = self.actors[who].caller.alloc_frames(count);
        let room = self.book.free() >= count as u64;
        agree("alloc_frames", &got.as_ref().err().copied(), &(!room).then_some(Errno::ENOMEM));
        let Ok(frames) = got else { return };
        for gfn in frames.gfns() {
            let page = self.book.bear(by, Why::Allocation, true, gfn.0);
            self.book.holds.insert((page, Why::Host(number)));
            self.book.p2m.insert((by, gfn.0), page);
        }
        self.own.push(Own { process, by, number, frames });
        if self.own.len() > 5 {
            let oldest = self.own.remove(0);
            self.end_own(vec![oldest]);
        }
    }

    fn dma(&mut self, by: DomId, at: &At, write: bool) {
        let Some(port) = self.ports.get(&by) else { return };
        let bfn = self.bfn(by, at);
        let expected = self.book.reach(by, bfn);
        let page = expected.and_then(|r| self.book.page_of(r.0));
        // What it may destroy there is the hypervisor's or nobody's.
        let write = write && page.is_some_and(|p| !self.servers_own(p));
        if expected.is_some_and(|r| r.0 >= UNKNOWN) {
            return;
        }
        let allowed = expected.is_some_and(|r| if write { r.1.1 } else { r.1.0 });
        self.book.accused += u64::from(expected.is_some_and(|r| allowed && !r.2));
        let access = if write { BusAccess::Write } else { BusAccess::Read };
        let pin = port.pin(Bfn(bfn), access);
        agree(&format!("{access:?} by a device of {by} at {bfn:#x} gets through"), &pin.is_ok(), &allowed);
        let Ok(pin) = pin else { return };
        let bytes = Bytes::of_pin(&pin);
        if let Some(page) = page.filter(|p| !self.servers_own(*p)) {
            let expected = self.left_in(page);
            agree("what a device reads", &bytes.read_scalar(0, 8), &expected);
        }
        if write {
            self.next_stamp(page.unwrap(), |stamp| bytes.write_scalar(0, 8, stamp));
        }
        self.ports[&by].unpin(pin);
    }

    fn next_stamp(&mut self, page: u64, write: impl FnOnce(u64)) {
        let stamp = self.fresh();
        write(stamp);
        self.leave_in(page, stamp);
    }

    /// The end of everything: each entry is undone, and every frame comes back.
    pub(super) fn end(&mut self) {
        self.stub_dies();
        (0..2).for_each(|guest| self.guest_dies(guest));
        self.guests.clear();
        let processes: Vec<u64> = self.actors.iter().map(|a| a.process).collect();
        processes.into_iter().for_each(|p| self.end_process(p));
        let (host, own) = (std::mem::take(&mut self.host), std::mem::take(&mut self.own));
        self.end_host_maps(host);
        self.end_own(own);
        for bfn in self.bfns(DOM0) {
            for server in 0..8 {
                self.undo(bfn, server);
            }
        }
        self.book.settle();
        self.compare();
        agree("the books", &self.machine.audit(), &Vec::new());
        if self.book.config.profile != Profile::Stock {
            let left: Vec<_> = self.book.holds.iter().collect();
            agree("what is held at the end", &left, &Vec::new());
        }
    }

    /// Undoes what dom0 has mapped there for a server, and, for the last one, what it has mapped of its own.
    fn undo(&mut self, bfn: u64, server: u16) {
        let mut op = pv_iommu_op { bfn, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) };
        op.set_unmap_ioserver(server);
        let own = pv_iommu_op { bfn, ..pv_iommu_op::new(IOMMUOP_unmap_page, 0) };
        let bare = self.book.bare.contains_key(&(DOM0, bfn));
        for op in [op, own].into_iter().filter(|op| !bare || op.subop_id == IOMMUOP_unmap_foreign_page) {
            self.calls(0, &[op], End::Plain);
        }
    }
}
