//! Doorbells and interrupts that are eventfds: by the kernel where it can, by the loop where not, with the same effect.
//!
//! The kernel's half of a doorbell ([`Doorbells`]) looks at the sync slots beside us, without a lock between the two. So
//! doorbells have a server of their own, on whose slots what the kernel answers is never touched by us. A guest that writes
//! there what is no doorbell's, or no more, makes the two meet: at worst that guest pays for it, with its vCPU or, by Xen, its life.

mod doorbell;
mod irqfd;
mod kernel;

use xen_ioreq::seam::EventFdError;
use xen_ioreq::{DomId, Errno};

pub use self::doorbell::{Bell, Doorbell, Doorbells};
pub use self::irqfd::{Irqfd, KernelIrqfd, LoopIrqfd};
pub(crate) use self::kernel::KernelBells;
use crate::bus::BusError;

/// An eventfd that could not be tied to a guest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TieError {
    /// The kernel has the feature and refused.
    #[error("{domid}: {what}: {errno}")]
    Refused {
        /// The guest.
        domid: DomId,
        /// `irqfd` or `doorbell`.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// A value is given twice.
    #[error("{domid}: a doorbell at {addr:#x} has two eventfds for the value {value}")]
    Twice {
        /// The guest.
        domid: DomId,
        /// The doorbell's address.
        addr: u64,
        /// The value.
        value: u16,
    },
    /// Its address could not be claimed.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// What the kernel made of it, or `None` if it cannot.
fn by_kernel<T>(
    domid: DomId,
    what: &'static str,
    tied: Result<T, EventFdError>,
) -> Result<Option<T>, TieError> {
    match tied {
        Ok(tied) => Ok(Some(tied)),
        Err(e @ EventFdError::Unsupported(_)) => {
            log::debug!("{domid}: {what}: {e}");
            Ok(None)
        }
        Err(EventFdError::Refused(errno)) => Err(TieError::Refused { domid, what, errno }),
    }
}
