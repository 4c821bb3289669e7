//! The seam with the hypervisor: the bytes that cross a hypercall, and nothing above them.
//!
//! Narrow traits, so that a part asks for only what it needs and a restricted descriptor can simply lack the
//! rest. Two implementations: [`crate::linux`], thin, and the model hypervisor, which decodes the same bytes.
//! All methods take `&self`; implementations are `Send + Sync` and may be shared by threads.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use crate::abi::dm_op::xen_dm_op;
use crate::abi::iommu_op::pv_iommu_op;
use crate::abi::sysctl::{
    XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_physinfo, xen_sysctl, xen_sysctl_physinfo,
};
use crate::{DomId, Errno, Gfn, PAGE_SIZE, Port};

/// `dm_op`: what a device model may ask about its one guest. Allowed on a restricted descriptor.
pub trait DmOp: Send + Sync {
    /// `bufs[0]` is a `struct xen_dm_op` (32 bytes or less, zero-extended by Xen); the rest is what the
    /// operation defines. Outputs are written in place.
    ///
    /// Errors: ESRCH no such domain, EPERM not privileged over it, and those of the operation.
    fn dm_op(&self, domid: DomId, bufs: &mut [&mut [u8]]) -> Result<(), Errno>;
}

/// `dm_op`s on a domain that stands still meanwhile: raw hypercalls, and the toolstack's, so never on a restricted descriptor, and
/// not for a stub domain.
pub trait PausedDmOp: Send + Sync {
    /// Pauses `domid`, so that when the first of `ops` is carried out none of its vCPUs runs, nor is one half-way through an access
    /// but for waiting for its answer; carries out the operations in order, each the one buffer of a `dm_op`; and unpauses it. All of it
    /// in one call: who is killed leaves no domain paused. What became of each operation, in order; an operation that fails
    /// keeps none after it from being tried.
    ///
    /// Errors: ESRCH; EPERM, not privileged; EINVAL, its own domain; EOVERFLOW, it is paused 255 times; E2BIG, more than
    /// [`MOST_PAUSED_OPS`]. But for the last the operations may have been carried out all the same, while the domain ran: with none
    /// of them one learns whether it can be paused.
    fn paused_dm_op(&self, domid: DomId, ops: &mut [xen_dm_op]) -> Result<Vec<Result<(), Errno>>, Errno>;
}

/// Operations of one [`PausedDmOp::paused_dm_op`], at most.
pub const MOST_PAUSED_OPS: usize = 64;

/// `iommu_op`: a raw hypercall, so never on a restricted descriptor.
pub trait IommuOp: Send + Sync {
    /// Performs the operations in order and writes each one's `status`. The `Result` is the hypercall's own
    /// return value: ENOSYS where there is no PV-IOMMU, EFAULT and EINVAL for a bad array.
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno>;
}

/// `memory_op`: a raw hypercall.
pub trait MemoryOp: Send + Sync {
    /// `arg` is the operation's struct; where that struct holds a guest handle to a list of frame numbers,
    /// `list` is that list and the implementation fills in the handle. Returns the hypercall's value
    /// (for reservations: the number of extents done, which is 0 and no error for a domain that is not there).
    fn memory_op(&self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<i64, Errno>;
}

/// `grant_table_op`: a raw hypercall.
pub trait GrantTableOp: Send + Sync {
    /// `args` is an array of `count` structs of the operation `cmd`; each one's `status` is written in place. The `Result` is
    /// the hypercall's own value: ENOSYS for an operation that is not there, EINVAL and EFAULT for a bad array, and what
    /// `set_version`, `get_version`, `cache_flush` and `revoke` say, whose structs have no status.
    fn grant_table_op(&self, cmd: u32, args: &mut [u8], count: u32) -> Result<i64, Errno>;

