//! A guest's physical memory: GFN to MFN and what kind of memory it is.

use std::collections::BTreeMap;
use std::ops::Range;

use xen_ioreq::{Gfn, Mfn};

const CHUNK: usize = 512;
/// A guest frame number has at most this many bits (48 bits of address).
const GFN_BITS: u32 = 36;

/// What an access to a populated frame does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum P2mType {
    /// Ordinary RAM.
    RamRw,
    /// Writes are dropped.
    RamRo,
    /// Goes to the device model although there is a frame.
    MmioDm,
    /// Reads are RAM, writes go to the server that claimed this type.
    IoreqServer,
    /// RAM whose next write is to be noticed: it makes ordinary RAM of the frame.
    LogDirty,
    /// A frame of another domain's, by its grant. Not RAM of this domain's: only its vCPUs reach it.
    GrantRw,
    /// The same, for reading; writes are dropped.
    GrantRo,
}

impl P2mType {
    /// Whether the frame is here by a grant.
    pub(crate) fn granted(self) -> bool {
        matches!(self, Self::GrantRw | Self::GrantRo)
    }
}

#[derive(Clone, Copy, Default)]
struct Entry(u64);

impl Entry {
    fn new(mfn: Mfn, ty: P2mType) -> Self {
        let t = match ty {
            P2mType::RamRw => 1,
            P2mType::RamRo => 2,
            P2mType::MmioDm => 3,
            P2mType::IoreqServer => 4,
            P2mType::LogDirty => 5,
            P2mType::GrantRw => 6,
            P2mType::GrantRo => 7,
        };
        Self(mfn.0 << 3 | t)
    }

    fn get(self) -> Option<(Mfn, P2mType)> {
        let ty = match self.0 & 7 {
            1 => P2mType::RamRw,
            2 => P2mType::RamRo,
            3 => P2mType::MmioDm,
            4 => P2mType::IoreqServer,
            5 => P2mType::LogDirty,
            6 => P2mType::GrantRw,
            7 => P2mType::GrantRo,
            _ => return None,
        };
        Some((Mfn(self.0 >> 3), ty))
    }
}

/// The table.
#[derive(Default)]
pub(crate) struct P2m {
    chunks: BTreeMap<u64, Box<[Entry; CHUNK]>>,
    /// Frames whose writes are tracked.
    tracked: Option<Range<u64>>,
    /// Frames of the type that a server claims.
    for_server: usize,
}

fn split(gfn: Gfn) -> (u64, usize) {
    #[allow(clippy::cast_possible_truncation, reason = "below 512")]
    let low = (gfn.0 % CHUNK as u64) as usize;
    (gfn.0 / CHUNK as u64, low)
}

impl P2m {
    /// Whether a frame may ever be put at `gfn`.
    pub(crate) fn addressable(gfn: Gfn) -> bool {
        gfn.0 >> GFN_BITS == 0
    }

    pub(crate) fn get(&self, gfn: Gfn) -> Option<(Mfn, P2mType)> {
        let (chunk, low) = split(gfn);
        self.chunks.get(&chunk)?.get(low)?.get()
    }

    /// The frame at `gfn` if it is memory of the domain's own, of some kind (not `MmioDm`, not by a grant).
    pub(crate) fn ram(&self, gfn: Gfn) -> Option<(Mfn, P2mType)> {
        self.get(gfn).filter(|(_, t)| *t != P2mType::MmioDm && !t.granted())
    }

    /// The frame at `gfn` if a vCPU's access ends there.
    pub(crate) fn within_reach(&self, gfn: Gfn) -> Option<(Mfn, P2mType)> {
        self.get(gfn).filter(|(_, t)| *t != P2mType::MmioDm)
    }

    /// Puts a frame at `gfn`, which must be [`addressable`](Self::addressable); returns what was there.
    pub(crate) fn set(&mut self, gfn: Gfn, mfn: Mfn, ty: P2mType) -> Option<Mfn> {
        let (chunk, low) = split(gfn);
        let chunk = self.chunks.entry(chunk).or_insert_with(|| Box::new([Entry::default(); CHUNK]));
        let old = std::mem::replace(chunk.get_mut(low)?, Entry::new(mfn, ty)).get();
        self.for_server += usize::from(ty == P2mType::IoreqServer);
        self.went(old)
    }

    /// Notes that this is not there any more.
    fn went(&mut self, old: Option<(Mfn, P2mType)>) -> Option<Mfn> {
        let (mfn, ty) = old?;
        self.for_server -= usize::from(ty == P2mType::IoreqServer);
        Some(mfn)
    }

    /// Frames whose writes go to the server that has claimed their type, or wait until somebody has.
    pub(crate) fn for_server(&self) -> usize {
        self.for_server
    }

