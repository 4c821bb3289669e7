//! Contexts that run, and contexts that must not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rig::*;
use crate::gen8::blt::{Rect, XyColorBlt};
use crate::gen8::cmd::{self, MI_BATCH_BUFFER_END, MI_USER_INTERRUPT};
use crate::gen8::context::{Descriptor, state};
use crate::gen8::regs;
use crate::mediator::Config;

fn put(guest: &TestGuest, offset: u64, dwords: &[u32]) {
    (0u64..).zip(dwords).for_each(|(i, d)| guest.write32(offset + 4 * i, *d));
}

#[test]
fn store_runs_and_the_guest_is_told_in_order() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let mut commands = cmd::store_dword(g.gm(DATA), 0x1234_5678).to_vec();
    commands.push(MI_USER_INTERRUPT);
    g.run(&commands);
    assert_eq!(g.read32(DATA), 0x1234_5678);
    assert_eq!(g.csb(), [(1, ID), (0x18, ID)]);
    assert_eq!(g.reg(BCS + 0x3a0) & 7, 1);
    assert_eq!(g.state(state::RING_HEAD), g.tail);
    assert_eq!(g.reg(0x44308), 0x0101_0000);
    assert_eq!(g.reg(0x44200), 0x8000_0002);
    assert_eq!(g.msis.load(Ordering::SeqCst), 1, "one interrupt for both events");
}

#[test]
fn batch_fills_a_surface_through_the_shadow() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let rect = Rect { x1: 3, y1: 1, x2: 40, y2: 100 };
    let mut batch = XyColorBlt::fill(g.gm(DATA), 256, rect, 0x00c0_ffee).encode().to_vec();
    batch.push(MI_BATCH_BUFFER_END);
    put(&g, BATCH, &batch);
    g.run(&cmd::batch_buffer_start(g.gm(BATCH)));
    for (x, y, color) in
        [(3, 1, 0xc0_ffee), (39, 99, 0xc0_ffee), (2, 50, 0), (40, 50, 0), (10, 0, 0), (10, 100, 0)]
    {
        assert_eq!(g.read32(DATA + 256 * y + 4 * x), color, "({x}, {y})");
    }
}

#[test]
fn ring_that_wraps_runs_to_its_tail() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    for n in 0..600u32 {
        g.run(&cmd::flush_dw_store(g.gm(DATA), n));
        assert_eq!(g.read32(DATA), n);
    }
    assert!(g.tail < 600 * 16, "it did wrap");
}

#[test]
fn two_elements_run_in_their_order() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.emit(&cmd::store_dword(g.gm(DATA), 7));
    g.submit_raw(g.descriptor().0, Descriptor::ggtt(g.gm(CONTEXT) as u32, 0x21).0);
    g.wait(2);
    assert_eq!(g.csb(), [(1, ID), (0x14, ID), (0x18, 0x21)]);
}

#[test]
fn indexed_store_goes_to_the_contexts_own_status_page() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.run(&cmd::flush_dw_store_index(0xd0, 0x1111_2222_3333_4444));
    assert_eq!((g.read32(CONTEXT + 0xd0), g.read32(CONTEXT + 0xd4)), (0x3333_4444, 0x1111_2222));
}

#[test]
fn second_level_batch_returns_and_a_chain_goes_on() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let [call, lo, hi] = cmd::batch_buffer_start(g.gm(BATCH + 0x1000));
    let mut first = vec![call | cmd::BB_SECOND_LEVEL, lo, hi];
    first.extend(cmd::store_dword(g.gm(DATA + 4), 2));
    first.extend(cmd::batch_buffer_start(g.gm(BATCH + 0x2000)));
    put(&g, BATCH, &first);
    let mut second = cmd::store_dword(g.gm(DATA), 1).to_vec();
    second.push(MI_BATCH_BUFFER_END);
    put(&g, BATCH + 0x1000, &second);
    let mut chained = cmd::store_dword(g.gm(DATA + 8), 3).to_vec();
    chained.push(MI_BATCH_BUFFER_END);
    put(&g, BATCH + 0x2000, &chained);
    let mut ring = cmd::batch_buffer_start(g.gm(BATCH)).to_vec();
    ring.extend(cmd::store_dword(g.gm(DATA + 12), 4));
    g.run(&ring);
    assert_eq!([0, 4, 8, 12].map(|o| g.read32(DATA + o)), [1, 2, 3, 4]);
}

