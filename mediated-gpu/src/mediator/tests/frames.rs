//! Frames that vanish: under data, ring, context, status page, and while the GPU draws.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::rig::*;
use crate::gen8::blt::{Rect, XyColorBlt};
use crate::gen8::cmd::{self, MI_BATCH_BUFFER_END};
use crate::mediator::sweeping::TOGETHER;
use crate::mediator::{Config, Vgpu};
use pviommu::EVERYTHING;
use xen_ioreq::PAGE_SIZE;

/// A ballooned page: nothing of it is left below, and the guest's entry stays as written.
fn gone(g: &TestGuest, host: &Host, offset: u64, used: usize) {
    assert_eq!(host.world.used(), used, "its frame is free");
    let entry = g.vgpu.mmio_read(TestGuest::entry(g.gm(offset)), 8);
    assert_eq!(entry, g.gfn(offset).addr() | 1);
    assert_eq!(g.vgpu.aperture_read(g.gm(offset), 4), 0xffff_ffff);
}

#[test]
fn data_page_goes_to_scratch_and_comes_back_with_the_next_write_of_its_entry() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let used = host.world.used();
    g.balloon_out(DATA);
    g.vgpu.settle();
    gone(&g, &host, DATA, used - 1);
    let mut both = cmd::store_dword(g.gm(DATA), 1).to_vec();
    both.extend(cmd::store_dword(g.gm(DATA + 0x1000), 2));
    g.run(&both);
    assert_eq!(g.read32(DATA + 0x1000), 2);

    g.map(DATA);
    g.run(&cmd::store_dword(g.gm(DATA), 3));
    assert_eq!(g.read32(DATA), 3);
    let s = g.vgpu.statistics();
    assert_eq!((s.notices, s.invalidations, s.revoked), (1, 1, 1));
    assert!(s.invalidation_max_us > 0);
}

#[test]
fn page_of_ring_context_or_status_is_a_context_error_and_no_more() {
    for (offset, error) in
        [(RING, true), (CONTEXT + 0x1000, true), (BATCH, true), (HWSP, false), (CONTEXT, false)]
    {
        let host = Host::new();
        let (mut g, mut other) = (host.guest(), host.guest());
        g.start();
        other.start();
        g.write32(BATCH, MI_BATCH_BUFFER_END);
        let mut commands = cmd::batch_buffer_start(g.gm(BATCH)).to_vec();
        commands.extend(cmd::store_dword(g.gm(DATA), 1));
        g.emit(&commands);
        let used = host.world.used();
        g.balloon_out(offset);
        g.vgpu.settle();
        gone(&g, &host, offset, used - 1);
        g.submit();
        eventually("it has ended", || {
            let s = g.vgpu.statistics();
            g.idle() && s.refusals + s.completions == 1
        });
        assert_eq!(g.vgpu.statistics().refusals, u64::from(error), "offset {offset:#x}");
        assert_eq!(g.read32(DATA), u32::from(!error));
        other.run(&cmd::store_dword(other.gm(DATA), 1));
        assert_eq!(other.read32(DATA), 1);
    }
}

#[test]
fn notice_that_does_not_say_what_releases_what_is_gone_and_keeps_the_rest() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let used = host.world.used();
    for page in 0..4 {
        host.world.balloon_out(g.domid, g.gfn(DATA + 0x1000 * page));
    }
    assert_eq!(host.world.used(), used, "our mappings keep them");
    g.vgpu.invalidate(EVERYTHING);
    g.vgpu.settle();
    assert_eq!(host.world.used(), used - 4);
    g.run(&cmd::store_dword(g.gm(DATA + 0x4000), 3));
    assert_eq!(g.read32(DATA + 0x4000), 3);
}

#[test]
fn page_with_many_entries_is_revoked_from_all_of_them() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    for n in 0..100 {
        g.write_pte(g.gm(0x40000 + n * 0x1000), g.gfn(DATA).addr() | 1);
    }
    let used = host.world.used();
    g.balloon_out(DATA);
    g.vgpu.settle();
    assert_eq!(host.world.used(), used - 1);
    assert_eq!(g.vgpu.statistics().revoked, 101);
    for n in 0..100 {
        assert_eq!(g.vgpu.aperture_read(g.gm(0x40000 + n * 0x1000), 4), 0xffff_ffff);
    }
}

