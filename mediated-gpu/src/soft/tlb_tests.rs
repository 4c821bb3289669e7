#![expect(clippy::cast_possible_truncation, reason = "test indexes are small")]

use xen_ioreq::Bfn;

use super::*;
use crate::bus::HeapBus;

const PAGE: u64 = 4096;
const SPAN: u64 = SETS as u64;

/// A cache over `frames` frames; page `n` of the table maps frame `n % frames`.
fn tlb(frames: usize) -> (Arc<HeapBus>, Arc<Ggtt>, Tlb) {
    let bus = Arc::new(HeapBus::new(frames));
    let ggtt = Arc::new(Ggtt::new(4 * SETS as u32));
    for i in 0..ggtt.len() {
        ggtt.write(i, Some(Bfn(u64::from(i) % frames as u64)));
    }
    let tlb = Tlb::new(Arc::clone(&bus) as _, Arc::clone(&ggtt));
    (bus, ggtt, tlb)
}

#[test]
fn translation_is_pinned_once_and_until_the_flush() {
    let (bus, _, mut tlb) = tlb(8);
    for addr in [0, 8, 4095, PAGE] {
        assert!(tlb.page(addr, DmaAccess::Read).is_ok());
    }
    assert_eq!((bus.pins(Bfn(0)), bus.pins(Bfn(1)), bus.live_pins()), (1, 1, 2));
    tlb.flush();
    assert_eq!(bus.live_pins(), 0);
    tlb.flush();
    assert!(tlb.page(0, DmaAccess::Read).is_ok());
    assert_eq!(bus.live_pins(), 1, "the cache works again after a flush");
    drop(tlb);
    assert_eq!(bus.live_pins(), 0);
}

#[test]
fn changed_entry_is_seen_after_the_flush_and_not_before() {
    let (bus, ggtt, mut tlb) = tlb(8);
    bus.write(Bfn(0), 0, &[1]);
    bus.write(Bfn(5), 0, &[5]);
    let first = |tlb: &mut Tlb| tlb.page(0, DmaAccess::Read).map(|p| p.load32(0));
    assert_eq!(first(&mut tlb), Ok(1));
    ggtt.write(0, Some(Bfn(5)));
    assert_eq!(first(&mut tlb), Ok(1));
    tlb.flush();
    assert_eq!(first(&mut tlb), Ok(5));
    ggtt.write(0, None);
    tlb.flush();
    assert_eq!(first(&mut tlb), Err(Fault::Absent(0)));
}

#[test]
fn store_replaces_a_read_only_translation_and_gives_its_pin_back() {
    let (bus, _, mut tlb) = tlb(8);
    bus.set_read_only(Bfn(0), true);
    assert!(tlb.page(0, DmaAccess::Read).is_ok());
    assert!(matches!(tlb.page(0, DmaAccess::Write), Err(Fault::Dma(0, _))));
    bus.set_read_only(Bfn(0), false);
    assert!(tlb.page(0, DmaAccess::Write).is_ok());
    assert!(tlb.page(0, DmaAccess::Read).is_ok(), "a writable one serves reads");
    assert_eq!(bus.pins(Bfn(0)), 1);
}

#[test]
fn third_page_of_a_set_evicts_the_one_not_used_last() {
    let (bus, _, mut tlb) = tlb(4 * SETS);
    for page in [0, SPAN, 0, 2 * SPAN] {
        assert!(tlb.page(page * PAGE, DmaAccess::Read).is_ok());
    }
    let pins = [0, SPAN, 2 * SPAN].map(|f| bus.pins(Bfn(f)));
    assert_eq!(pins, [1, 0, 1]);
    tlb.flush();
    assert_eq!(bus.live_pins(), 0);
}

