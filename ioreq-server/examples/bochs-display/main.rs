//! A display that a stock Linux guest draws its console on (module `bochs`), as a PNG.
//!
//! `bochs-display --domid N [--pci-root] [--out FILE]` plugs it into a guest that has not been unpaused yet, and writes what it
//! shows at SIGUSR1 and when the guest has ended or SIGTERM comes. Without a guest it checks itself on the model hypervisor.
//! The device is the library's.

#[path = "../harness/mod.rs"]
mod harness;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use harness::{Model, Result, Slot, Whom};
use ioreq_server::devices::{BochsDisplay, Picture, populate};
use ioreq_server::pci::{Sbdf, regs};
use xen_ioreq::Gfn;

const SBDF: Sbdf = Sbdf::new(0, 0, 0x10, 0);
/// Where its framebuffer waits for a BAR: where no guest of ours has anything, on a 2 MiB boundary.
const PARKED: Gfn = Gfn(0xfd_0000);

/// A display that a stock Linux guest draws its console on
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The picture
    #[arg(long, default_value = "screen.png")]
    out: PathBuf,
}

/// Gives the guest the framebuffer, and plugs the display in.
fn plug(slot: &Slot<'_>) -> Result<Arc<BochsDisplay>> {
    let (dm, memory) = (slot.dm.clone(), slot.memory.clone());
    populate(slot.frames, dm.domid(), PARKED, BochsDisplay::FRAMES)?;
    Ok(BochsDisplay::attach(slot.bus, SBDF, dm, memory, PARKED)?)
}

/// Whoever waits for the file finds it whole.
fn write_png(display: &BochsDisplay, path: &Path) -> Result<()> {
    let Picture { width, height, rgb } = display.picture()?;
    let unfinished = path.with_extension("part");
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(&unfinished)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&rgb)?;
    std::fs::rename(&unfinished, path)?;
    println!("wrote {}: {width}x{height}", path.display());
    Ok(())
}

fn main() -> Result<()> {
    let Args { whom, out } = Args::parse();
    let again = out.clone();
    let show = move |display: &BochsDisplay| {
        if let Err(e) = write_png(display, &again) {
            eprintln!("no picture: {e}");
        }
    };
    match whom.serve(BochsDisplay::FRAMES.into(), plug, show)? {
        Some(display) => write_png(&display, &out),
        None => check(),
    }
}

/// What a guest's driver does first, by a vCPU of the model; the library's tests do the rest.
fn check() -> Result<()> {
    const REGISTERS: u32 = 0xf000_0000;
    let (model, display) = Model::start(BochsDisplay::FRAMES.into(), plug)?;
    assert!(display.picture().is_err(), "there is no mode yet");
    model.configure(SBDF, regs::BAR0 + 8, REGISTERS)?;
    model.configure(SBDF, regs::COMMAND, regs::COMMAND_MEMORY.into())?;
    assert_eq!(
        model.vcpu.mmio_read(u64::from(REGISTERS) + 0x500, 2)?,
        0xb0c5,
        "the version of the registers"
    );
    model.stop()?;
    println!("the display works on the model");
    Ok(())
}

#[test]
fn a_driver_on_the_model_finds_the_display() {
    check().unwrap();
}
