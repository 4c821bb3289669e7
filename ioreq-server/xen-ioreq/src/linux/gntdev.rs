//! `/dev/xen/gntdev`: pages that other domains grant, mapped or copied.
//!
//! The mapping is plain: the granter can change the bytes at any time, and cannot free the pages before it has gone.
#![expect(unsafe_code, reason = "ioctls and memory maps")]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, IntoBytes};

use super::foreign::addr;
use super::ioctl::ioctl;
use super::{OpenError, UnmapNotify, open};
use crate::abi::gntdev::*;
use crate::abi::grant_table::{GNTCOPY_dest_gref, GNTCOPY_source_gref};
use crate::seam::{Mapping, MappingOwner, Prot};
use crate::{DomId, Errno, GrantRef, PAGE_SIZE};

/// An open `/dev/xen/gntdev`.
#[derive(Clone, Debug)]
pub struct Gntdev {
    fd: Arc<OwnedFd>,
}

/// One copy between memory of this process and a page that is granted to this domain; at most a page, and not across the
/// end of one.
#[derive(Debug)]
pub struct GrantCopy<'a> {
    /// Whose page.
    pub domid: DomId,
    /// Which.
    pub gref: GrantRef,
    /// First byte in the page.
    pub offset: u16,
    /// Our end.
    pub local: CopyEnd<'a>,
    /// Out: `GNTST_*`.
    pub status: i16,
}