#[test]
fn refused_context_hangs_alone_until_the_guest_resets() {
    let host = Host::new();
    let (mut bad, mut good) = (host.guest(), host.guest());
    bad.start();
    good.start();
    let elsewhere = good.gm(DATA);
    bad.run_refused(&cmd::store_dword(elsewhere, 0xbad));
    assert_eq!(bad.csb(), [(1, ID)], "it never completes");
    assert_eq!(bad.reg(BCS + 0xb0), 1);
    assert_eq!(bad.reg(BCS + 0x68), cmd::store_dword(0, 0)[0]);
    assert_eq!(bad.reg(0x44308) & 0x0008_0000, 0x0008_0000);
    good.run(&cmd::store_dword(good.gm(DATA + 4), 5));
    assert_eq!((good.read32(DATA), good.read32(DATA + 4)), (0, 5));

    // Banned until the reset, then as new.
    let before = bad.vgpu.statistics().submissions;
    bad.submit();
    eventually("it is looked at", || bad.idle());
    assert_eq!(bad.vgpu.statistics().submissions, before);
    bad.reset();
    bad.emit(&cmd::store_dword(bad.gm(DATA), 6));
    bad.submit();
    eventually("it runs again", || bad.read32(DATA) == 6);
    assert_eq!(host.gpu.resets.load(Ordering::SeqCst), 0, "the GPU never saw it");
}

#[test]
fn what_a_ring_holds_before_a_batch_without_end_is_done_and_the_context_stands_there() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    put(&g, BATCH, &cmd::batch_buffer_start(g.gm(BATCH)));
    // As i915 has it: the request's beginning, its batch, its end; and before that a request that is complete.
    let stores = [0, 4, 8].map(|at| cmd::store_dword(g.gm(DATA + at), 7 + at as u32));
    let batch = cmd::batch_buffer_start(g.gm(BATCH));
    let ring = [&stores[0][..], &[MI_USER_INTERRUPT], &stores[1], &batch, &stores[2]].concat();
    g.run_refused(&ring);
    assert_eq!([0, 4, 8].map(|at| g.read32(DATA + at)), [7, 11, 0]);
    assert_eq!(g.csb(), [(1, ID)], "it never completes");
    assert_eq!(g.reg(BCS + 0x34), 4 * 9, "it stands at the batch");
    assert_eq!(u64::from(g.reg(BCS + 0x74)), g.gm(BATCH), "in which it met the command");
    assert_eq!(g.reg(BCS + 0xb0), 1);
    assert_eq!(g.reg(0x44308), 0x0009_0000, "the first request's interrupt, and the error's");
    assert_eq!(g.state(state::RING_HEAD), 0, "an image is saved by who goes, and it has not gone");
    g.reset();
    g.emit(&cmd::store_dword(g.gm(DATA), 6));
    g.submit();
    eventually("it runs again after its reset", || g.read32(DATA) == 6);
}

#[test]
fn other_context_of_the_guest_puts_the_hung_one_aside() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.run_refused(&[0xffff_ffff]);
    // Another image, at another place.
    let other = DATA;
    let ring = g.gm(DATA + 0x2000) as u32;
    for (index, value) in
        [(state::RING_TAIL, 16), (state::RING_START, ring), (state::RING_CTL, regs::RING_VALID)]
    {
        g.write32(other + 0x1000 + 4 * index as u64, value);
    }
    put(&g, DATA + 0x2000, &cmd::store_dword(g.gm(DATA + 0x3000), 9));
    g.submit_raw(Descriptor::ggtt(g.gm(other) as u32, 0x33).0, 0);
    eventually("the other runs", || g.read32(DATA + 0x3000) == 9 && g.idle());
    assert_eq!(g.csb(), [(1, ID), (2, ID), (0x18, 0x33)]);
}

