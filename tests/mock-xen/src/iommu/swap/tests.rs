use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use xen_ioreq::abi::iommu_op::{IOMMUOP_map_foreign_page, IOMMUOP_swap_mfn, pv_iommu_op};
use xen_ioreq::{Bfn, Errno, Gfn};

use crate::testing::unmap_foreign;
use crate::testing::{DOM0, Emulator, GUEST_FRAMES, RW, foreign_op, guest, iommu, machine, scope, vcpu};
use crate::{BusAccess, Config, DomainConfig};

fn map_swappable(e: &Emulator, bfn: u64, gfn: u64) -> Result<(), Errno> {
    let op = foreign_op(IOMMUOP_map_foreign_page, bfn, gfn, e.domid, e.id);
    iommu(&e.caller, &mut pv_iommu_op { flags: RW | IOMMUOP_swap_mfn, ..op })
}

#[test]
fn a_device_at_work_reads_the_frame_or_scratch_and_never_faults() {
    let m = machine(Config { fail_fast: true, ..Config::default() });
    let d = guest(&m, 1);
    let free = m.free_frames();
    let e = Emulator::atomic(&m, d);
    let port = m.bus_port(DOM0, "device").unwrap();
    let (at_work, done) = (Barrier::new(2), AtomicBool::new(false));
    for gfn in 0..GUEST_FRAMES {
        m.write_guest(d, Gfn(gfn).addr(), &[0x5a]).unwrap();
        map_swappable(&e, 0x100 + gfn, gfn).unwrap();
    }
    scope(&m, d, |s| {
        let device = s.spawn(|| {
            let mut seen = [0u32; 2];
            while seen[1] == 0 || !done.load(Ordering::SeqCst) {
                for gfn in 0..GUEST_FRAMES {
                    let pin = port.pin(Bfn(0x100 + gfn), BusAccess::Read).expect("never a fault");
                    match crate::memory::peek(pin.ptr) {
                        0x5a => seen[0] += 1,
                        0 => seen[1] += 1,
                        other => panic!("neither the frame nor scratch: {other:#x}"),
                    }
                    port.unpin(pin);
                }
                if seen == [u32::try_from(GUEST_FRAMES).unwrap(), 0] {
                    at_work.wait();
                }
            }
            seen
        });
        at_work.wait();
        let v = vcpu(&m, d, 0);
        for gfn in 0..GUEST_FRAMES {
            assert_eq!(v.decrease_reservation(&[Gfn(gfn)]), Ok(1));
        }
        done.store(true, Ordering::SeqCst);
        assert!(device.join().unwrap().iter().all(|n| *n > 0), "it saw the frames and scratch");
    });
    // All are free; what is left is one scratch frame and the server's pages.
    let pages = 2;
    assert_eq!(m.free_frames(), free + GUEST_FRAMES - pages - 1);
    for gfn in 0..GUEST_FRAMES {
        assert_eq!(unmap_foreign(&e.caller, 0x100 + gfn, e.id), Ok(()));
    }
    assert_eq!(m.free_frames(), free + GUEST_FRAMES - pages);
    m.assert_clean();
}

#[test]
fn nothing_of_one_guest_is_seen_through_the_scratch_of_another() {
    let m = machine(Config::default());
    let port = m.bus_port(DOM0, "device").unwrap();
    let emulators = [guest(&m, 1), guest(&m, 1)].map(|d| Emulator::atomic(&m, d));
    for (e, bfn) in emulators.iter().zip([0x10, 0x20]) {
        map_swappable(e, bfn, 1).unwrap();
        assert_eq!(vcpu(&m, e.domid, 0).decrease_reservation(&[Gfn(1)]), Ok(1));
    }
    let [one, other] = [0x10, 0x20].map(|bfn| port.pin(Bfn(bfn), BusAccess::Write).unwrap());
    assert_ne!(one.ptr, other.ptr);
    port.unpin(one);
    port.unpin(other);
    for (e, bfn) in emulators.iter().zip([0x10, 0x20]) {
        assert_eq!(unmap_foreign(&e.caller, bfn, e.id), Ok(()));
    }
    m.assert_clean();
}

#[test]
fn without_a_frame_for_scratch_nothing_is_mapped() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let e = Emulator::atomic(&m, d);
    let all = DomainConfig { max_pages: u64::MAX, ..DomainConfig::default() };
    let hoarder = m.create_domain(&all).unwrap();
    m.populate(hoarder, Gfn(0), m.free_frames()).unwrap();
    assert_eq!(map_swappable(&e, 0x10, 1), Err(Errno::ENOMEM));
    assert_eq!(m.references(d, Gfn(1)), Ok(1));
    m.assert_clean();
}

#[test]
fn the_end_of_the_emulators_domain_takes_its_scratch_along() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let free = m.free_frames();
    let stub = DomainConfig { hvm: false, target: Some(d), device_assigned: true, ..DomainConfig::default() };
    let stub = m.create_domain(&stub).unwrap();
    let c = m.caller(stub).unwrap();
    let id = crate::testing::create_server(&c, d, 2).unwrap();
    for (bfn, gfn) in [(0x10, 1), (0x11, 2)] {
        let op = foreign_op(IOMMUOP_map_foreign_page, bfn, gfn, d, id);
        iommu(&c, &mut pv_iommu_op { flags: RW | IOMMUOP_swap_mfn, ..op }).unwrap();
    }
    assert_eq!(vcpu(&m, d, 0).decrease_reservation(&[Gfn(1)]), Ok(1));
    assert_eq!(m.free_frames(), free, "one given back, one scratch");
    drop(c);
    m.destroy_domain(stub).unwrap();
    assert_eq!((m.free_frames(), m.domain_info(stub)), (free + 1, None));
    assert_eq!(m.references(d, Gfn(2)), Ok(1));
    m.assert_clean();
}
