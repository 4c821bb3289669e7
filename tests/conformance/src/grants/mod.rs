//! Grant tables: every operation of the header with every status that it can give, and revokable grants.
//!
//! What dom0 may ask through its kernel also runs on real Xen. The sheets are data that name no implementation: those in which a
//! translated domain grants to itself are what a single guest can ask any Xen.

mod between;
mod dom0;
mod inside;
mod lines;
mod pages;
mod pair;
mod render;
mod revokable;
mod served;
#[allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]
mod stage;

use std::rc::Rc;

pub use render::document;

use guest::grants::sheet::Sheet;
use xen_ioreq::DomId;

use crate::Row;
use crate::bench::{Bench, BenchError, On, model_guest};
use crate::ioreq;

/// Frames of the model's guest.
const GUEST_FRAMES: u64 = 64;

/// Further guests on Xen; rows that want one that is not there are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// As the first, with the limits that Xen gives by default.
    pub pair: Option<DomId>,
    /// A PV guest, which has not run yet.
    pub pv: Option<DomId>,
}

/// Every row of the area that can run there, and what the guest told of its lines. `others` are on Xen; the model has its own.
///
/// # Errors
/// Nothing to run on.
pub fn rows(on: On, others: Others) -> Result<(Vec<Row>, String), BenchError> {
    let bench = Rc::new(match on {
        On::Model => {
            let machine = ioreq::stock_machine()?;
            Bench::on_model(&machine, model_guest(&machine, GUEST_FRAMES, 1)?)?
        }
        On::Xen(guest) => Bench::on_xen(guest)?,
    });
    let mut rows = ioreq::run("dom0", dom0::ROWS, &bench);
    rows.extend(ioreq::run("guest to dom0", pair::ROWS, &bench));
    if on == On::Model {
        for sheet in sheets() {
            rows.extend(stage::rows(sheet)?);
        }
    }
    let (inside, log) = inside::rows(if let On::Xen(guest) = on { Some(guest) } else { None })?;
    rows.extend(inside);
    match (on, others.pair) {
        (On::Model, _) => rows.extend(between::rows(None)?),
        (On::Xen(guest), Some(pair)) => rows.extend(between::rows(Some([guest, pair]))?),
        (On::Xen(_), None) => {}
    }
    match (on, others.pv) {
        (On::Model, _) => rows.extend(pages::rows(None)?),
        (On::Xen(_), Some(pv)) => rows.extend(pages::rows(Some(pv))?),
        (On::Xen(_), None) => {}
    }
    Ok((rows, log))
}

/// Every sheet, those of one section side by side.
fn sheets() -> Vec<&'static Sheet> {
    let all: Vec<_> =
        lines::SHEETS.iter().chain(guest::grants::lines::SHEETS).chain(revokable::SHEETS).collect();
    let mut sections: Vec<&str> = Vec::new();
    for sheet in &all {
        if !sections.contains(&sheet.section) {
            sections.push(sheet.section);
        }
    }
    sections.iter().flat_map(|s| all.iter().copied().filter(move |sheet| sheet.section == *s)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use mock_xen::Profile;
    use xen_ioreq::Errno;

    use guest::grants::sheet::{By, Line, Want};

    use super::{sheets, stage};

    /// A line whose expectation is wrong in one thing must fail: in each of its things, for a line of every sheet.
    #[test]
    fn a_line_that_expects_something_else_fails() {
        for sheet in sheets() {
            let profile = if sheet.by == By::Stock { Profile::Stock } else { Profile::Draft };
            let line = sheet.lines[0];
            assert!(stage::run(&line, sheet.parties, profile, "").expect("runs").ok);
            for wrong in [
                Line { want: Want::Status(-77), ..line },
                Line { want: Want::Rc(Errno::EDOM), ..line },
                Line { marks: line.marks ^ 8, ..line },
                Line { refs: line.refs + 1, ..line },
            ] {
                let row = stage::run(&wrong, sheet.parties, profile, "").expect("runs");
                assert!(!row.ok && row.detail.contains("wanted"), "{row:?}");
            }
        }
    }

    #[test]
    fn the_document_is_what_the_lines_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/grant-tables.md");
        let there = std::fs::read_to_string(path).expect("docs/grant-tables.md");
        assert!(
            there == super::document(),
            "write it anew: conformance grants --render docs/grant-tables.md"
        );
    }

    /// Each operation has a line for each status that it can give in the model.
    #[test]
    fn every_status_of_every_operation_has_a_line() {
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in sheets().into_iter().flat_map(|s| s.lines) {
            let call = line.call.to_string();
            let operation = call.split('(').next().unwrap_or_default().to_owned();
            let want = match line.want {
                Want::Status(n) => n.to_string(),
                Want::Rc(e) => e.to_string(),
                Want::Byte(_) => continue,
            };
            seen.entry(operation).or_default().insert(want);
        }
        for (operation, wanted) in [
            ("map_grant_ref", "0 -1 -2 -3 -8 -9 -13"),
            ("map_revokable", "0 -1 -2 -3 -7 -9 -13"),
            ("unmap_grant_ref", "0 -1 -4 -6"),
            ("unmap_and_replace", "0 -1 -4 ENOSYS"),
            ("copy", "0 -1 -2 -3 -8 -9 -10"),
            ("transfer", "0 -1 -2 -9 ENOSYS"),
            ("setup_table", "0 -1 -2 -5 -8"),
            ("get_status_frames", "0 -1 -2 -5 -8 ENOSYS"),
            ("query_size", "0 -2 -8 EINVAL"),
            ("set_version", "0 EINVAL EBUSY ERANGE"),
            ("get_version", "0 ESRCH EPERM"),
            ("swap_grant_ref", "0 -3 -12"),
            ("dump_table", "ENOSYS"),
            ("cache_flush", "0 EINVAL EPERM EOPNOTSUPP ENOSYS"),
            ("revoke", "0 EBUSY EPERM ENOENT"),
        ] {
            let wanted: BTreeSet<String> = wanted.split(' ').map(str::to_owned).collect();
            assert_eq!(seen.get(operation), Some(&wanted), "{operation}");
        }
    }
}
