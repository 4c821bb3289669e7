//! IOREQ servers: the calls that a device model makes, and what a guest's accesses become on their way to it.
//!
//! The same rows, with the same expectations, on the model (as released Xen) and on real Xen.

pub mod access;
mod interrupts;
mod memory;
mod notices;
mod pages;
mod servers;
mod stage;

use std::rc::Rc;
use std::sync::Arc;

use mock_xen::{Config, Machine, Profile};

use crate::Row;
use crate::bench::{Bench, BenchError, On, model_guest};
use crate::case::Case;
use crate::running;
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
    rows.extend(notices::run_fresh(&bench));
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
    rows.extend(notices::run(&bench));
    let (area, cases) = last_table();
    rows.extend(run(area, cases, &bench));
    Ok(Report { rows, log })
}

/// Has the guest make its accesses, and gives what was seen of them.
///
/// # Errors
/// The server could not be made or the guest not be started.
pub fn accesses(bench: &Bench) -> Result<Vec<Seen>, AccessError> {
    running::run(bench, || access::serve(bench)).map_err(AccessError::Start)?
}

/// The tables of calls.
pub fn tables() -> [(&'static str, &'static [Case<Stage>]); 10] {
    [
        ("dm_op", servers::FRAMING),
        ("server", servers::LIFE),
        ("range", servers::RANGES),
        ("memory", memory::TYPES),
        ("memory", memory::DIRTY),
        ("memory", memory::PLACES),
        ("interrupt", interrupts::LINES),
        ("resource", pages::RESOURCES),
        ("event", pages::EVENTS),
        ("restricted", pages::RESTRICTED),
    ]
}

/// How many rows tell of notices.
pub fn notices() -> usize {
    notices::FRESH.len() + notices::NOTICES.len()
}

/// The table that comes last, since it ends the guest. Its rows run in this order.
pub fn last_table() -> (&'static str, &'static [Case<Stage>]) {
    ("end", interrupts::END)
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
