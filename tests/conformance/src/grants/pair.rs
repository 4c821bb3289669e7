//! What passes between a guest that grants and dom0, which copies by hypercall and maps by its kernel's gntdev.
//!
//! dom0 writes the entries of the guest, which stands still, itself: its table is a resource that a toolstack may map.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use mock_xen::Caller;
use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::memory::{XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared};
use xen_ioreq::linux::{Gntdev, UnmapNotify};
use xen_ioreq::seam::{GrantTableOp as _, Mapping, OwnMemory as _, Prot};
use xen_ioreq::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE};
use zerocopy::IntoBytes;

use crate::bench::{HOLE, RAM};
use crate::case::{Answer, Case, Unmade, cases};
use crate::ioreq::Stage;
use crate::patience::Patience;
use crate::shared::{entry, first_byte, set_entry};

/// References that the rows use, of the guest's table: the first frame of [`RAM`], the second and so on.
const A: u32 = 8;
const B: u32 = 9;
const ACCESS: u16 = GTF_permit_access;
/// Between two looks whether the kernel has unmapped what was let go of.
const MOMENT: Duration = Duration::from_millis(10);

/// Entries of the guest's, withdrawn when this goes.
struct Table(Mapping);

impl Table {
    /// State: the guest's table, with these entries for dom0: reference, flags, frame.
    fn with(s: &Stage, entries: &[(u32, u16, Gfn)]) -> Result<Self, Unmade> {
        let (kind, id) = (XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared);
        let table = Self(s.bench.hypervisor.map_resource(s.guest(), kind, id, 0, 1)?);
        for (r, flags, gfn) in entries {
            table.write(*r, *flags, DomId(0), *gfn)?;
        }
        Ok(table)
    }

    fn at(r: u32) -> Result<usize, Unmade> {
        usize::try_from(r).map_err(|_| Unmade(Errno::ERANGE))
    }

    fn write(&self, r: u32, flags: u16, to: DomId, gfn: Gfn) -> Result<(), Unmade> {
        let frame = u32::try_from(gfn.0).map_err(|_| Errno::ERANGE)?;
        let word = u64::from(flags) | u64::from(to.0) << 16 | u64::from(frame) << 32;
        Ok(set_entry(&self.0, Self::at(r)?, word).ok_or(Errno::ERANGE)?)
    }

    fn flags(&self, r: u32) -> Result<u16, Unmade> {
        let [a, b, ..] = entry(&self.0, Self::at(r)?).ok_or(Errno::ERANGE)?.to_le_bytes();
        Ok(u16::from_le_bytes([a, b]))
    }

