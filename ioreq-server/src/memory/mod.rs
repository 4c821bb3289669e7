//! Guest memory for the other side of an access (`data_is_ptr`) and for devices that copy.
//!
//! Copies only: no pointer leaves this module. A page is mapped when it is touched. Without a cache it is let go when the
//! [`Session`] ends; with one it stays mapped until a notice says that it may have changed. A hole is an error that names
//! its frame.

mod cache;
mod copy;
mod place;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use xen_ioreq::seam::{ForeignMap, MappedPage, Prot};
use xen_ioreq::{DomId, Errno, Gfn};

pub use self::cache::CacheStats;
use self::cache::{Cache, Held};
pub use self::session::Session;
use crate::device::Width;

/// Guest memory that could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// Nothing is behind that frame number.
    #[error("{domid}: guest frame {gfn} cannot be mapped: {errno}")]
    Hole {
        /// The guest.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// What the hypervisor said of that frame.
        errno: Errno,
    },
    /// The mapping as a whole failed.
    #[error("{domid}: mapping guest frame {gfn}: {errno}")]
    Map {
        /// The guest.
        domid: DomId,
        /// The frame.
        gfn: Gfn,
        /// What the hypervisor said.
        errno: Errno,
    },
    /// The address range does not fit into 64 bits.
    #[error("{domid}: guest address range {addr:#x} + {len:#x} wraps")]
    Wraps {
        /// The guest.
        domid: DomId,
        /// First byte.
        addr: u64,
        /// Length in bytes.
        len: usize,
    },
    /// An access leaves its [`GuestBuffer`].
    #[error("{domid}: {len} bytes at {offset:#x} of a buffer of {size:#x} bytes")]
    Outside {
        /// The guest.
        domid: DomId,
        /// Offset in the buffer.
        offset: u64,
        /// Length of the access in bytes.
        len: usize,
        /// Length of the buffer in bytes.
        size: u64,
    },
}

/// A guest's memory, by guest physical address. Cheap to clone; clones share the cache, if there is one.
///
/// # With a cache, and without
///
/// Without a cache ([`new`](Self::new)) every [`Session`] maps anew, so an access always reaches the page that the guest has
/// at that moment; it costs a system call and a hypercall a page.
///
/// With one ([`cached`](Self::cached)) a page stays mapped until [`invalidate`](Self::invalidate) is called, which
/// [`Guest`](crate::Guest) does for the memory that it was given whenever Xen says that something changed. What that means:
///
/// - Xen must say so. Stock Xen and XenServer's do, after each change and before the guest's instruction ends; Xen with the
///   PV-IOMMU of draft B tells only of frames that have a bus address.
/// - The notice comes after the change. An access between the two, by another vCPU, reaches the page as it was; the mapping
///   holds that page, so it is nobody else's yet.
/// - A guest may put another page where one is (`populate_physmap` over a populated frame) and Xen says nothing. Then
///   accesses reach the page as it was until the next notice: to the guest's harm alone, who does not do that by accident.
/// - A page that is mapped counts against the guest's limit (`max_mem`) also after the guest has ballooned it out, so at a
///   notice everything that nobody uses at that moment is unmapped, and the rest when its use ends.
///
/// ```
/// # use std::sync::Arc;
/// # use mock_xen::{Config, DomainConfig, Machine, Profile};
/// # use xen_ioreq::{DomId, Gfn};
/// use ioreq_server::{Connection, MemoryError};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let machine = Machine::new(Config { profile: Profile::Stock, ..Config::default() })?;
/// # let domid = machine.create_domain(&DomainConfig::default())?;
/// # machine.populate(domid, Gfn(0), 16)?;
/// # let xen = Arc::new(machine.caller(DomId(0))?);
/// # let conn = Connection::new(xen.clone(), xen);
/// let memory = conn.guest_memory(domid).cached(64);
/// memory.write(0x1ffe, b"across two pages")?;
///
/// // What a device keeps: a range, not a mapping.
/// let buffer = memory.buffer(0x1ffe, 16)?;
/// let mut text = [0; 16];
/// buffer.read(0, &mut text)?;
/// assert_eq!(&text, b"across two pages");
/// assert_eq!(memory.cache_stats().maps, 2);
///
/// assert!(matches!(memory.read(0x10_0000, &mut text), Err(MemoryError::Hole { gfn: Gfn(0x100), .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct GuestMemory(Arc<Inner>);

struct Inner {
    map: Arc<dyn ForeignMap>,
    domid: DomId,
    cache: Option<Cache<MappedPage>>,
}

impl GuestMemory {
    /// The memory of `domid`, mapped through `map`. Nothing is kept.
    pub fn new(map: Arc<dyn ForeignMap>, domid: DomId) -> Self {
        Self(Arc::new(Inner { map, domid, cache: None }))
    }

    /// The same memory with a cache of its own, of at most `pages` pages (rounded down to at most 4 times a power of two, at
    /// least 1). See [above](Self#with-a-cache-and-without) for when that is right.
    pub fn cached(&self, pages: usize) -> Self {
        let Inner { map, domid, .. } = &*self.0;
        Self(Arc::new(Inner { map: map.clone(), domid: *domid, cache: Some(Cache::new(pages)) }))
    }

