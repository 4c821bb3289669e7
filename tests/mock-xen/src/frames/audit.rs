//! The books: frames, references and accounts, counted anew and compared with what is written down.

use std::collections::BTreeMap;

use xen_ioreq::DomId;

use super::{FrameTable, Owner};

impl FrameTable {
    /// Frames and references that do not add up, one line each.
    pub(crate) fn audit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut owned: BTreeMap<DomId, (u64, u64)> = BTreeMap::new();
        let (mut free, mut xen) = (0usize, 0usize);
        for (i, f) in self.frames.iter().enumerate() {
            let parts = u32::from(f.allocated)
                + u32::from(f.table)
                + f.host_maps
                + f.bus_maps
                + u32::from(f.looked_up)
                + f.flushes;
            let parts = u64::from(parts)
                + f.m2b.len() as u64
                + f.grants.kinds.iter().map(|n| u64::from(*n)).sum::<u64>();
            if parts != u64::from(f.refs) {
                wrong.push(format!("mfn {i:#x}: {} references, {parts} reasons for one", f.refs));
            }
            if f.table && f.grants.writing > 0 {
                wrong.push(format!("mfn {i:#x}: a page table that {} grants may write", f.grants.writing));
            }
            match f.owner {
                Owner::Free => free += 1,
                Owner::Xen => xen += 1,
                Owner::Dom(d) => {
                    let (o, c) = owned.entry(d).or_default();
                    *o += 1;
                    *c += u64::from(f.charged);
                }
            }
            if matches!(f.owner, Owner::Dom(_)) != (f.refs > 0) {
                wrong.push(format!("mfn {i:#x}: {:?} with {} references", f.owner, f.refs));
            }
        }
        let dom: u64 = owned.values().map(|(o, _)| o).sum();
        if free != self.free.len() || (free + xen) as u64 + dom != self.frames.len() as u64 {
            let listed = self.free.len();
            let total = self.frames.len();
            wrong
                .push(format!("{free} free ({listed} listed) + {xen} Xen's + {dom} owned of {total} frames"));
        }
        for (d, a) in &self.accounts {
            let (o, c) = owned.remove(d).unwrap_or_default();
            if (o, c) != (a.owned, a.charged) {
                wrong.push(format!(
                    "{d}: owns {o} and is charged {c}, its account says {} and {}",
                    a.owned, a.charged
                ));
            }
        }
        for d in owned.keys() {
            wrong.push(format!("{d}: owns frames but has no account"));
        }
        wrong
    }
}
