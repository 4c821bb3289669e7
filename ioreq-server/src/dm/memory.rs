//! The guest's memory as a device model changes it: which frames were written, what frames are, where they are.

use std::fmt;

use xen_ioreq::abi::dm_op as abi;
use xen_ioreq::abi::hvm_op as types;
use xen_ioreq::{Errno, Gfn, IoServerId};
use zerocopy::IntoBytes;

use super::{Dm, DmError, operation};

/// What a frame is to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemType {
    /// RAM.
    RamRw,
    /// RAM whose writes are dropped.
    RamRo,
    /// Nothing: accesses become requests.
    MmioDm,
    /// RAM whose writes become requests to the server that has claimed the type ([`Dm::claim_mem_type`]).
    IoreqServer,
}

/// A run of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First frame.
    pub first: Gfn,
    /// How many, 1 or more.
    pub frames: u32,
}

/// How frames are cached, whatever the guest's MTRRs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheAttr {
    /// Not at all.
    Uncached,
    /// Not, but writes are combined.
    WriteCombining,
    /// Writes go through.
    WriteThrough,
    /// Writes go through and evict.
    WriteProtected,
    /// Fully.
    WriteBack,
    /// Not, unless an MTRR says write-combining.
    UncachedMinus,
}

/// Extents that go in one call: Linux passes on buffers of 4096 bytes.
const EXTENTS: usize = 4096 / size_of::<abi::xen_dm_op_modified_memory_extent>();

fn set_mem_type(first: Gfn, frames: u32, what: MemType) -> abi::xen_dm_op_set_mem_type {
    let mem_type = match what {
        MemType::RamRw => types::HVMMEM_ram_rw,
        MemType::RamRo => types::HVMMEM_ram_ro,
        MemType::MmioDm => types::HVMMEM_mmio_dm,
        MemType::IoreqServer => types::HVMMEM_ioreq_server,
    };
    abi::xen_dm_op_set_mem_type { nr: frames, mem_type, pad: 0, first_pfn: first.0 }
}

fn map_mem_type(server: IoServerId, flags: u32) -> abi::xen_dm_op_map_mem_type_to_ioreq_server {
    abi::xen_dm_op_map_mem_type_to_ioreq_server {
        id: server.0,
        r#type: types::HVMMEM_ioreq_server,
        flags,
        opaque: 0,
    }
}

impl Dm {
    /// Begins to track which frames the guest writes, for one range at a time: a range that was tracked before, by whomever,
    /// is no more. Only writes by the guest's processors count, not those through mappings. EINVAL: no frame, or more
    /// than 1 GiB of them. ESRCH: the guest is dying. E2BIG: more frames than the kernel passes on (32768 on Linux).
    pub fn track_dirty_vram(&self, first: Gfn, frames: u32) -> Result<DirtyVram, DmError> {
        if frames == 0 {
            return Err(self.error(TRACK, Errno::EINVAL));
        }
        let len = usize::try_from(frames.div_ceil(8)).map_err(|_| self.error(TRACK, Errno::EINVAL))?;
        let mut tracked = DirtyVram { dm: self.clone(), first, frames, bitmap: vec![0; len], begun: false };
        tracked.ask()?;
        tracked.begun = true;
        Ok(tracked)
    }

    /// Tells Xen that we wrote to frames through mappings, so that a migration copies them again. Without a migration under way
    /// nothing is looked at. EINVAL: an extent without frames, or beyond the guest's last frame; the extents of its
    /// call (256 of them) that come after it are done, and so are all calls before.
    pub fn modified_memory(&self, extents: &[Extent]) -> Result<(), DmError> {
        let op = abi::XEN_DMOP_modified_memory;
        for some in extents.chunks(EXTENTS) {
            let mut list: Vec<_> = some
                .iter()
                .map(|e| abi::xen_dm_op_modified_memory_extent { nr: e.frames, pad: 0, first_pfn: e.first.0 })
                .collect();
            let nr_extents =
                u32::try_from(list.len()).map_err(|_| self.error("modified_memory", Errno::E2BIG))?;
            let payload = abi::xen_dm_op_modified_memory { nr_extents, opaque: 0 };
            self.call_with("modified_memory", op, payload, list.as_mut_bytes())?;
        }
        Ok(())
    }

    /// Makes frames something else. EINVAL: no frame, one beyond the guest's last, one whose type cannot become that (a
    /// hole only MMIO, RAM for a server only RAM and only from it), or nobody has claimed the type of a server. Frames
    /// before the one that fails are changed. EAGAIN: a frame is paged out or shared.
    pub fn set_mem_type(&self, first: Gfn, frames: u32, what: MemType) -> Result<(), DmError> {
        self.call("set_mem_type", abi::XEN_DMOP_set_mem_type, set_mem_type(first, frames, what)).map(drop)
    }

    /// The same as an operation for [`PausedDmOp`](xen_ioreq::seam::PausedDmOp).
    pub(crate) fn mem_type_op(first: Gfn, frames: u32, what: MemType) -> abi::xen_dm_op {
        operation(abi::XEN_DMOP_set_mem_type, set_mem_type(first, frames, what))
    }

    /// As [`claim_mem_type`](Self::claim_mem_type) or [`release_mem_type`](Self::release_mem_type), the same.
    pub(crate) fn map_mem_type_op(server: IoServerId, claim: bool) -> abi::xen_dm_op {
        let flags = if claim { abi::XEN_DMOP_IOREQ_MEM_ACCESS_WRITE } else { 0 };
        operation(abi::XEN_DMOP_map_mem_type_to_ioreq_server, map_mem_type(server, flags))
    }

