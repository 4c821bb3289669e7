//! PV-IOMMU: what `iommu_op` answers, what holds a frame, and what its withdrawal tells the device model.
//!
//! Released Xen has none of it; there the rows say so, and show what holds a frame instead: a mapping.

#[allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]
mod call;
mod client;
mod disagreements;
mod effects;
mod render;
mod sheet;
mod stock;
#[allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]
mod world;

use std::rc::Rc;

pub use render::document;

use crate::Row;
use crate::bench::{Bench, BenchError, On, model_guest};
use crate::ioreq;

/// Every row of the area that can run there.
///
/// # Errors
/// Nothing to run on.
pub fn rows(on: On) -> Result<Vec<Row>, BenchError> {
    let stock = stock(on)?;
    let mut rows = ioreq::run("stock", stock::IOMMU_OP, &stock);
    rows.extend(ioreq::run("frame", ioreq::FRAMES, &stock));
    rows.extend(client::run(&stock));
    if on == On::Model {
        // No Xen that is released has it, so only the model can be asked.
        for sheet in sheet::draft::SHEETS.iter().chain(sheet::xs::SHEETS) {
            rows.extend(sheet.rows()?);
        }
        for table in effects::TABLES {
            for case in table.cases {
                rows.push(case.run(table.title, &mut table.world()?));
            }
        }
    }
    Ok(rows)
}

/// The rows that end the guest; nothing can run on it after them.
///
/// # Errors
/// Nothing to run on.
pub fn last_rows(on: On) -> Result<Vec<Row>, BenchError> {
    Ok(client::run_last(&stock(on)?))
}

fn stock(on: On) -> Result<Rc<Bench>, BenchError> {
    Ok(Rc::new(match on {
        On::Model => {
            let machine = ioreq::stock_machine()?;
            Bench::on_model(&machine, model_guest(&machine, client::GUEST_FRAMES, 1)?)?
        }
        On::Xen(guest) => Bench::on_xen(guest)?,
    }))
}

#[cfg(test)]
mod tests {
    use xen_ioreq::Errno;

    use super::sheet::{Line, Out, Want, draft, xs};

    /// A line whose expectation is wrong in one thing must fail: in each of its things, for a line of every sheet.
    #[test]
    fn a_line_that_expects_something_else_fails() {
        for sheet in draft::SHEETS.iter().chain(xs::SHEETS) {
            let line = sheet.lines[0];
            let wrong_want = match line.want {
                Want::Done => Want::Status(Errno::EDOM),
                _ => Want::Done,
            };
            let wrong_out = Out::Caps(0x7777, None);
            let wrong: [Line; 5] = [
                Line { want: wrong_want, ..line },
                Line { want: Want::Panics(Ok(())), ..line },
                Line { out: wrong_out, ..line },
                Line { refs: line.refs + 1, ..line },
                Line { m2b: &[(super::call::FAR, super::call::By::Dom0, 0)], ..line },
            ];
            assert!(line.run(sheet).expect("runs").ok);
            for line in wrong {
                let row = line.run(sheet).expect("runs");
                assert!(!row.ok && row.detail.contains("wanted"), "{row:?}");
            }
        }
    }
}
