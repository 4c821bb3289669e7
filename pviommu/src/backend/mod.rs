//! The three ways to a bus frame, behind one trait: install, check, remove, always in batches.
//!
//! A backend keeps no table: what is mapped is known above. Calls for one guest come one at a time (its slow path is
//! locked), those for different guests at once.

mod lookup;
mod map;
mod soft;
mod viewed;

use xen_ioreq::{Bfn, Errno, Gfn, IoServerId};

use crate::error::{MapError, Operation, OwnError, ReleaseError, RevalidateError};
use crate::own::{OwnBfn, OwnMemory};
use crate::reclaim::Reclaimed;
use crate::soft::Pinned;
use crate::wire::Peer;

pub(crate) use lookup::LookupBackend;
pub(crate) use map::MapBackend;
pub(crate) use soft::SoftBackend;
pub(crate) use viewed::Viewed;

/// What a mapping turned out to be when the hypervisor was asked again.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The frame behind the gfn is the one that is mapped.
    Same,
    /// It is not.
    Gone,
    /// It is not, and the one that is there now is mapped at this bus frame, for whoever asks for it.
    Moved(Bfn),
    /// It may be another: a fresh page is behind the bus frame now, the old one waits for a flush.
    Replaced,
    /// Cannot be told until what is draining is released.
    Busy,
}

pub(crate) trait Backend: Send + Sync {
    /// Makes each frame reachable; an answer a frame. The frames differ.
    fn install(&self, peer: Peer, gfns: &[Gfn]) -> Vec<Result<Bfn, MapError>>;

    /// Asks again about mappings; an answer each.
    fn check(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Result<Vec<Verdict>, RevalidateError>;

    /// Whether asking is mapping anew: then what nobody uses is better let go than asked about.
    fn asks_by_mapping(&self) -> bool {
        false
    }

    /// Ends mappings that no device uses; an answer each. After an error the mapping is as before.
    fn remove(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Vec<Result<(), ReleaseError>>;

    /// Ends the wait of the pages that were replaced at these bus frames; an answer each.
    fn retire(&self, bfns: &[Bfn]) -> Vec<Result<(), Pinned>> {
        vec![Ok(()); bfns.len()]
    }

    /// Makes own pages reachable: all, or none.
    fn install_own(&self, memory: &OwnMemory) -> Result<Vec<OwnBfn>, OwnError>;

    /// Ends what [`install_own`](Self::install_own) made, for pages that no device uses.
    fn remove_own(&self, bfns: &[OwnBfn]) -> Result<(), OwnError>;

    /// Gives back what an earlier life has left, and adds to `out` what was found. `ioserver`: whose mappings, where we
    /// own the window.
    fn reclaim(&self, _ioserver: IoServerId, _out: &mut Reclaimed) -> Result<(), Errno> {
        Ok(())
    }

    /// Bus frames that are not used again since nobody knows whether a device can reach them.
    fn quarantined(&self) -> u64 {
        0
    }
}

fn refused(op: Operation, peer: Peer, (gfn, bfn): (Gfn, Bfn), errno: Errno) -> ReleaseError {
    ReleaseError::Refused { op, domid: peer.domid, gfn, bfn, errno }
}