    /// The guest.
    pub fn domid(&self) -> DomId {
        self.0.domid
    }

    /// Copies out `buf.len()` bytes from `addr`. On an error the part before the hole is in `buf`.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.session().read(addr, buf)
    }

    /// Copies `buf` to `addr`. On an error the part before the hole was written.
    pub fn write(&self, addr: u64, buf: &[u8]) -> Result<(), MemoryError> {
        self.session().write(addr, buf)
    }

    /// A run of accesses that keeps the page it last used. Drop it before anything waits.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// `len` bytes from `addr` on, for a device to keep. Nothing is mapped before it is used.
    pub fn buffer(&self, addr: u64, len: u64) -> Result<GuestBuffer, MemoryError> {
        let fits = len == 0 || addr.checked_add(len - 1).is_some();
        let wraps =
            MemoryError::Wraps { domid: self.domid(), addr, len: usize::try_from(len).unwrap_or(usize::MAX) };
        if fits { Ok(GuestBuffer { memory: self.clone(), addr, len }) } else { Err(wraps) }
    }

    /// Something in the guest's memory has changed: no access that begins after this finds a page that was mapped
    /// before. Unmaps what is not in use.
    pub fn invalidate(&self) {
        if let Some(cache) = &self.0.cache
            && cache.revoke()
        {
            MappedPage::drop_all(cache.sweep());
        }
    }

    /// As [`invalidate`](Self::invalidate), of one frame.
    pub fn invalidate_frame(&self, gfn: Gfn) {
        if let Some(cache) = &self.0.cache {
            MappedPage::drop_all(cache.forget(gfn));
        }
    }

    /// Most pages that the cache keeps; 0 without one.
    pub fn cache_pages(&self) -> usize {
        self.0.cache.as_ref().map_or(0, Cache::capacity)
    }

    /// What the cache has done; zeros without one.
    pub fn cache_stats(&self) -> CacheStats {
        self.0.cache.as_ref().map_or_else(CacheStats::default, Cache::stats)
    }

    /// A page, from the cache or mapped now.
    fn page(&self, gfn: Gfn, write: bool) -> Result<Held<'_, MappedPage>, MemoryError> {
        let map = || self.map(gfn, write);
        match &self.0.cache {
            Some(cache) => cache.get(gfn, write, map),
            None => Ok(Held::Once(map()?, None)),
        }
    }

    /// Whether a new access may use a page that is held already.
    fn is_current(&self, held: &Held<'_, MappedPage>) -> bool {
        self.0.cache.as_ref().is_none_or(|cache| cache.is_current(held))
    }

    fn map(&self, gfn: Gfn, write: bool) -> Result<MappedPage, MemoryError> {
        let domid = self.0.domid;
        let prot = if write { Prot::ReadWrite } else { Prot::Read };
        let failed = |errno| MemoryError::Map { domid, gfn, errno };
        let pages = self.0.map.map_foreign(domid, &[gfn], prot).map_err(failed)?;
        match pages.into_pages().pop() {
            Some(Ok(page)) => Ok(page),
            Some(Err(errno)) => Err(MemoryError::Hole { domid, gfn, errno }),
            None => Err(failed(Errno::EFAULT)),
        }
    }
}

impl fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestMemory")
            .field("domid", &self.0.domid)
            .field("cache", &self.0.cache)
            .finish_non_exhaustive()
    }
}

/// A range of guest memory that a device keeps: a ring, a descriptor table, a framebuffer. It holds no mapping, so an
/// invalidation takes nothing away from it: the next access finds the page that is there then.
#[derive(Clone, Debug)]
pub struct GuestBuffer {
    memory: GuestMemory,
    addr: u64,
    len: u64,
}

impl GuestBuffer {
    /// First byte, a guest physical address.
    pub fn addr(&self) -> u64 {
        self.addr
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where `len` bytes at `offset` are.
    fn at(&self, offset: u64, len: usize) -> Result<u64, MemoryError> {
        let inside = self.len.checked_sub(offset).is_some_and(|room| len as u64 <= room);
        // Inside, so it does not wrap: `GuestMemory::buffer` has seen to that.
        if inside { Ok(self.addr.wrapping_add(offset)) } else { Err(self.outside(offset, len)) }
    }

    fn outside(&self, offset: u64, len: usize) -> MemoryError {
        MemoryError::Outside { domid: self.memory.domid(), offset, len, size: self.len }
    }

    /// Copies out. On an error the part before the hole is in `buf`.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read(self.at(offset, buf.len())?, buf)
    }

    /// Copies in. On an error the part before the hole was written.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.memory.write(self.at(offset, data.len())?, data)
    }

    /// Reads one number. Where its address is aligned it is read at once, and what the guest wrote before it is visible
    /// after it.
    pub fn load(&self, offset: u64, width: Width) -> Result<u64, MemoryError> {
        let at = self.at(offset, width.bytes() as usize)?;
        self.memory.session().read_item(at, width)
    }

    /// Writes the low bytes of a number. Where its address is aligned it is written at once, and a guest that sees it sees
    /// what was written before.
    pub fn store(&self, offset: u64, width: Width, value: u64) -> Result<(), MemoryError> {
        let at = self.at(offset, width.bytes() as usize)?;
        self.memory.session().write_item(at, width, value)
    }
}
