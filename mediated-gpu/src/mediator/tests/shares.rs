//! Shares on the whole way, from a guest's submission to its interrupt, in virtual time: a context costs what its guest says,
//! nothing else costs anything, and every run is the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::rig::*;
use crate::gen8::cmd;
use crate::mediator::scheduler::{Clock, Queue};
use crate::mediator::{Config, Policy, Share};
use crate::physical::Engine;

const RUN: Duration = Duration::from_secs(10);

/// Time that passes when the test says so, or when everybody waits for it.
#[derive(Clone, Default)]
struct Virtual(Arc<Time>);

/// Something that happens.
type Event = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Time {
    nanos: AtomicU64,
    /// What happens at a time.
    then: Mutex<Vec<(Duration, Event)>>,
}

impl Virtual {
    fn pass(&self, time: Duration) {
        self.0.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::SeqCst);
    }

    /// Takes the next thing that happens up to a time; for ever, without one.
    fn next(&self, until: Option<Duration>) -> Option<(Duration, Event)> {
        let mut then = self.0.then.lock();
        let first = (0..then.len()).min_by_key(|n| then[*n].0);
        first.filter(|n| until.is_none_or(|u| then[*n].0 <= u)).map(|n| then.remove(n))
    }

    fn at(&self, time: Duration, what: impl FnOnce() + Send + 'static) {
        self.0.then.lock().push((time, Box::new(what)));
    }
}

impl Clock for Virtual {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.nanos.load(Ordering::SeqCst))
    }

    fn wait(&self, changed: &Condvar, queue: &mut MutexGuard<'_, Queue>, until: Option<Duration>) -> bool {
        match (self.next(until), until) {
            (Some((time, what)), _) => {
                self.pass(time.saturating_sub(self.now()));
                MutexGuard::unlocked(queue, what);
                false
            }
            (None, Some(until)) => {
                self.pass(until.saturating_sub(self.now()));
                true
            }
            (None, None) => {
                changed.wait(queue);
                false
            }
        }
    }
}

/// What a guest does all the time.
#[derive(Clone, Copy)]
enum Habit {
    /// Contexts that take so long, one after the other.
    Greedy(Duration),
    /// One now and then.
    Idle(Duration, Duration),
    /// Contexts that never end, and a reset each time one was stopped.
    Hostile,
}

/// What came of one.
struct Played {
    /// Its part of the engine.
    part: f64,
    /// The longest from a submission to its interrupt.
    slowest: Duration,
    resets: u64,
}

/// What a guest's interrupt handler knows.
struct Driver {
    guest: TestGuest,
    habit: Habit,
    clock: Virtual,
    submitted: Duration,
    slowest: Arc<Mutex<Duration>>,
}

impl Driver {
    /// Takes note of what ended, and goes on until the time is over. Called where time stands still but for us.
    fn interrupt(&mut self) {
        self.guest.set_reg(0x44308, u32::MAX);
        if let Habit::Greedy(cost) | Habit::Idle(cost, _) = self.habit {
            self.clock.pass(cost);
            // What others did meanwhile.
            while let Some((_, what)) = self.clock.next(Some(self.clock.now())) {
                what();
            }
        }
        let now = self.clock.now();
        let before = *self.slowest.lock();
        *self.slowest.lock() = before.max(now - self.submitted);
        if now >= RUN {
            return;
        }
        match self.habit {
            Habit::Greedy(_) => self.submit(),
            Habit::Hostile => {
                self.guest.set_reg(0x941c, crate::gen8::regs::GRDOM_BLT);
                self.guest.init_engine();
                self.submit();
            }
            Habit::Idle(_, every) => {
                self.submitted += every;
                let (vgpu, descriptor) = (self.guest.vgpu.clone(), self.guest.descriptor().0);
                self.store();
                self.clock.at(self.submitted, move || {
                    for value in [0, 0, descriptor >> 32, descriptor & 0xffff_ffff] {
                        vgpu.mmio_write(BCS + 0x230, 4, value);
                    }
                });
            }
        }
    }

    fn store(&mut self) {
        let at = self.guest.gm(DATA);
        self.guest.emit(&cmd::store_dword(at, 1));
    }

    fn submit(&mut self) {
        self.submitted = self.clock.now();
        self.store();
        self.guest.submit();
    }
}

