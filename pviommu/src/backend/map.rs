//! Map: we own the bus address space and put frames where we like.

use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

use super::{Backend, Verdict, refused};
use crate::bfn::{BfnAllocator, BfnBlock, BfnSpace};
use crate::error::{MapError, Operation, OwnError, ReleaseError, RevalidateError};
use crate::ledger::Ledger;
use crate::own::{OwnBfn, OwnFrame, OwnMemory};
use crate::reclaim::{self, Reclaimed};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wire::{Answer, BATCH, Peer, Wire, settle};

/// How many bus frames are tried for one guest frame when the hypervisor says that they are taken, or the unit fails at them.
const ROUNDS: usize = 4;

/// Sends a batch: an answer an entry.
type Sender<'a, T> = dyn Fn(&[T]) -> Vec<Answer> + 'a;

pub(crate) struct MapBackend {
    wire: Wire,
    bfns: BfnAllocator,
    space: BfnSpace,
    quarantined: AtomicU64,
    /// Bus frames at which a server's mapping may be, and which could not be unmapped: that is tried again.
    limbo: Mutex<Vec<(IoServerId, BfnBlock, Errno)>>,
    /// Whether the hypervisor may swap frames out from under our mappings.
    swap: bool,
    /// For own pages: foreign ones are found by unmapping the window, whatever there is of them.
    ledger: Option<Ledger>,
}

impl MapBackend {
    pub(crate) fn new(wire: Wire, space: BfnSpace, swap: bool, ledger: Option<Ledger>) -> Self {
        let bfns = BfnAllocator::new(&space);
        let (quarantined, limbo) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        Self { wire, bfns, space, quarantined, limbo, swap, ledger }
    }

    fn map_foreign(&self, peer: Peer, pairs: impl Iterator<Item = (Gfn, Bfn)>) -> Vec<Answer> {
        self.wire.map_foreign(peer, self.swap, pairs)
    }

    /// map_page, with the ledger told before and after. If it cannot be told, nothing is sent.
    fn map_own(&self, pairs: &[(Gfn, Bfn)]) -> Vec<Answer> {
        let Some(ledger) = &self.ledger else { return self.wire.map_own(pairs.iter().copied()) };
        match ledger.intend_own(pairs) {
            Ok(seqs) => {
                let answers = self.wire.map_own(pairs.iter().copied());
                ledger.answered_own(seqs, pairs, &answers);
                answers
            }
            Err(e) => vec![Answer::Refused(e); pairs.len()],
        }
    }

    fn unmap_own(&self, bfns: &[Bfn]) -> Vec<Answer> {
        let answers = self.wire.unmap_own(bfns.iter().copied());
        if let Some(ledger) = &self.ledger {
            let gone = bfns.iter().zip(&answers).filter(|(_, answer)| answer.is_gone());
            ledger.own_gone(gone.map(|(bfn, _)| *bfn));
        }
        answers
    }

    /// Never hands `block` out again.
    fn quarantine(&self, block: BfnBlock, why: Errno) {
        log::warn!("bus frame {}: {why}, not used again", block.first());
        self.quarantined.fetch_add(1, Ordering::Relaxed);
    }

    /// Puts each of `n` things at a bus frame: `map` sends (index, bus frame). A bus frame that turns out to be taken is
    /// left for ever, and another one tried; so is one at which the IOMMU unit fails, and if it fails at every other,
    /// too, the bus frames were not to blame.
    fn place(&self, n: usize, map: &Sender<'_, (usize, Bfn)>) -> Placed {
        let mut out = vec![Err(Unplaced::NoBusFrames); n];
        let mut todo: Vec<usize> = (0..n).collect();
        // Of each thing that was refused: the bus frames that may have been the reason.
        let mut suspects: Vec<(usize, Errno, BfnBlock)> = Vec::new();
        let mut unknown = Vec::new();
        for _ in 0..ROUNDS {
            let blocks: Vec<BfnBlock> = todo.iter().map_while(|_| self.bfns.alloc(0)).collect();
            let tries: Vec<(usize, Bfn)> =
                todo.drain(..).zip(&blocks).map(|(i, block)| (i, block.first())).collect();
            let answers = map(&tries);
            for (((i, bfn), block), answer) in tries.into_iter().zip(blocks).zip(answers) {
                let Some(out) = out.get_mut(i) else { continue };
                match answer {
                    // What comes back in the field is not looked at: the bus frame is ours to know. If the call failed after
                    // it, that was the flush of what had been unmapped before.
                    Answer::Done(_) | Answer::Unsure(..) => *out = Ok(bfn),
                    Answer::Refused(e @ (Errno::EPERM | Errno::EACCES | Errno::EIO)) => {
                        *out = Err(Unplaced::Refused(e));
                        suspects.push((i, e, block));
                        todo.push(i);
                    }
                    Answer::Refused(e) => {
                        *out = Err(Unplaced::Refused(e));
                        self.bfns.free(block);
                    }
                    Answer::NotDone(e) => {
                        *out = Err(Unplaced::Call(e));
                        unknown.push((block, e));
                    }
                }
            }
            if todo.is_empty() {
                break;
            }
        }
        for (i, errno, block) in suspects {
            // EACCES blames the bus frame (a reserved region). EPERM and EIO may blame either: the bus frame, if another one
            // did.
            if errno == Errno::EACCES || matches!(out.get(i), Some(Ok(_))) {
                self.quarantine(block, errno);
            } else {
                self.bfns.free(block);
            }
        }
        Placed { places: out, unknown }
    }

