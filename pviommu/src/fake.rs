//! A hypervisor small enough to be obviously right, for unit tests: frames with an owner and a count, a p2m a guest,
//! and `iommu_op` as the draft says it, as it was shipped, or not at all.

#![allow(non_upper_case_globals, reason = "the names of Xen's headers, matched on")]

use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use xen_ioreq::abi::iommu_op::*;
use xen_ioreq::seam::{ForeignMap, ForeignPages, IommuOp, Mapping, MappingOwner, Prot};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, PAGE_SIZE};

use crate::DeviceFlush;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Draft,
    Shipped,
    Stock,
}

/// Offset of the 1:1 map of the shipped kind.
pub(crate) const OFFSET: u64 = 0x3e0_0000;

#[derive(Default)]
struct State {
    /// Of each frame: its owner and how many references keep it; gone when there are none.
    frames: BTreeMap<u64, (DomId, u32)>,
    p2m: BTreeMap<(DomId, Gfn), u64>,
    /// Draft: (bfn) → (mfn, ioserver). Shipped: mfns with the flag.
    m2b: BTreeMap<u64, (u64, u16)>,
    own: BTreeMap<u64, u64>,
    flagged: BTreeSet<u64>,
    next_mfn: u64,
    /// Sub-operations received.
    seen: Vec<u16>,
    calls: usize,
    /// BFNs of the caller's reserved regions, and such that something else is mapped at.
    reserved: BTreeSet<u64>,
    taken: BTreeSet<u64>,
    /// BFNs at which the unit fails; all of them with `unit_broken`.
    bad: BTreeSet<u64>,
    unit_broken: bool,
    /// Errors for calls to come: after so many operations, this rc.
    fail: Option<(usize, Errno)>,
    /// Whether the last operation before that is not said to be done.
    unsaid: bool,
    /// Errors for unmap operations to come.
    unmap_fails: Option<Errno>,
    foreign_fails: Option<Errno>,
    /// Whether foreign mappings made together hold all their frames to the last.
    together: bool,
}

pub(crate) struct Fake {
    kind: Kind,
    s: Mutex<State>,
}

impl Fake {
    pub(crate) fn new(kind: Kind) -> Arc<Self> {
        Arc::new(Self { kind, s: Mutex::new(State { next_mfn: 100, ..State::default() }) })
    }

    pub(crate) fn populate(&self, domid: DomId, gfn: Gfn) {
        let mut s = self.s.lock();
        let mfn = s.next_mfn;
        s.next_mfn += 1;
        s.frames.insert(mfn, (domid, 1));
        s.p2m.insert((domid, gfn), mfn);
    }

    pub(crate) fn balloon_out(&self, domid: DomId, gfn: Gfn) {
        let mut s = self.s.lock();
        let mfn = s.p2m.remove(&(domid, gfn)).expect("a populated gfn");
        s.put(mfn);
    }

    /// The guest moves a frame to another gfn.
    pub(crate) fn move_frame(&self, domid: DomId, from: Gfn, to: Gfn) {
        let mut s = self.s.lock();
        let mfn = s.p2m.remove(&(domid, from)).expect("a populated gfn");
        s.p2m.insert((domid, to), mfn);
    }

    pub(crate) fn kill(&self, domid: DomId) {
        let mut s = self.s.lock();
        let mfns: Vec<u64> = s.p2m.range((domid, Gfn(0))..=(domid, Gfn(u64::MAX))).map(|(_, m)| *m).collect();
        s.p2m.retain(|(d, _), _| *d != domid);
        for mfn in mfns {
            s.put(mfn);
        }
        if self.kind == Kind::Shipped {
            let flagged: Vec<u64> =
                s.flagged.iter().copied().filter(|m| s.owner(*m) == Some(domid)).collect();
            for mfn in flagged {
                s.flagged.remove(&mfn);
                s.put(mfn);
            }
        }
    }

    /// Frames that are not free.
    pub(crate) fn frames(&self) -> usize {
        self.s.lock().frames.len()
    }

    pub(crate) fn seen(&self, subop: u16) -> usize {
        self.s.lock().seen.iter().filter(|s| **s == subop).count()
    }

    pub(crate) fn calls(&self) -> usize {
        self.s.lock().calls
    }

    pub(crate) fn reserve(&self, bfn: Bfn) {
        self.s.lock().reserved.insert(bfn.0);
    }

    pub(crate) fn take(&self, bfn: Bfn) {
        self.s.lock().taken.insert(bfn.0);
    }

    pub(crate) fn unit_fails_at(&self, bfn: Bfn) {
        self.s.lock().bad.insert(bfn.0);
    }

    pub(crate) fn unit_broken(&self, broken: bool) {
        self.s.lock().unit_broken = broken;
    }

