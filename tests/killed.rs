//! A device model that is killed, and the next one: the guest finds its GPU where it had put it, as after a reset, and nothing
//! is lost, of the host or of Xen.

use std::path::Path;
use std::sync::{Arc, mpsc};

use integration::drawing::Switch;
use integration::world::{FRAMES, RAM, shown};
use integration::{Painter, Profile, World, bounded, join};
use ioreq_server::{Connection, Incarnation, Record};
use mediated_gpu::mediator::{Legacy, TABLE_FRAMES};
use mediated_gpu::service::Service;
use mock_xen::DomainConfig;
use rustix::fs::FlockOperation;
use xen_ioreq::{DomId, Gfn, IoServerId};

const COLOUR: u32 = 0x27_1828;
/// Where the frames of a table wait for the guest to place its BAR.
const PARKED: Gfn = Gfn(0xf0_0000);

/// A process that serves a guest. Of stock Xen, where `mgpu serve` runs: all that it reaches of its guest is mapped by itself.
struct Process {
    own: World,
    record: Arc<Record>,
    service: Service,
}

fn record(path: &Path, domid: DomId) -> Arc<Record> {
    let guest = Incarnation { domid, uuid: [1; 16], shared_info: 2, boot: [3; 16] };
    Arc::new(Record::open(path, guest).unwrap())
}

impl Process {
    /// As `mgpu serve` does it.
    fn start(world: &World, domid: DomId, path: &Path) -> Self {
        let own = world.another();
        let record = record(path, domid);
        let left = Legacy::from_bytes(&record.note()).unwrap();
        let parked = || world.machine.references(domid, PARKED).is_ok().then_some(PARKED);
        let table = left.find_table(&*own.dom0, domid).or_else(parked);
        let conn = Connection::new(own.dom0.clone(), own.dom0.clone()).with_pauses(own.dom0.clone());
        let (mediator, options) = (own.mediator.as_ref().unwrap(), World::options(table));
        let service = Service::succeed(&conn, &own.client, mediator, domid, options, &record).unwrap();
        Self { own, record, service }
    }

    /// SIGKILL: it stands still, and the kernel takes what it had. Xen keeps its server.
    fn kill(self) {
        let (tell, told) = mpsc::channel();
        self.service.handle().call(move |_| {
            tell.send(()).unwrap();
            loop {
                std::thread::park();
            }
        });
        bounded("its standstill", move || told.recv().unwrap());
        // Nothing more is asked of its other threads, either.
        self.service.vgpu().settle();
        self.own.dom0.kill();
        rustix::fs::flock(&self.record, FlockOperation::Unlock).unwrap();
        std::mem::forget(self);
    }

    fn stop(self) {
        let Self { own, record, service } = self;
        bounded("the service's end", || service.stop());
        drop((own, record));
    }
}

/// A guest with RAM, and frames for its table if it is to have one in memory.
fn domain(world: &World, with_table: bool) -> DomId {
    let max_pages = FRAMES + u64::from(TABLE_FRAMES);
    let domid = world.machine.create_domain(&DomainConfig { max_pages, ..DomainConfig::default() }).unwrap();
    world.machine.populate(domid, RAM, FRAMES).unwrap();
    if with_table {
        world.machine.populate(domid, PARKED, TABLE_FRAMES.into()).unwrap();
    }
    domid
}

/// Whether the picture is of one colour.
fn is_filled(service: &Service, colour: u32) -> bool {
    shown(service).iter().all(|p| *p == colour)
}

#[test]
fn a_guest_whose_device_model_was_killed_goes_on_with_the_next_from_a_reset() {
    for with_table in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let world = World::new(Profile::Stock);
        let domid = domain(&world, with_table);
        let mut process = Process::start(&world, domid, &path);
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR));
        for life in 1..=3 {
            process.kill();
            let left = record(&path, domid).left();
            assert_eq!(left.len(), 1, "one server, however often it was killed before");
            // An access that nobody answers.
            let waiting = std::thread::spawn(move || {
                painter.gpu.read32(&mut painter.cpu, 0x7_8000);
                painter
            });
            process = Process::start(&world, domid, &path);
            painter = join("the waiting vCPU", waiting);
            assert!(process.record.left().is_empty());
            assert!(process.service.vgpu().surface().is_err(), "its display is off");
            // What a driver does with a GPU that does not answer: no word of where its BARs are.
            painter.reset();
            if !with_table {
                (0..painter.gpu.layout.pages).for_each(|p| painter.gpu.map_page(&mut painter.cpu, p));
                painter.gpu.flush_gtt(&mut painter.cpu);
            }
            let canvas = painter.canvas();
            painter.gpu.display_on(&mut painter.cpu, canvas);
            assert!(painter.fill(COLOUR + life), "it draws");
            assert!(is_filled(&process.service, COLOUR + life));
        }
        process.stop();
        let dm = Connection::new(world.dom0.clone(), world.dom0.clone()).dm(domid);
        assert!((0..8).all(|id| dm.destroy_server(IoServerId(id)).is_err()), "no server is left");
        drop(painter);
        world.end();
    }
}

#[test]
fn one_that_ended_well_leaves_where_the_guest_had_put_its_gpu_and_nothing_in_xen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let world = World::new(Profile::Stock);
    let domid = domain(&world, true);
    let process = Process::start(&world, domid, &path);
    let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
    assert!(painter.fill(COLOUR));
    process.stop();
    assert!(record(&path, domid).left().is_empty());

    let process = Process::start(&world, domid, &path);
    painter.reset();
    let canvas = painter.canvas();
    painter.gpu.display_on(&mut painter.cpu, canvas);
    assert!(painter.fill(COLOUR + 1));
    assert!(is_filled(&process.service, COLOUR + 1));
    process.stop();
    drop(painter);
    world.end();
}

#[test]
fn a_note_that_makes_no_sense_gives_the_guest_a_new_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    for note in
        [b"?".to_vec(), vec![1; 300], Legacy { table: vec![RAM], config: Some([0xff; 256]) }.to_bytes()]
    {
        let world = World::new(Profile::Draft);
        let domid = domain(&world, false);
        record(&path, domid).keep(&note).unwrap();
        let conn = Connection::new(world.dom0.clone(), world.dom0.clone()).with_pauses(world.dom0.clone());
        let (mediator, record) = (world.mediator.as_ref().unwrap(), record(&path, domid));
        let options = World::options(None);
        let service = Service::succeed(&conn, &world.client, mediator, domid, options, &record).unwrap();
        let mut painter = Painter::new(world.cpu(domid, &Switch::default()));
        assert!(painter.fill(COLOUR) && is_filled(&service, COLOUR));
        drop((service, record, painter));
        world.end();
    }
}
