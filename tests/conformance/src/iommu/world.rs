//! A model with PV-IOMMU for one row: dom0 as an emulator with two servers for one guest, and a device of dom0's.

use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mock_xen::{BusAccess, BusPort, Caller, Config, DomainConfig, Iommu, Machine, OwnFrames, RmrrRange};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xen_ioreq::abi::dm_op::XEN_DMOP_no_gfns;
use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::abi::ioreq::{HVM_IOREQSRV_BUFIOREQ_OFF, IOREQ_TYPE_INVALIDATE, ioreq};
use xen_ioreq::abi::memory::XENMEM_decrease_reservation;
use xen_ioreq::seam::{EventChannels, IommuOp, Mapping};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, Port, VcpuId};

use crate::bench::{Bench, BenchError, RAM, model_guest};
use crate::case::{Answer, Unmade};
use crate::ioreq::Stage;
use crate::shared::{Ring, Slot, peek};

/// Frames of the guest.
const GUEST_FRAMES: u64 = 64;
/// How long a guest may wait for an answer before the row has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// A BFN that nobody uses; far from every machine frame number.
pub(super) const BFN: u64 = 0x10_0000;
/// Another.
pub(super) const BFN2: u64 = 0x10_0001;
/// One that needs more than 32 bits.
pub(super) const LARGE: u64 = 0x9_8765_4321;
/// Inside the RMRR.
pub(super) const RESERVED: u64 = 0x20_0010;
/// Above what the IOMMU translates.
pub(super) const TOO_HIGH: u64 = 1 << 40;
/// The guest's frame that rows map.
pub(super) const GFN: u64 = RAM.0;
/// Another of it.
pub(super) const GFN2: u64 = RAM.0 + 1;
/// Read and write.
pub(super) const RW: u16 = IOMMUOP_readable | IOMMUOP_writeable;

/// What a row runs on.
pub(super) struct World {
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
    pub(super) fn new(iommu: Iommu) -> Result<Self, BenchError> {
        let call = |what| move |errno| BenchError::Call { what, errno };
        let unmade = |what| move |Unmade(errno): Unmade| BenchError::Call { what, errno };
        let rmrrs = vec![RmrrRange { first: Bfn(0x20_0000), last: Bfn(0x20_00ff) }];
        let machine = Machine::new(Config { frames: 2048, bfn_bits: 36, iommu, rmrrs, ..Config::default() })?;
        let guest = model_guest(&machine, GUEST_FRAMES, 1)?;
        let pv = DomainConfig { hvm: false, device_assigned: true, ..DomainConfig::default() };
        let stub = machine.create_domain(&DomainConfig { target: Some(guest), ..pv.clone() })?;
        let pv = machine.create_domain(&pv)?;
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
        Ok(Self { stage, machine, caller, own, bus, servers: [a, b], pages, ports, pv, stub })
    }

    pub(super) fn guest(&self) -> DomId {
        self.stage.guest()
    }

    /// Own frames of dom0's.
    pub(super) fn own(&self, index: usize) -> u64 {
        self.own.gfns().get(index).map_or(u64::MAX, |g| g.0)
    }

    /// One operation of dom0's; the answer is its status.
    pub(super) fn op(&self, op: &mut pv_iommu_op) -> Result<Answer, Unmade> {
        one(&self.caller, op)
    }

    /// One operation of the stub domain's.
    pub(super) fn stub_op(&self, op: &mut pv_iommu_op) -> Result<Answer, Unmade> {
        one(&self.stub, op)
    }

    /// Several operations in one hypercall; what each answered is in its status.
    pub(super) fn batch(&self, ops: &mut [pv_iommu_op]) -> Result<(), Unmade> {
        Ok(self.caller.iommu_op(ops)?)
    }

    /// query_caps; the answer is the flags.
    pub(super) fn caps(&self) -> Result<Answer, Unmade> {
        let mut op = pv_iommu_op::new(IOMMUOP_query_caps, 0);
        Ok(self.op(&mut op)?.map(|_| op.flags.into()))
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

    /// The guest itself gives a frame back while a server answers what it is asked in its slot; the data of each
    /// notice there, and whether the guest's call came back.
    pub(super) fn balloon_with_answers(&self, server: usize, gfn: u64) -> Result<Vec<u64>, Unmade> {
        let vcpu = self.machine.vcpu(self.guest(), VcpuId(0))?;
        let pages = self.pages.get(server).ok_or(Errno::EFAULT)?;
        let slot = if server == 0 { Slot::all(pages).next() } else { Slot::first(pages) };
        let slot = slot.ok_or(Errno::EFAULT)?;
        let port = *self.ports.get(server).ok_or(Errno::EFAULT)?;
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        thread::scope(|scope| {
            let call = scope.spawn(move || vcpu.decrease_reservation(&[Gfn(gfn)]));
            while !call.is_finished() {
                // Answered whatever it is, since the guest waits; and if it waits for somebody else, he goes.
                if let Some(request) = slot.ready() {
                    seen.push(notice(&request));
                    slot.answer(&request, 0);
                    self.caller.notify(port)?;
                } else if Instant::now() > deadline {
                    seen.push(Err(Unmade(Errno::ETIMEDOUT)));
                    for id in self.servers {
                        self.stage.destroy(id)?;
                    }
                }
                self.wait_for_event()?;
            }
            match call.join() {
                Ok(Ok(1)) => seen.into_iter().collect(),
                Ok(_) | Err(_) => Err(Unmade(Errno::ECHILD)),
            }
        })
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

/// The data of a notice. EBADMSG: something else.
fn notice(r: &ioreq) -> Result<u64, Unmade> {
    let ok =
        r.r#type == IOREQ_TYPE_INVALIDATE && r.size == 8 && r.count == 1 && r.addr == 0 && r.bits & 0x70 == 0;
    if ok { Ok(r.data) } else { Err(Unmade(Errno::EBADMSG)) }
}
