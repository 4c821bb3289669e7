//! `mgpu demo`: guests draw on the model hypervisor while random pages of theirs are ballooned out and in.
//!
//! Ends well only if the oracle saw nothing, every frame and every host page is accounted for, and each guest's last
//! picture is the one that its seed and number demand.

mod faults;
mod guests;
mod judge;
mod table;
pub(crate) mod world;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use guest::scene;
use mock_xen::FaultPlan;

pub(crate) use self::faults::{Faults, USUAL as USUAL_FAULTS};
use self::guests::{Done, Running};
use self::world::World;
use crate::{Error, cli, picture};

/// How often progress is shown on a terminal.
const LIVE: Duration = Duration::from_millis(200);
/// How long all hostile guests have their vGPUs, until one loses its.
const PLUGGED: Duration = Duration::from_secs(4);
/// How long that one has none.
const UNPLUGGED: Duration = Duration::from_secs(1);
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
    if let Some(faults) = &args.faults {
        world.machine.inject(faults.plan(args.seed));
    }
    let (drawn_for, resident) = watch(&mut running, args)?;
    world.machine.inject(FaultPlan::default());

    // The guests draw their last picture, undisturbed, then everything is taken down.
    let mut done = Vec::new();
    let mut problems = Vec::new();
    for guest in running {
        done.push(guest.finish(&world, args, &mut problems)?);
    }
    sheet(&done, &args.out)?;
    print!("{}{}", table::table(&done, drawn_for), judge::summary(&done, resident));
    // Stock Xen's name no frame, and several withdrawals make one: nobody can say how many there should be.
    if args.hypervisor == cli::Hypervisor::Draft {
        problems.extend(judge::sent(world.machine.notices().0, &done));
    }
    let pins = world.pins();
    if args.faults.is_some() {
        println!("{} faults were made on the way", world.machine.faults_met());
        if world.machine.faults_met() == 0 && args.seconds > 0 {
            problems.push("no fault of the plan was met".into());
        }
    }
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

/// All pictures on one, three in a row.
fn sheet(done: &[Done], out: &Path) -> Result<(), Error> {
    let pictures: Vec<_> = done.iter().filter_map(|g| g.picture.as_ref()).collect();
    let (width, columns) = (usize::from(scene::WIDTH), pictures.len().min(3));
    let mut pixels = Vec::with_capacity(pictures.len().next_multiple_of(columns.max(1)) * scene::PIXELS);
    for row in pictures.chunks(columns.max(1)) {
        for y in 0..usize::from(scene::HEIGHT) {
            for column in 0..columns {
                let line = row.get(column).and_then(|p| p.get(y * width..(y + 1) * width));
                match line {
                    Some(line) => pixels.extend_from_slice(line),
                    None => pixels.resize(pixels.len() + width, 0),
                }
            }
        }
    }
    if pixels.is_empty() {
        return Ok(());
    }
    let columns = u32::try_from(columns)?;
    let height = u32::try_from(pixels.len() / (width * columns as usize))?;
    picture::write(&out.join("guests.png"), u32::from(scene::WIDTH) * columns, height, &pixels)
}

/// Shows progress until the time is over, then tells the guests to come to an end. Now and then one of those that mean harm
/// loses its vGPU, and gets a new one. Says how long they drew, and what was resident (MiB) after the first tenth and at the end.
fn watch(running: &mut [Running], args: &cli::Demo) -> Result<(Duration, [u64; 2]), Error> {
    let (start, time) = (Instant::now(), Duration::from_secs(args.seconds.into()));
    let hostile: Vec<_> =
        (0..running.len()).filter(|n| running.get(*n).is_some_and(Running::is_hostile)).collect();
    let mut unplug = hostile.iter().flat_map(|n| [*n, *n]).cycle();
    let (mut unplug_at, mut early) = (PLUGGED, None);
    let live = std::io::stdout().is_terminal();
    let step = if live { LIVE } else { PLAIN };
    while start.elapsed() < time && running.iter().any(|g| !g.has_ended()) {
        std::thread::park_timeout(step.min(time.saturating_sub(start.elapsed())));
        if early.is_none() && start.elapsed() >= time / 10 {
            early = Some(judge::resident());
        }
        if start.elapsed() >= unplug_at
            && let Some(guest) = unplug.next().and_then(|n| running.get_mut(n))
        {
            let plugged = guest.unplug(args.share(guest.number()))?;
            unplug_at = start.elapsed() + if plugged { PLUGGED } else { UNPLUGGED };
        }
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
    running.iter_mut().for_each(Running::note_part);
    running.iter().for_each(|g| g.stop.store(true, Ordering::Release));
    let late = judge::resident();
    Ok((start.elapsed(), [early.unwrap_or(late), late]))
}

/// `mgpu picture`: what a guest of this seed and number ends with, by the guest's naive reference.
pub(crate) fn reference_picture(args: &cli::Picture) -> Result<ExitCode, Error> {
    let mut pixels = vec![0; scene::PIXELS];
    scene::reference(args.seed, args.domid, scene::FINAL, &mut pixels);
    picture::write(&args.file, scene::WIDTH.into(), scene::HEIGHT.into(), &pixels)?;
    Ok(ExitCode::SUCCESS)
}