#[test]
fn pair_in_one_set_stays_together_whatever_was_there() {
    let pages = [0, SPAN, 2 * SPAN, 3 * SPAN];
    for before in [[0, SPAN], [SPAN, 2 * SPAN], [2 * SPAN, 0], [3 * SPAN, 2 * SPAN]] {
        for dst in pages {
            for src in pages {
                let (bus, _, mut tlb) = tlb(4 * SETS);
                bus.write(Bfn(src), 0, &[9, 8, 7, 6]);
                for p in before {
                    assert!(tlb.page(p * PAGE, DmaAccess::Read).is_ok());
                }
                match tlb.pair(dst * PAGE, src * PAGE) {
                    Ok((d, s)) => d.copy_from(16, &s, 0, 4),
                    Err(fault) => panic!("{fault}"),
                }
                let mut got = [0; 4];
                bus.read(Bfn(dst), 16, &mut got);
                assert_eq!(got, [9, 8, 7, 6]);
                assert!(bus.pins(Bfn(dst)) == 1 && bus.pins(Bfn(src)) == 1, "{dst} {src}");
            }
        }
    }
}

#[test]
fn pages_together_are_all_pinned_or_there_are_none() {
    use DmaAccess::{Read, Write};
    let (bus, ggtt, mut tlb) = tlb(4 * SETS);
    let at = |page: u64| page * PAGE;
    let asked = [(at(0), Write), (at(1), Read), (at(SPAN), Read), (at(1), Read)];
    assert_eq!(tlb.together(&asked).map(|pages| pages.len()), Some(4));
    assert_eq!([0, 1, SPAN].map(|f| bus.pins(Bfn(f))), [1, 1, 1]);
    // Three of one set: the third takes the first one's place.
    let crowd = [0, SPAN, 2 * SPAN].map(|page| (at(page), Read));
    assert!(tlb.together(&crowd).is_none());
    // One that is read first and written later is another pin from then on.
    assert!(tlb.together(&[(at(5), Read), (at(5), Write)]).is_some());
    assert_eq!(bus.pins(Bfn(5)), 1);
    ggtt.write(7, None);
    assert!(tlb.together(&[(at(6), Read), (at(7), Read)]).is_none());
    tlb.flush();
    assert_eq!(bus.live_pins(), 0);
}

#[test]
fn address_beyond_the_table_or_the_bus_faults_and_pins_nothing() {
    let (bus, ggtt, mut tlb) = tlb(8);
    let end = u64::from(ggtt.len()) * PAGE;
    for addr in [end, 1 << 47, u64::MAX] {
        assert_eq!(tlb.page(addr, DmaAccess::Read).map(|_| ()), Err(Fault::Beyond(addr)));
    }
    ggtt.write(3, Some(Bfn(100)));
    assert!(matches!(tlb.page(3 * PAGE, DmaAccess::Read), Err(Fault::Dma(_, f)) if f.bfn == Bfn(100)));
    assert_eq!(bus.live_pins(), 0);
}

/// A bus that remembers what was asked of it: `Some` a pin's access, `None` an unpin.
struct Recorder {
    bus: HeapBus,
    asked: parking_lot::Mutex<Vec<Option<DmaAccess>>>,
}

impl BusMaster for Recorder {
    fn pin(&self, bfn: Bfn, access: DmaAccess) -> Result<Pin, DmaFault> {
        self.asked.lock().push(Some(access));
        self.bus.pin(bfn, access)
    }
    fn unpin(&self, pin: Pin) {
        self.asked.lock().push(None);
        self.bus.unpin(pin);
    }
}

#[test]
fn pair_of_one_page_holds_one_writable_pin_and_gives_none_back_meanwhile() {
    let bus = Arc::new(Recorder { bus: HeapBus::new(1), asked: Default::default() });
    let ggtt = Arc::new(Ggtt::new(1));
    ggtt.write(0, Some(Bfn(0)));
    let mut tlb = Tlb::new(Arc::clone(&bus) as _, ggtt);
    assert!(tlb.pair(0, 8).is_ok());
    assert_eq!(*bus.asked.lock(), [Some(DmaAccess::Write)]);
}
