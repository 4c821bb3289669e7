//! The byte channel between a stock Linux guest and dom0, each as server and as client, against libxenvchan and against our own
//! other end; and what dom0's ends do when the guest is destroyed while bytes flow.

use std::time::Duration;

use super::{Checks, Run, Scenario};
use crate::cpio::Tree;
use crate::error::Result;
use crate::kit::Kit;
use crate::linux::{Kind, Linux};
use crate::qemu::Machine;

const INIT: &str = include_str!("../../linux/channel");

/// What the two ends need: events, mapping, granting. XenStore's device is part of the kernel.
const MODULES: &[(&str, &str)] = &[
    ("xen-evtchn", "drivers/xen/xen-evtchn.ko"),
    ("xen-gntdev", "drivers/xen/xen-gntdev.ko"),
    ("xen-gntalloc", "drivers/xen/xen-gntalloc.ko"),
];

/// The two programs that speak the protocol.
const OURS: &str = "channel-peer";
const C: &str = "vchan-peer";

/// See [`Scenario::about`].
#[derive(Debug)]
pub(super) struct Channel;

/// Where an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Guest,
    Dom0,
}

/// One channel. The server is at `server`, the client on the other side.
#[derive(Clone, Debug)]
struct Pair {
    name: String,
    server: Side,
    /// Programs: server's, client's.
    programs: [&'static str; 2],
    mode: &'static str,
    sizes: [u32; 2],
}

impl Pair {
    /// The runs of an end on `side`: how they are called, and what they do. The domain on the other side is `peer`, the
    /// guest's own number `guest`.
    fn ends(&self, side: Side, peer: &str, guest: &str) -> Vec<(String, String)> {
        let Self { name, server, programs: [serves, connects], mode, sizes: [to_server, to_client] } = self;
        let home = if *server == Side::Guest { guest } else { "0" };
        let path = format!("/local/domain/{home}/data/{name}");
        if side == *server {
            let command = format!("{serves} serve {peer} {path} {mode} {to_server} {to_client}");
            return vec![(format!("{name}-server"), command)];
        }
        let clients = if *mode == "twice" { 2 } else { 1 };
        let command = format!("{connects} connect {peer} {path} {mode}");
        (1..=clients).map(|i| (format!("{name}-client{i}"), command.clone())).collect()
    }
}

/// Those that come to their end, each after the one before.
fn pairs() -> Vec<Pair> {
    let mut all = Vec::new();
    let of = |program| if program == OURS { "ours" } else { "c" };
    for (at, server) in [("guest", Side::Guest), ("dom0", Side::Dom0)] {
        for programs in [[OURS, C], [C, OURS], [OURS, OURS]] {
            for (mode, sizes) in
                [("stream", [16384, 65536]), ("packet", [1024, 2048]), ("twice", [2048, 4096])]
            {
                let name = format!("{at}-{}-{}-{mode}", of(programs[0]), of(programs[1]));
                // One kind of server in each place is enough to show that it outlives its clients.
                if mode != "twice" || programs[0] != programs[1] {
                    all.push(Pair { name, server, programs, mode, sizes });
                }
            }
        }
    }
    all
}

/// Those in which the guest dies: dom0's ends are ours.
fn deaths() -> Vec<Pair> {
    let of = |name: &str, server, programs| {
        let (mode, sizes) = ("endless", [4096, 16384]);
        Pair { name: name.to_owned(), server, programs, mode, sizes }
    };
    vec![
        of("our-server-dies", Side::Guest, [OURS, OURS]),
        of("c-server-dies", Side::Guest, [C, OURS]),
        of("our-client-dies", Side::Dom0, [OURS, OURS]),
        of("c-client-dies", Side::Dom0, [OURS, C]),
    ]
}

impl Scenario for Channel {
    fn name(&self) -> &'static str {
        "channel"
    }

