//! The end of mappings that no device can reach.

use xen_ioreq::Bfn;

use super::Guest;
use crate::error::ReleaseError;
use crate::mapping::{Cause, Drained, Draining, Released, What};
use crate::sync::atomic::Ordering;

/// Pages that went, besides as many as there are mappings, after which everything is mapped anew: what was mapped with them may
/// still keep their frames and addresses.
const MOST_GONE: u32 = 4096;

impl Guest {
    /// Releases mappings and pages of this guest that are quiesced.
    pub(crate) fn release(&self, items: Vec<Draining>, out: &mut Released) {
        let inner = &self.inner;
        let client = &inner.client;
        let mut slow = inner.slow.lock();
        let (mut slots, mut mappings) = (Vec::new(), Vec::new());
        let (pages, items): (Vec<_>, Vec<_>) =
            items.into_iter().filter_map(Draining::take).partition(|d| matches!(d.what, What::Page));
        let bfns: Vec<Bfn> = pages.iter().map(|d| d.bfn).collect();
        for (d, answer) in pages.into_iter().zip(client.backend.retire(&bfns)) {
            match answer {
                Ok(()) => out.pages += 1,
                Err(_) => {
                    let e = ReleaseError::Pinned { domid: self.domid(), gfn: d.gfn, bfn: d.bfn };
                    out.failed.push((self.draining(d), e));
                }
            }
        }
        for d in items {
            let What::Mapping { slot, epoch } = d.what else { continue };
            let (Some(record), Some(bfn)) = (client.records.get(slot), client.records.bfn(slot)) else {
                continue;
            };
            if record.state.begin_release(epoch).is_none() {
                out.revived += 1;
                continue;
            }
            // Out of the table before the hypervisor has the frame back: it may be another guest's at once.
            inner.by_gfn.remove(&client.records, slot);
            slots.push(slot);
            mappings.push((record.gfn(), bfn));
            client.records.withdraw(slot);
        }
        slow.gone = slow.gone.saturating_add(u32::try_from(mappings.len() + bfns.len()).unwrap_or(u32::MAX));
        if client.backend.asks_by_mapping() && slow.gone > slow.mappings.saturating_add(MOST_GONE) {
            slow.gone = 0;
            inner.renew();
        }
        if mappings.is_empty() {
            return;
        }
        let answers = client.backend.remove(inner.peer, &mappings);
        for ((slot, (gfn, bfn)), answer) in slots.into_iter().zip(mappings).zip(answers) {
            match answer {
                Ok(()) => {
                    client.records.forget(slot);
                    slow.mappings = slow.mappings.saturating_sub(1);
                    inner.counts.released.fetch_add(1, Ordering::Relaxed);
                    out.mappings += 1;
                }
                Err(e) => {
                    let what = What::Mapping { slot, epoch: client.records.restore(slot) };
                    out.failed.push((self.draining(Drained { what, gfn, bfn, cause: Cause::Again }), e));
                }
            }
        }
    }
}