#[test]
fn hostile_descriptors_and_images_are_refused_and_others_run() {
    let host = Host::new();
    let (mut bad, mut good) = (host.guest(), host.guest());
    bad.start();
    good.start();
    let own = bad.descriptor().0;
    let top = bad.vgpu.slice().low.end() - 0x1000;
    let descriptors = [
        Descriptor::ggtt(good.gm(CONTEXT) as u32, 1).0, // another's context
        Descriptor::ggtt(0xffff_f000, 1).0,             // beyond everything
        Descriptor::ggtt(top as u32, 1).0,              // half outside
        Descriptor::ggtt(bad.gm(0x80000) as u32, 1).0,  // not mapped
        own & !Descriptor::ADDRESSING_MODE,             // no mode
    ];
    for (n, d) in (1..).zip(descriptors) {
        bad.submit_raw(d, 0);
        eventually("refused", || bad.vgpu.statistics().refusals == n && bad.idle());
    }
    bad.reset();
    let images = [
        (state::RING_CTL, 0),                              // no ring
        (state::RING_START, bad.gm(RING) as u32 + 8),      // not aligned
        (state::RING_START, good.gm(RING) as u32),         // another's ring
        (state::RING_START, 0xffff_f000),                  // wraps
        (state::RING_START, bad.gm(0x80000) as u32),       // not mapped
        (state::RING_HEAD, RING_SIZE),                     // beyond the end
        (state::RING_TAIL, RING_SIZE),                     // beyond the end
        (state::RING_CTL, 0x001f_f000 | regs::RING_VALID), // ring larger than the slice
    ];
    for (index, value) in images {
        let before = bad.vgpu.statistics().refusals;
        bad.emit(&cmd::store_dword(bad.gm(DATA), 1));
        bad.set_state(index, value);
        bad.submit();
        eventually("refused", || bad.vgpu.statistics().refusals > before && bad.idle());
        bad.reset();
    }
    assert_eq!(bad.read32(DATA), 0);
    good.run(&cmd::store_dword(good.gm(DATA), 1));
    assert_eq!(good.read32(DATA), 1);
}

#[test]
fn flood_of_submissions_is_dropped_and_does_no_harm() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    host.gpu.hang(1);
    g.emit(&cmd::store_dword(g.gm(DATA), 1));
    g.submit();
    eventually("it is on the engine", || host.gpu.hanging_left() == 0);
    // Another context: more of the same would go on with what runs.
    (0..99).for_each(|_| g.submit_raw(g.descriptor().0 + (1 << 32), 0));
    assert!(g.vgpu.statistics().dropped >= 90);
    g.reset();
    g.run(&cmd::store_dword(g.gm(DATA), 2));
    assert_eq!(g.read32(DATA), 2);
}

/// One whose context is given to the engine and hangs there, and a neighbour. No deadline comes by itself.
fn one_that_hangs_beside_another() -> (Standing, Host, TestGuest, TestGuest) {
    let clock = Standing::default();
    let host = Host::with_clock(CONFIG, Box::new(clock.clone()));
    let (mut bad, mut good) = (host.guest(), host.guest());
    bad.start();
    good.start();
    host.gpu.hang(1);
    // A ring with nothing in it does not come to the GPU.
    bad.emit(&cmd::store_dword(bad.gm(DATA), 1));
    bad.submit();
    (clock, host, bad, good)
}

#[test]
fn context_that_hangs_is_stopped_at_its_deadline_however_much_is_appended_to_it() {
    let (clock, _host, bad, mut good) = one_that_hangs_beside_another();
    // So that there is news all the time.
    clock.until("it is stopped", || {
        (0..1000).for_each(|_| bad.submit());
        bad.vgpu.statistics().overruns == 1
    });
    good.run(&cmd::store_dword(good.gm(DATA), 1));
    assert_eq!(good.read32(DATA), 1);
}

