//! A display that a stock Linux guest draws its console on (module `bochs`), as a PNG.
//!
//! `bochs-display --domid N [--pci-root] [--out FILE]` plugs it into a guest that has not been unpaused yet, and writes what it
//! shows at SIGUSR1 and when the guest has ended or SIGTERM comes. Without a guest it checks itself on the model hypervisor.
//! The device is in `display.rs`.

mod display;
mod edid;
#[path = "../harness/mod.rs"]
mod harness;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Parser;
use display::{
    BPP, BYTES, DISPI, Display, ENABLE, FRAMES, ID, ID5, MEMORY_64K, SBDF, VIRT_WIDTH, XRES, Y_OFFSET, YRES,
};
use harness::{Model, Result, Whom};
use ioreq_server::pci::regs;

/// A display that a stock Linux guest draws its console on
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    whom: Whom,
    /// The picture
    #[arg(long, default_value = "screen.png")]
    out: PathBuf,
}

/// Whoever waits for the file finds it whole.
fn write_png(display: &Display, path: &Path) -> Result<()> {
    let (width, height, rgb) = display.picture()?;
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
    let show = move |display: &Display| {
        if let Err(e) = write_png(display, &again) {
            eprintln!("no picture: {e}");
        }
    };
    match whom.serve(FRAMES.into(), Display::plug, show)? {
        Some(display) => write_png(&display, &out),
        None => check(),
    }
}

/// What a guest's driver does, by a vCPU of the model: places the BARs, sets a mode, draws, moves the framebuffer.
fn check() -> Result<()> {
    const FIRST: u32 = 0xe000_0000;
    const SECOND: u32 = 0xd000_0000;
    const REGISTERS: u32 = 0xf000_0000;
    let (model, display) = Model::start(FRAMES.into(), Display::plug)?;
    let register = |number: usize| u64::from(REGISTERS) + DISPI + 2 * number as u64;
    let driver = &model.vcpu;
    assert!(display.picture().is_err(), "there is no mode yet");
    model.configure(SBDF, regs::BAR0, FIRST)?;
    model.configure(SBDF, regs::BAR0 + 8, REGISTERS)?;
    model.configure(SBDF, regs::COMMAND, regs::COMMAND_MEMORY.into())?;
    assert_eq!(driver.mmio_read(register(ID), 2)?, ID5.into());
    assert_eq!(driver.mmio_read(register(MEMORY_64K), 2)? << 16, BYTES);
    let edid: Vec<u64> = (0..128)
        .map(|at| driver.mmio_read(u64::from(REGISTERS) + at, 1))
        .collect::<std::result::Result<_, _>>()?;
    assert_eq!((edid[1], edid.iter().sum::<u64>() % 0x100), (0xff, 0), "an EDID and its check sum");
    for (number, value) in [(BPP, 32), (XRES, 4), (YRES, 2), (VIRT_WIDTH, 8), (Y_OFFSET, 1), (ENABLE, 0x41)] {
        driver.mmio_write(register(number), 2, value)?;
    }
    // The last pixel of the first row, of a line of 8: no request comes of it, it is memory.
    driver.ram_write(u64::from(FIRST) + 4 * (8 + 3), &0x00cc_8844u32.to_le_bytes())?;
    let mut shown = vec![0; 4 * 2 * 3];
    shown[9..12].copy_from_slice(&[0xcc, 0x88, 0x44]);
    assert_eq!(display.picture()?, (4, 2, shown.clone()));
    model.configure(SBDF, regs::BAR0, SECOND)?;
    assert_eq!(display.picture()?, (4, 2, shown), "the framebuffer has moved with its BAR");
    assert!(driver.ram_write(FIRST.into(), &[0]).is_err(), "and left nothing behind");
    for number in [VIRT_WIDTH, YRES] {
        driver.mmio_write(register(number), 2, 0xffff)?;
    }
    assert!(display.picture().is_err(), "a picture that is not all in the framebuffer");
    model.stop()?;
    println!("the display works on the model");
    Ok(())
}

#[test]
fn a_driver_on_the_model_draws_a_picture_that_moves_with_its_bar() {
    check().unwrap();
}
