//! Page tables of a PV domain, as far as others notice: a frame that is one is held, and nobody writes it by a grant.
//!
//! The model walks no page tables of guests. A toolstack that builds a domain pins them for it (`MMUEXT_PIN_L1_TABLE`), and so do
//! these methods; what is in the frame nobody looks at.

use xen_ioreq::{DomId, Errno, Gfn, Mfn};

use crate::frames::{Hold, Owner};
use crate::machine::Machine;

impl Machine {
    /// Makes a page table of the frame behind `gfn`, until [`unpin_table`](Self::unpin_table) or the domain's end. ESRCH: no such
    /// domain. EINVAL: a hole, a translated domain, a frame that is one already, or that Xen shares, or that somebody may write by
    /// a grant.
    pub fn pin_table(&self, domid: DomId, gfn: Gfn) -> Result<Mfn, Errno> {
        let domain = self.domain(domid).filter(|d| !d.dying()).ok_or(Errno::ESRCH)?;
        if domain.hvm {
            return Err(Errno::EINVAL);
        }
        let p2m = domain.p2m.read();
        let (mfn, _) = p2m.ram(gfn).ok_or(Errno::EINVAL)?;
        self.frames(|t| {
            if t.owner(mfn) != Some(Owner::Dom(domid)) || t.xen_heap(mfn) {
                return Err(Errno::EINVAL);
            }
            t.hold(mfn, Hold::Table).map_err(|_| Errno::EINVAL)
        })?;
        Ok(mfn)
    }

    /// Undoes it; the domain may have given the frame up meanwhile. EINVAL: it is no page table of this domain's.
    pub fn unpin_table(&self, domid: DomId, mfn: Mfn) -> Result<(), Errno> {
        let done = self.frames(|t| t.owner(mfn) == Some(Owner::Dom(domid)) && t.release(mfn, Hold::Table));
        if done { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
