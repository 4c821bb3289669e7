//! Memory of a PV dom0's own at machine frames that are known and stay, for devices to reach.
//!
//! `/dev/xen/hypercall` gives pages that the kernel has allocated for itself: they are never moved, swapped or shared.
//! `/proc/self/pagemap` tells the kernel's number of each, the kernel's own table its machine frame; that is a hint, and no page is
//! handed out before its frame, mapped a second time by number, has shown the same bytes.
#![expect(unsafe_code, reason = "memory maps, and bytes compared through two of them")]

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::p2m::P2m;
use super::unmap::Range;
use super::{OpenError, Privcmd, open};
use crate::seam::{ForeignMap as _, Mapping, Prot};
use crate::{DomId, Errno, Gfn, PAGE_SIZE};

/// Bytes of an entry of pagemap: bits 0 to 54 are the frame, bit 63 says that there is one (Linux
/// `Documentation/admin-guide/mm/pagemap.rst`).
const ENTRY: usize = 8;
const PFN: u64 = (1 << 55) - 1;
const PRESENT: u64 = 1 << 63;
/// Pages that are compared together.
const BATCH: usize = 512;

/// Why there is no such memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnRamError {
    /// There is no device that gives such pages.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A frame cannot be mapped a second time, so that nothing shows whether its number is right.
    #[error(
        "this is no PV domain: it cannot map memory of its own by number, which would show where that is"
    )]
    NotPv,
    /// The device does not give so many.
    #[error("{pages} pages of /dev/xen/hypercall: {errno}")]
    Pages {
        /// How many were asked for.
        pages: usize,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel tells nothing.
    #[error("/proc/self/pagemap tells no frame numbers: CAP_SYS_ADMIN is needed")]
    Hidden,
    /// The kernel does not tell it.
    #[error("/proc/self/pagemap: {0}")]
    Pagemap(Errno),
    /// Xen does not tell where the kernel's table is, or the kernel has none.
    #[error("the kernel does not say at which machine frames its memory is: {0}")]
    NoTable(Errno),
    /// The table has nothing for a page.
    #[error("frame {pfn:#x} of the kernel's is at no machine frame: {errno}")]
    NoFrame {
        /// Its number.
        pfn: u64,
        /// What came of looking for it.
        errno: Errno,
    },
    /// The frame cannot be mapped by its number.
    #[error("machine frame {frame} of this domain's own cannot be mapped: {errno}")]
    Map {
        /// The machine frame.
        frame: Gfn,
        /// What Xen said.
        errno: Errno,
    },
    /// Something else is there.
    #[error("machine frame {frame} has other bytes than the page that should be there")]
    Differs {
        /// The machine frame.
        frame: Gfn,
    },
}

/// Zeroed pages side by side, with their machine frames. Given back to the kernel on drop.
#[derive(Debug)]
pub struct OwnRam {
    mapping: Mapping,
    frames: Vec<Gfn>,
}

impl OwnRam {
    /// Takes `pages` pages. Each is shown to be at its frame: two values are written to it, and read at the frame.
    ///
    /// # Errors
    /// What [`OwnRamError`] names.
    pub fn take(privcmd: &Privcmd, pages: usize) -> Result<Self, OwnRamError> {
        if privcmd.device.not_pv {
            return Err(OwnRamError::NotPv);
        }
        let mapping = map(&open("/dev/xen/hypercall", "xen-privcmd", OFlags::empty())?, pages)?;
        let frames = frames(privcmd, &mapping)?;
        let ram = Self { mapping, frames };
        ram.show(privcmd)?;
        Ok(ram)
    }

    /// The machine frame of each page.
    pub fn frames(&self) -> &[Gfn] {
        &self.frames
    }

    /// The pages, and the machine frame of each.
    pub fn into_mapping(self) -> (Mapping, Vec<Gfn>) {
        (self.mapping, self.frames)
    }

    fn show(&self, privcmd: &Privcmd) -> Result<(), OwnRamError> {
        let keys = RandomState::new();
        let mut page = 0;
        for batch in self.frames.chunks(BATCH) {
            let failed =
                |errno| OwnRamError::Map { frame: batch.first().copied().unwrap_or_default(), errno };
            let seen = privcmd.map_foreign_together(DomId::SELF, batch, Prot::Read).map_err(failed)?;
            for (i, &frame) in batch.iter().enumerate() {
                if let Some(errno) = seen.error(i) {
                    return Err(OwnRamError::Map { frame, errno });
                }
                let differs = OwnRamError::Differs { frame };
                let (here, there) =
                    (self.mapping.page(page).ok_or(differs)?, seen.mapping.page(i).ok_or(differs)?);
                let value = keys.hash_one(page);
                // SAFETY: whole pages that are mapped while `self` and `seen` live.
                if unsafe {
                    !(shows(here, there, value) && shows(here, there, !value) && shows(here, there, 0))
                } {
                    return Err(differs);
                }
                page += 1;
            }
        }
        Ok(())
    }
}

