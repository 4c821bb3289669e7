//! PV-IOMMU: as many sub-operations as the client needs, over the model hypervisor's own table, frames and oracle; and foreign
//! mappings, for an emulator that looks at its device's bus.
#![expect(unsafe_code, reason = "owners of pages that are numbers")]
#![allow(non_upper_case_globals, reason = "the names of Xen's headers, matched on")]

use std::ptr::NonNull;
use std::sync::Arc;

use xen_ioreq::abi::iommu_op::{
    IOMMU_QUERY_map_cap, IOMMUOP_lookup_foreign_page, IOMMUOP_map_foreign_page, IOMMUOP_query_caps,
    IOMMUOP_unmap_foreign_page, pv_iommu_op,
};
use xen_ioreq::seam::{ForeignMap, ForeignPages, IommuOp, Mapping, MappingOwner, Prot};
use xen_ioreq::{Bfn, DomId, Errno, Gfn, Mfn, PAGE_SIZE};

use super::{Balloon, FIRST, GFN, GUEST, Host, WINDOW};
use crate::bus::{BusAccess, BusPort};
use crate::domain::Domain;
use crate::frames::{Hold, M2b, Owner};
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
        Ports { iommu: Some(Arc::new(Hypercalls(self.clone()))), foreign: Some(Arc::new(Foreign(self))) }
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

    fn see(&self, page: NonNull<u8>) {
        let mfn = Mfn((page.as_ptr().addr() / PAGE_SIZE) as u64);
        let owner = self.machine.frames(|t| t.owner(mfn));
        assert_eq!(owner, Some(Owner::Dom(GUEST)), "what is seen is the guest's");
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

/// A foreign mapping of a frame, or of a hole.
struct Page(Arc<PvIommu>, Option<Mfn>);

// SAFETY: nobody follows the addresses.
unsafe impl MappingOwner for Page {
    fn release(&self, _: usize, _: usize) {
        let Some(mfn) = self.1 else { return };
        self.0.machine.frames(|t| assert!(t.release(mfn, Hold::HostMap(DOM0)), "a mapping has a reference"));
    }
}

/// The emulator's own mappings, whose addresses are the frames' numbers.
struct Foreign(Arc<PvIommu>);

impl ForeignMap for Foreign {
    fn map_foreign(&self, domid: DomId, gfns: &[Gfn], _: Prot) -> Result<ForeignPages, Errno> {
        assert_eq!((domid, gfns), (GUEST, &[GFN][..]), "what the scene maps");
        let p2m = self.0.p2m.lock();
        let mfn = *p2m;
        self.0.machine.frames(|t| mfn.map_or(Ok(()), |mfn| t.hold(mfn, Hold::HostMap(DOM0))))?;
        drop(p2m);
        let number = usize::try_from(mfn.map_or(FRAMES, |mfn| mfn.0)).expect("a small number");
        let address = NonNull::new(std::ptr::without_provenance_mut(number * PAGE_SIZE)).expect("not zero");
        let mapping = Mapping::new(address, 1, Arc::new(Page(self.0.clone(), mfn)));
        Ok(ForeignPages { mapping, errors: vec![mfn.is_none().then_some(Errno::EINVAL)] })
    }
}