    pub(crate) fn remove(&mut self, gfn: Gfn) -> Option<Mfn> {
        let (chunk, low) = split(gfn);
        let old = std::mem::take(self.chunks.get_mut(&chunk)?.get_mut(low)?).get();
        self.went(old)
    }

    /// The highest populated GFN.
    pub(crate) fn max_gfn(&self) -> Option<Gfn> {
        self.chunks.iter().rev().find_map(|(c, entries)| {
            let low = entries.iter().rposition(|e| e.get().is_some())?;
            Some(Gfn(c * CHUNK as u64 + low as u64))
        })
    }

    /// The lowest GFN at which a frame stands. Looks through everything.
    pub(crate) fn find(&self, mfn: Mfn) -> Option<Gfn> {
        self.chunks.iter().find_map(|(c, entries)| {
            let low = entries.iter().position(|e| e.get().is_some_and(|(m, _)| m == mfn))?;
            Some(Gfn(c * CHUNK as u64 + low as u64))
        })
    }

    /// The lowest GFN at which a frame stands as the domain's own memory. Looks through everything.
    pub(crate) fn find_ram(&self, mfn: Mfn) -> Option<Gfn> {
        self.chunks.iter().find_map(|(c, entries)| {
            let own = |e: &Entry| e.get().is_some_and(|(m, t)| m == mfn && !t.granted());
            let low = entries.iter().position(own)?;
            Some(Gfn(c * CHUNK as u64 + low as u64))
        })
    }

    /// Where frames stand by grants.
    pub(crate) fn granted(&self) -> impl Iterator<Item = Gfn> {
        self.chunks.iter().flat_map(|(c, entries)| {
            let there = entries.iter().enumerate().filter(|(_, e)| e.get().is_some_and(|(_, t)| t.granted()));
            there.map(move |(low, _)| Gfn(c * CHUNK as u64 + low as u64))
        })
    }

    /// Makes `to` of the frame at `gfn`, if it is `from`.
    pub(crate) fn retype(&mut self, gfn: Gfn, from: P2mType, to: P2mType) -> bool {
        match self.get(gfn) {
            Some((mfn, old)) if old == from => {
                self.set(gfn, mfn, to);
                true
            }
            _ => false,
        }
    }

    /// Frames whose writes are tracked.
    pub(crate) fn tracked(&self) -> Option<&Range<u64>> {
        self.tracked.as_ref()
    }

    /// Tracks writes to these frames, and to no others any more.
    pub(crate) fn track(&mut self, range: Option<Range<u64>>) {
        for gfn in self.tracked.take().into_iter().flatten() {
            self.retype(Gfn(gfn), P2mType::LogDirty, P2mType::RamRw);
        }
        self.tracked = range;
        for gfn in self.tracked.clone().into_iter().flatten() {
            self.retype(Gfn(gfn), P2mType::RamRw, P2mType::LogDirty);
        }
    }

    /// Makes RAM of all frames whose writes go to a server.
    pub(crate) fn none_for_server(&mut self) {
        for e in self.chunks.values_mut().flat_map(|c| c.iter_mut()) {
            if let Some((mfn, _)) = e.get().filter(|(_, t)| *t == P2mType::IoreqServer) {
                *e = Entry::new(mfn, P2mType::RamRw);
            }
        }
        self.for_server = 0;
    }

    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.for_server = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_found_and_what_was_removed_is_a_hole() {
        let mut p = P2m::default();
        assert_eq!(p.set(Gfn(513), Mfn(7), P2mType::RamRw), None);
        assert_eq!(p.set(Gfn(513), Mfn(8), P2mType::IoreqServer), Some(Mfn(7)));
        assert_eq!(p.get(Gfn(513)), Some((Mfn(8), P2mType::IoreqServer)));
        assert_eq!(p.max_gfn(), Some(Gfn(513)));
        assert_eq!(p.for_server(), 1);
        p.none_for_server();
        assert_eq!((p.get(Gfn(513)), p.for_server()), (Some((Mfn(8), P2mType::RamRw)), 0));
        assert!(p.retype(Gfn(513), P2mType::RamRw, P2mType::IoreqServer));
        assert_eq!(p.for_server(), 1);
        assert_eq!((p.remove(Gfn(513)), p.for_server()), (Some(Mfn(8)), 0));
        assert_eq!((p.get(Gfn(513)), p.remove(Gfn(513)), p.max_gfn()), (None, None, None));
    }

    #[test]
    fn a_frame_of_type_mmio_dm_is_not_ram() {
        let mut p = P2m::default();
        p.set(Gfn(1), Mfn(7), P2mType::MmioDm);
        assert_eq!(p.ram(Gfn(1)), None);
        assert!(!P2m::addressable(Gfn(1 << 36)));
    }
}
