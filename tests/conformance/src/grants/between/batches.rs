//! A thousand structs in one hypercall, which Xen interrupts and goes on with when others are waiting: each is done once, in order, with
//! a status of its own.

use xen_ioreq::Errno;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::seam::Prot;

use super::copies::{End, copy_of};
use super::hand::Hand;
use super::{ACCESS, Between, DOM0, HOST, R, RO, one};
use crate::case::{Answer, Case, Unmade, cases};

const MANY: usize = 1000;
/// References that all grant one frame, each of which 128 mappings can use.
const REFS: u32 = 8;
/// A reference that no table has.
const FAR: u32 = 1 << 30;

/// State: the first guest grants its first frame to the second by eight references from 9 on.
fn granted(s: &mut Between) -> Result<(), Unmade> {
    let (to, frame) = (s.b.id(), s.a.frame(0));
    for r in 0..REFS {
        s.a.grant(R + r, to, ACCESS, frame)?;
    }
    Ok(())
}

/// The reference of the n-th mapping.
fn nth(n: usize) -> u32 {
    R + u32::try_from(n).unwrap_or(0) % REFS
}

/// How many statuses are this one, where all others are okay. EILSEQ: some are neither, or not where they should be.
fn count(statuses: &[i16], status: i16, wrong: impl Fn(usize) -> bool) -> Answer {
    let right = |(n, s): (usize, &i16)| *s == if wrong(n) { status } else { GNTST_okay };
    if !statuses.iter().enumerate().all(right) {
        return Err(Errno::EILSEQ);
    }
    Ok(statuses.iter().filter(|s| **s == status).count() as u64)
}

/// State: the second guest has mapped them all.
fn mapped(s: &mut Between) -> Result<(), Unmade> {
    granted(s)?;
    let a = s.a.id();
    let all: Vec<_> = (0..MANY).map(|n| (a, nth(n), HOST)).collect();
    match s.b.map_many(&all)?.iter().all(|status| *status == GNTST_okay) {
        true => Ok(()),
        false => Err(Unmade(Errno::EILSEQ)),
    }
}

