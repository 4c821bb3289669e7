//! The side that maps: grants go into address space that is reserved for them, and out of it before it is given back.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::revokable::{GNTTABOP_map_revokable, gnttab_map_revokable};
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::{GrantTableOp, Mapping, MappingOwner, OwnMemory, Prot};
use xen_ioreq::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::window::{Taken, Window};
use crate::grants::{GrantError, Mapper, PlainMapping, RevokableMapper, RevokableMapping};
use crate::shared::SharedBytes;

/// Maps by hypercalls, into a domain's own address space.
pub struct TableMapper<H> {
    hypervisor: Arc<H>,
    revokable: bool,
    /// Of a translated domain: where it maps.
    window: Option<Arc<Window>>,
}

impl<H: GrantTableOp + OwnMemory + 'static> TableMapper<H> {
    /// Asks the hypervisor what it has. For a PV domain: it maps at addresses of its own.
    pub fn new(hypervisor: Arc<H>) -> Self {
        Self::with(hypervisor, None)
    }

    /// For a translated (HVM, PVH) domain, which maps at frame numbers. Those of `gfns` are for this alone, and the caller has put no
    /// memory there: that would be lost to it.
    pub fn translated(hypervisor: Arc<H>, gfns: Range<Gfn>) -> Self {
        Self::with(hypervisor, Some(Arc::new(Window::new(gfns))))
    }

    fn with(hypervisor: Arc<H>, window: Option<Arc<Window>>) -> Self {
        // None of nothing: done where there is the operation at all.
        let revokable = hypervisor.grant_table_op(GNTTABOP_map_revokable, &mut [], 0).is_ok();
        Self { hypervisor, revokable, window }
    }

    /// Where `pages` pages are mapped: a view of them, the address of the first for the hypervisor, and what keeps the numbers.
    fn place(&self, pages: usize) -> Result<(Mapping, u64, Option<Taken>), Errno> {
        let Some(window) = &self.window else {
            let range = self.hypervisor.reserve(pages)?;
            let at = range.base().as_ptr().addr() as u64;
            return Ok((range, at, None));
        };
        let taken = window.take(pages)?;
        let range = self.hypervisor.reserve_at(taken.first(), pages)?;
        let at = taken.first().addr();
        Ok((range, at, Some(taken)))
    }

    /// One hypercall for all; what was mapped of a batch that failed is unmapped with its range.
    fn mapped(&self, wanted: Wanted<'_>) -> Result<Mapping, GrantError> {
        let Wanted { peer, refs, prot, local } = wanted;
        let first = refs.first().copied().unwrap_or_default();
        let error = |errno| GrantError::Map { peer, pages: refs.len(), first, errno };
        let count = u32::try_from(refs.len()).map_err(|_| error(Errno::E2BIG))?;
        let (range, at, taken) = self.place(refs.len()).map_err(error)?;
        let addresses = (0..refs.len()).map(|i| at + (i * PAGE_SIZE) as u64);
        let flags = GNTMAP_host_map | if prot == Prot::Read { GNTMAP_readonly } else { 0 };
        let mut ops: Vec<_> = refs
            .iter()
            .zip(addresses)
            .map(|(gref, host_addr)| gnttab_map_grant_ref {
                host_addr,
                flags,
                r#ref: gref.0,
                dom: peer.0,
                // A status that is not written must not look like a success.
                status: GNTST_general_error,
                ..Default::default()
            })
            .collect();
        let done = match &local {
            None => self.hypervisor.grant_table_op(GNTTABOP_map_grant_ref, ops.as_mut_bytes(), count),
            Some((_, gfns)) => {
                let pairs = ops.iter().zip(gfns);
                let mut whole: Vec<_> =
                    pairs.map(|(map, gfn)| gnttab_map_revokable { map: *map, lgfn: gfn.0 }).collect();
                let done =
                    self.hypervisor.grant_table_op(GNTTABOP_map_revokable, whole.as_mut_bytes(), count);
                ops = whole.iter().map(|op| op.map).collect();
                done
            }
        };
        let mut mapped = Mapped {
            hypervisor: self.hypervisor.clone(),
            handles: Vec::new(),
            left: AtomicUsize::new(refs.len()),
            held: Mutex::new(None),
        };
        mapped.handles.extend(ops.iter().filter(|op| op.status == GNTST_okay).map(|op| {
            gnttab_unmap_grant_ref { host_addr: op.host_addr, handle: op.handle, ..Default::default() }
        }));
        let base = range.base();
        *mapped.held.get_mut().unwrap_or_else(PoisonError::into_inner) =
            Some(Held { _range: range, _local: local.map(|(mapping, _)| mapping), _taken: taken });
        let mapping = Mapping::new(base, refs.len(), Arc::new(mapped));
        done.map_err(error)?;
        match ops.iter().find(|op| op.status != GNTST_okay) {
            Some(op) => Err(GrantError::Refused { peer, gref: GrantRef(op.r#ref), status: op.status }),
            None => Ok(mapping),
        }
    }
}

/// What is to be mapped; `local`: frames of ours that come in the place of those that are taken back.
struct Wanted<'a> {
    peer: DomId,
    refs: &'a [GrantRef],
    prot: Prot,
    local: Option<(Mapping, Vec<Gfn>)>,
}

/// What goes when a mapping goes, after it, in this order.
struct Held {
    _range: Mapping,
    _local: Option<Mapping>,
    _taken: Option<Taken>,
}

/// The owner of a mapping.
struct Mapped<H: GrantTableOp> {
    hypervisor: Arc<H>,
    handles: Vec<gnttab_unmap_grant_ref>,
    left: AtomicUsize,
    held: Mutex<Option<Held>>,
}

#[expect(unsafe_code, reason = "the promise of MappingOwner")]
// SAFETY: the range stays reserved, and the grants mapped in it, until the last page was released.
unsafe impl<H: GrantTableOp> MappingOwner for Mapped<H> {
    fn release(&self, _first: usize, count: usize) {
        if self.left.fetch_sub(count, Ordering::AcqRel) != count {
            return;
        }
        let mut ops = self.handles.clone();
        if let Ok(count) = u32::try_from(ops.len()) {
            // What fails here is unmapped with the range.
            let _ = self.hypervisor.grant_table_op(GNTTABOP_unmap_grant_ref, ops.as_mut_bytes(), count);
        }
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl<H: GrantTableOp + OwnMemory + 'static> Mapper for TableMapper<H> {
    fn map(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        prot: Prot,
        _: UnmapNotify,
    ) -> Result<PlainMapping, GrantError> {
        Ok(PlainMapping::new(self.mapped(Wanted { peer, refs, prot, local: None })?, prot))
    }

    fn revokable(&self) -> Option<&dyn RevokableMapper> {
        self.revokable.then_some(self as &dyn RevokableMapper)
    }
}

impl<H: GrantTableOp + OwnMemory + 'static> RevokableMapper for TableMapper<H> {
    fn map_revokable(
        &self,
        peer: DomId,
        refs: &[GrantRef],
        prot: Prot,
        stand_in: u8,
    ) -> Result<RevokableMapping, GrantError> {
        let first = refs.first().copied().unwrap_or_default();
        let error = |errno| GrantError::Map { peer, pages: refs.len(), first, errno };
        let (local, gfns) = self.hypervisor.allocate(refs.len()).map_err(error)?;
        let bytes = SharedBytes::new(local);
        bytes.write(0, &vec![stand_in; bytes.len()]);
        let local = bytes.into_mapping().ok_or(error(Errno::EIO))?;
        let mapping = self.mapped(Wanted { peer, refs, prot, local: Some((local, gfns)) })?;
        Ok(RevokableMapping::new(mapping, prot, stand_in))
    }
}

impl<H> fmt::Debug for TableMapper<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableMapper").field("revokable", &self.revokable).finish_non_exhaustive()
    }
}
