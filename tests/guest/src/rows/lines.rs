//! Interrupt lines as an HVM guest sees them, through its I/O APIC and its 8259s: edges, levels, ends, pins of PCI devices and the
//! links that route them.
//!
//! Every line goes to both controllers; what a row is not about is masked. Where there are no controllers (PVH) nobody may
//! raise a line that an 8259 would hear: Xen 4.17 panics.

use super::access::Access;
use super::{Row, row, want};
use crate::platform::Width;

/// A change of an interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what their names say")]
pub enum Line {
    /// An ISA line goes up or down.
    Isa { irq: u8, up: bool },
    /// So does a pin of a PCI device on bus 0, INTA being 0.
    Intx { device: u8, pin: u8, up: bool },
    /// A PCI link is routed to an ISA line, or nowhere (0).
    Link { link: u8, irq: u8 },
}

impl Line {
    /// As it is written to the server: kind, two numbers and the level, a byte each.
    pub const fn word(self) -> u32 {
        u32::from_le_bytes(match self {
            Self::Isa { irq, up } => [0, irq, 0, up as u8],
            Self::Intx { device, pin, up } => [1, device, pin, up as u8],
            Self::Link { link, irq } => [2, link, irq, 0],
        })
    }

    /// Reads such a word.
    pub const fn of_word(word: u32) -> Option<Self> {
        match word.to_le_bytes() {
            [0, irq, 0, level] => Some(Self::Isa { irq, up: level != 0 }),
            [1, device, pin, level] => Some(Self::Intx { device, pin, up: level != 0 }),
            [2, link, irq, 0] => Some(Self::Link { link, irq }),
            _ => None,
        }
    }
}

/// Vectors of the rows. A tick and MSIs have higher ones, which these do not hold off.
const EDGE: u8 = 0x30;
const LEVEL: u8 = 0x31;
/// Of the 8259s' inputs 0 and 8.
const FIRST: u8 = 0x20;
const SECOND: u8 = 0x28;

/// Redirection entries of the I/O APIC, to APIC 0.
const BY_EDGE: u32 = EDGE as u32;
const BY_LEVEL: u32 = LEVEL as u32 | 1 << 15;
const MASKED: u32 = 1 << 16;
/// Sent and not ended.
const REMOTE_IRR: u32 = 1 << 14;

/// Moments in which what is to come has come, and those after which nothing will.
const SOON: u32 = 200;
const NEVER: u32 = 2;

const fn isa(irq: u8, up: bool) -> Access {
    Access::Line(Line::Isa { irq, up })
}

const fn intx(device: u8, pin: u8, up: bool) -> Access {
    Access::Line(Line::Intx { device, pin, up })
}

const fn link(link: u8, irq: u8) -> Access {
    Access::Line(Line::Link { link, irq })
}

/// The lower half of a pin's redirection entry.
const fn pin(pin: u8) -> u8 {
    0x10 + 2 * pin
}

const fn route(to: u8, value: u32) -> Access {
    Access::IoapicWrite { register: pin(to), value }
}

const fn entry(of: u8) -> Access {
    Access::IoapicRead { register: pin(of) }
}

const fn comes(vector: u8) -> Access {
    Access::Arrived { vector, moments: SOON }
}

const fn stays_away(vector: u8) -> Access {
    Access::Arrived { vector, moments: NEVER }
}

const fn out(port: u16, value: u8) -> Access {
    Access::Out { port, width: Width::B1, value: value as u32 }
}

const fn read(port: u16) -> Access {
    Access::In { port, width: Width::B1 }
}

