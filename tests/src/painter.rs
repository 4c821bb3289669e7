//! A guest whose every step a test decides: fills its framebuffer with one colour at a time.

use guest::layout::{BATCH_PAGES, Region, frame};
use guest::model::ModelCpu;
use guest::scene::{FRAME_BYTES, HEIGHT, PITCH, WIDTH};
use guest::{Gpu, Platform, cmd};
use xen_ioreq::Gfn;
use zerocopy::IntoBytes;

/// Moments for which a fill is waited for.
const PATIENCE: u32 = 20_000;

/// The guest.
#[derive(Debug)]
pub struct Painter {
    /// Its vCPU.
    pub cpu: ModelCpu,
    /// Its GPU.
    pub gpu: Gpu,
}

impl Painter {
    /// Brings the GPU up and shows the first framebuffer.
    #[track_caller]
    pub fn new(mut cpu: ModelCpu) -> Self {
        let gpu = Gpu::bring_up(&mut cpu, 0).expect("the GPU comes up");
        gpu.display_on(&mut cpu, gpu.layout.frames[0]);
        Self { cpu, gpu }
    }

    /// The framebuffer.
    pub fn canvas(&self) -> Region {
        self.gpu.layout.frames[0]
    }

    /// Frames of the framebuffer's first `count` pages.
    pub fn canvas_frames(&self, count: u64) -> Vec<Gfn> {
        let first = self.canvas().first;
        (first..first + count).filter_map(|page| frame(&self.cpu, page)).collect()
    }

    /// Submits `times` fills of the whole framebuffer; does not wait.
    #[track_caller]
    pub fn submit_fills(&mut self, colour: u32, times: u64) {
        self.submit_fills_of(HEIGHT, colour, times);
    }

    /// The same of its first `lines` lines.
    #[track_caller]
    pub fn submit_fills_of(&mut self, lines: u16, colour: u32, times: u64) {
        let surface = cmd::Linear { address: self.canvas().gm, pitch: PITCH };
        let all = cmd::Rect { x1: 0, y1: 0, x2: WIDTH, y2: lines };
        let fill = cmd::xy_color_blt(surface, all, colour);
        let times = times.min((BATCH_PAGES * 4096 - 8) / size_of_val(&fill) as u64);
        let batch = self.gpu.layout.batch;
        let mut at = 0;
        for _ in 0..times {
            batch.write(&mut self.cpu, at, fill.as_bytes()).expect("the batch");
            at += size_of_val(&fill) as u64;
        }
        let end = [cmd::MI_BATCH_BUFFER_END, cmd::MI_NOOP];
        batch.write(&mut self.cpu, at, end.as_bytes()).expect("the batch");
        self.gpu.submit(&mut self.cpu).expect("the ring");
    }

    /// Fills the framebuffer, and waits. Whether it was finished.
    #[track_caller]
    pub fn fill(&mut self, colour: u32) -> bool {
        self.submit_fills(colour, 1);
        self.gpu.wait(&mut self.cpu, PATIENCE).expect("the status page")
    }

    /// Everything anew after a failure.
    #[track_caller]
    pub fn reset(&mut self) {
        self.gpu.reset_engine(&mut self.cpu).expect("a reset");
        self.gpu.init_engine(&mut self.cpu).expect("an engine");
    }

    /// Rewrites the entries of the framebuffer's first `count` pages.
    pub fn map_canvas(&mut self, count: u64) {
        let first = self.canvas().first;
        (first..first + count).for_each(|page| self.gpu.map_page(&mut self.cpu, page));
        self.gpu.flush_gtt(&mut self.cpu);
    }

    /// How many pixels of the framebuffer are of this colour, as the guest's own CPU sees them.
    #[track_caller]
    pub fn count(&mut self, colour: u32) -> usize {
        let mut bytes = vec![0; FRAME_BYTES];
        let canvas = self.canvas();
        canvas.read(&mut self.cpu, 0, &mut bytes).expect("the framebuffer");
        bytes.as_chunks::<4>().0.iter().filter(|p| u32::from_le_bytes(**p) == colour).count()
    }

    /// [`Platform::decrease_reservation`]; all must go.
    #[track_caller]
    pub fn balloon_out(&mut self, gfns: &[Gfn]) {
        assert_eq!(self.cpu.decrease_reservation(gfns), gfns.len(), "pages that go");
    }

    /// [`Platform::populate_physmap`]: how many came.
    pub fn balloon_in(&mut self, gfns: &[Gfn]) -> usize {
        self.cpu.populate_physmap(gfns)
    }
}
