//! Lives among failures: operations that are refused, calls that fail, flushes that are late. Nothing is lost, nothing is
//! used before its flush, and when the failures have passed everything is given back.

mod world;

use mock_xen::{Fault, FaultPlan, Profile, Rule, Site, When};
use pviommu::{BfnSpace, Config, Draining, EVERYTHING, MapError, Mapped};
use world::{FRAMES, KINDS, Kind, World, world_with};
use xen_ioreq::{Bfn, Errno, Gfn};

/// What goes wrong, about how often.
fn plan(seed: u64) -> FaultPlan {
    let rule = |site, one_in, errno| Rule { site, when: When::OneIn(one_in), fault: Fault::Error(errno) };
    let rules = vec![
        rule(Site::IommuOp(None), 40, Errno::EIO),
        rule(Site::IommuCall, 50, Errno::ENOMEM),
        rule(Site::IotlbFlush, 8, Errno::EIO),
        rule(Site::ForeignMap, 20, Errno::ENOMEM),
    ];
    FaultPlan { rules, seed }
}

/// Lets go of what can be let go of; what cannot is kept for the next time.
fn release(w: &World, waiting: &mut Vec<Draining>) {
    let (quiesced, held) = w.client.quiesce(std::mem::take(waiting), &w.device);
    *waiting = held;
    waiting.extend(w.client.release(quiesced).failed.into_iter().map(|(d, _)| d));
}

fn live(seed: u64, kind: Kind) -> u64 {
    // So many bus frames that some can be left for good.
    let bfns = BfnSpace::new(Bfn(1 << 20)..Bfn((1 << 20) + 4096));
    let w = world_with(kind, Config { bfns, ..Config::default() });
    w.machine.inject(plan(seed));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held: Vec<(Gfn, Mapped)> = Vec::new();
    let mut waiting: Vec<Draining> = Vec::new();
    let mut absent = 0;
    for _ in 0..1500 {
        match rng.u8(0..8) {
            0..3 => {
                let gfns: Vec<Gfn> = (0..rng.u64(1..6)).map(|_| Gfn(rng.u64(0..FRAMES))).collect();
                for (gfn, mapped) in gfns.iter().zip(w.guest.map(&gfns)) {
                    match mapped {
                        Ok(m) => {
                            w.device.write(m.bfn(), rng.u8(..));
                            held.push((*gfn, m));
                        }
                        // A hole, a failure, or what waits for its release.
                        Err(MapError::Frame { .. } | MapError::Call { .. } | MapError::Draining { .. }) => {}
                        Err(e) => panic!("seed {seed} {kind:?}: {e}"),
                    }
                }
            }
            3..5 => {
                if !held.is_empty() {
                    waiting.extend(held.swap_remove(rng.usize(0..held.len())).1.put());
                }
            }
            5 => {
                let gfn = Gfn(rng.u64(0..FRAMES));
                if w.machine.references(w.guest.domid(), gfn).is_ok() {
                    w.balloon_out(gfn);
                    absent += 1;
                    let known = held.iter().find(|(g, _)| *g == gfn).filter(|_| rng.bool());
                    w.guest.notice(known.map_or(EVERYTHING, |(_, m)| m.bfn().0));
                } else {
                    w.populate(gfn);
                    absent -= 1;
                }
            }
            6 => {
                let found = if rng.bool() { w.guest.sweep(16) } else { w.guest.take_draining() };
                // On an error it is found the next time.
                let stale = found.unwrap_or_default();
                let gone: Vec<Bfn> = stale.iter().filter(|d| d.ends_use()).map(Draining::bfn).collect();
                held.retain(|(_, m)| !gone.contains(&m.bfn()));
                waiting.extend(stale);
            }
            _ => release(&w, &mut waiting),
        }
    }
    let met = w.machine.faults_met();
    w.machine.inject(FaultPlan::default());
    held.clear();
    waiting.extend(w.guest.die());
    for _ in 0..3 {
        waiting.extend(w.guest.take_draining().unwrap());
        release(&w, &mut waiting);
    }
    assert!(waiting.is_empty() && w.guest.is_empty(), "seed {seed} {kind:?}: {waiting:?}");
    // What a late flush has kept goes with the next one.
    let (domid, server) = w.toolstack.guest();
    let last = w.client.attach(domid, server).unwrap();
    let m = last.map_one(Gfn(0)).unwrap();
    let (quiesced, _) = w.client.quiesce(m.put(), &w.device);
    assert_eq!(w.client.release(quiesced).mappings, 1);
    w.machine.destroy_domain(domid).unwrap();
    assert_eq!(w.come_back(), absent, "seed {seed} {kind:?}");
    w.machine.assert_clean();
    met
}

#[test]
fn whatever_fails_no_frame_is_lost_and_no_bus_frame_is_used_too_early() {
    for kind in KINDS {
        let met: u64 = (0..16).map(|seed| live(seed, kind)).sum();
        assert!(met > 60, "{kind:?}: only {met} failures");
    }
}

/// A lookup that was carried out though its call failed keeps its reference until the domain ends, or until the frame is
/// looked up again; that is the hypervisor's doing, and the ledger's matter.
#[test]
fn a_call_that_fails_before_anything_is_done_leaves_nothing() {
    for kind in KINDS.into_iter().filter(|k| k.0 != Profile::Stock) {
        let w = world_with(kind, Config::default());
        w.machine.inject(FaultPlan::one(Site::IommuCall, When::Always, Fault::Error(Errno::ENOMEM)));
        assert!(w.guest.map(&[Gfn(1), Gfn(2)]).iter().all(|r| matches!(r, Err(MapError::Call { .. }))));
        w.machine.inject(FaultPlan::default());
        assert_eq!([1, 2].map(|g| w.machine.references(w.guest.domid(), Gfn(g))), [Ok(1); 2]);
        assert!(w.guest.is_empty());
    }
}
