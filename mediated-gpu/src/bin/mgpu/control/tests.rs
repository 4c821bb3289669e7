use std::fs;
use std::io::Read as _;
use std::thread::JoinHandle;

use clap::Parser as _;
use guest::RamRange;
use guest::model::ModelCpu;
use guest::run::{self, Report};
use guest::scene;
use mediated_gpu::vgpu::slice::VgpuType;
use mio::{Events, Poll};
use tempfile::TempDir;
use xen_ioreq::{DomId, VcpuId};

use super::*;
use crate::demo::world::{GUEST_FRAMES, RAM, World};

const GUEST: DomId = DomId(3);

/// A guest of the model, served, and an operator's socket beside it.
struct Rig {
    dir: TempDir,
    world: World,
    service: Service,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    fn new(with_pictures: bool) -> Self {
        let args = cli::Args::try_parse_from(["mgpu", "demo", "--guests", "1"]).unwrap();
        let cli::Command::Demo(args) = args.command else { unreachable!("it says demo") };
        let world = World::new(&args).unwrap();
        let service = world.serve(GUEST).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let pictures =
            with_pictures.then(|| Arc::new(Pictures::open(&dir.path().join("out"), GUEST, None).unwrap()));
        let control = bind(&dir.path().join("socket")).unwrap();
        let served = Served::of(&service, cli::Type(VgpuType::V4_8), Instant::now(), pictures);
        let guests = service.handle().clone();
        // As `Reasons::wait` does.
        let thread = std::thread::spawn(move || {
            let (mut poll, token) = (Poll::new().unwrap(), Token(7));
            let mut operator = Operator::start(control, served, guests, poll.registry(), token).unwrap();
            let mut events = Events::with_capacity(4);
            while !operator.is_stopping() {
                poll.poll(&mut events, operator.has_more().then_some(Duration::ZERO)).unwrap();
                operator.serve().unwrap();
            }
        });
        Self { dir, world, service, thread: Some(thread) }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("socket")).unwrap()
    }

    /// The lines that come back.
    fn ask(&self, command: &str) -> Vec<String> {
        let mut peer = self.connect();
        peer.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(peer).lines() {
            lines.push(line.unwrap());
            if lines.last().is_some_and(|l| l == "ok" || l.starts_with("error: ")) {
                return lines;
            }
        }
        panic!("no answer to {command}: {lines:?}");
    }

    fn draw(&self) -> Report {
        let ram = vec![RamRange { first: RAM, frames: GUEST_FRAMES }];
        let vcpu = self.world.machine.vcpu(GUEST, VcpuId(0)).unwrap();
        let mut cpu = ModelCpu::new(vcpu, ram, Arc::default(), Box::new(|_| ()));
        let config = run::Config { seed: 5, frames: Some(2), ..run::Config::default() };
        run::run(&mut cpu, &config, &mut vec![0; scene::PIXELS]).unwrap()
    }

    /// The operator's thread, which has been told to end.
    fn end(mut self) {
        self.thread.take().unwrap().join().unwrap();
        let Self { world, service, .. } = self;
        drop(service);
        world.machine.destroy_domain(GUEST).unwrap();
        let mut problems = Vec::new();
        world.judge(&mut problems);
        assert_eq!(problems, Vec::<String>::new());
    }
}

/// The value in a line of JSON.
fn value(json: &str, name: &str) -> u64 {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {json}"));
    rest.split([',', '}']).next().unwrap().parse().unwrap()
}

