use std::fs;
use std::io::Read as _;
use std::thread::JoinHandle;

use clap::Parser as _;
use guest::RamRange;
use guest::model::ModelCpu;
use guest::run::{self, Report};
use guest::scene;
use mio::{Events, Poll};
use tempfile::TempDir;
use xen_ioreq::{DomId, VcpuId};

use super::*;
use crate::demo::world::{GUEST_FRAMES, RAM, World};

const GUEST: DomId = DomId(3);
/// Moments that a guest waits for its GPU, as its driver has it.
const PATIENCE: u32 = 400;

/// A guest of the model, served, and an operator's socket beside it.
struct Rig {
    dir: TempDir,
    world: World,
    service: Service,
    thread: Option<JoinHandle<()>>,
}

fn args() -> cli::Demo {
    let args = cli::Args::try_parse_from(["mgpu", "demo", "--guests", "1"]).unwrap();
    let cli::Command::Demo(args) = args.command else { unreachable!("it says demo") };
    args
}

impl Rig {
    fn new(with_pictures: bool) -> Self {
        let world = World::new(&args()).unwrap();
        let service = world.serve(GUEST).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let pictures =
            with_pictures.then(|| Arc::new(Pictures::open(&dir.path().join("out"), GUEST, None).unwrap()));
        let control = bind(&dir.path().join("socket")).unwrap();
        let served = Served::of(&service, Instant::now(), pictures);
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
        self.start(Some(2), Arc::default(), PATIENCE).join().unwrap().unwrap()
    }

    /// The guest draws so many frames, or until it is told to stop, and waits so long for its GPU.
    fn start(
        &self,
        frames: Option<u32>,
        stop: Arc<AtomicBool>,
        patience: u32,
    ) -> JoinHandle<Result<Report, String>> {
        self.start_with(frames, stop, patience, Box::new(|_| ()))
    }

    fn start_with(
        &self,
        frames: Option<u32>,
        stop: Arc<AtomicBool>,
        patience: u32,
        progress: Box<dyn FnMut(&Report) + Send>,
    ) -> JoinHandle<Result<Report, String>> {
        let ram = vec![RamRange { first: RAM, frames: GUEST_FRAMES }];
        let vcpu = self.world.machine.vcpu(GUEST, VcpuId(0)).unwrap();
        let mut cpu = ModelCpu::new(vcpu, ram, stop, progress);
        let config = run::Config { seed: 5, frames, patience, ..run::Config::default() };
        std::thread::spawn(move || {
            run::run(&mut cpu, &config, &mut vec![0; scene::PIXELS]).map_err(|e| e.to_string())
        })
    }

    fn completions(&self) -> u64 {
        self.service.vgpu().statistics().completions
    }

