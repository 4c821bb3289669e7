//! String instructions whose pages stay mapped between requests, under a hypervisor that says when something changed.

use std::sync::atomic::{AtomicBool, Ordering};

use xen_ioreq::seam::ForeignMap;
use xen_ioreq::{Gfn, PAGE_SIZE};

use crate::rig::*;

const PAGE: u64 = PAGE_SIZE as u64;

fn cached(pages: usize) -> Options {
    Options { cache: pages, ..Options::default() }
}

#[test]
fn page_of_a_string_instruction_stays_mapped_until_xen_says_that_something_changed() {
    let m = stock_machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, cached(8));
    Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    let references = |gfn| m.references(d, Gfn(gfn)).unwrap();
    let own = references(5);
    for n in 0..20u8 {
        v.ram_write(5 * PAGE, &[n; 64]).unwrap();
        v.rep_mmio(MEMORY, 4, false, 5 * PAGE, 16, false).unwrap();
        v.rep_mmio(MEMORY, 4, true, 6 * PAGE, 16, false).unwrap();
        let mut back = [0; 64];
        v.ram_read(6 * PAGE, &mut back).unwrap();
        assert_eq!(back, [n; 64]);
        assert_eq!((references(5), references(6)), (own + 1, own + 1));
    }
    // One mapping of each, although there were 20 instructions.
    assert_eq!(s.on_loop(|l| l.iter().map(|(_, g)| g.memory().cache_stats().maps).sum::<u64>()), 2);
    assert_eq!(v.decrease_reservation(&[Gfn(9)]), Ok(1));
    assert_eq!((references(5), references(6)), (own, own));
}

#[test]
fn ballooned_page_is_free_before_the_guest_goes_on_although_it_was_mapped() {
    let m = stock_machine();
    let d = guest(&m, 1);
    let s = serve(&m, d, cached(8));
    Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    v.rep_mmio(MEMORY, 4, true, 5 * PAGE, 16, false).unwrap();
    let before = m.free_frames();
    assert_eq!(v.decrease_reservation(&[Gfn(5)]), Ok(1));
    assert_eq!(m.free_frames(), before + 1);
    // A guest at its limit gets a page back at once: nothing that it gave is still charged to it.
    m.set_max_pages(d, RAM_FRAMES).unwrap();
    assert_eq!(v.populate_physmap(&[Gfn(5)]), Ok(1));
    v.ram_write(5 * PAGE, &[7; 64]).unwrap();
    v.rep_mmio(MEMORY, 4, false, 5 * PAGE, 16, false).unwrap();
    assert_eq!(v.mmio_read(MEMORY + 60, 4), Ok(0x0707_0707));
    m.assert_clean();
}

#[test]
fn page_replaced_without_notice_is_seen_late_with_a_cache_and_at_once_without() {
    for (cache, seen) in [(8, 1), (0, 2)] {
        let m = stock_machine();
        let d = guest(&m, 1);
        let s = serve(&m, d, cached(cache));
        Cells::attach(&s.bus);
        let v = vcpu(&m, d, 0);
        v.ram_write(5 * PAGE, &[1; 64]).unwrap();
        v.rep_mmio(MEMORY, 1, false, 5 * PAGE, 16, false).unwrap();
        // Another page where there is one: Xen says nothing.
        assert_eq!(v.populate_physmap(&[Gfn(5)]), Ok(1));
        v.ram_write(5 * PAGE, &[2; 64]).unwrap();
        v.rep_mmio(MEMORY, 1, false, 5 * PAGE, 16, false).unwrap();
        assert_eq!(v.mmio_read(MEMORY, 1), Ok(seen));
        // The old page is the guest's still, so this harms nobody else; and the next notice puts it right.
        assert_eq!(v.decrease_reservation(&[Gfn(9)]), Ok(1));
        v.rep_mmio(MEMORY, 1, false, 5 * PAGE, 16, false).unwrap();
        assert_eq!(v.mmio_read(MEMORY, 1), Ok(2));
        m.assert_clean();
    }
}

#[test]
fn device_that_shares_the_cache_loses_its_pages_at_the_notice_too() {
    let m = stock_machine();
    let d = guest(&m, 1);
    let guest = make(&m, d, cached(8));
    let buffer = guest.memory().buffer(5 * PAGE, PAGE).unwrap();
    let s = serve_all(vec![guest]);
    Cells::attach(&s.bus);
    let v = vcpu(&m, d, 0);
    buffer.write(0, b"from a device").unwrap();
    let before = m.free_frames();
    assert_eq!(v.decrease_reservation(&[Gfn(5)]), Ok(1));
    assert_eq!(m.free_frames(), before + 1);
    assert!(buffer.read(0, &mut [0; 4]).is_err());
    assert_eq!(v.populate_physmap(&[Gfn(5)]), Ok(1));
    assert!(buffer.read(0, &mut [0; 4]).is_ok());
}

/// Two vCPUs move data by string instructions while a third balloons what they use: every instruction that finds its page
/// works on the right one, and no frame is lost.
#[test]
fn string_instructions_and_ballooning_at_once_lose_no_frame_and_mix_no_data() {
    let m = stock_machine();
    let d = guest(&m, 3);
    let before = m.free_frames();
    let s = serve(&m, d, cached(4));
    Cells::attach(&s.bus);
    let stop = AtomicBool::new(false);
    std::thread::scope(|t| {
        for id in 0..2u32 {
            let (m, stop) = (&m, &stop);
            t.spawn(move || {
                let v = vcpu(m, d, id);
                let window = MEMORY + u64::from(id) * 64;
                let (from, to) = (u64::from(10 + 2 * id) * PAGE, u64::from(11 + 2 * id) * PAGE);
                let mut moved = 0u32;
                while !stop.load(Ordering::SeqCst) || moved < 20 {
                    let pattern = [id as u8 + 1; 32];
                    let done = v.ram_write(from, &pattern).is_ok()
                        && v.rep_mmio(window, 4, false, from, 8, false).is_ok()
                        && v.rep_mmio(window, 4, true, to, 8, false).is_ok();
                    let mut back = [0; 32];
                    // A page may have come or gone in between; then it is empty, or holds what was moved.
                    if done && v.ram_read(to, &mut back).is_ok() {
                        assert!([[0; 32], pattern, [0xff; 32]].contains(&back), "{back:x?}");
                        moved += 1;
                    }
                }
            });
        }
        let v = vcpu(&m, d, 2);
        for n in 0..300 {
            let gfn = Gfn(10 + n % 4);
            assert_eq!(v.decrease_reservation(&[gfn]), Ok(1));
            assert_eq!(v.populate_physmap(&[gfn]), Ok(1));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(s.stats().panics, 0);
    drop(s);
    assert_eq!(m.free_frames(), before);
    m.assert_clean();
}

#[test]
fn memory_that_outlives_its_server_goes_with_its_last_user() {
    let m = stock_machine();
    let before = m.free_frames();
    let d = guest(&m, 1);
    let caller: std::sync::Arc<dyn ForeignMap> = std::sync::Arc::new(m.caller(DOM0).unwrap());
    let memory = ioreq_server::GuestMemory::new(caller, d).cached(16);
    memory.write(0, &[1; 9000]).unwrap();
    m.destroy_domain(d).unwrap();
    assert!(m.free_frames() < before);
    memory.invalidate();
    assert_eq!(m.free_frames(), before);
    assert!(memory.read(0, &mut [0; 1]).is_err());
    m.assert_clean();
}
