//! The executor against an interpreter of the protocol that is slow: [`crate::testing::naive`].
#![allow(clippy::cast_possible_truncation, reason = "offsets in small arrays")]

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use xen_ioreq::PAGE_SIZE;
use xen_ioreq::abi::ioreq::ioreq;
use zerocopy::IntoBytes;

use super::*;
use crate::request::Invalidation;
use crate::testing::Random;
use crate::testing::naive::{Naive, compare};
use crate::testing::toy::{FUNCTION, MEMORY, Mood, PORTS, rig};

fn near(base: u64) -> impl Strategy<Value = u64> {
    (-80i64..80).prop_map(move |d| base.wrapping_add_signed(d))
}

fn request() -> impl Strategy<Value = ioreq> {
    let kind = prop_oneof![8 => 0u8..3, 1 => Just(7), 1 => Just(8), 1 => any::<u8>()];
    let addr = prop_oneof![
        3 => near(PORTS + 32),
        6 => near(MEMORY + 32),
        4 => (0u64..80).prop_map(|r| FUNCTION << 32 | r),
        1 => near(0x1_0000),
        1 => near(0),
        1 => near(u64::MAX),
        1 => any::<u64>(),
    ];
    let data = prop_oneof![
        2 => near(PAGE_SIZE as u64),
        2 => near(2 * PAGE_SIZE as u64),
        2 => near(3 * PAGE_SIZE as u64),
        1 => near(0),
        1 => near(100),
        1 => Just(u64::MAX),
        1 => any::<u64>(),
    ];
    let size = prop_oneof![8 => (0u32..4).prop_map(|s| 1 << s), 1 => 0u32..20, 1 => any::<u32>()];
    let count = prop_oneof![6 => Just(1u32), 6 => 0u32..20, 1 => 4090u32..4100, 1 => any::<u32>()];
    (kind, addr, data, size, count, 0u8..16).prop_map(|(kind, addr, data, size, count, flags)| ioreq {
        addr,
        data,
        size,
        count,
        r#type: kind,
        bits: flags << 4 | 1,
        ..ioreq::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_requests_do_what_the_naive_interpreter_says(
        requests in proptest::collection::vec(request(), 1..6),
        mood in prop_oneof![Just(Mood::Prompt), Just(Mood::DefersAnswered), Just(Mood::DefersQueued)],
    ) {
        compare(&rig(mood, OnError::AllOnes), &requests, u64::MAX);
    }

    #[test]
    fn device_that_fails_in_the_middle_ends_the_run_there(
        requests in proptest::collection::vec(request(), 1..6),
        n in 0u64..12,
    ) {
        compare(&rig(Mood::FailsAt(n), OnError::AllOnes), &requests, n);
    }
}

/// As [`request`], faster.
fn any_request(random: &mut Random) -> ioreq {
    let near = |random: &mut Random, base: u64| base.wrapping_add(random.below(160) as u64).wrapping_sub(80);
    let page = PAGE_SIZE as u64;
    let addr = match random.below(17) {
        0..3 => near(random, PORTS + 32),
        3..9 => near(random, MEMORY + 32),
        9..13 => FUNCTION << 32 | random.below(80) as u64,
        13 => near(random, 0x1_0000),
        14 => near(random, 0),
        15 => near(random, u64::MAX),
        _ => random.next(),
    };
    let data = match random.below(10) {
        0..6 => {
            let base = random.pick(&[page, 2 * page, 3 * page]);
            near(random, base)
        }
        6 => near(random, 0),
        7 => near(random, 100),
        8 => u64::MAX,
        _ => random.next(),
    };
    let kind = match random.below(11) {
        0 => random.next() as u8,
        _ => random.pick(&[0, 0, 0, 1, 1, 1, 2, 2, 7, 8]),
    };
    let size = match random.below(10) {
        0 => random.below(20) as u32,
        1 => random.next() as u32,
        _ => random.pick(&[1, 2, 4, 8]),
    };
    let count = match random.below(1000) {
        0 => 4090 + random.below(10) as u32,
        1..20 => random.next() as u32,
        20..500 => random.below(20) as u32,
        _ => 1,
    };
    let bits = (random.next() as u8) << 4 | 1;
    ioreq {
        addr,
        data: if data == 666 { 667 } else { data },
        size,
        count,
        r#type: kind,
        bits,
        ..ioreq::default()
    }
}

#[test]
fn a_million_requests_do_what_the_naive_interpreter_says() {
    for (seed, mood) in [(1, Mood::Prompt), (2, Mood::DefersAnswered), (3, Mood::DefersQueued)] {
        let rig = rig(mood, OnError::AllOnes);
        let mut naive = Naive::of(&rig, u64::MAX);
        let mut random = Random(seed);
        for n in 0..350_000u32 {
            naive.check(&rig, &any_request(&mut random), n % 256 == 0);
        }
        naive.check_notices(&rig);
    }
}

/// Somebody scribbles over the slot, and over the memory that it points to, at any moment. Each request that was taken is
/// answered once, and what was carried out is what one copy said, so nothing is reached that is not there.
#[test]
fn slot_that_changes_under_our_hands_is_answered_once_and_harms_nobody() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut random = Random(7);
            while !stop.load(Ordering::SeqCst) {
                let q = any_request(&mut random);
                let (from, len) = (random.below(32), random.below(9));
                let bytes = &q.as_bytes()[from..];
                rig.pages.write(from, &bytes[..len.min(bytes.len())]);
                rig.ram.pages.write(random.below(PAGE_SIZE), &random.next().to_le_bytes());
            }
        });
        let mut random = Random(8);
        let hint = Hint::default();
        let mut taken = 0;
        for _ in 0..100_000 {
            rig.pages.write(0, any_request(&mut random).as_bytes());
            let Some(request) = rig.slots.take(0) else { continue };
            taken += 1;
            rig.exec.sync(request, &mut rig.exec.bus.session(), &hint);
            assert_eq!(rig.sent.0.lock().len(), taken);
        }
        stop.store(true, Ordering::SeqCst);
        assert!(taken > 0);
    });
    assert_eq!(
        rig.exec.stats.snapshot().panics,
        rig.heard.1.lock().iter().filter(|s| **s == 666).count() as u64
    );
}

