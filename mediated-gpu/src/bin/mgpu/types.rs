//! The types of vGPUs, as operators know them from mdev: sizes, and how many more there could be.

use std::fmt::Write as _;
use std::process::ExitCode;

use mediated_gpu::gen8::gtt::GGTT_ENTRIES;
use mediated_gpu::mediator::Config;
use mediated_gpu::vgpu::slice::{MIB, SliceAllocator, VgpuType};

use crate::{Error, cli};

/// `mgpu types`: what there could be on a GPU that nobody uses yet.
pub(crate) fn run(args: &cli::Types) -> Result<ExitCode, Error> {
    let config = Config { aperture: args.aperture * MIB, ..Config::default() };
    let slices = SliceAllocator::new(config.layout(GGTT_ENTRIES));
    println!("{}", table(|kind| slices.available(kind.size())));
    Ok(ExitCode::SUCCESS)
}

/// A line a type. Sizes in MiB.
pub(crate) fn table(available: impl Fn(VgpuType) -> u32) -> String {
    let mut out = String::from("type  low_gm_mib  high_gm_mib  fences  weight  available_instances");
    for kind in VgpuType::NAMED {
        let (size, name) = (kind.size(), cli::Type(kind).to_string());
        let (low, high) = (size.low / MIB, size.high / MIB);
        // Writing to a String does not fail.
        let _ = write!(
            out,
            "\n{name}  {low:>10}  {high:>11}  {:>6}  {:>6}  {:>19}",
            size.fences,
            kind.weight(),
            available(kind)
        );
    }
    out
}
