//! Guests that balloon, an emulator that maps and lets go, a device that reads, and a death in the middle, all at once.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use xen_ioreq::abi::iommu_op::IOMMUOP_map_foreign_page;
use xen_ioreq::seam::{ForeignMap, Prot};
use xen_ioreq::{Bfn, Gfn};

use crate::testing::{
    DOM0, Emulator, GUEST_FRAMES, foreign_op, guest, iommu, machine, scope, unmap_foreign, vcpu,
};
use crate::{BusAccess, Config, VcpuError};

const BFNS: u64 = 32;

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn ballooning_mapping_dma_and_death_at_once_leave_no_violation_and_no_frame_behind() {
    for seed in 0..6 {
        let m = machine(Config { fail_fast: true, ..Config::default() });
        let free = m.free_frames();
        let d = guest(&m, 2);
        let e = Emulator::atomic(&m, d);
        let port = m.bus_port(DOM0, "device").unwrap();
        let dead = AtomicBool::new(false);
        // The device runs while it is read-locked; who unmaps stops it first.
        let device = RwLock::new(());
        scope(&m, d, |s| {
            for i in 0..2 {
                let v = vcpu(&m, d, i);
                s.spawn(move || {
                    let mut n = Numbers(seed * 7 + u64::from(i));
                    loop {
                        let gfn = n.below(GUEST_FRAMES);
                        let done = match n.below(3) {
                            0 => v.decrease_reservation(&[Gfn(gfn)]).map(|_| ()),
                            1 => v.populate_physmap(&[Gfn(gfn)]).map(|_| ()),
                            _ => v.mmio_write(gfn << 12, 8, n.0),
                        };
                        match done {
                            Ok(()) => {}
                            Err(VcpuError::Destroyed) => return,
                            Err(other) => panic!("{other}"),
                        }
                    }
                });
            }
            s.spawn(|| {
                let mut n = Numbers(seed + 100);
                while !dead.load(Ordering::SeqCst) {
                    let _running = device.read();
                    if let Ok(pin) = port.pin(Bfn(n.below(BFNS)), BusAccess::Read) {
                        crate::memory::peek(pin.ptr);
                        port.unpin(pin);
                    }
                }
            });
            let mut n = Numbers(seed + 200);
            for round in 0..3000 {
                // Either may fail: a hole, a BFN in use, nothing mapped.
                let (bfn, gfn) = (n.below(BFNS), n.below(GUEST_FRAMES));
                let _ = iommu(&e.caller, &mut foreign_op(IOMMUOP_map_foreign_page, bfn, gfn, d, e.id));
                for bfn in e.take_invalidates().into_iter().chain([n.below(BFNS)]) {
                    let _stopped = device.write();
                    let _ = unmap_foreign(&e.caller, bfn, e.id);
                }
                if let Ok(pages) = e.caller.map_foreign(d, &[Gfn(gfn), Gfn(gfn + 1)], Prot::Read) {
                    drop(pages);
                }
                // A vCPU whose notice found the ring full waits for an answer.
                for v in 0..2 {
                    if e.take(v).is_some() {
                        e.answer(v, 0);
                    }
                }
                if round == 2000 {
                    m.destroy_domain(d).unwrap();
                }
            }
            dead.store(true, Ordering::SeqCst);
        });
        for bfn in 0..BFNS {
            let _ = unmap_foreign(&e.caller, bfn, e.id);
        }
        drop(e);
        assert_eq!((m.free_frames(), m.domain_info(d)), (free, None));
        m.assert_clean();
    }
}
