//! A guest that gives pages back while its vGPU is in a file: nobody holds them, what is made from the file leads to none of them, and
//! when the guest has them again it draws on.

use std::sync::mpsc::channel;

use guest::run::{Config, Step, run_away};
use guest::scene::PIXELS;
use integration::astray::astray;
use integration::drawing::Switch;
use integration::world::{FRAMES, RAM, final_picture, shown};
use integration::{PROFILES, World, join};
use mediated_gpu::saved::SavedGuest;
use xen_ioreq::Gfn;

/// Pages of the picture that is shown.
const PAGES: usize = 16;

#[test]
fn pages_that_a_guest_gives_back_while_its_vgpu_is_saved_are_nobodys_and_it_draws_on_without_them() {
    for profile in PROFILES {
        let world = World::new(profile);
        let domid = world.domain(1);
        let service = world.serve(domid);
        let mut cpu = world.cpu(domid, &Switch::default());
        let config = Config { frames: Some(3), ..Config::default() };
        let (tell, told) = channel();
        let (go, gone_on) = channel::<()>();
        let drawing = std::thread::spawn(move || {
            let mut step = |_: &mut _, step| {
                tell.send(step).unwrap();
                // Its vCPU stands still where it is saved.
                if matches!(step, Step::Gave(_)) {
                    gone_on.recv().unwrap();
                }
            };
            run_away(&mut cpu, &config, &mut vec![0; PIXELS], PAGES, &mut step)
        });
        assert_eq!(told.recv(), Ok(Step::Holding));
        let file = service.slot().save().unwrap().to_bytes().unwrap();
        service.stop();
        assert_eq!(world.client.stats().mappings, 0);
        assert_eq!(told.recv(), Ok(Step::Gave(PAGES)), "{profile:?}");
        let left = FRAMES - PAGES as u64;
        assert_eq!(world.frames_of(domid), left, "nobody holds what it gave back");
        // The toolstack takes one more.
        let other = Gfn(RAM.0 + FRAMES - 1);
        assert_eq!(world.take_pages(domid, &[other]), 1);
        assert_eq!(world.frames_of(domid), left - 1);

        let saved = SavedGuest::from_bytes(&file).unwrap();
        let free = world.machine.free_frames();
        // Behind its last frame, below its first, and where no frame ever is; into the frames of Xen's.
        for frames in [FRAMES, 1 << 20, 1 << 26] {
            let hostile = astray(&saved, frames).unwrap();
            if let Ok(service) = world.restore(domid, &hostile) {
                assert_eq!(world.client.stats().mappings, 0, "{frames:#x}");
                assert_eq!(world.frames_of(domid), left - 1);
                service.stop();
            }
            assert_eq!(world.machine.free_frames(), free);
        }
        let service = world.restore(domid, &saved).unwrap();
        assert_eq!(service.vgpu().surface().unwrap().missing_pages as usize, PAGES);
        assert_eq!(world.give_pages(domid, &[other]), 1);
        go.send(()).unwrap();
        assert_eq!(told.recv(), Ok(Step::Back));
        let report = join("the guest", drawing).unwrap();
        assert_eq!((report.checks_failed, report.frames_drawn), (0, 5), "{report:?}");
        assert!(shown(&service) == final_picture(config.seed, domid.0));
        assert_eq!(world.frames_of(domid), FRAMES);
        drop(service);
        world.end();
    }
}
