//! What the mappings lie in: a hypervisor that costs nothing, or, for the frames that go, the model.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ioreq_server::{BufferedMode, Connection, Enabled, Server};
use mock_xen::{Caller, Config, DomainConfig, Machine};
use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_cap, IOMMUOP_map_foreign_page, IOMMUOP_query_caps, IOMMUOP_readable,
    IOMMUOP_unmap_foreign_page, IOMMUOP_writeable, pv_iommu_op,
};
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation, xen_memory_reservation};
use xen_ioreq::seam::{IommuOp, MemoryOp};
use xen_ioreq::{DomId, Errno, Gfn, IoServerId};
use zerocopy::IntoBytes;

/// The guest's number, here and on the model.
pub(super) const GUEST: DomId = DomId(1);

/// Agrees to everything at no cost, and counts the calls. While frames are gone, a frame cannot be mapped; with
/// [`on_model`](Self::on_model) set, the model says so, and unmaps. There the frames of a step have the same few numbers on
/// both sides of a ratio, so that no cache miss of the model's is taken for one of the library's.
pub(super) struct Hypervisor {
    pub(super) gone: AtomicBool,
    pub(super) on_model: AtomicBool,
    pub(super) calls: AtomicU64,
    /// Frames of the step that were asked for, and unmapped.
    asked: AtomicU64,
    unmapped: AtomicU64,
    model: Model,
}

/// A machine with room for the frames of one step.
struct Model {
    machine: Arc<Machine>,
    dom0: Arc<Caller>,
    server: IoServerId,
    /// Kept, not used; in a lock because it is not to be shared by threads.
    _enabled: Mutex<Server<Enabled>>,
}

impl Hypervisor {
    pub(super) fn new() -> Result<Arc<Self>, String> {
        let machine = Machine::new(Config::default()).map_err(|e| e.to_string())?;
        let config = DomainConfig { domid: Some(GUEST), ..DomainConfig::default() };
        machine.create_domain(&config).map_err(|e| e.to_string())?;
        machine.populate(GUEST, Gfn(0), 16).map_err(|e| e.to_string())?;
        let dom0 = Arc::new(machine.caller(DomId(0)).map_err(|e| e.to_string())?);
        let conn = Connection::new(dom0.clone(), dom0.clone());
        let server = Server::create(&conn, GUEST, BufferedMode::Atomic).and_then(Server::map);
        let server = server.and_then(Server::enable).map_err(|e| e.to_string())?;
        Ok(Arc::new(Self {
            gone: AtomicBool::new(false),
            on_model: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            unmapped: AtomicU64::new(0),
            model: Model { machine, dom0, server: server.id(), _enabled: Mutex::new(server) },
        }))
    }

    /// The server that hears of frames.
    pub(super) fn server(&self) -> IoServerId {
        self.model.server
    }

    /// Prepares a step on the model: so many bus frames lead to frames of the guest's that were ballooned out since. How many
    /// frames are free.
    pub(super) fn hold_gone_frames(&self, count: usize) -> Result<u64, String> {
        let Model { machine, dom0, .. } = &self.model;
        let mut gfns: Vec<u64> = (FIRST..).take(count).collect();
        machine.populate(GUEST, Gfn(FIRST), count as u64).map_err(|e| e.to_string())?;
        let op = |gfn: &u64| pv_iommu_op {
            bfn: *gfn,
            gfn: *gfn,
            domid: GUEST.0,
            ioserver: self.server().0,
            ..pv_iommu_op::new(IOMMUOP_map_foreign_page, IOMMUOP_readable | IOMMUOP_writeable)
        };
        let mut ops: Vec<pv_iommu_op> = gfns.iter().map(op).collect();
        dom0.iommu_op(&mut ops).map_err(|e| e.to_string())?;
        let mut arg = xen_memory_reservation {
            nr_extents: gfns.len() as u64,
            domid: GUEST.0,
            ..xen_memory_reservation::default()
        };
        let taken = dom0.memory_op(XENMEM_decrease_reservation, arg.as_mut_bytes(), &mut gfns);
        if ops.iter().any(|op| op.status != 0) || taken != i64::try_from(count).map_err(|_| Errno::EINVAL) {
            return Err("the model did not take the frames".into());
        }
        self.asked.store(FIRST, Ordering::Relaxed);
        self.unmapped.store(FIRST, Ordering::Relaxed);
        Ok(machine.free_frames())
    }

    /// Free frames of the model.
    pub(super) fn free_frames(&self) -> u64 {
        self.model.machine.free_frames()
    }
}

/// Counts on, for one thread: a locked addition would make the processor wait for every load before it.
fn next(counter: &AtomicU64) -> u64 {
    let now = counter.load(Ordering::Relaxed);
    counter.store(now + 1, Ordering::Relaxed);
    now
}

/// First guest frame of a step on the model, and the bus frame at which it is mapped.
const FIRST: u64 = 0x1000;

#[allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]
impl IommuOp for Hypervisor {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        next(&self.calls);
        let gone = self.gone.load(Ordering::Relaxed);
        if gone && self.on_model.load(Ordering::Relaxed) {
            for op in ops.iter_mut() {
                match op.subop_id {
                    IOMMUOP_map_foreign_page => {
                        op.gfn = next(&self.asked);
                        op.bfn = op.gfn;
                    }
                    _ => op.bfn = next(&self.unmapped),
                }
            }
            return self.model.dom0.iommu_op(ops);
        }
        for op in ops {
            op.status = match op.subop_id {
                IOMMUOP_map_foreign_page if gone => Errno::EPERM.status(),
                ..=IOMMUOP_unmap_foreign_page => 0,
                _ => Errno::ENOSYS.status(),
            };
            if op.subop_id == IOMMUOP_query_caps {
                op.flags = IOMMU_QUERY_map_cap;
            }
        }
        Ok(())
    }
}
