//! Grants handed on: who has been granted a page lets a third domain copy from and to it, which works where the grant behind it does.
//!
//! The first guest hands on. What is behind is a page of dom0's, which its kernel grants, or one of the second guest's.

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, Errno};

use super::copies::End;
use super::{ACCESS, Between, DOM0, HOST, R, RO, S, byte_of, one, st};
use crate::case::{Answer, Case, Unmade, cases};

/// A reference that no table has.
const FAR: u32 = 1 << 30;

/// State: the first guest hands on to `to` what is at `inner` of `from`.
fn hand_on(s: &mut Between, to: DomId, from: DomId, inner: u32) -> Result<(), Unmade> {
    s.a.set_version(2)?;
    Ok(s.a.hand_on(R, to, from, inner)?)
}

/// State: the first guest hands on to itself.
fn to_itself(s: &mut Between, from: DomId, inner: u32) -> Result<(), Unmade> {
    hand_on(s, s.a.id(), from, inner)
}

/// The first guest copies from what is handed on, at an offset, so many bytes.
fn read(s: &mut Between, at: u16, len: u16) -> Answer {
    let (a, own) = (s.a.id(), s.a.frame(0));
    st(s.a.copy(End::Ref(a, R, at), End::Own(own, 0), len)?)
}

/// It copies to it.
fn write(s: &mut Between, at: u16, len: u16) -> Answer {
    let (a, own) = (s.a.id(), s.a.frame(0));
    st(s.a.copy(End::Own(own, 0), End::Ref(a, R, at), len)?)
}

/// State: the second guest grants its first frame to the first guest, in version 1 or 2.
fn second_grants(s: &mut Between, version: u32, flags: u16) -> Result<(), Unmade> {
    let (to, frame) = (s.a.id(), s.b.frame(0));
    s.b.set_version(version)?;
    Ok(s.b.grant(S, to, flags, frame)?)
}

/// State: 64 bytes of it from 100 on.
fn second_grants_part(s: &mut Between) -> Result<(), Unmade> {
    let (to, frame) = (s.a.id(), s.b.frame(0));
    s.b.set_version(2)?;
    Ok(s.b.grant_part(S, to, ACCESS, frame, (100, 64))?)
}

