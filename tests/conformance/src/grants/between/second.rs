//! A guest whose table is of version 2 grants to dom0, which maps by its kernel and copies by hypercall. Marks are those of the status
//! words, as the guest reads them.

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::seam::Prot;
use xen_ioreq::{Errno, Gfn};

use super::copies::End;
use super::hand::Hand;
use super::{ACCESS, Between, DOM0, R, RO, S, byte_there, st};
use crate::case::{Answer, Case, Unmade, cases};

const PAGE: u16 = 4096;
/// No frame, whose number version 1 has no room for.
const NO_FRAME: Gfn = Gfn(1 << 34);

/// State: the first guest's table is of version 2, with its first frame granted to dom0, which begins with this byte.
fn granted(s: &mut Between, flags: u16, byte: u8) -> Result<(), Unmade> {
    s.a.set_version(2)?;
    let frame = s.a.frame(0);
    s.a.set_byte(frame, 0, byte)?;
    Ok(s.a.grant(R, DOM0, flags, frame)?)
}

/// State: of that frame only 64 bytes from 100 on are granted, of the second one all.
fn part(s: &mut Between, flags: u16) -> Result<(), Unmade> {
    s.a.set_version(2)?;
    let (frame, other) = (s.a.frame(0), s.a.frame(1));
    s.a.grant_part(R, DOM0, flags, frame, (100, 64))?;
    Ok(s.a.grant(S, DOM0, ACCESS, other)?)
}

fn from(s: &Between, at: u16, len: u16) -> Answer {
    s.copy(End::Ref(s.a.id(), R, at), End::Ref(s.a.id(), S, 0), len)
}

fn to(s: &Between, at: u16, len: u16) -> Answer {
    s.copy(End::Ref(s.a.id(), S, 0), End::Ref(s.a.id(), R, at), len)
}

/// Marks as an answer.
const fn marks(marks: u16) -> Answer {
    Ok(marks as u64)
}

