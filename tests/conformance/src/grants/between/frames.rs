//! What the first guest has at a frame number decides whether it can be granted: RAM of every kind, device memory, nothing, what is
//! not its own. The second guest maps it and copies it.

use guest::grants::{STATUS, TABLE};
use xen_ioreq::abi::dm_op::*;
use xen_ioreq::abi::hvm_op::*;
use xen_ioreq::seam::Prot;
use xen_ioreq::{Errno, Gfn};
use zerocopy::IntoBytes;

use super::copies::End;
use super::hand::Hand;
use super::{ACCESS, Between, DOM0, HOST, R, RO, one, st};
use crate::bench::HOLE;
use crate::case::{Answer, Case, Unmade, cases};

/// Where the local APIC is.
const APIC: Gfn = Gfn(0xfee00);
/// Frames of the first guest's, each of which is made something else for good.
const GIVEN_UP: [u64; 4] = [40, 41, 42, 43];
const OF_DEVICES: [u64; 3] = [50, 51, 52];
const READ_ONLY: u64 = 60;

fn grant(s: &mut Between, frame: Gfn) -> Result<(), Unmade> {
    let to = s.b.id();
    Ok(s.a.grant(R, to, ACCESS, frame)?)
}

/// The second guest maps it.
fn map(s: &mut Between, flags: u32, frame: Gfn) -> Result<Answer, Unmade> {
    grant(s, frame)?;
    let a = s.a.id();
    Ok(st(s.b.map(a, R, flags, 0)?))
}

/// It copies from it.
fn read(s: &mut Between, frame: Gfn) -> Result<Answer, Unmade> {
    grant(s, frame)?;
    let (a, own) = (s.a.id(), s.b.frame(0));
    Ok(st(s.b.copy(End::Ref(a, R, 0), End::Own(own, 0), 8)?))
}

/// It copies to it.
fn write(s: &mut Between, frame: Gfn) -> Result<Answer, Unmade> {
    grant(s, frame)?;
    let (a, own) = (s.a.id(), s.b.frame(0));
    Ok(st(s.b.copy(End::Own(own, 0), End::Ref(a, R, 0), 8)?))
}

/// State: the frame of that number has been given up.
fn given_up(s: &mut Between, n: u64) -> Result<Gfn, Unmade> {
    let frame = s.a.frame(n);
    s.a.give_up(frame)?;
    Ok(frame)
}

/// State: the frame of that number has this type.
fn typed(s: &mut Between, n: u64, mem_type: u16) -> Result<Gfn, Unmade> {
    let frame = s.a.frame(n);
    let arg = xen_dm_op_set_mem_type { mem_type, nr: 1, first_pfn: frame.0, ..Default::default() };
    let mut whole = xen_dm_op { op: XEN_DMOP_set_mem_type, ..Default::default() };
    arg.write_to_prefix(whole.u.as_mut_bytes()).map_err(|_| Errno::E2BIG)?;
    s.bench.hypervisor.dm_op(s.a.id(), &mut [whole.as_mut_bytes()])?;
    Ok(frame)
}

/// State: a page of dom0's is mapped there.
fn foreign(s: &mut Between) -> Result<(Gfn, stubdom::grants::Granted), Unmade> {
    let page = s.give_byte(s.a.id(), Prot::ReadWrite, 0xa1)?;
    s.a.map(DOM0, one(&page), HOST, 0)?;
    Ok((Hand::place(0), page))
}

/// State: its table is of version 2, so it has a frame of status words.
fn status_words(s: &mut Between) -> Result<Gfn, Unmade> {
    s.a.set_version(2)?;
    Ok(STATUS)
}

