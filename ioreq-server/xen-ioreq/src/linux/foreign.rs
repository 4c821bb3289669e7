//! What a descriptor of privcmd may do restricted or not: dm_op, mapping frames of others, mapping resources.
#![expect(unsafe_code, reason = "ioctls and memory maps")]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::ioctl::ioctl;
use super::unmap::{Range, reserve};
use super::{OpenError, open};
use crate::abi::privcmd::{
    IOCTL_PRIVCMD_DM_OP, IOCTL_PRIVCMD_MMAP_RESOURCE, IOCTL_PRIVCMD_MMAPBATCH_V2, privcmd_dm_op,
    privcmd_dm_op_buf, privcmd_mmap_resource, privcmd_mmapbatch_v2,
};
use crate::seam::{ForeignPages, Mapping, Prot};
use crate::{DomId, Errno, Gfn, PAGE_SIZE};

/// Most buffers of one dm_op that Linux passes on (`PRIVCMD_DM_OP_MAX_NUM`).
const DM_OP_BUFFERS: usize = 16;

/// Whether pages of a mapping may go together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Together(pub(super) bool);

/// An open `/dev/xen/privcmd`.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) fd: OwnedFd,
    /// Whether a part of a mapping can be unmapped; if not, each page that may go alone is a mapping of its own.
    splits: bool,
    /// Whether this is known not to be a PV domain.
    pub(super) not_pv: bool,
}

impl Device {
    pub(super) fn open() -> Result<Self, OpenError> {
        let fd = open("/dev/xen/privcmd", "xen-privcmd", OFlags::empty())?;
        let guest_type = fs::read_to_string("/sys/hypervisor/guest_type").unwrap_or_default();
        let guest_type = guest_type.trim_end();
        let not_pv = ["HVM", "PVH"].contains(&guest_type);
        let mut device = Self { fd, splits: false, not_pv };
        device.splits = guest_type == "PV" && device.try_split();
        Ok(device)
    }

