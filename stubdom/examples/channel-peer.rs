//! One end of a byte channel, for a peer that speaks libxenvchan's protocol; in dom0 or a guest, as root.
//!
//! `channel-peer serve|connect DOMID PATH MODE [TO-SERVER TO-CLIENT]`: with domain DOMID, found through XenStore below PATH, where a
//! client waits for its server; a server's rings have at least so many bytes. Says `ready` when it is there, `done` when all that
//! came was what should come (or, for `wait` and `endless`, when the other end has gone); exit status 0 then.

use std::error::Error;
use std::process::ExitCode;

use stubdom::channel::{Address, Blocking, Channel, ChannelError, Peer, Role, Sizes};
use stubdom::grants::{GrantError, LinuxGranter, LinuxMapper};
use stubdom::xenstore::{DomainWatch, Store};
use xen_ioreq::DomId;
use xen_ioreq::linux::Evtchn;

const USAGE: &str =
    "usage: channel-peer serve|connect DOMID PATH stream|packet|twice|endless|wait [TO-SERVER TO-CLIENT]
  stream   300000 bytes one way and then the other
  packet   300 packets to the server, each of which comes back inverted
  twice    the same; the server does it with two clients, one after the other
  endless  bytes from server to client until one of the two has gone; says `flows` after the first 300000
  wait     nothing until the other end has gone";

/// Bytes of a stream, each way.
const BYTES: usize = 300_000;
/// Packets, each of which comes back.
const PACKETS: usize = 300;

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => {
            println!("done");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("channel-peer: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let [role, domid, path, mode, rest @ ..] = args else { return Err(USAGE.into()) };
    let peer = DomId(domid.parse()?);
    let size = |i: usize, default| rest.get(i).map_or(Ok(default), |size| size.parse());
    let sizes = Sizes { to_server: size(0, 1024)?, to_client: size(1, 2048)? };
    let mut store = Store::open()?;
    let channel = match role.as_str() {
        "serve" => {
            let (me, granter) = (store.domid()?, LinuxGranter::open()?);
            let (channel, address) = Channel::serve(&granter, Evtchn::open()?, me, peer, sizes)?;
            address.publish(&mut store, path, peer)?;
            channel
        }
        "connect" => {
            let mapper = LinuxMapper::open()?;
            // A descriptor for each attempt: it belongs to the channel.
            let connect =
                |address| Channel::connect(&mapper, Evtchn::open().map_err(GrantError::from)?, address);
            Address::wait(&mut store, path, peer, connect)?
        }
        _ => return Err(USAGE.into()),
    };
    println!("ready");
    let serves = channel.role() == Role::Server;
    let done = talk(channel, peer, mode);
    if serves {
        Address::withdraw(&mut store, path)?;
    }
    done
}

fn talk(mut channel: Channel<Evtchn>, peer: DomId, mode: &str) -> Result<(), Box<dyn Error>> {
    let role = channel.role();
    channel.outlive_clients(mode == "twice");
    let mut watch = DomainWatch::open(peer)?;
    let mut blocking = channel.blocking().watching(&mut watch);
    match mode {
        "stream" => stream(&mut blocking, role)?,
        "packet" => packets(&mut blocking, role)?,
        "twice" => {
            packets(&mut blocking, role)?;
            if role == Role::Server {
                packets(&mut blocking, role)?;
            }
        }
        "endless" => endless(&mut blocking, role)?,
        "wait" => {}
        _ => return Err(USAGE.into()),
    }
    channel.outlive_clients(false);
    if mode == "wait" || role == Role::Server {
        // The client goes first.
        match channel.blocking().watching(&mut watch).read(&mut [0; 1]) {
            Err(ChannelError::Closed) if channel.peer() == Peer::Gone => {}
            other => return Err(format!("after the end came {other:?}").into()),
        }
    }
    Ok(())
}

/// The bytes of a direction: what server (1) and client (0) write.
fn pattern(direction: usize, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| (i * 131 + direction * 7 + (i >> 8)).to_le_bytes()[0]).collect()
}

fn stream<E: xen_ioreq::seam::EventChannels>(
    channel: &mut Blocking<'_, E>,
    role: Role,
) -> Result<(), Box<dyn Error>> {
    // One way after the other: an end that only writes would else wait for one that only writes.
    for direction in 0..2 {
        let writes = (role == Role::Server) == (direction == 1);
        let mut at = 0;
        while at < BYTES {
            let len = (1 + at % 3001).min(BYTES - at);
            if writes {
                channel.write_all(&pattern(direction, at, len))?;
                at += len;
            } else {
                let mut buf = vec![0; len];
                let n = channel.read(&mut buf)?;
                if buf[..n] != pattern(direction, at, n) {
                    return Err(format!("wrong bytes after {at}").into());
                }
                at += n;
            }
        }
    }
    Ok(())
}

/// Until the peer has gone.
fn endless<E: xen_ioreq::seam::EventChannels>(
    channel: &mut Blocking<'_, E>,
    role: Role,
) -> Result<(), Box<dyn Error>> {
    let (mut at, mut buf) = (0, vec![0; 3001]);
    loop {
        let before = at;
        let done = if role == Role::Server {
            let bytes = pattern(1, at, buf.len());
            channel.write_all(&bytes).map(|()| bytes.len())
        } else {
            channel.read(&mut buf)
        };
        match done {
            Ok(n) if role == Role::Client && buf[..n] != pattern(1, at, n) => {
                return Err(format!("wrong bytes after {at}").into());
            }
            Ok(n) => at += n,
            Err(ChannelError::Closed) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        if before < BYTES && at >= BYTES {
            println!("flows");
        }
    }
}

fn packets<E: xen_ioreq::seam::EventChannels>(
    channel: &mut Blocking<'_, E>,
    role: Role,
) -> Result<(), Box<dyn Error>> {
    for i in 0..PACKETS {
        let len = 1 + i * 37 % 1000;
        let there = pattern(0, i, len);
        let back: Vec<u8> = there.iter().map(|b| !b).collect();
        let mut got = vec![0; len];
        let wanted = if role == Role::Server {
            channel.recv(&mut got)?;
            channel.send(&back)?;
            there
        } else {
            channel.send(&there)?;
            channel.recv(&mut got)?;
            back
        };
        if got != wanted {
            return Err(format!("packet {i} is wrong").into());
        }
    }
    Ok(())
}
