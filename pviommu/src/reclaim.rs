//! What an earlier life has left behind, given back by what its ledger says.
//!
//! Only a bus frame that a lookup has returned is unmapped, and only one at which an own page was mapped for certain: a
//! hypervisor that was shipped panics on other things, and unmap_page takes whatever is there.

use std::fmt;

use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

use crate::error::Operation;
use crate::ledger::{Book, Ledger};
use crate::wire::{Answer, Peer, Wire};

/// What [`Client::reclaim`](crate::Client::reclaim) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "what is kept or uncertain may hold frames"]
pub struct Reclaimed {
    /// Mappings that were given back.
    pub mappings: u64,
    /// Own pages that a device does not reach any more.
    pub own: u64,
    /// What the ledger lists and the hypervisor does not know any more: given back in the last moment, or gone with its domain.
    pub gone: u64,
    /// What the hypervisor refused to take back. It stays in the ledger.
    pub kept: Vec<Kept>,
    /// What nobody can know. What was not found stays in the ledger.
    pub uncertain: Vec<Uncertain>,
    /// Records of the ledger that could not be believed, and were not.
    pub damaged: u64,
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What was asked.
    pub op: Operation,
    /// Of which bus frame.
    pub bfn: Bfn,
    /// The answer.
    pub errno: Errno,
}

/// What the earlier life was about to do when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Uncertain {
    /// A frame was being looked up.
    Lookup {
        /// The domain.
        domid: DomId,
        /// Its frame.
        gfn: Gfn,
        /// Whether there is a frame, which was then given back: the same one, unless the guest has replaced it meanwhile.
        /// If not, or if it has, a frame is held until the domain ends, unless the lookup was never carried out.
        found: bool,
    },
    /// An own page was being mapped, and something is mapped there now: that page, or somebody else's.
    Own {
        /// Its number.
        gfn: Gfn,
        /// The bus frame.
        bfn: Bfn,
    },
}

impl fmt::Display for Uncertain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup { domid, gfn, found: true } => write!(f, "{domid} gfn {gfn} (found again)"),
            Self::Lookup { domid, gfn, found: false } => write!(f, "{domid} gfn {gfn}"),
            Self::Own { gfn, bfn } => write!(f, "own page {gfn} at bus frame {bfn}"),
        }
    }
}

impl fmt::Display for Reclaimed {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mappings, own, gone, .. } = self;
        write!(
            f,
            "an earlier life left {mappings} mappings and {own} own pages, given back; {gone} had gone"
        )?;
        for Kept { op, bfn, errno } in &self.kept {
            write!(f, "; {op} of bus frame {bfn}: {errno}")?;
        }
        for uncertain in &self.uncertain {
            write!(f, "; unknown: {uncertain}")?;
        }
        if self.damaged != 0 {
            write!(f, "; {} records of the ledger are damaged", self.damaged)?;
        }
        Ok(())
    }
}

/// Gives back what was looked up. `fallback` is a server of this life, for frames whose own server has gone.
pub(crate) fn lookups(
    wire: &Wire,
    ledger: &Ledger,
    fallback: Option<IoServerId>,
    out: &mut Reclaimed,
) -> Result<(), Errno> {
    let mut left = ledger.take_left();
    // First, so that what is found is known and goes with the rest.
    let looked = look_for_adrift(wire, ledger, fallback, &mut left, out);
    let done = unmap_known(wire, ledger, &mut left, out).and(looked);
    let lost = left.lost.iter();
    out.uncertain.extend(lost.map(|((domid, _), gfn)| Uncertain::Lookup {
        domid: *domid,
        gfn: *gfn,
        found: false,
    }));
    out.damaged = ledger.damaged();
    ledger.put_back(left);
    done
}

fn unmap_known(wire: &Wire, ledger: &Ledger, left: &mut Book, out: &mut Reclaimed) -> Result<(), Errno> {
    let mut known: Vec<_> = left.known.keys().copied().collect();
    known.sort_unstable();
    for of_one in known.chunk_by(|a, b| a.0 == b.0) {
        let Some(&((domid, ioserver), _)) = of_one.first() else { continue };
        let peer = Peer { domid, ioserver };
        let (mut gone, mut failed) = (Vec::with_capacity(of_one.len()), None);
        let answers = wire.unmap_foreign(peer, of_one.iter().map(|(_, bfn)| *bfn));
        for (&(key, bfn), answer) in of_one.iter().zip(answers) {
            match answer {
                Answer::Done(_) | Answer::Unsure(..) => out.mappings += 1,
                Answer::Refused(Errno::ENOENT) => out.gone += 1,
                Answer::Refused(errno) => out.kept.push(Kept { op: Operation::UnmapForeignPage, bfn, errno }),
                Answer::NotDone(errno) => failed = Some(errno),
            }
            if answer.is_gone() {
                gone.push(bfn);
                left.known.remove(&(key, bfn));
            }
        }
        ledger.gone(peer, gone.into_iter());
        failed.map_or(Ok(()), Err)?;
    }
    Ok(())
}

