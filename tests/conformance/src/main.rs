//! The interfaces as tables of rows, each run and judged: `conformance AREA [--on model|xen]`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use conformance::{Row, abi, grants, iommu, ioreq};
use xen_ioreq::DomId;

/// Runs the rows of an area: one line a row, then how many passed and failed. Exit status 1 if any failed.
#[derive(Parser)]
struct Args {
    /// Which interface.
    area: Area,
    /// What answers the calls; the rows of `abi` call nothing.
    #[arg(long, value_enum, default_value_t = On::Model)]
    on: On,
    /// On Xen: a paused HVM or PVH guest without a device model, whose kernel will make the accesses of the rows.
    #[arg(long, required_if_eq("on", "xen"))]
    domid: Option<u16>,
    /// On Xen: a second such guest, of area ioreq with two vCPUs. Without it, rows of two vCPUs or between guests are left out.
    #[arg(long, requires = "domid", value_name = "DOMID")]
    pair: Option<u16>,
    /// On Xen, of area ioreq: an HVM guest with three vCPUs and the same kernel, where nobody else serves it. Without it, rows
    /// of interrupt lines and of vCPUs at work together are left out.
    #[arg(long, requires = "domid", value_name = "DOMID")]
    hvm: Option<u16>,
    /// On Xen, of area grants: a PV guest that has not run yet. Without it, rows of page tables are left out.
    #[arg(long, requires = "domid", value_name = "DOMID")]
    pv: Option<u16>,
    /// Writes the tables of the area as a document to this file, in place of running them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "domid", "destroy", "log"])]
    render: Option<PathBuf>,
    /// On Xen: at the end of area iommu also runs the rows that destroy the guest. On the model they always run.
    #[arg(long)]
    destroy: bool,
    /// Of areas ioreq and grants: writes what was seen of the guest's accesses, or told by it of its lines, to this file.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Area {
    /// Sizes, offsets and constants against Xen's C headers.
    Abi,
    /// IOREQ servers.
    Ioreq,
    /// PV-IOMMU.
    Iommu,
    /// Grant tables.
    Grants,
    /// Access types of guest frames.
    MemAccess,
    /// Every area.
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    /// The model hypervisor.
    Model,
    /// The Xen that this domain runs on.
    Xen,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(path) = &args.render {
        return render(args.area, path);
    }
    let areas = match args.area {
        Area::All => vec![Area::Abi, Area::Ioreq, Area::Iommu, Area::Grants, Area::MemAccess],
        one => vec![one],
    };
    let on = match (args.on, args.domid) {
        (On::Xen, Some(domid)) => conformance::On::Xen(DomId(domid)),
        _ => conformance::On::Model,
    };
    let pair = args.pair.map(DomId);
    let guests = Guests {
        ioreq: ioreq::Others { pair, hvm: args.hvm.map(DomId) },
        grants: grants::Others { pair, pv: args.pv.map(DomId) },
    };
    let (mut passed, mut failed) = (0u32, 0u32);
    let mut show = |area, rows: Result<Vec<Row>, String>| match rows {
        Ok(rows) => {
            for Row { name, ok, detail } in rows {
                println!("{} {name}: {detail}", if ok { "ok    " } else { "FAILED" });
                if ok { passed += 1 } else { failed += 1 }
            }
        }
        Err(e) => {
            println!("FAILED {}: {e}", name(area));
            failed += 1;
        }
    };
    for &area in &areas {
        show(area, rows(area, on, guests, args.log.as_deref()));
    }
    // After everything that needs the guest.
    if areas.contains(&Area::Iommu) && (args.destroy || on == conformance::On::Model) {
        show(Area::Iommu, iommu::last_rows(on).map_err(|e| e.to_string()));
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn render(area: Area, path: &Path) -> ExitCode {
    let text = match area {
        Area::Iommu => iommu::document(),
        Area::Grants => grants::document(),
        _ => {
            eprintln!("conformance: the rows of {} make no document", name(area));
            return ExitCode::from(2);
        }
    };
    match std::fs::write(path, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("conformance: {}: {e}", path.display());
            ExitCode::FAILURE
        }
    }
}

/// The guests on Xen beside the first.
#[derive(Clone, Copy)]
struct Guests {
    ioreq: ioreq::Others,
    grants: grants::Others,
}

fn rows(area: Area, on: conformance::On, guests: Guests, log: Option<&Path>) -> Result<Vec<Row>, String> {
    match area {
        Area::Abi => abi::rows().map_err(|e| e.to_string()),
        Area::Ioreq => {
            let report = ioreq::run_all(on, guests.ioreq).map_err(|e| e.to_string())?;
            if let Some(path) = log {
                std::fs::write(path, report.logs.concat()).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            Ok(report.rows)
        }
        Area::Iommu => iommu::rows(on).map_err(|e| e.to_string()),
        Area::Grants => {
            let (rows, told) = grants::rows(on, guests.grants).map_err(|e| e.to_string())?;
            if let Some(path) = log {
                std::fs::write(path, told).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            Ok(rows)
        }
        Area::MemAccess | Area::All => Err("this area has no rows yet".to_owned()),
    }
}

fn name(v: impl ValueEnum) -> String {
    v.to_possible_value().map_or_else(String::new, |p| p.get_name().to_owned())
}