#[test]
fn frames_come_and_go_under_a_drawing_gpu_and_none_is_reached_late() {
    let host = Host::new();
    let (mut g, mut other) = (host.guest(), host.guest());
    g.start();
    other.start();
    let mut batch = Vec::new();
    for n in 0..200 {
        let rect = Rect { x1: 0, y1: 0, x2: 256, y2: 64 };
        batch.extend(XyColorBlt::fill(g.gm(DATA), 1024, rect, n).encode());
    }
    batch.push(MI_BATCH_BUFFER_END);
    // Four pages of batch; the surface has sixteen.
    for (i, dword) in (0u64..).zip(&batch) {
        g.write32(BATCH + 4 * i, *dword);
    }
    g.run(&cmd::batch_buffer_start(g.gm(BATCH)));
    let used = host.world.used();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut out = vec![];
    for round in 0..60 {
        let before = g.vgpu.statistics().completions;
        g.emit(&cmd::batch_buffer_start(g.gm(BATCH)));
        g.submit();
        for _ in 0..4 {
            let page = DATA + 0x1000 * rng.u64(0..16);
            if !out.contains(&page) {
                g.balloon_out(page);
                out.push(page);
            }
        }
        g.wait(before + 1);
        g.vgpu.settle();
        assert_eq!(host.world.used(), used - out.len(), "round {round}");
        out.drain(..).for_each(|page| g.map(page));
        other.run(&cmd::store_dword(other.gm(DATA), round));
    }
    g.run(&cmd::batch_buffer_start(g.gm(BATCH)));
    assert!((0..16).all(|page| g.read32(DATA + 0x1000 * page) == 199));
    assert_eq!(other.read32(DATA), 59);
}

#[test]
fn rewriting_an_entry_releases_the_old_frame_without_a_notice() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    for page in 0x80..0x84u64 {
        g.world.populate(g.domid, g.gfn(page * PAGE_SIZE as u64));
    }
    for n in 0..10_000u64 {
        g.write_pte(g.gm(DATA), g.gfn((0x80 + n % 4) * PAGE_SIZE as u64).addr() | 1);
    }
    g.vgpu.settle();
    let mapped = |page: u64| host.world.mapped_at(g.domid, g.gfn(page * PAGE_SIZE as u64)).len();
    assert_eq!([0x80, 0x81, 0x82, 0x83].map(mapped), [0, 0, 0, 1]);
    let s = g.vgpu.statistics();
    assert!(s.flushes < 2_000, "{} flushes for 10000 writes", s.flushes);
}

#[test]
fn unmapping_that_the_hypervisor_refuses_is_tried_again() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let used = host.world.used();
    host.world.refuse_unmap(true);
    g.balloon_out(DATA);
    g.vgpu.settle();
    assert_eq!(host.world.used(), used);
    host.world.refuse_unmap(false);
    eventually("it is released", || host.world.used() == used - 1);
}

#[test]
fn frame_that_went_and_came_back_is_used_from_the_write_of_its_entry_on() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    for n in 0..200 {
        g.balloon_out(DATA);
        // No time for the notice to be carried out.
        g.map(DATA);
        g.run(&cmd::store_dword(g.gm(DATA), n));
        assert_eq!(g.read32(DATA), n);
    }
    g.vgpu.settle();
    assert_eq!(g.vgpu.statistics().invalidations, 200);
}

#[test]
fn flush_waits_for_one_that_another_thread_has_begun() {
    use std::sync::atomic::Ordering;
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.vgpu.settle();
    let (begun, done) = (&host.gpu.flushes_begun, &host.gpu.flushes_done);
    let gate = host.gpu.flush_gate.lock();
    g.write_pte(g.gm(DATA), 0);
    let before = (begun.load(Ordering::SeqCst), done.load(Ordering::SeqCst));
    std::thread::scope(|s| {
        let flush = || {
            g.set_reg(0x10_1008, 1);
            done.load(Ordering::SeqCst)
        };
        let first = s.spawn(flush);
        eventually("a flush has begun", || begun.load(Ordering::SeqCst) > before.0);
        // Nothing is marked dirty any more, and nothing has been flushed yet.
        let second = s.spawn(flush);
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(gate);
        assert!(first.join().unwrap() > before.1);
        assert!(second.join().unwrap() > before.1, "it came back before any flush was done");
    });
}