    /// `GNTTABOP_setup_table` or `GNTTABOP_get_status_frames`: `arg` is the one struct, `list` the list of frame numbers to
    /// which its handle leads, and the implementation fills in the handle. EOPNOTSUPP: the table is the kernel's, as on Linux.
    fn grant_table_frames(&self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<i64, Errno> {
        let _ = (cmd, arg, list);
        Err(Errno::EOPNOTSUPP)
    }
}

/// Memory and address space of a domain's own, for who is the domain's kernel: a unikernel, a caller of the model. A Linux
/// process has gntalloc and gntdev in place of it.
pub trait OwnMemory: Send + Sync {
    /// Zeroed frames of the domain's own, side by side, and their numbers; given back with the last page. ENOMEM. EINVAL: none
    /// asked for.
    fn allocate(&self, pages: usize) -> Result<(Mapping, Vec<Gfn>), Errno>;

    /// Address space without memory, for `host_addr` of grants to be mapped: a page of it must be touched only while a grant is
    /// mapped there. What is mapped there when it is dropped is unmapped. ENOMEM. EINVAL: none asked for. EOPNOTSUPP:
    /// grants of this domain are mapped at guest physical addresses, see [`reserve_at`](Self::reserve_at).
    fn reserve(&self, pages: usize) -> Result<Mapping, Errno>;

    /// The same for a translated (HVM, PVH) domain: a view of what is mapped at its frame numbers from `first` on, where the domain
    /// has no memory. The `host_addr` of a grant is the guest physical address, not the view's. EBUSY: there is memory, or
    /// another view. ENOMEM. EINVAL: none asked for, or no such numbers. EOPNOTSUPP: the domain is not translated.
    fn reserve_at(&self, first: Gfn, pages: usize) -> Result<Mapping, Errno> {
        let _ = (first, pages);
        Err(Errno::EOPNOTSUPP)
    }

    /// Maps frames of the own grant table, by the numbers that [`GrantTableOp::grant_table_frames`] gave. EINVAL: one is no such
    /// frame.
    fn map_table(&self, frames: &[u64]) -> Result<Mapping, Errno>;
}

/// `sysctl`: a raw hypercall, for the toolstack and for tests that count frames.
pub trait Sysctl: Send + Sync {
    /// `arg` is a whole `struct xen_sysctl`.
    fn sysctl(&self, arg: &mut [u8]) -> Result<(), Errno>;

    /// About the host: among others how many frames it has free.
    fn physinfo(&self) -> Result<xen_sysctl_physinfo, Errno> {
        let mut op = xen_sysctl {
            cmd: XEN_SYSCTL_physinfo,
            interface_version: XEN_SYSCTL_INTERFACE_VERSION,
            ..xen_sysctl::default()
        };
        self.sysctl(op.as_mut_bytes())?;
        xen_sysctl_physinfo::read_from_prefix(op.u.as_bytes()).map(|(info, _)| info).map_err(|_| Errno::EIO)
    }
}

/// Protection of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prot {
    /// Readable only.
    Read,
    /// Readable and writable.
    ReadWrite,
}

/// Mapping another domain's frames. The mapping itself holds the hypervisor's reference on each frame.
/// Allowed on a restricted descriptor, for the one domain.
pub trait ForeignMap: Send + Sync {
    /// Maps `gfns` of `domid` into one contiguous range. A hole does not fail the call: its page is reported
    /// by [`ForeignPages::error`] and must not be touched. Errors of the whole call: ESRCH, EPERM, ENOMEM.
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno>;