pub(super) const ROWS: &[Case<Between>] = cases! { Between;
    "dom0's_page_by_the_guest_itself" ["header: transitive"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        to_itself(s, DOM0, one(&page))?;
        read(s, 0, 4096)
    };
    "what_is_read_is_what_dom0_wrote" ["header: transitive"] => Ok(0x91), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x91)?;
        to_itself(s, DOM0, one(&page))?;
        read(s, 0, 8)?;
        let own = s.a.frame(0);
        Ok(s.a.byte(own, 0)?.into())
    };
    "what_is_written_dom0_reads" ["header: transitive"] => Ok(0x92), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        to_itself(s, DOM0, one(&page))?;
        let own = s.a.frame(0);
        s.a.set_byte(own, 0, 0x92)?;
        write(s, 0, 1)?;
        byte_of(&page)
    };
    "a_page_to_be_read_is_read" ["header: transitive"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        to_itself(s, DOM0, one(&page))?;
        read(s, 0, 8)
    };
    "a_page_to_be_read_is_not_written" ["D: ro violated"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        to_itself(s, DOM0, one(&page))?;
        write(s, 0, 8)
    };
    "handed_on_to_be_read_it_is_read" ["D: ro violated"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let (a, inner) = (s.a.id(), one(&page));
        s.a.set_version(2)?;
        s.a.hand_on_as(R, a, GTF_transitive | GTF_readonly, DOM0, inner)?;
        read(s, 0, 8)
    };
    "handed_on_to_be_read_it_is_not_written" ["D: ro violated"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let (a, inner) = (s.a.id(), one(&page));
        s.a.set_version(2)?;
        s.a.hand_on_as(R, a, GTF_transitive | GTF_readonly, DOM0, inner)?;
        write(s, 0, 8)
    };
    "a_page_for_another_guest_is_not_handed_on" ["D: wrong domid"] => Ok(1), |s| {
        let page = s.give(s.b.id(), Prot::ReadWrite)?;
        to_itself(s, DOM0, one(&page))?;
        read(s, 0, 8)
    };
    "a_page_that_dom0_has_closed" ["D: bad type"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let inner = one(&page);
        drop(page);
        s.map_when_ended(inner)?;
        to_itself(s, DOM0, inner)?;
        read(s, 0, 8)
    };
    "a_reference_beyond_dom0's_table" ["D: ref range"] => Ok(3), |s| {
        to_itself(s, DOM0, FAR)?;
        read(s, 0, 8)
    };
    "handed_on_to_somebody_else" ["D: wrong domid"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        hand_on(s, s.b.id(), DOM0, one(&page))?;
        read(s, 0, 8)
    };
    "it_is_not_mapped" ["D: never mappable"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        to_itself(s, DOM0, one(&page))?;
        let a = s.a.id();
        st(s.a.map(a, R, RO, 0)?)
    };
    "a_copy_leaves_no_mark" ["D: marks stand in the status words"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        to_itself(s, DOM0, one(&page))?;
        write(s, 0, 8)?;
        Ok(s.a.marks(R)?.into())
    };
    "a_copy_that_failed_leaves_no_mark" ["D"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        to_itself(s, DOM0, one(&page))?;
        write(s, 0, 8)?;
        Ok(s.a.marks(R)?.into())
    };
    "while_the_guest_has_it_mapped" ["header: transitive"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        to_itself(s, DOM0, one(&page))?;
        write(s, 0, 8)
    };
    "closed_while_the_guest_has_it_mapped" ["D: edits ignored until all pins drop"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let inner = one(&page);
        s.a.map(DOM0, inner, HOST, 0)?;
        to_itself(s, DOM0, inner)?;
        drop(page);
        read(s, 0, 8)
    };
    "beyond_the_page" ["D: page -10"] => Ok(10), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        to_itself(s, DOM0, one(&page))?;
        read(s, 4092, 8)
    };
    "a_third_domain_copies_dom0's_page" ["header: transitive"] => Ok(0x93), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x93)?;
        hand_on(s, s.b.id(), DOM0, one(&page))?;
        let (a, own) = (s.a.id(), s.b.frame(1));
        s.b.copy(End::Ref(a, R, 0), End::Own(own, 0), 8)?;
        Ok(s.b.byte(own, 0)?.into())
    };
    "a_third_domain_does_not_copy_it_by_itself" ["D: wrong domid"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        hand_on(s, s.b.id(), DOM0, one(&page))?;
        let own = s.b.frame(1);
        st(s.b.copy(End::Ref(DOM0, one(&page), 0), End::Own(own, 0), 8)?)
    };
    "dom0_copies_a_guest's_page" ["header: transitive"] => Ok(0x94), |s| {
        second_grants(s, 1, ACCESS)?;
        let (to, frame) = (s.a.frame(1), s.b.frame(0));
        s.b.set_byte(frame, 0, 0x94)?;
        hand_on(s, DOM0, s.b.id(), S)?;
        s.a.grant(S, DOM0, ACCESS, to)?;
        s.copy(End::Ref(s.a.id(), R, 0), End::Ref(s.a.id(), S, 0), 8)?;
        Ok(s.a.byte(to, 0)?.into())
    };
    "back_to_who_granted_it" ["D: trans_domid==grantee allowed"] => Ok(0x95), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x95)?;
        hand_on(s, DOM0, DOM0, one(&page))?;
        let to = s.a.frame(1);
        s.a.grant(S, DOM0, ACCESS, to)?;
        s.copy(End::Ref(s.a.id(), R, 0), End::Ref(s.a.id(), S, 0), 8)?;
        Ok(s.a.byte(to, 0)?.into())
    };
    "a_guest's_page_of_version_1" ["header: transitive"] => Ok(0), |s| {
        second_grants(s, 1, ACCESS)?;
        to_itself(s, s.b.id(), S)?;
        write(s, 0, 8)
    };
    "a_guest's_page_of_version_2" ["header: transitive"] => Ok(0), |s| {
        second_grants(s, 2, ACCESS)?;
        to_itself(s, s.b.id(), S)?;
        write(s, 0, 8)
    };
    "the_grant_behind_has_no_mark_afterwards" ["D: cleared per kind"] => Ok(0), |s| {
        second_grants(s, 2, ACCESS)?;
        to_itself(s, s.b.id(), S)?;
        write(s, 0, 8)?;
        Ok(s.b.marks(S)?.into())
    };
    "the_grant_behind_is_withdrawn" ["D: bad type"] => Ok(1), |s| {
        second_grants(s, 2, ACCESS)?;
        to_itself(s, s.b.id(), S)?;
        read(s, 0, 8)?;
        s.b.withdraw(S)?;
        read(s, 0, 8)
    };
    "the_grant_behind_becomes_read_only" ["D: ro violated"] => Ok(1), |s| {
        second_grants(s, 2, ACCESS)?;
        to_itself(s, s.b.id(), S)?;
        write(s, 0, 8)?;
        second_grants(s, 2, ACCESS | GTF_readonly)?;
        write(s, 0, 8)
    };
    "the_grant_behind_is_of_no_frame" ["D: frame"] => Ok(9), |s| {
        second_grants(s, 2, ACCESS)?;
        let a = s.a.id();
        s.b.grant(S, a, ACCESS, xen_ioreq::Gfn(1 << 34))?;
        to_itself(s, s.b.id(), S)?;
        read(s, 0, 8)
    };
    "the_grant_behind_is_a_place_for_a_transfer" ["D: bad type"] => Ok(1), |s| {
        second_grants(s, 1, GTF_accept_transfer)?;
        to_itself(s, s.b.id(), S)?;
        read(s, 0, 8)
    };
    "a_part_of_the_grant_behind" ["header: sub_page"] => Ok(0), |s| {
        second_grants_part(s)?;
        to_itself(s, s.b.id(), S)?;
        read(s, 100, 64)
    };
    "written_to_its_last_byte" ["header: sub_page"] => Ok(0x96), |s| {
        second_grants_part(s)?;
        to_itself(s, s.b.id(), S)?;
        let (own, frame) = (s.a.frame(0), s.b.frame(0));
        s.a.set_byte(own, 0, 0x96)?;
        write(s, 163, 1)?;
        Ok(s.b.byte(frame, 163)?.into())
    };
    "before_the_part_behind" ["D: grant window -1"] => Ok(1), |s| {
        second_grants_part(s)?;
        to_itself(s, s.b.id(), S)?;
        read(s, 99, 2)
    };
    "behind_the_part_behind" ["D: grant window -1"] => Ok(1), |s| {
        second_grants_part(s)?;
        to_itself(s, s.b.id(), S)?;
        write(s, 163, 2)
    };
    "handed_on_as_a_part_it_is_whole" ["Xen: only the grant behind it has parts"] => Ok(0), |s| {
        second_grants(s, 2, ACCESS)?;
        let (a, from) = (s.a.id(), s.b.id());
        s.a.set_version(2)?;
        s.a.hand_on_as(R, a, GTF_transitive | GTF_sub_page, from, S)?;
        read(s, 0, 4096)
    };
    "what_is_handed_on_is_not_handed_on_again" ["D: one level"] => Ok(1), |s| {
        let page = s.give(s.b.id(), Prot::ReadWrite)?;
        let (to, inner) = (s.a.id(), one(&page));
        s.b.set_version(2)?;
        s.b.hand_on(S, to, DOM0, inner)?;
        to_itself(s, s.b.id(), S)?;
        read(s, 0, 8)
    };
    "though_the_second_may_copy_it" ["D: one level"] => Ok(0), |s| {
        let page = s.give(s.b.id(), Prot::ReadWrite)?;
        let (to, inner) = (s.a.id(), one(&page));
        s.b.set_version(2)?;
        s.b.hand_on(S, to, DOM0, inner)?;
        let (b, own) = (s.b.id(), s.a.frame(0));
        st(s.a.copy(End::Ref(b, S, 0), End::Own(own, 0), 8)?)
    };
    "in_a_ring_of_two" ["D: one level"] => Ok(1), |s| {
        let (a, b) = (s.a.id(), s.b.id());
        s.b.set_version(2)?;
        s.b.hand_on(S, a, a, R)?;
        to_itself(s, b, S)?;
        read(s, 0, 8)
    };
    "both_ends_of_a_copy" ["header: transitive"] => Ok(0x97), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x97)?;
        second_grants(s, 2, ACCESS)?;
        to_itself(s, DOM0, one(&page))?;
        let (a, b, frame) = (s.a.id(), s.b.id(), s.b.frame(0));
        s.a.hand_on(11, a, b, S)?;
        s.a.copy(End::Ref(a, R, 0), End::Ref(a, 11, 0), 8)?;
        Ok(s.b.byte(frame, 0)?.into())
    };
    "by_a_table_of_version_1" ["D: v2 only"] => Ok(1), |s| {
        let a = s.a.id();
        let frame = s.a.frame(1);
        s.a.grant(R, a, GTF_transitive, frame)?;
        read(s, 0, 8)
    };
    "of_a_domain_that_is_not_there" ["Xen: of nobody"] => Ok(1), |s| {
        to_itself(s, crate::bench::NOBODY, S)?;
        read(s, 0, 8)
    };
    "of_many_at_once_each_has_its_status" ["header"] => Ok(334), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        to_itself(s, DOM0, one(&page))?;
        let (a, own) = (s.a.id(), s.a.frame(0));
        // Every third is to be written.
        let of = |n| match n % 3 {
            0 => super::copy_of(End::Own(own, 0), End::Ref(a, R, 0), 8),
            _ => super::copy_of(End::Ref(a, R, 0), End::Own(own, 0), 8),
        };
        let mut all: Vec<_> = (0..1000).map(of).collect();
        s.a.many(GNTTABOP_copy, &mut all)?;
        let wrong = (0..1000).filter(|n| i32::from(all[*n].status) != if n % 3 == 0 { -1 } else { 0 }).count();
        if wrong > 0 {
            return Ok(Err(Errno::EILSEQ));
        }
        Ok(all.iter().filter(|c| c.status != GNTST_okay).count() as u64)
    };
};
