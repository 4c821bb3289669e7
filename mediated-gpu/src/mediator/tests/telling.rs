//! What a guest is told late: its work does not wait for that, and whoever asks is told.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::rig::*;
use crate::gen8::cmd::{self, Compare};
use crate::mediator::Task;
use crate::physical::Engine;

/// The engine's user interrupt is masked, as it is to i915 while nobody waits.
fn mask(g: &TestGuest) {
    g.set_reg(BCS + 0xa8, !0x100_0000);
}

/// The same, and the guest has just been interrupted.
fn nobody_waits(g: &TestGuest) {
    mask(g);
    g.vgpu.state().lock().hold_what_may_wait();
}

/// Runs a context, and waits until it is complete without asking the engine.
fn run_and_ask_nothing(g: &mut TestGuest, value: u32) {
    let before = g.vgpu.statistics().completions;
    g.emit(&cmd::store_dword(g.gm(DATA), value));
    g.emit(&[cmd::MI_USER_INTERRUPT, 0]);
    g.submit();
    eventually("the context completes", || {
        g.vgpu.statistics().completions > before && !g.vgpu.state().lock().engine(Engine::Bcs).running()
    });
}

#[test]
fn an_end_that_is_held_is_told_to_who_asks_the_engine() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    nobody_waits(&g);
    run_and_ask_nothing(&mut g, 7);
    assert_eq!((g.read32(DATA), g.csb(), g.msis.load(Ordering::SeqCst)), (7, vec![], 0));
    assert_eq!(g.vgpu.statistics().held, 1);
    assert!(g.idle());
    assert_eq!((g.csb(), g.msis.load(Ordering::SeqCst)), (vec![(1, ID), (0x18, ID)], 1));
}

#[test]
fn an_end_that_is_held_is_told_when_its_time_has_come_and_when_the_vgpu_is_paused() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    nobody_waits(&g);
    run_and_ask_nothing(&mut g, 7);
    assert_eq!(g.csb(), []);
    host.mediator().times.set(g.vgpu.id(), Task::Tell, Instant::now());
    eventually("it is told", || g.csb().len() == 2 && g.msis.load(Ordering::SeqCst) == 1);
    nobody_waits(&g);
    run_and_ask_nothing(&mut g, 8);
    assert_eq!(g.csb().len(), 2);
    g.vgpu.pause();
    assert_eq!((g.csb().len(), g.read32(DATA)), (4, 8));
}

/// Runs a context that waits, with more behind it, of which the guest is not told.
fn with_more_that_is_held(host: &Host) -> TestGuest {
    let mut g = host.guest();
    g.start();
    mask(&g);
    let commands = cmd::semaphore_wait(g.gm(DATA + 0x800), Compare::Equal, 1);
    g.emit(&commands);
    g.submit();
    eventually("it runs", || g.csb() == [(1, ID)]);
    g.vgpu.state().lock().hold_more(Engine::Bcs);
    g.emit(&cmd::store_dword(g.gm(DATA), 7));
    g.submit();
    eventually("it is taken", || g.vgpu.statistics().submissions == 2);
    assert_eq!((g.csb().len(), g.msis.load(Ordering::SeqCst)), (1, 0));
    g
}

#[test]
fn more_that_is_held_is_told_when_the_engine_is_done_with_what_was_before_it() {
    let host = Host::new();
    let g = with_more_that_is_held(&host);
    // So that the rest is not told by its end.
    g.vgpu.state().lock().hold_what_may_wait();
    g.write32(DATA + 0x800, 1);
    eventually("it is told", || g.csb().get(1) == Some(&(0x8002, ID)) && g.msis.load(Ordering::SeqCst) == 1);
    eventually("it goes on with that", || g.read32(DATA) == 7);
}

#[test]
fn more_that_is_held_is_told_in_time_though_what_was_before_it_goes_on() {
    let host = Host::new();
    let g = with_more_that_is_held(&host);
    host.mediator().times.set(g.vgpu.id(), Task::Tell, Instant::now());
    eventually("it is told", || g.csb().len() == 2 && g.msis.load(Ordering::SeqCst) == 1);
    assert_eq!((g.vgpu.statistics().completions, g.read32(DATA)), (0, 0));
    g.write32(DATA + 0x800, 1);
    eventually("it goes on", || g.read32(DATA) == 7);
}
