//! What the records of a ledger come to: what is held, and what nobody knows.
//!
//! Answers name what they answer, so their order among guests does not matter; for one guest records stand in the
//! order of events, since its slow path is one at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use xen_ioreq::{Bfn, DomId, Gfn, IoServerId};

use super::record::Record;
use crate::wire::Peer;

/// Domain and server, in an order.
type Key = (DomId, IoServerId);

/// The sum of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Book {
    /// References: where, and for which guest frame.
    pub(crate) known: HashMap<(Key, Bfn), Gfn>,
    /// Lookups of which nobody knows whether they were carried out.
    pub(crate) adrift: BTreeSet<(Key, Gfn)>,
    /// Such that were not found later.
    pub(crate) lost: BTreeSet<(Key, Gfn)>,
    /// Own frames: where, and which.
    pub(crate) own: BTreeMap<Bfn, Gfn>,
    /// Own frames of which nobody knows whether they are mapped.
    pub(crate) own_adrift: BTreeMap<Bfn, Gfn>,
    /// What was announced and is not answered yet.
    open: HashMap<u32, Record>,
}

fn key(peer: Peer) -> Key {
    (peer.domid, peer.ioserver)
}

fn peer((domid, ioserver): Key) -> Peer {
    Peer { domid, ioserver }
}

impl Book {
    /// Enters the next record.
    pub(crate) fn enter(&mut self, record: Record) {
        match record {
            Record::Intent { seq, .. } | Record::Asking { seq, .. } | Record::OwnIntent { seq, .. } => {
                if let Some(old) = self.open.insert(seq, record) {
                    self.give_up(old);
                }
            }
            Record::Known { seq, peer, gfn, bfn } => {
                self.open.remove(&seq);
                self.known.insert((key(peer), bfn), gfn);
            }
            Record::Nothing { seq } => {
                self.open.remove(&seq);
            }
            Record::Adrift { seq, peer, gfn } => {
                self.open.remove(&seq);
                self.adrift.insert((key(peer), gfn));
            }
            Record::Gone { peer, bfn } => {
                self.known.remove(&(key(peer), bfn));
            }
            Record::Found { peer, gfn, bfn } => {
                self.adrift.remove(&(key(peer), gfn));
                self.known.insert((key(peer), bfn), gfn);
            }
            Record::Lost { peer, gfn } => {
                self.adrift.remove(&(key(peer), gfn));
                self.lost.insert((key(peer), gfn));
            }
            Record::Own { seq, gfn, bfn } => {
                self.open.remove(&seq);
                self.own_adrift.remove(&bfn);
                self.own.insert(bfn, gfn);
            }
            Record::OwnAdrift { seq, gfn, bfn } => {
                self.open.remove(&seq);
                self.own_adrift.insert(bfn, gfn);
            }
            Record::OwnGone { bfn } => {
                self.own.remove(&bfn);
                self.own_adrift.remove(&bfn);
            }
        }
    }

    /// The life that wrote it has ended: nothing will be answered any more.
    pub(crate) fn end_life(&mut self) {
        for (_, record) in std::mem::take(&mut self.open) {
            self.give_up(record);
        }
    }

    /// What was announced will not be answered.
    fn give_up(&mut self, announced: Record) {
        match announced {
            Record::Intent { peer, gfn, .. } => {
                self.adrift.insert((key(peer), gfn));
            }
            Record::Asking { peer, first, last, .. } => {
                let mine = self.known.iter().filter(|((k, _), _)| *k == key(peer));
                let asked = mine.filter(|(_, gfn)| (first..=last).contains(gfn));
                self.adrift.extend(asked.map(|((k, _), gfn)| (*k, *gfn)));
            }
            Record::OwnIntent { gfn, bfn, .. } => {
                self.own_adrift.insert(bfn, gfn);
            }
            _ => {}
        }
    }

    /// The shortest log that comes to the same.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let known = self.known.iter().map(|((k, bfn), gfn)| Record::Known {
            seq: 0,
            peer: peer(*k),
            gfn: *gfn,
            bfn: *bfn,
        });
        let adrift = self.adrift.iter().map(|(k, gfn)| Record::Adrift { seq: 0, peer: peer(*k), gfn: *gfn });
        let lost = self.lost.iter().map(|(k, gfn)| Record::Lost { peer: peer(*k), gfn: *gfn });
        let own = self.own.iter().map(|(bfn, gfn)| Record::Own { seq: 0, gfn: *gfn, bfn: *bfn });
        let own_adrift =
            self.own_adrift.iter().map(|(bfn, gfn)| Record::OwnAdrift { seq: 0, gfn: *gfn, bfn: *bfn });
        let open = self.open.values().copied();
        // A lost entry takes an adrift one of the same guest frame away, and an own one an adrift one: those come first.
        lost.chain(adrift).chain(known).chain(own).chain(own_adrift).chain(open)
    }
}
