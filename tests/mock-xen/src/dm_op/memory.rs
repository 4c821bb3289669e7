//! Types of frames, frames that were written, frames that move, how frames are cached.

use std::sync::Arc;

use xen_ioreq::abi::dm_op::{
    XEN_DMOP_DELETE_MEM_CACHEATTR, XEN_DMOP_IOREQ_MEM_ACCESS_WRITE, XEN_DMOP_MEM_CACHEATTR_UC,
    XEN_DMOP_MEM_CACHEATTR_UCM, XEN_DMOP_MEM_CACHEATTR_WB, XEN_DMOP_MEM_CACHEATTR_WC,
    XEN_DMOP_MEM_CACHEATTR_WP, XEN_DMOP_MEM_CACHEATTR_WT, xen_dm_op_map_mem_type_to_ioreq_server,
    xen_dm_op_pin_memory_cacheattr, xen_dm_op_relocate_memory, xen_dm_op_set_mem_type,
    xen_dm_op_track_dirty_vram,
};
use xen_ioreq::abi::hvm_op::{HVMMEM_ioreq_server, HVMMEM_mmio_dm, HVMMEM_ram_ro, HVMMEM_ram_rw};
use xen_ioreq::{Errno, Gfn, IoServerId};

use super::{Call, must};
use crate::memory_op;
use crate::p2m::P2mType;

/// Most frames whose writes are tracked: 1 GiB.
const MAX_TRACKED: u32 = 1 << 18;
/// Most ranges whose caching is pinned.
const MAX_PINNED: usize = 64;
/// Physical address bits of the machine, which Xen compares frame numbers with.
const ADDRESS_BITS: u32 = 40;

