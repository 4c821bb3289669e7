//! Rows of `dm_op` about the guest's memory: types of frames, frames that were written, that move, that are cached.

use std::sync::atomic::Ordering;

use xen_ioreq::abi::dm_op::*;
use xen_ioreq::abi::hvm_op::{HVMMEM_ioreq_server, HVMMEM_ram_ro, HVMMEM_ram_rw, HVMMEM_unused};
use xen_ioreq::abi::memory::{XENMEM_decrease_reservation as OUT, XENMEM_populate_physmap as IN};
use xen_ioreq::seam::MOST_PAUSED_OPS;
use xen_ioreq::{DomId, Errno, Gfn};
use zerocopy::IntoBytes;

use super::stage::Stage;
use crate::bench::{HOLE, RAM};
use crate::case::{Answer, Case, Unmade, cases};
use crate::shared::first_byte;

const CLAIM: u32 = XEN_DMOP_map_mem_type_to_ioreq_server;
const WRITE: u32 = XEN_DMOP_IOREQ_MEM_ACCESS_WRITE;
/// A frame number without RAM, where a row may put some and takes it away again.
const SPARE: u64 = 0x8_0000;
/// A frame number that no address has.
const BEYOND: u64 = 1 << 60;
const WC: u32 = XEN_DMOP_MEM_CACHEATTR_WC;
const DELETE: u32 = XEN_DMOP_DELETE_MEM_CACHEATTR;

