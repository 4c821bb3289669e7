//! Three domains that do to each other whatever the interface has, at random, on the model and on a naive second one: grant, hand
//! on, map, copy, transfer, revoke, swap, change version, make page tables, balloon, lose a process and die, with calls that
//! fail.
//!
//! After every step answers, contents, marks, references, types, owners and what CPUs and devices see are compared, and the
//! model's own books are audited. A life is told by its seed.

mod naive;
mod world;

use self::naive::Mutant;
use self::world::World;

/// Lives of a run, and steps of a life.
const LIVES: u64 = 300;
const STEPS: usize = 100;
/// Lives in which a wrong rule must be found.
const SEARCH: u64 = 2000;

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
    for mutant in Mutant::ALL {
        assert!((0..SEARCH).any(|seed| life(seed, Some(mutant)).is_err()), "{mutant:?}");
    }
}
