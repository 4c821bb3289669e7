//! Entries of a domain's own grant table, version 1, by the header's protocol: the hypervisor reads and marks them at any time.

use xen_ioreq::abi::grant_table::*;
use xen_ioreq::abi::revokable::GTF_revokable;
use xen_ioreq::seam::{GrantTableOp, OwnMemory};
use xen_ioreq::{DomId, Errno, Gfn, GrantRef, PAGE_SIZE};
use zerocopy::IntoBytes;

use crate::shared::SharedBytes;
use crate::sync::atomic::Ordering;

/// Bytes of an entry.
const ENTRY: usize = size_of::<grant_entry_v1>();
/// Entries in a frame of the table.
const PER_FRAME: u32 = 512;
const _: () = assert!(PER_FRAME as usize * ENTRY == PAGE_SIZE);

/// What an entry grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) peer: DomId,
    pub(super) gfn: Gfn,
    pub(super) readonly: bool,
    pub(super) revokable: bool,
}

/// The table, and which references of it are free.
#[derive(Debug)]
pub(super) struct Entries {
    frames: Vec<SharedBytes>,
    free: Vec<u32>,
}

impl Entries {
    /// The table of this domain with one frame; its version becomes 1.
    pub(super) fn open<H: GrantTableOp + OwnMemory>(hypervisor: &H) -> Result<Self, Errno> {
        let mut version = gnttab_set_version { version: 1 };
        hypervisor.grant_table_op(GNTTABOP_set_version, version.as_mut_bytes(), 1)?;
        let mut entries = Self { frames: Vec::new(), free: Vec::new() };
        entries.grow(hypervisor)?;
        Ok(entries)
    }

    /// One frame more. ENOSPC: it may have no more.
    fn grow<H: GrantTableOp + OwnMemory>(&mut self, hypervisor: &H) -> Result<(), Errno> {
        let nr_frames = u32::try_from(self.frames.len() + 1).map_err(|_| Errno::ENOSPC)?;
        let mut list = vec![0; self.frames.len() + 1];
        let mut arg = gnttab_setup_table { dom: DomId::SELF.0, nr_frames, ..Default::default() };
        hypervisor.grant_table_frames(GNTTABOP_setup_table, arg.as_mut_bytes(), &mut list)?;
        if arg.status != GNTST_okay {
            return Err(Errno::ENOSPC);
        }
        let frame = hypervisor.map_table(list.get(self.frames.len()..).unwrap_or_default())?;
        self.frames.push(SharedBytes::new(frame));
        let first = (nr_frames - 1) * PER_FRAME;
        // The toolstack's are among the first ones.
        let all = first.max(GNTTAB_NR_RESERVED_ENTRIES)..first + PER_FRAME;
        self.free.extend(all.rev());
        Ok(())
    }

    /// As many free references, in the order of their numbers. ENOSPC: the table may not grow so far; none is taken then.
    pub(super) fn take<H: GrantTableOp + OwnMemory>(
        &mut self,
        hypervisor: &H,
        count: usize,
    ) -> Result<Vec<GrantRef>, Errno> {
        while self.free.len() < count {
            self.grow(hypervisor)?;
        }
        let mut taken = self.free.split_off(self.free.len() - count);
        taken.sort_unstable();
        Ok(taken.into_iter().map(GrantRef).collect())
    }

    /// Gives references back, whose entries grant nothing and are not in use.
    pub(super) fn put(&mut self, refs: impl IntoIterator<Item = GrantRef>) {
        self.free.extend(refs.into_iter().map(|gref| gref.0));
    }

    fn place(&self, gref: GrantRef) -> (&SharedBytes, usize) {
        let (frame, index) = ((gref.0 / PER_FRAME) as usize, (gref.0 % PER_FRAME) as usize);
        let frame = self.frames.get(frame).expect("a reference that was taken from here");
        (frame, index * ENTRY)
    }

    /// Grants. EINVAL: a frame that version 1 has no room for.
    pub(super) fn grant(&self, gref: GrantRef, grant: Grant) -> Result<(), Errno> {
        let number = u32::try_from(grant.gfn.0).map_err(|_| Errno::EINVAL)?;
        let (frame, at) = self.place(gref);
        let readonly = if grant.readonly { GTF_readonly } else { 0 };
        let revokable = if grant.revokable { GTF_revokable } else { 0 };
        frame.u16(at + 2).store(grant.peer.0, Ordering::Relaxed);
        frame.u32(at + 4).store(number, Ordering::Relaxed);
        // Whoever sees the flags sees the rest.
        frame.u16(at).store(GTF_permit_access | readonly | revokable, Ordering::Release);
        Ok(())
    }

    /// Ends a grant that is not in use; whether it was not.
    pub(super) fn end(&self, gref: GrantRef) -> bool {
        let (frame, at) = self.place(gref);
        let flags = frame.u16(at);
        let unused = |now: u16| (now & (GTF_reading | GTF_writing) == 0).then_some(GTF_invalid);
        flags.fetch_update(Ordering::SeqCst, Ordering::SeqCst, unused).is_ok()
    }

    /// Nobody gets in any more; who is in stays.
    pub(super) fn close(&self, gref: GrantRef) {
        let (frame, at) = self.place(gref);
        frame.u16(at).fetch_and(!GTF_type_mask, Ordering::SeqCst);
    }
}