fn look_for_adrift(
    wire: &Wire,
    ledger: &Ledger,
    fallback: Option<IoServerId>,
    left: &mut Book,
    out: &mut Reclaimed,
) -> Result<(), Errno> {
    let adrift: Vec<_> = left.adrift.iter().copied().collect();
    for of_one in adrift.chunk_by(|a, b| a.0 == b.0) {
        let Some(&((domid, ioserver), _)) = of_one.first() else { continue };
        let peer = Peer { domid, ioserver };
        // If its own server has gone another one is told the same bus frame, and with that its mapping can be undone, too.
        let other = fallback.filter(|id| *id != ioserver).map(|ioserver| Peer { domid, ioserver });
        let gfns: Vec<Gfn> = of_one.iter().map(|(_, gfn)| *gfn).collect();
        let answers = wire.lookup_foreign(peer, gfns.iter().copied());
        let (mut found, mut lost, mut elsewhere, mut failed) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (gfn, answer) in gfns.into_iter().zip(answers) {
            match answer {
                Answer::Done(bfn) | Answer::Unsure(bfn, _) => found.push((gfn, bfn)),
                Answer::Refused(Errno::ENODEV) if other.is_some() => elsewhere.push(gfn),
                Answer::Refused(_) => lost.push(gfn),
                Answer::NotDone(errno) => failed = Some(errno),
            }
        }
        if let Some(other) = other.filter(|_| !elsewhere.is_empty()) {
            let mut there = Vec::new();
            let answers = wire.lookup_foreign(other, elsewhere.iter().copied());
            for (gfn, answer) in elsewhere.into_iter().zip(answers) {
                match answer {
                    Answer::Done(bfn) | Answer::Unsure(bfn, _) => there.push((gfn, bfn)),
                    Answer::Refused(_) => lost.push(gfn),
                    Answer::NotDone(errno) => failed = Some(errno),
                }
            }
            let _ = ledger.hold(other, &there);
            left.known.extend(there.iter().map(|(gfn, bfn)| (((domid, other.ioserver), *bfn), *gfn)));
            found.extend(there);
        }
        ledger.found(peer, &found);
        ledger.lost(peer, &lost);
        for gfn in &lost {
            left.adrift.remove(&((domid, ioserver), *gfn));
            left.lost.insert(((domid, ioserver), *gfn));
        }
        for (gfn, bfn) in &found {
            left.adrift.remove(&((domid, ioserver), *gfn));
            left.known.insert(((domid, ioserver), *bfn), *gfn);
            out.uncertain.push(Uncertain::Lookup { domid, gfn: *gfn, found: true });
        }
        failed.map_or(Ok(()), Err)?;
    }
    Ok(())
}

/// Takes own pages out of the device's reach.
pub(crate) fn own_pages(wire: &Wire, ledger: &Ledger, out: &mut Reclaimed) -> Result<(), Errno> {
    let mut left = ledger.take_left();
    let done = unmap_own(wire, ledger, &mut left, out).and_then(|()| probe_own(wire, ledger, &mut left, out));
    out.damaged = ledger.damaged();
    ledger.put_back(left);
    done
}

fn unmap_own(wire: &Wire, ledger: &Ledger, left: &mut Book, out: &mut Reclaimed) -> Result<(), Errno> {
    let bfns: Vec<Bfn> = left.own.keys().copied().collect();
    let (mut gone, mut failed) = (Vec::new(), None);
    for (&bfn, answer) in bfns.iter().zip(wire.unmap_own(bfns.iter().copied())) {
        match answer {
            Answer::Done(_) | Answer::Unsure(..) => out.own += 1,
            Answer::Refused(Errno::ENOENT) => out.gone += 1,
            Answer::Refused(errno) => out.kept.push(Kept { op: Operation::UnmapPage, bfn, errno }),
            Answer::NotDone(errno) => failed = Some(errno),
        }
        if answer.is_gone() {
            gone.push(bfn);
            left.own.remove(&bfn);
        }
    }
    ledger.own_gone(gone.into_iter());
    failed.map_or(Ok(()), Err)
}

/// Where nobody knows whether an own page was mapped: if it can be mapped now, nothing was there.
fn probe_own(wire: &Wire, ledger: &Ledger, left: &mut Book, out: &mut Reclaimed) -> Result<(), Errno> {
    let pairs: Vec<(Bfn, Gfn)> = left.own_adrift.iter().map(|(bfn, gfn)| (*bfn, *gfn)).collect();
    let answers = wire.map_own(pairs.iter().map(|(bfn, gfn)| (*gfn, *bfn)));
    let (mut free, mut failed) = (Vec::new(), None);
    for (&(bfn, gfn), answer) in pairs.iter().zip(&answers) {
        match answer {
            Answer::Done(_) | Answer::Unsure(..) => free.push(bfn),
            Answer::Refused(_) => out.uncertain.push(Uncertain::Own { gfn, bfn }),
            Answer::NotDone(errno) => failed = Some(*errno),
        }
    }
    let known: Vec<(Gfn, Bfn)> =
        free.iter().filter_map(|bfn| Some((*left.own_adrift.get(bfn)?, *bfn))).collect();
    ledger.hold_own(&known);
    for (gfn, bfn) in known {
        left.own_adrift.remove(&bfn);
        left.own.insert(bfn, gfn);
    }
    let before = out.own;
    let undone = unmap_own(wire, ledger, left, out);
    // They were mapped by asking.
    out.own = before;
    undone?;
    failed.map_or(Ok(()), Err)
}
