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

use guest::rows::Table;
use mock_xen::{Config, Machine, Profile};
use xen_ioreq::{DomId, VcpuId};

use crate::Row;
use crate::bench::{Bench, BenchError, On, model_guest};
use crate::case::Case;
use crate::running;
use access::{AccessError, Seen};
pub(crate) use pages::FRAMES;
pub use stage::Stage;

/// Frames of the model's guest.
const FRAMES_OF_GUEST: u64 = 64;

/// vCPUs of the second guest, each of which makes all accesses.
const PAIR: u32 = 2;

/// What came of the area.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every row.
    pub rows: Vec<Row>,
    /// What was seen of the accesses, as [`access::text`] has it; of each vCPU that made them.
    pub logs: Vec<String>,
}

/// Runs every row of the area. On Xen `pair` is a second guest as the first, with two vCPUs; without one, rows of two
/// vCPUs are left out.
///
/// # Errors
/// Nothing to run on.
pub fn run_all(on: On, pair: Option<DomId>) -> Result<Report, BenchError> {
    let (bench, pair) = match on {
        On::Model => {
            let machine = stock_machine()?;
            let guest = |vcpus| Bench::on_model(&machine, model_guest(&machine, FRAMES_OF_GUEST, vcpus)?);
            (guest(1)?, Some(guest(PAIR)?))
        }
        On::Xen(guest) => (Bench::on_xen(guest)?, pair.map(Bench::on_xen).transpose()?),
    };
    let bench = Rc::new(bench);
    let mut report = Report { rows: Vec::new(), logs: Vec::new() };
    for (area, cases) in tables() {
        report.rows.extend(run(area, cases, &bench));
    }
    report.rows.extend(notices::run_fresh(&bench));
    report.perform("access", &bench, Table::Accesses, VcpuId(0));
    report.perform("move", &bench, Table::Moves, VcpuId(0));
    report.rows.extend(notices::run(&bench));
    if let Some(pair) = &pair {
        for n in 0..PAIR {
            report.perform(&format!("access by vCPU {n} of 2"), pair, Table::Accesses, VcpuId(n));
        }
    }
    let (area, cases) = last_table();
    report.rows.extend(run(area, cases, &bench));
    Ok(report)
}

impl Report {
    fn perform(&mut self, area: &str, bench: &Bench, table: Table, vcpu: VcpuId) {
        let expected = access::expected(table).unwrap_or_default();
        match accesses(bench, table, vcpu) {
            Ok(seen) => {
                self.rows.extend(access::judge(area, table, &seen, expected));
                self.logs.push(access::text(table, &seen));
            }
            Err(e) => {
                let name = format!("{area}: the rows' server");
                self.rows.push(Row { name, ok: false, detail: e.to_string() });
            }
        }
    }
}

/// Has a vCPU of the guest perform a table, and gives what was seen of it.
///
/// # Errors
/// The server could not be made or the guest not be started.
pub fn accesses(bench: &Bench, table: Table, vcpu: VcpuId) -> Result<Vec<Seen>, AccessError> {
    let serve = || access::serve(bench, table, &[vcpu]);
    let seen = running::run(bench, serve).map_err(AccessError::Start)??;
    Ok(seen.into_iter().flatten().collect())
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

/// The table that comes last, since it ends the guest. Its rows run in this order.
pub fn last_table() -> (&'static str, &'static [Case<Stage>]) {
    ("end", interrupts::END)
}

/// How many rows tell of notices.
pub fn notices() -> usize {
    notices::FRESH.len() + notices::NOTICES.len()
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
