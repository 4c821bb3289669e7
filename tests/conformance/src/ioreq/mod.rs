//! IOREQ servers: the calls that a device model makes, and what a guest's accesses become on their way to it.
//!
//! The same rows, with the same expectations, on the model (as released Xen) and on real Xen.

pub mod access;
mod pages;
mod servers;
mod stage;

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use guest::RamRange;
use guest::model::ModelCpu;
use mock_xen::{Config, Machine, Profile};
use xen_ioreq::{Errno, Gfn, VcpuId};

use crate::Row;
use crate::bench::{Bench, BenchError, On, model_guest};
use crate::case::Case;
use access::{AccessError, Seen};
pub(crate) use pages::FRAMES;
pub use stage::Stage;

/// Frames of the model's guest.
const FRAMES_OF_GUEST: u64 = 64;

/// What came of the area.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every row.
    pub rows: Vec<Row>,
    /// What was seen of the guest's accesses, as [`access::text`] has it.
    pub log: String,
}

/// Runs every row of the area.
///
/// # Errors
/// Nothing to run on.
pub fn run_all(on: On) -> Result<Report, BenchError> {
    let bench = Rc::new(match on {
        On::Model => {
            let machine = stock_machine()?;
            Bench::on_model(&machine, model_guest(&machine, FRAMES_OF_GUEST, 1)?)?
        }
        On::Xen(guest) => Bench::on_xen(guest)?,
    });
    let mut rows = Vec::new();
    for (area, cases) in tables() {
        rows.extend(run(area, cases, &bench));
    }
    let mut log = String::new();
    match accesses(&bench) {
        Ok(seen) => {
            rows.extend(access::judge(&seen, access::EXPECTED));
            log = access::text(&seen);
        }
        Err(e) => {
            rows.push(Row { name: "access: the rows' server".to_owned(), ok: false, detail: e.to_string() });
        }
    }
    Ok(Report { rows, log })
}

/// Has the guest make its accesses, and gives what was seen of them.
///
/// # Errors
/// The server could not be made or the guest not be started.
pub fn accesses(bench: &Bench) -> Result<Vec<Seen>, AccessError> {
    match bench.machine() {
        None => access::serve(bench, || bench.unpause(), || bench.guest_lives()),
        Some(machine) => on_a_model_cpu(machine, bench),
    }
}

fn on_a_model_cpu(machine: &Arc<Machine>, bench: &Bench) -> Result<Vec<Seen>, AccessError> {
    let vcpu = machine.vcpu(bench.guest, VcpuId(0)).map_err(AccessError::Start)?;
    // Not from 0 on, so that an address is not taken for an offset.
    let ram = vec![RamRange { first: Gfn(8), frames: FRAMES_OF_GUEST - 8 }];
    let mut cpu = ModelCpu::new(vcpu, ram, Arc::default(), Box::new(|_| {}));
    let runs = AtomicBool::new(true);
    let (go, wait) = mpsc::channel();
    thread::scope(|scope| {
        let runs = &runs;
        scope.spawn(move || {
            // Without a server there is nothing to do.
            if wait.recv().is_ok() {
                guest::rows::run(&mut cpu, guest::rows::ROWS, &mut |_, _| {});
            }
            runs.store(false, Ordering::Release);
        });
        // `go` is dropped whatever happens, so the guest's thread ends.
        let start = move || go.send(()).map_err(|_| Errno::ESRCH);
        access::serve(bench, start, || runs.load(Ordering::Acquire))
    })
}

/// The tables of calls.
pub fn tables() -> [(&'static str, &'static [Case<Stage>]); 7] {
    [
        ("dm_op", servers::FRAMING),
        ("server", servers::LIFE),
        ("range", servers::RANGES),
        ("dm_op", servers::OTHERS),
        ("resource", pages::RESOURCES),
        ("event", pages::EVENTS),
        ("restricted", pages::RESTRICTED),
    ]
}

/// A model of Xen as released.
///
/// # Errors
/// The host lacks memory.
pub(crate) fn stock_machine() -> Result<Arc<Machine>, BenchError> {
    Ok(Machine::new(Config { frames: 2048, profile: Profile::Stock, ..Config::default() })?)
}

/// Runs a table, each row on a stage of its own.
pub fn run(area: &str, cases: &[Case<Stage>], bench: &Rc<Bench>) -> Vec<Row> {
    cases.iter().map(|case| case.run(area, &mut Stage::new(bench))).collect()
}
