//! `xen-rig`: real Xen, fetched, booted and judged.

use std::process::ExitCode;

use clap::Parser;
use xen_rig::{ALL, Report, Rig};

/// Fetches Debian's Xen 4.17 and QEMU 7.2 (nothing is installed), boots them and judges what the project does there.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Scenarios to run; all of them if none is named
    scenarios: Vec<String>,
    /// Name the scenarios and end
    #[arg(long)]
    list: bool,
    /// Only fetch and unpack
    #[arg(long)]
    fetch: bool,
    /// Show the serial line as it comes
    #[arg(short, long)]
    verbose: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xen-rig: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> xen_rig::Result<bool> {
    if args.list {
        for scenario in ALL {
            println!("{:<18} {}", scenario.name(), scenario.about());
        }
        return Ok(true);
    }
    let names: Vec<&str> = args.scenarios.iter().map(String::as_str).collect();
    let chosen = xen_rig::select(&names)?;
    let rig = Rig::set_up(&|what| println!("{what}"))?;
    if args.fetch {
        return Ok(true);
    }
    let mut failed = 0;
    for scenario in &chosen {
        let serial = |line: &str| {
            if args.verbose {
                println!("{line}");
            }
        };
        let report = rig.run(*scenario, &serial)?;
        show(&report);
        failed += usize::from(!report.passed());
    }
    println!("{} passed, {failed} failed", chosen.len() - failed);
    Ok(failed == 0)
}

fn show(report: &Report) {
    let verdict = if report.passed() { "passed" } else { "FAILED" };
    let checks = report.checks.passed().len() + report.checks.failed().len();
    println!("{:<18} {verdict}  {checks} checks, {:.1} s", report.name, report.took.as_secs_f64());
    if report.stood_still {
        println!("    at the second boot: the emulated machine stood still in the first");
    }
    for (name, value) in report.checks.figures() {
        // ratios are near 1, rates in the thousands
        println!("    {name}: {value:.*}", if *value < 10.0 { 3 } else { 0 });
    }
    for failure in report.checks.failed() {
        println!("    does not hold: {failure}");
    }
    for words in &report.last_words {
        println!("    said last by {words}");
    }
    if !report.passed() {
        println!("    log: {}", report.log.display());
    }
}
