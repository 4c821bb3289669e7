//! Lookup: the hypervisor tells the bus frame. Nothing else than lookup_foreign_page, and unmap_foreign_page of what a
//! lookup has returned, is ever sent: a shipped hypervisor panics on other things.
//!
//! What was looked up and then ballooned out cannot be found by looking up again, so a life that may be killed keeps
//! a ledger.

use xen_ioreq::{Bfn, Errno, Gfn, IoServerId};

use super::{Backend, Verdict, refused};
use crate::error::{MapError, Operation, OwnError, ReleaseError, RevalidateError};
use crate::ledger::Ledger;
use crate::own::{OwnBfn, OwnFrame, OwnMemory};
use crate::reclaim::{self, Reclaimed};
use crate::wire::{Answer, Peer, Wire};

pub(crate) struct LookupBackend {
    pub(crate) wire: Wire,
    pub(crate) ledger: Option<Ledger>,
}

impl LookupBackend {
    /// Lookups, with the ledger told before and after.
    fn look_up(&self, peer: Peer, gfns: &[Gfn]) -> Result<Vec<Answer>, Errno> {
        let Some(ledger) = &self.ledger else {
            return Ok(self.wire.lookup_foreign(peer, gfns.iter().copied()));
        };
        let seqs = ledger.intend(peer, gfns)?;
        let answers = self.wire.lookup_foreign(peer, gfns.iter().copied());
        ledger.answered(seqs, peer, gfns, &answers);
        Ok(answers)
    }
}

impl Backend for LookupBackend {
    fn install(&self, peer: Peer, gfns: &[Gfn]) -> Vec<Result<Bfn, MapError>> {
        let (op, domid) = (Operation::LookupForeignPage, peer.domid);
        let answers = match self.look_up(peer, gfns) {
            Ok(answers) => answers,
            Err(errno) => {
                let op = Operation::WriteLedger;
                return gfns.iter().map(|&gfn| Err(MapError::Call { op, domid, gfn, errno })).collect();
            }
        };
        let one = |(&gfn, answer)| match answer {
            Answer::Done(bfn) | Answer::Unsure(bfn, _) => Ok(bfn),
            Answer::Refused(errno) => Err(MapError::Frame { op, domid, gfn, errno }),
            // A lookup that was done and not reported keeps its reference until the domain dies: the next lookup
            // of this gfn finds it again, if the guest has not replaced the frame by then.
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
        let error = |op, errno| RevalidateError { op, domid: peer.domid, errno };
        let gfns = mappings.iter().map(|(gfn, _)| *gfn);
        let asking = self.ledger.as_ref().map(|l| l.ask(peer, gfns.clone()).map(|seq| (l, seq))).transpose();
        let asking = asking.map_err(|errno| error(Operation::WriteLedger, errno))?;
        let answers = self.wire.lookup_foreign(peer, gfns);
        let (mut verdicts, mut new) = (Vec::with_capacity(mappings.len()), Vec::new());
        let (mut failed, mut adrift) = (None, Vec::new());
        for ((gfn, bfn), answer) in mappings.iter().zip(answers) {
            verdicts.push(match answer {
                Answer::Done(now) | Answer::Unsure(now, _) if now == *bfn => Verdict::Same,
                Answer::Done(now) | Answer::Unsure(now, _) => {
                    new.push((*gfn, now));
                    Verdict::Gone
                }
                Answer::Refused(_) => Verdict::Gone,
                Answer::NotDone(errno) => {
                    failed = Some(errno);
                    adrift.push(*gfn);
                    Verdict::Busy
                }
            });
        }
        // Looked up by asking, wanted by nobody yet: given back, unless some mapping of ours has it.
        new.retain(|(_, bfn)| !is_mapped(*bfn));
        new.sort_unstable_by_key(|(_, bfn)| *bfn);
        new.dedup_by_key(|(_, bfn)| *bfn);
        let gone: Vec<Bfn> = new.iter().map(|(_, bfn)| *bfn).collect();
        if !new.is_empty() {
            if let Some((ledger, _)) = asking {
                // Else they are as unknown as before the asking.
                let _ = ledger.hold(peer, &new);
            }
            self.wire.unmap_foreign(peer, gone.iter().copied());
        }
        if let Some((ledger, seq)) = asking {
            ledger.asked(seq, peer, &gone, &adrift);
        }
        match failed {
            Some(errno) => Err(error(Operation::LookupForeignPage, errno)),
            None => Ok(verdicts),
        }
    }

    fn remove(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Vec<Result<(), ReleaseError>> {
        let answers = self.wire.unmap_foreign(peer, mappings.iter().map(|(_, bfn)| *bfn));
        if let Some(ledger) = &self.ledger {
            let gone = mappings.iter().zip(&answers).filter(|(_, answer)| answer.is_gone());
            ledger.gone(peer, gone.map(|((_, bfn), _)| *bfn));
        }
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

    fn reclaim(&self, ioserver: IoServerId, out: &mut Reclaimed) -> Result<(), Errno> {
        match &self.ledger {
            Some(ledger) => reclaim::lookups(&self.wire, ledger, Some(ioserver), out),
            None => Ok(()),
        }
    }
}
