//! What an earlier life has left, given back by the next one; and ledgers that are not what they should be.

mod world;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use mock_xen::{Fault, FaultPlan, Iommu, Profile, Site, When};
use pviommu::{
    BfnSpace, Client, Config, Kept, LedgerError, Mapped, Operation, ReclaimError, Reclaimed, StartError,
    Uncertain,
};
use tempfile::TempDir;
use world::{DOM0, Device, KINDS, Kind, World, own_pages, ports, world, world_with};
use xen_ioreq::abi::dm_op::{PAYLOAD_OFFSET, XEN_DMOP_destroy_ioreq_server, xen_dm_op_destroy_ioreq_server};
use xen_ioreq::abi::iommu_op::IOMMUOP_unmap_foreign_page;
use xen_ioreq::seam::DmOp;
use xen_ioreq::{Bfn, Errno, Gfn, IoServerId};
use zerocopy::IntoBytes;

/// Machines on which the hypervisor tells bus frames.
const TOLD: [Kind; 3] =
    [(Profile::Draft, Iommu::Absent), (Profile::Xs, Iommu::OneToOne), (Profile::Xs, Iommu::Absent)];

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ledger")
    }

    fn config(&self) -> Config {
        let bfns = BfnSpace::new(Bfn(1 << 20)..Bfn((1 << 20) + 5000));
        Config { bfns, ledger: Some(self.path()), ..Config::default() }
    }
}

/// A client's end, at any point: nothing more is said to the hypervisor. The machine stays.
struct Left {
    machine: Arc<mock_xen::Machine>,
    toolstack: world::Toolstack,
    server: IoServerId,
    domid: xen_ioreq::DomId,
    free: u64,
}

fn end(w: World, mapped: Vec<Mapped>) -> Left {
    w.caller.kill();
    drop(mapped);
    let World { machine, guest, toolstack, .. } = w;
    let (server, domid) = (guest.ioserver(), guest.domid());
    let free = machine.free_frames();
    Left { machine, toolstack, server, domid, free }
}

impl Left {
    fn next(&self, place: &Place) -> (Client, Device) {
        let caller = Arc::new(self.machine.caller(DOM0).unwrap());
        let client = Client::start(ports(&caller), place.config()).unwrap();
        let device = Device::new(&self.machine, &client);
        (client, device)
    }

    fn come_back(&self) -> u64 {
        self.machine.free_frames() - self.free
    }
}

fn map(w: &World, gfns: &[u64]) -> Vec<Mapped> {
    w.guest.map(&gfns.iter().copied().map(Gfn).collect::<Vec<_>>()).into_iter().map(Result::unwrap).collect()
}

#[test]
fn what_was_ballooned_out_before_and_after_the_end_comes_back() {
    for kind in TOLD {
        let place = Place::new();
        let w = world_with(kind, place.config());
        let mapped = map(&w, &[1, 2, 3, 4]);
        w.balloon_out(Gfn(2));
        let left = end(w, mapped);
        left.toolstack.balloon_out(left.domid, Gfn(3));
        let (client, device) = left.next(&place);
        let wanted = Reclaimed { mappings: 4, ..Reclaimed::default() };
        assert_eq!(client.reclaim(left.server, &device), Ok(wanted), "{kind:?}");
        assert_eq!(left.come_back(), 2);
        assert_eq!(client.reclaim(left.server, &device), Ok(Reclaimed::default()), "once");
        drop((client, device));
        assert_eq!(left.next(&place).0.reclaim(left.server, &NoDevice), Ok(Reclaimed::default()));
        left.machine.assert_clean();
    }
}

/// Has no translations.
struct NoDevice;

impl pviommu::DeviceFlush for NoDevice {
    fn flush(&self) {}
}

#[test]
fn a_window_is_given_back_server_by_server() {
    let place = Place::new();
    let w = world_with(KINDS[0], place.config());
    let mapped = map(&w, &[1, 2, 3]);
    let own = own_pages(&w.client, &w.caller, 2);
    w.balloon_out(Gfn(2));
    let left = end(w, mapped);
    drop(own);
    let (client, device) = left.next(&place);
    let other = IoServerId(left.server.0 + 1);
    assert_eq!(client.reclaim(other, &device), Ok(Reclaimed { own: 2, ..Reclaimed::default() }));
    assert_eq!(left.come_back(), 2, "the pages were dom0's");
    let wanted = Reclaimed { mappings: 3, ..Reclaimed::default() };
    assert_eq!(client.reclaim(left.server, &device), Ok(wanted));
    assert_eq!(left.come_back(), 3);
    left.machine.assert_clean();
}

#[test]
fn nothing_is_reclaimed_while_bus_frames_are_in_use() {
    for kind in KINDS {
        let w = world(kind);
        let _mapped = map(&w, &[1]);
        assert_eq!(w.client.reclaim(w.guest.ioserver(), &w.device), Err(ReclaimError::InUse));
    }
}

#[test]
fn what_died_with_its_domain_is_counted_and_nothing_else() {
    for kind in TOLD {
        let place = Place::new();
        let w = world_with(kind, place.config());
        let mapped = map(&w, &[1, 2, 3]);
        let left = end(w, mapped);
        left.machine.destroy_domain(left.domid).unwrap();
        let (client, device) = left.next(&place);
        let wanted = match kind.0 {
            Profile::Xs => Reclaimed { gone: 3, ..Reclaimed::default() },
            _ => Reclaimed { mappings: 3, ..Reclaimed::default() },
        };
        assert_eq!(client.reclaim(left.server, &device), Ok(wanted));
        assert_eq!(left.machine.domain_info(left.domid), None, "no zombie");
        left.machine.assert_clean();
    }
}

