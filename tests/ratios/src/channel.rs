//! Bytes from one thread to another through the channel of two domains of the model, against a Unix socket of as large a buffer.
//!
//! Both sides write pieces of the same size and read into a buffer of the same size, and wait when they must. The model's event
//! costs a write to an eventfd, as an event on Xen costs a hypercall.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use mock_xen::{Config, DomainConfig, EvtchnDevice, Machine};
use stubdom::channel::{Channel, Sizes};
use stubdom::grants::{TableGranter, TableMapper};
use xen_ioreq::DomId;

use crate::harness::{Figure, Target, interleave, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["channel-stream", "channel-small", "channel-echo"];

const ROUNDS: usize = 15;
/// Bytes of a ring, and of the socket's buffer at least: Linux's default is 208 KiB, of which about half holds data.
const RING: usize = 128 << 10;
const CLIENT: DomId = DomId(0);

/// What is sent: in all, and at a time.
#[derive(Clone, Copy)]
struct Load {
    bytes: usize,
    piece: usize,
}

const STREAM: Load = Load { bytes: 64 << 20, piece: 64 << 10 };
const SMALL: Load = Load { bytes: 4 << 20, piece: 256 };
/// Messages that come back before the next one goes.
const ECHOES: usize = 5000;
const ECHO: usize = 64;

type End = Channel<EvtchnDevice>;

fn ends() -> Result<(End, End), String> {
    let say = |e: &dyn std::fmt::Display| e.to_string();
    let machine = Machine::new(Config::default()).map_err(|e| say(&e))?;
    let config = DomainConfig { hvm: false, ..DomainConfig::default() };
    let server = machine.create_domain(&config).map_err(|e| say(&e))?;
    let caller = |domid| machine.caller(domid).map(Arc::new).map_err(|e| say(&e));
    let events = |domid| machine.open_evtchn(domid).map_err(|e| say(&e));
    let granter = TableGranter::new(caller(server)?).map_err(|e| say(&e))?;
    let mapper = TableMapper::new(caller(CLIENT)?);
    let sizes = Sizes { to_server: RING, to_client: RING };
    let (server, address) =
        Channel::serve(&granter, events(server)?, server, CLIENT, sizes).map_err(|e| say(&e))?;
    let client = Channel::connect(&mapper, events(CLIENT)?, address).map_err(|e| say(&e))?;
    Ok((server, client))
}

/// All of the load one way. Returns how many bytes came.
fn one_way(mut from: impl Write + Send, mut to: impl Read, load: Load) -> usize {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let piece = vec![0x5a; load.piece];
            for _ in 0..load.bytes / load.piece {
                if from.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        let (mut came, mut buf) = (0, vec![0; load.piece]);
        while came < load.bytes {
            match to.read(&mut buf) {
                Ok(n) if n > 0 => came += n,
                _ => break,
            }
        }
        came
    })
}

/// Messages there and back. Returns how many came back.
fn echo(mut here: impl Read + Write, mut there: impl Read + Write + Send) -> usize {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buf = [0; ECHO];
            while there.read_exact(&mut buf).is_ok() && there.write_all(&buf).is_ok() {
                if buf[0] == 0 {
                    return;
                }
            }
        });
        let mut buf = [0; ECHO];
        (0..ECHOES)
            .rev()
            .filter(|left| {
                let message = [u8::from(*left > 0); ECHO];
                here.write_all(&message).is_ok() && here.read_exact(&mut buf).is_ok() && buf == message
            })
            .count()
    })
}

/// Measures them.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let (mut server, mut client) = ends()?;
    let (left, right) = UnixStream::pair().map_err(|e| e.to_string())?;
    let mut wrong = 0;
    let mut figures = Vec::new();
    for (name, load) in [("channel-stream", STREAM), ("channel-small", SMALL)] {
        let whole = load.bytes / load.piece * load.piece;
        // Of a rate the ratio is the other way round: peer's time over ours.
        let mut channel_short = false;
        let (ratio, peer, ours) = interleave(
            ROUNDS,
            || seconds(|| wrong += usize::from(one_way(&left, &right, load) != whole)),
            || seconds(|| channel_short |= one_way(client.blocking(), server.blocking(), load) != whole),
        );
        wrong += usize::from(channel_short);
        #[expect(clippy::cast_precision_loss, reason = "a few million bytes")]
        let rate = |s: f64| whole as f64 / s / f64::from(1 << 20);
        let detail = format!("{:.0} MiB/s, socket {:.0} MiB/s", rate(ours), rate(peer));
        figures.push(Figure { name, ratio, target: Target::AtLeast(1.0), detail });
    }
    let mut lost = false;
    let (ratio, ours, peer) = interleave(
        ROUNDS,
        || seconds(|| lost |= echo(client.blocking(), server.blocking()) != ECHOES),
        || seconds(|| wrong += usize::from(echo(&left, &right) != ECHOES)),
    );
    if lost || wrong > 0 {
        return Err("bytes were lost".to_owned());
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let us = |s: f64| s / ECHOES as f64 * 1e6;
    let detail = format!("{:.2} us there and back, socket {:.2} us", us(ours), us(peer));
    figures.push(Figure { name: "channel-echo", ratio, target: Target::AtMost(1.0), detail });
    Ok(figures)
}