    /// Away from PV, Linux puts frames of its own below a mapping, and older kernels free them twice after a split;
    /// newer ones refuse to split at all, on PV too. So: PV, and shown to work on a mapping with nothing behind it.
    fn try_split(&self) -> bool {
        let Ok(base) = self.mmap(2, ProtFlags::READ, None) else { return false };
        let second = base.as_ptr().wrapping_add(PAGE_SIZE);
        // SAFETY: the second page of the mapping just made.
        let splits = unsafe { rustix::mm::munmap(second.cast(), PAGE_SIZE) }.is_ok();
        let left = if splits { PAGE_SIZE } else { 2 * PAGE_SIZE };
        // SAFETY: what is left of it. It is whole, so this cannot fail.
        let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), left) };
        splits
    }

    pub(super) fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno> {
        let mut list = [privcmd_dm_op_buf::default(); DM_OP_BUFFERS];
        let list = list.get_mut(..bufs.len()).ok_or(Errno::E2BIG)?;
        for (entry, buf) in list.iter_mut().zip(bufs.iter_mut()) {
            *entry = privcmd_dm_op_buf { uptr: addr(buf.as_mut_ptr()), size: buf.len() as u64 };
        }
        let num = u16::try_from(list.len()).map_err(|_| Errno::E2BIG)?;
        let mut arg =
            privcmd_dm_op { dom: domid.0, num, ubufs: addr(list.as_mut_ptr()), ..Default::default() };
        // SAFETY: the list and its buffers are alive and exclusively ours; Xen stays within the sizes given.
        unsafe { ioctl(self.fd.as_fd(), IOCTL_PRIVCMD_DM_OP, &mut arg) }?;
        Ok(())
    }

    /// Where mappings do not split, each page that may go alone costs two system calls and one of the process's mappings, of which
    /// Linux allows `vm.max_map_count` (65530): ENOMEM beyond.
    pub(super) fn map_foreign(
        &self,
        domid: DomId,
        gfns: &[Gfn],
        prot: Prot,
        Together(together): Together,
    ) -> Result<ForeignPages, Errno> {
        let prot = match prot {
            Prot::Read => ProtFlags::READ,
            Prot::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        if gfns.is_empty() {
            return Err(Errno::EINVAL);
        }
        let mut errors = vec![0i32; gfns.len()];
        let whole = together && !self.splits;
        let one = whole || self.splits;
        let base = if one { self.mmap(gfns.len(), prot, None)? } else { reserve(gfns.len())? };
        // From here on the addresses are given back whatever happens.
        // SAFETY: the mapping just made, which is unmapped as a whole, or any page of which may go alone: mappings split, or each
        // page will be one of its own.
        let range = unsafe { if whole { Range::whole(base, gfns.len()) } else { Range::pagewise(base) } };
        let mapping = Mapping::new(base, gfns.len(), Arc::new(range));
        if one {
            self.batch(domid, gfns, base, &mut errors)?;
        } else {
            for (i, (gfn, error)) in gfns.iter().zip(&mut errors).enumerate() {
                let page = mapping.page(i).ok_or(Errno::EFAULT)?;
                self.mmap(1, prot, Some(page))?;
                self.batch(domid, std::slice::from_ref(gfn), page, std::slice::from_mut(error))?;
            }
        }
        let errors: Vec<_> = errors.iter().map(|&e| (e != 0).then(|| Errno(e.saturating_abs()))).collect();
        // No such domain, or none of our business: that is not about a page, although Linux says it of each.
        if let Some(e) = errors.iter().flatten().find(|&&e| e == Errno::ESRCH || e == Errno::EPERM) {
            return Err(*e);
        }
        Ok(ForeignPages { mapping, errors })
    }

    /// Puts `gfns` at `base`, which must be the start of one mapping of that many pages. A page that could not be
    /// mapped has a negative errno in `errors`, which must be as long as `gfns`.
    fn batch(&self, domid: DomId, gfns: &[Gfn], base: NonNull<u8>, errors: &mut [i32]) -> Result<(), Errno> {
        let mut arg = privcmd_mmapbatch_v2 {
            num: u32::try_from(gfns.len()).map_err(|_| Errno::E2BIG)?,
            dom: domid.0,
            addr: addr(base.as_ptr()),
            // A Gfn is a u64; the kernel only reads the array.
            arr: addr(gfns.as_ptr().cast_mut()),
            err: addr(errors.as_mut_ptr()),
            ..Default::default()
        };
        // SAFETY: both arrays are alive and have `num` entries, and `base` is a mapping of ours that nobody uses yet.
        match unsafe { ioctl(self.fd.as_fd(), IOCTL_PRIVCMD_MMAPBATCH_V2, &mut arg) } {
            // ENOENT is about pages that are paged out; the array says which, and the others are mapped.
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub(super) fn map_resource(
        &self,
        domid: DomId,
        kind: u32,
        id: u32,
        first: u32,
        nr: u32,
    ) -> Result<Mapping, Errno> {
        let pages = usize::try_from(nr).map_err(|_| Errno::EINVAL)?;
        if pages == 0 {
            return Err(Errno::EINVAL);
        }
        let base = self.mmap(pages, ProtFlags::READ | ProtFlags::WRITE, None)?;
        // SAFETY: the mapping just made; where mappings do not split it must go as a whole.
        let range = unsafe { if self.splits { Range::pagewise(base) } else { Range::whole(base, pages) } };
        let mapping = Mapping::new(base, pages, Arc::new(range));
        let mut arg = privcmd_mmap_resource {
            dom: domid.0,
            r#type: kind,
            id,
            idx: first,
            num: u64::from(nr),
            addr: addr(base.as_ptr()),
            ..Default::default()
        };
        // SAFETY: `addr` is a mapping of ours of `num` pages that nobody uses yet.
        unsafe { ioctl(self.fd.as_fd(), IOCTL_PRIVCMD_MMAP_RESOURCE, &mut arg) }?;
        Ok(mapping)
    }

    pub(super) fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno> {
        let mut arg = privcmd_mmap_resource { dom: domid.0, r#type: kind, id, ..Default::default() };
        // SAFETY: without an address nothing is mapped; the kernel writes `num`.
        unsafe { ioctl(self.fd.as_fd(), IOCTL_PRIVCMD_MMAP_RESOURCE, &mut arg) }?;
        u32::try_from(arg.num).map_err(|_| Errno::EOVERFLOW)
    }

    /// Maps `pages` pages of the descriptor, with nothing behind them yet, at `over` (our own addresses) or anywhere.
    fn mmap(&self, pages: usize, prot: ProtFlags, over: Option<NonNull<u8>>) -> Result<NonNull<u8>, Errno> {
        let len = pages.checked_mul(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let (at, fixed) = match over {
            Some(p) => (p.as_ptr().cast(), MapFlags::FIXED),
            None => (ptr::null_mut(), MapFlags::empty()),
        };
        // SAFETY: a new mapping; where the address is given, it replaces a reservation of the caller.
        let base = unsafe { rustix::mm::mmap(at, len, prot, MapFlags::SHARED | fixed, &self.fd, 0) }?;
        NonNull::new(base.cast()).ok_or(Errno::ENOMEM)
    }
}

/// An address for the kernel.
pub(super) fn addr<T>(p: *mut T) -> u64 {
    p.expose_provenance() as u64
}
