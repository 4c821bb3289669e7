//! `/dev/xen/gntalloc`: own pages, granted to another domain.
//!
//! The kernel makes the pages, writes the entries and ends the grants when the mapping has gone. A page that the other
//! domain still maps then stays the kernel's until that ends: it is out of use here and never given to anybody else.
#![expect(unsafe_code, reason = "ioctls and memory maps")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, IntoBytes};

use super::ioctl::ioctl;
use super::unmap::Range;
use super::{OpenError, UnmapNotify, open};
use crate::abi::gntalloc::*;
use crate::seam::{Mapping, Prot};
use crate::{DomId, Errno, GrantRef, PAGE_SIZE};

/// An open `/dev/xen/gntalloc`.
#[derive(Debug)]
pub struct Gntalloc {
    fd: OwnedFd,
}

impl AsFd for Gntalloc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Pages of this domain, mapped side by side, and the references by which another domain reaches them.
#[derive(Debug)]
pub struct Granted {
    /// The pages, zeroed. The grants end when the last of them is dropped.
    pub mapping: Mapping,
    /// One a page, in order.
    pub refs: Vec<GrantRef>,
}

impl Gntalloc {
    /// Opens the device.
    pub fn open() -> Result<Self, OpenError> {
        Ok(Self { fd: open("/dev/xen/gntalloc", "xen-gntalloc", OFlags::empty())? })
    }

    /// Grants `pages` new pages to `domid`, which may write them if `prot` says so; this domain always may.
    ///
    /// Errors: EINVAL none asked for, or `notify` names a port that is not ours; E2BIG more than the driver's limit
    /// (`xen_gntalloc.limit`, 1024 pages in all descriptors) ever allows; ENOSPC the limit is reached; ENOMEM.
    pub fn grant(
        &self,
        domid: DomId,
        pages: usize,
        prot: Prot,
        notify: UnmapNotify,
    ) -> Result<Granted, Errno> {
        let count = u32::try_from(pages).map_err(|_| Errno::E2BIG)?;
        // More than any limit; and what follows must not overflow.
        if count == 0 || count > 1 << 20 {
            return Err(if count == 0 { Errno::EINVAL } else { Errno::E2BIG });
        }
        let flags = if prot == Prot::ReadWrite { GNTALLOC_FLAG_WRITABLE } else { 0 };
        let head = ioctl_gntalloc_alloc_gref { domid: domid.0, flags, count, ..Default::default() };
        // Words, for the struct's alignment.
        let mut words = vec![0u64; (ALLOC_GREF_HEAD + pages * size_of::<u32>()).div_ceil(8).max(3)];
        head.write_to_prefix(words.as_mut_bytes()).map_err(|_| Errno::EFAULT)?;
        // SAFETY: the struct with room for `count` references; it holds no address.
        unsafe { ioctl(self.fd.as_fd(), IOCTL_GNTALLOC_ALLOC_GREF, words.as_mut_slice()) }?;
        let (head, _) =
            ioctl_gntalloc_alloc_gref::read_from_prefix(words.as_bytes()).map_err(|_| Errno::EFAULT)?;
        let refs = words.as_bytes().get(ALLOC_GREF_HEAD..).unwrap_or_default().as_chunks().0;
        let refs = refs.iter().take(pages).map(|r| GrantRef(u32::from_ne_bytes(*r))).collect();
        let mapping = self.mapped(head.index, pages, notify);
        // The descriptor lets go of the pages; from here on the mapping alone holds them.
        let mut drop = ioctl_gntalloc_dealloc_gref { index: head.index, count, ..Default::default() };
        // SAFETY: the opcode goes with this struct, which holds no address.
        let dropped = unsafe { ioctl(self.fd.as_fd(), IOCTL_GNTALLOC_DEALLOC_GREF, &mut drop) };
        let mapping = mapping?;
        dropped?;
        Ok(Granted { mapping, refs })
    }

    fn mapped(&self, index: u64, pages: usize, notify: UnmapNotify) -> Result<Mapping, Errno> {
        let (prot, len) = (ProtFlags::READ | ProtFlags::WRITE, pages * PAGE_SIZE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &self.fd, index) }?;
        let base = NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?;
        // SAFETY: the mapping just made. The driver counts mappings, and a part of one as one: it goes as a whole.
        let mapping = Mapping::new(base, pages, Arc::new(unsafe { Range::whole(base, pages) }));
        if let Some((index, action, event_channel_port)) = notify.arguments(index) {
            let mut arg = ioctl_gntalloc_unmap_notify { index, action, event_channel_port };
            // SAFETY: the opcode goes with this struct, which holds no address.
            unsafe { ioctl(self.fd.as_fd(), IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, &mut arg) }?;
        }
        Ok(mapping)
    }
}