    /// The same for pages that need not go one by one: each frame may be held until the last of them is released. On a Linux
    /// that does not split mappings this costs two system calls, and not two a page.
    fn map_foreign_together(&self, domid: DomId, gfns: &[Gfn], prot: Prot) -> Result<ForeignPages, Errno> {
        self.map_foreign(domid, gfns, prot)
    }
}

/// Mapping hypervisor resources (`XENMEM_acquire_resource`). Allowed on a restricted descriptor.
pub trait ResourceMap: Send + Sync {
    /// Maps `nr` frames of resource (`kind`, `id`) from frame `first`. Errors: ENOENT no such server, EINVAL
    /// no such frame, ESRCH, EPERM.
    fn map_resource(&self, domid: DomId, kind: u32, id: u32, first: u32, nr: u32) -> Result<Mapping, Errno>;
    /// Number of frames of the resource.
    fn resource_size(&self, domid: DomId, kind: u32, id: u32) -> Result<u32, Errno>;
}

/// Event channels of the calling domain, through one pollable descriptor.
pub trait EventChannels: Send + Sync {
    /// The descriptor that becomes readable when a port is pending.
    fn pollable(&self) -> BorrowedFd<'_>;
    /// Binds a new local port to `remote_port` of `remote`.
    fn bind_interdomain(&self, remote: DomId, remote_port: Port) -> Result<Port, Errno>;
    /// A new local port to which `remote` may bind.
    fn bind_unbound(&self, remote: DomId) -> Result<Port, Errno>;
    /// Closes a local port.
    fn unbind(&self, port: Port) -> Result<(), Errno>;
    /// Sends an event through a local port.
    fn notify(&self, port: Port) -> Result<(), Errno>;
    /// Takes pending ports without blocking; each stays masked until [`unmask`](Self::unmask). Returns how
    /// many of `out` were filled, 0 when none was pending. EFBIG: the ring overflowed, see
    /// [`reset_ring`](Self::reset_ring).
    /// Edge-triggered polling tells of the next one only after a call that returned 0: Linux wakes nobody for a port that
    /// comes while others are being read, though that call does not return it.
    fn pending(&self, out: &mut [Port]) -> Result<usize, Errno>;
    /// Lets these ports be delivered again.
    fn unmask(&self, ports: &[Port]) -> Result<(), Errno>;
    /// Empties an overflowed ring; after it every port must be treated as pending.
    fn reset_ring(&self) -> Result<(), Errno>;
    /// For a thread that waits for nothing else. `None`: these can only be polled.
    fn blocking(&self) -> Option<&dyn BlockingEvents> {
        None
    }
}

/// Event channels on which one thread can sleep with a single system call, without polling.
pub trait BlockingEvents: Send + Sync {
    /// As [`EventChannels::pending`], but sleeps until there is something. May return 0: somebody called
    /// [`wake`](Self::wake), or a signal came.
    fn wait(&self, out: &mut [Port]) -> Result<usize, Errno>;
    /// Makes [`wait`](Self::wait) return: the one that sleeps now, or the next.
    fn wake(&self) -> Result<(), Errno>;
}

/// Why an eventfd could not be tied to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventFdError {
    /// The kernel cannot, whatever the arguments: do it in the program instead.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The kernel refused. EBUSY: that eventfd is tied already. ENODEV: it is not. EINVAL: no eventfd, ports that are not
    /// those of the vCPUs from 0 on, or another width than 1, 2, 4 or 8. EPERM: another domain's.
    #[error("{0}")]
    Refused(Errno),
}

impl From<Errno> for EventFdError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// Writes of a guest that ring an eventfd.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell<'a> {
    /// The guest.
    pub domid: DomId,
    /// The sync slots of the server to which the writes go.
    pub slots: &'a Mapping,
    /// The local port of each vCPU, from 0 on.
    pub ports: &'a [Port],
    /// Guest physical address.
    pub addr: u64,
    /// Bytes of a write.
    pub width: u32,
    /// The lowest 16 bits of what is written; the others may be anything.
    pub value: u16,
}

