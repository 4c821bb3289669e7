//! `mgpu probe`: what this host offers, what a PCI device of it may be used for, and whether that goes well.

mod report;
mod work;

use std::process::ExitCode;
use std::sync::Arc;

use mediated_gpu::vfio::{Address, Facts, Hypervisor, Inspection, Use, VfioDevice};
use pviommu::{Client, Config, Mode, Ports};
use stubdom::Place;
use xen_ioreq::linux::Privcmd;
use xen_ioreq::seam::Sysctl;

use self::report::Report;
use crate::{Error, cli};

/// Free frames of the host.
pub(crate) fn free_pages(privcmd: &Privcmd) -> Result<u64, Error> {
    let info = privcmd
        .physinfo()
        .map_err(|e| format!("sysctl physinfo: {e}: run in dom0, this is {}", Place::detect()))?;
    Ok(info.free_pages)
}

pub(crate) fn run(args: &cli::Probe) -> Result<ExitCode, Error> {
    if let Some(address) = args.vfio {
        return vfio(address, args);
    }
    let privcmd = Arc::new(Privcmd::open()?);
    let free = free_pages(&privcmd)?;
    if args.free_pages {
        println!("{free}");
        return Ok(ExitCode::SUCCESS);
    }
    let client = client(privcmd)?;
    println!("place: {}", Place::detect());
    println!("host: {free} free frames ({} MiB)", free >> 8);
    println!("bus addresses: {}", client.mode());
    Ok(ExitCode::SUCCESS)
}

fn client(privcmd: Arc<Privcmd>) -> Result<Client, Error> {
    let ports = Ports { iommu: Some(privcmd.clone()), foreign: Some(privcmd) };
    Ok(Client::start(ports, Config::default())?)
}

/// What is below this system, and what it says of bus addresses.
fn hypervisor() -> (Hypervisor, Option<String>) {
    let Ok(privcmd) = Privcmd::open() else { return (Hypervisor::None, None) };
    match client(Arc::new(privcmd)) {
        Err(e) => {
            log::warn!("what the hypervisor offers is not known: {e}");
            (Hypervisor::None, None)
        }
        Ok(client) => {
            let kind = match client.mode() {
                Mode::Soft { .. } => Hypervisor::Plain,
                Mode::Map { .. } | Mode::Lookup { .. } => Hypervisor::PvIommu,
            };
            (kind, Some(client.mode().to_string()))
        }
    }
}

/// Tells what is found of a device. One that cannot be opened is described by what sysfs says.
fn vfio(address: Address, args: &cli::Probe) -> Result<ExitCode, Error> {
    let found = Inspection::of(address)?;
    let device = VfioDevice::open(address).map(Arc::new);
    let (hypervisor, mode) = hypervisor();
    let facts = Facts::new(&found, device.as_deref(), hypervisor);
    let report = Report::new(&found, device.as_deref().ok(), &facts, mode);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    match (args.work, device) {
        (true, Ok(device)) if facts.against(Use::Work).is_empty() => work::run(&device),
        // Why stands above.
        (true, _) => Err(format!("{address}: work is not allowed").into()),
        (false, _) => Ok(ExitCode::SUCCESS),
    }
}