/// The end of a copy that is ours, and its direction.
#[derive(Debug)]
pub enum CopyEnd<'a> {
    /// From these bytes to the page.
    From(&'a [u8]),
    /// From the page to these bytes.
    To(&'a mut [u8]),
}

/// A mapping's slot in the driver, which goes with it.
#[derive(Debug)]
struct Slot {
    fd: Arc<OwnedFd>,
    base: NonNull<u8>,
    pages: usize,
    left: AtomicUsize,
    index: u64,
    count: u32,
}

// SAFETY: an address range that is only ever unmapped.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

// SAFETY: the pages are unmapped when the last of them was released and not before.
unsafe impl MappingOwner for Slot {
    fn release(&self, _first: usize, count: usize) {
        if self.left.fetch_sub(count, Ordering::AcqRel) == count {
            // SAFETY: the whole range, of which every page was released.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.pages * PAGE_SIZE) };
            forget(&self.fd, self.index, self.count);
        }
    }
}

/// Gives a slot of the driver back. Nothing could be done about a failure; the kernel does it when the descriptor closes.
fn forget(fd: &OwnedFd, index: u64, count: u32) {
    let mut arg = ioctl_gntdev_unmap_grant_ref { index, count, pad: 0 };
    // SAFETY: the opcode goes with this struct, which holds no address.
    let _ = unsafe { ioctl(fd.as_fd(), IOCTL_GNTDEV_UNMAP_GRANT_REF, &mut arg) };
}

impl Gntdev {
    /// Opens the device.
    pub fn open() -> Result<Self, OpenError> {
        let fd = open("/dev/xen/gntdev", "xen-gntdev", OFlags::empty())?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Maps pages that domains grant, side by side; all of them or none.
    ///
    /// Errors: EINVAL none given, or Xen refuses one (the kernel does not say which, nor why); EAGAIN one is paged out; ENOMEM;
    /// `notify` as [`UnmapNotify`] says.
    pub fn map(
        &self,
        grants: &[(DomId, GrantRef)],
        prot: Prot,
        notify: UnmapNotify,
    ) -> Result<Mapping, Errno> {
        let count = u32::try_from(grants.len()).map_err(|_| Errno::E2BIG)?;
        if count == 0 {
            return Err(Errno::EINVAL);
        }
        let one = size_of::<ioctl_gntdev_grant_ref>();
        let mut words = vec![0u64; (MAP_GRANT_REF_HEAD + grants.len() * one).div_ceil(8)];
        let head = ioctl_gntdev_map_grant_ref { count, ..Default::default() };
        head.write_to_prefix(words.as_mut_bytes()).map_err(|_| Errno::EFAULT)?;
        let list = words.as_mut_bytes().get_mut(MAP_GRANT_REF_HEAD..).unwrap_or_default();
        for (bytes, (domid, gref)) in list.chunks_exact_mut(one).zip(grants) {
            let grant = ioctl_gntdev_grant_ref { domid: u32::from(domid.0), r#ref: gref.0 };
            grant.write_to(bytes).map_err(|_| Errno::EFAULT)?;
        }
        // SAFETY: the struct with `count` grants; it holds no address.
        unsafe { ioctl(self.fd.as_fd(), IOCTL_GNTDEV_MAP_GRANT_REF, words.as_mut_slice()) }?;
        let (head, _) =
            ioctl_gntdev_map_grant_ref::read_from_prefix(words.as_bytes()).map_err(|_| Errno::EFAULT)?;
        let index = head.index;

        let prot = match prot {
            Prot::Read => ProtFlags::READ,
            Prot::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let (pages, len) = (grants.len(), grants.len() * PAGE_SIZE);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &self.fd, index) };
        let base = match base.map(|p| NonNull::new(p.cast())) {
            Ok(Some(base)) => base,
            other => {
                forget(&self.fd, index, count);
                return Err(other.err().map_or(Errno::ENOMEM, Errno::from));
            }
        };
        let slot = Slot { fd: self.fd.clone(), base, pages, left: AtomicUsize::new(pages), index, count };
        let mapping = Mapping::new(base, pages, Arc::new(slot));
        if let Some((index, action, event_channel_port)) = notify.arguments(index) {
            let mut arg = ioctl_gntdev_unmap_notify { index, action, event_channel_port };
            // SAFETY: the opcode goes with this struct, which holds no address.
            unsafe { ioctl(self.fd.as_fd(), IOCTL_GNTDEV_SET_UNMAP_NOTIFY, &mut arg) }?;
        }
        Ok(mapping)
    }

    /// Copies, in order, and writes each one's status. Errors of the call, with any number of copies done: EINVAL a copy that
    /// crosses a page or is empty; EFAULT.
    pub fn copy(&self, copies: &mut [GrantCopy<'_>]) -> Result<(), Errno> {
        let mut segments = Vec::with_capacity(copies.len());
        for copy in &mut *copies {
            // `{ u32 ref; u16 offset; u16 domid }`
            let page = u64::from(copy.gref.0) | u64::from(copy.offset) << 32 | u64::from(copy.domid.0) << 48;
            let (source, dest, len, flags) = match &mut copy.local {
                CopyEnd::From(bytes) => {
                    (addr(bytes.as_ptr().cast_mut()), page, bytes.len(), GNTCOPY_dest_gref)
                }
                CopyEnd::To(bytes) => (page, addr(bytes.as_mut_ptr()), bytes.len(), GNTCOPY_source_gref),
            };
            let len = u16::try_from(len).ok().filter(|n| (1..=PAGE_SIZE).contains(&usize::from(*n)));
            let len = len.ok_or(Errno::EINVAL)?;
            segments.push(ioctl_gntdev_grant_copy_segment { source, dest, len, flags, ..Default::default() });
        }
        let count = u32::try_from(segments.len()).map_err(|_| Errno::E2BIG)?;
        let mut arg =
            ioctl_gntdev_grant_copy { count, segments: addr(segments.as_mut_ptr()), ..Default::default() };
        // SAFETY: `count` segments that are alive, as are the bytes that each names; those that are written are exclusively ours.
        let done = unsafe { ioctl(self.fd.as_fd(), IOCTL_GNTDEV_GRANT_COPY, &mut arg) };
        for (copy, segment) in copies.iter_mut().zip(&segments) {
            copy.status = segment.status;
        }
        done.map(drop)
    }
}