/// The table.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = {
    use Access::{EndOfInterrupt, ExtInt, IoapicRead, Scratch};
    &[
        row("ram_beside_lines", Scratch),
        want("the_ioapic_has_48_pins", IoapicRead { register: 1 }, 0x2f_0011),
        want("a_pin_is_masked_at_first", entry(5), MASKED as u64),
        row("the_first_8259_masks_nothing_at_first", read(0x21)),
        want("the_first_8259_is_masked", out(0x21, 0xff), 0),
        want("the_second_8259_is_masked", out(0xa1, 0xff), 0),
        want("the_mask_is_read_back", read(0x21), 0xff),

        want("isa_5_up_while_masked", isa(5, true), 0),
        want("a_masked_line_interrupts_nobody", stays_away(EDGE), 0),
        want("pin_5_by_edge", route(5, BY_EDGE), 0),
        want("an_edge_while_masked_is_lost", stays_away(EDGE), 0),
        want("isa_5_down", isa(5, false), 0),
        want("isa_5_up", isa(5, true), 0),
        want("an_edge_interrupts", comes(EDGE), 1),
        want("an_entry_by_edge_tells_of_nothing_on_its_way", entry(5), BY_EDGE as u64),
        want("isa_5_up_that_is_up", isa(5, true), 0),
        want("end_of_the_edge", EndOfInterrupt, 0),
        want("what_is_up_makes_no_edge", stays_away(EDGE), 0),
        want("isa_5_down_again", isa(5, false), 0),
        want("isa_5_up_again", isa(5, true), 0),
        want("another_edge_interrupts", comes(EDGE), 1),
        want("isa_5_down_in_service", isa(5, false), 0),
        want("isa_5_up_in_service", isa(5, true), 0),
        want("an_edge_in_service_is_held_off", stays_away(EDGE), 0),
        want("end_of_the_one_in_service", EndOfInterrupt, 0),
        want("the_one_held_off_comes", comes(EDGE), 1),
        want("end_of_the_one_held_off", EndOfInterrupt, 0),
        want("isa_5_down_before_levels", isa(5, false), 0),

        want("pin_5_by_level", route(5, BY_LEVEL), 0),
        want("level_5_up", isa(5, true), 0),
        want("a_level_interrupts", comes(LEVEL), 1),
        want("an_entry_by_level_tells_that_one_is_on_its_way", entry(5), (BY_LEVEL | REMOTE_IRR) as u64),
        want("a_level_in_service_does_not_interrupt", stays_away(LEVEL), 0),
        want("end_while_the_level_is_up", EndOfInterrupt, 0),
        want("a_level_that_is_up_interrupts_again", comes(LEVEL), 1),
        want("level_5_down", isa(5, false), 0),
        want("end_while_the_level_is_down", EndOfInterrupt, 0),
        want("a_level_that_is_down_does_not", stays_away(LEVEL), 0),
        want("an_entry_after_the_end", entry(5), BY_LEVEL as u64),
        want("level_5_up_for_a_moment", isa(5, true), 0),
        want("level_5_down_before_it_is_taken", isa(5, false), 0),
        want("a_level_that_went_has_interrupted", comes(LEVEL), 1),
        want("end_of_what_went", EndOfInterrupt, 0),
        want("and_does_not_come_again", stays_away(LEVEL), 0),
        want("pin_5_masked", route(5, BY_LEVEL | MASKED), 0),
        want("level_5_up_while_masked", isa(5, true), 0),
        want("a_masked_level_interrupts_nobody", stays_away(LEVEL), 0),
        want("pin_5_unmasked", route(5, BY_LEVEL), 0),
        want("a_level_is_there_when_unmasked", comes(LEVEL), 1),
        want("pin_5_by_edge_while_in_service", route(5, BY_EDGE), 0),
        want("an_entry_that_turned_to_edges_forgets", entry(5), BY_EDGE as u64),
        want("pin_5_masked_for_good", route(5, MASKED), 0),
        want("end_after_that", EndOfInterrupt, 0),
        want("level_5_down_for_good", isa(5, false), 0),

        want("pin_2_by_edge", route(2, BY_EDGE), 0),
        want("isa_0_up", isa(0, true), 0),
        want("line_0_is_pin_2", comes(EDGE), 1),
        want("isa_0_down", isa(0, false), 0),
        want("end_of_line_0", EndOfInterrupt, 0),
        want("pin_2_masked", route(2, MASKED), 0),

        want("pin_32_by_level", route(32, BY_LEVEL), 0),
        want("inta_of_device_4_up", intx(4, 0, true), 0),
        want("inta_of_device_4_is_pin_32", comes(LEVEL), 1),
        want("intd_of_device_11_up", intx(11, 3, true), 0),
        want("inta_of_device_4_down", intx(4, 0, false), 0),
        want("end_while_another_device_is_up", EndOfInterrupt, 0),
        want("a_pin_is_shared", comes(LEVEL), 1),
        want("intd_of_device_11_down", intx(11, 3, false), 0),
        want("end_while_none_is_up", EndOfInterrupt, 0),
        want("no_device_is_left", stays_away(LEVEL), 0),
        want("pin_32_masked", route(32, MASKED), 0),

        want("link_0_to_10", link(0, 10), 0),
        want("pin_10_by_level", route(10, BY_LEVEL), 0),
        want("inta_of_device_4_up_by_its_link", intx(4, 0, true), 0),
        want("a_link_reaches_its_isa_line", comes(LEVEL), 1),
        want("link_0_to_11_while_up", link(0, 11), 0),
        want("end_after_the_link_moved", EndOfInterrupt, 0),
        want("nothing_is_left_where_it_was", stays_away(LEVEL), 0),
        want("pin_10_masked", route(10, MASKED), 0),
        want("pin_11_by_level", route(11, BY_LEVEL), 0),
        want("it_is_where_it_moved", comes(LEVEL), 1),
        want("isa_11_up_beside_the_link", isa(11, true), 0),
        want("link_0_to_nowhere", link(0, 0), 0),
        want("end_while_the_isa_line_is_up", EndOfInterrupt, 0),
        want("link_and_isa_line_share_a_pin", comes(LEVEL), 1),
        want("isa_11_down", isa(11, false), 0),
        want("end_while_the_link_goes_nowhere", EndOfInterrupt, 0),
        want("nothing_is_up", stays_away(LEVEL), 0),
        want("pin_11_masked", route(11, MASKED), 0),
        want("inta_of_device_4_down_by_its_link", intx(4, 0, false), 0),

        want("icw1_of_the_first", out(0x20, 0x11), 0),
        want("icw2_of_the_first", out(0x21, FIRST), 0),
        want("icw3_of_the_first", out(0x21, 4), 0),
        want("icw4_of_the_first", out(0x21, 1), 0),
        want("icw1_of_the_second", out(0xa0, 0x11), 0),
        want("icw2_of_the_second", out(0xa1, SECOND), 0),
        want("icw3_of_the_second", out(0xa1, 2), 0),
        want("icw4_of_the_second", out(0xa1, 1), 0),
        want("an_8259_that_was_set_up_masks_nothing", read(0x21), 0),
        want("inputs_5_and_2_of_the_first", out(0x21, !0x24), 0),
        want("input_2_of_the_second", out(0xa1, !0x04), 0),
        row("all_inputs_are_by_edge", read(0x4d0)),

        want("isa_5_up_for_the_8259", isa(5, true), 0),
        want("without_a_wire_nothing_comes", stays_away(FIRST + 5), 0),
        want("the_request_is_there", read(0x20), 0x20),
        want("the_8259s_are_wired", ExtInt { on: true }, 0),
        want("an_edge_comes_by_the_8259", comes(FIRST + 5), 1),
        want("the_request_is_taken", read(0x20), 0),
        want("ocw3_that_chooses_what_is_in_service", out(0x20, 0x0b), 0),
        want("input_5_is_in_service", read(0x20), 0x20),
        want("isa_5_down_for_the_8259", isa(5, false), 0),
        want("isa_5_up_in_service_of_the_8259", isa(5, true), 0),
        want("the_8259_holds_it_off", stays_away(FIRST + 5), 0),
        want("end_by_the_8259", out(0x20, 0x20), 0),
        want("the_8259_lets_it_come", comes(FIRST + 5), 1),
        want("another_end_by_the_8259", out(0x20, 0x20), 0),
        want("nothing_is_in_service", read(0x20), 0),
        want("isa_5_down_once_more", isa(5, false), 0),

        want("the_wire_is_cut", ExtInt { on: false }, 0),
        want("isa_5_up_for_a_moment", isa(5, true), 0),
        want("isa_5_down_before_it_is_taken", isa(5, false), 0),
        want("the_wire_is_back", ExtInt { on: true }, 0),
        want("an_edge_that_went_is_forgotten", stays_away(FIRST + 5), 0),

        want("input_5_by_level", out(0x4d0, 0x20), 0),
        want("it_is_read_back", read(0x4d0), 0x20),
        want("level_5_up_for_the_8259", isa(5, true), 0),
        want("a_level_comes_by_the_8259", comes(FIRST + 5), 1),
        want("a_specific_end_while_the_level_is_up", out(0x20, 0x65), 0),
        want("it_comes_again_by_the_8259", comes(FIRST + 5), 1),
        want("level_5_down_for_the_8259", isa(5, false), 0),
        want("an_end_while_the_level_is_down", out(0x20, 0x20), 0),
        want("it_does_not_come_again", stays_away(FIRST + 5), 0),
        want("input_5_by_edge", out(0x4d0, 0), 0),

        want("isa_10_up", isa(10, true), 0),
        want("the_second_8259_comes_by_the_first", comes(SECOND + 2), 1),
        want("input_2_of_the_first_is_in_service", read(0x20), 0x04),
        want("isa_5_up_beside_it", isa(5, true), 0),
        want("a_lower_input_is_held_off", stays_away(FIRST + 5), 0),
        want("end_by_the_second", out(0xa0, 0x20), 0),
        want("the_first_still_holds_it_off", stays_away(FIRST + 5), 0),
        want("end_by_the_first", out(0x20, 0x20), 0),
        want("the_lower_input_comes", comes(FIRST + 5), 1),
        want("isa_10_down", isa(10, false), 0),
        want("isa_10_up_while_a_lower_one_is_in_service", isa(10, true), 0),
        want("a_higher_input_is_not_held_off", comes(SECOND + 2), 1),
        want("end_by_the_second_again", out(0xa0, 0x20), 0),
        want("end_by_the_first_again", out(0x20, 0x20), 0),
        want("end_of_the_lower_one", out(0x20, 0x20), 0),
        want("isa_10_down_for_good", isa(10, false), 0),
        want("isa_5_down_beside_it", isa(5, false), 0),

        want("link_0_to_5", link(0, 5), 0),
        want("inta_of_device_4_up_for_the_8259", intx(4, 0, true), 0),
        want("a_link_reaches_the_8259", comes(FIRST + 5), 1),
        want("inta_of_device_4_down_for_the_8259", intx(4, 0, false), 0),
        want("end_of_the_link", out(0x20, 0x20), 0),
        want("link_0_to_nowhere_again", link(0, 0), 0),
        want("the_wire_is_cut_for_good", ExtInt { on: false }, 0),
        want("the_first_8259_is_masked_for_good", out(0x21, 0xff), 0),
        want("the_second_8259_is_masked_for_good", out(0xa1, 0xff), 0),
    ]
};
