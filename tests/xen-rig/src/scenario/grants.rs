//! Pages shared by the kernel's drivers, and the byte channel against a C program linked with libxenvchan, in both roles.

use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::qemu::Machine;

/// The two programs that speak the protocol.
const OURS: &str = "channel-peer";
const C: &str = "vchan-peer";

/// Rings in the shared page, one there and one of its own pages, and both with pages of their own; to server, to client.
const SIZES: [[u32; 2]; 3] = [[1024, 2048], [2048, 4096], [16384, 65536]];

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Grants;

/// One channel: who serves, who connects, and what goes over it.
#[derive(Clone, Debug, PartialEq)]
struct Channel {
    name: String,
    server: &'static str,
    client: &'static str,
    mode: &'static str,
    sizes: [u32; 2],
}

impl Scenario for Grants {
    fn name(&self) -> &'static str {
        "grants"
    }

    fn about(&self) -> &'static str {
        "gntalloc and gntdev in dom0; the byte channel against libxenvchan, as server and as client"
    }

    fn machine(&self) -> Machine {
        Machine { timeout: Duration::from_secs(600), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        kit.install(files, &kit.example("grants-on-xen")?)?;
        kit.install(files, &kit.example(OURS)?)?;
        kit.install(files, &kit.c_vchan()?)?;
        let channels: String = channels().iter().map(both_ends).collect();
        let deaths: String = deaths().iter().map(|(name, dies, stays)| death(name, dies, stays)).collect();
        Ok(format!("record grants-on-xen grants-on-xen\n{channels}{deaths}"))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        checks.succeeded(run, "grants-on-xen");
        checks.rows(&run.text("grants-on-xen.out"));
        for channel in channels() {
            for end in ["server", "client"] {
                finished(run, checks, &format!("{}-{end}", channel.name));
            }
        }
        for (name, ..) in deaths() {
            finished(run, checks, &format!("{name}-stays"));
            let dies = format!("{name}-dies");
            checks.equal(&format!("{dies}: killed"), run.status(&dies), Some(128 + 9));
        }
        Ok(())
    }
}

fn finished(run: &Run, checks: &mut Checks, name: &str) {
    checks.succeeded(run, name);
    checks.equal(&format!("{name} says"), run.text(&format!("{name}.out")).as_str(), "ready\ndone\n");
}

/// Every pair of which one is ours, with streams and packets, over every kind of rings.
fn channels() -> Vec<Channel> {
    let mut all = Vec::new();
    for (server, client) in [(OURS, C), (C, OURS), (OURS, OURS)] {
        for mode in ["stream", "packet"] {
            for sizes in SIZES {
                let of = |program| if program == OURS { "ours" } else { "c" };
                let name = format!("{}-{}-{mode}-{}", of(server), of(client), sizes[0]);
                all.push(Channel { name, server, client, mode, sizes });
            }
        }
    }
    all
}

/// Where the ends find each other. libxenvchan has room for 64 bytes, the nul and the key among them, and cuts off the rest.
fn path(name: &str) -> String {
    format!("/local/domain/0/data/{name}")
}

fn both_ends(channel: &Channel) -> String {
    let Channel { name, server, client, mode, sizes: [to_server, to_client] } = channel;
    let path = path(name);
    format!(
        "background {name}-server {server} serve 0 {path} {mode} {to_server} {to_client}\n\
         ready {name}-server 20 ready\n\
         record {name}-client {client} connect 0 {path} {mode}\n\
         finish {name}-server 20\n"
    )
}

/// A name, the end that is killed, the end that must notice.
fn deaths() -> [(&'static str, [&'static str; 2], [&'static str; 2]); 4] {
    [
        ("our-client-dies", [OURS, "connect"], [C, "serve"]),
        ("our-server-dies", [OURS, "serve"], [C, "connect"]),
        ("c-client-dies", [C, "connect"], [OURS, "serve"]),
        ("c-server-dies", [C, "serve"], [OURS, "connect"]),
    ]
}

fn death(name: &str, [dies, role]: &[&str; 2], [stays, other]: &[&str; 2]) -> String {
    let path = path(name);
    let start = |what: &str, program: &str, role: &str| {
        format!(
            "background {name}-{what} {program} {role} 0 {path} wait\n\
             ready {name}-{what} 20 ready\n"
        )
    };
    let (dies, stays) = (start("dies", dies, role), start("stays", stays, other));
    let ends = if *role == "serve" { dies + &stays } else { stays + &dies };
    format!("{ends}finish {name}-dies 10 KILL\nfinish {name}-stays 20\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_there_before_the_client_whoever_dies() {
        for (name, dies, stays) in deaths() {
            let script = death(name, &dies, &stays);
            let at = |what: &str| script.find(&format!("{what} 0 /")).expect("both roles");
            assert!(at("serve") < at("connect"), "{script}");
        }
    }

    #[test]
    fn every_channel_has_a_name_of_its_own_and_an_end_of_ours() {
        let all = channels();
        let names: std::collections::BTreeSet<_> = all.iter().map(|c| &c.name).collect();
        assert_eq!((names.len(), all.len()), (18, 18));
        assert!(all.iter().all(|c| c.server == OURS || c.client == OURS));
        let longest = names.iter().map(|n| path(n).len() + "/event-channel".len()).max();
        assert!(longest < Some(64), "libxenvchan cuts off what is longer: {longest:?}");
    }
}