    /// Its flags when the hypervisor has no mark there any more; as they are when it does not come to that.
    fn flags_at_rest(&self, r: u32) -> Result<u16, Unmade> {
        let mut patience = Patience::new(());
        loop {
            let flags = self.flags(r)?;
            if flags & (GTF_reading | GTF_writing) == 0 || !patience.lasts(()) {
                return Ok(flags);
            }
            thread::sleep(MOMENT);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for r in [A, B] {
            // Nobody has them mapped any more; where the table has gone there is nothing to withdraw.
            let _ = self.flags_at_rest(r).and_then(|_| self.write(r, 0, DomId(0), Gfn(0)));
        }
    }
}

/// State: the guest's frames begin with these bytes.
fn fill(s: &Stage, bytes: [u8; 2]) -> Result<(), Unmade> {
    for (i, byte) in (0..).zip(bytes) {
        let pages = s.foreign(s.guest(), &[Gfn(RAM.0 + i)])?;
        pages.error(0).map_or(Ok(()), Err)?;
        first_byte(&pages.mapping).ok_or(Errno::EFAULT)?.store(byte, Ordering::SeqCst);
    }
    Ok(())
}

/// The first byte of a frame of the guest's.
fn byte(s: &Stage, gfn: Gfn) -> Answer {
    let pages = s.foreign(s.guest(), &[gfn])?;
    pages.error(0).map_or(Ok(()), Err)?;
    Ok(first_byte(&pages.mapping).ok_or(Errno::EFAULT)?.load(Ordering::SeqCst).into())
}

/// A copy of the guest's from grant to grant; its status without the sign.
fn copy(s: &Stage, (from, at): (u32, u16), (to, there): (u32, u16), len: u16) -> Answer {
    let ptr =
        |r: u32, offset| gnttab_copy_ptr { u: r.into(), domid: s.guest().0, offset, ..Default::default() };
    let flags = GNTCOPY_source_gref | GNTCOPY_dest_gref;
    let mut arg =
        gnttab_copy { source: ptr(from, at), dest: ptr(to, there), len, flags, ..Default::default() };
    s.bench.hypervisor.grant_table_op(GNTTABOP_copy, arg.as_mut_bytes(), 1)?;
    Ok(arg.status.unsigned_abs().into())
}

/// A page that dom0 has mapped.
struct Mapped {
    page: Mapping,
    /// On the model, which has no kernel to unmap it.
    model: Option<(Caller, gnttab_unmap_grant_ref)>,
}

impl Mapped {
    /// As gntdev does, which says EINVAL whatever the status.
    fn new(s: &Stage, r: u32, prot: Prot) -> Result<Self, Errno> {
        let Some(machine) = s.bench.machine() else {
            let gntdev = Gntdev::open().map_err(|_| Errno::ENODEV)?;
            let page = gntdev.map(&[(s.guest(), GrantRef(r))], prot, UnmapNotify::default())?;
            return Ok(Self { page, model: None });
        };
        let caller = machine.caller(DomId(0))?;
        let page = caller.reserve(1)?;
        let host_addr = page.base().as_ptr().addr() as u64;
        let flags = GNTMAP_host_map | if prot == Prot::Read { GNTMAP_readonly } else { 0 };
        let mut map =
            gnttab_map_grant_ref { host_addr, flags, r#ref: r, dom: s.guest().0, ..Default::default() };
        caller.grant_table_op(GNTTABOP_map_grant_ref, map.as_mut_bytes(), 1)?;
        if map.status != GNTST_okay {
            return Err(Errno::EINVAL);
        }
        let unmap = gnttab_unmap_grant_ref { host_addr, handle: map.handle, ..Default::default() };
        Ok(Self { page, model: Some((caller, unmap)) })
    }

    fn byte(&self) -> Answer {
        Ok(first_byte(&self.page).ok_or(Errno::EFAULT)?.load(Ordering::SeqCst).into())
    }

    fn write(&self, byte: u8) -> Result<(), Unmade> {
        first_byte(&self.page).ok_or(Errno::EFAULT)?.store(byte, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some((caller, unmap)) = &mut self.model {
            // What does not end here shows in the marks that the rows look at.
            let _ = caller.grant_table_op(GNTTABOP_unmap_grant_ref, unmap.as_mut_bytes(), 1);
        }
    }
}

/// What becomes of trying to map.
fn try_map(s: &Stage, r: u32, prot: Prot) -> Answer {
    Mapped::new(s, r, prot).map(|_| 0)
}

const FIRST: Gfn = RAM;
const SECOND: Gfn = Gfn(RAM.0 + 1);
/// Bytes of one.
const PAGE: u16 = 4096;
const _: () = assert!(PAGE as usize == PAGE_SIZE);

/// Flags of an entry as an answer.
const fn flags(flags: u16) -> Answer {
    Ok(flags as u64)
}

pub(super) const ROWS: &[Case<Stage>] = cases! { Stage;
    "copy_from_grant_to_grant" ["header: both by reference"] => Ok(0), |s| {
        let _table = Table::with(s, &[(A, ACCESS, FIRST), (B, ACCESS, SECOND)])?;
        copy(s, (A, 0), (B, 0), PAGE)
    };
    "copy_from_grant_to_grant_moves_the_bytes" ["header: both by reference"] => Ok(0x61), |s| {
        fill(s, [0x61, 0x62])?;
        let _table = Table::with(s, &[(A, ACCESS | GTF_readonly, FIRST), (B, ACCESS, SECOND)])?;
        copy(s, (A, 0), (B, 0), PAGE)?;
        byte(s, SECOND)
    };
    "copy_leaves_no_mark" ["header"] => flags(ACCESS), |s| {
        let table = Table::with(s, &[(A, ACCESS, FIRST), (B, ACCESS, SECOND)])?;
        copy(s, (A, 0), (B, 0), 8)?;
        Ok(table.flags(B)?.into())
    };
    "copy_to_a_read_only_grant_is_general_error" ["D: ro violated"] => Ok(1), |s| {
        let _table = Table::with(s, &[(A, ACCESS, FIRST), (B, ACCESS | GTF_readonly, SECOND)])?;
        copy(s, (A, 0), (B, 0), 8)
    };
    "copy_of_what_is_granted_to_another_is_general_error" ["D: wrong domid"] => Ok(1), |s| {
        let table = Table::with(s, &[(B, ACCESS, SECOND)])?;
        table.write(A, ACCESS, s.guest(), FIRST)?;
        copy(s, (A, 0), (B, 0), 8)
    };
    "copy_of_a_place_for_a_transfer_is_general_error" ["D: bad type"] => Ok(1), |s| {
        let _table = Table::with(s, &[(A, GTF_accept_transfer, FIRST), (B, ACCESS, SECOND)])?;
        copy(s, (A, 0), (B, 0), 8)
    };
    "copy_of_a_grant_of_no_frame_is_bad_page" ["D: frame"] => Ok(9), |s| {
        let _table = Table::with(s, &[(A, ACCESS, HOLE), (B, ACCESS, SECOND)])?;
        copy(s, (A, 0), (B, 0), 8)
    };
    "copy_that_failed_leaves_no_mark" ["D"] => flags(ACCESS), |s| {
        let table = Table::with(s, &[(A, ACCESS, HOLE), (B, ACCESS, SECOND)])?;
        copy(s, (A, 0), (B, 0), 8)?;
        Ok(table.flags(A)?.into())
    };
    "copy_beyond_the_page_is_bad_copy_arg" ["header"] => Ok(10), |s| {
        let _table = Table::with(s, &[(A, ACCESS, FIRST), (B, ACCESS, SECOND)])?;
        copy(s, (A, PAGE - 4), (B, 0), 8)
    };
    "copy_within_a_frame_by_two_grants" ["header"] => Ok(0), |s| {
        let _table = Table::with(s, &[(A, ACCESS, FIRST), (B, ACCESS, FIRST)])?;
        copy(s, (A, 0), (B, PAGE / 2), 8)
    };
    "copy_of_a_part_by_version_one_is_of_the_whole" ["D: v1 copy ignores bit 8"] => Ok(0), |s| {
        let _table = Table::with(s, &[(A, ACCESS | GTF_sub_page, FIRST), (B, ACCESS, SECOND)])?;
        copy(s, (A, 0), (B, 0), PAGE)
    };
    "map_for_writing_sets_both_marks" ["header"] => flags(ACCESS | GTF_reading | GTF_writing), |s| {
        let table = Table::with(s, &[(A, ACCESS, FIRST)])?;
        let _mapped = Mapped::new(s, A, Prot::ReadWrite)?;
        Ok(table.flags(A)?.into())
    };
    "map_for_reading_sets_one_mark" ["header"] => flags(ACCESS | GTF_readonly | GTF_reading), |s| {
        let table = Table::with(s, &[(A, ACCESS | GTF_readonly, FIRST)])?;
        let _mapped = Mapped::new(s, A, Prot::Read)?;
        Ok(table.flags(A)?.into())
    };
    "unmapping_clears_the_marks" ["header"] => flags(ACCESS), |s| {
        let table = Table::with(s, &[(A, ACCESS, FIRST)])?;
        drop(Mapped::new(s, A, Prot::ReadWrite)?);
        Ok(table.flags_at_rest(A)?.into())
    };
    "the_guest's_bytes_are_seen" ["header"] => Ok(0x63), |s| {
        fill(s, [0x63, 0])?;
        let _table = Table::with(s, &[(A, ACCESS, FIRST)])?;
        Mapped::new(s, A, Prot::Read)?.byte()
    };
    "the_guest_sees_what_is_written" ["header"] => Ok(0x64), |s| {
        let _table = Table::with(s, &[(A, ACCESS, FIRST)])?;
        Mapped::new(s, A, Prot::ReadWrite)?.write(0x64)?;
        byte(s, FIRST)
    };
    "a_grant_withdrawn_while_mapped_stays_mapped" ["D: edits ignored until all pins drop"] => Ok(0x65), |s| {
        fill(s, [0x65, 0])?;
        let table = Table::with(s, &[(A, ACCESS, FIRST)])?;
        let mapped = Mapped::new(s, A, Prot::ReadWrite)?;
        table.write(A, GTF_reading | GTF_writing, DomId(0), FIRST)?;
        mapped.byte()
    };
    "a_grant_changed_while_mapped_is_mapped_again_as_it_was" ["D: edits ignored until all pins drop"] => Ok(0x66), |s| {
        fill(s, [0x66, 0x67])?;
        let table = Table::with(s, &[(A, ACCESS, FIRST)])?;
        let _mapped = Mapped::new(s, A, Prot::ReadWrite)?;
        table.write(A, ACCESS | GTF_reading | GTF_writing, DomId(0), SECOND)?;
        Mapped::new(s, A, Prot::Read)?.byte()
    };
    "map_of_nothing_granted_is_refused" ["D: bad type"] => Err(Errno::EINVAL), |s| try_map(s, A, Prot::Read);
    "map_for_writing_of_a_read_only_grant_is_refused" ["D: ro violated"] => Err(Errno::EINVAL), |s| {
        let _table = Table::with(s, &[(A, ACCESS | GTF_readonly, FIRST)])?;
        try_map(s, A, Prot::ReadWrite)
    };
    "map_of_a_part_is_refused" ["D: v1 entry with bit 8"] => Err(Errno::EINVAL), |s| {
        let _table = Table::with(s, &[(A, ACCESS | GTF_sub_page, FIRST)])?;
        try_map(s, A, Prot::Read)
    };
    "map_of_no_frame_is_refused" ["D: frame"] => Err(Errno::EINVAL), |s| {
        let _table = Table::with(s, &[(A, ACCESS, HOLE)])?;
        try_map(s, A, Prot::Read)
    };
    "map_that_was_refused_leaves_no_mark" ["D"] => flags(ACCESS | GTF_readonly), |s| {
        let table = Table::with(s, &[(A, ACCESS | GTF_readonly, FIRST)])?;
        let _refused = try_map(s, A, Prot::ReadWrite);
        Ok(table.flags(A)?.into())
    };
};
