//! The life of IOREQ servers, and their ranges.

use xen_ioreq::abi::dm_op as abi;
use xen_ioreq::{IoServerId, Port};

use super::{Dm, DmError};
use crate::device::Space;

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

impl Dm {
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

    /// Destroys a server; what a vCPU still waits for is completed by Xen, with the data that it was sent with: reads give 0.
    ///
    /// Also a server that a killed process has left behind: Xen keeps it, and vCPUs wait for it. A successor that first
    /// claims the same ranges with a server of its own, enabled, and then destroys the old one leaves no access unanswered
    /// and no moment without a device.
    pub fn destroy_server(&self, server: IoServerId) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_destroy_ioreq_server { id: server.0, ..Default::default() };
        self.call("destroy_ioreq_server", abi::XEN_DMOP_destroy_ioreq_server, payload).map(drop)
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
