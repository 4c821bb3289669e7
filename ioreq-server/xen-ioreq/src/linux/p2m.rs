//! The table in which a PV domain's kernel keeps the machine frame of each frame of its own, read as Xen's tools read it:
//! by the page tables that the shared info page names.
//!
//! Read only, and only a hint: the kernel may change it meanwhile. Whoever uses a number shows that it is right.
#![expect(unsafe_code, reason = "reads of pages that a kernel writes")]

use std::collections::HashMap;

use crate::abi::xen::{SHARED_INFO_MAX_PFN, SHARED_INFO_P2M_CR3, SHARED_INFO_P2M_VADDR};
use crate::seam::{ForeignMap, Mapping, Prot};
use crate::{DomId, Errno, Gfn, PAGE_SHIFT, PAGE_SIZE};

/// Quadwords in a page.
const ENTRIES: u64 = (PAGE_SIZE / size_of::<u64>()) as u64;
/// Of an entry: something is there; it is a large page.
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
/// The frame in an entry, and in CR3.
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// In the table: not memory of the domain's own (another domain's, or a device's).
const NOT_OWN: u64 = 0b11 << 62;
/// The levels of page tables, by the bits of an address that each takes.
const LEVELS: [u32; 4] = [39, 30, 21, 12];

/// The table, as far as it has been looked at.
pub(super) struct P2m<'a> {
    foreign: &'a dyn ForeignMap,
    cr3: u64,
    vaddr: u64,
    frames: u64,
    /// Pages of the table, by their number in it.
    leaves: HashMap<u64, Mapping>,
}

/// A page of this domain's, by its machine frame.
fn page(foreign: &dyn ForeignMap, mfn: u64) -> Result<Mapping, Errno> {
    let pages = foreign.map_foreign_together(DomId::SELF, &[Gfn(mfn)], Prot::Read)?;
    pages.error(0).map_or(Ok(pages.mapping), Err)
}

fn quad(page: &Mapping, at: u64) -> Result<u64, Errno> {
    let at = usize::try_from(at).ok().filter(|at| at + size_of::<u64>() <= PAGE_SIZE);
    let at = at.filter(|at| at.is_multiple_of(size_of::<u64>())).ok_or(Errno::EINVAL)?;
    // SAFETY: aligned and inside the page, which is mapped while `page` lives; the kernel may write there at any time.
    Ok(unsafe { page.base().as_ptr().add(at).cast::<u64>().read_volatile() })
}

impl<'a> P2m<'a> {
    /// The table that the shared info page at a machine frame names. EOPNOTSUPP: it names none.
    pub(super) fn find(foreign: &'a dyn ForeignMap, shared_info: u64) -> Result<Self, Errno> {
        let info = page(foreign, shared_info)?;
        let [frames, cr3, vaddr] = [SHARED_INFO_MAX_PFN, SHARED_INFO_P2M_CR3, SHARED_INFO_P2M_VADDR]
            .map(|offset| quad(&info, offset as u64));
        let found = Self { foreign, cr3: cr3?, vaddr: vaddr?, frames: frames?, leaves: HashMap::new() };
        if found.cr3 == 0 || found.vaddr == 0 || !found.vaddr.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(found)
    }

    /// The machine frame behind a frame number of the kernel's. ENOENT: there is none, or none of its own.
    pub(super) fn machine_frame(&mut self, pfn: u64) -> Result<Gfn, Errno> {
        if pfn >= self.frames {
            return Err(Errno::ENOENT);
        }
        let leaf = pfn / ENTRIES;
        if !self.leaves.contains_key(&leaf) {
            let at = leaf.checked_mul(PAGE_SIZE as u64).and_then(|at| self.vaddr.checked_add(at));
            let found = page(self.foreign, self.walk(at.ok_or(Errno::ENOENT)?)?)?;
            self.leaves.insert(leaf, found);
        }
        let table = self.leaves.get(&leaf).ok_or(Errno::ENOENT)?;
        let mfn = quad(table, pfn % ENTRIES * size_of::<u64>() as u64)?;
        if mfn & NOT_OWN == 0 { Ok(Gfn(mfn)) } else { Err(Errno::ENOENT) }
    }

    /// The machine frame at a virtual address of the kernel's.
    fn walk(&self, va: u64) -> Result<u64, Errno> {
        let mut frame = (self.cr3 & FRAME) >> PAGE_SHIFT;
        for shift in LEVELS {
            let entry = quad(&page(self.foreign, frame)?, (va >> shift) % ENTRIES * size_of::<u64>() as u64)?;
            if entry & PRESENT == 0 {
                return Err(Errno::ENOENT);
            }
            frame = (entry & FRAME) >> PAGE_SHIFT;
            if shift != PAGE_SHIFT && entry & LARGE != 0 {
                let below = (1u64 << (shift - PAGE_SHIFT)) - 1;
                return Ok(frame & !below | va >> PAGE_SHIFT & below);
            }
        }
        Ok(frame)
    }
}
