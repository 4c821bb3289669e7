//! `brokered HOW DOMID SERVER`: has a socket for its standard input, at whose other end is a broker of `iommu_op`, and nothing
//! else: no file, no ioctl. Maps a guest's frames, lets go of them, says so a line a step.
//!
//! HOW it ends: `well`, with everything given back; `early`, with mappings; or `torn`, in the middle of a message.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use ioreq_server::privilege::{Confinement, Filters, ThreadKind, Violation, narrow, runtime};
use pviommu::{Brokered, Client, Config, DeviceFlush, Draining, EVERYTHING, Guest, Mapped, Ports};
use xen_ioreq::{DomId, Gfn, IoServerId};

/// Frames of the guest that are mapped.
const FRAMES: u64 = 8;

/// Nothing is in flight.
struct Idle;

impl DeviceFlush for Idle {
    fn flush(&self) {}
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [how, domid, server] = args.as_slice() else { return Err("brokered HOW DOMID SERVER".into()) };
    let (domid, server) = (DomId(domid.parse()?), IoServerId(server.parse()?));
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let raw = socket.try_clone()?;
    let filters = Filters::new(Violation::Kill).thread(ThreadKind::Maintenance, runtime());
    Confinement::new().filters(filters).enter()?;
    narrow(ThreadKind::Maintenance)?;
    if std::fs::File::open("/dev/null").is_ok() {
        return Err("files can be opened".into());
    }
    println!("confined");

    let ports = Ports { iommu: Some(Arc::new(Brokered::new(socket))), foreign: None };
    let client = Client::start(ports, Config::default())?;
    println!("{}", client.mode());
    let guest = client.attach(domid, server)?;
    let mut mapped = map(&guest)?;
    println!("mapped {}", mapped.len());
    let half: Vec<Draining> = mapped.drain(..4).filter_map(Mapped::put).collect();
    println!("released {}", release(&client, half));
    // Everything is as it was, which costs a hypercall.
    guest.notice(EVERYTHING);
    println!("stale {}", guest.take_draining()?.len());
    match how.as_str() {
        "well" => {
            let rest: Vec<Draining> = mapped.into_iter().filter_map(Mapped::put).collect();
            println!("released {}", release(&client, rest));
            Ok(())
        }
        "early" => std::process::exit(0),
        "torn" => {
            (&raw).write_all(&2u32.to_ne_bytes())?;
            (&raw).write_all(&[5; 40])?;
            std::process::abort()
        }
        other => Err(format!("no end {other}").into()),
    }
}

fn map(guest: &Guest) -> Result<Vec<Mapped>, pviommu::MapError> {
    guest.map(&(0..FRAMES).map(Gfn).collect::<Vec<_>>()).into_iter().collect()
}

fn release(client: &Client, draining: Vec<Draining>) -> usize {
    let (quiesced, _held) = client.quiesce(draining, &Idle);
    client.release(quiesced).mappings
}
