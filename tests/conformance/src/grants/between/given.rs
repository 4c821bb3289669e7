//! dom0's kernel grants pages of its own to a guest, which maps them, copies to and from them, and outlives their end.

use xen_ioreq::Errno;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::seam::Prot;

use super::copies::End;
use super::hand::Hand;
use super::{Between, DOM0, HOST, RO, byte_of, one, st};
use crate::case::{Case, cases};

/// A reference that no table has.
const FAR: u32 = 1 << 30;
const PAGE: u16 = 4096;

pub(super) const ROWS: &[Case<Between>] = cases! { Between;
    "a_page_of_dom0's_is_mapped" ["header"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        st(s.a.map(DOM0, one(&page), HOST, 0)?)
    };
    "the_guest_reads_what_dom0_wrote" ["header"] => Ok(0x71), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x71)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        Ok(s.a.byte(Hand::place(0), 0)?.into())
    };
    "dom0_reads_what_the_guest_wrote" ["header"] => Ok(0x72), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        s.a.set_byte(Hand::place(0), 0, 0x72)?;
        byte_of(&page)
    };
    "a_page_to_be_read_is_mapped_for_reading" ["header"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        st(s.a.map(DOM0, one(&page), RO, 0)?)
    };
    "a_page_to_be_read_is_read" ["header"] => Ok(0x73), |s| {
        let page = s.give_byte(s.a.id(), Prot::Read, 0x73)?;
        s.a.map(DOM0, one(&page), RO, 0)?;
        Ok(s.a.byte(Hand::place(0), 0)?.into())
    };
    "a_page_to_be_read_is_not_mapped_for_writing" ["D: ro violated"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        st(s.a.map(DOM0, one(&page), HOST, 0)?)
    };
    "nor_where_it_is_mapped_for_reading" ["D: raising re-checks GTF_readonly"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        s.a.map(DOM0, one(&page), RO, 0)?;
        st(s.a.map(DOM0, one(&page), HOST, 1)?)
    };
    "a_page_for_another_guest_is_not_mapped" ["D: wrong domid"] => Ok(1), |s| {
        let page = s.give(s.b.id(), Prot::ReadWrite)?;
        st(s.a.map(DOM0, one(&page), RO, 0)?)
    };
    "nor_while_that_one_has_it_mapped" ["D: pinned: domid"] => Ok(1), |s| {
        let page = s.give(s.b.id(), Prot::ReadWrite)?;
        s.b.map(DOM0, one(&page), HOST, 0)?;
        st(s.a.map(DOM0, one(&page), RO, 0)?)
    };
    "nor_copied" ["D: wrong domid"] => Ok(1), |s| {
        let page = s.give(s.b.id(), Prot::ReadWrite)?;
        let own = s.a.frame(0);
        st(s.a.copy(End::Ref(DOM0, one(&page), 0), End::Own(own, 0), 8)?)
    };
    "a_reference_beyond_dom0's_table" ["D: ref range"] => Ok(3), |s| st(s.a.map(DOM0, FAR, HOST, 0)?);
    "the_place_is_empty_after_unmapping" ["header"] => Ok(0xff), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        s.a.unmap(0)?;
        Ok(s.a.byte(Hand::place(0), 0)?.into())
    };
    "unmapping" ["header"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        st(s.a.unmap(0)?)
    };
    "unmapping_twice_is_bad_handle" ["D: free handle"] => Ok(4), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        s.a.unmap(0)?;
        st(s.a.unmap(0)?)
    };
    "mapped_at_two_places_it_is_one_page" ["header"] => Ok(0x74), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        s.a.map(DOM0, one(&page), RO, 1)?;
        s.a.set_byte(Hand::place(0), 0, 0x74)?;
        Ok(s.a.byte(Hand::place(1), 0)?.into())
    };
    "one_place_is_left_when_the_other_goes" ["header"] => Ok(0x75), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x75)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        s.a.map(DOM0, one(&page), HOST, 1)?;
        s.a.unmap(0)?;
        Ok(s.a.byte(Hand::place(1), 0)?.into())
    };
    "of_three_at_once_the_bad_one_fails" ["header"] => Ok(0x010), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let (good, bad) = ((DOM0, one(&page), HOST), (DOM0, one(&page), GNTMAP_device_map | HOST));
        let statuses = s.a.map_many(&[good, bad, good])?;
        statuses.iter().try_fold(0, |all, status| Ok(all << 4 | u64::from(status.unsigned_abs())))
    };
    "a_guest_of_version_2_maps_dom0's_of_version_1" ["header: the granter's version"] => Ok(0x76), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x76)?;
        s.a.set_version(2)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        Ok(s.a.byte(Hand::place(0), 0)?.into())
    };
    "mappings_do_not_hold_up_the_guest's_own_version" ["D: pins of its own table"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        s.a.set_version(2).map(|()| 0)
    };
    "copy_from_dom0's_page" ["header"] => Ok(0x77), |s| {
        let page = s.give_byte(s.a.id(), Prot::Read, 0x77)?;
        let own = s.a.frame(0);
        s.a.copy(End::Ref(DOM0, one(&page), 0), End::Own(own, 0), PAGE)?;
        Ok(s.a.byte(own, 0)?.into())
    };
    "copy_to_dom0's_page" ["header"] => Ok(0x78), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let own = s.a.frame(0);
        s.a.set_byte(own, 100, 0x78)?;
        s.a.copy(End::Own(own, 100), End::Ref(DOM0, one(&page), 0), 1)?;
        byte_of(&page)
    };
    "copy_to_a_page_to_be_read" ["D: ro violated"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::Read)?;
        let own = s.a.frame(0);
        st(s.a.copy(End::Own(own, 0), End::Ref(DOM0, one(&page), 0), 8)?)
    };
    "copy_to_a_page_that_is_mapped_for_reading" ["D: raising re-checks GTF_readonly"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), RO, 0)?;
        let own = s.a.frame(0);
        st(s.a.copy(End::Own(own, 0), End::Ref(DOM0, one(&page), 0), 8)?)
    };
    "copy_beyond_the_page" ["header"] => Ok(10), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let own = s.a.frame(0);
        st(s.a.copy(End::Ref(DOM0, one(&page), PAGE - 4), End::Own(own, 0), 8)?)
    };
    "copy_between_two_pages_of_dom0's" ["header: both by reference"] => Ok(0x79), |s| {
        let (from, to) = (s.give_byte(s.a.id(), Prot::Read, 0x79)?, s.give(s.a.id(), Prot::ReadWrite)?);
        s.a.copy(End::Ref(DOM0, one(&from), 0), End::Ref(DOM0, one(&to), 0), PAGE)?;
        byte_of(&to)
    };
    "copy_from_dom0's_page_to_another_guest's" ["header: both by reference"] => Ok(0x7a), |s| {
        let page = s.give_byte(s.b.id(), Prot::Read, 0x7a)?;
        let (a, own) = (s.a.id(), s.a.frame(0));
        s.a.grant(9, s.b.id(), GTF_permit_access, own)?;
        s.b.copy(End::Ref(DOM0, one(&page), 0), End::Ref(a, 9, 0), PAGE)?;
        Ok(s.a.byte(own, 0)?.into())
    };
    "a_page_that_dom0_has_closed_is_gone" ["Linux ends the grant"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let r = one(&page);
        drop(page);
        s.map_when_ended(r)
    };
    "a_page_closed_while_mapped_stays" ["Linux waits for the peer"] => Ok(0x7b), |s| {
        let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0x7b)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        drop(page);
        Ok(s.a.byte(Hand::place(0), 0)?.into())
    };
    "and_nobody_else_gets_it" ["Linux waits for the peer"] => Ok(0x7c), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        s.a.map(DOM0, one(&page), HOST, 0)?;
        drop(page);
        s.a.set_byte(Hand::place(0), 0, 0x7c)?;
        // Pages that dom0 gives meanwhile are others, and empty.
        for _ in 0..20 {
            let other = s.give(s.a.id(), Prot::ReadWrite)?;
            if byte_of(&other) != Ok(0) {
                return Ok(Err(Errno::EEXIST));
            }
        }
        Ok(s.a.byte(Hand::place(0), 0)?.into())
    };
    "and_is_mapped_again_meanwhile" ["D: edits ignored until all pins drop"] => Ok(0), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let r = one(&page);
        s.a.map(DOM0, r, HOST, 0)?;
        drop(page);
        st(s.a.map(DOM0, r, HOST, 1)?)
    };
    "and_is_gone_when_the_guest_lets_go" ["Linux waits for the peer"] => Ok(1), |s| {
        let page = s.give(s.a.id(), Prot::ReadWrite)?;
        let r = one(&page);
        s.a.map(DOM0, r, HOST, 0)?;
        drop(page);
        s.a.unmap(0)?;
        s.map_when_ended(r)
    };
};
