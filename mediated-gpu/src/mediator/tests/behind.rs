//! What is put behind a context while that runs: on the engine before the other ends, and as if it had come after.

use std::sync::atomic::Ordering;

use super::rig::*;
use crate::gen8::cmd::{self, Compare};
use crate::gen8::context::{Descriptor, STATE_OFFSET, hwsp, state};
use crate::gen8::regs;

/// Where another context of the guest's has its image, its ring, and its number.
const OTHER: u64 = DATA + 0x2000;
const OTHER_RING: u64 = DATA + 0x4000;
const OTHER_ID: u32 = 0x21;
/// What a context waits for, and what contexts write.
const GATE: u64 = DATA + 0x800;

/// Commands of a context that stays on the engine until the gate opens.
fn until_open(g: &TestGuest) -> Vec<u32> {
    cmd::semaphore_wait(g.gm(GATE), Compare::Equal, 1).to_vec()
}

fn store(g: &TestGuest, place: u64, value: u32) -> Vec<u32> {
    cmd::store_dword(g.gm(DATA + 4 * place), value).to_vec()
}

/// The other context, with these commands in its ring.
fn other(g: &TestGuest, commands: &[u32]) -> u64 {
    (0u64..).zip(commands).for_each(|(i, d)| g.write32(OTHER_RING + 4 * i, *d));
    for (index, value) in [
        (state::RING_HEAD, 0),
        (state::RING_TAIL, 4 * commands.len() as u32),
        (state::RING_START, g.gm(OTHER_RING) as u32),
        (state::RING_CTL, regs::RING_VALID),
    ] {
        g.write32(OTHER + STATE_OFFSET + 4 * index as u64, value);
    }
    Descriptor::ggtt(g.gm(OTHER) as u32, OTHER_ID).0
}

fn on_the_gpu(g: &TestGuest, contexts: u64) {
    eventually("it is on the engine", || g.vgpu.statistics().submissions == contexts);
}

/// A guest whose context waits on the engine for the gate, and writes 1 to place 0 then.
fn waiting(host: &Host) -> TestGuest {
    let mut g = host.guest();
    g.start();
    let commands = [until_open(&g), store(&g, 0, 1)].concat();
    g.emit(&commands);
    g.submit();
    on_the_gpu(&g, 1);
    g
}

/// Appends stores to a context that waits for the gate: they are on the engine before it opens, and run after what was there.
fn stands_behind(g: &mut TestGuest) {
    let commands = [store(g, 0, 2), store(g, 1, 3)].concat();
    g.emit(&commands);
    g.submit();
    on_the_gpu(g, 2);
    assert_eq!((g.vgpu.statistics().completions, g.read32(DATA)), (0, 0));
    g.write32(GATE, 1);
    g.wait(2);
    assert_eq!((g.read32(DATA), g.read32(DATA + 4)), (2, 3));
}