    pub(crate) fn fail_after(&self, ops: usize, errno: Errno) {
        self.s.lock().fail = Some((ops, errno));
    }

    /// As [`fail_after`](Self::fail_after), and of the last of these operations nobody is told.
    pub(crate) fn fail_unsaid(&self, ops: usize, errno: Errno) {
        let mut s = self.s.lock();
        (s.fail, s.unsaid) = (Some((ops, errno)), true);
    }

    pub(crate) fn unmap_fails(&self, errno: Option<Errno>) {
        self.s.lock().unmap_fails = errno;
    }

    /// As on a Linux that does not split mappings.
    pub(crate) fn maps_together(&self) {
        self.s.lock().together = true;
    }

    pub(crate) fn foreign_fails(&self, errno: Option<Errno>) {
        self.s.lock().foreign_fails = errno;
    }

    /// The frame that a device reaches at `bfn`, which must be alive and is then (owner, mfn).
    pub(crate) fn dma(&self, bfn: Bfn) -> Option<(DomId, u64)> {
        let s = self.s.lock();
        let mfn = match self.kind {
            Kind::Draft => s.m2b.get(&bfn.0).map(|(m, _)| *m)?,
            Kind::Shipped => bfn.0.checked_sub(OFFSET)?,
            Kind::Stock => return None,
        };
        Some((s.owner(mfn).expect("a device reached a free frame"), mfn))
    }

    /// Whose a frame is that is not free.
    pub(crate) fn owner(&self, mfn: u64) -> Option<DomId> {
        self.s.lock().owner(mfn)
    }

    pub(crate) fn mfn(&self, domid: DomId, gfn: Gfn) -> Option<u64> {
        self.s.lock().p2m.get(&(domid, gfn)).copied()
    }
}

impl State {
    fn owner(&self, mfn: u64) -> Option<DomId> {
        self.frames.get(&mfn).map(|(d, _)| *d)
    }

    fn get(&mut self, mfn: u64) {
        self.frames.get_mut(&mfn).expect("a live frame").1 += 1;
    }

    fn put(&mut self, mfn: u64) {
        let n = &mut self.frames.get_mut(&mfn).expect("a live frame").1;
        *n -= 1;
        if *n == 0 {
            self.frames.remove(&mfn);
        }
    }

