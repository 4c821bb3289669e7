//! `mgpu demo`: guests draw on the model hypervisor while random pages of theirs are ballooned out and in.
//!
//! Ends well only if the oracle saw nothing, every frame and every host page is accounted for, and each guest's last
//! picture is the one that its seed and number demand.

mod guests;
mod table;
mod world;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use guest::scene;

use self::guests::Running;
use self::world::World;
use crate::{Error, cli, picture};

/// How often progress is shown on a terminal.
const LIVE: Duration = Duration::from_millis(200);
/// How often it is printed elsewhere.
const PLAIN: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &cli::Demo) -> Result<ExitCode, Error> {
    if args.hostile > args.guests {
        return Err(format!("--hostile {}: there are only {} guests", args.hostile, args.guests).into());
    }
    let world = World::new(args)?;
    println!("hypervisor: {}", world.client.mode());
    let mut running = (1..=args.guests)
        .map(|n| Running::start(&world, args, n, n > args.guests - args.hostile))
        .collect::<Result<Vec<_>, _>>()?;
    let drawn_for = watch(&mut running, Duration::from_secs(args.seconds.into()));

    // The guests draw their last picture, undisturbed, then everything is taken down.
    let mut done = Vec::new();
    let mut problems = Vec::new();
    for guest in running {
        done.push(guest.finish(&world, &args.out, &mut problems)?);
    }
    print!("{}", table::table(&done, drawn_for));
    let pins = world.pins();
    world.judge(&mut problems);
    for problem in &problems {
        eprintln!("mgpu: {problem}");
    }
    if problems.is_empty() {
        println!(
            "the oracle checked {pins} translations and saw nothing wrong; pictures in {}",
            args.out.display()
        );
        Ok(ExitCode::SUCCESS)
    } else {
        Ok(ExitCode::FAILURE)
    }
}

/// Shows progress until the time is over, then tells the guests to come to an end. Says how long they drew.
fn watch(running: &mut [Running], time: Duration) -> Duration {
    let start = Instant::now();
    let live = std::io::stdout().is_terminal();
    let step = if live { LIVE } else { PLAIN };
    while start.elapsed() < time && running.iter().any(|g| !g.has_ended()) {
        std::thread::park_timeout(step.min(time.saturating_sub(start.elapsed())));
        let line = running.iter().map(Running::progress).collect::<Vec<_>>().join("  ");
        let seconds = start.elapsed().as_secs_f64();
        if live {
            print!("\r\x1b[2K{seconds:5.1} s  {line}");
        } else {
            println!("{seconds:5.1} s  {line}");
        }
        // A closed standard output is no reason to stop.
        let _ = std::io::stdout().flush();
    }
    if live {
        println!();
    }
    running.iter().for_each(|g| g.stop.store(true, Ordering::Release));
    start.elapsed()
}

/// `mgpu picture`: what a guest of this seed and number ends with, by the guest's naive reference.
pub(crate) fn reference_picture(args: &cli::Picture) -> Result<ExitCode, Error> {
    let mut pixels = vec![0; scene::PIXELS];
    scene::reference(args.seed, args.domid, scene::FINAL, &mut pixels);
    picture::write(&args.file, scene::WIDTH.into(), scene::HEIGHT.into(), &pixels)?;
    Ok(ExitCode::SUCCESS)
}
