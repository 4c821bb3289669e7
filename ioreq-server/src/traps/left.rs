//! Writes to RAM among requests that nobody answers any more.

use xen_ioreq::abi::ioreq as abi;
use xen_ioreq::{Gfn, VcpuId};

use super::frames_of;
use crate::device::Space;
use crate::memory::{GuestMemory, MemoryError};
use crate::request::{Data, Request, Run};

/// The write to memory that a request is, if it is one and none of its addresses is a device's (`claimed`).
pub(crate) fn to_ram(raw: &abi::ioreq, claimed: impl Fn(u64) -> bool) -> Option<Run> {
    match Request::parse(raw, Some(VcpuId(0))) {
        Ok(Request::Access(run)) if run.space == Space::Mmio && !run.read && !claimed(run.addr) => Some(run),
        _ => None,
    }
}

/// The frames to which a run of writes goes.
pub(crate) fn frames(run: &Run) -> Vec<Gfn> {
    let mut frames: Vec<_> = (0..run.count).flat_map(|i| frames_of(run.addr_of(i), run.width)).collect();
    frames.dedup();
    frames
}

/// Carries out the writes to RAM among requests that nobody answers: a server that goes must not take them along. Those in ranges
/// of devices (`claimed`) are not, nor is what has no RAM.
pub(crate) fn carry_out(
    requests: &[abi::ioreq],
    memory: &GuestMemory,
    claimed: impl Fn(u64) -> bool,
) -> usize {
    let runs = requests.iter().filter_map(|raw| to_ram(raw, &claimed));
    runs.filter(|run| write_all(run, memory)).count()
}

/// Carries out a run of writes. `false`: it goes to what is no RAM.
pub(crate) fn write_all(run: &Run, memory: &GuestMemory) -> bool {
    let (mut from, mut to) = (memory.session(), memory.session());
    let done: Result<(), MemoryError> = (0..run.count).try_for_each(|i| {
        let value = match run.data {
            Data::Value(value) => value,
            Data::At(base) => from.read_item(run.step(base, i), run.width)?,
        };
        to.write_item(run.addr_of(i), run.width, value)
    });
    done.inspect_err(|e| log::debug!("a write to nowhere: {e}")).is_ok()
}