#[test]
fn an_operator_sees_figures_takes_a_picture_resets_and_stops() {
    let rig = Rig::new(true);
    let before = rig.ask("status");
    assert_eq!((before.len(), before[1].as_str()), (2, "ok"));
    assert!(before[0].starts_with("{\"domid\":3,\"type\":\"V4_8\",\"seconds\":") && before[0].ends_with('}'));
    assert_eq!(value(&before[0], "submissions"), 0);
    // Nothing is shown yet.
    assert!(rig.ask("picture")[0].starts_with("error: "));

    let drawn = rig.draw();
    assert_eq!((drawn.frames_drawn, drawn.checks_failed), (2, 0));
    let after = rig.ask("status");
    assert!(value(&after[0], "submissions") >= 2 && value(&after[0], "mmio") > 0, "{after:?}");
    let path = rig.dir.path().join("out/dom3.png");
    assert_eq!(rig.ask("picture"), [format!("{} (0 pages ballooned out)", path.display()), "ok".to_owned()]);
    let mut reader = png::Decoder::new(BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut rgb).unwrap();
    let mut wanted = vec![0; scene::PIXELS];
    scene::reference(5, GUEST.0, scene::FINAL, &mut wanted);
    assert!(rgb.as_chunks::<3>().0.iter().map(|[r, g, b]| u32::from_be_bytes([0, *r, *g, *b])).eq(wanted));

    let resets = rig.service.vgpu().statistics().guest_resets;
    assert_eq!(rig.ask("reset"), ["ok"]);
    assert!(rig.service.vgpu().statistics().guest_resets > resets);
    // The guest's driver comes up again.
    assert_eq!(rig.draw().checks_failed, 0);
    assert_eq!(rig.ask("guests")[1], "ok");
    assert_eq!(rig.ask("stop"), ["ok"]);
    rig.end();
}

#[test]
fn hostile_peers_cost_the_operator_nothing() {
    let rig = Rig::new(false);
    let mut silent = rig.connect();
    let mut endless = rig.connect();
    // It is cut off; where that shows depends on how far the writer is by then.
    let cut = (0..64).any(|_| endless.write_all(&[b'x'; 1024]).is_err())
        || !matches!(endless.read(&mut [0; 16]), Ok(n) if n > 0);
    assert!(cut);
    let mut deaf = rig.connect();
    deaf.set_nonblocking(true).unwrap();
    // Until its answers, which it does not read, keep the operator from hearing it.
    while deaf.write(&b"status\n".repeat(64)).is_ok() {}
    for (asked, answer) in [
        ("", "ok"),
        ("picture", "error: mgpu was started without --out"),
        ("reset now", "error: takes nothing after it"),
        ("rm -rf /", "error: no such command: rm; try help"),
        ("status\u{0}", "error: no such command: status\\u{0}; try help"),
    ] {
        assert_eq!(rig.ask(asked), [answer]);
    }
    silent.write_all(b"\xff\xfe\n").unwrap();
    let mut said = [0; 17];
    silent.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"error: not UTF-8\n");
    assert_eq!(rig.ask("stop"), ["ok"]);
    rig.end();
}

#[test]
fn ask_ends_as_the_answer_does() {
    let rig = Rig::new(false);
    let socket = rig.dir.path().join("socket");
    let ask = |words: &[&str]| {
        let command = words.iter().map(|w| (*w).to_owned()).collect();
        super::ask(&cli::Ask { socket: socket.clone(), command }).map_err(|e| e.to_string())
    };
    assert!(ask(&["status"]).is_ok() && ask(&["stats", "3"]).is_ok());
    assert_eq!(ask(&["picture"]).unwrap_err(), "mgpu was started without --out");
    assert!(ask(&["stop"]).is_ok());
    rig.end();
    let gone = ask(&["status"]).unwrap_err();
    assert!(gone.contains("socket") && gone.contains("--control"), "{gone}");
}

#[test]
fn a_socket_that_is_in_use_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    fs::write(&path, "").unwrap();
    let why = bind(&path).err().unwrap().to_string();
    assert!(why.starts_with("--control ") && why.ends_with("remove it"), "{why}");
    let why = bind(&dir.path().join("none/socket")).err().unwrap().to_string();
    assert!(why.starts_with("--control ") && why.lines().count() == 1, "{why}");
}
