//! What a guest shows, in the eyes of a viewer in another domain: through grants of the stub domain that serves the guest. The
//! viewer reads while the guest, or that stub domain, is destroyed; it sees a whole picture or none, and every frame comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use integration::drawing::Switch;
use integration::{KEEPING, Painter, Profile, World, bounded, join, until};
use mediated_gpu::screen::Screen;
use mediated_gpu::service::Service;
use mediated_gpu::vgpu::display;
use mock_xen::{Caller, DomainConfig};
use stubdom::grants::{Granter, Mapper, TableGranter, TableMapper};
use stubdom::surface::{Copy, Invitation, SurfaceError, View};
use xen_ioreq::{DomId, Gfn};

const GUEST: u16 = 1;
const STUB: DomId = DomId(7);
const VIEWER: DomId = DomId(9);
/// Pictures that the guest draws: each of one colour, its number.
const PICTURES: u32 = 30;

/// A guest with its vGPU, the stub domain that shows its picture, and a translated domain that looks at it.
struct Scene {
    world: World,
    guest: DomId,
    service: Service,
    painter: Painter,
    /// The stub domain's program, and the viewer's.
    stub: Arc<Caller>,
    viewer: Arc<Caller>,
    screen: Screen,
    mapper: Arc<TableMapper<Caller>>,
    revokable: bool,
}

impl Scene {
    fn new(profile: Profile) -> Self {
        let world = World::new(profile);
        let guest = world.domain(GUEST);
        let service = world.serve(guest);
        let painter = Painter::new(world.cpu(guest, &Switch::default()));
        let domain = |domid, hvm, target| {
            let config =
                DomainConfig { domid: Some(domid), hvm, target, max_pages: 1000, ..DomainConfig::default() };
            world.machine.create_domain(&config).expect("a domain");
            Arc::new(world.machine.caller(domid).expect("its program"))
        };
        let stub = domain(STUB, false, Some(guest));
        let granter = Arc::new(TableGranter::new(stub.clone()).expect("a grant table"));
        let viewer = domain(VIEWER, true, None);
        let mapper = Arc::new(TableMapper::translated(viewer.clone(), Gfn(0x1000)..Gfn(0x1400)));
        let revokable = granter.revokable().is_some();
        let screen =
            Screen::revokable(granter.clone(), VIEWER).unwrap_or_else(|| Screen::plain(granter, VIEWER));
        Self { world, guest, service, painter, stub, viewer, screen, mapper, revokable }
    }

    /// The guest draws a picture, which is shown.
    fn draw(&mut self, colour: u32) -> Option<Invitation> {
        assert!(self.painter.fill(colour), "it is drawn");
        self.screen.update(&self.service.vgpu()).expect("it is shown")
    }

    fn open(&self, invitation: &Invitation) -> Result<View, SurfaceError> {
        open(&self.mapper, self.revokable, invitation)
    }

    /// A viewer that looks as often as it can.
    fn look(&self, invitation: Invitation) -> Looking {
        let (mapper, revokable) = (self.mapper.clone(), self.revokable);
        let last = Arc::new(AtomicU32::new(0));
        let shown = last.clone();
        let thread = std::thread::spawn(move || {
            let view = open(&mapper, revokable, &invitation).expect("it is there");
            let (mut seen, mut whole) = (Vec::new(), 0u64);
            loop {
                match view.copy(&mut seen) {
                    Ok(Copy::Torn) => continue,
                    Ok(Copy::Whole) => {}
                    Err(e) => break (e, whole, view),
                }
                let colour = of_one_colour(&seen).expect("one picture, not of two");
                let before = shown.swap(colour, Ordering::AcqRel);
                assert!((before..=PICTURES).contains(&colour), "{colour} after {before}");
                whole += 1;
            }
        });
        Looking { last, thread }
    }

    /// All that is left goes, and everything is counted.
    fn end(self) {
        let Self { world, service, painter, stub, viewer, screen, mapper, .. } = self;
        drop((screen, stub, viewer, mapper, painter));
        bounded("the service's end", || service.stop());
        world.end();
    }
}

fn open(
    mapper: &TableMapper<Caller>,
    revokable: bool,
    invitation: &Invitation,
) -> Result<View, SurfaceError> {
    match mapper.revokable().filter(|_| revokable) {
        Some(mapper) => View::open(mapper, STUB, invitation),
        None => View::open_plainly(mapper, STUB, invitation),
    }
}

/// The colour that all pixels have.
fn of_one_colour(bytes: &[u8]) -> Option<u32> {
    let mut colours = bytes.as_chunks::<4>().0.iter().map(|p| u32::from_le_bytes(*p) & 0xff_ffff);
    let first = colours.next()?;
    colours.all(|colour| colour == first).then_some(first)
}

/// A viewer at work: the colour that it has seen last.
struct Looking {
    last: Arc<AtomicU32>,
    thread: JoinHandle<(SurfaceError, u64, View)>,
}

impl Looking {
    fn sees(&self, colour: u32) {
        until("the picture", || self.thread.is_finished() || self.last.load(Ordering::Acquire) == colour);
        assert!(!self.thread.is_finished(), "the picture is gone");
    }