    /// Bus frames at which there may be something of a server's: unmapped, to be sure, before they can be used again. What
    /// cannot be unmapped now waits until something else is.
    fn undo(&self, ioserver: IoServerId, unknown: Vec<(BfnBlock, Errno)>) {
        if unknown.is_empty() {
            return;
        }
        // unmap_foreign_page names no domain: the caller, the bus frame and the server say it all.
        let peer = Peer { domid: DomId::INVALID, ioserver };
        let bfns: Vec<Bfn> = unknown.iter().map(|(block, _)| block.first()).collect();
        let answers = self.wire.unmap_foreign(peer, bfns.into_iter());
        for ((block, _), answer) in unknown.into_iter().zip(answers) {
            match answer {
                Answer::Done(_) | Answer::Refused(Errno::ENOENT) => self.bfns.free(block),
                Answer::Unsure(_, e) => self.quarantine(block, e),
                Answer::Refused(e) | Answer::NotDone(e) => {
                    log::warn!("bus frame {}: {e}, unmapped later", block.first());
                    self.limbo.lock().push((ioserver, block, e));
                }
            }
        }
    }

    /// Tries once more to unmap what could not be.
    fn retry(&self) {
        let mut limbo = std::mem::take(&mut *self.limbo.lock());
        limbo.sort_by_key(|(ioserver, ..)| *ioserver);
        while let Some((ioserver, ..)) = limbo.last() {
            let ioserver = *ioserver;
            let of_it = limbo.partition_point(|(id, ..)| *id < ioserver);
            self.undo(ioserver, limbo.drain(of_it..).map(|(_, block, e)| (block, e)).collect());
        }
    }
}

/// Where things are.
struct Placed {
    /// An answer each.
    places: Vec<Result<Bfn, Unplaced>>,
    /// Bus frames at which some may be, and nobody knows.
    unknown: Vec<(BfnBlock, Errno)>,
}

/// Why a thing is at no bus frame.
#[derive(Clone, Copy, Debug)]
enum Unplaced {
    NoBusFrames,
    Refused(Errno),
    Call(Errno),
}

impl Backend for MapBackend {
    fn install(&self, peer: Peer, gfns: &[Gfn]) -> Vec<Result<Bfn, MapError>> {
        let (op, domid) = (Operation::MapForeignPage, peer.domid);
        let pairs = |tries: &[(usize, Bfn)]| -> Vec<(Gfn, Bfn)> {
            tries.iter().filter_map(|(i, bfn)| Some((*gfns.get(*i)?, *bfn))).collect()
        };
        let Placed { places, unknown } =
            self.place(gfns.len(), &|tries| self.map_foreign(peer, pairs(tries).into_iter()));
        self.undo(peer.ioserver, unknown);
        let error = |gfn, why| match why {
            Unplaced::NoBusFrames => MapError::NoBusFrames { domid, gfn },
            Unplaced::Refused(errno) => MapError::Frame { op, domid, gfn, errno },
            Unplaced::Call(errno) => MapError::Call { op, domid, gfn, errno },
        };
        places.into_iter().zip(gfns).map(|(r, &gfn)| r.map_err(|why| error(gfn, why))).collect()
    }

