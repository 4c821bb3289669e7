//! What the tests share: a machine with a guest, and an emulator that speaks in raw bytes.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, Scope};

use xen_ioreq::abi::dm_op::{
    PAYLOAD_OFFSET, XEN_DMOP_create_ioreq_server, XEN_DMOP_get_ioreq_server_info,
    XEN_DMOP_map_io_range_to_ioreq_server, XEN_DMOP_no_gfns, XEN_DMOP_set_ioreq_server_state,
    xen_dm_op_create_ioreq_server, xen_dm_op_get_ioreq_server_info, xen_dm_op_ioreq_server_range,
    xen_dm_op_set_ioreq_server_state,
};
use xen_ioreq::abi::iommu_op::{
    IOMMUOP_readable, IOMMUOP_unmap_foreign_page, IOMMUOP_writeable, pv_iommu_op,
};
use xen_ioreq::abi::ioreq::{
    BUF_SLOTS_OFFSET, Bits, HVM_IOREQSRV_BUFIOREQ_ATOMIC, IOREQ_BUFFER_SLOT_NUM, SLOT_BITS_OFFSET,
    STATE_IOREQ_INPROCESS, STATE_IOREQ_READY, STATE_IORESP_READY, buf_ioreq, ioreq,
};
use xen_ioreq::seam::{DmOp, EventChannels, IommuOp, Mapping, ResourceMap};
use xen_ioreq::{DomId, Errno, Gfn, PAGE_SIZE, Port, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::Page;
use crate::{Caller, Config, DomainConfig, Machine};

pub(crate) const DOM0: DomId = DomId(0);
/// Frames that [`guest`] puts into its guest, from 0 on.
pub(crate) const GUEST_FRAMES: u64 = 64;

pub(crate) fn machine(config: Config) -> Arc<Machine> {
    Machine::new(Config { frames: 1024, xen_frames: 8, bfn_bits: 24, ..config }).unwrap()
}

pub(crate) fn guest(machine: &Machine, vcpus: u32) -> DomId {
    let id =
        machine.create_domain(&DomainConfig { max_pages: 80, vcpus, ..DomainConfig::default() }).unwrap();
    machine.populate(id, Gfn(0), GUEST_FRAMES).unwrap();
    id
}

/// One dm_op: the payload goes in and comes out.
pub(crate) fn dm<T: IntoBytes + FromBytes + Immutable + KnownLayout>(
    caller: &dyn DmOp,
    domid: DomId,
    op: u32,
    payload: &mut T,
) -> Result<(), Errno> {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&op.to_le_bytes());
    let len = size_of::<T>();
    bytes[PAYLOAD_OFFSET..][..len].copy_from_slice(payload.as_bytes());
    let result = caller.dm_op(domid, &mut [&mut bytes]);
    *payload = T::read_from_bytes(&bytes[PAYLOAD_OFFSET..][..len]).unwrap();
    result
}

pub(crate) fn create_server(caller: &dyn DmOp, domid: DomId, mode: u8) -> Result<u16, Errno> {
    let mut data = xen_dm_op_create_ioreq_server { handle_bufioreq: mode, ..Default::default() };
    dm(caller, domid, XEN_DMOP_create_ioreq_server, &mut data).map(|()| data.id)
}

pub(crate) fn set_state(caller: &dyn DmOp, domid: DomId, id: u16, on: bool) -> Result<(), Errno> {
    let mut data = xen_dm_op_set_ioreq_server_state { id, enabled: u8::from(on), pad: 0 };
    dm(caller, domid, XEN_DMOP_set_ioreq_server_state, &mut data)
}

pub(crate) fn map_range(
    caller: &dyn DmOp,
    domid: DomId,
    id: u16,
    ty: u32,
    start: u64,
    end: u64,
) -> Result<(), Errno> {
    let mut data = xen_dm_op_ioreq_server_range { id, pad: 0, r#type: ty, start, end };
    dm(caller, domid, XEN_DMOP_map_io_range_to_ioreq_server, &mut data)
}

/// An enabled server with its pages mapped and its ports bound.
pub(crate) struct Emulator {
    pub(crate) caller: Caller,
    pub(crate) domid: DomId,
    pub(crate) id: u16,
    sync: Mapping,
    buffered: Option<Mapping>,
    ports: Vec<Port>,
    buffered_port: Option<Port>,
}

fn page(m: &Mapping) -> Page<'_> {
    Page::of_mapping(m, 0)
}