fn read_of(space: Space, addr: u64, size: u32) -> ioreq {
    ioreq { addr, size, count: 1, r#type: space as u8, bits: 0x21, ..ioreq::default() }
}

#[test]
fn panic_in_a_device_is_contained_and_the_vcpu_answered() {
    let rig = rig(Mood::PanicsAt(1), OnError::AllOnes);
    assert_ne!(rig.send(&read_of(Space::Mmio, MEMORY, 4)), Some(u64::MAX));
    assert_eq!(rig.send(&read_of(Space::Mmio, MEMORY, 4)), Some(u64::MAX));
    assert_eq!(rig.exec.stats.snapshot().panics, 1);
    assert!(rig.ops.0.lock().is_empty());
}

#[test]
fn panic_crashes_the_guest_where_the_operator_wants_it() {
    let rig = rig(Mood::PanicsAt(0), OnError::CrashGuest);
    // What is merely not there is never a reason to crash.
    assert_eq!(rig.send(&read_of(Space::Mmio, MEMORY - 4, 4)), Some(u64::MAX));
    assert!(rig.ops.0.lock().is_empty());
    assert_eq!(rig.send(&read_of(Space::Mmio, MEMORY, 4)), Some(u64::MAX));
    assert_eq!(*rig.ops.0.lock(), [xen_ioreq::abi::dm_op::XEN_DMOP_remote_shutdown]);
}

#[test]
fn panic_in_the_handler_of_a_notice_is_contained() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let q = ioreq { data: 666, r#type: 7, size: 8, count: 1, bits: 1, ..ioreq::default() };
    assert_eq!(rig.send(&q), Some(666));
    assert_eq!(rig.exec.stats.snapshot().panics, 1);
}

#[test]
fn forgotten_deferral_reads_all_ones_and_is_an_error_of_the_device() {
    let rig = rig(Mood::Forgets, OnError::CrashGuest);
    assert_eq!(rig.send(&read_of(Space::Pio, PORTS, 4)), Some(u64::MAX));
    assert_eq!(rig.ops.0.lock().len(), 1);
}

#[test]
fn deferred_read_waits_for_its_answer() {
    let rig = rig(Mood::DefersQueued, OnError::AllOnes);
    assert_eq!(rig.send(&read_of(Space::Pio, PORTS, 1)), None);
    let (token, _) = rig.toy.late.lock().remove(0);
    std::thread::spawn(move || token.answer(Ok(0x1ff))).join().unwrap();
    assert_eq!(rig.answer(), Some(0xff));
    assert_eq!(rig.exec.stats.snapshot().deferred, 1);
}

#[test]
fn stock_invalidation_with_count_0_is_heard_and_acknowledged() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let q = ioreq { data: u64::MAX, r#type: 8, size: 4, bits: 1, ..ioreq::default() };
    assert_eq!(rig.send(&q), Some(u64::MAX));
    assert_eq!(*rig.heard.0.lock(), [Invalidation::All]);
}

#[test]
fn buffered_requests_are_carried_out_and_reads_among_them_refused() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let write = ioreq { data: 0x77, bits: 0, ..read_of(Space::Pio, PORTS, 1) };
    rig.buffered(&[write]);
    assert_eq!(rig.cells()[0][0], 0x77);
    rig.buffered(&[ioreq { bits: 0x20, ..write }]);
    for (size, data, what) in [
        (8, u64::MAX, Invalidation::All),
        (4, u64::from(u32::MAX), Invalidation::All),
        (8, u64::from(u32::MAX), Invalidation::Frame(xen_ioreq::Bfn(u64::from(u32::MAX)))),
        (8, 0x1234_5678_9abc, Invalidation::Frame(xen_ioreq::Bfn(0x1234_5678_9abc))),
    ] {
        rig.buffered(&[ioreq { r#type: 8, size, data, count: 1, ..ioreq::default() }]);
        assert_eq!(rig.heard.0.lock().pop(), Some(what));
    }
    let stats = rig.exec.stats.snapshot();
    assert_eq!((stats.buffered, stats.malformed, stats.invalidate, stats.pio), (6, 1, 4, 1));
}

#[test]
fn what_comes_after_a_panic_in_the_buffered_ring_is_carried_out() {
    for (space, addr) in [(Space::Pio, PORTS), (Space::Mmio, MEMORY)] {
        let rig = rig(Mood::PanicsAt(1), OnError::AllOnes);
        let write = ioreq { data: 0x55, bits: 0, ..read_of(space, addr, 1) };
        let clock = ioreq { data: 60, r#type: 7, size: 8, count: 1, ..ioreq::default() };
        rig.buffered(&[write, write, write, clock, write]);
        assert_eq!(*rig.heard.1.lock(), [60]);
        let stats = rig.exec.stats.snapshot();
        assert_eq!((stats.buffered, stats.pio + stats.mmio, stats.time_offset), (5, 4, 1));
        // All but the first one.
        assert_eq!((stats.panics, rig.cells()[space as usize][0]), (3, 0x55));
    }
}

#[test]
fn buffered_writes_that_no_device_takes_are_counted_as_what_they_were() {
    for (mood, addr) in [(Mood::Prompt, MEMORY - 4), (Mood::FailsAt(0), MEMORY)] {
        let rig = rig(mood, OnError::AllOnes);
        let write = ioreq { bits: 0, ..read_of(Space::Mmio, addr, 4) };
        rig.buffered(&[write; 3]);
        let stats = rig.exec.stats.snapshot();
        let unclaimed = if addr == MEMORY { 0 } else { 3 };
        assert_eq!((stats.mmio, stats.unclaimed), (3, unclaimed));
        assert_eq!(stats.failed + stats.unknown_register, 3 - unclaimed);
    }
}

#[test]
fn devices_that_put_off_a_buffered_write_answer_nobody() {
    let rig = rig(Mood::DefersQueued, OnError::AllOnes);
    rig.buffered(&[ioreq { bits: 0, ..read_of(Space::Mmio, MEMORY, 4) }]);
    let (token, _) = rig.toy.late.lock().remove(0);
    token.answer(Ok(1));
    assert!(rig.sent.0.lock().is_empty());
    assert_eq!(rig.exec.stats.snapshot().mmio, 1);
}

#[test]
fn string_instruction_maps_its_page_once() {
    let rig = rig(Mood::Prompt, OnError::AllOnes);
    let q = ioreq { data: 0x100, count: 200, bits: 0x31, ..read_of(Space::Pio, PORTS, 4) };
    assert_eq!(rig.send(&q), Some(0x100));
    assert_eq!(*rig.ram.maps.lock(), 1);
}

#[test]
fn longest_string_instruction_deferred_at_every_step_does_not_recurse() {
    let rig = rig(Mood::DefersAnswered, OnError::AllOnes);
    let q = ioreq { count: 4096, bits: 0x01, data: 1, ..read_of(Space::Pio, PORTS, 4) };
    // Far less stack than 4096 frames would need.
    let small = std::thread::Builder::new().stack_size(64 << 10);
    std::thread::scope(|s| {
        let answer = small.spawn_scoped(s, || rig.send(&q)).unwrap().join().unwrap();
        assert_eq!(answer, Some(1));
    });
    assert_eq!(rig.toy.count.load(Ordering::SeqCst), 4096);
}
