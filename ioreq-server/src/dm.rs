//! `dm_op` for one guest, typed: encodes the operation, names it in the error.
//!
//! Everything here is allowed on a restricted descriptor.

use std::fmt;
use std::sync::Arc;

use xen_ioreq::abi::dm_op as abi;
use xen_ioreq::abi::sched::SHUTDOWN_crash;
use xen_ioreq::seam::DmOp;
use xen_ioreq::{DomId, Errno, Gfn, IoServerId, Port};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::device::Space;

/// A `dm_op` that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{domid}: {op}: {errno}")]
pub struct DmError {
    /// The operation, by its C name.
    pub op: &'static str,
    /// The guest.
    pub domid: DomId,
    /// What Xen said.
    pub errno: Errno,
}

/// How a server takes writes that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BufferedMode {
    /// Not at all: everything is a sync request.
    Off,
    /// Ring pointers are stored by their owners only.
    Legacy,
    /// Ring pointers are changed atomically, so that Xen can keep them small.
    Atomic,
}

/// The device-model operations on one guest.
#[derive(Clone)]
pub struct Dm {
    op: Arc<dyn DmOp>,
    domid: DomId,
}

impl Dm {
    /// Operations on `domid`, sent through `op`.
    pub fn new(op: Arc<dyn DmOp>, domid: DomId) -> Self {
        Self { op, domid }
    }

    /// The guest.
    pub fn domid(&self) -> DomId {
        self.domid
    }

    /// Sends `payload` as operation `code` and gives back what Xen made of it.
    fn call<T>(&self, op: &'static str, code: u32, payload: T) -> Result<T, DmError>
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let fail = |errno| DmError { op, domid: self.domid, errno };
        let mut request = abi::xen_dm_op { op: code, pad: 0, u: [0; 3] };
        // Every payload fits: the ABI tests hold `xen_dm_op` to the size of the C union.
        payload.write_to_prefix(request.u.as_mut_bytes()).map_err(|_| fail(Errno::E2BIG))?;
        self.op.dm_op(self.domid, &mut [request.as_mut_bytes()]).map_err(fail)?;
        T::read_from_prefix(request.u.as_bytes()).map(|(out, _)| out).map_err(|_| fail(Errno::E2BIG))
    }

    /// Creates a server. ENOSPC: the guest has 8 already.
    pub fn create_server(&self, mode: BufferedMode) -> Result<IoServerId, DmError> {
        use xen_ioreq::abi::ioreq as io;
        let handle_bufioreq = match mode {
            BufferedMode::Off => io::HVM_IOREQSRV_BUFIOREQ_OFF,
            BufferedMode::Legacy => io::HVM_IOREQSRV_BUFIOREQ_LEGACY,
            BufferedMode::Atomic => io::HVM_IOREQSRV_BUFIOREQ_ATOMIC,
        };
        let payload = abi::xen_dm_op_create_ioreq_server { handle_bufioreq, ..Default::default() };
        self.call("create_ioreq_server", abi::XEN_DMOP_create_ioreq_server, payload)
            .map(|out| IoServerId(out.id))
    }

    /// The remote port of a server's buffered ring; meaningless without one. Leaves the shared pages out of the
    /// guest.
    pub fn buffered_port(&self, server: IoServerId) -> Result<Port, DmError> {
        let payload = abi::xen_dm_op_get_ioreq_server_info {
            id: server.0,
            flags: abi::XEN_DMOP_no_gfns,
            ..Default::default()
        };
        self.call("get_ioreq_server_info", abi::XEN_DMOP_get_ioreq_server_info, payload)
            .map(|out| Port(out.bufioreq_port))
    }

    /// Sends accesses to `start ..= last` to the server. EEXIST: overlaps one of its ranges.
    pub fn map_range(&self, server: IoServerId, space: Space, start: u64, last: u64) -> Result<(), DmError> {
        let op = abi::XEN_DMOP_map_io_range_to_ioreq_server;
        self.call("map_io_range_to_ioreq_server", op, range(server, space, start, last)).map(drop)
    }

    /// Takes a range back. ENOENT: not inside the server's ranges.
    pub fn unmap_range(
        &self,
        server: IoServerId,
        space: Space,
        start: u64,
        last: u64,
    ) -> Result<(), DmError> {
        let op = abi::XEN_DMOP_unmap_io_range_from_ioreq_server;
        self.call("unmap_io_range_from_ioreq_server", op, range(server, space, start, last)).map(drop)
    }

    /// Enables or disables a server.
    pub fn set_state(&self, server: IoServerId, enabled: bool) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_set_ioreq_server_state {
            id: server.0,
            enabled: enabled.into(),
            ..Default::default()
        };
        self.call("set_ioreq_server_state", abi::XEN_DMOP_set_ioreq_server_state, payload).map(drop)
    }

    /// Destroys a server; what a vCPU still waits for is completed by Xen.
    pub fn destroy_server(&self, server: IoServerId) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_destroy_ioreq_server { id: server.0, ..Default::default() };
        self.call("destroy_ioreq_server", abi::XEN_DMOP_destroy_ioreq_server, payload).map(drop)
    }

    /// Injects an MSI with the address and data that the guest programmed, unchanged: a guest that maps
    /// interrupts to event channels puts a vector 0 there (XENFEAT_hvm_pirqs).
    pub fn inject_msi(&self, addr: u64, data: u32) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_inject_msi { data, addr, ..Default::default() };
        self.call("inject_msi", abi::XEN_DMOP_inject_msi, payload).map(drop)
    }

    /// Moves `frames` frames of the guest from `from` on to `to` on, as a guest does that moves the BAR that they are behind.
    /// What was at the new place is freed; who has the frames mapped keeps them. EINVAL: there is a hole at the old place;
    /// the frames before it have moved.
    pub fn relocate_memory(&self, from: Gfn, to: Gfn, frames: u32) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_relocate_memory { size: frames, pad: 0, src_gfn: from.0, dst_gfn: to.0 };
        self.call("relocate_memory", abi::XEN_DMOP_relocate_memory, payload).map(drop)
    }

    /// Number of vCPUs of the guest. EOPNOTSUPP before Xen 4.16.
    pub fn nr_vcpus(&self) -> Result<u32, DmError> {
        self.call("nr_vcpus", abi::XEN_DMOP_nr_vcpus, abi::xen_dm_op_nr_vcpus::default()).map(|out| out.vcpus)
    }

    /// Crashes the guest.
    pub fn crash(&self) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_remote_shutdown { reason: SHUTDOWN_crash };
        self.call("remote_shutdown", abi::XEN_DMOP_remote_shutdown, payload).map(drop)
    }
}

fn range(server: IoServerId, space: Space, start: u64, last: u64) -> abi::xen_dm_op_ioreq_server_range {
    let r#type = match space {
        Space::Pio => abi::XEN_DMOP_IO_RANGE_PORT,
        Space::Mmio => abi::XEN_DMOP_IO_RANGE_MEMORY,
        Space::Pci => abi::XEN_DMOP_IO_RANGE_PCI,
    };
    abi::xen_dm_op_ioreq_server_range { id: server.0, r#type, start, end: last, ..Default::default() }
}

impl fmt::Debug for Dm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dm").field("domid", &self.domid).finish_non_exhaustive()
    }
}
