//! The targets on their corpora and on mutations of them: a fixed sequence, the same on every machine. `FUZZ_RUNS` says how
//! many mutations of each target (20000); a failure prints the input.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use super::*;
use crate::testing::Random;

/// One change, as fuzzers make them.
fn mutate(data: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let at = random.below(data.len() + 1);
    match random.below(9) {
        0 if !data.is_empty() => {
            let len = data.len();
            data[at % len] ^= 1 << random.below(8);
        }
        1 if !data.is_empty() => {
            let len = data.len();
            data[at % len] = random.next().to_le_bytes()[0];
        }
        // A number that means something to somebody.
        2 => {
            let n =
                [0, 1, 0xff, 0x7f, 0xffff, 0x1000, 4095, 4096, u64::MAX, 1 << 32, 1 << 63][random.below(11)];
            let bytes = &n.to_le_bytes()[..1 << random.below(4)];
            for (to, from) in data.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        }
        // A little more or less.
        3 if !data.is_empty() => {
            let len = data.len();
            data[at % len] = data[at % len].wrapping_add([1, 2, 4, 8, 255, 252][random.below(6)]);
        }
        4 => data.truncate(at),
        5 => data.extend_from_within(at..),
        6 => {
            let other = &others[random.below(others.len())];
            let from = random.below(other.len() + 1);
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
        7 if data.len() > 32 => {
            // Whole records change places.
            let (a, b) = (random.below(data.len() - 16), random.below(data.len() - 16));
            for i in 0..16 {
                data.swap(a + i, b + i);
            }
        }
        _ => {
            for byte in data.iter_mut().skip(at).take(8) {
                *byte = random.next().to_le_bytes()[0];
            }
        }
    }
    data.truncate(4200);
}

fn run(name: &str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no input", dir.display());
    let corpus: Vec<_> = files.iter().map(|f| fs::read(f).unwrap()).collect();
    let runs = std::env::var("FUZZ_RUNS").ok().map_or(20_000, |n| n.parse().unwrap());
    let mut random = Random(name.bytes().fold(0, |h, b| h * 31 + u64::from(b)));
    let inputs = corpus.iter().cloned().chain((0..runs).map(|_| {
        let mut data = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(6) {
            mutate(&mut data, &corpus, &mut random);
        }
        data
    }));
    for data in inputs {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&data))) {
            let hex: String = data.iter().map(|b| format!("{b:02x}")).collect();
            eprintln!("{name} fails with {hex}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn slot_bytes() {
    run("slot", slot);
}

#[test]
fn buffered_ring_bytes() {
    run("ring", ring);
}

#[test]
fn config_space_accesses() {
    run("config_space", config_space);
}

#[test]
fn dm_op_answers() {
    run("dm_op", dm_op);
}

#[test]
fn a_hypervisor_that_says_nothing_against_it_has_its_guest_served() {
    assert!([0, 1, 2].into_iter().all(|mode| dm_op::dm_op_serves(&[mode])));
}

/// The files in the tree are the seeds, and the seeds are in the tree. `FUZZ_SEEDS=1` writes them first.
#[test]
fn corpora_hold_the_seeds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let write = std::env::var_os("FUZZ_SEEDS").is_some();
    let mut count = 0;
    seeds::seeds(&mut |target, name, data| {
        let dir = root.join(target);
        if write {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(name), data).unwrap();
        }
        assert_eq!(fs::read(dir.join(name)).ok().as_deref(), Some(data), "{target}/{name}");
        count += 1;
    });
    assert!(count >= 15);
}
