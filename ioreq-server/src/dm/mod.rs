//! `dm_op` for one guest, typed: encodes the operation, names it in the error.
//!
//! Everything here is allowed on a restricted descriptor. Beside what each operation says, all can fail with ESRCH (no
//! such domain), EPERM (we are not its device model), EINVAL (not an HVM or PVH guest) and EOPNOTSUPP (an older Xen).

mod interrupts;
mod lifecycle;
mod memory;
mod servers;

use std::fmt;
use std::sync::Arc;

pub use interrupts::{Event, Interrupt, IsaIrq, PciLink, Pin};
pub use lifecycle::Shutdown;
pub use memory::{CacheAttr, DirtyFrames, DirtyVram, Extent, MemType};
pub use servers::BufferedMode;
use xen_ioreq::abi::dm_op as abi;
use xen_ioreq::seam::DmOp;
use xen_ioreq::{DomId, Errno};
use zerocopy::{FromBytes, Immutable, IntoBytes};

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
        self.send(op, code, payload, None)
    }

    /// The same, with a second buffer.
    fn call_with<T>(&self, op: &'static str, code: u32, payload: T, buffer: &mut [u8]) -> Result<T, DmError>
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        self.send(op, code, payload, Some(buffer))
    }

    fn send<T>(
        &self,
        op: &'static str,
        code: u32,
        payload: T,
        buffer: Option<&mut [u8]>,
    ) -> Result<T, DmError>
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let fail = |errno| self.error(op, errno);
        let mut request = operation(code, payload);
        let sent = match buffer {
            None => self.op.dm_op(self.domid, &mut [request.as_mut_bytes()]),
            Some(buffer) => self.op.dm_op(self.domid, &mut [request.as_mut_bytes(), buffer]),
        };
        sent.map_err(fail)?;
        T::read_from_prefix(request.u.as_bytes()).map(|(out, _)| out).map_err(|_| fail(Errno::E2BIG))
    }

    fn error(&self, op: &'static str, errno: Errno) -> DmError {
        DmError { op, domid: self.domid, errno }
    }
}

fn operation<T: IntoBytes + Immutable>(op: u32, payload: T) -> abi::xen_dm_op {
    const { assert!(size_of::<T>() <= size_of::<[u64; 3]>(), "the size of the C union") };
    let mut request = abi::xen_dm_op { op, pad: 0, u: [0; 3] };
    let fits = payload.write_to_prefix(request.u.as_mut_bytes());
    debug_assert!(fits.is_ok(), "asserted above");
    request
}

impl fmt::Debug for Dm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dm").field("domid", &self.domid).finish_non_exhaustive()
    }
}