fn mem_type(id: u16, r#type: u16, flags: u32) -> xen_dm_op_map_mem_type_to_ioreq_server {
    xen_dm_op_map_mem_type_to_ioreq_server { id, r#type, flags, ..Default::default() }
}

fn set_type(mem_type: u16, first_pfn: u64, nr: u32) -> xen_dm_op_set_mem_type {
    xen_dm_op_set_mem_type { nr, mem_type, first_pfn, ..Default::default() }
}

/// A frame of the guest's becomes that.
fn type_op(mem_type: u16, first_pfn: u64) -> xen_dm_op {
    let mut op = xen_dm_op { op: XEN_DMOP_set_mem_type, ..Default::default() };
    // It fits: it is a member of the union.
    let _ = set_type(mem_type, first_pfn, 1).write_to_prefix(op.u.as_mut_bytes());
    op
}

/// The type is a server's, or, without flags, nobody's.
fn claim_op(id: u16, flags: u32) -> xen_dm_op {
    let mut op = xen_dm_op { op: CLAIM, ..Default::default() };
    let _ = mem_type(id, HVMMEM_ioreq_server, flags).write_to_prefix(op.u.as_mut_bytes());
    op
}

/// track_dirty_vram; the answer is the first byte of the bitmap, which has so many bytes and was 0x55 before.
fn track(s: &Stage, first_pfn: u64, nr: u32, bytes: usize) -> Answer {
    let mut bitmap = vec![0x55; bytes];
    let data = xen_dm_op_track_dirty_vram { nr, pad: 0, first_pfn };
    s.tell_with(XEN_DMOP_track_dirty_vram, data, &mut bitmap)?;
    Ok(bitmap.first().copied().unwrap_or(0).into())
}

/// Writes to the guest's RAM through a mapping.
fn write(s: &Stage, gfn: u64, value: u8) -> Result<(), Unmade> {
    let pages = s.foreign(s.guest(), &[Gfn(gfn)])?;
    match pages.error(0) {
        Some(e) => Err(Unmade(e)),
        None => {
            first_byte(&pages.mapping).ok_or(Errno::EFAULT)?.store(value, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// The first byte of a frame of the guest's, through a mapping.
fn read(s: &Stage, gfn: u64) -> Answer {
    let pages = s.foreign(s.guest(), &[Gfn(gfn)])?;
    match pages.error(0) {
        Some(e) => Err(e),
        None => first_byte(&pages.mapping).ok_or(Errno::EFAULT).map(|b| b.load(Ordering::Relaxed).into()),
    }
}

fn relocate(s: &Stage, src_gfn: u64, dst_gfn: u64, size: u32) -> Answer {
    s.tell(XEN_DMOP_relocate_memory, xen_dm_op_relocate_memory { size, pad: 0, src_gfn, dst_gfn })
}

fn pin(s: &Stage, start: u64, end: u64, r#type: u32) -> Answer {
    s.tell(XEN_DMOP_pin_memory_cacheattr, xen_dm_op_pin_memory_cacheattr { start, end, r#type, pad: 0 })
}

fn modified(s: &Stage, nr_extents: u32, extents: &mut [u8]) -> Answer {
    s.tell_with(XEN_DMOP_modified_memory, xen_dm_op_modified_memory { nr_extents, opaque: 0 }, extents)
}

/// Types of frames.
#[rustfmt::skip]
pub(super) const TYPES: &[Case<Stage>] = cases! { Stage;
    "claim_the_memory_type" ["p2m.c"] => Ok(0), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE)) };
    "claim_it_twice_is_ebusy" ["p2m.c"] => Err(Errno::EBUSY), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE)) };
    "claim_anothers_is_ebusy" ["p2m.c"] => Err(Errno::EBUSY), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, WRITE)) };
    "claim_and_give_back" ["p2m.c"] => Ok(0), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0)) };
    "give_back_what_is_anothers_is_einval" ["p2m.c"] => Err(Errno::EINVAL), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, 0)) };
    "give_back_what_nobody_has_is_einval" ["p2m.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0)) };
    "claim_reads_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, XEN_DMOP_IOREQ_MEM_ACCESS_READ)) };
    "claim_another_type_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ram_rw, WRITE)) };
    "claim_for_an_unknown_server_is_enoent" ["ioreq.c"] => Err(Errno::ENOENT), |s| s.tell(CLAIM, mem_type(4, HVMMEM_ioreq_server, WRITE));
    "destroying_the_claimer_frees_the_type" ["ioreq.c"] => Ok(0), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.destroy(a)?; s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, WRITE)) };
    "a_frame_of_the_type_before_it_is_claimed_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1));
    "a_frame_of_the_type_and_back" ["dm.c"] => Ok(0), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0, 1)) };
    "a_frame_of_the_type_twice_is_einval" ["dm.c: only ram_rw"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; let got = s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1)); s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0))?; got };
    "a_frame_of_the_type_becomes_nothing_but_ram" ["dm.c"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; let got = s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_ro, RAM.0, 1)); s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0))?; got };
    "a_frame_of_the_type_is_memory_to_who_maps_it" ["p2m.h: it is RAM"] => Ok(0xa7), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; write(s, RAM.0, 0xa7)?; let got = read(s, RAM.0); s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0))?; got };
    "giving_the_type_back_makes_ram_of_its_frames" ["dm.c: p2m_finish_type_change"] => Ok(0), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 2))?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0))?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 2))?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0)) };
    "frames_that_a_destroyed_claimer_left_keep_the_type_from_others" ["p2m.c: entry_count"] => Err(Errno::EBUSY), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; s.destroy(a)?; let got = s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, WRITE)); s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0, 1))?; got };
    "and_do_not_once_they_are_ram" ["p2m.c: entry_count"] => Ok(0), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; s.destroy(a)?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0, 1))?; s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, WRITE)) };
    "a_frame_of_the_type_that_was_given_up_and_came_back_is_ram" ["p2m.c: it is ram_rw"] => Ok(0), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; s.reserve(OUT, s.guest(), &[RAM])?; s.reserve(IN, s.guest(), &[RAM])?; s.destroy(a)?; s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, WRITE)) };
    "dirty_vram_passes_by_a_frame_of_the_type" ["p2m.c: only ram_rw changes"] => Ok(0), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; track(s, RAM.0, 1, 1)?; let got = track(s, RAM.0, 1, 1); track(s, 0, 0, 1)?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, 0))?; got };
    "ram_of_ram" ["dm.c"] => Ok(0), |s| s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0, 1));
    "type_3_is_einval" ["hvm_op.h: HVMMEM_unused"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_unused, RAM.0, 1));
    "type_of_no_frame_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0, 0));
    "type_of_a_frame_beyond_the_last_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, HOLE.0, 1));
    "type_of_frames_that_wrap_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, u64::MAX, 2));
    "read_only_and_back" ["dm.c"] => Ok(0), |s| { s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_ro, RAM.0, 1))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0, 1)) };
    "read_only_ram_is_not_for_a_server" ["dm.c: only ram_rw"] => Err(Errno::EINVAL), |s| { let id = s.server()?; s.tell(CLAIM, mem_type(id, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_ro, RAM.0, 1))?; let got = s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1)); s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0, 1))?; got };
    "type_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_mem_type, xen_dm_op_set_mem_type { pad: 1, ..set_type(HVMMEM_ram_rw, RAM.0, 1) });
    "type_5_is_einval" ["hvm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_mem_type, set_type(5, RAM.0, 1));
};

