//! Three domains that grant, map, copy, transfer, revoke, balloon and die at random, on the model and on a naive second one.
//!
//! After every step answers, marks, references, owners and what CPUs and devices see are compared, and the model's own books are
//! audited. A life is told by its seed.

mod naive;
mod world;

use self::naive::Mutant;
use self::world::World;

/// Lives of a run, and steps of a life.
const LIVES: u64 = 300;
const STEPS: usize = 80;

fn life(seed: u64, mutant: Option<Mutant>) -> Result<(), String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(&mut rng, mutant);
    let mut done = Vec::new();
    for _ in 0..STEPS {
        let step = world.choose(&mut rng);
        done.push(format!("{step:?}"));
        let fine = world.step(&step).and_then(|()| world.compare());
        if let Err(why) = fine {
            let tail = done.len().saturating_sub(12);
            return Err(format!("seed {seed}, step {}: {why}\n{}", done.len(), done[tail..].join("\n")));
        }
    }
    world.close()
}

#[test]
fn three_domains_do_as_the_naive_model_says() {
    for seed in 0..LIVES {
        if let Err(why) = life(seed, None) {
            panic!("{why}");
        }
    }
}

#[test]
fn a_wrong_rule_is_found() {
    for mutant in [
        Mutant::ReadonlyIsIgnored,
        Mutant::AThirdMappingIsAllowed,
        Mutant::RevokeSwitchesOne,
        Mutant::BalloonFreesAtOnce,
        Mutant::DeathRevokesNothing,
        Mutant::StandInIsNotHeld,
    ] {
        assert!((0..LIVES).any(|seed| life(seed, Some(mutant)).is_err()), "{mutant:?}");
    }
}
