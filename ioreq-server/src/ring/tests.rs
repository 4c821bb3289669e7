#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use proptest::prelude::*;
use xen_ioreq::PAGE_SIZE;
use xen_ioreq::abi::ioreq::{IOREQ_TYPE_COPY, IOREQ_TYPE_INVALIDATE, buf_ioreq};
use zerocopy::IntoBytes;

use super::*;
use crate::testing::{Pages, Random, naive};

fn rig(atomic: bool) -> (Pages, Ring) {
    let pages = Pages::new(1);
    let ring = Ring::new(pages.mapping(), atomic).unwrap();
    (pages, ring)
}

fn set_pointers(pages: &Pages, read: u32, write: u32) {
    pages.write(0, &read.to_le_bytes());
    pages.write(4, &write.to_le_bytes());
}

fn put(pages: &Pages, pointer: u32, entry: buf_ioreq) {
    pages.write(8 + (pointer % 511) as usize * 8, entry.as_bytes());
}

fn drain(ring: &Ring) -> (Vec<abi::ioreq>, Result<(), RingFault>) {
    let mut out = Vec::new();
    let result = ring.drain(&mut out);
    (out, result)
}

#[test]
fn entry_of_8_bytes_takes_two_slots_also_across_the_end() {
    for atomic in [false, true] {
        let (pages, ring) = rig(atomic);
        set_pointers(&pages, 510, 513);
        put(&pages, 510, buf_ioreq::new(IOREQ_TYPE_INVALIDATE, false, 8, 0, 0x5566_7788));
        put(&pages, 511, buf_ioreq::new(0xee, true, 1, 0xfffff, 0x1122_3344));
        put(&pages, 512, buf_ioreq::new(IOREQ_TYPE_COPY, false, 2, 0xa1234, 7));
        let (out, result) = drain(&ring);
        assert_eq!(result, Ok(()));
        assert_eq!(out.len(), 2);
        assert_eq!((out[0].r#type, out[0].size, out[0].data), (8, 8, 0x1122_3344_5566_7788));
        assert_eq!((out[1].r#type, out[1].size, out[1].addr, out[1].data), (1, 2, 0xa1234, 7));
        assert_eq!((pages.u32(0), pages.u32(4)), (513, 513));
    }
}

#[test]
fn half_an_entry_is_dropped_and_said() {
    let (pages, ring) = rig(true);
    set_pointers(&pages, 0, 2);
    put(&pages, 0, buf_ioreq::new(IOREQ_TYPE_COPY, false, 4, 0xa0000, 1));
    put(&pages, 1, buf_ioreq::new(IOREQ_TYPE_COPY, false, 8, 0xa0000, 2));
    let (out, result) = drain(&ring);
    assert_eq!((out.len(), result), (1, Err(RingFault::Incomplete)));
    assert_eq!(pages.u32(0), 2);
}

#[test]
fn pointers_too_far_apart_drop_the_ring() {
    for (read, write) in [(0, 512), (1, 0), (u32::MAX, 5000), (7, u32::MAX)] {
        for atomic in [false, true] {
            let (pages, ring) = rig(atomic);
            set_pointers(&pages, read, write);
            assert_eq!(drain(&ring), (vec![], Err(RingFault::Pointers { read, write })));
            assert_eq!((pages.u32(0), pages.u32(4)), (write, write));
        }
    }
}

fn pointers() -> impl Strategy<Value = (u32, u32)> {
    let near = (any::<u32>(), 0u32..520).prop_map(|(r, n)| (r, r.wrapping_add(n)));
    let wrap = (0u32..600, 0u32..600).prop_map(|(a, b)| (u32::MAX - a, b));
    prop_oneof![near, wrap, any::<(u32, u32)>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_page_drains_as_the_naive_reader_says(
        bytes in proptest::collection::vec(any::<u8>(), PAGE_SIZE),
        (read, write) in pointers(),
        atomic: bool,
    ) {
        let (pages, ring) = rig(atomic);
        pages.write(0, &bytes);
        set_pointers(&pages, read, write);
        let (want, good, end) = naive::ring(&pages.read::<PAGE_SIZE>(0));
        let (out, result) = drain(&ring);
        let got: Vec<_> = out
            .iter()
            .map(|r| (r.r#type, abi::Bits::unpack(r.bits).read, r.size, r.addr, r.data))
            .collect();
        prop_assert_eq!(got, want);
        prop_assert_eq!(result.is_ok(), good);
        prop_assert_eq!((pages.u32(0), pages.u32(4)), (end, write));
        prop_assert_eq!(drain(&ring), (vec![], Ok(())));
    }
}

/// Xen's side of the ring, on the same page from another thread.
struct Writer {
    pages: Pages,
    ring: Ring,
}

impl Writer {
    fn push(&self, n: u32, wide: bool) -> bool {
        let slots = if wide { 2 } else { 1 };
        let (read, write) = self.ring.pointers();
        if write.wrapping_sub(read) >= 511 - (slots - 1) {
            return false;
        }
        let size = if wide { 8 } else { 4 };
        put(&self.pages, write, buf_ioreq::new(IOREQ_TYPE_COPY, false, size, n & 0xfffff, n));
        if wide {
            put(&self.pages, write.wrapping_add(1), buf_ioreq::new(0, false, 1, 0, !n));
        }
        let pointers = self.ring.u64_at(0);
        pointers.fetch_add(u64::from(slots) << 32, Ordering::SeqCst);
        // Canonicalise, as Xen does in atomic mode.
        let old = pointers.load(Ordering::SeqCst);
        let rings = (old as u32) / 511 * 511;
        if rings > 0 {
            let new = old - (u64::from(rings) << 32 | u64::from(rings));
            let _ = pointers.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        }
        true
    }
}

/// Entries of all forms, put in as Xen does in either mode and taken out at any moment.
#[test]
fn a_million_entries_come_out_as_they_went_in() {
    for atomic in [false, true] {
        let (pages, ring) = rig(atomic);
        let mut random = Random(atomic.into());
        // Not across 2^32: there the places of old and new entries overlap, and Xen overwrites its own.
        let (mut inside, mut out) = (std::collections::VecDeque::new(), Vec::new());
        let mut seen = 0;
        while seen < 500_000 {
            let (read, write) = ring.pointers();
            let size = random.pick(&[1u8, 2, 4, 8]);
            let slots = if size == 8 { 2 } else { 1 };
            if write.wrapping_sub(read) <= 511 - slots && random.below(300) != 0 {
                let (kind, addr) = (random.pick(&[0, 1, 7, 8]), random.next() as u32 & 0xf_ffff);
                let data = random.next() & if size == 8 { u64::MAX } else { u64::from(u32::MAX) };
                put(&pages, write, buf_ioreq::new(kind, false, size, addr, data as u32));
                if size == 8 {
                    // Xen fills the second slot like the first.
                    let high = buf_ioreq::new(kind, false, size, addr, (data >> 32) as u32);
                    put(&pages, write.wrapping_add(1), high);
                }
                inside.push_back((kind, u32::from(size), u64::from(addr), data));
                // In atomic mode Xen keeps the pointers small.
                let whole = if atomic { read / 511 * 511 } else { 0 };
                set_pointers(&pages, read - whole, write + slots - whole);
                continue;
            }
            out.clear();
            assert_eq!(ring.drain(&mut out), Ok(()));
            for r in &out {
                assert_eq!(Some((r.r#type, r.size, r.addr, r.data)), inside.pop_front());
                seen += 1;
            }
            assert!(inside.is_empty());
        }
    }
}

#[test]
fn racing_writer_that_moves_the_pointers_loses_nothing() {
    const N: u32 = 60_000;
    let (pages, ring) = rig(true);
    let writer = Writer { ring: Ring::new(pages.mapping(), true).unwrap(), pages };
    std::thread::scope(|s| {
        s.spawn(move || {
            for n in 0..N {
                while !writer.push(n, n % 3 == 0) {
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        let mut out = Vec::new();
        while next < N {
            out.clear();
            ring.drain(&mut out).unwrap();
            for r in &out {
                let want = if next % 3 == 0 { u64::from(next) | u64::from(!next) << 32 } else { next.into() };
                assert_eq!(r.data, want);
                next += 1;
            }
            if out.is_empty() {
                std::thread::yield_now();
            }
        }
    });
}
