//! What happened to a frame, for the reports of the oracle: a short ring for each frame that was ever used.

use std::fmt;

use xen_ioreq::{Bfn, DomId, Gfn};

use crate::frames::GrantUse;

/// Events that a frame remembers.
const DEPTH: usize = 16;

/// Something that happened to a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Allocated { owner: DomId },
    Populated { owner: DomId, gfn: Gfn },
    Replaced { owner: DomId, gfn: Gfn },
    BalloonedOut { owner: DomId, gfn: Gfn },
    OwnerDestroyed { owner: DomId },
    AllocationDropped { owner: DomId },
    HostMapped { by: DomId },
    HostUnmapped { by: DomId },
    BusMapped { by: DomId, bfn: Bfn },
    BusUnmapped { by: DomId, bfn: Bfn },
    Registered { by: DomId, bfn: Bfn, ioserver: u16 },
    Deregistered { by: DomId, bfn: Bfn, ioserver: u16 },
    LookedUp { by: DomId, bfn: Bfn },
    LookupEnded { by: DomId, bfn: Bfn },
    SwappedOut { by: DomId, bfn: Bfn },
    FlushDue { by: DomId, bfn: Bfn },
    Flushed { by: DomId, bfn: Bfn },
    Notified { owner: DomId, bfn: Bfn, ioserver: u16 },
    Granted { by: DomId, kind: GrantUse },
    GrantEnded { by: DomId, kind: GrantUse },
    TablePinned,
    TableUnpinned,
    Revoked { by: DomId, from: DomId },
    Transferred { from: DomId, to: DomId },
    Freed,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Allocated { owner } => write!(f, "allocated to {owner}"),
            Self::Populated { owner, gfn } => write!(f, "put behind gfn {gfn} of {owner}"),
            Self::Replaced { owner, gfn } => {
                write!(f, "replaced behind gfn {gfn} of {owner} by another frame")
            }
            Self::BalloonedOut { owner, gfn } => write!(f, "ballooned out, was gfn {gfn} of {owner}"),
            Self::OwnerDestroyed { owner } => write!(f, "owner {owner} destroyed"),
            Self::AllocationDropped { owner } => write!(f, "{owner} gave up its allocation"),
            Self::HostMapped { by } => write!(f, "mapped by the CPU of {by}"),
            Self::HostUnmapped { by } => write!(f, "unmapped by the CPU of {by}"),
            Self::BusMapped { by, bfn } => write!(f, "mapped for devices of {by} at bfn {bfn}"),
            Self::BusUnmapped { by, bfn } => write!(f, "unmapped for devices of {by} at bfn {bfn}"),
            Self::Registered { by, bfn, ioserver } => {
                write!(f, "M2B entry ({bfn}, {by}, ios{ioserver}) added")
            }
            Self::Deregistered { by, bfn, ioserver } => {
                write!(f, "M2B entry ({bfn}, {by}, ios{ioserver}) removed")
            }
            Self::LookedUp { by, bfn } => write!(f, "looked up by {by} at bfn {bfn}"),
            Self::LookupEnded { by, bfn } => write!(f, "lookup by {by} at bfn {bfn} undone"),
            Self::SwappedOut { by, bfn } => {
                write!(f, "a scratch frame took its place at bfn {bfn} of {by}")
            }
            Self::FlushDue { by, bfn } => write!(f, "bfn {bfn} of {by} waits for the IOTLB's flush"),
            Self::Flushed { by, bfn } => write!(f, "IOTLB of {by} flushed after bfn {bfn}"),
            Self::Notified { owner, bfn, ioserver } => {
                write!(f, "INVALIDATE of bfn {bfn} sent to ios{ioserver} of {owner}")
            }
            Self::Granted { by, kind } => write!(f, "grant used by {by}: {kind:?}"),
            Self::GrantEnded { by, kind } => write!(f, "use of the grant by {by} ended: {kind:?}"),
            Self::TablePinned => write!(f, "made a page table"),
            Self::TableUnpinned => write!(f, "no page table any more"),
            Self::Revoked { by, from } => write!(f, "{by} took its grant back from {from}"),
            Self::Transferred { from, to } => write!(f, "transferred from {from} to {to}"),
            Self::Freed => write!(f, "freed"),
        }
    }
}

/// The last events of one frame, each with its place in the machine's order of events.
#[derive(Debug, Default)]
pub(crate) struct History {
    ring: Option<Box<Ring>>,
}

#[derive(Debug)]
struct Ring {
    events: [Option<(u64, Event)>; DEPTH],
    next: usize,
}

impl History {
    pub(crate) fn push(&mut self, seq: u64, event: Event) {
        let ring = self.ring.get_or_insert_with(|| Box::new(Ring { events: [None; DEPTH], next: 0 }));
        if let Some(slot) = ring.events.get_mut(ring.next) {
            *slot = Some((seq, event));
        }
        ring.next = (ring.next + 1) % DEPTH;
    }

    /// Oldest first, one line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Some(ring) = &self.ring else { return Vec::new() };
        let (new, old) = ring.events.split_at(ring.next);
        old.iter().chain(new).flatten().map(|(seq, e)| format!("#{seq} {e}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_history_keeps_the_newest_events_in_order() {
        let mut h = History::default();
        for i in 0..DEPTH as u64 + 3 {
            h.push(i, Event::Populated { owner: DomId(1), gfn: Gfn(i) });
        }
        let lines = h.lines();
        assert_eq!(lines.len(), DEPTH);
        assert_eq!(lines.first().map(String::as_str), Some("#3 put behind gfn 0x3 of d1"));
        assert_eq!(lines.last().map(String::as_str), Some("#18 put behind gfn 0x12 of d1"));
    }
}
