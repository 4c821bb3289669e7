//! A model with PV-IOMMU for one row: dom0 as an emulator with two servers for one guest, and a device of dom0's.

use std::rc::Rc;
use std::sync::Arc;
use std::thread;

pub(super) use mock_xen::Profile;
use mock_xen::{
    BusAccess, BusPin, BusPort, Caller, Config, DomainConfig, Iommu, Machine, OpArray, OwnFrames, RmrrRange,
    Vcpu,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_ioreq::abi::dm_op::XEN_DMOP_no_gfns;
use xen_ioreq::abi::dm_op::{
    XEN_DMOP_create_ioreq_server, XEN_DMOP_set_mem_type, xen_dm_op_create_ioreq_server,
    xen_dm_op_set_mem_type,
};
use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::abi::ioreq::{HVM_IOREQSRV_BUFIOREQ_OFF, IOREQ_TYPE_INVALIDATE, ioreq};
use xen_ioreq::abi::memory::{
    XENMAPSPACE_shared_info, XENMEM_add_to_physmap, XENMEM_decrease_reservation, XENMEM_populate_physmap,
    xen_add_to_physmap,
};
use xen_ioreq::seam::{DmOp, EventChannels, IommuOp, Mapping, MemoryOp};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, Mfn, Port, VcpuId};
use zerocopy::IntoBytes;

use super::call::{Bus, By, Call, Domain, Page, RW, Server};
use super::sheet::Step;
use crate::bench::{Bench, BenchError, HOLE, RAM, model_guest};
use crate::case::{Answer, Unmade};
use crate::ioreq::Stage;
use crate::patience::Patience;
use crate::shared::{Ring, Slot, peek, poke};

/// Frames of the guest.
const GUEST_FRAMES: u64 = 64;
/// A BFN that nobody uses; far from every machine frame number.
pub(super) const BFN: u64 = 0x10_0000;
/// Another.
pub(super) const BFN2: u64 = 0x10_0001;
/// One that needs more than 32 bits.
pub(super) const LARGE: u64 = 0x9_8765_4321;
/// The guest's frame that rows map.
pub(super) const GFN: u64 = RAM.0;
/// Another of it.
pub(super) const GFN2: u64 = RAM.0 + 1;
/// Where the frame that Xen shares with the guest is put.
const SHARED: u64 = 0x3_0000;
/// Frames of the guest's that rows name.
const PAGES: u64 = 8;

/// What a row runs on.
pub(super) struct World {
    profile: Profile,
    iommu: Iommu,
    /// Machine frames of the first pages of the guest's that rows use.
    mfns: Vec<Mfn>,
    /// A guest of which the stub domain is not the device model.
    other: DomId,
    stub_server: u16,
    pub(super) stage: Stage,
    pub(super) machine: Arc<Machine>,
    caller: Caller,
    own: OwnFrames,
    bus: BusPort,
    /// The two servers; the second has no ring.
    pub(super) servers: [u16; 2],
    pages: [Mapping; 2],
    ports: Vec<Port>,
    /// A PV domain with a device, for which dom0 could be no emulator.
    pub(super) pv: DomId,
    /// A PV domain with a device that is the guest's device model, with its server.
    stub: Caller,
}

impl World {
    pub(super) fn new(profile: Profile, iommu: Iommu) -> Result<Self, BenchError> {
        Self::with(profile, iommu, |_| {})
    }

