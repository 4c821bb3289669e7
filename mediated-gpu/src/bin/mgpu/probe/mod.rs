//! `mgpu probe`: what this host offers, what a PCI device of it may be used for, and whether that goes well.

mod report;
mod work;

use std::process::ExitCode;
use std::sync::Arc;

use mediated_gpu::vfio::{Address, Facts, Hypervisor, Inspection, Use, VfioDevice};
use pviommu::{Client, Config, Mode, Ports};
use stubdom::Place;
use xen_ioreq::linux::{OwnRam, Privcmd};
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

/// What is below this system.
struct Below {
    hypervisor: Hypervisor,
    /// What it says of bus addresses.
    mode: Option<String>,
    /// Whether memory of our own could be reached there.
    own_memory: Result<(), String>,
}

fn below() -> Below {
    let none = Below { hypervisor: Hypervisor::None, mode: None, own_memory: Ok(()) };
    let Ok(privcmd) = Privcmd::open().map(Arc::new) else { return none };
    let client = match client(privcmd.clone()) {
        Ok(client) => client,
        Err(e) => {
            log::warn!("what the hypervisor offers is not known: {e}");
            return none;
        }
    };
    let mode = Some(client.mode().to_string());
    match client.mode() {
        Mode::Soft { .. } => Below { hypervisor: Hypervisor::Plain, mode, ..none },
        Mode::Map { .. } | Mode::Lookup { .. } => {
            let own_memory = OwnRam::take(&privcmd, 1).map(drop).map_err(|e| e.to_string());
            Below { hypervisor: Hypervisor::PvIommu, mode, own_memory }
        }
    }
}

/// Tells what is found of a device. One that cannot be opened is described by what sysfs says.
fn vfio(address: Address, args: &cli::Probe) -> Result<ExitCode, Error> {
    let found = Inspection::of(address)?;
    let device = VfioDevice::open(address).map(Arc::new);
    let Below { hypervisor, mode, own_memory } = below();
    let facts = Facts::new(&found, device.as_deref(), hypervisor, own_memory);
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