impl Emulator {
    pub(crate) fn new(machine: &Arc<Machine>, domid: DomId, mode: u8) -> Self {
        Self::of(machine.caller(DOM0).unwrap(), domid, mode)
    }

    /// One of the caller's domain.
    pub(crate) fn of(caller: Caller, domid: DomId, mode: u8) -> Self {
        let id = create_server(&caller, domid, mode).unwrap();
        let sync = caller.map_resource(domid, 0, u32::from(id), 1, 1).unwrap();
        let buffered = (mode != 0).then(|| caller.map_resource(domid, 0, u32::from(id), 0, 1).unwrap());
        set_state(&caller, domid, id, true).unwrap();
        let vcpus = caller.machine().domain_info(domid).unwrap().vcpus as usize;
        let mut ports = Vec::new();
        for v in 0..vcpus {
            let remote = page(&sync).u32(v * 32 + 24).load(Ordering::SeqCst);
            ports.push(caller.bind_interdomain(domid, Port(remote)).unwrap());
        }
        let mut info = xen_dm_op_get_ioreq_server_info { id, flags: XEN_DMOP_no_gfns, ..Default::default() };
        dm(&caller, domid, XEN_DMOP_get_ioreq_server_info, &mut info).unwrap();
        let buffered_port =
            (mode != 0).then(|| caller.bind_interdomain(domid, Port(info.bufioreq_port)).unwrap());
        let e = Self { caller, domid, id, sync, buffered, ports, buffered_port };
        e.drain_ports();
        e
    }

    pub(crate) fn atomic(machine: &Arc<Machine>, domid: DomId) -> Self {
        Self::new(machine, domid, HVM_IOREQSRV_BUFIOREQ_ATOMIC)
    }

    pub(crate) fn claim(&self, ty: u32, start: u64, end: u64) {
        map_range(&self.caller, self.domid, self.id, ty, start, end).unwrap();
    }

    /// Pending ports, unmasked again at once.
    pub(crate) fn drain_ports(&self) -> Vec<Port> {
        let mut out = [Port(0); 8];
        let n = self.caller.pending(&mut out).unwrap();
        self.caller.unmask(&out[..n]).unwrap();
        out[..n].to_vec()
    }

