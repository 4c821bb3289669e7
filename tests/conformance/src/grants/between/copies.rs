//! Copies as Xen takes them.

use xen_ioreq::abi::grant_table::{GNTCOPY_dest_gref, GNTCOPY_source_gref, gnttab_copy, gnttab_copy_ptr};
use xen_ioreq::{DomId, Gfn};

/// One end of a copy, with an offset.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// A grant.
    Ref(DomId, u32, u16),
    /// A frame of the caller's.
    Own(Gfn, u16),
}

/// A copy as Xen takes it.
pub(super) fn copy_of(source: End, dest: End, len: u16) -> gnttab_copy {
    let end = |end| match end {
        End::Ref(dom, r, offset) => {
            (gnttab_copy_ptr { u: r.into(), domid: dom.0, offset, ..Default::default() }, true)
        }
        End::Own(gfn, offset) => {
            let domid = DomId::SELF.0;
            (gnttab_copy_ptr { u: gfn.0, domid, offset, ..Default::default() }, false)
        }
    };
    let ((source, from), (dest, to)) = (end(source), end(dest));
    let flags = if from { GNTCOPY_source_gref } else { 0 } | if to { GNTCOPY_dest_gref } else { 0 };
    gnttab_copy { source, dest, len, flags, status: 1, ..Default::default() }
}
