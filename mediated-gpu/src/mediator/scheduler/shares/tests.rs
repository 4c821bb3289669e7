//! Ten seconds of virtual time, counted, against what each policy says.

use proptest::prelude::*;

use super::*;

const RUN: Duration = Duration::from_secs(10);

/// Somebody who uses the engine.
#[derive(Clone, Copy, Debug)]
struct Client {
    weight: u32,
    cap: u32,
    /// Of one turn.
    cost: Duration,
    /// From one turn's beginning to the next at the least; `None`: there is always more.
    every: Option<Duration>,
}

fn greedy(cost_us: u64) -> Client {
    Client { weight: 1, cap: 100, cost: Duration::from_micros(cost_us), every: None }
}

struct Run {
    had: Vec<Duration>,
    /// Nobody had the engine although somebody had work.
    unused: Duration,
    /// The longest that somebody with work waited for a turn.
    waited: Vec<Duration>,
}

/// Plays it, turn by turn.
fn play(policy: Policy, slice: Duration, clients: &[Client]) -> Run {
    let mut shares = Shares::new(policy, slice);
    let id = |n: usize| VgpuId(u32::try_from(n).unwrap());
    for (n, c) in clients.iter().enumerate() {
        shares.set(id(n), Share { weight: c.weight, cap: c.cap, deadline: None }, Duration::ZERO);
    }
    let none = vec![Duration::ZERO; clients.len()];
    let mut run = Run { had: none.clone(), unused: Duration::ZERO, waited: none.clone() };
    // Turns that are due, when the next one comes, and since when there is work.
    let mut due = vec![0u64; clients.len()];
    let mut comes = none.clone();
    let mut since = none;
    let mut now = Duration::ZERO;
    while now < RUN {
        for (n, c) in clients.iter().enumerate() {
            while due[n] == 0 && c.every.is_none() || c.every.is_some() && comes[n] <= now {
                if due[n] == 0 {
                    since[n] = comes[n].max(since[n]);
                    shares.set_busy(id(n), true, comes[n]);
                }
                due[n] += 1;
                comes[n] += c.every.unwrap_or_default();
            }
        }
        let wake = || (0..clients.len()).filter(|n| clients[*n].every.is_some()).map(|n| comes[n]).min();
        match shares.next(now) {
            Next::Run(VgpuId(n)) => {
                let n = n as usize;
                run.waited[n] = run.waited[n].max(now - since[n]);
                now += clients[n].cost;
                run.had[n] += clients[n].cost;
                shares.charge(id(n), clients[n].cost, now);
                since[n] = now;
                due[n] -= 1;
                if clients[n].every.is_some() && due[n] == 0 {
                    shares.set_busy(id(n), false, now);
                } else if clients[n].every.is_none() {
                    due[n] = 1;
                }
            }
            Next::At(time) => {
                assert!(time > now, "it waits for a time that has come");
                let until = wake().map_or(time, |w| w.min(time));
                run.unused += until - now;
                now = until;
            }
            Next::Nobody => now = wake().unwrap(),
        }
    }
    run
}

/// What a policy says, if time were a fluid: each one's part of the engine.
fn fluid(policy: Policy, clients: &[Client]) -> Vec<f64> {
    let wants = |c: &Client| {
        let demand = c.every.map_or(1.0, |e| c.cost.as_secs_f64() / e.as_secs_f64());
        demand.min(f64::from(c.cap) / 100.0)
    };
    let weights: f64 = clients.iter().map(|c| f64::from(c.weight)).sum();
    match policy {
        Policy::EqualShare => clients.iter().map(|c| wants(c).min(1.0 / clients.len() as f64)).collect(),
        Policy::FixedShare => {
            clients.iter().map(|c| wants(c).min(f64::from(c.weight) / weights.max(16.0))).collect()
        }
        Policy::BestEffort => {
            // Who wants less than its part has what it wants; the others divide the rest, until all want more.
            let mut has = vec![None; clients.len()];
            loop {
                let open = || (0..clients.len()).filter(|n| has[*n].is_none());
                let rest = 1.0 - has.iter().flatten().sum::<f64>();
                let weights: f64 = open().map(|n| f64::from(clients[n].weight)).sum();
                let part = |n: usize| rest * f64::from(clients[n].weight) / weights;
                let content: Vec<_> = open().filter(|n| wants(&clients[*n]) <= part(*n)).collect();
                if content.is_empty() {
                    return (0..clients.len()).map(|n| has[n].unwrap_or_else(|| part(n))).collect();
                }
                content.into_iter().for_each(|n| has[n] = Some(wants(&clients[n])));
            }
        }
    }
}

/// Within 3 % of what the policy says, and one turn.
#[track_caller]
fn agrees(policy: Policy, clients: &[Client], run: &Run) {
    for (n, wanted) in fluid(policy, clients).into_iter().enumerate() {
        let had = run.had[n].as_secs_f64() / RUN.as_secs_f64();
        let longest = clients.iter().map(|c| c.cost).max().unwrap().as_secs_f64();
        let slack = 0.03 * wanted + longest / RUN.as_secs_f64();
        assert!((had - wanted).abs() <= slack, "{policy}: {n} had {had:.4}, is due {wanted:.4}: {clients:?}");
    }
}

const SLICE: Duration = Duration::from_millis(2);
const POLICIES: [Policy; 3] = [Policy::BestEffort, Policy::EqualShare, Policy::FixedShare];

