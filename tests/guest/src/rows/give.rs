//! Frames given back and taken in, each row one hypercall: for who counts notices and frames meanwhile.

use super::access::Access;
use super::{Row, row, want};
use crate::platform::Width;

/// The table.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = {
    use Access::{BalloonIn, BalloonOut, Fill, Peek, Scratch};
    use Width::B4;
    &[
        row("scratch_ram", Scratch),
        want("fill_what_is_given", Fill { ram: 0x5000, bytes: 8, first: 1 }, 0),
        want("give_two_frames", BalloonOut { frame: 5, frames: 2 }, 2),
        want("give_a_hole", BalloonOut { frame: 5, frames: 2 }, 0),
        want("load_of_what_was_given_is_all_ones", Peek { ram: 0x5000, width: B4 }, 0xffff_ffff),
        want("take_two_frames", BalloonIn { frame: 5, frames: 2 }, 2),
        want("fill_what_was_taken", Fill { ram: 0x5000, bytes: 8, first: 0x61 }, 0),
        want("load_of_what_was_taken", Peek { ram: 0x5000, width: B4 }, 0x6463_6261),
        want("give_one_frame", BalloonOut { frame: 0, frames: 1 }, 1),
        want("take_one_frame", BalloonIn { frame: 0, frames: 1 }, 1),
        want("give_eight_frames", BalloonOut { frame: 0, frames: 8 }, 8),
        want("take_eight_frames", BalloonIn { frame: 0, frames: 8 }, 8),
        want("give_the_second_of_two", BalloonOut { frame: 6, frames: 1 }, 1),
        want("give_both_up_to_the_hole", BalloonOut { frame: 5, frames: 2 }, 1),
        want("take_both_back", BalloonIn { frame: 5, frames: 2 }, 2),
        want("take_over_two_frames_that_are_there", BalloonIn { frame: 5, frames: 2 }, 2),
    ]
};