/// Lets so many ticks pass for the guests' vGPUs, as their thread would: how often it wakes for that.
fn ticks(guests: &[&TestGuest], start: &mut Instant, ticks: u32) -> usize {
    let end = *start + CONFIG.sweep_every * ticks;
    let mut wakes = BTreeSet::new();
    for g in guests {
        let mut next = *start;
        while next < end {
            wakes.insert(next);
            next = g.vgpu.sweep_in_time(next).unwrap();
        }
    }
    *start = end;
    wakes.len()
}

/// When ticks have numbers that four divides.
fn fourth_tick(host: &Host) -> Instant {
    host.mediator().ticks.after(Instant::now(), TOGETHER).unwrap()
}

#[test]
fn idle_vgpus_are_swept_as_often_as_working_ones_and_in_a_quarter_of_the_wakes() {
    let host = Host::new();
    let mut guests: Vec<_> = (0..15).map(|_| host.guest()).collect();
    guests.iter_mut().for_each(TestGuest::start);
    let swept =
        |guests: &[&TestGuest]| -> Vec<u64> { guests.iter().map(|g| g.vgpu.statistics().sweeps).collect() };
    let mut now = fourth_tick(&host);
    let mut working = guests.remove(7);
    let idle: Vec<_> = guests.iter().collect();
    // They have just worked, and have their shares of one tick; from then on they are idle.
    assert_eq!(ticks(&idle, &mut now, 4), 2);
    let before = swept(&idle);
    assert_eq!(ticks(&idle, &mut now, 64), 16, "all of them together");
    assert!(before.iter().zip(&swept(&idle)).all(|(before, after)| after - before == 64));
    // One that works is swept at each tick.
    ticks(&[&working], &mut now, 1);
    let before = swept(&[&working]);
    for n in 0..8 {
        let store = cmd::store_dword(working.gm(DATA), n);
        working.run(&store);
        assert_eq!(ticks(&[&working], &mut now, 1), 1);
    }
    assert_eq!(swept(&[&working])[0] - before[0], 8);
    // A change of its table is work, too.
    let tick = host.mediator().ticks.after(now, 1);
    assert_ne!(working.vgpu.sweep_in_time(now), tick);
    working.map(DATA);
    assert_eq!(working.vgpu.sweep_in_time(now), tick);
}

#[test]
fn page_that_goes_without_notice_is_free_after_the_shares_of_sixteen_ticks_of_idling() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let mut now = fourth_tick(&host);
    ticks(&[&g], &mut now, 4);
    let used = host.world.used();
    host.world.balloon_out(g.domid, g.gfn(DATA));
    assert_eq!(host.world.used(), used, "our mapping keeps it");
    assert_eq!(ticks(&[&g], &mut now, 16), 4);
    g.vgpu.settle();
    gone(&g, &host, DATA, used - 1);
    assert_eq!(g.vgpu.statistics().notices, 0);
}

#[test]
fn vgpu_that_is_destroyed_is_swept_no_more() {
    let host = Host::with(Config { sweep_every: Duration::from_millis(1), ..CONFIG });
    let (mut g, mut other) = (host.guest(), host.guest());
    [&mut g, &mut other].into_iter().for_each(TestGuest::start);
    let sweeps = |vgpu: &Vgpu| vgpu.statistics().sweeps;
    eventually("it is swept", || sweeps(&g.vgpu) > 2);
    let vgpu = g.vgpu.clone();
    host.mediator().destroy(vgpu.id()).unwrap();
    let (before, others) = (sweeps(&vgpu), sweeps(&other.vgpu));
    eventually("the other one still is", || sweeps(&other.vgpu) > others + 2 * u64::from(TOGETHER));
    assert_eq!(sweeps(&vgpu), before);
}