/// Operations on a domain that is paused for them.
#[rustfmt::skip]
pub(super) const PAUSED: &[Case<Stage>] = cases! { Stage;
    "nothing_while_paused" ["domctl.c, multicall.c"] => Ok(0), |s| s.paused(s.guest(), &mut []);
    "an_unknown_domain_is_esrch" ["domctl.c"] => Err(Errno::ESRCH), |s| s.paused(DomId(0x7ef0), &mut []);
    "more_than_are_taken_is_e2big" ["ours"] => Err(Errno::E2BIG), |s| s.paused(s.guest(), &mut [xen_dm_op::default(); MOST_PAUSED_OPS + 1]);
    "each_is_carried_out_and_one_that_fails_stops_none" ["multicall.c"] => Ok(0b101), |s| { let ram = type_op(HVMMEM_ram_rw, RAM.0); s.paused(s.guest(), &mut [ram, type_op(HVMMEM_unused, RAM.0), ram]) };
    "as_many_as_are_taken" ["multicall.c"] => Ok(u64::MAX), |s| s.paused(s.guest(), &mut [type_op(HVMMEM_ram_rw, RAM.0); MOST_PAUSED_OPS]);
    "what_they_give_back_is_there" ["dm.c"] => Ok(1), |s| { let mut ops = [xen_dm_op { op: XEN_DMOP_nr_vcpus, ..Default::default() }]; s.paused(s.guest(), &mut ops)?; Ok(ops[0].u[0] & 0xffff_ffff) };
    "a_server_gives_all_its_frames_back_but_one" ["dm.c: p2m_finish_type_change"] => Ok(0b111), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 3))?; let got = s.paused(s.guest(), &mut [claim_op(a, 0), claim_op(a, WRITE), type_op(HVMMEM_ioreq_server, RAM.0 + 1)]); s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ram_rw, RAM.0 + 1, 1))?; s.destroy(a)?; s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, WRITE))?; got };
    "a_frame_is_let_go" ["p2m.c: entry_count"] => Ok(0), |s| { let (a, b) = (s.server()?, s.server()?); s.tell(CLAIM, mem_type(a, HVMMEM_ioreq_server, WRITE))?; s.tell(XEN_DMOP_set_mem_type, set_type(HVMMEM_ioreq_server, RAM.0, 1))?; s.paused(s.guest(), &mut [type_op(HVMMEM_ram_rw, RAM.0)])?; s.destroy(a)?; s.tell(CLAIM, mem_type(b, HVMMEM_ioreq_server, WRITE)) };
};

/// Frames that were written.
#[rustfmt::skip]
pub(super) const DIRTY: &[Case<Stage>] = cases! { Stage;
    "the_first_look_says_all" ["hap.c"] => Ok(0xff), |s| { let got = track(s, RAM.0, 3, 1); track(s, 0, 0, 1)?; got };
    "the_second_look_says_none" ["hap.c"] => Ok(0), |s| { track(s, RAM.0, 3, 1)?; let got = track(s, RAM.0, 3, 1); track(s, 0, 0, 1)?; got };
    "writes_by_a_mapping_do_not_count" ["hap.c: only the guest traps"] => Ok(0), |s| { track(s, RAM.0, 3, 1)?; write(s, RAM.0, 1)?; let got = track(s, RAM.0, 3, 1); track(s, 0, 0, 1)?; got };
    "another_range_begins_anew" ["hap.c"] => Ok(0xff), |s| { track(s, RAM.0, 3, 1)?; let got = track(s, RAM.0, 2, 1); track(s, 0, 0, 1)?; got };
    "a_range_begins_anew_after_a_stop" ["hap.c"] => Ok(0xff), |s| { track(s, RAM.0, 3, 1)?; track(s, 0, 0, 1)?; let got = track(s, RAM.0, 3, 1); track(s, 0, 0, 1)?; got };
    "a_stop_leaves_the_bitmap" ["hap.c"] => Ok(0x55), |s| { track(s, RAM.0, 3, 1)?; track(s, 0, 0, 1) };
    "a_stop_without_a_start" ["hap.c"] => Ok(0x55), |s| track(s, 0, 0, 1);
    "a_frame_that_came_back_counts" ["p2m.c: it is ram_rw"] => Ok(0b10), |s| { track(s, RAM.0, 3, 1)?; let one = Gfn(RAM.0 + 1); s.reserve(OUT, s.guest(), &[one])?; s.reserve(IN, s.guest(), &[one])?; let got = track(s, RAM.0, 3, 1); track(s, 0, 0, 1)?; got };
    "a_frame_that_went_does_not" ["hap.c"] => Ok(0), |s| { track(s, RAM.0, 3, 1)?; s.reserve(OUT, s.guest(), &[RAM])?; let got = track(s, RAM.0, 3, 1); track(s, 0, 0, 1)?; got };
    "without_a_bitmap_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_track_dirty_vram, xen_dm_op_track_dirty_vram { nr: 1, pad: 0, first_pfn: RAM.0 });
    "with_a_short_bitmap_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| track(s, RAM.0, 9, 1);
    "with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell_with(XEN_DMOP_track_dirty_vram, xen_dm_op_track_dirty_vram { nr: 1, pad: 1, first_pfn: RAM.0 }, &mut [0]);
    "more_than_1_gib_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| track(s, RAM.0, (1 << 18) + 1, 1);
    "modified_memory_without_extents" ["dm.c"] => Ok(0), |s| modified(s, 0, &mut [0; 16]);
    "modified_memory_looks_at_nothing_while_nothing_migrates" ["dm.c: paging_mode_log_dirty"] => Ok(0), |s| modified(s, 1000, &mut [0xff; 16]);
    "modified_memory_with_one_buffer_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_modified_memory, xen_dm_op_modified_memory { nr_extents: 0, opaque: 0 });
};

