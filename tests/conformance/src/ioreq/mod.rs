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

use guest::rows::{PERFORMERS, Table};
use mock_xen::{Config, Machine, Profile};
use xen_ioreq::{DomId, VcpuId};

use crate::Row;
use crate::bench::{Bench, BenchError, On, model_guest, model_hvm_guest};
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

/// The guests of the area beside the first one; rows that want one that is not there are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// As the first, with two vCPUs.
    pub pair: Option<DomId>,
    /// An HVM guest with three.
    pub hvm: Option<DomId>,
}

/// Runs every row of the area. `others` are guests on Xen; the model has its own.
///
/// # Errors
/// Nothing to run on.
pub fn run_all(on: On, others: Others) -> Result<Report, BenchError> {
    let (bench, pair, hvm) = match on {
        On::Model => {
            let machine = stock_machine()?;
            let bench = |guest| Bench::on_model(&machine, guest);
            let pvh = |vcpus| bench(model_guest(&machine, FRAMES_OF_GUEST, vcpus)?);
            let hvm = model_hvm_guest(&machine, FRAMES_OF_GUEST, PERFORMERS)?;
            (pvh(1)?, Some(pvh(PAIR)?), Some(bench(hvm)?))
        }
        On::Xen(guest) => {
            let bench = |guest: Option<DomId>| guest.map(Bench::on_xen).transpose();
            (Bench::on_xen(guest)?, bench(others.pair)?, bench(others.hvm)?)
        }
    };
    let bench = Rc::new(bench);
    let mut report = Report { rows: Vec::new(), logs: Vec::new() };
    for (area, cases) in tables() {
        report.rows.extend(run(area, cases, &bench));
    }
    report.rows.extend(notices::run_fresh(&bench));
    report.perform("access", &bench, Table::Accesses, &[VcpuId(0)]);
    report.perform("move", &bench, Table::Moves, &[VcpuId(0)]);
    report.rows.extend(notices::run(&bench));
    if let Some(pair) = &pair {
        for n in 0..PAIR {
            report.perform(&format!("access by vCPU {n} of 2"), pair, Table::Accesses, &[VcpuId(n)]);
        }
    }
    if let Some(hvm) = &hvm {
        report.perform("line", hvm, Table::Lines, &[VcpuId(0)]);
        let all: Vec<VcpuId> = (0..PERFORMERS).map(VcpuId).collect();
        report.perform("together", hvm, Table::Together, &all);
    }
    let (area, cases) = last_table();
    report.rows.extend(run(area, cases, &bench));
    Ok(report)
}

impl Report {
    fn perform(&mut self, area: &str, bench: &Bench, table: Table, performers: &[VcpuId]) {
        let expected = access::expected(table).unwrap_or_default();
        match accesses(bench, table, performers) {
            Ok(all) => {
                for (vcpu, seen) in performers.iter().zip(all) {
                    let label = access::label(performers, *vcpu);
                    self.rows.extend(access::judge(area, &label, table, &seen, expected));
                    self.logs.push(access::text(&label, table, &seen));
                }
            }
            Err(e) => {
                let name = format!("{area}: the rows' server");
                self.rows.push(Row { name, ok: false, detail: e.to_string() });
            }
        }
    }
}

/// Has vCPUs of the guest perform a table, and gives what was seen of each.
///
/// # Errors
/// The server could not be made or the guest not be started.
pub fn accesses(bench: &Bench, table: Table, performers: &[VcpuId]) -> Result<Vec<Vec<Seen>>, AccessError> {
    let serve = || access::serve(bench, table, performers);
    running::run(bench, serve).map_err(AccessError::Start)?
}

/// The tables of calls.
pub fn tables() -> [(&'static str, &'static [Case<Stage>]); 11] {
    [
        ("dm_op", servers::FRAMING),
        ("server", servers::LIFE),
        ("range", servers::RANGES),
        ("memory", memory::TYPES),
        ("paused", memory::PAUSED),
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