    /// One whose machine differs from the usual one.
    pub(super) fn with(profile: Profile, iommu: Iommu, change: fn(&mut Config)) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let unmade = |what| move |Unmade(errno): Unmade| BenchError::Call { what, errno };
        let rmrrs = vec![RmrrRange { first: Bfn(0x20_0000), last: Bfn(0x20_00ff) }];
        let mut config = Config { frames: 2048, bfn_bits: 36, iommu, rmrrs, profile, ..Config::default() };
        change(&mut config);
        let machine = Machine::new(config)?;
        let guest = model_guest(&machine, GUEST_FRAMES, 1)?;
        let pages = (0..PAGES).map(|i| machine.mfn(guest, Gfn(GFN + i))).collect::<Result<Vec<_>, _>>();
        let mfns = pages.map_err(call("the guest's memory"))?;
        let pv = DomainConfig { hvm: false, device_assigned: true, ..DomainConfig::default() };
        let rmrrs = vec![RmrrRange { first: Bfn(0x30_0000), last: Bfn(0x30_00ff) }];
        let stub = machine.create_domain(&DomainConfig { target: Some(guest), rmrrs, ..pv.clone() })?;
        let pv = machine.create_domain(&pv)?;
        let other = model_guest(&machine, GUEST_FRAMES, 1)?;
        machine.populate(pv, Gfn(0), 32).map_err(call("the PV domain's memory"))?;
        let bench = Rc::new(Bench::on_model(&machine, guest)?);
        let stage = Stage::new(&bench);
        let caller = machine.caller(DomId(0)).map_err(call("a handle for dom0"))?;
        let own = caller.alloc_frames(2).map_err(call("frames of dom0's"))?;
        let bus = machine.bus_port(DomId(0), "device").map_err(call("a device"))?;
        let a = stage.server().map_err(unmade("a server"))?;
        let b = stage.server_with(HVM_IOREQSRV_BUFIOREQ_OFF).map_err(unmade("a server"))?;
        let mut ports = Vec::new();
        let mut page = |id, first| -> Result<Mapping, Errno> {
            let pages = stage.pages(guest, id, first, 2 - first)?;
            stage.set_state(id, 1)?;
            let slot = if first == 0 { Slot::all(&pages).next() } else { Slot::first(&pages) };
            ports.push(caller.bind_interdomain(guest, slot.ok_or(Errno::EFAULT)?.port())?);
            Ok(pages)
        };
        let pages = [page(a, 0).map_err(call("its pages"))?, page(b, 1).map_err(call("its pages"))?];
        let ring = stage.info(a, XEN_DMOP_no_gfns).map_err(call("its ring"))?;
        caller.bind_interdomain(guest, Port(ring.bufioreq_port)).map_err(call("its ring"))?;
        let stub = machine.caller(stub).map_err(call("a handle for the stub domain"))?;
        let stub_server = create_server(&stub, guest).map_err(call("the stub domain's server"))?;
        let servers = [a, b];
        Ok(Self {
            profile,
            iommu,
            mfns,
            other,
            stub_server,
            stage,
            machine,
            caller,
            own,
            bus,
            servers,
            pages,
            ports,
            pv,
            stub,
        })
    }

    pub(super) fn guest(&self) -> DomId {
        self.stage.guest()
    }

    /// Own frames of dom0's.
    pub(super) fn own(&self, index: usize) -> u64 {
        self.own.gfns().get(index).map_or(u64::MAX, |g| g.0)
    }

    /// The caller's number.
    pub(super) fn domid(&self, by: By) -> DomId {
        match by {
            By::Dom0 => DomId(0),
            By::Stub => self.stub.domid(),
        }
    }

    /// The number of a server: 0 and 1 dom0's, 2 the stub domain's.
    pub(super) fn server(&self, which: usize) -> u16 {
        self.servers.get(which).copied().unwrap_or(self.stub_server)
    }

    /// The machine frame that a page had when the world was made. ENOENT: it had none.
    pub(super) fn mfn(&self, page: Page) -> Result<Mfn, Unmade> {
        Ok(match page {
            Page::G(n) | Page::MfnOf(n) => {
                *usize::try_from(n).ok().and_then(|n| self.mfns.get(n)).ok_or(Errno::ENOENT)?
            }
            Page::Shared => self.machine.mfn(self.guest(), Gfn(SHARED))?,
            Page::Own(n) => Mfn(self.own(n)),
            Page::Xens => Mfn(0),
            Page::NoRam => Mfn(0x50_0000),
            Page::Hole | Page::Ones => return Err(Unmade(Errno::ENOENT)),
        })
    }

    /// The number of a bus frame; `on` is the frame of the page that is looked at.
    pub(super) fn bfn(&self, bus: Bus, on: Mfn) -> Result<u64, Unmade> {
        match bus {
            Bus::At(_, bfn) => Ok(bfn),
            Bus::Mfn(page) => Ok(self.mfn(page)?.0),
            Bus::Of(page) => {
                let control = matches!(self.iommu, Iommu::On | Iommu::OneToOne);
                let shifted = self.profile == Profile::Xs && control;
                let offset = if shifted { self.machine.config().foreign_offset } else { 0 };
                Ok(self.mfn(page).unwrap_or(on).0 + offset)
            }
        }
    }

    /// The operation as bytes.
    pub(super) fn op_of(&self, c: &Call) -> Result<pv_iommu_op, Unmade> {
        let server = match c.server {
            Server::Of(which) => self.server(which),
            Server::Number(n) => n,
        };
        let domain = match c.domain {
            Domain::Guest => self.guest(),
            Domain::Own => self.domid(c.by),
            Domain::Number(_, id) => id,
            Domain::Pv => self.pv,
            Domain::Other => self.other,
        };
        let page = match c.page {
            Page::G(n) => GFN + n,
            Page::Hole => HOLE.0,
            Page::Shared => SHARED,
            Page::Ones => u64::MAX,
            Page::Own(_) | Page::MfnOf(_) | Page::Xens | Page::NoRam => self.mfn(c.page)?.0,
        };
        let flags = c.flags | c.order << IOMMU_page_order_shift;
        let mut op = pv_iommu_op { bfn: self.bfn(c.bus, Mfn(0))?, ..pv_iommu_op::new(c.subop, flags) };
        match c.subop {
            IOMMUOP_map_page => op.gfn = page,
            IOMMUOP_unmap_foreign_page => op.set_unmap_ioserver(server),
            IOMMUOP_query_caps | IOMMUOP_unmap_page => {}
            _ => op = pv_iommu_op { gfn: page, domid: domain.0, ioserver: server, ..op },
        }
        Ok(op)
    }

    /// The hypercall with one operation.
    pub(super) fn send(&self, by: By, op: &mut pv_iommu_op) -> Result<(), Errno> {
        let caller = match by {
            By::Dom0 => &self.caller,
            By::Stub => &self.stub,
        };
        caller.iommu_op(std::slice::from_mut(op))
    }

    /// Makes a part of a state.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), Unmade> {
        match step {
            Step::Do(call) => {
                let mut op = self.op_of(call)?;
                self.send(call.by, &mut op)?;
                match Errno::from_rc(op.status.into()) {
                    None => Ok(()),
                    Some(e) => Err(Unmade(e)),
                }
            }
            Step::Balloon(page) => self.balloon(self.gfn(*page)?).map(|_| ()),
            Step::Populate(page) => self.populate(self.gfn(*page)?),
            Step::ShareInfo => self.share_info(),
            Step::Typed(page, _, mem_type) => {
                let (mem_type, first_pfn) = (*mem_type, self.gfn(*page)?);
                let op = xen_dm_op_set_mem_type { nr: 1, mem_type, first_pfn, ..Default::default() };
                self.stage.tell(XEN_DMOP_set_mem_type, op).map(|_| ()).map_err(Unmade)
            }
            Step::DestroyGuest => Ok(self.machine.destroy_domain(self.guest())?),
            Step::DestroyStub => Ok(self.machine.destroy_domain(self.stub.domid())?),
        }
    }

    fn gfn(&self, page: Page) -> Result<u64, Unmade> {
        match page {
            Page::G(n) => Ok(GFN + n),
            _ => Err(Unmade(Errno::EINVAL)),
        }
    }

    /// The toolstack puts a frame behind a number of the guest's.
    pub(super) fn populate(&self, gfn: u64) -> Result<(), Unmade> {
        let done = self.stage.reserve(XENMEM_populate_physmap, self.guest(), &[Gfn(gfn)])?;
        if done == 1 { Ok(()) } else { Err(Unmade(Errno::ENOMEM)) }
    }

    /// Xen shares its frame with the guest.
    pub(super) fn share_info(&self) -> Result<(), Unmade> {
        let mut arg = xen_add_to_physmap {
            domid: self.guest().0,
            space: XENMAPSPACE_shared_info,
            gpfn: SHARED,
            ..Default::default()
        };
        self.caller.memory_op(XENMEM_add_to_physmap, arg.as_mut_bytes(), &mut [])?;
        Ok(())
    }

    /// One operation of dom0's; the answer is its status.
    pub(super) fn op(&self, op: &mut pv_iommu_op) -> Result<Answer, Unmade> {
        one(&self.caller, op)
    }

    /// Several operations in one hypercall; what each answered is in its status.
    pub(super) fn batch(&self, ops: &mut [pv_iommu_op]) -> Result<(), Unmade> {
        Ok(self.caller.iommu_op(ops)?)
    }

    /// map_foreign_page for the first server.
    pub(super) fn map(&self, bfn: u64, gfn: u64) -> Result<Answer, Unmade> {
        self.map_for(0, bfn, gfn)
    }

    /// map_foreign_page for a server.
    pub(super) fn map_for(&self, server: usize, bfn: u64, gfn: u64) -> Result<Answer, Unmade> {
        self.op(&mut self.foreign(IOMMUOP_map_foreign_page, server, bfn, gfn))
    }

    /// The operation, to be changed.
    pub(super) fn foreign(&self, subop: u16, server: usize, bfn: u64, gfn: u64) -> pv_iommu_op {
        let ioserver = self.servers.get(server).copied().unwrap_or(u16::MAX);
        pv_iommu_op { bfn, gfn, domid: self.guest().0, ioserver, ..pv_iommu_op::new(subop, RW) }
    }

    /// lookup_foreign_page for a server; the answer is the BFN.
    pub(super) fn lookup(&self, server: usize, gfn: u64) -> Result<Answer, Unmade> {
        let mut op = self.foreign(IOMMUOP_lookup_foreign_page, server, 0xdead, gfn);
        Ok(self.op(&mut op)?.map(|_| op.bfn))
    }

    /// unmap_foreign_page for a server.
    pub(super) fn unmap(&self, server: usize, bfn: u64) -> Result<Answer, Unmade> {
        let mut op = pv_iommu_op { bfn, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) };
        op.set_unmap_ioserver(self.servers.get(server).copied().unwrap_or(u16::MAX));
        self.op(&mut op)
    }

    /// map_page.
    pub(super) fn map_own(&self, bfn: u64, gfn: u64) -> Result<Answer, Unmade> {
        self.op(&mut pv_iommu_op { bfn, gfn, ..pv_iommu_op::new(IOMMUOP_map_page, RW) })
    }

    /// unmap_page.
    pub(super) fn unmap_own(&self, bfn: u64) -> Result<Answer, Unmade> {
        self.op(&mut pv_iommu_op { bfn, ..pv_iommu_op::new(IOMMUOP_unmap_page, 0) })
    }

    /// References on the frame behind a frame number of the guest's.
    fn refs(&self, gfn: u64) -> Result<u64, Errno> {
        Ok(self.machine.references(self.guest(), Gfn(gfn))?.into())
    }

    /// By how much those on a frame grew while `f` ran.
    pub(super) fn refs_taken(
        &self,
        gfn: u64,
        f: impl FnOnce() -> Result<Answer, Unmade>,
    ) -> Result<Answer, Unmade> {
        let before = self.refs(gfn)?;
        let _judged_by_its_effect = f()?;
        Ok(Ok(self.refs(gfn)?.wrapping_sub(before)))
    }

    /// Whether the device that reads at `bfn` gets what the guest has at `gfn`: 1, 0 for something else; EFAULT where
    /// the IOMMU lets nothing through.
    pub(super) fn reaches(&self, bfn: u64, gfn: u64) -> Result<Answer, Unmade> {
        let mark = 0x6d61_726b_0000_0000 | gfn;
        self.machine.write_guest(self.guest(), Gfn(gfn).addr(), &mark.to_le_bytes())?;
        Ok(self.read(bfn).map(|got| u64::from(got == mark)))
    }

    /// What the device reads at `bfn`. EFAULT: the IOMMU lets nothing through.
    pub(super) fn read(&self, bfn: u64) -> Answer {
        let pin = self.bus.pin(Bfn(bfn), BusAccess::Read).map_err(|_| Errno::EFAULT)?;
        #[expect(unsafe_code, reason = "a page that the device has pinned")]
        // SAFETY: a pin is a whole page, mapped until it is given back.
        let value = unsafe { peek(pin.ptr) };
        self.bus.unpin(pin);
        Ok(value)
    }

    /// Whether the device may write at `bfn`. EFAULT: no.
    pub(super) fn writes(&self, bfn: u64) -> Answer {
        let pin = self.bus.pin(Bfn(bfn), BusAccess::Write).map_err(|_| Errno::EFAULT)?;
        self.bus.unpin(pin);
        Ok(0)
    }

    /// The toolstack takes a frame from the guest; how many frames the host has more after it.
    pub(super) fn balloon(&self, gfn: u64) -> Result<u64, Unmade> {
        self.stage.freed(|| {
            let done = self.stage.reserve(XENMEM_decrease_reservation, self.guest(), &[Gfn(gfn)])?;
            if done == 1 { Ok(()) } else { Err(Unmade(Errno::ENOENT)) }
        })
    }

    /// What stands in the first server's ring, taken out: the data of each, if all are notices of 8 bytes.
    pub(super) fn notices(&self) -> Result<Vec<u64>, Unmade> {
        let ring = Ring::of(&self.pages[0]).ok_or(Errno::EFAULT)?;
        let requests = ring.requests();
        ring.empty();
        requests.iter().map(notice).collect()
    }

    /// Makes the first server's ring full.
    pub(super) fn fill_ring(&self) -> Result<(), Unmade> {
        Ring::of(&self.pages[0]).ok_or(Errno::EFAULT)?.fill();
        Ok(())
    }

    /// The guest itself gives a frame back while the servers answer what they are asked in their slots; the data of each
    /// notice to the one named.
    pub(super) fn balloon_with_answers(&self, server: usize, gfn: u64) -> Result<Vec<u64>, Unmade> {
        let (done, seen) = self.served(|v| v.decrease_reservation(&[Gfn(gfn)]))?;
        if done != Ok(1) {
            return Err(Unmade(Errno::ECHILD));
        }
        seen.iter().filter(|(to, _)| *to == server).map(|(_, request)| notice(request)).collect()
    }

    /// What the guest's vCPU does while dom0's servers answer what they are asked in its slots, and what that was.
    pub(super) fn served<R: Send>(
        &self,
        guest: impl FnOnce(&Vcpu) -> R + Send,
    ) -> Result<(R, Vec<(usize, ioreq)>), Unmade> {
        let vcpu = self.machine.vcpu(self.guest(), VcpuId(0))?;
        let slots = [Slot::all(&self.pages[0]).next(), Slot::first(&self.pages[1])];
        let mut patience = Patience::new(0);
        let mut seen = Vec::new();
        thread::scope(|scope| {
            let call = scope.spawn(move || guest(&vcpu));
            while !call.is_finished() {
                for (to, slot) in slots.iter().enumerate() {
                    let (Some(slot), Some(port)) = (slot, self.ports.get(to)) else { continue };
                    // Answered whatever it is, since the guest waits.
                    if let Some(request) = slot.ready() {
                        seen.push((to, request));
                        slot.answer(&request, 0);
                        self.caller.notify(*port)?;
                    }
                }
                if !patience.lasts(seen.len()) {
                    // Whomever it waits for, so that the thread ends.
                    let _it_may_have_gone = self.machine.destroy_domain(self.guest());
                    return Err(Unmade(Errno::ETIMEDOUT));
                }
                self.wait_for_event()?;
            }
            match call.join() {
                Ok(done) => Ok((done, seen)),
                Err(_) => Err(Unmade(Errno::ECHILD)),
            }
        })
    }

    /// The hypercall with an array and a count as they are.
    pub(super) fn raw(&self, array: &mut OpArray, count: u64) -> Result<(), Errno> {
        self.caller.iommu_op_raw(array, count)
    }

    /// Writes what a device writes at `bfn`. EFAULT: the IOMMU lets nothing through.
    pub(super) fn write(&self, bfn: u64, value: u64) -> Answer {
        let pin = self.bus.pin(Bfn(bfn), BusAccess::Write).map_err(|_| Errno::EFAULT)?;
        #[expect(unsafe_code, reason = "a page that the device has pinned")]
        // SAFETY: a pin is a whole page, mapped until it is given back.
        unsafe {
            poke(pin.ptr, value);
        }
        self.bus.unpin(pin);
        Ok(0)
    }

    /// A translation that the device keeps until the pin is dropped.
    pub(super) fn pin(&self, bfn: u64) -> Result<KeptPin<'_>, Errno> {
        let pin = self.bus.pin(Bfn(bfn), BusAccess::Write).map_err(|_| Errno::EFAULT)?;
        Ok(KeptPin(&self.bus, Some(pin)))
    }

    /// What the guest has in the first bytes of a frame.
    pub(super) fn guest_has(&self, gfn: u64) -> Answer {
        let mut bytes = [0; 8];
        self.machine.read_guest(self.guest(), Gfn(gfn).addr(), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Sleeps until an event, a moment at most.
    fn wait_for_event(&self) -> Result<(), Unmade> {
        let mut fds = [PollFd::from_borrowed_fd(self.caller.pollable(), PollFlags::IN)];
        let moment = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        poll(&mut fds, Some(&moment)).map_err(Errno::from)?;
        let mut ports = [Port(0); 8];
        let n = self.caller.pending(&mut ports)?;
        Ok(self.caller.unmask(ports.get(..n).unwrap_or_default())?)
    }
}

fn one(caller: &Caller, op: &mut pv_iommu_op) -> Result<Answer, Unmade> {
    caller.iommu_op(std::slice::from_mut(op))?;
    Ok(Errno::from_rc(op.status.into()).map_or(Ok(0), Err))
}

/// A pin that is given back on drop.
pub(super) struct KeptPin<'w>(&'w BusPort, Option<BusPin>);

impl Drop for KeptPin<'_> {
    fn drop(&mut self) {
        if let Some(pin) = self.1.take() {
            self.0.unpin(pin);
        }
    }
}

fn create_server(by: &Caller, guest: DomId) -> Result<u16, Errno> {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&XEN_DMOP_create_ioreq_server.to_le_bytes());
    by.dm_op(guest, &mut [&mut bytes])?;
    let at = xen_ioreq::abi::dm_op::PAYLOAD_OFFSET + std::mem::offset_of!(xen_dm_op_create_ioreq_server, id);
    let id = bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).ok_or(Errno::EFAULT)?;
    Ok(u16::from_le_bytes(id))
}

/// The data of a notice. EBADMSG: something else.
fn notice(r: &ioreq) -> Result<u64, Unmade> {
    let ok =
        r.r#type == IOREQ_TYPE_INVALIDATE && r.size == 8 && r.count == 1 && r.addr == 0 && r.bits & 0x70 == 0;
    if ok { Ok(r.data) } else { Err(Unmade(Errno::EBADMSG)) }
}