    /// It meets the end, without a fault: how many whole pictures it saw, and its hold on the pages.
    fn ends(self) -> View {
        let (why, whole, view) = join("the viewer", self.thread);
        assert_eq!(why, SurfaceError::TakenBack);
        assert!(whole > 0);
        view
    }
}

#[test]
fn a_viewer_that_reads_while_the_guest_is_destroyed_sees_whole_pictures_and_then_none_and_no_frame_is_lost() {
    for profile in KEEPING {
        let mut scene = Scene::new(profile);
        let invitation = scene.draw(1).expect("the first");
        let looking = scene.look(invitation);
        for colour in 2..=PICTURES {
            assert_eq!(scene.draw(colour), None, "the same pages");
        }
        looking.sees(PICTURES);
        scene.world.machine.destroy_domain(scene.guest).expect("it is there");
        // What is left of the guest can still be shown, until its server lets go of that.
        let _ = scene.screen.update(&scene.service.vgpu());
        scene.screen.blank();
        let view = looking.ends();
        let Scene { world, .. } = &scene;
        let held = world.frames_of(STUB);
        drop(view);
        if scene.revokable {
            assert_eq!(world.frames_of(STUB), held, "they were back before the viewer let go");
        }
        scene.end();
    }
}

#[test]
fn a_viewer_that_reads_while_guest_and_stub_domain_are_destroyed_goes_on_with_its_own_pages() {
    let mut scene = Scene::new(Profile::Draft);
    let invitation = scene.draw(1).expect("the first");
    let looking = scene.look(invitation);
    for colour in 2..=PICTURES {
        scene.draw(colour);
    }
    looking.sees(PICTURES);
    // Nobody says goodbye: a domain's death takes back what it had granted.
    scene.world.machine.destroy_domain(scene.guest).expect("it is there");
    scene.world.machine.destroy_domain(STUB).expect("it is there");
    scene.stub.kill();
    let view = looking.ends();
    assert_eq!(
        scene.world.machine.domain_info(STUB),
        None,
        "no zombie, though its viewer has let go of nothing"
    );
    let mut seen = vec![1];
    assert_eq!((view.copy(&mut seen), seen.len()), (Err(SurfaceError::TakenBack), 0));
    drop(view);
    let Scene { world, service, painter, stub, viewer, screen, mapper, .. } = scene;
    // What that domain's program had goes with the domain.
    std::mem::forget(screen);
    drop((stub, viewer, mapper, painter));
    bounded("the service's end", || service.stop());
    world.end();
}

#[test]
fn pages_of_a_picture_that_a_viewer_never_unmaps_are_back_at_once_if_they_can_be_revoked_and_else_when_it_dies()
 {
    for profile in KEEPING {
        let mut scene = Scene::new(profile);
        let before = scene.world.frames_of(STUB);
        let invitation = scene.draw(3).expect("the first");
        let view = scene.open(&invitation).expect("it is there");
        let shared = scene.world.frames_of(STUB) - before;
        assert!(shared > 1, "a head, and the picture's");
        scene.screen.blank();
        let left = if scene.revokable { 0 } else { shared };
        assert_eq!(scene.world.frames_of(STUB), before + left);
        assert_eq!(view.copy(&mut Vec::new()), Err(SurfaceError::TakenBack));
        assert!(scene.open(&invitation).is_err(), "nobody is invited any more");
        scene.world.machine.destroy_domain(VIEWER).expect("it is there");
        scene.viewer.kill();
        std::mem::forget(view);
        // The next picture finds what has become free; there is nobody to show it to.
        let picture = display::Surface { width: 1, height: 1, bgrx: vec![0; 4], missing_pages: 0 };
        scene.screen.show(&picture).expect("shared");
        scene.screen.blank();
        assert_eq!(scene.world.frames_of(STUB), before);
        scene.end();
    }
}

#[test]
fn a_picture_of_another_size_needs_another_invitation_and_the_old_one_is_over() {
    for profile in KEEPING {
        let mut scene = Scene::new(profile);
        let picture = |width, height, value| display::Surface {
            width,
            height,
            bgrx: vec![value; width as usize * height as usize * 4],
            missing_pages: 0,
        };
        let first = scene.screen.show(&picture(100, 30, 1)).expect("shown").expect("the first");
        let view = scene.open(&first).expect("it is there");
        assert_eq!(scene.screen.show(&picture(100, 30, 2)).expect("shown"), None);
        let mut seen = Vec::new();
        assert_eq!((view.copy(&mut seen), seen == [2; 12_000]), (Ok(Copy::Whole), true));
        let second = scene.screen.show(&picture(30, 100, 3)).expect("shown").expect("another size");
        assert_eq!(view.copy(&mut seen), Err(SurfaceError::TakenBack));
        let wider = scene.open(&second).expect("it is there");
        assert_eq!((wider.shape().width(), wider.shape().height()), (30, 100));
        assert_eq!((wider.copy(&mut seen), seen == [3; 12_000]), (Ok(Copy::Whole), true));
        assert!(scene.screen.show(&picture(0, 0, 0)).is_err(), "no picture at all");
        assert!(scene.screen.show(&display::Surface { bgrx: vec![0; 5000], ..picture(10, 10, 0) }).is_err());
        drop((view, wider));
        scene.end();
    }
}
