//! What `mgpu serve` leaves on the host, in `--state`, for the next one of the same guest: one file a guest, by its number.
//!
//! Opened before anything is given up; who serves the guest writes it from within the sandbox. So it is read as what a guest
//! that had taken its server over may have written: it can name no other guest, and at worst spoils its own.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use ioreq_server::{Incarnation, Record};
use mediated_gpu::mediator::Legacy;
use xen_ioreq::abi::domctl::xen_domctl_getdomaininfo;
use xen_ioreq::seam::ForeignMap;
use xen_ioreq::{DomId, Gfn};

use crate::{Error, cli, table};

/// The guest's record. `None`: the operator wants none.
pub(crate) fn open(
    args: &cli::Serve,
    guest: &xen_domctl_getdomaininfo,
) -> Result<Option<Arc<Record>>, Error> {
    if args.no_state {
        return Ok(None);
    }
    let say = |e: &dyn std::fmt::Display| format!("--state: {e}; or --no-state");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&args.state)
        .map_err(|e| say(&format_args!("{}: {e}", args.state.display())))?;
    let path = args.state.join(format!("dom{}", guest.domain));
    let record = Record::open(path, Incarnation::of(guest)?).map_err(|e| say(&e))?;
    Ok(Some(Arc::new(record)))
}

/// The frames of the guest's table: where a predecessor has left them, else those that `give` gives.
pub(crate) fn table(
    record: Option<&Record>,
    memory: &impl ForeignMap,
    domid: DomId,
    give: impl FnOnce() -> Option<Gfn>,
) -> Result<Option<Gfn>, Error> {
    let Some(record) = record else { return Ok(give()) };
    let mut legacy = Legacy::from_bytes(&record.note()).unwrap_or_default();
    if let Some(found) = legacy.find_table(memory, domid) {
        return Ok(Some(found));
    }
    // Before they are given: who is killed in between must not be followed by one who gives them once more.
    legacy.table = vec![table::PARKED];
    record.keep(&legacy.to_bytes())?;
    Ok(give())
}
