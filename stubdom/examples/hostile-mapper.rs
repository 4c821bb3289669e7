//! What a viewer that never lets go sees of a guest's memory, with plain grants and with revokable ones.
//!
//! `hostile-mapper [FILE]`: on the model hypervisor a guest shows a picture, wants its pages back, and draws something into its memory
//! that nobody should see. Writes what the viewer sees then as a PNG, plain on the left, revokable on the right, and
//! says how many of its frames the guest has back.

use std::error::Error;
use std::fs::File;
use std::sync::Arc;

use mock_xen::{Caller, Config, DomainConfig, Machine};
use stubdom::grants::{Granter, Mapper, TableGranter, TableMapper};
use xen_ioreq::linux::UnmapNotify;
use xen_ioreq::seam::Prot;
use xen_ioreq::{DomId, PAGE_SIZE};

const WIDTH: usize = 256;
const HEIGHT: usize = 192;
const PAGES: usize = WIDTH * HEIGHT * 4 / PAGE_SIZE;
/// The viewer.
const VIEWER: DomId = DomId(0);
/// What the viewer's own page holds: grey.
const OWN: u8 = 0x90;

fn main() -> Result<(), Box<dyn Error>> {
    let (plain, kept) = with_plain_grants()?;
    println!(
        "plain:     the guest has {} of {PAGES} frames back; the viewer sees what is drawn there",
        PAGES - kept
    );
    let (revokable, kept) = with_revokable_grants()?;
    println!("revokable: the guest has {} of {PAGES} frames back; the viewer sees its own", PAGES - kept);
    if let Some(file) = std::env::args().nth(1) {
        write(&file, &plain, &revokable)?;
    }
    Ok(())
}

/// A host, its guest, and the two sides' hands on the hypervisor.
struct Host {
    machine: Arc<Machine>,
    guest: DomId,
    granter: TableGranter<Caller>,
    mapper: TableMapper<Caller>,
}

impl Host {
    fn new() -> Result<Self, Box<dyn Error>> {
        let machine = Machine::new(Config::default())?;
        let guest = machine.create_domain(&DomainConfig { hvm: false, ..DomainConfig::default() })?;
        let granter = TableGranter::new(Arc::new(machine.caller(guest)?))?;
        let mapper = TableMapper::new(Arc::new(machine.caller(VIEWER)?));
        Ok(Self { machine, guest, granter, mapper })
    }
}

/// What the viewer sees in the end, and how many frames the guest has not got back.
fn with_plain_grants() -> Result<(Vec<u8>, usize), Box<dyn Error>> {
    let host = Host::new()?;
    let granted = host.granter.grant(VIEWER, PAGES, Prot::Read, UnmapNotify::default())?;
    granted.write(0, &picture(shown))?;
    let held = host.mapper.map(host.guest, granted.refs(), Prot::Read, UnmapNotify::default())?;
    let before = host.machine.free_frames();
    // The guest wants them back. They stay its own, but they cannot be freed, and they are all the memory that it has.
    let still = granted.end().err().ok_or("the viewer holds on")?;
    still.granted.write(0, &picture(secret))?;
    let mut seen = vec![0; WIDTH * HEIGHT * 4];
    held.read(0, &mut seen)?;
    Ok((seen, PAGES - usize::try_from(host.machine.free_frames() - before)?))
}

/// The same.
fn with_revokable_grants() -> Result<(Vec<u8>, usize), Box<dyn Error>> {
    let host = Host::new()?;
    let granter = host.granter.revokable().ok_or("the hypervisor cannot revoke")?;
    let mapper = host.mapper.revokable().ok_or("the hypervisor cannot revoke")?;
    let granted = granter.grant_revokable(VIEWER, PAGES, Prot::Read)?;
    granted.write(0, &picture(shown))?;
    let held = mapper.map_revokable(host.guest, granted.refs(), Prot::Read, OWN)?;
    let before = host.machine.free_frames();
    granted.revoke()?;
    let back = usize::try_from(host.machine.free_frames() - before)?;
    // The same frames, as likely as not; they are nobody else's any more.
    let reused = granter.grant_revokable(VIEWER, PAGES, Prot::Read)?;
    reused.write(0, &picture(secret))?;
    let mut seen = vec![0; WIDTH * HEIGHT * 4];
    held.read(0, &mut seen)?;
    Ok((seen, PAGES - back))
}

fn picture(pixel: fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let places = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
    places
        .flat_map(|(x, y)| {
            let [r, g, b] = pixel(x, y);
            [r, g, b, 0xff]
        })
        .collect()
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// A sky with a sun.
fn shown(x: usize, y: usize) -> [u8; 3] {
    if x.abs_diff(190).pow(2) + y.abs_diff(50).pow(2) < 900 {
        [255, 220, 90]
    } else {
        [90, byte(120 + y / 2), 230]
    }
}

/// A key.
fn secret(x: usize, y: usize) -> [u8; 3] {
    let from_bow = x.abs_diff(70).pow(2) + y.abs_diff(96).pow(2);
    let bow = (400..1600).contains(&from_bow);
    let shaft = (108..210).contains(&x) && y.abs_diff(96) < 9;
    let bits = (180..194).contains(&x) || (200..210).contains(&x);
    let key = bow || shaft || (bits && (96..130).contains(&y));
    if key { [250, 210, 70] } else { [byte(110 + x / 8), 20, 30] }
}

/// Both, side by side.
fn write(file: &str, left: &[u8], right: &[u8]) -> Result<(), Box<dyn Error>> {
    const GAP: usize = 8;
    let line = WIDTH * 4;
    let rows = left.chunks(line).zip(right.chunks(line));
    let pixels: Vec<u8> = rows.flat_map(|(l, r)| [l, &[0xff; GAP * 4], r].concat()).collect();
    let colours: Vec<u8> = pixels.chunks(4).flat_map(|p| p.iter().take(3).copied()).collect();
    let mut png =
        png::Encoder::new(File::create(file)?, u32::try_from(2 * WIDTH + GAP)?, u32::try_from(HEIGHT)?);
    png.set_color(png::ColorType::Rgb);
    png.set_depth(png::BitDepth::Eight);
    png.write_header()?.write_image_data(&colours)?;
    Ok(())
}
