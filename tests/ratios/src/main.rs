//! `ratios [NAME…]`: the project's speed figures, each as a ratio to a peer or a limit measured in the same run.
//!
//! Prints name, measured, target, holds or falls short; exit status 1 if any falls short.

mod balloon;
mod bfn;
mod channel;
mod dispatch;
mod drain;
mod grants;
mod guest_memory;
mod harness;
mod idle;
mod mappings;
mod mediated;
mod ping_pong;
mod processors;
mod pte;
mod round_trip;
mod scale;
mod soft_gpu;
mod xen;

use std::process::ExitCode;

use clap::Parser;
use harness::Figure;

/// A family of figures that are measured together.
struct Family {
    /// Names of the figures, as asked for on the command line.
    names: &'static [&'static str],
    measure: fn() -> Result<Vec<Figure>, String>,
}

const FAMILIES: &[Family] = &[
    Family { names: bfn::NAMES, measure: bfn::measure },
    Family { names: mappings::NAMES, measure: mappings::measure },
    Family { names: balloon::NAMES, measure: balloon::measure },
    Family { names: dispatch::NAMES, measure: dispatch::measure },
    Family { names: drain::NAMES, measure: drain::measure },
    Family { names: channel::NAMES, measure: channel::measure },
    Family { names: grants::NAMES, measure: grants::measure },
    Family { names: guest_memory::NAMES, measure: guest_memory::measure },
    Family { names: pte::NAMES, measure: pte::measure },
    Family { names: idle::NAMES, measure: idle::measure },
    Family { names: round_trip::NAMES, measure: round_trip::measure },
    Family { names: scale::NAMES, measure: scale::measure },
    Family { names: mediated::NAMES, measure: mediated::measure },
    Family { names: soft_gpu::NAMES, measure: soft_gpu::measure },
    Family { names: xen::NAMES, measure: xen::measure },
];

/// Measure the project's speed figures.
#[derive(Parser)]
struct Args {
    /// Figures to measure; all of them if none is named.
    names: Vec<String>,
    /// Only list the names.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let known = || FAMILIES.iter().flat_map(|f| f.names.iter().copied());
    if args.list {
        known().for_each(|n| println!("{n}"));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.names.iter().find(|n| !known().any(|k| k == n.as_str())) {
        eprintln!(
            "ratios: no figure is called {unknown:?}; the names are: {}",
            known().collect::<Vec<_>>().join(", ")
        );
        return ExitCode::from(2);
    }
    let wanted = |name: &str| args.names.is_empty() || args.names.iter().any(|n| n == name);
    let (mut passed, mut failed) = (0, 0);
    for family in FAMILIES.iter().filter(|f| f.names.iter().any(|n| wanted(n))) {
        match (family.measure)() {
            Ok(figures) => {
                for figure in figures.iter().filter(|f| wanted(f.name)) {
                    println!("{figure}");
                    if figure.holds() { passed += 1 } else { failed += 1 }
                }
            }
            Err(why) => {
                println!("{:<24} not measured: {why}", family.names.join(", "));
                failed += family.names.len();
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
