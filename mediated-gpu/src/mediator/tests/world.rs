//! Frames with an owner and a count, a p2m a guest, `iommu_op` as the draft says it, and an oracle: no device holds
//! a pin on a bus frame when it is unmapped, and no frame is reached after it is free.
#![allow(non_upper_case_globals, reason = "the names of Xen's headers, matched on")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use pviommu::{Client, Ports, ProcessMemory};
use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_cap, IOMMUOP_map_foreign_page, IOMMUOP_map_page, IOMMUOP_query_caps,
    IOMMUOP_unmap_foreign_page, IOMMUOP_unmap_page, pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, DomId, Errno, Gfn, PAGE_SIZE};

use crate::bus::{BusMaster, DmaAccess, DmaFault, HeapBus, Pin};
use crate::mediator::{PageTracker, Untracked};
use pviommu::{OwnFrame, OwnFrames, OwnMemory};

/// Our own domain: where the mediator's own pages are from.
const SELF: DomId = DomId(0);

pub(super) struct World {
    heap: HeapBus,
    s: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: VecDeque<u64>,
    /// Owner and references of each frame that is not free.
    frames: BTreeMap<u64, (DomId, u32)>,
    p2m: BTreeMap<(DomId, Gfn), u64>,
    m2b: BTreeMap<u64, u64>,
    /// Bus frames whose unmapping fails.
    sticky: bool,
    pins: BTreeMap<u64, u32>,
    violations: Vec<String>,
    unmaps: u64,
    /// Frames whose next write by their guest's processors traps.
    trapped: BTreeSet<(DomId, Gfn)>,
    /// Those of which their guest's tracker believes that, which hears of no frame that goes.
    watched: BTreeSet<(DomId, Gfn)>,
    /// Those that were written.
    written: BTreeMap<DomId, Vec<Gfn>>,
    /// How often.
    traps: u64,
    /// Nothing may be trapped any more.
    no_traps: bool,
}

impl State {
    fn take(&mut self, owner: DomId) -> u64 {
        let mfn = self.free.pop_front().expect("memory");
        self.frames.insert(mfn, (owner, 1));
        mfn
    }

    fn op(&mut self, op: &mut pv_iommu_op) -> Result<(), Errno> {
        match op.subop_id {
            IOMMUOP_query_caps => op.flags = IOMMU_QUERY_map_cap,
            IOMMUOP_map_foreign_page => {
                let mfn = *self.p2m.get(&(DomId(op.domid), Gfn(op.gfn))).ok_or(Errno::ENXIO)?;
                match self.m2b.get(&op.bfn) {
                    Some(same) if *same == mfn => return Ok(()),
                    Some(_) => return Err(Errno::EPERM),
                    None => {}
                }
                self.frames.get_mut(&mfn).ok_or(Errno::EIO)?.1 += 1;
                self.m2b.insert(op.bfn, mfn);
            }
            IOMMUOP_map_page => {
                // An own frame is kept by its mapping alone.
                self.m2b.insert(op.bfn, op.gfn);
            }
            IOMMUOP_unmap_foreign_page | IOMMUOP_unmap_page => {
                if self.sticky {
                    return Err(Errno::EIO);
                }
                if let Some(n) = self.pins.get(&op.bfn).filter(|n| **n > 0) {
                    self.violations.push(format!("bus frame {:#x} unmapped with {n} pins", op.bfn));
                }
                let mfn = self.m2b.remove(&op.bfn).ok_or(Errno::ENOENT)?;
                self.unmaps += 1;
                self.put(mfn);
            }
            _ => return Err(Errno::ENOSYS),
        }
        Ok(())
    }

    fn put(&mut self, mfn: u64) {
        let Some((_, refs)) = self.frames.get_mut(&mfn) else {
            return self.violations.push(format!("frame {mfn:#x} put when free"));
        };
        *refs -= 1;
        if *refs == 0 {
            self.frames.remove(&mfn);
            self.free.push_back(mfn);
        }
    }
}

impl World {
    pub(super) fn new(frames: usize) -> Arc<Self> {
        let s = State { free: (0..frames as u64).collect(), ..State::default() };
        Arc::new(Self { heap: HeapBus::new(frames), s: Mutex::new(s) })
    }

    pub(super) fn client(self: &Arc<Self>) -> Client {
        let ports = Ports { iommu: Some(self.clone()), foreign: None };
        Client::start(ports, pviommu::Config::default()).unwrap()
    }

    pub(super) fn populate(&self, domid: DomId, gfn: Gfn) {
        let mut s = self.s.lock();
        let mfn = s.take(domid);
        assert_eq!(s.p2m.insert((domid, gfn), mfn), None);
        self.heap.write(Bfn(mfn), 0, &[0; PAGE_SIZE]);
    }

    /// The guest balloons a frame out. The bus frames that the mediator must be told of.
    pub(super) fn balloon_out(&self, domid: DomId, gfn: Gfn) -> Vec<Bfn> {
        let mut s = self.s.lock();
        let mfn = s.p2m.remove(&(domid, gfn)).expect("a populated frame");
        s.trapped.remove(&(domid, gfn));
        let bfns = s.m2b.iter().filter(|(_, m)| **m == mfn).map(|(b, _)| Bfn(*b)).collect();
        s.put(mfn);
        bfns
    }

    /// The numbers of a guest's frames.
    pub(super) fn gfns(&self, domid: DomId) -> Vec<Gfn> {
        self.s.lock().p2m.keys().filter(|(d, _)| *d == domid).map(|(_, gfn)| *gfn).collect()
    }