/// Eventfds that the kernel ties to a guest, so that neither a doorbell nor an interrupt passes through the program. Allowed on a
/// restricted descriptor, for the one domain.
///
/// The kernel keeps what is tied until it is taken back; an irqfd also ends with the last descriptor of its eventfd.
pub trait EventFds: Send + Sync {
    /// Whether the kernel has irqfds. Changes nothing.
    fn has_irqfd(&self) -> Result<(), EventFdError>;
    /// From here on a write to `fd` makes the kernel send `op`, the one buffer of a `dm_op`.
    fn assign_irqfd(&self, domid: DomId, op: &mut [u8], fd: BorrowedFd<'_>) -> Result<(), EventFdError>;
    /// Takes that back.
    fn deassign_irqfd(&self, domid: DomId, fd: BorrowedFd<'_>) -> Result<(), EventFdError>;
    /// Whether the kernel has ioeventfds. Changes nothing.
    fn has_ioeventfd(&self) -> Result<(), EventFdError>;
    /// From here on the kernel answers writes that match, and adds 1 to `fd` for each. An eventfd has one doorbell a server.
    /// Other requests are left in their slots; see `ioreq_server::eventfd` for what that takes.
    ///
    /// # Safety
    /// The kernel writes to the slots until the doorbell is taken back: they must stay mapped, and the ports bound, until then.
    #[expect(unsafe_code, reason = "memory that the kernel goes on using")]
    unsafe fn assign_ioeventfd(&self, bell: &Doorbell<'_>, fd: BorrowedFd<'_>) -> Result<(), EventFdError>;
    /// Takes that back.
    fn deassign_ioeventfd(&self, bell: &Doorbell<'_>, fd: BorrowedFd<'_>) -> Result<(), EventFdError>;
}

/// Gives back pages of a mapping.
///
/// # Safety
/// `Mapping` hands out `base` as valid for the mapping's life, so an implementation must keep every page
/// valid until `release` was called for it, and must tolerate exactly one release for each page.
#[expect(unsafe_code, reason = "the contract between a mapping and who made it")]
pub unsafe trait MappingOwner: Send + Sync {
    /// Unmaps pages `first .. first + count` of the mapping.
    fn release(&self, first: usize, count: usize);
}

/// Pages shared with another domain or the hypervisor, unmapped on drop. Never a Rust reference: others write
/// here at any time, so access goes through raw pointers and atomics.
pub struct Mapping {
    base: NonNull<u8>,
    pages: usize,
    owner: Option<Arc<dyn MappingOwner>>,
}

/// One page of a [`Mapping`] that was taken apart, unmapped on drop.
pub struct MappedPage {
    ptr: NonNull<u8>,
    index: usize,
    /// `None` only once it was released.
    owner: Option<Arc<dyn MappingOwner>>,
}

#[expect(
    unsafe_code,
    reason = "raw pointers into shared pages cross threads; every use of them is an unsafe act"
)]
mod send {
    // SAFETY: a Mapping is a number and a handle that releases; it gives no safe access to the memory.
    unsafe impl Send for super::Mapping {}
    // SAFETY: as above.
    unsafe impl Sync for super::Mapping {}
    // SAFETY: as above.
    unsafe impl Send for super::MappedPage {}
    // SAFETY: as above.
    unsafe impl Sync for super::MappedPage {}
}

impl Mapping {
    /// Wraps `pages` pages that start at `base`; `owner` will be told to release them.
    pub fn new(base: NonNull<u8>, pages: usize, owner: Arc<dyn MappingOwner>) -> Self {
        Self { base, pages, owner: Some(owner) }
    }

    /// First byte; page-aligned, valid for [`pages`](Self::pages) pages while `self` lives.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length in frames.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// First byte of page `index`, or `None` beyond the end.
    pub fn page(&self, index: usize) -> Option<NonNull<u8>> {
        if index < self.pages {
            self.base.as_ptr().wrapping_add(index * PAGE_SIZE).into_nonnull()
        } else {
            None
        }
    }

    /// Takes the mapping apart so that pages can be released one by one.
    pub fn into_pages(mut self) -> Vec<MappedPage> {
        let Some(owner) = self.owner.take() else { return Vec::new() };
        (0..self.pages)
            .filter_map(|index| {
                let ptr = self.page(index)?;
                Some(MappedPage { ptr, index, owner: Some(owner.clone()) })
            })
            .collect()
    }
}

