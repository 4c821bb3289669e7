//! A guest whose device goes away and comes back, as when both are saved and restored, and which has given pages back meanwhile.

use super::{Config, Drawn, MAX_BALLOON, Report};
use crate::gpu::DriverError;
use crate::layout::{FIRST_FRAME_PAGE, FRAMES};
use crate::platform::Platform;
use crate::regs::pvinfo;
use crate::scene::FINAL;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The picture stands, and nothing is done until the device has gone.
    Holding,
    /// So many pages of the picture that is shown were given back, with the entries that lead to them as they are. Whoever saves the
    /// guest does so while it is told this; it goes on when the device is back.
    Gave(usize),
    /// The pages are there again, empty.
    Back,
}

/// A [`run`](super::run), and then what [`Step`] says, with `pages` pages, each step told to `told`; at the end the final picture is
/// drawn into every framebuffer anew and compared.
pub fn run_away<P: Platform>(
    platform: &mut P,
    config: &Config,
    buffer: &mut [u32],
    pages: usize,
    told: &mut dyn FnMut(&mut P, Step),
) -> Result<Report, DriverError> {
    let mut drawn = Drawn::new(platform, config, buffer)?;
    told(drawn.platform, Step::Holding);
    drawn.until_there(false);
    // The pages of the framebuffer that is shown: the other one is drawn next.
    let shown = (drawn.back + FRAMES - 1) % FRAMES;
    let first = drawn.gpu.layout.frames[shown].first;
    debug_assert!(first >= FIRST_FRAME_PAGE);
    let mut list = [0; MAX_BALLOON];
    let list = list.get_mut(..pages).unwrap_or_default();
    (first..).zip(list.iter_mut()).for_each(|(page, slot)| *slot = page);
    let gone = drawn.balloon_out(list);
    told(drawn.platform, Step::Gave(gone));
    drawn.until_there(true);
    let lost = list.get(..gone).unwrap_or_default();
    drawn.balloon_in(lost)?;
    told(drawn.platform, Step::Back);
    lost.iter().for_each(|&page| drawn.gpu.map_page(drawn.platform, page));
    drawn.gpu.flush_gtt(drawn.platform);
    for _ in 0..FRAMES {
        drawn.frame(FINAL, 0, true)?;
    }
    Ok(drawn.report)
}

impl<P: Platform> Drawn<'_, P> {
    /// Waits until the device is there, or is not: what nobody answers reads as all-ones.
    fn until_there(&mut self, there: bool) {
        let is = |run: &mut Self| run.gpu.read32(run.platform, pvinfo::VERSION_MAJOR) != u32::MAX;
        while is(self) != there && !self.platform.stop_requested() {
            self.platform.wait();
        }
    }
}
