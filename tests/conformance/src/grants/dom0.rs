//! What dom0 may ask of any Xen through its kernel: the rows that also run on real Xen.
//!
//! A kernel keeps its own table, and its page tables, to itself; what is left are questions, copies to grants, and what is refused.

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::{DomId, Errno};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::bench::NOBODY;
use crate::case::{Answer, Case, cases};
use crate::ioreq::Stage;

/// A reference that is in no table.
const FAR: u32 = 1 << 30;

fn op<T: IntoBytes + FromBytes + Immutable>(s: &Stage, cmd: u32, arg: &mut T) -> Result<(), Errno> {
    s.bench.hypervisor.grant_table_op(cmd, arg.as_mut_bytes(), 1).map(drop)
}

/// A status as an answer: its number without the sign.
fn status(rc: Result<(), Errno>, status: i16) -> Answer {
    rc.map(|()| status.unsigned_abs().into())
}

fn query(s: &Stage, dom: DomId) -> Answer {
    let mut arg = gnttab_query_size { dom: dom.0, ..Default::default() };
    let rc = op(s, GNTTABOP_query_size, &mut arg);
    status(rc, arg.status)
}

/// Whether the sizes make sense: at least one frame, at most as many as there may be.
fn sizes(s: &Stage, dom: DomId) -> Answer {
    let mut arg = gnttab_query_size { dom: dom.0, ..Default::default() };
    op(s, GNTTABOP_query_size, &mut arg)?;
    Ok((arg.nr_frames >= 1 && arg.nr_frames <= arg.max_nr_frames).into())
}

fn version(s: &Stage, dom: DomId) -> Answer {
    let mut arg = gnttab_get_version { dom: dom.0, ..Default::default() };
    op(s, GNTTABOP_get_version, &mut arg)?;
    Ok((arg.version == 1 || arg.version == 2).into())
}

fn swap(s: &Stage, ref_a: u32, ref_b: u32) -> Answer {
    let mut arg = gnttab_swap_grant_ref { ref_a, ref_b, ..Default::default() };
    let rc = op(s, GNTTABOP_swap_grant_ref, &mut arg);
    status(rc, arg.status)
}

/// A copy between grants, of which nothing is granted to dom0.
fn copy(s: &Stage, source: (DomId, u32), dest: (DomId, u32), len: u16, from_grant: bool) -> Answer {
    let ptr =
        |(domid, r): (DomId, u32)| gnttab_copy_ptr { u: r.into(), domid: domid.0, ..Default::default() };
    let flags = GNTCOPY_dest_gref | if from_grant { GNTCOPY_source_gref } else { 0 };
    let mut arg = gnttab_copy { source: ptr(source), dest: ptr(dest), len, flags, ..Default::default() };
    let rc = op(s, GNTTABOP_copy, &mut arg);
    status(rc, arg.status)
}

pub(super) const ROWS: &[Case<Stage>] = cases! { Stage;
    "query_size_of_itself" ["header"] => Ok(0), |s| query(s, DomId::SELF);
    "query_size_of_the_guest" ["header: sufficiently privileged"] => Ok(0), |s| query(s, s.guest());
    "sizes_of_the_guest_make_sense" ["header"] => Ok(1), |s| sizes(s, s.guest());
    "query_size_of_nobody_is_bad_domain" ["header"] => Ok(2), |s| query(s, NOBODY);
    "query_size_of_two_is_einval" ["D: count must be 1"] => Err(Errno::EINVAL), |s| {
        let mut two = [gnttab_query_size { dom: DomId::SELF.0, ..Default::default() }; 2];
        s.bench.hypervisor.grant_table_op(GNTTABOP_query_size, two.as_mut_bytes(), 2).map(|_| 0)
    };
    "version_of_itself_is_one_or_two" ["header"] => Ok(1), |s| version(s, DomId::SELF);
    "version_of_the_guest_is_one_or_two" ["header"] => Ok(1), |s| version(s, s.guest());
    "version_of_nobody_is_esrch" ["D: no status field"] => Err(Errno::ESRCH), |s| version(s, NOBODY);
    "swap_of_a_reference_with_itself" ["D: equal refs okay"] => Ok(0), |s| swap(s, 8, 8);
    "swap_beyond_the_table_is_bad_gntref" ["D: range"] => Ok(3), |s| swap(s, FAR, 8);
    "dump_table_is_enosys" ["D"] => Err(Errno::ENOSYS), |s| {
        op(s, GNTTABOP_dump_table, &mut gnttab_dump_table { dom: DomId::SELF.0, status: 0 }).map(|()| 0)
    };
    "copy_of_nothing_from_nobody_is_bad_domain" ["Xen 4.17"] => Ok(2), |s| {
        copy(s, (NOBODY, 8), (NOBODY, 8), 0, true)
    };
    "copy_of_nothing_that_is_not_granted_is_general_error" ["Xen 4.17"] => Ok(1), |s| {
        copy(s, (s.guest(), 200), (s.guest(), 8), 0, true)
    };
    "copy_from_nobody_is_bad_domain" ["header"] => Ok(2), |s| copy(s, (NOBODY, 8), (s.guest(), 8), 8, true);
    "copy_from_a_frame_of_the_guests_is_permission_denied" ["D: gmfn side must be DOMID_SELF"] => Ok(8), |s| {
        copy(s, (s.guest(), 16), (s.guest(), 8), 8, false)
    };
    "copy_beyond_the_table_is_bad_gntref" ["D: ref range"] => Ok(3), |s| {
        copy(s, (s.guest(), FAR), (s.guest(), 8), 8, true)
    };
    "copy_of_what_is_not_granted_is_general_error" ["D: bad type"] => Ok(1), |s| {
        copy(s, (s.guest(), 200), (s.guest(), 8), 8, true)
    };
    "cache_flush_of_no_bytes" ["Xen"] => Ok(0), |s| {
        op(s, GNTTABOP_cache_flush, &mut gnttab_cache_flush { op: GNTTAB_CACHE_CLEAN, ..Default::default() }).map(|()| 0)
    };
    "cache_flush_beyond_a_page_is_einval" ["Xen"] => Err(Errno::EINVAL), |s| {
        let mut arg = gnttab_cache_flush { offset: 4090, length: 64, op: GNTTAB_CACHE_CLEAN, ..Default::default() };
        op(s, GNTTABOP_cache_flush, &mut arg).map(|()| 0)
    };
};