/// Whether what is written to the beginning of a page is read at that of another.
///
/// # Safety
/// Both are mapped, the first for writing, and accessed atomically only.
unsafe fn shows(here: NonNull<u8>, there: NonNull<u8>, value: u64) -> bool {
    // SAFETY: the caller's; a page is aligned.
    let (here, there) =
        unsafe { (AtomicU64::from_ptr(here.as_ptr().cast()), AtomicU64::from_ptr(there.as_ptr().cast())) };
    here.store(value, Ordering::SeqCst);
    there.load(Ordering::SeqCst) == value
}

fn map(device: &OwnedFd, pages: usize) -> Result<Mapping, OwnRamError> {
    let refused = |errno| OwnRamError::Pages { pages, errno };
    let len = pages.checked_mul(PAGE_SIZE).filter(|len| *len != 0).ok_or(refused(Errno::EINVAL))?;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, device, 0) };
    let base = base.map_err(|e| refused(e.into()))?;
    let base = NonNull::new(base.cast()).ok_or(refused(Errno::ENOMEM))?;
    // SAFETY: the mapping just made, which nobody else has, and which goes as a whole.
    let range = unsafe { Range::whole(base, pages) };
    Ok(Mapping::new(base, pages, Arc::new(range)))
}

/// The machine frame of each page, as far as the kernel is right.
fn frames(privcmd: &Privcmd, mapping: &Mapping) -> Result<Vec<Gfn>, OwnRamError> {
    let pagemap = File::open("/proc/self/pagemap").map_err(|e| OwnRamError::Pagemap(errno(&e)))?;
    let mut entries = vec![0; mapping.pages() * ENTRY];
    let at = mapping.base().as_ptr().addr() / PAGE_SIZE * ENTRY;
    pagemap.read_exact_at(&mut entries, at as u64).map_err(|e| OwnRamError::Pagemap(errno(&e)))?;
    let us = privcmd.domains(DomId(0), 1).map_err(OwnRamError::NoTable)?;
    let us = us.first().filter(|d| d.domain == 0).ok_or(OwnRamError::NoTable(Errno::ESRCH))?;
    let mut table = P2m::find(privcmd, us.shared_info_frame).map_err(OwnRamError::NoTable)?;
    let frame = |entry: &[u8; ENTRY]| {
        let entry = u64::from_ne_bytes(*entry);
        let pfn = entry & PFN;
        if entry & PRESENT == 0 || pfn == 0 {
            return Err(OwnRamError::Hidden);
        }
        table.machine_frame(pfn).map_err(|errno| OwnRamError::NoFrame { pfn, errno })
    };
    entries.as_chunks::<ENTRY>().0.iter().map(frame).collect()
}

fn errno(e: &std::io::Error) -> Errno {
    Errno(e.raw_os_error().unwrap_or(Errno::EIO.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_shows_at_the_same_page_and_at_no_other() {
        let pages = [0u64, 0].map(|v| Box::new(AtomicU64::new(v)));
        let at = |i: usize| NonNull::new(pages[i].as_ptr().cast::<u8>()).unwrap();
        // SAFETY: both live here, and are atomics.
        unsafe {
            assert!(shows(at(0), at(0), 7) && shows(at(0), at(0), !7) && shows(at(0), at(0), 0));
            assert!(!shows(at(0), at(1), 7));
        }
    }

    #[test]
    fn each_lack_has_one_line() {
        let frame = Gfn(0x1234);
        let lacks = [
            OwnRamError::NotPv,
            OwnRamError::Pages { pages: 4, errno: Errno::EINVAL },
            OwnRamError::Hidden,
            OwnRamError::NoTable(Errno::EOPNOTSUPP),
            OwnRamError::NoFrame { pfn: 1, errno: Errno::ENOENT },
            OwnRamError::Map { frame, errno: Errno::EPERM },
            OwnRamError::Differs { frame },
        ];
        assert!(lacks.iter().all(|lack| lack.to_string().lines().count() == 1));
    }
}