/// Ten seconds of virtual time.
fn play(policy: Policy, guests: &[(Habit, Share)]) -> Vec<Played> {
    let clock = Virtual::default();
    let host = Host::with_clock(Config { policy, ..CONFIG }, Box::new(clock.clone()));
    let mut hostile = Vec::new();
    let mut vgpus = Vec::new();
    let mut kept = Vec::new();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    for (habit, share) in guests {
        let mut guest = host.guest();
        guest.start();
        guest.vgpu.set_share(*share);
        guest.vgpu.pause();
        if matches!(habit, Habit::Hostile) {
            hostile.push(guest.vgpu.id());
        }
        let slowest = Arc::new(Mutex::new(Duration::ZERO));
        let (vgpu, handler) = (guest.vgpu.clone(), guest.on_msi.clone());
        let submitted = Duration::ZERO;
        let mut driver =
            Driver { guest, habit: *habit, clock: clock.clone(), submitted, slowest: slowest.clone() };
        driver.submit();
        let gate = gate.clone();
        *handler.lock() = Some(Box::new(move || {
            drop(gate.lock());
            driver.interrupt();
        }));
        vgpus.push(vgpu);
        kept.push((handler, slowest));
    }
    let scheduler = Arc::downgrade(&host.mediator().scheduler);
    let hangs = move |e: Engine| {
        let current = scheduler.upgrade().and_then(|s| s.current(e));
        current.is_some_and(|id| hostile.contains(&id))
    };
    assert!(host.gpu.hangs.set(Box::new(hangs)).is_ok());
    vgpus.iter().for_each(|v| v.resume());
    drop(closed);
    eventually("the time is over, and nobody has work", || {
        clock.now() >= RUN && vgpus.iter().all(|v| v.mmio_read(BCS + 0x234, 4) == 0)
    });
    let played = vgpus.iter().zip(&kept).map(|(vgpu, (_, slowest))| Played {
        part: vgpu.usage(Engine::Bcs).had.as_secs_f64() / RUN.as_secs_f64(),
        slowest: *slowest.lock(),
        resets: vgpu.statistics().resets,
    });
    let played = played.collect();
    // The handlers keep their vGPUs.
    kept.into_iter().for_each(|(handler, _)| *handler.lock() = None);
    played
}

const MS: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_millis(50);

fn share(weight: u32) -> Share {
    Share { weight, cap: 100, deadline: Some(DEADLINE) }
}

#[test]
fn shares_hold_over_ten_seconds_with_greedy_idle_and_hostile_neighbours() {
    let guests = [
        (Habit::Greedy(MS * 7 / 10), share(4)),
        (Habit::Greedy(MS * 3), share(8)),
        (Habit::Idle(MS, MS * 100), share(2)),
        (Habit::Hostile, share(2)),
    ];
    // The idle one wants a hundredth. Under best effort the rest goes 4 : 8 : 2.
    for (policy, due) in [
        (Policy::BestEffort, [0.99 * 4.0 / 14.0, 0.99 * 8.0 / 14.0, 0.01, 0.99 * 2.0 / 14.0]),
        (Policy::EqualShare, [0.25, 0.25, 0.01, 0.25]),
        (Policy::FixedShare, [0.25, 0.5, 0.01, 0.125]),
    ] {
        let played = play(policy, &guests);
        for (n, (played, due)) in played.iter().zip(due).enumerate() {
            let slack = 0.03 * due + DEADLINE.as_secs_f64() / RUN.as_secs_f64();
            assert!(
                (played.part - due).abs() < slack,
                "{policy}: {n} had {:.4}, is due {due:.4}",
                played.part
            );
        }
        assert!(played[3].resets > 10 && played[..3].iter().all(|p| p.resets == 0), "{policy}");
    }
}

#[test]
fn a_neighbour_of_endless_batches_waits_for_a_deadline_and_a_slice_at_most() {
    let cost = MS / 2;
    let played = play(Policy::BestEffort, &[(Habit::Greedy(cost), share(1)), (Habit::Hostile, share(1))]);
    let most = DEADLINE + CONFIG.slice + cost;
    assert!(played[0].slowest <= most, "{:?}", played[0].slowest);
    assert!(played[0].slowest >= DEADLINE && played[1].resets > 10, "it was put to the test");
}

#[test]
fn a_cap_holds_although_nobody_else_has_work() {
    let capped = Share { cap: 30, ..share(1) };
    for policy in [Policy::BestEffort, Policy::FixedShare, Policy::EqualShare] {
        let played = play(policy, &[(Habit::Greedy(MS), Share { weight: 16, ..capped })]);
        assert!((played[0].part - 0.3).abs() < 0.009, "{policy}: {}", played[0].part);
    }
}
