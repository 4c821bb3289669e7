//! PV-IOMMU: as many sub-operations as the client needs, over the model hypervisor's own table, frames and oracle.
#![allow(non_upper_case_globals, reason = "the names of Xen's headers, matched on")]

use std::sync::Arc;

use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_cap, IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_query_caps,
    IOMMUOP_unmap_foreign_page, pv_iommu_op,
};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, DomId, Errno, Mfn};

use super::{Balloon, FIRST, GFN, GUEST, Host, WINDOW};
use crate::bus::{BusAccess, BusPort};
use crate::domain::Domain;
use crate::frames::{Hold, M2b};
use crate::iommu::{self, BusTable, Kind, Translation};
use crate::machine::Machine;
use crate::mode::Ports;
use crate::soft::SoftIommu;
use crate::sync::Mutex;

const DOM0: DomId = DomId(0);
/// Frames of the machine, the first Xen's, and where all RAM begins in the shipped hypervisor's 1:1 map.
const FRAMES: u64 = 4;
const OFFSET: u64 = 64;

/// Whose `iommu_op` it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// The emulator maps.
    Draft,
    /// The emulator looks up what is in a 1:1 map, and one reference is taken, however often.
    Shipped,
}

/// A guest, and dom0 with a device.
pub(super) struct PvIommu {
    profile: Profile,
    machine: Arc<Machine>,
    table: Arc<BusTable>,
    port: BusPort,
    /// What is behind the guest's frame.
    p2m: Mutex<Option<Mfn>>,
}

impl PvIommu {
    pub(super) fn new(profile: Profile) -> Arc<Self> {
        let machine = Machine::new(4, 1);
        let table = Arc::new(BusTable::default());
        if profile == Profile::Shipped {
            for mfn in (1..FRAMES).map(Mfn) {
                let one_to_one =
                    Translation { mfn, domain: None, kind: Kind::OneToOne, read: true, write: true };
                assert!(table.map(Bfn(mfn.0 + OFFSET), &one_to_one), "nothing is there");
            }
        }
        let dom0 = Domain { id: DOM0, pv_iommu: crate::domain::PvIommu::default() };
        let port = BusPort::new(machine.clone(), table.clone(), &dom0, "a device".to_owned());
        let mfn = machine.frames(|t| {
            t.open_account(GUEST, 2);
            t.allocate(GUEST, true).expect("there are frames")
        });
        Arc::new(Self { profile, machine, table, port, p2m: Mutex::new(Some(mfn)) })
    }

    fn draft(&self, op: &mut pv_iommu_op) -> Result<(), Errno> {
        let bfn = Bfn(op.bfn);
        match op.subop_id {
            IOMMUOP_query_caps => {
                op.flags = IOMMU_QUERY_map_cap;
                Ok(())
            }
            IOMMUOP_map_foreign_page => {
                assert_eq!((DomId(op.domid), op.gfn), (GUEST, GFN.0), "what the scene maps");
                let p2m = self.p2m.lock();
                let mfn = p2m.ok_or(Errno::ENXIO)?;
                let entry = M2b { bfn, by: DOM0, ioserver: op.ioserver };
                let to =
                    Translation { mfn, domain: Some(GUEST), kind: Kind::Foreign, read: true, write: true };
                self.machine.frames(|t| match self.table.lookup(bfn) {
                    Some(there) if there.mfn == mfn => Ok(()),
                    Some(_) => Err(Errno::EPERM),
                    None if self.table.map(bfn, &to) => t.hold(mfn, Hold::M2b(entry)),
                    None => Err(Errno::EIO),
                })
            }
            IOMMUOP_unmap_foreign_page => self.machine.frames(|t| {
                let there = iommu::unmap(t, &self.table, DOM0, bfn).ok_or(Errno::ENOENT)?;
                let entry = M2b { bfn, by: DOM0, ioserver: op.unmap_ioserver() };
                assert!(t.release(there.mfn, Hold::M2b(entry)), "an entry has a reference");
                Ok(())
            }),
            _ => Err(Errno::ENOSYS),
        }
    }

    fn shipped(&self, op: &mut pv_iommu_op) -> Result<(), Errno> {
        let of = |domain, mfn: Mfn| {
            let there = Translation { mfn, domain, kind: Kind::OneToOne, read: true, write: true };
            self.table.update(Bfn(mfn.0 + OFFSET), &there);
        };
        match op.subop_id {
            IOMMUOP_query_caps => {
                op.flags = IOMMU_QUERY_map_cap;
                op.bfn = OFFSET;
                Ok(())
            }
            IOMMUOP_lookup_foreign_page => {
                assert_eq!((DomId(op.domid), op.gfn), (GUEST, GFN.0), "what the scene maps");
                let p2m = self.p2m.lock();
                let mfn = p2m.ok_or(Errno::ENXIO)?;
                op.bfn = mfn.0 + OFFSET;
                self.machine.frames(|t| {
                    if t.looked_up(mfn) {
                        return Ok(());
                    }
                    of(Some(GUEST), mfn);
                    t.hold(mfn, Hold::Lookup(DOM0, Bfn(op.bfn)))
                })
            }
            IOMMUOP_unmap_foreign_page => {
                let mfn = Mfn(op.bfn - OFFSET);
                self.machine.frames(|t| {
                    if !t.looked_up(mfn) {
                        return Err(Errno::ENOENT);
                    }
                    of(None, mfn);
                    assert!(t.release(mfn, Hold::Lookup(DOM0, Bfn(op.bfn))), "it holds a reference");
                    Ok(())
                })
            }
            _ => Err(Errno::ENODEV),
        }
    }
}

/// The emulator's hand on the hypervisor.
struct Hypercalls(Arc<PvIommu>);

impl IommuOp for Hypercalls {
    fn iommu_op(&self, ops: &mut [pv_iommu_op]) -> Result<(), Errno> {
        for op in ops {
            let done = match self.0.profile {
                Profile::Draft => self.0.draft(op),
                Profile::Shipped => self.0.shipped(op),
            };
            op.status = done.map_or_else(Errno::status, |()| 0);
        }
        Ok(())
    }
}

impl Host for PvIommu {
    fn ports(self: Arc<Self>) -> Ports {
        Ports { iommu: Some(Arc::new(Hypercalls(self))), foreign: None }
    }

    fn balloon(&self, how: Balloon) {
        let mut p2m = self.p2m.lock();
        let mfn = p2m.take().expect("it has one");
        self.machine.frames(|t| {
            t.release(mfn, Hold::Allocation);
            if how == Balloon::OutAndIn {
                *p2m = Some(t.allocate(GUEST, true).expect("there are frames"));
            }
        });
    }

    fn reach(&self, _: Option<&SoftIommu>, bfn: Bfn) {
        let pin =
            self.port.pin(bfn, BusAccess::Write).expect("a frame is mapped where a PTE or a reference leads");
        self.port.unpin(pin);
    }

    fn check(&self) {
        let told: Vec<String> = self.machine.oracle().violations().iter().map(ToString::to_string).collect();
        assert_eq!(told, Vec::<String>::new(), "the oracle has nothing to say");
        let has = u64::from(self.p2m.lock().is_some());
        self.machine.frames(|t| {
            assert_eq!(t.audit(), Vec::<String>::new());
            assert_eq!(t.account(GUEST).map(|a| a.owned), Some(has), "no frame is held");
        });
        for bfn in (0..WINDOW).map(|i| Bfn(FIRST.0 + i)) {
            assert_eq!(self.table.lookup(bfn), None, "nothing is mapped");
        }
    }
}
