//! What must go on working: the run-time, and a whole service with guests on the model hypervisor.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::catch_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use guest::run::Config;
use integration::world::{final_picture, shown};
use integration::{Drawing, Profile, World};
use ioreq_server::GuestLoop;
use ioreq_server::privilege::{ThreadKind, narrow};
use ioreq_server::sources::Timer;
use parking_lot::{Condvar, Mutex};
use xen_ioreq::{DomId, Errno};

use crate::{Ground, Outcome};

/// Threads of every kind use locks, clocks, channels, the allocator at all sizes, hash tables and the log, and end.
pub(crate) fn run_time() -> Outcome {
    let (sender, receiver) = mpsc::channel();
    let turn = std::sync::Arc::new((Mutex::new(0usize), Condvar::new()));
    let threads: Vec<_> = ThreadKind::ALL
        .into_iter()
        .enumerate()
        .map(|(i, kind)| {
            let (sender, turn) = (sender.clone(), turn.clone());
            thread::Builder::new().name(format!("{kind:?}")).spawn(move || {
                narrow(kind).expect("the kernel has filters");
                let (now, changed) = &*turn;
                let mut now = now.lock();
                while *now != i {
                    changed.wait_for(&mut now, Duration::from_millis(50));
                }
                *now += 1;
                changed.notify_all();
                drop(now);
                let mut kept = HashMap::new();
                for size in (0..25).map(|shift| 1usize << shift) {
                    let mut block = vec![1u8; size];
                    block.resize(size + size / 2, 2);
                    kept.insert(size, block.iter().map(|b| u64::from(*b)).sum::<u64>());
                }
                thread::sleep(Duration::from_millis(1));
                thread::yield_now();
                let then = Instant::now();
                assert!(
                    then.elapsed() < Duration::from_secs(60) && SystemTime::now() > SystemTime::UNIX_EPOCH
                );
                eprintln!("{kind:?} was here");
                sender.send(kept[&1024]).expect("somebody listens");
            })
        })
        .collect::<Result<_, _>>()
        .map_err(|e| Errno(e.raw_os_error().unwrap_or(0)))?;
    drop(sender);
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [1024 + 2 * 512; ThreadKind::ALL.len()]);
    threads.into_iter().for_each(|t| t.join().expect("no panic"));
    Ok(())
}

/// A panic is caught, and its backtrace, for which there are no files, does no harm.
pub(crate) fn panic() -> Outcome {
    let caught = thread::spawn(|| {
        narrow(ThreadKind::EventLoop).expect("the kernel has filters");
        catch_unwind(|| panic!("a device's mistake")).is_err()
    });
    assert!(caught.join().expect("caught"));
    Ok(())
}

/// A loop on a thread of its own has a timer and a control socket, whose peer asks and then ends it.
pub(crate) fn sources(ground: &Ground) -> Outcome {
    let system = |e: std::io::Error| Errno(e.raw_os_error().unwrap_or(0));
    let control = ground.control.lock().take().ok_or(Errno::EINVAL)?;
    let (sender, ticks) = mpsc::channel();
    let (timer, alarm) = Timer::new(move |_, _| {
        let _ = sender.send(());
        Ok(())
    })
    .map_err(system)?;
    let mut serving = GuestLoop::new().map_err(system)?;
    serving.add_source(Box::new(timer)).map_err(system)?;
    serving.add_source(Box::new(control)).map_err(system)?;
    let thread = thread::spawn(move || {
        narrow(ThreadKind::EventLoop).expect("the kernel has filters");
        serving.run()
    });
    alarm.every(Duration::from_millis(1)).map_err(system)?;
    assert!(ticks.recv().is_ok() && ticks.recv().is_ok(), "the timer ticks");
    let mut peer = &ground.peer;
    peer.write_all(b"stats\nstop\n").map_err(system)?;
    let answers = BufReader::new(peer).lines().map_while(Result::ok).filter(|line| line == "ok").count();
    assert_eq!(answers, 2, "both commands are answered, and then the peer hears of the end");
    thread.join().expect("no panic").map_err(system)
}

/// A guest is served until somebody closes our input, so that the test can look at the process.
pub(crate) fn hold() -> Outcome {
    let world = World::new(Profile::Stock);
    let service = world.serve(world.domain(3));
    narrow(ThreadKind::Main).map_err(|_| Errno::EIO)?;
    println!("holding");
    let mut rest = String::new();
    std::io::stdin().read_to_string(&mut rest).map_err(|e| Errno(e.raw_os_error().unwrap_or(0)))?;
    drop((service, world));
    Ok(())
}

/// Two guests draw while their pages are ballooned out and in, and what they show is right.
pub(crate) fn on_the_model(profile: Profile) -> Outcome {
    let world = World::new(profile);
    let guests = [1, 7].map(|n| world.domain(n));
    let services = guests.map(|d| world.serve(d));
    let config = Config { seed: 9, balloon: 8, frames: Some(3), ..Config::default() };
    let drawing = guests.map(|d: DomId| Drawing::start(&world, d, config));
    for (drawing, service) in drawing.into_iter().zip(&services) {
        let number = service.domid().0;
        drawing.finish().flawless();
        assert!(shown(service) == final_picture(9, number), "guest {number} shows something else");
    }
    drop(services);
    world.end();
    Ok(())
}
