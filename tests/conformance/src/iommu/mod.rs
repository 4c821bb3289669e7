//! PV-IOMMU: what `iommu_op` answers, what holds a frame, and what its withdrawal tells the device model.
//!
//! Released Xen has none of it; there the rows say so, and show what holds a frame instead: a mapping.

pub mod client;
mod draft;
mod stock;
mod world;

use std::rc::Rc;

use crate::Row;
use crate::bench::{Bench, BenchError, On, model_guest};
use crate::ioreq;
use world::World;

/// Every row of the area that can run there.
///
/// # Errors
/// Nothing to run on.
pub fn rows(on: On) -> Result<Vec<Row>, BenchError> {
    let stock = Rc::new(match on {
        On::Model => {
            let machine = ioreq::stock_machine()?;
            Bench::on_model(&machine, model_guest(&machine, client::GUEST_FRAMES, 1)?)?
        }
        On::Xen(guest) => Bench::on_xen(guest)?,
    });
    let mut rows = ioreq::run("stock", stock::IOMMU_OP, &stock);
    rows.extend(ioreq::run("frame", ioreq::FRAMES, &stock));
    rows.extend(client::run(&stock));
    if on == On::Model {
        // No Xen that is released has it, so only the model can be asked.
        for (machine, iommu, cases) in draft::TABLES {
            for case in *cases {
                rows.push(case.run(machine, &mut World::new(*iommu)?));
            }
        }
    }
    Ok(rows)
}
