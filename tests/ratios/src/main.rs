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
mod priority;
mod processors;
mod pte;
mod round_trip;
mod scale;
mod soft_gpu;
mod xen;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use harness::Figure;
use priority::RealTime;

/// A family of figures that are measured together.
struct Family {
    /// Names of the figures, as asked for on the command line.
    names: &'static [&'static str],
    measure: fn() -> Result<Vec<Figure>, String>,
    /// Its two sides have different numbers of threads.
    threads: bool,
}

impl Family {
    const fn new(names: &'static [&'static str], measure: fn() -> Result<Vec<Figure>, String>) -> Self {
        Self { names, measure, threads: false }
    }

    const fn of_threads(self) -> Self {
        Self { threads: true, ..self }
    }
}

const FAMILIES: &[Family] = &[
    Family::new(bfn::NAMES, bfn::measure),
    Family::new(mappings::NAMES, mappings::measure),
    Family::new(balloon::NAMES, balloon::measure),
    Family::new(dispatch::NAMES, dispatch::measure),
    Family::new(drain::NAMES, drain::measure),
    Family::new(channel::NAMES, channel::measure),
    Family::new(grants::NAMES, grants::measure),
    Family::new(guest_memory::NAMES, guest_memory::measure),
    Family::new(pte::NAMES, pte::measure),
    Family::new(idle::NAMES, idle::measure),
    Family::new(round_trip::NAMES, round_trip::measure),
    Family::new(scale::NAMES, scale::measure).of_threads(),
    Family::new(mediated::LARGE_BLITS, mediated::large).of_threads(),
    Family::new(mediated::SMALL_ONES, mediated::small).of_threads(),
    Family::new(mediated::MAPPED_ANEW, mediated::tables).of_threads(),
    Family::new(soft_gpu::FILLS, soft_gpu::fills).of_threads(),
    Family::new(soft_gpu::COPIES, soft_gpu::copies).of_threads(),
    Family::new(soft_gpu::TILINGS, soft_gpu::tilings).of_threads(),
    Family::new(xen::NAMES, xen::measure),
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
        let _ = known().try_for_each(tell);
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
    let mut warned = false;
    for family in FAMILIES.iter().filter(|f| f.names.iter().any(|n| wanted(n))) {
        let priority = family.threads.then(RealTime::take).transpose();
        if let (Err(e), false) = (&priority, warned) {
            eprintln!(
                "ratios: no real-time priority ({e}): what else runs on this machine is in some of the figures"
            );
            warned = true;
        }
        match (family.measure)() {
            Ok(figures) => {
                for figure in figures.iter().filter(|f| wanted(f.name)) {
                    if tell(figure).is_err() {
                        return ExitCode::FAILURE;
                    }
                    if figure.holds() { passed += 1 } else { failed += 1 }
                }
            }
            Err(why) => {
                if tell(format_args!("{:<24} not measured: {why}", family.names.join(", "))).is_err() {
                    return ExitCode::FAILURE;
                }
                failed += family.names.len();
            }
        }
    }
    // Nobody may be left to read it.
    let _ = tell(format_args!("{passed} passed, {failed} failed"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Writes a line. An error: nobody reads any more, and there is nobody to measure for.
fn tell(line: impl fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
