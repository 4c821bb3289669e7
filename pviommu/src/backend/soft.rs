//! Soft: a bus frame is a foreign mapping of this process, which holds the hypervisor's reference on the frame.
//!
//! Pages are mapped together, so one that was removed may hold its frame, which is the guest's, until all that was mapped with it
//! has gone. When the guest gives frames back, all that it has mapped is checked: mapped anew, behind which the old pages go.

use std::sync::Arc;

use xen_ioreq::seam::{ForeignMap, MappedPage, Prot};
use xen_ioreq::{Bfn, DomId, Errno, Gfn};

use super::{Backend, Verdict};
use crate::bfn::{BfnAllocator, BfnBlock};
use crate::error::{MapError, Operation, OwnError, ReleaseError, RevalidateError};
use crate::own::{OwnBfn, OwnMemory};
use crate::soft::{Pinned, SoftIommu};
use crate::wire::Peer;

/// Pages of one foreign mapping: bounds what a whole-call failure takes with it.
const BATCH: usize = 512;

pub(crate) struct SoftBackend {
    pub(crate) foreign: Arc<dyn ForeignMap>,
    pub(crate) bfns: BfnAllocator,
    pub(crate) iommu: Arc<SoftIommu>,
}

impl SoftBackend {
    /// An answer a frame, or the error of the whole call.
    fn foreign(&self, domid: DomId, gfns: &[Gfn]) -> Result<Vec<Result<MappedPage, Errno>>, Errno> {
        let pages = self.foreign.map_foreign_together(domid, gfns, Prot::ReadWrite)?.into_pages();
        if pages.len() == gfns.len() { Ok(pages) } else { Err(Errno::EIO) }
    }

    fn install_page(&self, domid: DomId, gfn: Gfn, page: MappedPage) -> Result<Bfn, MapError> {
        let no_bus_frames = MapError::NoBusFrames { domid, gfn };
        let block = self.bfns.alloc(0).ok_or(no_bus_frames)?;
        let bfn = block.first();
        if self.iommu.insert(bfn, page.ptr(), Some(page)) {
            Ok(bfn)
        } else {
            // Taken, though the allocator gave it to us: it is not given to anybody again.
            log::error!("bus frame {bfn} was free and has a page");
            Err(no_bus_frames)
        }
    }
}

impl Backend for SoftBackend {
    fn install(&self, peer: Peer, gfns: &[Gfn]) -> Vec<Result<Bfn, MapError>> {
        let (op, domid) = (Operation::ForeignMap, peer.domid);
        let mut out = Vec::with_capacity(gfns.len());
        for batch in gfns.chunks(BATCH) {
            match self.foreign(domid, batch) {
                Err(errno) => {
                    out.extend(batch.iter().map(|&gfn| Err(MapError::Call { op, domid, gfn, errno })))
                }
                Ok(pages) => out.extend(batch.iter().zip(pages).map(|(&gfn, page)| match page {
                    Err(errno) => Err(MapError::Frame { op, domid, gfn, errno }),
                    Ok(page) => self.install_page(domid, gfn, page),
                })),
            }
        }
        out
    }

    /// By mapping every frame afresh: nothing tells whether the frame behind a gfn is still the same, so each one that is
    /// there takes the place of the old mapping.
    fn check(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Result<Vec<Verdict>, RevalidateError> {
        let mut verdicts = Vec::with_capacity(mappings.len());
        for batch in mappings.chunks(BATCH) {
            let gfns: Vec<Gfn> = batch.iter().map(|(gfn, _)| *gfn).collect();
            match self.foreign(peer.domid, &gfns) {
                Err(Errno::ESRCH) => verdicts.extend(batch.iter().map(|_| Verdict::Gone)),
                // What was replaced already stays so; it must not be lost.
                Err(errno) if verdicts.is_empty() => {
                    return Err(RevalidateError { op: Operation::ForeignMap, domid: peer.domid, errno });
                }
                Err(_) => verdicts.extend(batch.iter().map(|_| Verdict::Busy)),
                Ok(pages) => verdicts.extend(batch.iter().zip(pages).map(|((_, bfn), page)| match page {
                    Err(_) => Verdict::Gone,
                    Ok(page) => {
                        if self.iommu.replace(*bfn, page) {
                            Verdict::Replaced
                        } else {
                            Verdict::Busy
                        }
                    }
                })),
            }
        }
        Ok(verdicts)
    }

    fn asks_by_mapping(&self) -> bool {
        true
    }

    fn remove(&self, peer: Peer, mappings: &[(Gfn, Bfn)]) -> Vec<Result<(), ReleaseError>> {
        let mut pages = Vec::with_capacity(mappings.len());
        let mut one = |&(gfn, bfn): &(Gfn, Bfn)| {
            let removed = self.iommu.remove(bfn);
            pages.extend(removed.map_err(|_| ReleaseError::Pinned { domid: peer.domid, gfn, bfn })?);
            self.bfns.free(BfnBlock::single(bfn));
            Ok(())
        };
        let answers = mappings.iter().map(&mut one).collect();
        // Before this returns: a release that is done is done for the guest, too.
        MappedPage::drop_all(pages);
        answers
    }

    fn retire(&self, bfns: &[Bfn]) -> Vec<Result<(), Pinned>> {
        let mut pages = Vec::with_capacity(bfns.len());
        let answers = bfns.iter().map(|bfn| self.iommu.retire(*bfn).map(|page| pages.extend(page))).collect();
        MappedPage::drop_all(pages);
        answers
    }

    fn install_own(&self, memory: &OwnMemory) -> Result<Vec<OwnBfn>, OwnError> {
        let mut bfns = Vec::with_capacity(memory.pages());
        for ptr in (0..memory.pages()).filter_map(|i| memory.page(i)) {
            let block = self.bfns.alloc(0).filter(|block| self.iommu.insert(block.first(), ptr, None));
            let Some(block) = block else {
                self.remove_own(&bfns)?;
                return Err(OwnError::NoBusFrames);
            };
            bfns.push(OwnBfn { bfn: block.first(), installed: true });
        }
        Ok(bfns)
    }

    fn remove_own(&self, bfns: &[OwnBfn]) -> Result<(), OwnError> {
        let mut pinned = None;
        for &OwnBfn { bfn, .. } in bfns {
            match self.iommu.remove(bfn) {
                Ok(_) => self.bfns.free(BfnBlock::single(bfn)),
                Err(_) => pinned = Some(bfn),
            }
        }
        pinned.map_or(Ok(()), |bfn| Err(OwnError::Pinned { bfn }))
    }
}
