//! What this host offers.

use std::process::ExitCode;
use std::sync::Arc;

use mediated_gpu::vfio::{Iommu, VfioDevice};
use pviommu::{Client, Config, Ports};
use stubdom::Place;
use xen_ioreq::linux::Privcmd;
use xen_ioreq::seam::Sysctl;

use crate::{Error, cli};

/// Free frames of the host.
pub(crate) fn free_pages(privcmd: &Privcmd) -> Result<u64, Error> {
    let info = privcmd
        .physinfo()
        .map_err(|e| format!("sysctl physinfo: {e}: run in dom0, this is {}", Place::detect()))?;
    Ok(info.free_pages)
}

pub(crate) fn run(args: &cli::Probe) -> Result<ExitCode, Error> {
    if let Some(address) = &args.vfio {
        vfio(address)?;
    }
    let privcmd = Arc::new(Privcmd::open()?);
    let free = free_pages(&privcmd)?;
    if args.free_pages {
        println!("{free}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("place: {}", Place::detect());
    println!("host: {free} free frames ({} MiB)", free >> 8);
    let ports = Ports { iommu: Some(privcmd.clone()), foreign: Some(privcmd) };
    let client = Client::start(ports, Config::default())?;
    println!("bus addresses: {}", client.mode());
    Ok(ExitCode::SUCCESS)
}

fn vfio(address: &str) -> Result<(), Error> {
    let device = VfioDevice::open(address)?;
    let (vendor, id) = device.id()?;
    let iommu = match device.iommu() {
        Iommu::None => "no IOMMU of this kernel's: bus addresses must come from PV-IOMMU",
        Iommu::Type1 => "type 1 IOMMU",
    };
    println!("{address}: {vendor:04x}:{id:04x}, {iommu}, {} MSI vectors", device.msi_vectors()?);
    for r in device.regions() {
        println!("  region {}: {:#x} bytes", r.index, r.size);
    }
    Ok(())
}