    /// Makes writes to frames of [`MemType::IoreqServer`] requests to this server. EBUSY: some server has the type.
    /// EOPNOTSUPP: the guest runs without hardware-assisted paging.
    pub fn claim_mem_type(&self, server: IoServerId) -> Result<(), DmError> {
        self.map_mem_type(server, abi::XEN_DMOP_IOREQ_MEM_ACCESS_WRITE)
    }

    /// Gives the type back; its frames become RAM. EINVAL: the server does not have it.
    pub fn release_mem_type(&self, server: IoServerId) -> Result<(), DmError> {
        self.map_mem_type(server, 0)
    }

    fn map_mem_type(&self, server: IoServerId, flags: u32) -> Result<(), DmError> {
        let op = abi::XEN_DMOP_map_mem_type_to_ioreq_server;
        self.call("map_mem_type_to_ioreq_server", op, map_mem_type(server, flags)).map(drop)
    }

    /// Moves frames to another place in the guest, as a guest does that moves the BAR that they are behind. What was at the new
    /// place is freed; who has the frames mapped keeps them. EINVAL: there is a hole at the old place; the frames before
    /// it have moved. EOVERFLOW: frame numbers end before the frames do.
    pub fn relocate_memory(&self, from: Gfn, to: Gfn, frames: u32) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_relocate_memory { size: frames, pad: 0, src_gfn: from.0, dst_gfn: to.0 };
        self.call("relocate_memory", abi::XEN_DMOP_relocate_memory, payload).map(drop)
    }

    /// Fixes how frames `first ..= last` are cached. ENOENT: to undo, exactly such a range must have been fixed. EINVAL: a
    /// range that is not one.
    pub fn pin_cacheattr(&self, first: Gfn, last: Gfn, to: Option<CacheAttr>) -> Result<(), DmError> {
        let r#type = match to {
            None => abi::XEN_DMOP_DELETE_MEM_CACHEATTR,
            Some(CacheAttr::Uncached) => abi::XEN_DMOP_MEM_CACHEATTR_UC,
            Some(CacheAttr::WriteCombining) => abi::XEN_DMOP_MEM_CACHEATTR_WC,
            Some(CacheAttr::WriteThrough) => abi::XEN_DMOP_MEM_CACHEATTR_WT,
            Some(CacheAttr::WriteProtected) => abi::XEN_DMOP_MEM_CACHEATTR_WP,
            Some(CacheAttr::WriteBack) => abi::XEN_DMOP_MEM_CACHEATTR_WB,
            Some(CacheAttr::UncachedMinus) => abi::XEN_DMOP_MEM_CACHEATTR_UCM,
        };
        let payload = abi::xen_dm_op_pin_memory_cacheattr { start: first.0, end: last.0, r#type, pad: 0 };
        self.call("pin_memory_cacheattr", abi::XEN_DMOP_pin_memory_cacheattr, payload).map(drop)
    }
}

const TRACK: &str = "track_dirty_vram";

/// A range of frames whose writes are tracked, until it is dropped. A guest has one at a time.
pub struct DirtyVram {
    dm: Dm,
    first: Gfn,
    frames: u32,
    bitmap: Vec<u8>,
    /// The answer of the first call is still to be given: every frame.
    begun: bool,
}

impl DirtyVram {
    /// The frames that the guest has written since the last time; at first, all of them. After an error some may have been
    /// forgotten: take them all for written.
    pub fn dirty(&mut self) -> Result<DirtyFrames<'_>, DmError> {
        if !std::mem::take(&mut self.begun) {
            self.ask()?;
        }
        Ok(DirtyFrames { bitmap: &self.bitmap, first: self.first, next: 0, frames: self.frames })
    }

    fn ask(&mut self) -> Result<(), DmError> {
        let payload = abi::xen_dm_op_track_dirty_vram { nr: self.frames, pad: 0, first_pfn: self.first.0 };
        self.bitmap.fill(0);
        self.dm.call_with(TRACK, abi::XEN_DMOP_track_dirty_vram, payload, &mut self.bitmap)?;
        Ok(())
    }
}

impl Drop for DirtyVram {
    fn drop(&mut self) {
        // Xen wants a second buffer here too.
        let mut unused = [0];
        let stop = abi::xen_dm_op_track_dirty_vram::default();
        if let Err(e) = self.dm.call_with(TRACK, abi::XEN_DMOP_track_dirty_vram, stop, &mut unused) {
            log::debug!("no longer tracking frames: {e}");
        }
    }
}

impl fmt::Debug for DirtyVram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyVram")
            .field("domid", &self.dm.domid())
            .field("first", &self.first)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

/// Frames that were written, in order.
#[derive(Clone, Debug)]
pub struct DirtyFrames<'a> {
    bitmap: &'a [u8],
    first: Gfn,
    /// The next frame to look at, counted from the first.
    next: u32,
    frames: u32,
}

impl Iterator for DirtyFrames<'_> {
    type Item = Gfn;

    fn next(&mut self) -> Option<Gfn> {
        while self.next < self.frames {
            let n = self.next;
            let byte = usize::try_from(n / 8).ok().and_then(|i| self.bitmap.get(i)).copied()?;
            if byte == 0 {
                self.next = (n / 8 + 1) * 8;
                continue;
            }
            self.next += 1;
            if byte & 1 << (n % 8) != 0 {
                return self.first.checked_add(n.into());
            }
        }
        None
    }
}