    /// Waits until the guest has drawn more.
    fn draws(&self) {
        let before = self.completions();
        while self.completions() < before + 3 {
            std::thread::yield_now();
        }
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
    assert!(
        before[0].starts_with("{\"domid\":3,\"type\":\"16+16\",\"state\":\"running\",\"seconds\":")
            && before[0].ends_with('}')
    );
    assert_eq!(value(&before[0], "submissions"), 0);
    assert!(before[0].contains("\"policy\":\"best-effort\",\"weight\":1,\"cap\":100,\"engines\":{\"RCS\":{\"percent\":0.00,\"most\":100.00}"), "{before:?}");
    // Nothing is shown yet.
    assert!(rig.ask("picture")[0].starts_with("error: "));

    let drawn = rig.draw();
    assert_eq!((drawn.frames_drawn, drawn.checks_failed), (2, 0));
    let after = rig.ask("status");
    assert!(value(&after[0], "submissions") >= 2 && value(&after[0], "mmio") > 0, "{after:?}");
    assert!(value(&after[0], "busy_us") > 0 && !after[0].contains("\"BCS\":{\"percent\":0.00"), "{after:?}");
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
fn an_operator_sees_which_registers_the_guest_accesses() {
    let rig = Rig::new(false);
    rig.draw();
    let lines = rig.ask("accesses");
    let of = |name: &str| {
        let line = lines.iter().find(|l| l.ends_with(name)).unwrap();
        let [offset, reads, writes] = [0, 1, 2].map(|n| line.split_whitespace().nth(n).unwrap());
        (offset, reads.parse::<u64>().unwrap(), writes.parse::<u64>().unwrap())
    };
    let (offset, reads, writes) = of(" BCS RING_ELSP");
    assert_eq!((offset, reads, writes % 4), ("0x022230", 0, 0));
    assert!(writes >= 8, "two frames");
    assert!(of(" GEN8_MASTER_IRQ").2 > 0, "its driver lets interrupts out");
}

#[test]
fn a_paused_vgpu_does_nothing_and_goes_on_where_it_was() {
    let rig = Rig::new(false);
    let stop = Arc::new(AtomicBool::new(false));
    let drawing = rig.start(None, stop.clone(), u32::MAX);
    for _ in 0..3 {
        rig.draws();
        assert_eq!(rig.ask("pause"), ["ok"]);
        let before = rig.ask("status");
        assert!(before[0].contains("\"state\":\"paused\""), "{before:?}");
        let after = rig.ask("status");
        for name in ["submissions", "completions", "busy_us"] {
            assert_eq!(value(&before[0], name), value(&after[0], name), "{name}");
        }
        assert_eq!(rig.ask("resume"), ["ok"]);
    }
    rig.draws();
    stop.store(true, Ordering::Release);
    let report = drawing.join().unwrap().unwrap();
    assert!(report.frames_drawn > 0 && report.checks > 0 && report.checks_failed == 0, "{report:?}");
    assert_eq!(rig.ask("stop"), ["ok"]);
    rig.end();
}

#[test]
fn a_vgpu_is_destroyed_at_work_and_made_anew_and_no_frame_is_lost() {
    let rig = Rig::new(true);
    assert_eq!(rig.ask("create"), ["error: the guest has a vGPU already"]);
    for kind in ["16+16", "24+32", "8+16"] {
        let drawing = rig.start(None, Arc::default(), PATIENCE);
        rig.draws();
        assert_eq!(rig.ask("destroy"), ["ok"]);
        assert_eq!(rig.world.client.stats().mappings, 0, "all frames are released by then");
        assert!(drawing.join().unwrap().is_err(), "its GPU is gone");
        assert!(rig.ask("status")[0].contains("\"state\":\"none\""));
        for command in ["destroy", "pause", "resume", "reset", "save"] {
            assert_eq!(rig.ask(command), ["error: the guest has no vGPU"]);
        }
        assert_eq!(rig.ask("create V4_3")[0].split(',').next(), Some("error: write V4_1"));
        assert!(rig.ask("create V4_1")[0].starts_with("error: no 512 MiB of low"), "the aperture is smaller");
        assert_eq!(rig.ask(&format!("create {kind}")), ["ok"]);
        assert!(rig.ask("status")[0].contains(&format!("\"type\":\"{kind}\"")));
        let drawn = rig.draw();
        assert_eq!((drawn.frames_drawn, drawn.checks_failed), (2, 0));
    }
    assert_eq!(rig.ask("stop"), ["ok"]);
    rig.end();
}

#[test]
fn a_guest_draws_on_with_its_saved_vgpu_and_another_mediator() {
    let mut rig = Rig::new(true);
    let (at, frame) = std::sync::mpsc::channel();
    let (go, gone_on) = std::sync::mpsc::channel();
    // It stands still after its fourth frame, until it is told to go on.
    let progress = move |r: &Report| {
        if r.frames_drawn == 4 {
            at.send(()).unwrap();
            gone_on.recv().unwrap();
        }
    };
    let drawing = rig.start_with(Some(12), Arc::default(), PATIENCE, Box::new(progress));
    frame.recv().unwrap();
    let path = rig.dir.path().join("out/dom3.vgpu");
    assert_eq!(rig.ask("save"), [path.display().to_string(), "ok".to_owned()]);
    assert!(rig.ask("status")[0].contains("\"state\":\"paused\""));
    assert_eq!(rig.ask("stop"), ["ok"]);
    rig.thread.take().unwrap().join().unwrap();
    let Rig { dir, world, service, .. } = rig;
    service.stop();
    let world = world.renewed(&args()).unwrap();
    assert_eq!(world.client.stats().mappings, 0);

    let saved = mediated_gpu::saved::SavedGuest::from_bytes(&fs::read(path).unwrap()).unwrap();
    assert_eq!(cli::Type(saved.kind()).to_string(), "16+16");
    let service = world.restore(GUEST, &saved).unwrap();
    let shown = service.vgpu().surface().unwrap();
    assert_eq!(shown.missing_pages, 0, "the picture is there before the guest does anything");
    go.send(()).unwrap();
    let report = drawing.join().unwrap().unwrap();
    assert_eq!((report.frames_drawn, report.checks_failed), (12, 0), "{report:?}");
    let mut wanted = vec![0; scene::PIXELS];
    scene::reference(5, GUEST.0, scene::FINAL, &mut wanted);
    let pixels = crate::picture::pixels(&service.vgpu().surface().unwrap());
    assert!(pixels.iter().map(|p| p & 0xff_ffff).eq(wanted.iter().map(|p| p & 0xff_ffff)));
    drop((service, dir));
    world.machine.destroy_domain(GUEST).unwrap();
    let mut problems = Vec::new();
    world.judge(&mut problems);
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn shares_change_at_work_and_types_tell_what_is_left() {
    let rig = Rig::new(false);
    assert_eq!(rig.ask("share weight=4 cap=25 deadline_ms=50"), ["ok"]);
    assert_eq!(rig.ask("share cap=30"), ["ok"]);
    let status = &rig.ask("status")[0];
    assert!(status.contains("\"weight\":4,\"cap\":30,\"deadline_ms\":50,"), "{status}");
    assert!(status.contains("\"RCS\":{\"percent\":0.00,\"most\":30.00}"), "{status}");
    for (wrong, why) in [
        ("share cap", "write weight=N, cap=PERCENT or deadline_ms=N"),
        ("share cap=0", "cap is a number from 1 to 100"),
        ("share weight=x", "weight is a number from 1 to 1024"),
        ("share size=1", "size is none of weight, cap and deadline_ms"),
    ] {
        assert_eq!(rig.ask(wrong), [format!("error: {why}")]);
    }
    let left = |rig: &Rig| -> Vec<u32> {
        let lines = rig.ask("types");
        lines[1..5].iter().map(|l| l.split_whitespace().last().unwrap().parse().unwrap()).collect()
    };
    // 16 of 256 MiB of the aperture are taken.
    assert_eq!(left(&rig), [0, 0, 1, 3]);
    assert_eq!(rig.ask("destroy"), ["ok"]);
    assert_eq!(left(&rig), [0, 1, 2, 4]);
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

#[test]
fn a_surface_is_named_by_address_size_and_pitch_and_nothing_else_is_one() {
    let of = |words: &str| picture_of(&words.split(' ').collect::<Vec<_>>());
    let picture = |stride| Some(Scanout { width: 512, height: 256, stride, address: 0x7f00_0000_0000 });
    assert_eq!(of("0x7f0000000000 512x256"), picture(2048));
    assert_eq!(of("139637976727552 512x256 4096"), picture(4096));
    for wrong in
        ["", "0x0", "0x0 512", "0x0 0x256", "0x0 512x4097", "0x0 512x256 2047", "0xg 1x1", "0 1x1 4 4"]
    {
        assert_eq!(of(wrong), None, "{wrong}");
    }
}
