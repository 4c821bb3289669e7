//! Which ranges of the guest's address spaces a server has claimed, here and in Xen, always the same in both.
//!
//! Xen joins ranges that touch and allows 256 of the joined ones in each space; so does the count here, which turns
//! the limit into an error that says so before Xen is asked.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;
use xen_ioreq::{DomId, IoServerId};

use crate::device::Space;
use crate::dm::{Dm, DmError};

/// Ranges of one kind that a server may have (Xen's `MAX_NR_IO_RANGES`).
pub const MAX_RANGES: usize = 256;

/// A range that could not be claimed or released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// `last` is before `start`.
    #[error("{space} {start:#x}-{last:#x} is not a range")]
    Empty {
        /// Space.
        space: Space,
        /// First address.
        start: u64,
        /// Last address.
        last: u64,
    },
    /// Part of it is claimed already.
    #[error("{space} {start:#x}-{last:#x} overlaps {with_start:#x}-{with_last:#x}")]
    Overlap {
        /// Space.
        space: Space,
        /// First address.
        start: u64,
        /// Last address.
        last: u64,
        /// First address of what is there.
        with_start: u64,
        /// Last address of what is there.
        with_last: u64,
    },
    /// It was not claimed as a whole.
    #[error("{space} {start:#x}-{last:#x} is not a claimed range")]
    Unknown {
        /// Space.
        space: Space,
        /// First address.
        start: u64,
        /// Last address.
        last: u64,
    },
    /// Xen's limit.
    #[error("{domid} {server}: no room for {space} {start:#x}-{last:#x}: 256 ranges of that kind are in use")]
    Full {
        /// The guest.
        domid: DomId,
        /// The server.
        server: IoServerId,
        /// Space.
        space: Space,
        /// First address.
        start: u64,
        /// Last address.
        last: u64,
    },
    /// Xen joins ranges that touch, and giving this one back would leave two where its limit allows one.
    #[error(
        "{domid} {server}: {space} {start:#x}-{last:#x} cannot be given back alone: it would leave more than 256 ranges of that kind"
    )]
    Splits {
        /// The guest.
        domid: DomId,
        /// The server.
        server: IoServerId,
        /// Space.
        space: Space,
        /// First address.
        start: u64,
        /// Last address.
        last: u64,
    },
    /// Xen refused.
    #[error("{server}, {space} {start:#x}-{last:#x}: {source}")]
    Xen {
        /// The server.
        server: IoServerId,
        /// Space.
        space: Space,
        /// First address.
        start: u64,
        /// Last address.
        last: u64,
        /// The operation that failed.
        source: DmError,
    },
    /// The server has been taken down.
    #[error("the server is gone")]
    Gone,
}