    /// By mapping it once more at the same bus frame: success without a change if the frame is the same, refusal if
    /// there is another, or none. Where scratch stands for a frame that was swapped out, what the guest has put behind its
    /// number since takes the place of that, which is as good.
    fn check(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Result<Vec<Verdict>, RevalidateError> {
        let ask =
            |some: &[usize]| self.map_foreign(peer, some.iter().filter_map(|i| mappings.get(*i)).copied());
        let answers = settle(self.map_foreign(peer, mappings.iter().copied()), ask);
        answers
            .into_iter()
            .map(|a| match a {
                Answer::Done(_) | Answer::Unsure(..) => Ok(Verdict::Same),
                Answer::Refused(_) => Ok(Verdict::Gone),
                Answer::NotDone(errno) => {
                    Err(RevalidateError { op: Operation::MapForeignPage, domid: peer.domid, errno })
                }
            })
            .collect()
    }

    fn remove(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Vec<Result<(), ReleaseError>> {
        self.retry();
        let answers = self.wire.unmap_foreign(peer, mappings.iter().map(|(_, bfn)| *bfn));
        let one = |(&mapping, answer): (&(Gfn, Bfn), Answer)| {
            match answer {
                // ENOENT: the hypervisor dropped it first, with the domain or with a frame that it swapped out.
                Answer::Done(_) | Answer::Refused(Errno::ENOENT) => {
                    self.bfns.free(BfnBlock::single(mapping.1));
                    Ok(())
                }
                Answer::Unsure(_, errno) => {
                    self.quarantine(BfnBlock::single(mapping.1), errno);
                    Ok(())
                }
                Answer::Refused(errno) | Answer::NotDone(errno) => {
                    Err(refused(Operation::UnmapForeignPage, peer, mapping, errno))
                }
            }
        };
        mappings.iter().zip(answers).map(one).collect()
    }

    fn install_own(&self, memory: &OwnMemory) -> Result<Vec<OwnBfn>, OwnError> {
        let mut bfns: Vec<Option<OwnBfn>> = Vec::with_capacity(memory.pages());
        let mut to_map: Vec<Gfn> = Vec::new();
        for frame in memory.frames() {
            bfns.push(match frame {
                OwnFrame::Private => return Err(OwnError::Unreachable { frame: *frame }),
                OwnFrame::Reachable(bfn) => Some(OwnBfn { bfn: *bfn, installed: false }),
                OwnFrame::Frame(gfn) => {
                    to_map.push(*gfn);
                    None
                }
            });
        }
        let pairs = |tries: &[(usize, Bfn)]| -> Vec<(Gfn, Bfn)> {
            tries.iter().filter_map(|(i, bfn)| Some((*to_map.get(*i)?, *bfn))).collect()
        };
        let Placed { places, unknown } = self.place(to_map.len(), &|tries| self.map_own(&pairs(tries)));
        // What is there may be somebody else's, of this very domain, and unmap_page would not mind.
        unknown.into_iter().for_each(|(block, e)| self.quarantine(block, e));
        let mapped: Vec<OwnBfn> = places
            .iter()
            .filter_map(|r| r.as_ref().ok())
            .map(|&bfn| OwnBfn { bfn, installed: true })
            .collect();
        if let Some(why) = places.iter().find_map(|r| r.as_ref().err()) {
            // No device has been told of the others.
            self.remove_own(&mapped)?;
            return Err(match *why {
                Unplaced::NoBusFrames => OwnError::NoBusFrames,
                Unplaced::Refused(errno) | Unplaced::Call(errno) => {
                    OwnError::Refused { op: Operation::MapPage, bfn: Bfn(u64::MAX), errno }
                }
            });
        }
        let mut mapped = mapped.into_iter();
        Ok(bfns.into_iter().filter_map(|b| b.or_else(|| mapped.next())).collect())
    }

    fn remove_own(&self, bfns: &[OwnBfn]) -> Result<(), OwnError> {
        let bfns: Vec<Bfn> = bfns.iter().filter(|b| b.installed).map(|b| b.bfn).collect();
        let answers = self.unmap_own(&bfns);
        let mut failed = None;
        for (bfn, answer) in bfns.into_iter().zip(answers) {
            let block = BfnBlock::single(bfn);
            match answer {
                Answer::Done(_) | Answer::Refused(Errno::ENOENT) => self.bfns.free(block),
                Answer::Unsure(_, errno) => self.quarantine(block, errno),
                Answer::Refused(errno) | Answer::NotDone(errno) => {
                    self.quarantine(block, errno);
                    failed = Some(OwnError::Refused { op: Operation::UnmapPage, bfn, errno });
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn reclaim(&self, ioserver: IoServerId, out: &mut Reclaimed) -> Result<(), Errno> {
        let peer = Peer { domid: DomId::INVALID, ioserver };
        for range in self.space.ranges() {
            let mut bfns = (range.start.0..range.end.0).map(Bfn).peekable();
            while bfns.peek().is_some() {
                let mut failed = None;
                for answer in self.wire.unmap_foreign(peer, bfns.by_ref().take(BATCH)) {
                    out.mappings += u64::from(matches!(answer, Answer::Done(_) | Answer::Unsure(..)));
                    match answer {
                        Answer::Done(_) | Answer::Refused(Errno::ENOENT) => {}
                        // After a flush that failed no bus frame may be used.
                        Answer::Refused(e) | Answer::Unsure(_, e) | Answer::NotDone(e) => failed = Some(e),
                    }
                }
                failed.map_or(Ok(()), Err)?;
            }
        }
        match &self.ledger {
            Some(ledger) => reclaim::own_pages(&self.wire, ledger, out),
            None => Ok(()),
        }
    }

    fn quarantined(&self) -> u64 {
        self.quarantined.load(Ordering::Relaxed) + self.limbo.lock().len() as u64
    }
}
