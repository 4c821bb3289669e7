//! Random lives of two guests and their emulators, on the model hypervisor and by a second, naive model.
//!
//! A life is a list of steps drawn from a seed. After every step everything is compared: what each call answered, who owns each
//! frame, its references and M2B entries, free frames and charged pages, who was told, what devices get to. The steps of a life
//! that fails are thinned out as far as it still fails.
//!
//! `MOCK_XEN_SEED=0x… cargo test -p mock-xen NAME` lives one life again; `MOCK_XEN_STEPS=n` makes each test so many steps long.

mod act;
mod book;
mod calls;
mod compare;
mod mutants;
mod step;
mod world;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fastrand::Rng;
use xen_ioreq::Errno;

use self::mutants::Mutant;
use self::step::{Op, Step};
use self::world::World;
use crate::{Config, Iommu, Profile};

/// Steps of one life.
const LIFE: usize = 1000;

/// The two do not agree.
fn disagree(what: String) -> ! {
    // Without a word of the panic hook: it is told once, by the test.
    resume_unwind(Box::new(what))
}

#[track_caller]
fn agree<T: PartialEq + Debug + ?Sized>(what: &str, machine: &T, book: &T) {
    if machine != book {
        disagree(format!("{what}:\n machine {machine:?}\n book    {book:?}"));
    }
}

/// Sub-operations (7: unknown ones) and their statuses, each as often as it was met.
type Met = BTreeMap<(u16, i32), u64>;

/// Lives through `steps`. Tells what was met; or at which step it failed, and how.
fn live(config: &Config, mutant: Option<Mutant>, steps: &[Step]) -> Result<Met, (usize, String)> {
    let mut at = 0;
    let life = || {
        let mut world = World::new(config, mutant);
        world.compare();
        for (i, step) in steps.iter().enumerate() {
            at = i;
            world.act(step);
            world.compare();
            if i % 64 == 0 {
                agree("the books", &world.machine.audit(), &Vec::new());
            }
        }
        world.end();
        world.met
    };
    catch_unwind(AssertUnwindSafe(life)).map_err(|payload| {
        let text = payload.downcast::<String>().map(|s| *s);
        let text = text.or_else(|p| p.downcast::<&str>().map(|s| (*s).to_owned()));
        (at, text.unwrap_or_else(|_| "it panics".to_owned()))
    })
}

/// A small machine whose limits are met.
fn limits(config: &Config) -> Config {
    let frames = config.frames.min(1024);
    Config { frames, xen_frames: 8, bfn_bits: 30, max_order: 2, preempt_after: 3, ..config.clone() }
}

fn steps(seed: u64, tight: bool) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    (0..LIFE).map(|_| step::step(&mut rng, tight)).collect()
}

/// Throws out of a list what is not needed for it to fail, in pieces that get smaller. `fails` tells how much of it, from the
/// start, was needed.
fn thin_out<T: Clone>(mut list: Vec<T>, fails: impl Fn(&[T]) -> Option<usize>) -> Vec<T> {
    let mut size = list.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < list.len() {
            let mut fewer = list.clone();
            fewer.drain(at..(at + size).min(list.len()));
            match fails(&fewer) {
                None => at += size,
                Some(needed) => {
                    fewer.truncate(needed);
                    list = fewer;
                }
            }
        }
        size /= 2;
    }
    list
}

/// The fewest steps, and operations of each, that still fail as far as throwing some out finds them.
fn shorten(config: &Config, mutant: Option<Mutant>, steps: &[Step]) -> Vec<Step> {
    let fails = |steps: &[Step]| live(config, mutant, steps).err().map(|(last, _)| last + 1);
    let mut few = thin_out(steps.to_vec(), fails);
    for i in 0..few.len() {
        if let Step::Iommu { who, ops, end } = few[i].clone() {
            let with = |ops: &[Op]| {
                let mut steps = few.clone();
                steps[i] = Step::Iommu { who, ops: ops.to_vec(), end };
                steps
            };
            let ops = thin_out(ops, |ops| fails(&with(ops)).map(|_| ops.len()));
            few = with(&ops);
        }
    }
    few
}

/// Steps in which everything is met that can be met.
const ENOUGH: usize = 40_000;