    fn draft(&mut self, op: &mut pv_iommu_op) -> Result<(), Errno> {
        match op.subop_id {
            IOMMUOP_query_caps => op.flags = IOMMU_QUERY_map_cap | 9 << IOMMU_page_order_shift,
            IOMMUOP_map_page => {
                if self.m2b.contains_key(&op.bfn) || self.own.contains_key(&op.bfn) {
                    return Err(Errno::EPERM);
                }
                self.own.insert(op.bfn, op.gfn);
            }
            IOMMUOP_unmap_page => {
                self.own.remove(&op.bfn).ok_or(Errno::ENOENT)?;
            }
            IOMMUOP_map_foreign_page => {
                let mfn = *self.p2m.get(&(DomId(op.domid), Gfn(op.gfn))).ok_or(Errno::ENXIO)?;
                if self.reserved.contains(&op.bfn) {
                    return Err(Errno::EACCES);
                }
                match self.m2b.get(&op.bfn) {
                    Some(entry) if *entry == (mfn, op.ioserver) => {}
                    Some(_) => return Err(Errno::EPERM),
                    None if self.taken.contains(&op.bfn) => return Err(Errno::EPERM),
                    None if self.unit_broken || self.bad.contains(&op.bfn) => return Err(Errno::EIO),
                    None => {
                        self.get(mfn);
                        self.m2b.insert(op.bfn, (mfn, op.ioserver));
                    }
                }
            }
            IOMMUOP_unmap_foreign_page => {
                if let Some(e) = self.unmap_fails {
                    return Err(e);
                }
                match self.m2b.get(&op.bfn) {
                    Some(&(mfn, ioserver)) if ioserver == op.unmap_ioserver() => {
                        self.m2b.remove(&op.bfn);
                        self.put(mfn);
                    }
                    _ => return Err(Errno::ENOENT),
                }
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn shipped(&mut self, op: &mut pv_iommu_op) -> Result<(), Errno> {
        match op.subop_id {
            IOMMUOP_query_caps => {
                op.flags = IOMMU_QUERY_map_cap | IOMMU_QUERY_map_all_mfns;
                op.bfn = OFFSET;
            }
            IOMMUOP_lookup_foreign_page => {
                let mfn = *self.p2m.get(&(DomId(op.domid), Gfn(op.gfn))).ok_or(Errno::ENXIO)?;
                if self.flagged.insert(mfn) {
                    self.get(mfn);
                }
                op.bfn = mfn + OFFSET;
            }
            IOMMUOP_unmap_foreign_page => {
                if let Some(e) = self.unmap_fails {
                    return Err(e);
                }
                let mfn =
                    op.bfn.checked_sub(OFFSET).filter(|m| *m < self.next_mfn).expect("this panics the host");
                if !self.flagged.remove(&mfn) {
                    return Err(Errno::ENOENT);
                }
                self.put(mfn);
            }
            IOMMUOP_map_foreign_page => panic!("this panics the host"),
            _ => return Err(Errno::ENODEV),
        }
        Ok(())
    }
}

impl IommuOp for Fake {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        let mut s = self.s.lock();
        s.calls += 1;
        if self.kind == Kind::Stock {
            return Err(Errno::ENOSYS);
        }
        let fail = s.fail.take();
        let unsaid = std::mem::take(&mut s.unsaid).then_some(fail).flatten().map(|(after, _)| after);
        for (i, op) in ops.iter_mut().enumerate() {
            if let Some((after, errno)) = fail
                && i == after
            {
                return Err(errno);
            }
            s.seen.push(op.subop_id);
            let r = if self.kind == Kind::Draft { s.draft(op) } else { s.shipped(op) };
            if unsaid != Some(i + 1) {
                op.status = r.err().map_or(0, |e| e.status());
            }
        }
        match fail {
            Some((_, errno)) => Err(errno),
            None => Ok(()),
        }
    }
}

type Page = [AtomicU64; PAGE_SIZE / 8];

/// Pages of a foreign mapping: the content of each is its frame's number, as the fake has no memory behind frames, and 0
/// once it is unmapped.
struct Pages {
    fake: Arc<Fake>,
    memory: Box<[Page]>,
    mfns: Vec<Option<u64>>,
    /// Pages that are not released, if frames are held until there are none.
    together: Option<AtomicUsize>,
}

impl Pages {
    fn unmap(&self, first: usize, count: usize) {
        let mut s = self.fake.s.lock();
        self.memory[first..first + count].iter().for_each(|page| page[0].store(0, Ordering::SeqCst));
        self.mfns[first..first + count].iter().flatten().for_each(|mfn| s.put(*mfn));
    }
}

#[expect(unsafe_code, reason = "the contract between a mapping and who made it")]
mod owner {
    use super::{MappingOwner, Ordering, Pages};

    // SAFETY: the memory lives as long as this, which outlives every page of the mapping.
    unsafe impl MappingOwner for Pages {
        fn release(&self, first: usize, count: usize) {
            match &self.together {
                None => self.unmap(first, count),
                Some(left) if left.fetch_sub(count, Ordering::SeqCst) == count => {
                    self.unmap(0, self.mfns.len())
                }
                Some(_) => {}
            }
        }
    }
}

/// The port for foreign mappings.
pub(crate) struct Foreign(pub(crate) Arc<Fake>);

impl ForeignMap for Foreign {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], _prot: Prot) -> Result<ForeignPages, Errno> {
        self.map(domid, gfns, false)
    }

    fn map_foreign_together(&self, domid: DomId, gfns: &[Gfn], _: Prot) -> Result<ForeignPages, Errno> {
        let together = self.0.s.lock().together;
        self.map(domid, gfns, together)
    }
}

impl Foreign {
    fn map(&self, domid: DomId, gfns: &[Gfn], together: bool) -> Result<ForeignPages, Errno> {
        let mut s = self.0.s.lock();
        s.calls += 1;
        if let Some(e) = s.foreign_fails {
            return Err(e);
        }
        let mfns: Vec<Option<u64>> = gfns.iter().map(|g| s.p2m.get(&(domid, *g)).copied()).collect();
        mfns.iter().flatten().for_each(|m| s.get(*m));
        let page = |m: &Option<u64>| -> Page { std::array::from_fn(|_| AtomicU64::new(m.unwrap_or(0))) };
        let memory: Box<[Page]> = mfns.iter().map(page).collect();
        let base = NonNull::new(memory.as_ptr().cast_mut().cast::<u8>()).ok_or(Errno::EINVAL)?;
        let errors = mfns.iter().map(|m| m.is_none().then_some(Errno::EINVAL)).collect();
        let owner = Arc::new(Pages {
            fake: self.0.clone(),
            memory,
            mfns,
            together: together.then(|| AtomicUsize::new(gfns.len())),
        });
        assert_eq!(owner.memory.len(), gfns.len());
        Ok(ForeignPages { mapping: Mapping::new(base, gfns.len(), owner), errors })
    }
}

/// A device that counts how often it was flushed and may do something then.
#[derive(Default)]
pub(crate) struct Gpu {
    pub(crate) flushes: Mutex<usize>,
}

impl DeviceFlush for Gpu {
    fn flush(&self) {
        *self.flushes.lock() += 1;
    }
}
