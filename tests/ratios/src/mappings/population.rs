//! A client with many live mappings.

use std::sync::Arc;

use pviommu::{BfnSpace, Client, Config, Guest, Mapped, Ports};
use xen_ioreq::{Bfn, DomId, Gfn};

use super::hypervisor::{GUEST, Hypervisor};

/// Bus frames of the window: room for the largest population.
const WINDOW: u64 = 1 << 21;
/// The domain of the mappings that are not the guest's.
const OTHERS: DomId = DomId(2);

/// A client and what it holds.
pub(super) struct Population {
    pub(super) xen: Arc<Hypervisor>,
    pub(super) client: Client,
    pub(super) guest: Guest,
    /// A reference to each mapping of the guest, in no order.
    pub(super) held: Vec<(Gfn, Mapped)>,
    /// References to another guest's.
    _others: Vec<Mapped>,
    pub(super) rng: fastrand::Rng,
}

impl Population {
    /// `live` mappings of the guest's frames `0 .. live`, made in random order, and `others` of another guest's in between.
    pub(super) fn new(live: usize, others: usize) -> Result<Self, String> {
        let xen = Hypervisor::new()?;
        let config =
            Config { bfns: BfnSpace::new(Bfn(0)..Bfn(WINDOW)), max_per_guest: u32::MAX, ..Config::default() };
        let ports = Ports { iommu: Some(xen.clone()), foreign: None };
        let client = Client::start(ports, config).map_err(|e| e.to_string())?;
        let attach = |domid| client.attach(domid, xen.server()).map_err(|e| e.to_string());
        let (guest, other) = (attach(GUEST)?, attach(OTHERS)?);
        let mut rng = fastrand::Rng::with_seed(3);
        let mut gfns: Vec<Gfn> = (0..live as u64).map(Gfn).collect();
        rng.shuffle(&mut gfns);
        let mut new = Self { xen, client, guest, held: Vec::new(), _others: Vec::new(), rng };
        let mut rest = (0..others as u64).map(Gfn);
        let each = others.div_ceil(live);
        for gfns in gfns.chunks(if others == 0 { live } else { 1 }) {
            new.map(gfns)?;
            let between: Vec<Gfn> = rest.by_ref().take(each).collect();
            let mapped = other.map(&between).into_iter().collect::<Result<Vec<_>, _>>();
            new._others.extend(mapped.map_err(|e| e.to_string())?);
        }
        new.rng.shuffle(&mut new.held);
        Ok(new)
    }

    /// Maps these and holds them.
    pub(super) fn map(&mut self, gfns: &[Gfn]) -> Result<(), String> {
        for (gfn, mapped) in gfns.iter().zip(self.guest.map(gfns)) {
            self.held.push((*gfn, mapped.map_err(|e| e.to_string())?));
        }
        Ok(())
    }

    /// Takes `count` of the references, picked at random.
    pub(super) fn take(&mut self, count: usize, out: &mut Vec<(Gfn, Mapped)>) {
        out.extend((0..count).map(|_| self.held.swap_remove(self.rng.usize(0..self.held.len()))));
    }
}
