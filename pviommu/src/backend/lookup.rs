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
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::wire::{Answer, Peer, Wire, settle};

/// Frames that are tried until one is there to prove the 1:1 map by.
const TRIES: usize = 16;

pub(crate) struct LookupBackend {
    wire: Wire,
    ledger: Option<Ledger>,
    /// Whether what the hypervisor tells is where a device can reach it.
    proven: AtomicBool,
    /// A bus frame that was told, and at which nothing is.
    nothing_at: Mutex<Option<Bfn>>,
}

impl LookupBackend {
    /// `iommu`: bus frames are those of a 1:1 map, which need not be there.
    pub(crate) fn new(wire: Wire, iommu: bool, ledger: Option<Ledger>) -> Self {
        Self { wire, ledger, proven: AtomicBool::new(!iommu), nothing_at: Mutex::new(None) }
    }

    /// A shipped hypervisor that was told to be strict has no 1:1 map, and tells bus frames all the same: no device reaches
    /// anything there, and what was looked up stays held until its domain ends, since no unmap finds it. By that it is
    /// known, with the first frame that there is.
    fn prove(&self, peer: Peer, gfns: &[Gfn]) -> Result<(), Unproven> {
        if self.proven.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut nothing_at = self.nothing_at.lock();
        if let Some(bfn) = *nothing_at {
            return Err(Unproven::NothingAt(bfn));
        }
        for gfn in gfns.iter().take(TRIES) {
            let told = self.look_up(peer, &[*gfn]).map_err(Unproven::Ledger)?;
            let Some(Answer::Done(bfn)) = told.first().copied() else { continue };
            match self.give_back(peer, [bfn].into_iter()).first() {
                Some(Answer::Done(_)) => self.proven.store(true, Ordering::Release),
                Some(Answer::Refused(Errno::ENOENT)) => {
                    *nothing_at = Some(bfn);
                    return Err(Unproven::NothingAt(bfn));
                }
                // A call that failed says nothing; the frame is found again by what follows.
                _ => {}
            }
            break;
        }
        Ok(())
    }

    /// Unmaps what lookups have returned, with the ledger told after it.
    fn give_back(&self, peer: Peer, bfns: impl Iterator<Item = Bfn> + Clone) -> Vec<Answer> {
        let answers = self.wire.unmap_foreign(peer, bfns.clone());
        if let Some(ledger) = &self.ledger {
            let gone = bfns.zip(&answers).filter(|(_, answer)| answer.is_gone());
            ledger.gone(peer, gone.map(|(bfn, _)| bfn));
        }
        answers
    }

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

/// Why a lookup would be of no use.
enum Unproven {
    Ledger(Errno),
    NothingAt(Bfn),
}

impl Backend for LookupBackend {
    fn install(&self, peer: Peer, gfns: &[Gfn]) -> Vec<Result<Bfn, MapError>> {
        let (op, domid) = (Operation::LookupForeignPage, peer.domid);
        let answers =
            self.prove(peer, gfns).and_then(|()| self.look_up(peer, gfns).map_err(Unproven::Ledger));
        let answers = match answers {
            Ok(answers) => answers,
            Err(why) => {
                let error = |gfn| match why {
                    Unproven::NothingAt(bfn) => MapError::NothingMapped { domid, gfn, bfn },
                    Unproven::Ledger(errno) => {
                        MapError::Call { op: Operation::WriteLedger, domid, gfn, errno }
                    }
                };
                return gfns.iter().map(|&gfn| Err(error(gfn))).collect();
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
    fn check(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Result<Vec<Verdict>, RevalidateError> {
        let error = |op, errno| RevalidateError { op, domid: peer.domid, errno };
        let gfns = mappings.iter().map(|(gfn, _)| *gfn);
        let asking = self.ledger.as_ref().map(|l| l.ask(peer, gfns.clone()).map(|seq| (l, seq))).transpose();
        let asking = asking.map_err(|errno| error(Operation::WriteLedger, errno))?;
        let ask = |some: &[usize]| {
            let gfns = some.iter().filter_map(|i| mappings.get(*i)).map(|(gfn, _)| *gfn);
            self.wire.lookup_foreign(peer, gfns)
        };
        let answers = settle(self.wire.lookup_foreign(peer, gfns), ask);
        let mut verdicts = Vec::with_capacity(mappings.len());
        let (mut found, mut unanswered, mut failed) = (Vec::new(), Vec::new(), None);
        for ((gfn, bfn), answer) in mappings.iter().zip(answers) {
            verdicts.push(match answer {
                Answer::Done(now) | Answer::Unsure(now, _) if now == *bfn => Verdict::Same,
                Answer::Done(now) | Answer::Unsure(now, _) => {
                    found.push((*gfn, now));
                    Verdict::Moved(now)
                }
                Answer::Refused(_) => Verdict::Gone,
                Answer::NotDone(errno) => {
                    failed = Some(errno);
                    unanswered.push(*gfn);
                    Verdict::Busy
                }
            });
        }
        if let Some((ledger, seq)) = asking {
            ledger.asked(seq, peer, &found, &unanswered);
        }
        match failed {
            // What was found must be entered by the caller.
            Some(errno) if found.is_empty() => Err(error(Operation::LookupForeignPage, errno)),
            _ => Ok(verdicts),
        }
    }

    fn remove(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Vec<Result<(), ReleaseError>> {
        let answers = self.give_back(peer, mappings.iter().map(|(_, bfn)| *bfn));
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