#[test]
fn more_of_the_same_context_stands_behind_it_and_runs_in_its_order() {
    let host = Host::new();
    let mut g = waiting(&host);
    stands_behind(&mut g);
    assert_eq!(g.csb(), [(1, ID), (0x8002, ID), (0x18, ID)], "it goes on");
    assert_eq!(g.state(state::RING_HEAD), g.tail);
    assert_eq!(host.gpu.resets.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_appended_after_a_submission_of_nothing_new_stands_behind_what_runs() {
    let host = Host::new();
    let mut g = waiting(&host);
    g.submit();
    eventually("it is taken", || g.read32(HWSP + hwsp::CSB_WRITE) == 1);
    stands_behind(&mut g);
    assert_eq!(g.csb(), [(1, ID), (0x8002, ID), (0x8002, ID), (0x18, ID)], "it goes on");
    assert_eq!(g.state(state::RING_HEAD), g.tail);
}

#[test]
fn submissions_of_nothing_without_end_behind_what_runs_keep_nobody_away() {
    const MANY: u64 = 5000;
    let host = Host::new();
    let mut neighbour = host.guest();
    neighbour.start();
    let g = waiting(&host);
    (0..MANY).for_each(|_| g.submit());
    let commands = store(&neighbour, 0, 4);
    neighbour.emit(&commands);
    neighbour.submit();
    (0..MANY).for_each(|_| g.submit());
    assert_eq!((g.vgpu.statistics().submissions, neighbour.read32(DATA)), (1, 0));
    g.write32(GATE, 1);
    neighbour.wait(1);
    eventually("nothing is left", || g.idle());
    assert_eq!((g.read32(DATA), neighbour.read32(DATA)), (1, 4));
    assert_eq!(g.state(state::RING_HEAD), g.tail);
    let last = u64::from(g.read32(HWSP + hwsp::CSB_WRITE));
    assert_eq!(
        g.read32(HWSP + hwsp::CSB + 8 * last),
        0x18,
        "whatever nobody has read, the last entry is of the end"
    );
    let s = g.vgpu.statistics();
    assert_eq!((s.resets, s.refusals), (0, 0), "what there was no room for is dropped, and no more");
}

#[test]
fn what_comes_after_another_context_waits_for_that_though_the_first_runs() {
    let host = Host::new();
    let mut g = waiting(&host);
    let behind = other(&g, &[store(&g, 0, 2), store(&g, 1, 2)].concat());
    g.submit_raw(behind, 0);
    on_the_gpu(&g, 2);
    let commands = store(&g, 0, 3);
    g.emit(&commands);
    g.submit();
    g.write32(GATE, 1);
    g.wait(3);
    assert_eq!((g.read32(DATA), g.read32(DATA + 4)), (3, 2));
    assert_eq!(g.read32(HWSP + hwsp::CSB_WRITE), 5, "six entries: nothing took another's place");
    let entry = |n: u64| g.read32(HWSP + hwsp::CSB + 8 * n + 4);
    assert_eq!([0, 1, 2, 3, 4, 5].map(entry), [ID, ID, OTHER_ID, OTHER_ID, ID, ID]);
}

#[test]
fn context_behind_one_that_never_ends_runs_once_that_was_stopped() {
    let clock = Standing::default();
    let host = Host::with_clock(CONFIG, Box::new(clock.clone()));
    let mut g = waiting(&host);
    let behind = other(&g, &store(&g, 1, 5));
    g.submit_raw(behind, 0);
    on_the_gpu(&g, 2);
    g.reset();
    assert_eq!(g.csb(), [], "neither has more to tell");
    let commands = until_open(&g);
    g.emit(&commands);
    g.submit();
    on_the_gpu(&g, 3);
    g.submit_raw(behind, 0);
    clock.until("it is stopped", || g.vgpu.statistics().overruns == 1);
    eventually("the other runs", || g.read32(DATA + 4) == 5 && g.idle());
    let s = g.vgpu.statistics();
    assert_eq!((s.overruns, s.resets, s.completions), (1, 2, 1));
    assert_eq!(g.csb(), [(1, ID), (2, ID), (0x18, OTHER_ID)], "the hung one is put aside");
}

#[test]
fn reset_of_the_guests_stops_both_and_what_comes_after_it_runs() {
    let host = Host::new();
    let mut g = waiting(&host);
    let commands = store(&g, 1, 7);
    g.emit(&commands);
    g.submit();
    on_the_gpu(&g, 2);
    g.reset();
    g.write32(GATE, 1);
    let commands = store(&g, 2, 8);
    g.run(&commands);
    assert_eq!([0, 4, 8].map(|at| g.read32(DATA + at)), [0, 0, 8]);
    assert_eq!(g.vgpu.statistics().completions, 1);
}

#[test]
fn pause_waits_for_both_and_lets_nothing_more_begin() {
    let host = Host::new();
    let mut g = waiting(&host);
    let behind = other(&g, &store(&g, 1, 9));
    g.submit_raw(behind, 0);
    on_the_gpu(&g, 2);
    let commands = store(&g, 2, 9);
    g.emit(&commands);
    g.submit();
    std::thread::scope(|s| {
        let paused = s.spawn(|| g.vgpu.pause());
        eventually("it is to pause", || g.vgpu.is_paused());
        g.write32(GATE, 1);
        paused.join().unwrap();
    });
    let s = g.vgpu.statistics();
    assert_eq!((s.submissions, s.completions), (2, 2));
    assert_eq!([0, 4, 8].map(|at| g.read32(DATA + at)), [1, 9, 0]);
    g.vgpu.resume();
    g.wait(3);
    assert_eq!(g.read32(DATA + 8), 9);
}

#[test]
fn destroyed_with_two_on_the_engine_it_leaves_nothing_and_its_neighbour_draws() {
    let host = Host::new();
    let mut neighbour = host.guest();
    neighbour.start();
    let used = host.world.used();
    let mut g = waiting(&host);
    let commands = store(&g, 1, 7);
    g.emit(&commands);
    g.submit();
    on_the_gpu(&g, 2);
    host.mediator().destroy(g.vgpu.id()).unwrap();
    let commands = store(&neighbour, 0, 4);
    neighbour.run(&commands);
    assert_eq!(neighbour.read32(DATA), 4);
    // Shadows that the neighbour needed for its first work, and nothing of the other's.
    let own = host.world.used() - used;
    assert!(own <= 0x20, "{own} frames are held");
}

#[test]
fn each_of_many_short_contexts_runs_once_however_the_ends_fall() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let mut rng = fastrand::Rng::with_seed(8);
    let (mut given, mut wanted) = (0, [0u32; 4]);
    for _ in 0..2000 {
        // Of what is appended some goes together, and then there are fewer.
        eventually("there is room", || g.vgpu.statistics().completions + 5 > given || g.idle());
        let place = rng.usize(..4);
        for _ in 0..rng.usize(0..3) {
            let at = g.gm(DATA + 8 * place as u64);
            let commands = cmd::atomic(at, cmd::AtomicOp::Inc, cmd::AtomicSize::Dword, 0, 0);
            g.emit(&commands);
            wanted[place] += 1;
        }
        g.submit();
        given += 1;
        if rng.u8(..8) == 0 {
            eventually("all is done", || g.idle());
            given = g.vgpu.statistics().completions;
        }
    }
    g.submit();
    eventually("all is done", || g.idle());
    assert_eq!([0, 8, 16, 24].map(|at| g.read32(DATA + at)), wanted);
    let s = g.vgpu.statistics();
    assert_eq!((s.dropped, s.resets, s.refusals), (0, 0, 0));
    assert_eq!(g.state(state::RING_HEAD), g.tail);
}
