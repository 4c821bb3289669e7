//! What clients of a broker have mapped and not undone: in memory, and, if there is a ledger, in a file that outlives
//! the broker, too.
#![allow(non_upper_case_globals, reason = "the names of Xen's headers, matched on")]

use std::collections::{BTreeMap, BTreeSet};

use xen_ioreq::abi::iommu_op::{
    IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_unmap_foreign_page,
    IOMMUOP_unmap_page, pv_iommu_op,
};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, IoServerId};

use crate::ledger::{Ledger, Seqs};
use crate::wire::{Answer, Peer};

/// A foreign mapping, as an unmap names it.
pub(super) type Place = (Bfn, IoServerId);

#[derive(Debug, Default)]
pub(super) struct Book {
    /// For which domain each was made.
    mapped: BTreeMap<Place, DomId>,
    own: BTreeSet<Bfn>,
    ledger: Option<Ledger>,
}

/// Of whom and for whom.
type Key = (DomId, IoServerId);

/// What is not mapped any more.
#[derive(Default)]
struct Gone {
    foreign: BTreeMap<Key, Vec<Bfn>>,
    own: Vec<Bfn>,
}

/// What the ledger was told before a call.
#[derive(Default)]
pub(super) struct Announced {
    lookups: Vec<(Peer, Seqs, Vec<usize>)>,
    own: Option<(Seqs, Vec<usize>)>,
}

impl Book {
    pub(super) fn new(ledger: Option<Ledger>) -> Self {
        Self { ledger, ..Self::default() }
    }