/// Where a bus claims the ranges of its devices.
pub trait RangeClaims: Send + Sync {
    /// Makes accesses to `start ..= last` come here. After an error nothing has changed.
    fn claim(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError>;
    /// Gives a claimed range back. After an error it is still claimed, except after [`ClaimError::Gone`].
    fn release(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError>;
}

#[derive(Debug, Default)]
struct Ledger {
    /// Start to last.
    spaces: [BTreeMap<u64, u64>; 3],
    closed: bool,
}

/// The claims of one server.
pub struct ServerClaims {
    dm: Dm,
    server: IoServerId,
    ledger: Mutex<Ledger>,
}

impl ServerClaims {
    pub(crate) fn new(dm: Dm, server: IoServerId) -> Self {
        Self { dm, server, ledger: Mutex::default() }
    }

    /// Whether an address is in a range.
    pub(crate) fn covers(&self, space: Space, addr: u64) -> bool {
        let ledger = self.ledger.lock();
        let before = ledger.spaces[space as usize].range(..=addr).next_back();
        before.is_some_and(|(_, last)| *last >= addr)
    }

    /// Releases everything and refuses what comes later. Errors are dropped: the server is destroyed next, and its
    /// ranges with it.
    pub(crate) fn close(&self) {
        let mut ledger = self.ledger.lock();
        ledger.closed = true;
        for space in [Space::Pio, Space::Mmio, Space::Pci] {
            for (start, last) in std::mem::take(&mut ledger.spaces[space as usize]) {
                if let Err(e) = self.dm.unmap_range(self.server, space, start, last) {
                    log::debug!("{}: {e}", self.server);
                }
            }
        }
    }
}

impl RangeClaims for ServerClaims {
    fn claim(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError> {
        let mut ledger = self.ledger.lock();
        if ledger.closed {
            return Err(ClaimError::Gone);
        }
        let ranges = &mut ledger.spaces[space as usize];
        check(ranges, space, start, last)?;
        let server = self.server;
        if joined(ranges, Some((start, last))) > MAX_RANGES {
            return Err(ClaimError::Full { domid: self.dm.domid(), server, space, start, last });
        }
        self.dm.map_range(server, space, start, last).map_err(|source| ClaimError::Xen {
            server,
            space,
            start,
            last,
            source,
        })?;
        ranges.insert(start, last);
        Ok(())
    }

    fn release(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError> {
        let mut ledger = self.ledger.lock();
        if ledger.closed {
            return Err(ClaimError::Gone);
        }
        let ranges = &mut ledger.spaces[space as usize];
        if ranges.get(&start) != Some(&last) {
            return Err(ClaimError::Unknown { space, start, last });
        }
        let server = self.server;
        ranges.remove(&start);
        let left = joined(ranges, None);
        ranges.insert(start, last);
        if left > MAX_RANGES {
            return Err(ClaimError::Splits { domid: self.dm.domid(), server, space, start, last });
        }
        self.dm.unmap_range(server, space, start, last).map_err(|source| ClaimError::Xen {
            server,
            space,
            start,
            last,
            source,
        })?;
        ranges.remove(&start);
        Ok(())
    }
}

impl fmt::Debug for ServerClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerClaims")
            .field("domid", &self.dm.domid())
            .field("server", &self.server)
            .field("ledger", &*self.ledger.lock())
            .finish()
    }
}

/// Refuses what is empty or overlaps.
fn check(ranges: &BTreeMap<u64, u64>, space: Space, start: u64, last: u64) -> Result<(), ClaimError> {
    if last < start {
        return Err(ClaimError::Empty { space, start, last });
    }
    // Ranges do not overlap, so the one that starts last before `last` also ends last.
    match ranges.range(..=last).next_back() {
        Some((&with_start, &with_last)) if with_last >= start => {
            Err(ClaimError::Overlap { space, start, last, with_start, with_last })
        }
        _ => Ok(()),
    }
}

/// How many ranges there are, after those that touch are joined, with a new one among them if there is one.
fn joined(ranges: &BTreeMap<u64, u64>, new: Option<(u64, u64)>) -> usize {
    let at = new.map_or(0, |(start, _)| start);
    let all =
        ranges.range(..at).map(|(s, l)| (*s, *l)).chain(new).chain(ranges.range(at..).map(|(s, l)| (*s, *l)));
    let mut count = 0;
    let mut previous = None;
    for (start, last) in all {
        if previous.and_then(|p: u64| p.checked_add(1)) != Some(start) {
            count += 1;
        }
        previous = Some(last);
    }
    count
}

/// Claims that no hypervisor knows of: a bus that is driven by hand, in tests and benches.
#[derive(Debug, Default)]
pub struct LocalClaims(Mutex<Ledger>);

impl RangeClaims for LocalClaims {
    fn claim(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError> {
        let ranges = &mut self.0.lock().spaces[space as usize];
        check(ranges, space, start, last)?;
        ranges.insert(start, last);
        Ok(())
    }

    fn release(&self, space: Space, start: u64, last: u64) -> Result<(), ClaimError> {
        let ranges = &mut self.0.lock().spaces[space as usize];
        if ranges.get(&start) != Some(&last) {
            return Err(ClaimError::Unknown { space, start, last });
        }
        ranges.remove(&start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use xen_ioreq::Errno;
    use xen_ioreq::seam::DmOp;

    use super::*;

    /// Counts operations and fails the one that is told.
    #[derive(Default)]
    struct Script {
        calls: Mutex<Vec<u32>>,
        fail: Mutex<Option<Errno>>,
    }

    impl DmOp for Script {
        fn dm_op(&self, _: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
            self.calls.lock().push(u32::from_le_bytes(bufs[0][..4].try_into().unwrap()));
            self.fail.lock().take().map_or(Ok(()), Err)
        }
    }

    fn claims() -> (Arc<Script>, ServerClaims) {
        let script = Arc::new(Script::default());
        let claims = ServerClaims::new(Dm::new(script.clone(), DomId(5)), IoServerId(1));
        (script, claims)
    }

    #[test]
    fn overlap_is_refused_before_xen_is_asked() {
        let (script, c) = claims();
        c.claim(Space::Mmio, 0x1000, 0x1fff).unwrap();
        for (start, last) in
            [(0x1000, 0x1fff), (0, 0x1000), (0x1fff, 0x3000), (0x1200, 0x1300), (0, u64::MAX)]
        {
            assert!(matches!(c.claim(Space::Mmio, start, last), Err(ClaimError::Overlap { .. })));
        }
        assert!(matches!(c.claim(Space::Mmio, 2, 1), Err(ClaimError::Empty { .. })));
        assert_eq!(script.calls.lock().len(), 1);
        c.claim(Space::Pio, 0x1000, 0x1fff).unwrap();
        c.claim(Space::Mmio, 0x2000, 0x2fff).unwrap();
    }

    #[test]
    fn refusal_by_xen_leaves_the_range_free_and_a_failed_release_leaves_it_claimed() {
        let (script, c) = claims();
        *script.fail.lock() = Some(Errno::EPERM);
        let e = c.claim(Space::Pio, 0x10, 0x1f).unwrap_err();
        assert_eq!(e.to_string(), "ios1, ports 0x10-0x1f: d5: map_io_range_to_ioreq_server: EPERM");
        c.claim(Space::Pio, 0x10, 0x1f).unwrap();
        *script.fail.lock() = Some(Errno::ENOENT);
        assert!(c.release(Space::Pio, 0x10, 0x1f).is_err());
        assert!(matches!(c.claim(Space::Pio, 0x1f, 0x1f), Err(ClaimError::Overlap { .. })));
        c.release(Space::Pio, 0x10, 0x1f).unwrap();
        assert!(matches!(c.release(Space::Pio, 0x10, 0x1f), Err(ClaimError::Unknown { .. })));
    }

    #[test]
    fn range_257_is_refused_with_a_clear_error_but_touching_ranges_count_once() {
        let (_, c) = claims();
        for i in 0..256 {
            c.claim(Space::Mmio, i * 0x2000, i * 0x2000 + 0xfff).unwrap();
        }
        let e = c.claim(Space::Mmio, 0x100_0000, 0x100_0fff).unwrap_err();
        assert_eq!(
            e.to_string(),
            "d5 ios1: no room for memory 0x1000000-0x1000fff: 256 ranges of that kind are in use"
        );
        // Closes the gap between two, and Xen joins all three.
        c.claim(Space::Mmio, 0x1000, 0x1fff).unwrap();
        c.claim(Space::Mmio, 0x100_0000, 0x100_0fff).unwrap();
    }

    #[test]
    fn range_in_the_middle_of_joined_ones_cannot_go_where_there_is_no_room_for_what_it_leaves() {
        let (script, c) = claims();
        for i in 0..3 {
            c.claim(Space::Mmio, i * 0x1000, i * 0x1000 + 0xfff).unwrap();
        }
        for i in 1..256 {
            c.claim(Space::Mmio, i * 0x10000, i * 0x10000 + 0xfff).unwrap();
        }
        let asked = script.calls.lock().len();
        let e = c.release(Space::Mmio, 0x1000, 0x1fff).unwrap_err();
        assert!(e.to_string().starts_with("d5 ios1: memory 0x1000-0x1fff cannot be given back alone"), "{e}");
        assert_eq!(script.calls.lock().len(), asked);
        // From the end it can, and then the other end.
        c.release(Space::Mmio, 0x2000, 0x2fff).unwrap();
        c.release(Space::Mmio, 0x1000, 0x1fff).unwrap();
    }

    #[test]
    fn close_releases_everything_and_refuses_what_comes_later() {
        let (script, c) = claims();
        c.claim(Space::Mmio, 0x1000, 0x1fff).unwrap();
        c.claim(Space::Pci, 0x10, 0x10).unwrap();
        c.close();
        assert_eq!(*script.calls.lock(), [3, 3, 4, 4]);
        assert_eq!(c.claim(Space::Pio, 1, 1), Err(ClaimError::Gone));
        assert_eq!(c.release(Space::Mmio, 0x1000, 0x1fff), Err(ClaimError::Gone));
    }
}
