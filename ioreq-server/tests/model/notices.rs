//! Notices that are no access: they reach their handler and are acknowledged.

use std::sync::Arc;

use ioreq_server::{BufferedMode, Invalidation, Notices};
use mock_xen::DomainConfig;
use parking_lot::Mutex;
use xen_ioreq::abi::iommu_op::{IOMMUOP_map_foreign_page, IOMMUOP_readable, pv_iommu_op};
use xen_ioreq::seam::IommuOp;
use xen_ioreq::{Bfn, Gfn};

use crate::rig::*;

#[derive(Default)]
struct Heard(Mutex<Vec<Invalidation>>);

impl Notices for Heard {
    fn invalidate(&self, what: Invalidation) {
        self.0.lock().push(what);
    }
}

#[test]
fn stock_xen_tells_every_server_that_something_changed_and_the_guest_goes_on() {
    for mode in [BufferedMode::Atomic, BufferedMode::Off] {
        let m = stock_machine();
        let d = guest(&m, 2);
        let heard = [Arc::new(Heard::default()), Arc::new(Heard::default())];
        let servers: Vec<_> = heard
            .iter()
            .map(|h| serve(&m, d, Options { mode, notices: h.clone(), ..Options::default() }))
            .collect();
        let v = vcpu(&m, d, 1);
        assert_eq!(v.decrease_reservation(&[Gfn(5), Gfn(6)]), Ok(2));
        // The vCPU goes on only when all have answered.
        for h in &heard {
            let got = h.0.lock();
            assert!(!got.is_empty() && got.iter().all(|i| *i == Invalidation::All), "{got:?}");
        }
        assert_eq!(v.populate_physmap(&[Gfn(5), Gfn(6)]), Ok(2));
        assert!(servers.iter().all(|s| s.stats().invalidate > 0 && s.stats().malformed == 0));
    }
}

#[test]
fn draft_names_each_bus_frame_once_also_when_the_ring_is_full() {
    const FRAMES: u64 = 600;
    let m = machine();
    let config = DomainConfig { max_pages: FRAMES, ..DomainConfig::default() };
    let d = m.create_domain(&config).unwrap();
    m.populate(d, Gfn(0), FRAMES).unwrap();
    let heard = Arc::new(Heard::default());
    let guest = make(&m, d, Options { notices: heard.clone(), ..Options::default() });
    let server = guest.server().id();
    Cells::attach(guest.bus());
    let s = serve_all(vec![guest]);
    let caller = m.caller(DOM0).unwrap();
    let mut ops: Vec<_> = (0..FRAMES)
        .map(|gfn| pv_iommu_op {
            bfn: 0x1000 + gfn,
            gfn,
            domid: d.0,
            ioserver: server.0,
            ..pv_iommu_op::new(IOMMUOP_map_foreign_page, IOMMUOP_readable)
        })
        .collect();
    caller.iommu_op(&mut ops).unwrap();
    assert!(ops.iter().all(|op| op.status == 0));
    let gfns: Vec<_> = (0..FRAMES).map(Gfn).collect();
    let v = vcpu(&m, d, 0);
    assert_eq!(v.decrease_reservation(&gfns), Ok(FRAMES as usize));
    // An access of the same vCPU comes after all its notices.
    assert_eq!(v.mmio_read(MEMORY, 4), Ok(0));
    let mut got: Vec<_> = heard.0.lock().clone();
    got.sort_by_key(|i| match i {
        Invalidation::Frame(bfn) => bfn.0,
        Invalidation::All => 0,
    });
    let want: Vec<_> = (0..FRAMES).map(|n| Invalidation::Frame(Bfn(0x1000 + n))).collect();
    assert_eq!(got, want);
    assert_eq!(s.stats().ring_faults, 0);
}
