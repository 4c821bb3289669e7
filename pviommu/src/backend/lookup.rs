//! Lookup: the hypervisor tells the bus frame. Nothing else than lookup_foreign_page, and unmap_foreign_page of what a
//! lookup has returned, is ever sent: a shipped hypervisor panics on other things.

use xen_ioreq::{Bfn, Errno, Gfn};

use super::{Backend, Verdict, refused};
use crate::error::{MapError, Operation, OwnError, ReleaseError, RevalidateError};
use crate::own::{OwnBfn, OwnFrame, OwnMemory};
use crate::wire::{Answer, Peer, Wire};

pub(crate) struct LookupBackend {
    pub(crate) wire: Wire,
}

impl Backend for LookupBackend {
    fn install(&self, peer: Peer, gfns: &[Gfn]) -> Vec<Result<Bfn, MapError>> {
        let (op, domid) = (Operation::LookupForeignPage, peer.domid);
        let answers = self.wire.lookup_foreign(peer, gfns.iter().copied());
        let one = |(&gfn, answer)| match answer {
            Answer::Done(bfn) | Answer::Unsure(bfn, _) => Ok(bfn),
            Answer::Refused(errno) => Err(MapError::Frame { op, domid, gfn, errno }),
            // A lookup that was done and not reported keeps its reference until the domain dies: the next lookup
            // of this gfn finds it again.
            Answer::NotDone(errno) => Err(MapError::Call { op, domid, gfn, errno }),
        };
        gfns.iter().zip(answers).map(one).collect()
    }

    /// By another lookup, which takes no second reference if the frame is the same.
    fn check(
        &self,
        peer: Peer,
        mappings: &[(Gfn, Bfn)],
        is_mapped: &dyn Fn(Bfn) -> bool,
    ) -> Result<Vec<Verdict>, RevalidateError> {
        let answers = self.wire.lookup_foreign(peer, mappings.iter().map(|(gfn, _)| *gfn));
        let (mut verdicts, mut new) = (Vec::with_capacity(mappings.len()), Vec::new());
        let mut failed = None;
        for ((_, bfn), answer) in mappings.iter().zip(answers) {
            verdicts.push(match answer {
                Answer::Done(now) | Answer::Unsure(now, _) if now == *bfn => Verdict::Same,
                Answer::Done(now) | Answer::Unsure(now, _) => {
                    new.push(now);
                    Verdict::Gone
                }
                Answer::Refused(_) => Verdict::Gone,
                Answer::NotDone(errno) => {
                    failed = Some(errno);
                    Verdict::Busy
                }
            });
        }
        // Looked up by asking, wanted by nobody yet: given back, unless some mapping of ours has it.
        new.retain(|bfn| !is_mapped(*bfn));
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            self.wire.unmap_foreign(peer, new.into_iter());
        }
        match failed {
            Some(errno) => {
                Err(RevalidateError { op: Operation::LookupForeignPage, domid: peer.domid, errno })
            }
            None => Ok(verdicts),
        }
    }

    fn remove(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Vec<Result<(), ReleaseError>> {
        let answers = self.wire.unmap_foreign(peer, mappings.iter().map(|(_, bfn)| *bfn));
        let one = |(&mapping, answer)| match answer {
            // ENOENT: gone with its domain, or removed by another emulator, with which we share the one reference.
            Answer::Done(_) | Answer::Unsure(..) | Answer::Refused(Errno::ENOENT) => Ok(()),
            Answer::Refused(errno) | Answer::NotDone(errno) => {
                Err(refused(Operation::UnmapForeignPage, peer, mapping, errno))
            }
        };
        mappings.iter().zip(answers).map(one).collect()
    }

    /// The hypervisor takes no map_page for this, so the caller must know where its pages are.
    fn install_own(&self, memory: &OwnMemory) -> Result<Vec<OwnBfn>, OwnError> {
        let reachable = memory.frames().iter().map(|frame| match frame {
            OwnFrame::Reachable(bfn) => Ok(OwnBfn { bfn: *bfn, installed: false }),
            OwnFrame::Private | OwnFrame::Frame(_) => Err(OwnError::Unreachable { frame: *frame }),
        });
        reachable.collect()
    }

    fn remove_own(&self, _bfns: &[OwnBfn]) -> Result<(), OwnError> {
        Ok(())
    }
}
