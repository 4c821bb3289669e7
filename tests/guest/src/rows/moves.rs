//! `rep movs` that meets a write-protected frame, at either end and across its own.
//!
//! Frame 4 of the scratch RAM is protected, its neighbours are RAM. On Xen a protected frame is read by the processor
//! itself, so only a move *to* it traps; Xen's emulator cannot copy there in one go and hands over one element at a time.

use super::access::Access;
use super::{MMIO, Order, PORT, Row, order, row, want};
use crate::platform::{Way, Width};

/// The table.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = {
    use Access::{Digest, Fill, Peek, RepIn, RepLoad, RepMove, RepStore, Scratch};
    use Order::{Claim, Plain, Protect, Release};
    use Way::{Down, Up};
    use Width::{B1, B2, B4, B8};
    &[
        row("ram_for_moves", Scratch),
        want("fill_what_is_moved", Fill { ram: 0x600, bytes: 64, first: 0x41 }, 0),
        want("fill_the_end_of_the_frame_before", Fill { ram: 0x3ff0, bytes: 16, first: 0x81 }, 0),
        want("fill_the_frame", Fill { ram: 0x4000, bytes: 64, first: 1 }, 0),
        want("fill_the_end_of_the_frame", Fill { ram: 0x4ff0, bytes: 16, first: 0xc1 }, 0),
        want("fill_the_start_of_the_frame_after", Fill { ram: 0x5000, bytes: 32, first: 0xa1 }, 0),
        want("the_type_is_claimed", order(Claim, 4), 0),
        want("the_frame_is_protected", order(Protect, 4), 0),

        want("rep_movsb_to_a_protected_frame", RepMove { from: 0x600, to: 0x4010, width: B1, count: 3, way: Up }, 0),
        want("rep_movsw_to_a_protected_frame", RepMove { from: 0x600, to: 0x4010, width: B2, count: 3, way: Up }, 0),
        want("rep_movsd_to_a_protected_frame", RepMove { from: 0x600, to: 0x4010, width: B4, count: 4, way: Up }, 0),
        want("rep_movsq_to_a_protected_frame", RepMove { from: 0x600, to: 0x4010, width: B8, count: 2, way: Up }, 0),
        want("rep_movsd_of_one_element_to_a_protected_frame", RepMove { from: 0x600, to: 0x4010, width: B4, count: 1, way: Up }, 0),
        want("rep_movsd_to_a_protected_frame_downwards", RepMove { from: 0x60c, to: 0x402c, width: B4, count: 4, way: Down }, 0),
        want("what_was_moved_to_a_protected_frame_is_the_servers_to_write", Peek { ram: 0x4010, width: B8 }, 0x1817_1615_1413_1211),

        want("rep_movsd_that_runs_into_a_protected_frame", RepMove { from: 0x600, to: 0x3ff8, width: B4, count: 4, way: Up }, 0),
        want("ram_before_a_protected_frame_took_its_part", Peek { ram: 0x3ff8, width: B8 }, 0x4847_4645_4443_4241),
        want("rep_movsd_with_an_element_across_the_start_of_a_protected_frame", RepMove { from: 0x600, to: 0x3ffe, width: B4, count: 3, way: Up }, 0),
        want("ram_before_a_protected_frame_took_half_an_element", Peek { ram: 0x3ff8, width: B8 }, 0x4241_4645_4443_4241),
        want("rep_movsd_that_runs_out_of_a_protected_frame", RepMove { from: 0x600, to: 0x4ff8, width: B4, count: 4, way: Up }, 0),
        want("ram_after_a_protected_frame_took_its_part", Peek { ram: 0x5000, width: B8 }, 0x504f_4e4d_4c4b_4a49),
        want("rep_movsd_with_an_element_across_the_end_of_a_protected_frame", RepMove { from: 0x610, to: 0x4ffe, width: B4, count: 3, way: Up }, 0),
        want("ram_after_a_protected_frame_took_half_an_element", Peek { ram: 0x5000, width: B8 }, 0x5a59_5857_5655_5453),
        want("rep_movsd_that_runs_downwards_out_of_a_protected_frame", RepMove { from: 0x630, to: 0x4008, width: B4, count: 5, way: Down }, 0),
        want("ram_before_a_protected_frame_took_what_ran_downwards", Peek { ram: 0x3ff8, width: B8 }, 0x6867_6665_6463_6261),
        want("rep_movsd_that_runs_downwards_into_a_protected_frame", RepMove { from: 0x620, to: 0x5008, width: B4, count: 5, way: Down }, 0),
        want("ram_after_a_protected_frame_took_what_ran_downwards", Peek { ram: 0x5000, width: B8 }, 0x605f_5e5d_5c5b_5a59),

        want("rep_movsd_from_a_protected_frame", RepMove { from: 0x4000, to: 0x700, width: B4, count: 4, way: Up }, 0),
        row("rep_movsd_from_a_protected_frame_left_this", Digest { ram: 0x700, bytes: 16 }),
        want("rep_movsd_from_a_protected_frame_downwards", RepMove { from: 0x400c, to: 0x72c, width: B4, count: 4, way: Down }, 0),
        row("rep_movsd_from_a_protected_frame_downwards_left_this", Digest { ram: 0x720, bytes: 16 }),
        want("rep_movsd_from_across_the_start_of_a_protected_frame", RepMove { from: 0x3ffa, to: 0x740, width: B4, count: 4, way: Up }, 0),
        row("rep_movsd_from_across_the_start_of_a_protected_frame_left_this", Digest { ram: 0x740, bytes: 16 }),
        want("rep_movsd_within_a_protected_frame", RepMove { from: 0x4000, to: 0x4020, width: B4, count: 3, way: Up }, 0),
        want("rep_movsd_within_a_protected_frame_over_itself", RepMove { from: 0x4000, to: 0x4004, width: B4, count: 3, way: Up }, 0),

        want("fill_the_devices_memory", RepStore { gpa: MMIO + 0x200, width: B4, ram: 0x600, count: 4, way: Up }, 0),
        want("rep_movsd_from_the_device_to_a_protected_frame", RepLoad { gpa: MMIO + 0x200, width: B4, ram: 0x4010, count: 4, way: Up }, 0),
        row("rep_movsd_from_the_device_to_a_protected_frame_left_this", Digest { ram: 0x4010, bytes: 16 }),
        want("rep_movsd_from_a_protected_frame_to_the_device", RepStore { gpa: MMIO + 0x210, width: B4, ram: 0x4000, count: 4, way: Up }, 0),
        want("rep_movsd_from_the_device_into_a_protected_frame", RepLoad { gpa: MMIO + 0x200, width: B4, ram: 0x3ff8, count: 4, way: Up }, 0),
        row("rep_movsd_from_the_device_into_a_protected_frame_left_this", Digest { ram: 0x3ff8, bytes: 16 }),
        want("rep_insd_to_a_protected_frame", RepIn { port: PORT + 8, width: B4, ram: 0x4020, count: 4, way: Up }, 0),
        row("rep_insd_to_a_protected_frame_left_this", Digest { ram: 0x4020, bytes: 16 }),

        want("the_protected_frame_becomes_ram", order(Plain, 4), 0),
        want("the_type_is_given_back", order(Release, 4), 0),
        want("rep_movsd_to_what_was_protected", RepMove { from: 0x600, to: 0x4000, width: B4, count: 4, way: Up }, 0),
        want("what_was_protected_takes_it", Peek { ram: 0x4000, width: B8 }, 0x4847_4645_4443_4241),
    ]
};
