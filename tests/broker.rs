//! The part that handles guests in a process that has nothing but a socket to a broker: it maps, lets go, and ends, well or
//! not; whatever it leaves is given back.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use integration::world::DOM0;
use mock_xen::{Caller, Config, DomainConfig, Fault, FaultPlan, Iommu, Machine, Moment, Profile, Site, When};
use pviommu::{Broker, DeviceFlush, Reclaimed};
use tempfile::TempDir;
use xen_ioreq::abi::dm_op::{PAYLOAD_OFFSET, XEN_DMOP_create_ioreq_server, xen_dm_op_create_ioreq_server};
use xen_ioreq::seam::DmOp;
use xen_ioreq::{DomId, Gfn};
use zerocopy::FromBytes;

/// Hypervisors with `iommu_op`: we choose bus frames, or are told them.
const KINDS: [(Profile, Iommu); 3] =
    [(Profile::Draft, Iommu::On), (Profile::Draft, Iommu::Absent), (Profile::Xs, Iommu::OneToOne)];
const FRAMES: u64 = 64;

/// A machine with a guest and an IOREQ server for it, which outlive brokers.
struct Host {
    machine: Arc<Machine>,
    domid: DomId,
    server: u16,
    ledger: TempDir,
}

/// Nothing is in flight.
struct Idle;

impl DeviceFlush for Idle {
    fn flush(&self) {}
}

impl Host {
    fn new((profile, iommu): (Profile, Iommu)) -> Self {
        let machine = Machine::new(Config { frames: 1024, profile, iommu, ..Config::default() }).unwrap();
        let domid = machine.create_domain(&DomainConfig::default()).unwrap();
        machine.populate(domid, Gfn(0), FRAMES).unwrap();
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&XEN_DMOP_create_ioreq_server.to_le_bytes());
        machine.caller(DOM0).unwrap().dm_op(domid, &mut [&mut bytes]).unwrap();
        let created = xen_dm_op_create_ioreq_server::read_from_prefix(&bytes[PAYLOAD_OFFSET..]).unwrap().0;
        let server = created.id;
        Self { machine, domid, server, ledger: TempDir::new().unwrap() }
    }

    fn caller(&self) -> Arc<Caller> {
        Arc::new(self.machine.caller(DOM0).unwrap())
    }

    fn broker(&self, caller: &Arc<Caller>) -> Broker {
        Broker::with_ledger(caller.clone(), &self.ledger.path().join("ledger")).unwrap()
    }

    /// Runs the other program against a broker, as long as that lives.
    fn run(&self, broker: &mut Broker, how: &str) -> (Output, io::Result<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_brokered"))
            .args([how, &self.domid.0.to_string(), &self.server.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let end = broker.serve(&ours, &|domid| domid == self.domid);
        drop(ours);
        (child.wait_with_output().unwrap(), end)
    }

    fn refs(&self) -> u32 {
        (0..FRAMES).map(|g| self.machine.references(self.domid, Gfn(g)).unwrap() - 1).sum()
    }
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // Which mode it is.
    if lines.len() > 1 {
        lines.remove(1);
    }
    lines
}

#[test]
fn a_process_that_has_only_a_socket_maps_and_lets_go() {
    for kind in KINDS {
        let host = Host::new(kind);
        let mut broker = host.broker(&host.caller());
        let (output, end) = host.run(&mut broker, "well");
        assert_eq!(
            lines(&output),
            ["confined", "mapped 8", "released 4", "stale 0", "released 4"],
            "{output:?}"
        );
        assert!(output.status.success() && end.is_ok(), "{output:?} {end:?}");
        assert_eq!((broker.left(), host.refs()), (0, 0));
        host.machine.assert_clean();
    }
}

#[test]
fn what_a_process_leaves_behind_however_it_ends_is_given_back() {
    for kind in KINDS {
        for how in ["early", "torn"] {
            let host = Host::new(kind);
            let mut broker = host.broker(&host.caller());
            let (output, end) = host.run(&mut broker, how);
            assert_eq!(lines(&output), ["confined", "mapped 8", "released 4", "stale 0"], "{output:?}");
            if how == "torn" {
                assert_eq!(output.status.signal(), Some(libc::SIGABRT));
                assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
            assert_eq!((broker.left(), host.refs()), (4, 4));
            assert_eq!(broker.release_left(&Idle), Reclaimed { mappings: 4, ..Reclaimed::default() });
            assert_eq!((broker.left(), host.refs()), (0, 0));
            // The next one has the same broker.
            let (output, _) = host.run(&mut broker, "well");
            assert!(output.status.success(), "{output:?}");
            host.machine.assert_clean();
        }
    }
}

#[test]
fn a_broker_that_is_killed_at_any_of_its_calls_loses_nothing() {
    for kind in KINDS {
        let mut calls = 0;
        for nth in 1.. {
            let host = Host::new(kind);
            let caller = host.caller();
            host.machine.inject(FaultPlan::one(Site::IommuCall, When::Nth(nth), Fault::Kill(Moment::After)));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut broker = host.broker(&caller);
                let (output, _) = host.run(&mut broker, "well");
                assert!(output.status.success());
            }));
            host.machine.inject(FaultPlan::default());
            if ended.is_ok() {
                break;
            }
            calls = nth;
            let mut broker = host.broker(&host.caller());
            let released = broker.release_left(&Idle);
            assert_eq!((released.kept.len(), host.refs()), (0, 0), "{kind:?}, call {nth}: {released}");
            let (output, _) = host.run(&mut broker, "well");
            assert!(output.status.success(), "{output:?}");
            host.machine.assert_clean();
        }
        assert!(calls >= 5, "{kind:?}: {calls} calls");
    }
}