    /// What is in one of them.
    pub(super) fn page(&self, domid: DomId, gfn: Gfn) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE];
        self.read(domid, gfn, 0, &mut page);
        page
    }

    /// The whole domain goes.
    pub(super) fn depopulate(&self, domid: DomId) {
        let mut s = self.s.lock();
        let mfns: Vec<_> = s.p2m.iter().filter(|((d, _), _)| *d == domid).map(|(_, m)| *m).collect();
        s.p2m.retain(|(d, _), _| *d != domid);
        mfns.into_iter().for_each(|m| s.put(m));
    }

    /// The frame that a bus frame leads to.
    pub(super) fn frame_at(&self, bfn: Bfn) -> Option<u64> {
        self.s.lock().m2b.get(&bfn.0).copied()
    }

    /// The frame behind a guest's number.
    pub(super) fn mfn(&self, domid: DomId, gfn: Gfn) -> Option<u64> {
        self.s.lock().p2m.get(&(domid, gfn)).copied()
    }

    /// As the guest's CPU.
    pub(super) fn write(&self, domid: DomId, gfn: Gfn, offset: usize, data: &[u8]) {
        self.write_unseen(domid, gfn, offset, data);
        let mut s = self.s.lock();
        if s.trapped.remove(&(domid, gfn)) {
            s.watched.remove(&(domid, gfn));
            s.traps += 1;
            s.written.entry(domid).or_default().push(gfn);
        }
    }

    /// As who does not trap: dom0, another domain, Xen.
    pub(super) fn write_unseen(&self, domid: DomId, gfn: Gfn, offset: usize, data: &[u8]) {
        self.heap.write(Bfn(self.mfn(domid, gfn).unwrap()), offset, data);
    }

    /// The guest gives a frame up and takes it back, with what was in it: it is plain memory now.
    pub(super) fn make_plain(&self, domid: DomId, gfn: Gfn) {
        assert!(self.s.lock().trapped.remove(&(domid, gfn)));
    }

    /// Frames of a guest's that are trapped.
    pub(super) fn trapped(&self, domid: DomId) -> Vec<Gfn> {
        self.s.lock().trapped.iter().filter(|(d, _)| *d == domid).map(|(_, gfn)| *gfn).collect()
    }

    /// Writes that trapped.
    pub(super) fn traps(&self) -> u64 {
        self.s.lock().traps
    }

    /// From now on no frame can be trapped, or any can.
    pub(super) fn refuse_traps(&self, refuse: bool) {
        self.s.lock().no_traps = refuse;
    }

    /// As the guest's CPU.
    pub(super) fn read(&self, domid: DomId, gfn: Gfn, offset: usize, buf: &mut [u8]) {
        self.heap.read(Bfn(self.mfn(domid, gfn).unwrap()), offset, buf);
    }

    /// Frames that are not free.
    pub(super) fn used(&self) -> usize {
        self.s.lock().frames.len()
    }

    /// The bus frames at which a guest's frame is mapped.
    pub(super) fn mapped_at(&self, domid: DomId, gfn: Gfn) -> Vec<Bfn> {
        let mfn = self.mfn(domid, gfn);
        self.s.lock().m2b.iter().filter(|(_, m)| Some(**m) == mfn).map(|(b, _)| Bfn(*b)).collect()
    }

    /// Makes the hypervisor refuse to unmap.
    pub(super) fn refuse_unmap(&self, refuse: bool) {
        self.s.lock().sticky = refuse;
    }

    /// What went wrong.
    pub(super) fn violations(&self) -> Vec<String> {
        self.s.lock().violations.clone()
    }
}

impl IommuOp for World {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        let mut s = self.s.lock();
        for op in ops {
            op.status = s.op(op).err().map_or(0, |e| e.status());
        }
        Ok(())
    }
}

impl BusMaster for World {
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        let mut s = self.s.lock();
        let fault = DmaFault { bfn, access };
        let Some(mfn) = s.m2b.get(&bfn.0).copied() else {
            s.violations.push(format!("DMA to bus frame {bfn}, which is not mapped"));
            return Err(fault);
        };
        *s.pins.entry(bfn.0).or_default() += 1;
        let pin = self.heap.pin(Bfn(mfn), access)?;
        Ok(Pin { bfn, token: mfn, ..pin })
    }

    fn unpin(&self, pin: Pin) {
        *self.s.lock().pins.get_mut(&pin.bfn.0).unwrap() -= 1;
        self.heap.unpin(Pin { bfn: Bfn(pin.token), ..pin });
    }
}

/// Traps a guest's writes.
pub(super) struct Traps(pub(super) Arc<World>, pub(super) DomId);

impl PageTracker for Traps {
    fn protect(&self, gfn: Gfn) -> Result<(), Untracked> {
        let mut s = self.0.s.lock();
        if s.no_traps || !s.p2m.contains_key(&(self.1, gfn)) {
            return Err(Untracked::This("it is refused".into()));
        }
        if s.watched.insert((self.1, gfn)) {
            s.trapped.insert((self.1, gfn));
        }
        Ok(())
    }

    fn unprotect(&self, gfn: Gfn) {
        let mut s = self.0.s.lock();
        if s.watched.remove(&(self.1, gfn)) {
            s.trapped.remove(&(self.1, gfn));
        }
    }

    fn take_written(&self) -> Vec<Gfn> {
        self.0.s.lock().written.remove(&self.1).unwrap_or_default()
    }
}

/// Own pages are frames of our own domain.
pub(super) struct OwnOf(pub(super) Arc<World>);

impl OwnFrames for OwnOf {
    fn take(&self, pages: usize) -> Result<OwnMemory, Errno> {
        let frames = {
            let mut s = self.0.s.lock();
            if s.free.len() < pages {
                return Err(Errno::ENOMEM);
            }
            (0..pages).map(|_| OwnFrame::Frame(Gfn(s.take(SELF)))).collect()
        };
        Ok(ProcessMemory.take(pages)?.with_frames(frames))
    }
}
