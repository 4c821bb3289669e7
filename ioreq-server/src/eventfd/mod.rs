//! Doorbells and interrupts that are eventfds: by the kernel where it can, by the loop where not, with the same effect.
//!
//! The kernel's half of a doorbell ([`Doorbells`]) looks at the sync slots beside us, without a lock between the two. So
//! doorbells have a server of their own, on whose slots we leave to the kernel what it has begun, and never look unasked.

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
    /// Another doorbell has that address, width and value.
    #[error("{domid}: there is a doorbell {bell:?} already")]
    Taken {
        /// The guest.
        domid: DomId,
        /// The doorbell.
        bell: Doorbell,
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