    fn about(&self) -> &'static str {
        "the byte channel between a stock Debian guest and dom0, both ways, and the guest destroyed while bytes flow"
    }

    fn machine(&self) -> Machine {
        Machine { memory: 1280, dom0_memory: 640, timeout: Duration::from_secs(1200), ..Machine::default() }
    }

    fn prepare(&self, kit: &Kit, files: &mut Tree) -> Result<String> {
        let programs = [kit.example(OURS)?, kit.c_vchan()?];
        for program in &programs {
            kit.install(files, program)?;
        }
        kit.install(files, &kit.program("mgpu")?)?;
        let guest_s = |how: &str, pairs: &[Pair]| -> String {
            let ends = pairs.iter().flat_map(|pair| pair.ends(Side::Guest, "0", &DOMAIN.to_string()));
            ends.map(|(name, command)| format!("{name} {how} {command}\n")).collect()
        };
        let ends = guest_s("after", &pairs()) + &guest_s("beside", &deaths());
        let extra = [("ends", 0o644, ends.as_bytes())];
        let linux = Linux { init: INIT, modules: MODULES, files: &extra, programs: &programs };
        kit.install_linux(files, Kind::Pvh, linux)?;
        let dom0_s = |pairs: &[Pair]| -> Vec<(String, String)> {
            pairs.iter().flat_map(|pair| pair.ends(Side::Dom0, "$DOMID", "$DOMID")).collect()
        };
        // What finds no other end is killed, so that the rest is heard of.
        let one_by_one: String = dom0_s(&pairs())
            .iter()
            .map(|(name, command)| format!("background {name} {command}\nfinish {name} 40\n"))
            .collect();
        let dying = dom0_s(&deaths());
        let start: String = dying.iter().map(|(name, c)| format!("background {name} {c}\n")).collect();
        let flow: String = dying.iter().map(|(name, _)| format!("ready {name} 60 flows\n")).collect();
        let ends: String = dying.iter().map(|(name, _)| format!("finish {name} 20\n")).collect();
        Ok(format!(
            "linux first 256 console=hvc0 loglevel=4\n\
             xl destroy first\n\
             forgotten $DOMID 20\n\
             free_frames free-before\n\
             linux stock 256 console=hvc0 loglevel=4\n\
             xl unpause stock || say FAILED xl unpause\n\
             {one_by_one}{start}{flow}\
             record destroy xl destroy stock\n\
             {ends}\
             forgotten $DOMID 20\n\
             free_frames free-after $(cat /results/free-before.out)\n\
             record nodes xenstore-ls /local/domain/0/data\n\
             record domains xl list\n"
        ))
    }

    fn judge(&self, _kit: &Kit, run: &Run, checks: &mut Checks) -> Result<()> {
        let log = run.text("guest-stock.log");
        for pair in pairs() {
            for (name, _) in pair.ends(Side::Dom0, "", "") {
                checks.succeeded(run, &name);
                checks.equal(
                    &format!("{name} says"),
                    run.text(&format!("{name}.out")).as_str(),
                    "ready\ndone\n",
                );
            }
            for (name, _) in pair.ends(Side::Guest, "", "") {
                checks.equal(&format!("the guest's {name}"), ended(&log, &name), Some("0 done"));
            }
        }
        checks.succeeded(run, "destroy");
        for pair in deaths() {
            for (name, _) in pair.ends(Side::Dom0, "", "") {
                checks.succeeded(run, &name);
                let said = run.text(&format!("{name}.out"));
                checks.equal(&format!("{name} says"), said.as_str(), "ready\nflows\ndone\n");
            }
            for (name, _) in pair.ends(Side::Guest, "", "") {
                checks.equal(&format!("the guest's {name} never ends"), ended(&log, &name), None);
            }
        }
        let free = |name: &str| run.text(&format!("{name}.out")).trim().parse::<u64>().ok();
        checks.that(free("free-before").is_some(), "the host's free frames can be counted");
        checks.equal("after the guest has gone nothing is missing", free("free-after"), free("free-before"));
        checks.equal("no domain is left", run.text("domains.out").lines().count(), 2);
        checks.that(!log.contains("GUEST: FAILED"), "the guest's modules load");
        checks.equal("no server has left its address", run.text("nodes.out").trim(), "");
        Ok(())
    }
}

/// The guest's number: it is the second of this boot. The first only makes Xen allocate what it keeps.
const DOMAIN: u32 = 2;

/// What the guest says of an end: its status and its last line.
fn ended<'a>(log: &'a str, name: &str) -> Option<&'a str> {
    log.lines()
        .find_map(|l| l.trim_end().strip_prefix("GUEST: ")?.strip_prefix(name)?.strip_prefix(" status "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> Vec<Pair> {
        [pairs(), deaths()].concat()
    }

    #[test]
    fn every_channel_has_a_name_of_its_own_two_ends_and_one_of_them_ours() {
        let names: BTreeSet<_> = all().iter().map(|p| p.name.clone()).collect();
        assert_eq!((names.len(), all().len()), (20, 20));
        for pair in all() {
            let count = |side| pair.ends(side, "0", "2").len();
            assert_eq!(count(pair.server), 1);
            assert_eq!(count(Side::Guest) + count(Side::Dom0), if pair.mode == "twice" { 3 } else { 2 });
            assert!(pair.programs.contains(&OURS));
        }
    }

    #[test]
    fn both_ends_of_a_channel_have_one_path_that_libxenvchan_does_not_cut_off() {
        for pair in all() {
            let paths: BTreeSet<String> = [Side::Guest, Side::Dom0]
                .iter()
                .flat_map(|side| pair.ends(*side, "0", "2"))
                .filter_map(|(_, command)| command.split(' ').nth(3).map(str::to_owned))
                .collect();
            assert_eq!(paths.len(), 1, "{paths:?}");
            assert!(paths.iter().all(|p| p.len() <= 49), "{paths:?}");
        }
    }

    #[test]
    fn what_the_guest_says_of_an_end_is_found_by_its_whole_name() {
        let log = "GUEST: a-server1 status 1 no\r\nGUEST: a-server status 0 done\r\n";
        assert_eq!(ended(log, "a-server"), Some("0 done"));
        assert_eq!(ended(log, "a"), None);
    }
}