pub(super) const ROWS: &[Case<Between>] = cases! { Between;
    "nothing_is_not_mapped" ["D: frame"] => Ok(9), |s| map(s, RO, HOLE)?;
    "nothing_is_not_copied" ["D: frame"] => Ok(9), |s| read(s, HOLE)?;
    "a_frame_that_was_given_up_is_not_mapped" ["D: frame"] => Ok(9), |s| {
        let frame = given_up(s, GIVEN_UP[0])?;
        map(s, HOST, frame)?
    };
    "a_frame_that_was_given_up_is_not_mapped_for_reading" ["D: frame"] => Ok(9), |s| {
        let frame = given_up(s, GIVEN_UP[1])?;
        map(s, RO, frame)?
    };
    "a_frame_that_was_given_up_is_not_copied" ["D: frame"] => Ok(9), |s| {
        let frame = given_up(s, GIVEN_UP[2])?;
        read(s, frame)?
    };
    "a_frame_given_up_while_mapped_stays_mapped" ["D: the mapping holds it"] => Ok(0xa2), |s| {
        let frame = s.a.frame(GIVEN_UP[3]);
        s.a.set_byte(frame, 0, 0xa2)?;
        map(s, HOST, frame)?.map_err(Unmade)?;
        s.a.give_up(frame)?;
        Ok(s.b.byte(Hand::place(0), 0)?.into())
    };
    "the_local_apic_is_not_mapped" ["Xen: device memory"] => Ok(9), |s| map(s, HOST, APIC)?;
    "the_local_apic_is_not_mapped_for_reading" ["Xen: device memory"] => Ok(9), |s| map(s, RO, APIC)?;
    "the_local_apic_is_not_copied" ["Xen: device memory"] => Ok(9), |s| read(s, APIC)?;
    "the_local_apic_is_not_copied_to" ["Xen: device memory"] => Ok(9), |s| write(s, APIC)?;
    "memory_that_is_a_device's_is_not_mapped" ["Xen: mmio_dm"] => Ok(9), |s| {
        let frame = typed(s, OF_DEVICES[0], HVMMEM_mmio_dm)?;
        map(s, HOST, frame)?
    };
    "memory_that_is_a_device's_is_not_mapped_for_reading" ["Xen: mmio_dm"] => Ok(9), |s| {
        let frame = typed(s, OF_DEVICES[1], HVMMEM_mmio_dm)?;
        map(s, RO, frame)?
    };
    "memory_that_is_a_device's_is_not_copied" ["Xen: mmio_dm"] => Ok(9), |s| {
        let frame = typed(s, OF_DEVICES[2], HVMMEM_mmio_dm)?;
        read(s, frame)?
    };
    "read_only_memory_is_mapped_for_writing" ["Xen 4.17: read-only for its owner"] => Ok(0), |s| {
        let frame = typed(s, READ_ONLY, HVMMEM_ram_ro)?;
        map(s, HOST, frame)?
    };
    "read_only_memory_is_mapped_for_reading" ["Xen: ram_ro"] => Ok(0), |s| {
        let frame = typed(s, READ_ONLY, HVMMEM_ram_ro)?;
        map(s, RO, frame)?
    };
    "read_only_memory_is_copied" ["Xen: ram_ro"] => Ok(0), |s| {
        let frame = typed(s, READ_ONLY, HVMMEM_ram_ro)?;
        read(s, frame)?
    };
    "read_only_memory_is_copied_to" ["Xen 4.17: read-only for its owner"] => Ok(0), |s| {
        let frame = typed(s, READ_ONLY, HVMMEM_ram_ro)?;
        write(s, frame)?
    };
    "memory_that_becomes_read_only_while_mapped_stays" ["D: the frame is looked up once"] => Ok(0), |s| {
        let frame = typed(s, READ_ONLY, HVMMEM_ram_rw)?;
        map(s, HOST, frame)?.map_err(Unmade)?;
        typed(s, READ_ONLY, HVMMEM_ram_ro)?;
        let a = s.a.id();
        st(s.b.map(a, R, HOST, 1)?)
    };
    "the_table_is_mapped" ["Xen: a page of its own that Xen shares"] => Ok(0), |s| map(s, HOST, TABLE)?;
    "the_table_is_mapped_for_reading" ["Xen: a page of its own that Xen shares"] => Ok(0), |s| map(s, RO, TABLE)?;
    "the_table_is_copied" ["Xen: a page of its own that Xen shares"] => Ok(0), |s| read(s, TABLE)?;
    "the_status_words_are_mapped" ["Xen: a page of its own that Xen shares"] => Ok(0), |s| {
        let frame = status_words(s)?;
        map(s, RO, frame)?
    };
    "the_status_words_are_copied" ["Xen: a page of its own that Xen shares"] => Ok(0), |s| {
        let frame = status_words(s)?;
        read(s, frame)?
    };
    "what_dom0_granted_is_not_granted_again" ["Xen: not its own"] => Ok(9), |s| {
        let (frame, _page) = foreign(s)?;
        map(s, HOST, frame)?
    };
    "nor_for_reading" ["Xen: not its own"] => Ok(9), |s| {
        let (frame, _page) = foreign(s)?;
        map(s, RO, frame)?
    };
    "nor_copied_from" ["Xen: not its own"] => Ok(9), |s| {
        let (frame, _page) = foreign(s)?;
        read(s, frame)?
    };
    "nor_copied_to" ["Xen: not its own"] => Ok(9), |s| {
        let (frame, _page) = foreign(s)?;
        write(s, frame)?
    };
    "its_mapper_does_not_copy_from_the_place_of_a_grant" ["Xen: not its own"] => Ok(9), |s| {
        let (place, _page) = foreign(s)?;
        let own = s.a.frame(0);
        st(s.a.copy(End::Own(place, 0), End::Own(own, 0), 8)?)
    };
    "dom0_does_not_map_what_another_domain_granted_the_guest" ["Xen: not its own"] => Err(Errno::EINVAL), |s| {
        let (frame, to, a, b) = (s.b.frame(0), s.a.id(), s.a.id(), s.b.id());
        s.b.grant(R, to, ACCESS, frame)?;
        s.a.map(b, R, HOST, 0)?;
        s.a.grant(R, DOM0, ACCESS, Hand::place(0))?;
        s.try_map(a, R, Prot::Read)
    };
};