pub(super) const ROWS: &[Case<Between>] = cases! { Between;
    "map_of_a_thousand" ["D: preempt after op i>0"] => Ok(1000), |s| {
        granted(s)?;
        let a = s.a.id();
        let all: Vec<_> = (0..MANY).map(|n| (a, nth(n), HOST)).collect();
        let statuses = s.b.map_many(&all)?;
        count(&statuses, GNTST_okay, |_| false)
    };
    "each_has_a_handle_of_its_own" ["header"] => Ok(1000), |s| {
        mapped(s)?;
        let handles: std::collections::BTreeSet<_> = s.b.mappings().iter().map(|m| m.0).collect();
        Ok(handles.len() as u64)
    };
    "the_last_place_shows_the_frame" ["header"] => Ok(0xb1), |s| {
        mapped(s)?;
        let frame = s.a.frame(0);
        s.a.set_byte(frame, 0, 0xb1)?;
        Ok(s.b.byte(Hand::place(MANY - 1), 0)?.into())
    };
    "every_seventh_of_a_thousand_is_bad_gntref" ["D: ref range"] => Ok(143), |s| {
        granted(s)?;
        let a = s.a.id();
        let all: Vec<_> = (0..MANY).map(|n| (a, if n % 7 == 0 { FAR } else { nth(n) }, RO)).collect();
        let statuses = s.b.map_many(&all)?;
        count(&statuses, GNTST_bad_gntref, |n| n % 7 == 0)
    };
    "every_fifth_of_a_thousand_is_of_nobody" ["header"] => Ok(200), |s| {
        granted(s)?;
        let a = s.a.id();
        let who = |n| if n % 5 == 0 { crate::bench::NOBODY } else { a };
        let all: Vec<_> = (0..MANY).map(|n| (who(n), nth(n), RO)).collect();
        let statuses = s.b.map_many(&all)?;
        count(&statuses, GNTST_bad_domain, |n| n % 5 == 0)
    };
    "of_a_thousand_of_one_reference_128_come_about" ["D: 128 of each kind"] => Ok(872), |s| {
        granted(s)?;
        let a = s.a.id();
        let statuses = s.b.map_many(&vec![(a, R, HOST); MANY])?;
        count(&statuses, GNTST_general_error, |n| n >= 128)
    };
    "of_a_thousand_the_guest_with_few_handles_makes_255" ["D: maptrack exhausted; Xen keeps one"] => Ok(745), |s| {
        let (to, b, frame) = (s.a.id(), s.b.id(), s.b.frame(0));
        for r in 0..REFS {
            s.b.grant(R + r, to, ACCESS, frame)?;
        }
        let all: Vec<_> = (0..MANY).map(|n| (b, nth(n), HOST)).collect();
        let statuses = s.a.map_many(&all)?;
        count(&statuses, GNTST_no_space, |n| n >= 255)
    };
    "map_of_a_hundred_of_dom0's" ["D: preempt after op i>0"] => Ok(100), |s| {
        let page = s.give(s.b.id(), Prot::ReadWrite)?;
        let statuses = s.b.map_many(&vec![(DOM0, one(&page), HOST); 100])?;
        count(&statuses, GNTST_okay, |_| false)
    };
    "unmap_of_a_thousand" ["D: internal batches of 32"] => Ok(1000), |s| {
        mapped(s)?;
        let all = s.b.mappings();
        let statuses = s.b.unmap_many(&all)?;
        count(&statuses, GNTST_okay, |_| false)
    };
    "which_leaves_no_marks" ["D: cleared per kind"] => Ok(0), |s| {
        mapped(s)?;
        let all = s.b.mappings();
        s.b.unmap_many(&all)?;
        (0..REFS).try_fold(0, |all, r| Ok(all | u64::from(s.a.marks(R + r)?)))
    };
    "and_nothing_at_the_last_place" ["header"] => Ok(0xff), |s| {
        mapped(s)?;
        let all = s.b.mappings();
        s.b.unmap_many(&all)?;
        Ok(s.b.byte(Hand::place(MANY - 1), 0)?.into())
    };
    "each_is_undone_once" ["D: free handle"] => Ok(24), |s| {
        mapped(s)?;
        let mut all = s.b.mappings();
        let again: Vec<_> = all.iter().take(24).copied().collect();
        all.extend(again);
        let statuses = s.b.unmap_many(&all)?;
        count(&statuses, GNTST_bad_handle, |n| n >= MANY)
    };
    "every_third_of_a_thousand_has_no_handle" ["D: bad handle"] => Ok(334), |s| {
        mapped(s)?;
        let of = |(n, (handle, at))| (if n % 3 == 0 { u32::MAX } else { handle }, at);
        let all: Vec<_> = s.b.mappings().into_iter().enumerate().map(of).collect();
        let statuses = s.b.unmap_many(&all)?;
        count(&statuses, GNTST_bad_handle, |n| n % 3 == 0)
    };
    "and_what_has_one_is_undone" ["D: bad handle"] => Ok(334), |s| {
        mapped(s)?;
        let of = |(n, (handle, at))| (if n % 3 == 0 { u32::MAX } else { handle }, at);
        let all: Vec<_> = s.b.mappings().into_iter().enumerate().map(of).collect();
        s.b.unmap_many(&all)?;
        Ok(s.b.mapped() as u64)
    };
    "a_thousand_copies_are_done_in_order" ["header"] => Ok(0xb2), |s| {
        let own = s.b.frame(0);
        s.b.set_byte(own, 0, 0xb2)?;
        s.b.set_byte(own, 1000, 0)?;
        // Each copies what the one before it has copied.
        let mut all: Vec<_> =
            (0..1000).map(|n| copy_of(End::Own(own, n), End::Own(own, n + 1), 1)).collect();
        s.b.many(GNTTABOP_copy, &mut all)?;
        Ok(s.b.byte(own, 1000)?.into())
    };
    "every_seventh_of_a_thousand_copies_is_bad_copy_arg" ["header"] => Ok(143), |s| {
        granted(s)?;
        let (a, own) = (s.a.id(), s.b.frame(0));
        let at = |n: usize| if n.is_multiple_of(7) { 4096 } else { 8 };
        let copy = |n| copy_of(End::Ref(a, nth(n), at(n)), End::Own(own, 0), 8);
        let mut all: Vec<_> = (0..MANY).map(copy).collect();
        s.b.many(GNTTABOP_copy, &mut all)?;
        let statuses: Vec<_> = all.iter().map(|c| c.status).collect();
        count(&statuses, GNTST_bad_copy_arg, |n| n.is_multiple_of(7))
    };
    "every_fourth_of_a_thousand_copies_is_to_be_written_where_that_is_not_granted" ["D: ro violated"] => Ok(250), |s| {
        let (a, b, own, frame) = (s.a.id(), s.b.id(), s.b.frame(0), s.a.frame(0));
        s.a.grant(R, b, ACCESS | GTF_readonly, frame)?;
        let copy = |n: usize| match n % 4 {
            0 => copy_of(End::Own(own, 0), End::Ref(a, R, 0), 8),
            _ => copy_of(End::Ref(a, R, 0), End::Own(own, 0), 8),
        };
        let mut all: Vec<_> = (0..MANY).map(copy).collect();
        s.b.many(GNTTABOP_copy, &mut all)?;
        let statuses: Vec<_> = all.iter().map(|c| c.status).collect();
        count(&statuses, GNTST_general_error, |n| n % 4 == 0)
    };
    "a_thousand_swaps_are_done_one_by_one" ["header"] => Ok(0xb3), |s| {
        let (a, b, frame) = (s.a.id(), s.b.id(), s.a.frame(0));
        s.a.set_byte(frame, 0, 0xb3)?;
        s.a.grant(R, b, ACCESS, frame)?;
        s.a.withdraw(R + 1)?;
        // An odd number of them: the grant is at the other reference then.
        let mut all = vec![gnttab_swap_grant_ref { ref_a: R, ref_b: R + 1, status: 1, ..Default::default() }; 1001];
        s.a.many(GNTTABOP_swap_grant_ref, &mut all)?;
        if all.iter().any(|swap| swap.status != GNTST_okay) {
            return Ok(Err(Errno::EILSEQ));
        }
        s.b.map(a, R + 1, RO, 0)?;
        Ok(s.b.byte(Hand::place(0), 0)?.into())
    };
};