pub(super) const ROWS: &[Case<Between>] = cases! { Between;
    "map_for_writing_sets_both_marks" ["D: marks stand in the status words"] => marks(GTF_reading | GTF_writing), |s| {
        granted(s, ACCESS, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::ReadWrite)?;
        Ok(s.a.marks(R)?.into())
    };
    "map_for_reading_sets_one_mark" ["D: marks stand in the status words"] => marks(GTF_reading), |s| {
        granted(s, ACCESS | GTF_readonly, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::Read)?;
        Ok(s.a.marks(R)?.into())
    };
    "the_entry_has_no_marks" ["D: marks stand in the status words"] => Ok(1), |s| {
        granted(s, ACCESS, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::ReadWrite)?;
        Ok(s.a.flags(R)?.into())
    };
    "unmapping_clears_the_marks" ["D: cleared per kind"] => marks(0), |s| {
        granted(s, ACCESS, 0)?;
        drop(s.map(s.a.id(), R, Prot::ReadWrite)?);
        Ok(s.a.marks_at_rest(R)?.into())
    };
    "what_is_left_for_reading_leaves_one_mark" ["D: cleared per kind"] => marks(GTF_reading), |s| {
        granted(s, ACCESS, 0)?;
        let _read = s.map(s.a.id(), R, Prot::Read)?;
        drop(s.map(s.a.id(), R, Prot::ReadWrite)?);
        Ok(s.a.marks_without(R, GTF_writing)?.into())
    };
    "the_guest's_bytes_are_seen" ["header"] => Ok(0x81), |s| {
        granted(s, ACCESS, 0x81)?;
        byte_there(&s.map(s.a.id(), R, Prot::Read)?)
    };
    "the_guest_sees_what_is_written" ["header"] => Ok(0x82), |s| {
        granted(s, ACCESS, 0)?;
        let mapped = s.map(s.a.id(), R, Prot::ReadWrite)?;
        mapped.write(0, &[0x82]).map_err(|_| Errno::EFAULT)?;
        let frame = s.a.frame(0);
        Ok(s.a.byte(frame, 0)?.into())
    };
    "withdrawn_while_mapped_it_stays" ["D: edits ignored until all pins drop"] => Ok(0x83), |s| {
        granted(s, ACCESS, 0x83)?;
        let mapped = s.map(s.a.id(), R, Prot::ReadWrite)?;
        s.a.withdraw(R)?;
        byte_there(&mapped)
    };
    "and_its_marks_stay" ["D: marks stand in the status words"] => marks(GTF_reading | GTF_writing), |s| {
        granted(s, ACCESS, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::ReadWrite)?;
        s.a.withdraw(R)?;
        Ok(s.a.marks(R)?.into())
    };
    "and_it_is_mapped_again" ["D: edits ignored until all pins drop"] => Ok(0), |s| {
        granted(s, ACCESS, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::ReadWrite)?;
        s.a.withdraw(R)?;
        s.try_map(s.a.id(), R, Prot::ReadWrite)
    };
    "and_is_gone_when_dom0_lets_go" ["D: bad type"] => Err(Errno::EINVAL), |s| {
        granted(s, ACCESS, 0)?;
        drop(s.map(s.a.id(), R, Prot::ReadWrite)?);
        s.a.withdraw(R)?;
        s.a.marks_at_rest(R)?;
        s.try_map(s.a.id(), R, Prot::Read)
    };
    "the_version_does_not_change_while_dom0_maps" ["D: any pin at ref >= 8"] => Err(Errno::EBUSY), |s| {
        granted(s, ACCESS, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::Read)?;
        s.a.set_version(1).map(|()| 0)
    };
    "setting_the_version_that_it_has_is_nothing" ["D: same version 0"] => Ok(0), |s| {
        granted(s, ACCESS, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::Read)?;
        s.a.set_version(2).map(|()| 0)
    };
    "a_read_only_entry_is_not_mapped_for_writing" ["D: ro violated"] => Err(Errno::EINVAL), |s| {
        granted(s, ACCESS | GTF_readonly, 0)?;
        s.try_map(s.a.id(), R, Prot::ReadWrite)
    };
    "what_was_refused_leaves_no_mark" ["D"] => marks(0), |s| {
        granted(s, ACCESS | GTF_readonly, 0)?;
        let _refused = s.try_map(s.a.id(), R, Prot::ReadWrite);
        Ok(s.a.marks(R)?.into())
    };
    "an_entry_for_another_guest_is_not_mapped" ["D: wrong domid"] => Err(Errno::EINVAL), |s| {
        s.a.set_version(2)?;
        let (frame, other) = (s.a.frame(0), s.b.id());
        s.a.grant(R, other, ACCESS, frame)?;
        s.try_map(s.a.id(), R, Prot::Read)
    };
    "a_part_is_not_mapped" ["header: sub_page is not mapped"] => Err(Errno::EINVAL), |s| {
        part(s, ACCESS)?;
        s.try_map(s.a.id(), R, Prot::Read)
    };
    "a_part_that_is_the_whole_is_not_mapped" ["header: sub_page is not mapped"] => Err(Errno::EINVAL), |s| {
        s.a.set_version(2)?;
        let frame = s.a.frame(0);
        s.a.grant_part(R, DOM0, ACCESS, frame, (0, PAGE))?;
        s.try_map(s.a.id(), R, Prot::Read)
    };
    "a_grant_handed_on_is_not_mapped" ["D: never mappable"] => Err(Errno::EINVAL), |s| {
        let frame = s.b.frame(0);
        s.b.grant(R, s.a.id(), ACCESS, frame)?;
        s.a.set_version(2)?;
        let from = s.b.id();
        s.a.hand_on(R, DOM0, from, R)?;
        s.try_map(s.a.id(), R, Prot::Read)
    };
    "no_frame_is_not_mapped" ["D: frame"] => Err(Errno::EINVAL), |s| {
        s.a.set_version(2)?;
        s.a.grant(R, DOM0, ACCESS, NO_FRAME)?;
        s.try_map(s.a.id(), R, Prot::Read)
    };
    "another_guest_maps_it_and_sets_the_marks" ["D: marks stand in the status words"] => marks(GTF_reading), |s| {
        s.a.set_version(2)?;
        let (frame, other, a) = (s.a.frame(0), s.b.id(), s.a.id());
        s.a.grant(R, other, ACCESS, frame)?;
        s.b.map(a, R, RO, 0)?;
        Ok(s.a.marks(R)?.into())
    };
    "and_reads_it" ["header"] => Ok(0x84), |s| {
        s.a.set_version(2)?;
        let (frame, other, a) = (s.a.frame(0), s.b.id(), s.a.id());
        s.a.set_byte(frame, 0, 0x84)?;
        s.a.grant(R, other, ACCESS, frame)?;
        s.b.map(a, R, RO, 0)?;
        Ok(s.b.byte(Hand::place(0), 0)?.into())
    };
    "copy_of_a_whole_page" ["header"] => Ok(0x85), |s| {
        granted(s, ACCESS | GTF_readonly, 0x85)?;
        let other = s.a.frame(1);
        s.a.grant(S, DOM0, ACCESS, other)?;
        from(s, 0, PAGE)?;
        Ok(s.a.byte(other, 0)?.into())
    };
    "copy_leaves_no_mark" ["header"] => marks(0), |s| {
        part(s, ACCESS)?;
        from(s, 100, 64)?;
        Ok(s.a.marks(R)?.into())
    };
    "copy_to_a_read_only_entry" ["D: ro violated"] => Ok(1), |s| {
        part(s, ACCESS | GTF_readonly)?;
        to(s, 100, 8)
    };
    "copy_of_a_part" ["header: sub_page"] => Ok(0), |s| {
        part(s, ACCESS)?;
        from(s, 100, 64)
    };
    "copy_to_a_part" ["header: sub_page"] => Ok(0x86), |s| {
        part(s, ACCESS)?;
        let (frame, other) = (s.a.frame(0), s.a.frame(1));
        s.a.set_byte(other, 0, 0x86)?;
        to(s, 163, 1)?;
        Ok(s.a.byte(frame, 163)?.into())
    };
    "copy_from_before_a_part" ["D: grant window -1"] => Ok(1), |s| {
        part(s, ACCESS)?;
        from(s, 99, 2)
    };
    "copy_to_behind_a_part" ["D: grant window -1"] => Ok(1), |s| {
        part(s, ACCESS)?;
        to(s, 163, 2)
    };
    "copy_of_a_part_that_leaves_the_page" ["D: page -10"] => Ok(10), |s| {
        s.a.set_version(2)?;
        let (frame, other) = (s.a.frame(0), s.a.frame(1));
        s.a.grant_part(R, DOM0, ACCESS, frame, (4000, 200))?;
        s.a.grant(S, DOM0, ACCESS, other)?;
        from(s, 4000, 100)
    };
    "copy_within_a_part_that_leaves_the_page" ["D: bounds after claim"] => Ok(0), |s| {
        s.a.set_version(2)?;
        let (frame, other) = (s.a.frame(0), s.a.frame(1));
        s.a.grant_part(R, DOM0, ACCESS, frame, (4000, 200))?;
        s.a.grant(S, DOM0, ACCESS, other)?;
        from(s, 4000, 96)
    };
    "copy_of_a_part_of_no_bytes" ["D: grant window -1"] => Ok(1), |s| {
        s.a.set_version(2)?;
        let (frame, other) = (s.a.frame(0), s.a.frame(1));
        s.a.grant_part(R, DOM0, ACCESS, frame, (8, 0))?;
        s.a.grant(S, DOM0, ACCESS, other)?;
        from(s, 8, 1)
    };
    "copy_of_no_frame" ["D: frame"] => Ok(9), |s| {
        part(s, ACCESS)?;
        s.a.grant(R, DOM0, ACCESS, NO_FRAME)?;
        from(s, 0, 8)
    };
    "copy_of_a_withdrawn_entry" ["D: bad type"] => Ok(1), |s| {
        part(s, ACCESS)?;
        s.a.withdraw(R)?;
        from(s, 100, 8)
    };
    "swapped_entries_are_each_other" ["header"] => Ok(1), |s| {
        part(s, ACCESS)?;
        let mut arg = gnttab_swap_grant_ref { ref_a: R, ref_b: S, ..Default::default() };
        s.a.op(GNTTABOP_swap_grant_ref, &mut arg)?;
        from(s, 0, PAGE)?;
        to(s, 0, PAGE)
    };
    "a_table_that_was_changed_twice_grants_nothing" ["D: entries are zeroed"] => Ok(1), |s| {
        part(s, ACCESS)?;
        s.a.set_version(1)?;
        s.a.set_version(2)?;
        from(s, 100, 8)
    };
    "a_mapping_of_dom0's_holds_up_a_swap" ["D: either pinned"] => Ok(12), |s| {
        granted(s, ACCESS, 0)?;
        let _mapped = s.map(s.a.id(), R, Prot::Read)?;
        let mut arg = gnttab_swap_grant_ref { ref_a: R, ref_b: S, ..Default::default() };
        s.a.op(GNTTABOP_swap_grant_ref, &mut arg)?;
        st(arg.status)
    };
};
