//! What can fail in a server's life.

use std::fmt;

use xen_ioreq::{DomId, Errno, IoServerId, VcpuId};

use crate::dm::DmError;
use crate::record::RecordError;

/// A step of a server's life that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Creating it.
    #[error("creating an IOREQ server: {0}")]
    Create(#[source] DmError),
    /// Xen allows 8 for each guest.
    #[error("{domid} has as many IOREQ servers as Xen allows (8); stop one of them")]
    TooMany {
        /// The guest.
        domid: DomId,
    },
    /// Another operation on it.
    #[error("{server}: {source}")]
    Dm {
        /// The server.
        server: IoServerId,
        /// The operation.
        source: DmError,
    },
    /// Its shared pages.
    #[error("{domid} {server}: mapping its {what}: {errno}")]
    Map {
        /// The guest.
        domid: DomId,
        /// The server.
        server: IoServerId,
        /// Which pages.
        what: &'static str,
        /// What Xen said.
        errno: Errno,
    },
    /// An event channel.
    #[error("{domid} {server}: binding the event channel of {whose}: {errno}")]
    Bind {
        /// The guest.
        domid: DomId,
        /// The server.
        server: IoServerId,
        /// A vCPU, or the ring.
        whose: Endpoint,
        /// What Xen said.
        errno: Errno,
    },
    /// No slot has an event channel.
    #[error("{domid} {server}: the guest has no vCPU")]
    NoVcpu {
        /// The guest.
        domid: DomId,
        /// The server.
        server: IoServerId,
    },
    /// The record of servers; nothing is served that is not in it.
    #[error("{domid}: {source}")]
    Record {
        /// The guest.
        domid: DomId,
        /// Why not.
        source: RecordError,
    },
}

/// Whose event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A vCPU's.
    Vcpu(VcpuId),
    /// The buffered ring's.
    Ring,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpu(v) => v.fmt(f),
            Self::Ring => f.write_str("the buffered ring"),
        }
    }
}