/// Sub-operations and statuses that are to be met.
fn expected(config: &Config) -> Vec<(u16, i32)> {
    use Errno as E;
    const OK: E = E(0);
    let (draft, xs) = (config.profile == Profile::Draft, config.profile == Profile::Xs);
    let controls = !matches!(config.iommu, Iommu::Absent | Iommu::Passthrough);
    let rows: [(bool, u16, &[E]); 11] = [
        (draft, 7, &[E::ENOSYS]),
        (draft, 4, &[E::EPERM, E::ENOSPC]),
        (draft, 5, &[OK, E::EPERM, E::ENXIO, E::ENODEV, E::ENOSPC]),
        (draft && config.frames < 1024, 4, &[E::ENOMEM]),
        (draft && config.iommu != Iommu::Absent, 2, &[OK, E::EPERM, E::EINVAL, E::EIO, E::EACCES, E::ENOSPC]),
        (draft && config.iommu != Iommu::Absent, 4, &[OK, E::ENXIO, E::ENODEV, E::EINVAL, E::EIO, E::EACCES]),
        (draft && config.iommu != Iommu::Absent, 5, &[E::ENOENT]),
        (xs, 7, &[E::ENODEV, E::ENOSPC]),
        (xs, 5, &[OK, E::EPERM, E::ENXIO, E::ENOSPC]),
        (xs && controls, 2, &[OK, E::EPERM, E::EIO]),
        (draft || xs && config.iommu != Iommu::On, 6, &[OK, E::ENOENT, E::ENOSPC]),
    ];
    let rows = rows.into_iter().filter(|row| row.0);
    rows.flat_map(|(_, subop, all)| all.iter().map(move |e| (subop, e.status()))).collect()
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(number.unwrap_or_else(|e| panic!("{name}={value}: {e}")))
}

/// Lives until `count` steps are done.
fn lives(name: &str, config: &Config, count: usize) {
    let config = limits(config);
    let replay = variable("MOCK_XEN_SEED");
    let first = fastrand::u64(..);
    let mut seeds = Rng::with_seed(first);
    let count = variable("MOCK_XEN_STEPS").map_or(count, |n| usize::try_from(n).unwrap());
    let tight = config.frames < 1024;
    let lives = if replay.is_some() { 1 } else { count.div_ceil(LIFE) };
    // Also where nobody sees the output of tests that pass.
    let _ = writeln!(std::io::stderr(), "{name}: {} steps from seed {first:#x} on", lives * LIFE);
    let mut met = Met::new();
    for _ in 0..lives {
        let seed = replay.unwrap_or_else(|| seeds.u64(..));
        let all = steps(seed, tight);
        match live(&config, None, &all) {
            Ok(more) => more.into_iter().for_each(|(what, n)| *met.entry(what).or_default() += n),
            Err((last, _)) => {
                let few = shorten(&config, None, &all[..(last + 1).min(all.len())]);
                let (_, text) = live(&config, None, &few).unwrap_err();
                let few: Vec<String> = few.iter().map(|step| format!("  {step:?}")).collect();
                let few = few.join("\n");
                panic!(
                    "{name}: step {last} of the life with seed {seed:#x}: {text}\nso does this life:\n{few}"
                );
            }
        }
    }
    if lives * LIFE >= ENOUGH {
        let missing: Vec<_> = expected(&config).into_iter().filter(|what| !met.contains_key(what)).collect();
        assert!(missing.is_empty(), "{name}: never met, as sub-operation and status: {missing:?}");
    }
}

/// A test for each kind of machine: its name, the steps that it takes of a run's million, what it is.
macro_rules! lives {
    ($($name:ident: $steps:literal, $config:expr;)*) => {
        const _: () = assert!(0 $(+ $steps)* == 1_000_000);
        $(#[test]
        fn $name() {
            lives(stringify!($name), &$config, $steps);
        })*
    };
}

fn draft(iommu: Iommu) -> Config {
    Config { iommu, ..Config::default() }
}

fn xs(iommu: Iommu) -> Config {
    Config { profile: Profile::Xs, foreign_offset: 0x10_0000, ..draft(iommu) }
}

lives! {
    draft_with_an_iommu: 280_000, draft(Iommu::On);
    draft_that_also_says_that_something_changed: 60_000, Config { wildcard: true, ..draft(Iommu::On) };
    draft_with_little_memory: 100_000, Config { frames: 46, ..draft(Iommu::On) };
    draft_with_a_one_to_one_map: 140_000, draft(Iommu::OneToOne);
    draft_with_passthrough_for_dom0: 80_000, draft(Iommu::Passthrough);
    draft_without_an_iommu: 80_000, draft(Iommu::Absent);
    xs_with_a_one_to_one_map: 100_000, xs(Iommu::OneToOne);
    xs_without_the_map: 40_000, xs(Iommu::On);
    xs_without_control: 40_000, xs(Iommu::Passthrough);
    xs_without_an_iommu: 40_000, xs(Iommu::Absent);
    stock: 40_000, Config { profile: Profile::Stock, ..Config::default() };
}

/// Without comments and empty lines.
#[test]
fn the_naive_model_has_no_more_than_300_lines_of_code() {
    let code =
        include_str!("book.rs").lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//"));
    let count = code.count();
    assert!((1..=300).contains(&count), "{count}");
}