/// Frames that move, and how they are cached.
#[rustfmt::skip]
pub(super) const PLACES: &[Case<Stage>] = cases! { Stage;
    "move_there_and_back" ["memory.c"] => Ok(0), |s| { relocate(s, RAM.0, SPARE, 2)?; relocate(s, SPARE, RAM.0, 2) };
    "what_moves_keeps_what_is_in_it" ["memory.c"] => Ok(0xa7), |s| { write(s, RAM.0, 0xa7)?; relocate(s, RAM.0, SPARE, 1)?; let got = read(s, SPARE); relocate(s, SPARE, RAM.0, 1)?; got };
    "nothing_is_left_behind" ["memory.c"] => Err(Errno::EINVAL), |s| { relocate(s, RAM.0, SPARE, 1)?; let got = read(s, RAM.0); relocate(s, SPARE, RAM.0, 1)?; got };
    "what_is_at_the_new_place_goes_back_to_the_host" ["p2m.c: guest_remove_page"] => Ok(1), |s| Ok(s.freed(|| { relocate(s, RAM.0, RAM.0 + 1, 1)?; Ok(()) })?);
    "move_to_where_it_is" ["p2m.c"] => Ok(0), |s| relocate(s, RAM.0, RAM.0, 1);
    "move_nothing" ["memory.c"] => Ok(0), |s| relocate(s, HOLE.0, SPARE, 0);
    "move_a_hole_is_einval" ["p2m.c"] => Err(Errno::EINVAL), |s| relocate(s, SPARE + 8, SPARE, 1);
    "move_to_the_last_number_is_einval" ["memory.c: INVALID_GFN"] => Err(Errno::EINVAL), |s| relocate(s, RAM.0, u64::MAX, 1);
    "move_to_where_numbers_end_is_eoverflow" ["memory.c"] => Err(Errno::EOVERFLOW), |s| relocate(s, RAM.0, u64::MAX - 1, 2);
    "move_from_where_numbers_end_is_eoverflow" ["memory.c"] => Err(Errno::EOVERFLOW), |s| relocate(s, u64::MAX, RAM.0, 1);
    "move_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_relocate_memory, xen_dm_op_relocate_memory { size: 1, pad: 1, src_gfn: RAM.0, dst_gfn: SPARE });
    "pin_and_unpin" ["mtrr.c"] => Ok(0), |s| { pin(s, RAM.0, RAM.0 + 2, WC)?; pin(s, RAM.0, RAM.0 + 2, DELETE) };
    "pin_the_same_otherwise" ["mtrr.c"] => Ok(0), |s| { pin(s, RAM.0, RAM.0 + 2, WC)?; let got = pin(s, RAM.0, RAM.0 + 2, XEN_DMOP_MEM_CACHEATTR_UC); pin(s, RAM.0, RAM.0 + 2, DELETE)?; got };
    "pin_what_overlaps_is_ebusy" ["mtrr.c"] => Err(Errno::EBUSY), |s| { pin(s, RAM.0, RAM.0 + 1, WC)?; let got = pin(s, RAM.0 + 1, RAM.0 + 2, WC); pin(s, RAM.0, RAM.0 + 1, DELETE)?; got };
    "unpin_a_part_is_enoent" ["mtrr.c"] => Err(Errno::ENOENT), |s| { pin(s, RAM.0, RAM.0 + 2, WC)?; let got = pin(s, RAM.0, RAM.0 + 1, DELETE); pin(s, RAM.0, RAM.0 + 2, DELETE)?; got };
    "unpin_what_is_not_is_enoent" ["mtrr.c"] => Err(Errno::ENOENT), |s| pin(s, RAM.0, RAM.0, DELETE);
    "pin_start_above_end_is_einval" ["mtrr.c"] => Err(Errno::EINVAL), |s| pin(s, RAM.0 + 1, RAM.0, WC);
    "pin_beyond_all_addresses_is_einval" ["mtrr.c"] => Err(Errno::EINVAL), |s| pin(s, RAM.0, BEYOND, WC);
    "pin_as_type_2_is_einval" ["mtrr.c"] => Err(Errno::EINVAL), |s| pin(s, RAM.0, RAM.0, 2);
    "pin_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_pin_memory_cacheattr, xen_dm_op_pin_memory_cacheattr { start: RAM.0, end: RAM.0, r#type: WC, pad: 1 });
};