impl Call<'_> {
    pub(super) fn map_mem_type(&self, data: &xen_dm_op_map_mem_type_to_ioreq_server) -> Result<(), Errno> {
        must(data.r#type == HVMMEM_ioreq_server)?;
        must(data.flags & !XEN_DMOP_IOREQ_MEM_ACCESS_WRITE == 0)?;
        let mut servers = self.domain.servers.write();
        let server = servers.of_emulator(IoServerId(data.id), self.caller.id)?.clone();
        if data.flags != 0 {
            // Also while frames are left of one that went without giving the type back: they would be this one's.
            if servers.mem_type.is_some() || self.domain.p2m.read().for_server() > 0 {
                return Err(Errno::EBUSY);
            }
            servers.mem_type = Some(server);
            return Ok(());
        }
        must(servers.mem_type.as_ref().is_some_and(|s| Arc::ptr_eq(s, &server)))?;
        servers.mem_type = None;
        self.domain.p2m.write().none_for_server();
        Ok(())
    }

    pub(super) fn set_mem_type(&self, data: &xen_dm_op_set_mem_type) -> Result<(), Errno> {
        must(data.pad == 0)?;
        let count = u64::from(data.nr);
        let last = data.first_pfn.checked_add(count.wrapping_sub(1)).filter(|_| count > 0);
        let last = last.ok_or(Errno::EINVAL)?;
        let servers = self.domain.servers.read();
        let mut p2m = self.domain.p2m.write();
        must(p2m.max_gfn().is_some_and(|max| last <= max.0))?;
        let new = match data.mem_type {
            HVMMEM_ram_rw => P2mType::RamRw,
            HVMMEM_ram_ro => P2mType::RamRo,
            HVMMEM_mmio_dm => P2mType::MmioDm,
            HVMMEM_ioreq_server => P2mType::IoreqServer,
            // HVMMEM_unused and whatever Xen does not know.
            _ => return Err(Errno::EINVAL),
        };
        must(new != P2mType::IoreqServer || servers.mem_type.is_some())?;
        for gfn in data.first_pfn..=last {
            let Some((mfn, old)) = p2m.get(Gfn(gfn)) else {
                // A hole is MMIO already, and can be nothing else.
                must(new == P2mType::MmioDm)?;
                continue;
            };
            must(match (old, new) {
                (_, P2mType::IoreqServer) => old == P2mType::RamRw,
                (P2mType::IoreqServer, _) => new == P2mType::RamRw,
                (P2mType::RamRw | P2mType::RamRo | P2mType::LogDirty, _) => true,
                (P2mType::MmioDm, _) => new == P2mType::MmioDm,
                (P2mType::GrantRw | P2mType::GrantRo, _) => false,
            })?;
            p2m.set(Gfn(gfn), mfn, new);
        }
        Ok(())
    }

    /// The first call for a range calls every frame written, and write-protects those that are RAM. A guest's write makes ordinary
    /// RAM of a frame; the next call finds and protects it again.
    pub(super) fn track_dirty_vram(
        &self,
        data: &xen_dm_op_track_dirty_vram,
        bitmap: Option<&mut [u8]>,
    ) -> Result<(), Errno> {
        must(data.pad == 0)?;
        let bitmap = bitmap.ok_or(Errno::EINVAL)?;
        must(data.nr <= MAX_TRACKED)?;
        if self.domain.dying() {
            return Err(Errno::ESRCH);
        }
        must(!self.domain.vcpus.is_empty())?;
        let len = usize::try_from(data.nr.div_ceil(8)).map_err(|_| Errno::EINVAL)?;
        let bitmap = bitmap.get_mut(..len).ok_or(Errno::EINVAL)?;
        let mut p2m = self.domain.p2m.write();
        if data.nr == 0 {
            p2m.track(None);
            return Ok(());
        }
        let range = data.first_pfn..data.first_pfn.wrapping_add(data.nr.into());
        if p2m.tracked() != Some(&range) {
            p2m.track(Some(range));
            bitmap.fill(0xff);
            return Ok(());
        }
        bitmap.fill(0);
        for (i, gfn) in range.enumerate() {
            if p2m.retype(Gfn(gfn), P2mType::RamRw, P2mType::LogDirty)
                && let Some(byte) = bitmap.get_mut(i / 8)
            {
                *byte |= 1 << (i % 8);
            }
        }
        Ok(())
    }

    pub(super) fn relocate(&self, data: &xen_dm_op_relocate_memory) -> Result<(), Errno> {
        must(data.pad == 0)?;
        let (from, to, count) = (data.src_gfn, data.dst_gfn, u64::from(data.size));
        must(to != u64::MAX)?;
        if from.checked_add(count).is_none() || to.checked_add(count).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        memory_op::relocate(self.machine, self.caller, self.domain, [Gfn(from), Gfn(to)], count)
    }

    /// Which frames are cached how is kept, and changes nothing: the model has no caches.
    pub(super) fn pin_cacheattr(&self, data: &xen_dm_op_pin_memory_cacheattr) -> Result<(), Errno> {
        must(data.pad == 0)?;
        must(data.start <= data.end && (data.start | data.end) >> ADDRESS_BITS == 0)?;
        let mut pinned = self.domain.pinned.lock();
        let same = pinned.iter().position(|p| (p.0, p.1) == (data.start, data.end));
        match data.r#type {
            XEN_DMOP_DELETE_MEM_CACHEATTR => {
                pinned.swap_remove(same.ok_or(Errno::ENOENT)?);
                return Ok(());
            }
            XEN_DMOP_MEM_CACHEATTR_UC
            | XEN_DMOP_MEM_CACHEATTR_WC
            | XEN_DMOP_MEM_CACHEATTR_WT
            | XEN_DMOP_MEM_CACHEATTR_WP
            | XEN_DMOP_MEM_CACHEATTR_WB
            | XEN_DMOP_MEM_CACHEATTR_UCM => {}
            _ => return Err(Errno::EINVAL),
        }
        if let Some(range) = same.and_then(|i| pinned.get_mut(i)) {
            range.2 = data.r#type;
            return Ok(());
        }
        if pinned.iter().any(|p| p.0 <= data.end && data.start <= p.1) {
            return Err(Errno::EBUSY);
        }
        if pinned.len() >= MAX_PINNED {
            return Err(Errno::ENOSPC);
        }
        pinned.push((data.start, data.end, data.r#type));
        Ok(())
    }
}
