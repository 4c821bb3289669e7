//! `mgpu`: several Xen guests share one GPU, with ballooning on.
//!
//! `demo` runs the model hypervisor with guests that draw; `serve` gives a guest of the Xen it runs on a vGPU, `ask` asks it how
//! that goes, and `view` shows another domain what it shows; `types` lists the types of vGPUs; `probe` says what that Xen offers;
//! `picture` renders what a guest of the demo must draw,
//! `blits` what the software GPU's blitter can do.

mod blits;
mod cli;
mod control;
#[cfg(feature = "embedded")]
mod demo;
mod ground;
mod lines;
mod picture;
mod pictures;
mod probe;
mod sandbox;
mod serve;
mod show;
mod state;
mod table;
mod types;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    lines::begin();
    let done = match args.command {
        #[cfg(feature = "embedded")]
        cli::Command::Demo(args) => demo::run(&args),
        #[cfg(feature = "embedded")]
        cli::Command::Picture(args) => demo::reference_picture(&args),
        cli::Command::Blits(args) => blits::run(&args),
        cli::Command::Serve(args) => serve::run(&args),
        cli::Command::View(args) => show::view(&args),
        cli::Command::Ask(args) => control::ask(&args),
        cli::Command::Types(args) => types::run(&args),
        cli::Command::Probe(args) => probe::run(&args),
    };
    lines::end();
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("mgpu: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What ends the program: one line that says what is wrong and what to do.
type Error = Box<dyn std::error::Error>;
