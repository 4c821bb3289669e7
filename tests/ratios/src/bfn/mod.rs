//! The allocator of bus frames: against a plain one and against `vm-allocator`, and against itself at other sizes.
//!
//! All play the same recorded trace of frees and allocs of orders 0 and 9 with 10^3 to 10^6 live ranges.

mod peers;
mod trace;

use std::cell::RefCell;

use pviommu::BfnAllocator;

use self::peers::{FirstFit, VmAllocator, ours};
use self::trace::{Player, STEP, Trace};
use crate::harness::{Figure, Target, interleave};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["bfn-vm-allocator", "bfn-btree", "bfn-flat"];

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// The size for which `bfn-vm-allocator` has its target.
const JUDGED: usize = 100_000;
const ROUNDS: usize = 31;
/// Steps in a round, where both sides are quick.
const STEPS: usize = 15;

/// Steps in a round where the peer is slow: one of each kind.
const FEW: usize = 3;

/// Medians at one size: (peer / ours, ns of ours, ns of the peer) for a free and an alloc.
type Compared = (f64, f64, f64);

fn ns(seconds: f64, steps: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let pairs = (steps * STEP) as f64;
    seconds / pairs * 1e9
}

/// Both peers at one size. The slow one plays three steps a round, and at 10^6 in fewer rounds: it looks through all that lies
/// below what it finds.
fn compare(live: usize) -> Result<(Compared, Compared), String> {
    let space = Trace::space(live);
    let mut plain = Player::filled(FirstFit::new(space), live)?;
    let (vm, held) = VmAllocator::holding(space, plain.live())?;
    let mut vm = Player::new(vm, held);
    let mut ours_1 = Player::filled(ours(space), live)?;
    let mut ours_2 = Player::filled(ours(space), live)?;

    // Whoever comes first to a step records it.
    let trace = RefCell::new(Trace::new(live));
    let (ratio, o, p) = interleave(
        ROUNDS,
        || ours_1.play(&mut trace.borrow_mut(), STEPS),
        || plain.play(&mut trace.borrow_mut(), STEPS),
    );
    let btree = (1.0 / ratio, ns(o, STEPS), ns(p, STEPS));

    let rounds = if live > JUDGED { 3 } else { 9 };
    let (ratio, o, p) = interleave(
        rounds,
        || ours_2.play(&mut trace.borrow_mut(), FEW),
        || vm.play(&mut trace.borrow_mut(), FEW),
    );
    if ours_1.failures + ours_2.failures + plain.failures + vm.failures > 0 {
        return Err(format!("an allocation failed at {live} live ranges"));
    }
    Ok((btree, (1.0 / ratio, ns(o, FEW), ns(p, FEW))))
}

/// Ours at each size against ours at the smallest.
fn flat() -> Result<Figure, String> {
    let all: Result<Vec<(Player<BfnAllocator>, Trace)>, String> =
        SIZES.iter().map(|&n| Ok((Player::filled(ours(Trace::space(n)), n)?, Trace::new(n)))).collect();
    let mut all = all?;
    let (small, large) = all.split_at_mut(1);
    let Some((small, small_trace)) = small.first_mut() else { return Err("no sizes".into()) };
    let mut ratio = f64::NAN;
    let mut each = Vec::new();
    for (player, trace) in large {
        let (r, o, p) = interleave(ROUNDS, || player.play(trace, STEPS), || small.play(small_trace, STEPS));
        ratio = ratio.max(r);
        if each.is_empty() {
            each.push(format!("{:.0}", ns(p, STEPS)));
        }
        each.push(format!("{:.0}", ns(o, STEPS)));
        if player.failures > 0 {
            return Err("an allocation failed".into());
        }
    }
    let detail =
        format!("worst of 10^4, 10^5, 10^6 to 10^3; free+alloc at 10^3..10^6: {} ns", each.join(", "));
    Ok(Figure { name: "bfn-flat", ratio, target: Target::AtMost(2.0), detail })
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let mut vm = Figure {
        name: "bfn-vm-allocator",
        ratio: f64::NAN,
        target: Target::AtLeast(5.0),
        detail: "at 10^5; free+alloc, ours / theirs in ns at 10^3..10^6 (theirs filled as ours, three steps of 256 a round):".into(),
    };
    let mut btree = Figure {
        name: "bfn-btree",
        ratio: f64::NAN,
        target: Target::AtLeast(1.0),
        detail: "worst size; free+alloc, ours / plain in ns at 10^3..10^6:".into(),
    };
    for live in SIZES {
        let (b, v) = compare(live)?;
        btree.ratio = btree.ratio.min(b.0);
        btree.detail += &format!(" {:.0} / {:.0}", b.1, b.2);
        if live == JUDGED {
            vm.ratio = v.0;
        }
        vm.detail += &format!(" {:.0} / {:.0}", v.1, v.2);
    }
    Ok(vec![vm, btree, flat()?])
}
