//! Work of this host's own on a GPU behind an IOMMU, in memory that the GPU can reach, and in no other.

use std::process::ExitCode;
use std::sync::Arc;

use mediated_gpu::hard::trial::{self, Ground};
use mediated_gpu::hard::{StatusPages, attach};
use mediated_gpu::physical::Engine;
use mediated_gpu::vfio::{DmaFrames, DmaMemory, VfioDevice};
use xen_ioreq::Bfn;

use crate::Error;

/// The 39 bits that an engine's addresses have, without the first MiB: a mistake there should not look like an address.
const WINDOW: std::ops::Range<Bfn> = Bfn(0x100)..Bfn(1 << 27);

/// Runs it. Status 1 if something came out wrong.
pub(super) fn run(device: &Arc<VfioDevice>) -> Result<ExitCode, Error> {
    let space = device.space().cloned().ok_or("no IOMMU")?;
    let frames = DmaFrames::new(space, WINDOW);
    let map = |pages| -> Result<_, Error> {
        let memory = Arc::new(DmaMemory::new(pages)?);
        Ok(frames.map(&memory).map_err(|e| format!("{pages} pages within the device's reach: {e}"))?)
    };
    let (ground, status) = (map(Ground::PAGES)?, map(Engine::ALL.len())?);
    let first = status.first();
    let pages = StatusPages::new(Engine::ALL.map(|e| Bfn(first.0 + e.index() as u64)), status);
    let gpu = attach(device, pages)?;
    let findings =
        trial::run(&gpu, Ground { memory: ground.memory().clone(), first: ground.first(), entry: 0 });
    // No bus master any more, before its memory goes.
    drop(gpu);
    drop(ground);
    findings.iter().for_each(|finding| println!("{finding}"));
    let wrong = findings.iter().filter(|f| f.wrong.is_some()).count();
    println!("{} passed, {wrong} failed", findings.len() - wrong);
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