#[test]
fn hanging_context_is_stopped_at_its_deadline_and_the_neighbour_completes() {
    let (clock, host, mut bad, mut good) = one_that_hangs_beside_another();
    eventually("it is on the engine", || host.gpu.hanging_left() == 0);
    good.emit(&cmd::store_dword(good.gm(DATA), 2));
    good.submit();
    clock.until("the guilty one is stopped", || bad.vgpu.statistics().overruns == 1);
    eventually("the neighbour completes", || good.vgpu.statistics().completions == 1);
    eventually("nothing of its runs", || bad.idle());
    let s = bad.vgpu.statistics();
    assert_eq!((s.overruns, s.resets, s.completions), (1, 1, 0));
    assert_eq!(good.vgpu.statistics().resets, 0);
    assert_eq!((bad.read32(DATA), good.read32(DATA)), (0, 2));
    assert_eq!(bad.reg(BCS + 0xb0), 1);
    bad.reset();
    bad.emit(&cmd::store_dword(bad.gm(DATA), 3));
    bad.submit();
    eventually("it runs again after its reset", || bad.read32(DATA) == 3);
}

#[test]
fn guests_reset_stops_a_hanging_context_before_its_deadline() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    host.gpu.hang(1);
    g.emit(&cmd::store_dword(g.gm(DATA), 1));
    g.submit();
    eventually("it is on the engine", || host.gpu.hanging_left() == 0);
    g.reset();
    assert_eq!(g.csb(), [], "nothing of before the reset is told after it");
    g.run(&cmd::store_dword(g.gm(DATA), 2));
    assert_eq!(g.read32(DATA), 2);
    assert_eq!(g.vgpu.statistics().overruns, 0);
    assert_eq!(g.vgpu.statistics().guest_resets, 1);
}

#[test]
fn news_of_an_error_that_a_reset_has_ended_harms_no_later_context() {
    use crate::physical::{Engine, Interrupt, InterruptSink};
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let scheduler = host.mediator.as_ref().unwrap().scheduler.clone();
    for n in 0..50 {
        scheduler.interrupt(Interrupt::Error(Engine::Bcs));
        g.run(&cmd::store_dword(g.gm(DATA), n));
        assert_eq!(g.read32(DATA), n);
    }
    let s = g.vgpu.statistics();
    assert_eq!((s.gpu_errors, s.resets, s.completions), (0, 0, 50));
}

#[test]
fn a_context_that_the_gpu_has_forgotten_ends_with_the_news_and_not_at_its_deadline() {
    use crate::physical::{Engine, Interrupt, InterruptSink};
    let host = Host::with(Config { deadline: Duration::from_secs(3600), ..CONFIG });
    let mut g = host.guest();
    g.start();
    host.gpu.hang(1);
    g.emit(&cmd::store_dword(g.gm(DATA), 1));
    g.submit();
    eventually("it is on the engine", || host.gpu.hanging_left() == 0);
    host.mediator.as_ref().unwrap().scheduler.interrupt(Interrupt::Error(Engine::Bcs));
    eventually("it has ended", || g.idle());
    let s = g.vgpu.statistics();
    assert_eq!((s.gpu_errors, s.overruns, s.completions), (1, 0, 0));
}

#[test]
fn every_engine_takes_submissions() {
    use crate::physical::Engine;
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    for (n, e) in (1u32..).zip(Engine::ALL) {
        g.set_state(state::RING_HEAD, 0);
        g.tail = 0;
        g.emit(&cmd::store_dword(g.gm(DATA), n));
        let base = e.mmio_base();
        g.set_reg(base + 0x29c, regs::masked_enable(1 << 15));
        let d = g.descriptor().0;
        for value in [0, 0, d >> 32, d & 0xffff_ffff] {
            g.set_reg(base + 0x230, value as u32);
        }
        eventually("it ran", || g.read32(DATA) == n && g.reg(base + 0x234) == 0);
    }
}
