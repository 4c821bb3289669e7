//! What guests cost that have drawn once and do nothing now: how often a thread of the device model's wakes, and memory.
//!
//! Wake-ups are the times that a thread of this process gave its processor up to wait, all threads but the one that measures.
//! Memory is what the process has resident. The guests' own was touched before, and is not counted; what the model hypervisor
//! keeps of their mappings is.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use guest::Platform;
use guest::layout::frame;
use integration::drawing::Switch;
use integration::world::FRAMES;
use integration::{Painter, Profile, World};
use xen_ioreq::PAGE_SIZE;

use crate::harness::{Figure, Target};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["idle-wakes", "idle-daemon", "idle-vgpu"];

const GUESTS: u16 = 15;
/// What the last guest's work sets off has ended after this long.
const SETTLED: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(10);
/// Wake-ups a second.
const WAKES: f64 = 1.0;
/// Beside the vGPUs.
const DAEMON: f64 = 16.0;
const VGPU: f64 = 4.0;

fn text(path: impl AsRef<Path>) -> Result<String, String> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// What the process has resident, in MiB.
fn resident() -> Result<f64, String> {
    let statm = text("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u32>().ok()).ok_or("no resident pages")?;
    #[expect(clippy::cast_precision_loss, reason = "a page")]
    Ok(f64::from(pages) * PAGE_SIZE as f64 / f64::from(1 << 20))
}

/// Times that threads have waited, but for this one.
fn waits() -> Result<u64, String> {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let tasks = fs::read_dir("/proc/self/task").map_err(|e| e.to_string())?;
    let mut all = 0;
    for task in tasks.filter_map(Result::ok).filter(|t| *t.file_name() != *own) {
        let status = text(task.path().join("status"))?;
        let waited = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        all += waited.and_then(|n| n.trim().parse::<u64>().ok()).ok_or("no voluntary_ctxt_switches")?;
    }
    Ok(all)
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    // The model's tables of its frames are among it.
    let start = resident()?;
    let world = World::for_guests(Profile::Draft, GUESTS);
    let daemon = resident()? - start;

    let mut guests = Vec::new();
    for number in 1..=GUESTS {
        let domid = world.domain(number);
        let mut cpu = world.cpu(domid, &Switch::default());
        let pages: Vec<_> = (0..FRAMES).filter_map(|page| frame(&cpu, page)).collect();
        for gfn in pages {
            cpu.ram_write(gfn.addr(), &[0]).map_err(|e| e.to_string())?;
        }
        guests.push((domid, cpu));
    }
    let start = resident()?;
    let mut served = Vec::new();
    for (domid, cpu) in guests {
        let service = world.serve(domid);
        let mut painter = Painter::new(cpu);
        if !painter.fill(7) {
            return Err("a guest does not draw".into());
        }
        served.push((painter, service));
    }
    let vgpu = (resident()? - start) / f64::from(GUESTS);

    thread::sleep(SETTLED);
    let before = waits()?;
    thread::sleep(WATCHED);
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    let wakes = (waits()? - before) as f64 / WATCHED.as_secs_f64();

    // They were only idle.
    for (painter, _) in &mut served {
        if !painter.fill(8) {
            return Err("an idle guest does not draw any more".into());
        }
    }
    drop(served);
    world.end();

    let figure = |name, value: f64, limit: f64, detail| Figure {
        name,
        ratio: value / limit,
        target: Target::AtMost(1.0),
        detail,
    };
    Ok(vec![
        figure(
            "idle-wakes",
            wakes,
            WAKES,
            format!("{wakes:.1} wake-ups a second of {GUESTS} idle guests' threads, of {WAKES}"),
        ),
        figure("idle-daemon", daemon, DAEMON, format!("{daemon:.2} MiB without a guest, of {DAEMON}")),
        figure("idle-vgpu", vgpu, VGPU, format!("{vgpu:.2} MiB a guest that has drawn, of {VGPU}")),
    ])
}