    pub(super) fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.mapped.contains_key(place)
    }

    pub(super) fn has_own(&self, bfn: Bfn) -> bool {
        self.own.contains(&bfn)
    }

    pub(super) fn len(&self) -> usize {
        self.mapped.len() + self.own.len()
    }

    /// Everything that is mapped for guests, by domain and server.
    pub(super) fn by_peer(&self) -> BTreeMap<Key, Vec<Bfn>> {
        let mut out = BTreeMap::<_, Vec<Bfn>>::new();
        for ((bfn, ioserver), domid) in &self.mapped {
            out.entry((*domid, *ioserver)).or_default().push(*bfn);
        }
        out
    }

    pub(super) fn own(&self) -> Vec<Bfn> {
        self.own.iter().copied().collect()
    }

    /// Tells the ledger what is about to be sent. After an error nothing may be.
    pub(super) fn announce(&self, ops: &[pv_iommu_op]) -> Result<Announced, Errno> {
        let mut out = Announced::default();
        let Some(ledger) = &self.ledger else { return Ok(out) };
        let places_of = |subop| {
            let mut by_peer = BTreeMap::<_, Vec<usize>>::new();
            for (i, op) in ops.iter().enumerate().filter(|(_, op)| op.subop_id == subop) {
                by_peer.entry((DomId(op.domid), IoServerId(op.ioserver))).or_default().push(i);
            }
            by_peer
        };
        for ((domid, ioserver), places) in places_of(IOMMUOP_lookup_foreign_page) {
            let peer = Peer { domid, ioserver };
            let gfns: Vec<Gfn> = at(ops, &places).map(|op| Gfn(op.gfn)).collect();
            out.lookups.push((peer, ledger.intend(peer, &gfns)?, places));
        }
        // Where the client chooses the bus frame it is known in advance, and unmapping it is no mistake.
        for ((domid, ioserver), places) in places_of(IOMMUOP_map_foreign_page) {
            let pairs: Vec<_> = at(ops, &places).map(|op| (Gfn(op.gfn), Bfn(op.bfn))).collect();
            ledger.hold(Peer { domid, ioserver }, &pairs)?;
        }
        let own: Vec<usize> = places_of(IOMMUOP_map_page).into_values().flatten().collect();
        if !own.is_empty() {
            let pairs: Vec<_> = at(ops, &own).map(|op| (Gfn(op.gfn), Bfn(op.bfn))).collect();
            out.own = Some((ledger.intend_own(&pairs)?, own));
        }
        Ok(out)
    }

    /// What became of it. What may or may not have been done counts as mapped, where unmapping it is no mistake.
    pub(super) fn settle(&mut self, announced: Announced, ops: &[pv_iommu_op], answers: &[Answer]) {
        if let Some(ledger) = &self.ledger {
            let answers_at = |places: &[usize]| -> Vec<Answer> {
                places.iter().filter_map(|i| answers.get(*i)).copied().collect()
            };
            for (peer, seqs, places) in announced.lookups {
                let gfns: Vec<Gfn> = at(ops, &places).map(|op| Gfn(op.gfn)).collect();
                ledger.answered(seqs, peer, &gfns, &answers_at(&places));
            }
            if let Some((seqs, places)) = announced.own {
                let pairs: Vec<_> = at(ops, &places).map(|op| (Gfn(op.gfn), Bfn(op.bfn))).collect();
                ledger.answered_own(seqs, &pairs, &answers_at(&places));
            }
        }
        let mut gone = Gone::default();
        for (op, answer) in ops.iter().zip(answers) {
            self.enter(op, *answer, &mut gone);
        }
        self.forget(&gone);
    }

    fn enter(&mut self, op: &pv_iommu_op, answer: Answer, gone: &mut Gone) {
        let (bfn, ioserver, domid) = (Bfn(op.bfn), IoServerId(op.ioserver), DomId(op.domid));
        match op.subop_id {
            IOMMUOP_map_foreign_page if !matches!(answer, Answer::Refused(_)) => {
                self.mapped.insert((bfn, ioserver), domid);
            }
            // Announced as if it were there.
            IOMMUOP_map_foreign_page if !self.has(&(bfn, ioserver)) => {
                gone.foreign.entry((domid, ioserver)).or_default().push(bfn);
            }
            IOMMUOP_lookup_foreign_page => {
                if let Answer::Done(bfn) | Answer::Unsure(bfn, _) = answer {
                    self.mapped.insert((bfn, ioserver), domid);
                }
            }
            IOMMUOP_map_page if matches!(answer, Answer::Done(_) | Answer::Unsure(..)) => {
                self.own.insert(bfn);
            }
            IOMMUOP_unmap_foreign_page if answer.is_gone() => {
                let place = unmapped(op);
                if let Some(domid) = self.mapped.remove(&place) {
                    gone.foreign.entry((domid, place.1)).or_default().push(place.0);
                }
            }
            IOMMUOP_unmap_page if answer.is_gone() => {
                self.own.remove(&bfn);
                gone.own.push(bfn);
            }
            _ => {}
        }
    }

    /// Foreign mappings of a domain and a server are undone.
    pub(super) fn gone(&mut self, (domid, ioserver): Key, bfns: Vec<Bfn>) {
        bfns.iter().for_each(|bfn| {
            self.mapped.remove(&(*bfn, ioserver));
        });
        self.forget(&Gone { foreign: BTreeMap::from([((domid, ioserver), bfns)]), own: Vec::new() });
    }

    /// Own frames are unmapped.
    pub(super) fn own_gone(&mut self, bfns: Vec<Bfn>) {
        bfns.iter().for_each(|bfn| {
            self.own.remove(bfn);
        });
        self.forget(&Gone { foreign: BTreeMap::new(), own: bfns });
    }

    fn forget(&self, gone: &Gone) {
        let Some(ledger) = &self.ledger else { return };
        for ((domid, ioserver), bfns) in &gone.foreign {
            ledger.gone(Peer { domid: *domid, ioserver: *ioserver }, bfns.iter().copied());
        }
        ledger.own_gone(gone.own.iter().copied());
    }
}

/// The operations at these places.
fn at<'a>(ops: &'a [pv_iommu_op], places: &'a [usize]) -> impl Iterator<Item = &'a pv_iommu_op> {
    places.iter().filter_map(|i| ops.get(*i))
}

/// What an unmap_foreign_page names.
pub(super) fn unmapped(op: &pv_iommu_op) -> Place {
    (Bfn(op.bfn), IoServerId(op.unmap_ioserver()))
}