    pub(crate) fn pollable(&self) -> BorrowedFd<'_> {
        self.caller.pollable()
    }

    pub(crate) fn has_ring(&self) -> bool {
        self.buffered.is_some()
    }

    pub(crate) fn buffered_port(&self) -> Port {
        self.buffered_port.unwrap()
    }

    /// Takes the request of a vCPU if there is one.
    pub(crate) fn take(&self, vcpu: usize) -> Option<ioreq> {
        let bits = page(&self.sync).u8(vcpu * 32 + SLOT_BITS_OFFSET);
        let now = Bits::unpack(bits.load(Ordering::SeqCst));
        if now.state != STATE_IOREQ_READY {
            return None;
        }
        let mut raw = [0; 32];
        page(&self.sync).read(vcpu * 32, &mut raw);
        bits.store(Bits { state: STATE_IOREQ_INPROCESS, ..now }.pack(), Ordering::SeqCst);
        Some(ioreq::read_from_bytes(&raw[..]).unwrap())
    }

    pub(crate) fn set_slot_state(&self, vcpu: usize, state: u8) {
        page(&self.sync).u8(vcpu * 32 + SLOT_BITS_OFFSET).store(state, Ordering::SeqCst);
        let _ = self.caller.notify(self.ports[vcpu]);
    }

    pub(crate) fn slot_state(&self, vcpu: usize) -> u8 {
        Bits::unpack(page(&self.sync).u8(vcpu * 32 + SLOT_BITS_OFFSET).load(Ordering::SeqCst)).state
    }

    /// Sends an event that says nothing.
    pub(crate) fn event(&self, vcpu: usize) {
        self.caller.notify(self.ports[vcpu]).unwrap();
    }

    pub(crate) fn answer(&self, vcpu: usize, data: u64) {
        page(&self.sync).u64(vcpu * 32 + 8).store(data, Ordering::SeqCst);
        self.set_slot_state(vcpu, STATE_IORESP_READY);
    }

    /// Sleeps until a port was pending.
    pub(crate) fn sleep(&self) {
        while self.drain_ports().is_empty() {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                self.caller.pollable(),
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
        }
    }

    /// Answers `n` requests of any vCPU with what `f` says, and returns them.
    pub(crate) fn serve(&self, n: usize, mut f: impl FnMut(&ioreq) -> u64) -> Vec<ioreq> {
        let mut seen = Vec::new();
        while seen.len() < n {
            self.sleep();
            for v in 0..self.ports.len() {
                if let Some(r) = self.take(v) {
                    self.answer(v, f(&r));
                    seen.push(r);
                }
            }
        }
        seen
    }

    /// Takes what is in the buffered ring.
    pub(crate) fn take_buffered(&self) -> Vec<buf_ioreq> {
        let ring = page(self.buffered.as_ref().unwrap());
        let mut all = Vec::new();
        loop {
            let read = ring.u32(0).load(Ordering::SeqCst);
            if read == ring.u32(4).load(Ordering::SeqCst) {
                return all;
            }
            let mut raw = [0; 8];
            ring.read(BUF_SLOTS_OFFSET + (read % IOREQ_BUFFER_SLOT_NUM) as usize * 8, &mut raw);
            all.push(buf_ioreq::read_from_bytes(&raw[..]).unwrap());
            ring.u32(0).fetch_add(1, Ordering::SeqCst);
        }
    }

    /// BFNs of the invalidations in the buffered ring.
    pub(crate) fn take_invalidates(&self) -> Vec<u64> {
        let all = self.take_buffered();
        all.chunks(2)
            .map(|pair| {
                assert_eq!((pair[0].r#type, pair[0].size(), pair[1].r#type), (8, 8, 8));
                u64::from(pair[0].data) | u64::from(pair[1].data) << 32
            })
            .collect()
    }

    /// Forgets what is in the ring.
    pub(crate) fn empty_ring(&self) {
        let ring = page(self.buffered.as_ref().unwrap());
        ring.u32(0).store(ring.u32(4).load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Makes the ring look full.
    pub(crate) fn fill_ring(&self) {
        let ring = page(self.buffered.as_ref().unwrap());
        let write = ring.u32(4).load(Ordering::SeqCst);
        ring.u32(0).store(write.wrapping_sub(IOREQ_BUFFER_SLOT_NUM), Ordering::SeqCst);
    }
}

/// Threads of a guest beside the test's own. If the test fails its guest dies, so that no vCPU waits for ever for an
/// answer that will not come.
pub(crate) fn scope<'env, T>(
    machine: &Machine,
    domid: DomId,
    f: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
) -> T {
    struct Guest<'m>(&'m Machine, DomId);
    impl Drop for Guest<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                let _ = self.0.destroy_domain(self.1);
            }
        }
    }
    thread::scope(|s| {
        let _guest = Guest(machine, domid);
        f(s)
    })
}

pub(crate) fn vcpu(machine: &Arc<Machine>, domid: DomId, id: u32) -> crate::Vcpu {
    machine.vcpu(domid, VcpuId(id)).unwrap()
}

pub(crate) const RW: u16 = IOMMUOP_readable | IOMMUOP_writeable;

/// One iommu_op; its status as a Result.
pub(crate) fn iommu(caller: &dyn IommuOp, op: &mut pv_iommu_op) -> Result<(), Errno> {
    caller.iommu_op(std::slice::from_mut(op)).unwrap();
    match Errno::from_rc(i64::from(op.status)) {
        None => Ok(()),
        Some(e) => Err(e),
    }
}

pub(crate) fn foreign_op(subop: u16, bfn: u64, gfn: u64, domid: DomId, ioserver: u16) -> pv_iommu_op {
    pv_iommu_op { bfn, gfn, domid: domid.0, ioserver, ..pv_iommu_op::new(subop, RW) }
}

pub(crate) fn unmap_foreign(caller: &dyn IommuOp, bfn: u64, ioserver: u16) -> Result<(), Errno> {
    let mut op = pv_iommu_op { bfn, ..pv_iommu_op::new(IOMMUOP_unmap_foreign_page, 0) };
    op.set_unmap_ioserver(ioserver);
    iommu(caller, &mut op)
}

const _: () = assert!(PAGE_SIZE == 4096);