#[test]
fn greedy_neighbours_of_different_batches_have_the_same() {
    let clients = [greedy(100), greedy(900), greedy(7000)];
    for policy in [Policy::BestEffort, Policy::EqualShare] {
        agrees(policy, &clients, &play(policy, SLICE, &clients));
    }
}

#[test]
fn what_an_idle_one_leaves_is_used_by_best_effort_only() {
    let idle = Client { every: Some(Duration::from_millis(500)), ..greedy(1000) };
    let clients = [idle, greedy(500), greedy(500)];
    for policy in POLICIES {
        let run = play(policy, SLICE, &clients);
        agrees(policy, &clients, &run);
        let used: Duration = run.had.iter().sum();
        match policy {
            Policy::BestEffort => assert!(run.unused.is_zero() && used >= RUN),
            _ => assert!(run.unused > RUN / 4, "{policy}: {:?}", run.unused),
        }
    }
}

#[test]
fn who_runs_to_its_deadline_each_time_has_no_more_than_its_share_and_nobody_less() {
    let hostile = greedy(100_000);
    let clients = [hostile, greedy(400), greedy(1500)];
    for policy in POLICIES {
        let run = play(policy, SLICE, &clients);
        agrees(policy, &clients, &run);
        for waited in &run.waited[1..] {
            // The third's turn, begun within its slice, before and after.
            let most = hostile.cost + 2 * (SLICE + clients[2].cost);
            assert!(policy != Policy::BestEffort || *waited <= most, "{waited:?}");
        }
    }
}

#[test]
fn a_fixed_share_does_not_change_with_the_neighbours() {
    let of = |weight, cost| Client { weight, ..greedy(cost) };
    let had = |clients: &[Client]| {
        let run = play(Policy::FixedShare, SLICE, clients);
        agrees(Policy::FixedShare, clients, &run);
        run.had[0].as_secs_f64()
    };
    let alone = had(&[of(4, 500)]);
    let crowd = had(&[of(4, 500), of(8, 2500), of(4, 100)]);
    assert!((alone - 2.5).abs() < 0.05 && (crowd - alone).abs() < 0.05, "{alone} {crowd}");
}

#[test]
fn a_paused_one_is_not_counted() {
    let mut shares = Shares::new(Policy::EqualShare, SLICE);
    for n in 1..=4 {
        shares.set(VgpuId(n), Share { weight: n, cap: 100, deadline: None }, Duration::ZERO);
    }
    assert_eq!(shares.limit(VgpuId(1)), Some(250_000));
    shares.pause(VgpuId(2), true, Duration::ZERO);
    shares.remove(VgpuId(3), Duration::ZERO);
    assert_eq!(shares.limit(VgpuId(1)), Some(500_000));
    shares.set_busy(VgpuId(2), true, Duration::ZERO);
    assert_eq!(shares.next(Duration::from_secs(1)), Next::Nobody);
    shares.pause(VgpuId(2), false, Duration::from_secs(1));
    assert_eq!(shares.next(Duration::from_secs(1)), Next::Run(VgpuId(2)));
}

#[test]
fn the_engine_stays_with_who_has_it_for_a_slice() {
    let turns = |slice: u64| {
        let mut shares = Shares::new(Policy::BestEffort, Duration::from_millis(slice));
        for n in [1, 2] {
            shares.set(VgpuId(n), Share { weight: 1, cap: 100, deadline: None }, Duration::ZERO);
            shares.set_busy(VgpuId(n), true, Duration::ZERO);
        }
        let mut now = Duration::ZERO;
        (0..12).fold(String::new(), |order, _| {
            let Next::Run(id) = shares.next(now) else { panic!("both have work") };
            now += Duration::from_millis(1);
            shares.charge(id, Duration::from_millis(1), now);
            format!("{order}{}", id.0)
        })
    };
    assert_eq!(turns(1), "121212121212");
    assert_eq!(turns(3), "111222111222");
}

fn client() -> impl Strategy<Value = Client> {
    let every = prop::option::weighted(0.3, 10_000u64..200_000);
    (1u32..=8, 10u32..=100, 50u64..6000, every).prop_map(|(weight, cap, cost, every)| Client {
        weight,
        cap,
        every: every.map(Duration::from_micros),
        ..greedy(cost)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn shares_are_those_of_the_fluid_model(clients in prop::collection::vec(client(), 1..7), policy in 0usize..3, slice in 1u64..5) {
        let run = play(POLICIES[policy], Duration::from_millis(slice), &clients);
        agrees(POLICIES[policy], &clients, &run);
    }
}

#[test]
fn one_is_alone_while_no_other_has_work_and_nothing_limits_it() {
    let (a, b, now) = (VgpuId(1), VgpuId(2), Duration::ZERO);
    let mut shares = Shares::new(Policy::BestEffort, Duration::from_millis(2));
    let share = Share { weight: 1, cap: 100, deadline: None };
    for id in [a, b] {
        shares.set(id, share, now);
    }
    shares.set_busy(a, true, now);
    assert!(shares.is_alone(a));
    shares.set_busy(b, true, now);
    assert!(!shares.is_alone(a), "somebody waits");
    shares.pause(b, true, now);
    assert!(shares.is_alone(a), "who is paused waits for nothing");
    shares.set(a, Share { cap: 99, ..share }, now);
    assert!(!shares.is_alone(a), "what it has must be counted first");
    for policy in [Policy::EqualShare, Policy::FixedShare] {
        let mut shares = Shares::new(policy, Duration::from_millis(2));
        shares.set(a, share, now);
        assert!(!shares.is_alone(a));
    }
    assert!(!shares.is_alone(VgpuId(3)), "nobody knows it");
}