#[test]
fn what_is_refused_stays_for_the_next_time() {
    for kind in TOLD {
        let place = Place::new();
        let w = world_with(kind, place.config());
        let mapped = map(&w, &[1, 2, 3]);
        let second = mapped[1].bfn();
        let left = end(w, mapped);
        let (client, device) = left.next(&place);
        let site = Site::IommuOp(Some(IOMMUOP_unmap_foreign_page));
        left.machine.inject(FaultPlan::one(site, When::Nth(2), Fault::Error(Errno::EIO)));
        let kept = vec![Kept { op: Operation::UnmapForeignPage, bfn: second, errno: Errno::EIO }];
        let wanted = Reclaimed { mappings: 2, kept, ..Reclaimed::default() };
        assert_eq!(client.reclaim(left.server, &device), Ok(wanted));
        drop((client, device));
        // A whole call that fails is an error, and nothing is forgotten either.
        let (client, device) = left.next(&place);
        left.machine.inject(FaultPlan::one(Site::IommuCall, When::Nth(1), Fault::Error(Errno::ENOMEM)));
        let refused = ReclaimError::Refused { ioserver: left.server, errno: Errno::ENOMEM };
        assert_eq!(client.reclaim(left.server, &device), Err(refused));
        let wanted = Reclaimed { mappings: 1, ..Reclaimed::default() };
        assert_eq!(client.reclaim(left.server, &device), Ok(wanted));
        assert_eq!((1..4).filter(|g| left.machine.references(left.domid, Gfn(*g)) != Ok(1)).count(), 0);
    }
}

#[test]
fn a_lookup_of_which_nobody_knows_is_looked_for_though_its_server_has_gone() {
    let place = Place::new();
    let w = world_with(TOLD[0], place.config());
    w.machine.inject(FaultPlan::one(Site::IommuCall, When::Nth(1), Fault::Error(Errno::EFAULT)));
    assert!(w.guest.map(&[Gfn(1), Gfn(2)]).iter().all(Result::is_err));
    let mapped = map(&w, &[3]);
    let left = end(w, mapped);
    let server = left.toolstack.server(left.domid);
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&XEN_DMOP_destroy_ioreq_server.to_le_bytes());
    let payload = xen_dm_op_destroy_ioreq_server { id: left.server.0, ..Default::default() };
    bytes[PAYLOAD_OFFSET..][..size_of_val(&payload)].copy_from_slice(payload.as_bytes());
    let caller = Arc::new(left.machine.caller(DOM0).unwrap());
    caller.dm_op(left.domid, &mut [&mut bytes]).unwrap();
    left.toolstack.balloon_out(left.domid, Gfn(2));
    let (client, device) = left.next(&place);
    let domid = left.domid;
    let lookup = |gfn, found| Uncertain::Lookup { domid, gfn: Gfn(gfn), found };
    let reclaimed = client.reclaim(server, &device).unwrap();
    assert_eq!(reclaimed.uncertain, [lookup(1, true), lookup(2, false)]);
    assert_eq!(reclaimed.mappings, 2, "{reclaimed}");
    assert_eq!(
        reclaimed.to_string(),
        format!(
            "an earlier life left 2 mappings and 0 own pages, given back; 1 had gone; unknown: {domid} gfn 0x1 (found again); unknown: {domid} gfn 0x2"
        )
    );
    assert_eq!(left.machine.references(domid, Gfn(1)), Ok(1));
    drop((client, device));
    let (client, device) = left.next(&place);
    let wanted = Reclaimed { uncertain: vec![lookup(2, false)], ..Reclaimed::default() };
    assert_eq!(client.reclaim(left.server, &device), Ok(wanted), "what nobody can know is said again");
    left.machine.assert_clean();
}

#[test]
fn a_damaged_ledger_never_makes_a_bus_frame_up() {
    for kind in TOLD {
        let place = Place::new();
        let w = world_with(kind, place.config());
        let mapped = map(&w, &(0..32).collect::<Vec<_>>());
        let left = end(w, mapped);
        let whole = fs::read(place.path()).unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut damaged = 0;
        for _ in 0..200 {
            let mut bytes = whole.clone();
            // Past the header: that one is refused.
            for _ in 0..8 {
                bytes[rng.usize(64..64 + 64 * 32)] = rng.u8(..);
            }
            fs::write(place.path(), &bytes).unwrap();
            let (client, device) = left.next(&place);
            let reclaimed = client.reclaim(left.server, &device).unwrap();
            damaged += reclaimed.damaged;
            left.machine.assert_clean();
        }
        assert!(damaged > 1000);
    }
}

#[test]
fn a_ledger_that_is_none_is_said_in_one_line() {
    let place = Place::new();
    fs::write(place.path(), "certainly not a ledger, whoever put it here, and of no use to anybody").unwrap();
    for kind in KINDS {
        let machine = world::machine(kind);
        let caller = Arc::new(machine.caller(DOM0).unwrap());
        let started = Client::start(ports(&caller), place.config());
        if kind.0 == Profile::Stock {
            assert!(started.is_ok(), "it is not needed there");
            continue;
        }
        let e = started.unwrap_err();
        assert_eq!(e, StartError::Ledger { path: place.path(), error: LedgerError::Foreign });
        let path = place.path().display().to_string();
        assert_eq!(e.to_string(), format!("the ledger {path}: it is no ledger: name another file"));
    }
}