trait IntoNonNull {
    fn into_nonnull(self) -> Option<NonNull<u8>>;
}

impl IntoNonNull for *mut u8 {
    fn into_nonnull(self) -> Option<NonNull<u8>> {
        NonNull::new(self)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.release(0, self.pages);
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("base", &self.base).field("pages", &self.pages).finish()
    }
}

impl MappedPage {
    /// First byte of the page; valid while `self` lives.
    pub fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Drops many pages, neighbours of one mapping together: for Linux a system call a run instead of one a page.
    pub fn drop_all(mut pages: Vec<Self>) {
        pages.sort_by_key(|page| (page.owner_addr(), page.index));
        let neighbours = |a: &Self, b: &Self| a.owner_addr() == b.owner_addr() && a.index + 1 == b.index;
        for run in pages.chunk_by_mut(neighbours) {
            let count = run.len();
            let Some((first, rest)) = run.split_first_mut() else { continue };
            // Without its owner a page releases nothing when it is dropped.
            rest.iter_mut().for_each(|page| page.owner = None);
            if let Some(owner) = first.owner.take() {
                owner.release(first.index, count);
            }
        }
    }

    fn owner_addr(&self) -> Option<*const ()> {
        self.owner.as_ref().map(|owner| Arc::as_ptr(owner).cast())
    }
}

impl Drop for MappedPage {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            owner.release(self.index, 1);
        }
    }
}

impl fmt::Debug for MappedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedPage").field("ptr", &self.ptr).field("index", &self.index).finish()
    }
}

/// Foreign pages and what became of each.
#[derive(Debug)]
pub struct ForeignPages {
    /// The range; pages with an error in it must not be touched.
    pub mapping: Mapping,
    /// One entry a page: `None` mapped, or the error (EINVAL or ENOENT: a hole).
    pub errors: Vec<Option<Errno>>,
}

impl ForeignPages {
    /// The error of page `index`, if it could not be mapped.
    pub fn error(&self, index: usize) -> Option<Errno> {
        self.errors.get(index).copied().flatten()
    }

    /// Takes the range apart; holes come back as their error (their address range is released).
    pub fn into_pages(self) -> Vec<Result<MappedPage, Errno>> {
        let errors = self.errors;
        self.mapping
            .into_pages()
            .into_iter()
            .enumerate()
            .map(|(i, page)| match errors.get(i).copied().flatten() {
                Some(e) => Err(e),
                None => Ok(page),
            })
            .collect()
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "an owner that writes down what it is told")]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Book(Mutex<Vec<(usize, usize)>>);

    // SAFETY: nobody touches the pages.
    unsafe impl MappingOwner for Book {
        fn release(&self, first: usize, count: usize) {
            self.0.lock().expect("not poisoned").push((first, count));
        }
    }

    fn pages(book: &Arc<Book>, n: usize) -> Vec<MappedPage> {
        Mapping::new(NonNull::dangling(), n, book.clone()).into_pages()
    }

    fn told(book: &Book) -> Vec<(usize, usize)> {
        book.0.lock().expect("not poisoned").clone()
    }

    #[test]
    fn pages_dropped_together_are_released_once_each_and_in_runs() {
        let (a, b) = (Arc::new(Book::default()), Arc::new(Book::default()));
        let mut all = pages(&a, 6);
        let kept = all.remove(3);
        all.rotate_left(2);
        all.extend(pages(&b, 2));
        all.swap(0, 6);
        MappedPage::drop_all(all);
        assert_eq!((told(&a), told(&b)), (vec![(0, 3), (4, 2)], vec![(0, 2)]));
        drop(kept);
        assert_eq!(told(&a).last(), Some(&(3, 1)));
        MappedPage::drop_all(Vec::new());
    }
}
