//! Single accesses as a table, for the conformance programme: a row does one thing and has one answer.
//!
//! Whoever serves port [`PORT`] ff., memory [`MMIO`] ff. and PCI function [`PCI_DEVICE`] sees every access; [`run`] writes
//! each answer to [`RESULT`], so the server has the whole log. The same table runs on a model and inside a real guest.
//! What the device answers is the server's affair; `expect` says what must hold whoever serves.

use xen_ioreq::Gfn;

use crate::platform::{Platform, Way, Width};
use crate::words::{hi32, lo32};

/// First of the device's ports.
pub const PORT: u16 = 0x1000;
/// Number of its ports.
pub const PORTS: u16 = 0x20;
/// Two writes a row go here: lower dword of the answer, then the upper.
pub const RESULT: u16 = 0x1018;
/// A write here says that all rows are done: [`END_VALUE`].
pub const END: u16 = 0x101c;
/// What is written there.
pub const END_VALUE: u32 = 0xd0e;
/// A four-byte read here asks which of [`TABLES`] comes next, numbered from 1 on; whatever is no such number is none.
pub const NEXT: u16 = END;
/// A four-byte write here asks the server for one MSI to the CPU that writes, with the value as its data.
pub const MSI: u16 = 0x1014;
/// A four-byte write here has the server do something with a frame: an [`Order`], above it the frame's number times 16. A
/// four-byte read tells what came of the last one: a number, or 0x80000000 and the error's number.
pub const ORDER: u16 = 0x1010;
/// First byte of the device's memory, one page.
pub const MMIO: u64 = 0xfe00_0000;
/// The device's PCI function on bus 0: device 4, function 0.
pub const PCI_DEVICE: u8 = 4;
/// A port that nobody serves.
pub const UNCLAIMED_PORT: u16 = 0x2222;
/// Memory that nobody serves.
pub const UNCLAIMED_MMIO: u64 = 0xfd00_0000;
/// Frames of RAM that the rows use; adjacent.
pub const SCRATCH_FRAMES: usize = 8;

/// What a server can be told to do at [`ORDER`]; 0 where there is nothing to tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Claims the memory type whose writes are requests; of no frame yet.
    Claim = 1,
    /// Gives that type to the frame.
    Protect = 2,
    /// Makes it RAM as any other.
    Plain = 3,
    /// Makes it RAM whose writes are dropped.
    ReadOnly = 4,
    /// Gives the memory type back, whatever frames have it.
    Release = 5,
    /// Begins to track which of this frame and the next are written.
    Track = 6,
    /// Tells which were since it was last told: bit 0 the first, bit 1 the other.
    Written = 7,
    /// Stops that.
    Untrack = 8,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Claim,
        Self::Protect,
        Self::Plain,
        Self::ReadOnly,
        Self::Release,
        Self::Track,
        Self::Written,
        Self::Untrack,
    ];
}

/// One access. `ram` is a byte offset in the scratch RAM, `port` and `gpa` are absolute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named above; counts are in elements")]
pub enum Access {
    /// `in`; the answer is the value.
    In { port: u16, width: Width },
    /// `out`; the answer is 0.
    Out { port: u16, width: Width, value: u32 },
    /// `rep ins`; the answer is 0, see [`Access::Digest`].
    RepIn { port: u16, width: Width, ram: u64, count: u32, way: Way },
    /// `rep outs`; the answer is 0.
    RepOut { port: u16, width: Width, ram: u64, count: u32, way: Way },
    /// A load from memory; the answer is the value.
    Load { gpa: u64, width: Width },
    /// A store to memory; the answer is 0.
    Store { gpa: u64, width: Width, value: u64 },
    /// `rep movs` from the device to RAM; the answer is 0.
    RepLoad { gpa: u64, width: Width, ram: u64, count: u32, way: Way },
    /// `rep movs` from RAM to the device; the answer is 0.
    RepStore { gpa: u64, width: Width, ram: u64, count: u32, way: Way },
    /// A read of configuration space by CF8/CFC; the answer is the value.
    ConfigRead { device: u8, reg: u8, width: Width },
    /// A write of it; the answer is 0.
    ConfigWrite { device: u8, reg: u8, width: Width, value: u32 },
    /// Fills scratch RAM with the bytes `first`, `first + 1`, ...; the answer is 0.
    Fill { ram: u64, bytes: u32, first: u8 },
    /// Reads scratch RAM; the answer is the value.
    Peek { ram: u64, width: Width },
    /// Writes scratch RAM; the answer is 0.
    Poke { ram: u64, width: Width, value: u64 },
    /// Has the server do something with a frame of the scratch RAM; the answer is what came of it.
    Order { order: Order, frame: u64 },
    /// FNV-1a (64 bits) of scratch RAM.
    Digest { ram: u64, bytes: u32 },
    /// Asks the server for an MSI at this CPU, see [`MSI`]; the answer is 0, or all-ones where the platform takes none.
    AskForMsi,
    /// Waits until an MSI has come, at most this many moments; the answer is how many have.
    Interrupts { moments: u32 },
    /// Tells where the scratch RAM is: the answer is its first byte's address. Addresses of it in a server's log can
    /// then be told apart from where this guest happens to have it.
    Scratch,
    /// Gives frames of the scratch RAM to the hypervisor; the answer is how many it took.
    BalloonOut { frame: u64, frames: u32 },
    /// Takes frames back; the answer is how many came.
    BalloonIn { frame: u64, frames: u32 },
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Situation, in words fit for a test's name.
    pub name: &'static str,
    /// What is done.
    pub access: Access,
    /// The answer, where it does not depend on the server, but for its doing what it is [told](Access::Order).
    pub expect: Option<u64>,
}

const fn row(name: &'static str, access: Access) -> Row {
    Row { name, access, expect: None }
}

const fn want(name: &'static str, access: Access, expect: u64) -> Row {
    Row { name, access, expect: Some(expect) }
}

const fn order(order: Order, frame: u64) -> Access {
    Access::Order { order, frame }
}

/// The table.
#[rustfmt::skip]
pub const ROWS: &[Row] = {
    use Access::{AskForMsi, BalloonIn, BalloonOut, ConfigRead, ConfigWrite, Digest, Fill, In, Interrupts, Load, Out, Peek, Poke, RepIn, RepLoad, RepOut, RepStore, Scratch, Store};
    use Order::{Claim, Plain, Protect, ReadOnly, Release, Track, Untrack, Written};
    use Way::{Down, Up};
    use Width::{B1, B2, B4, B8};
    &[
        row("scratch_ram_is_here", Scratch),

        want("out_of_one_byte", Out { port: PORT, width: B1, value: 0x41 }, 0),
        want("out_of_two_bytes", Out { port: PORT, width: B2, value: 0x4242 }, 0),
        want("out_of_four_bytes", Out { port: PORT, width: B4, value: 0xdead_beef }, 0),
        row("in_of_one_byte", In { port: PORT, width: B1 }),
        row("in_of_two_bytes", In { port: PORT, width: B2 }),
        row("in_of_four_bytes", In { port: PORT, width: B4 }),
        row("in_of_the_last_port", In { port: PORT + PORTS - 1, width: B1 }),
        want("in_across_the_end_of_the_range_is_all_ones", In { port: PORT + PORTS - 2, width: B4 }, 0xffff_ffff),
        want("in_across_the_start_of_the_range_is_all_ones", In { port: PORT - 2, width: B4 }, 0xffff_ffff),
        want("out_across_the_end_of_the_range_is_dropped", Out { port: PORT + PORTS - 2, width: B4, value: 1 }, 0),
        want("in_of_an_unclaimed_port_is_all_ones", In { port: UNCLAIMED_PORT, width: B4 }, 0xffff_ffff),
        want("in_of_two_bytes_of_an_unclaimed_port_is_all_ones", In { port: UNCLAIMED_PORT, width: B2 }, 0xffff),
        want("in_of_one_byte_of_an_unclaimed_port_is_all_ones", In { port: UNCLAIMED_PORT, width: B1 }, 0xff),
        want("out_to_an_unclaimed_port_is_dropped", Out { port: UNCLAIMED_PORT, width: B4, value: 1 }, 0),

        want("fill_for_string_output", Fill { ram: 0, bytes: 64, first: 0x30 }, 0),
        want("rep_outsb", RepOut { port: PORT + 4, width: B1, ram: 0, count: 16, way: Up }, 0),
        want("rep_outsw", RepOut { port: PORT + 4, width: B2, ram: 0, count: 8, way: Up }, 0),
        want("rep_outsd", RepOut { port: PORT + 4, width: B4, ram: 0, count: 4, way: Up }, 0),
        want("rep_outsd_downwards", RepOut { port: PORT + 4, width: B4, ram: 12, count: 4, way: Down }, 0),
        want("rep_outs_of_nothing", RepOut { port: PORT + 4, width: B4, ram: 0, count: 0, way: Up }, 0),
        want("fill_across_a_page_boundary", Fill { ram: 0xff0, bytes: 32, first: 0x80 }, 0),
        want("rep_outsd_across_a_page_boundary", RepOut { port: PORT + 4, width: B4, ram: 0xff0, count: 8, way: Up }, 0),
        want("rep_outsd_with_an_element_on_a_page_boundary", RepOut { port: PORT + 4, width: B4, ram: 0xffe, count: 3, way: Up }, 0),
        want("rep_outsd_downwards_across_a_page_boundary", RepOut { port: PORT + 4, width: B4, ram: 0x1008, count: 5, way: Down }, 0),
        want("rep_outsd_downwards_with_an_element_on_a_page_boundary", RepOut { port: PORT + 4, width: B4, ram: 0x1006, count: 4, way: Down }, 0),
        want("rep_insb", RepIn { port: PORT + 8, width: B1, ram: 0x100, count: 16, way: Up }, 0),
        row("rep_insb_left_this", Digest { ram: 0x100, bytes: 16 }),
        want("rep_insw", RepIn { port: PORT + 8, width: B2, ram: 0x120, count: 8, way: Up }, 0),
        row("rep_insw_left_this", Digest { ram: 0x120, bytes: 16 }),
        want("rep_insd", RepIn { port: PORT + 8, width: B4, ram: 0x140, count: 8, way: Up }, 0),
        row("rep_insd_left_this", Digest { ram: 0x140, bytes: 32 }),
        want("rep_insd_downwards", RepIn { port: PORT + 8, width: B4, ram: 0x17c, count: 8, way: Down }, 0),
        row("rep_insd_downwards_left_this", Digest { ram: 0x160, bytes: 32 }),
        want("rep_insd_across_a_page_boundary", RepIn { port: PORT + 8, width: B4, ram: 0x1ff0, count: 8, way: Up }, 0),
        row("rep_insd_across_a_page_boundary_left_this", Digest { ram: 0x1ff0, bytes: 32 }),
        want("rep_insd_downwards_across_a_page_boundary", RepIn { port: PORT + 8, width: B4, ram: 0x2008, count: 5, way: Down }, 0),
        row("rep_insd_downwards_across_a_page_boundary_left_this", Digest { ram: 0x1ff8, bytes: 20 }),
        want("rep_insw_of_one_element", RepIn { port: PORT + 8, width: B2, ram: 0x190, count: 1, way: Up }, 0),
        want("rep_insd_of_an_unclaimed_port", RepIn { port: UNCLAIMED_PORT, width: B4, ram: 0x180, count: 2, way: Up }, 0),
        want("rep_insd_of_an_unclaimed_port_left_all_ones", Peek { ram: 0x184, width: B4 }, 0xffff_ffff),

        want("store_of_one_byte", Store { gpa: MMIO + 9, width: B1, value: 0x5a }, 0),
        want("store_of_two_bytes", Store { gpa: MMIO + 0x12, width: B2, value: 0xbeef }, 0),
        want("store_of_four_bytes", Store { gpa: MMIO + 0x20, width: B4, value: 0xcafe_babe }, 0),
        want("store_of_eight_bytes", Store { gpa: MMIO + 0x28, width: B8, value: 0x0123_4567_89ab_cdef }, 0),
        row("load_of_one_byte", Load { gpa: MMIO + 9, width: B1 }),
        row("load_of_two_bytes", Load { gpa: MMIO + 0x12, width: B2 }),
        row("load_of_four_bytes", Load { gpa: MMIO + 0x20, width: B4 }),
        row("load_of_eight_bytes", Load { gpa: MMIO + 0x28, width: B8 }),
        row("load_of_four_bytes_unaligned", Load { gpa: MMIO + 0x29, width: B4 }),
        want("load_of_unclaimed_memory_is_all_ones", Load { gpa: UNCLAIMED_MMIO, width: B4 }, 0xffff_ffff),
        want("load_of_eight_bytes_of_unclaimed_memory_is_all_ones", Load { gpa: UNCLAIMED_MMIO, width: B8 }, u64::MAX),
        want("load_of_one_byte_of_unclaimed_memory_is_all_ones", Load { gpa: UNCLAIMED_MMIO, width: B1 }, 0xff),
        want("store_to_unclaimed_memory_is_dropped", Store { gpa: UNCLAIMED_MMIO, width: B4, value: 1 }, 0),
        row("load_across_the_end_of_the_range", Load { gpa: MMIO + 0xffe, width: B4 }),
        row("load_across_the_start_of_the_range", Load { gpa: MMIO - 2, width: B4 }),
        want("store_across_the_end_of_the_range", Store { gpa: MMIO + 0xffe, width: B4, value: 0x1111_2222 }, 0),
        row("load_of_the_last_two_bytes_after_it", Load { gpa: MMIO + 0xffe, width: B2 }),

        want("fill_for_string_moves", Fill { ram: 0x200, bytes: 64, first: 0x11 }, 0),
        want("rep_movsb_to_the_device", RepStore { gpa: MMIO + 0x100, width: B1, ram: 0x200, count: 16, way: Up }, 0),
        want("rep_movsd_to_the_device", RepStore { gpa: MMIO + 0x110, width: B4, ram: 0x200, count: 4, way: Up }, 0),
        want("rep_movsq_to_the_device", RepStore { gpa: MMIO + 0x120, width: B8, ram: 0x200, count: 2, way: Up }, 0),
        want("rep_movsd_to_the_device_downwards", RepStore { gpa: MMIO + 0x14c, width: B4, ram: 0x20c, count: 4, way: Down }, 0),
        want("rep_movsb_from_the_device", RepLoad { gpa: MMIO + 0x100, width: B1, ram: 0x300, count: 16, way: Up }, 0),
        row("rep_movsb_from_the_device_left_this", Digest { ram: 0x300, bytes: 16 }),
        want("rep_movsd_from_the_device", RepLoad { gpa: MMIO + 0x110, width: B4, ram: 0x320, count: 4, way: Up }, 0),
        row("rep_movsd_from_the_device_left_this", Digest { ram: 0x320, bytes: 16 }),
        want("rep_movsd_from_the_device_downwards", RepLoad { gpa: MMIO + 0x14c, width: B4, ram: 0x34c, count: 4, way: Down }, 0),
        row("rep_movsd_from_the_device_downwards_left_this", Digest { ram: 0x340, bytes: 16 }),
        want("rep_movsq_from_the_device", RepLoad { gpa: MMIO + 0x120, width: B8, ram: 0x360, count: 2, way: Up }, 0),
        row("rep_movsq_from_the_device_left_this", Digest { ram: 0x360, bytes: 16 }),
        want("rep_movsd_to_ram_across_a_page_boundary", RepLoad { gpa: MMIO + 0x110, width: B4, ram: 0x2ff8, count: 4, way: Up }, 0),
        row("rep_movsd_to_ram_across_a_page_boundary_left_this", Digest { ram: 0x2ff8, bytes: 16 }),
        want("rep_movsd_to_ram_downwards_across_a_page_boundary", RepLoad { gpa: MMIO + 0x14c, width: B4, ram: 0x3008, count: 4, way: Down }, 0),
        row("rep_movsd_to_ram_downwards_across_a_page_boundary_left_this", Digest { ram: 0x2ffc, bytes: 16 }),
        want("rep_movsd_from_ram_with_an_element_on_a_page_boundary", RepStore { gpa: MMIO + 0x150, width: B4, ram: 0x2ffe, count: 3, way: Up }, 0),
        want("rep_movsd_of_unclaimed_memory", RepLoad { gpa: UNCLAIMED_MMIO, width: B4, ram: 0x380, count: 2, way: Up }, 0),
        want("rep_movsd_of_unclaimed_memory_left_all_ones", Peek { ram: 0x384, width: B4 }, 0xffff_ffff),

        row("config_read_of_four_bytes", ConfigRead { device: PCI_DEVICE, reg: 0, width: B4 }),
        row("config_read_of_two_bytes", ConfigRead { device: PCI_DEVICE, reg: 2, width: B2 }),
        row("config_read_of_one_byte", ConfigRead { device: PCI_DEVICE, reg: 0x0b, width: B1 }),
        want("config_write_of_four_bytes", ConfigWrite { device: PCI_DEVICE, reg: 0x10, width: B4, value: 0xffff_ffff }, 0),
        row("config_read_after_it", ConfigRead { device: PCI_DEVICE, reg: 0x10, width: B4 }),
        want("config_write_of_two_bytes", ConfigWrite { device: PCI_DEVICE, reg: 4, width: B2, value: 6 }, 0),
        want("config_write_of_one_byte", ConfigWrite { device: PCI_DEVICE, reg: 0x3c, width: B1, value: 0x5a }, 0),
        want("config_read_of_no_function_is_all_ones", ConfigRead { device: 29, reg: 0, width: B4 }, 0xffff_ffff),

        want("no_msi_before_one_was_asked_for", Interrupts { moments: 2 }, 0),
        want("out_that_asks_for_an_msi", AskForMsi, 0),
        row("msis_that_came", Interrupts { moments: 200 }),
        want("no_msi_comes_twice", Interrupts { moments: 2 }, 0),

        want("fill_before_ballooning", Fill { ram: 0x5000, bytes: 8, first: 1 }, 0),
        want("decrease_reservation_of_two_frames", BalloonOut { frame: 5, frames: 2 }, 2),
        want("decrease_reservation_of_a_hole_does_nothing", BalloonOut { frame: 5, frames: 1 }, 0),
        want("load_of_a_ballooned_frame_is_all_ones", Peek { ram: 0x5000, width: B4 }, 0xffff_ffff),
        want("populate_physmap_of_two_frames", BalloonIn { frame: 5, frames: 2 }, 2),
        want("store_to_a_frame_that_came_back", Fill { ram: 0x5000, bytes: 8, first: 0x61 }, 0),
        want("load_of_a_frame_that_came_back", Peek { ram: 0x5000, width: B4 }, 0x6463_6261),

        want("fill_before_a_frame_is_protected", Fill { ram: 0x4000, bytes: 16, first: 0x21 }, 0),
        want("a_type_that_nobody_claims_is_refused", order(Protect, 4), 0x8000_0016),
        want("the_server_claims_the_type", order(Claim, 4), 0),
        want("a_frame_is_protected", order(Protect, 4), 0),
        want("store_of_one_byte_to_a_protected_frame", Poke { ram: 0x4000, width: B1, value: 0xa1 }, 0),
        want("store_of_two_bytes_to_a_protected_frame", Poke { ram: 0x4002, width: B2, value: 0xa2a2 }, 0),
        want("store_of_four_bytes_to_a_protected_frame", Poke { ram: 0x4004, width: B4, value: 0xa4a4_a4a4 }, 0),
        want("store_of_eight_bytes_to_a_protected_frame", Poke { ram: 0x4008, width: B8, value: 0xa8a8_a8a8_a8a8_a8a8 }, 0),
        want("load_of_a_protected_frame_is_none_of_the_servers", Peek { ram: 0x4000, width: B8 }, 0x2827_2625_2423_2221),
        want("load_of_its_other_bytes", Peek { ram: 0x4008, width: B8 }, 0x302f_2e2d_2c2b_2a29),
        want("rep_outsd_from_a_protected_frame", RepOut { port: PORT + 4, width: B4, ram: 0x4000, count: 2, way: Up }, 0),
        want("a_protected_frame_becomes_ram", order(Plain, 4), 0),
        want("store_to_a_frame_that_became_ram", Poke { ram: 0x4000, width: B4, value: 0x5b5b_5b5b }, 0),
        want("load_of_a_frame_that_became_ram", Peek { ram: 0x4000, width: B4 }, 0x5b5b_5b5b),
        want("it_is_protected_again", order(Protect, 4), 0),
        want("the_server_gives_the_type_back", order(Release, 4), 0),
        want("store_to_a_frame_whose_type_was_given_back", Poke { ram: 0x4000, width: B4, value: 0x5c5c_5c5c }, 0),
        want("load_of_a_frame_whose_type_was_given_back", Peek { ram: 0x4000, width: B4 }, 0x5c5c_5c5c),
        want("a_frame_becomes_read_only", order(ReadOnly, 4), 0),
        want("store_to_a_read_only_frame_is_dropped", Poke { ram: 0x4000, width: B4, value: 0x5d5d_5d5d }, 0),
        want("load_of_a_read_only_frame", Peek { ram: 0x4000, width: B4 }, 0x5c5c_5c5c),
        want("a_read_only_frame_becomes_ram", order(Plain, 4), 0),
        want("store_to_what_was_read_only", Poke { ram: 0x4000, width: B4, value: 0x5e5e_5e5e }, 0),
        want("load_of_what_was_read_only", Peek { ram: 0x4000, width: B4 }, 0x5e5e_5e5e),

        want("fill_before_tracking", Fill { ram: 0x4ffc, bytes: 8, first: 0x91 }, 0),
        want("two_frames_are_tracked", order(Track, 4), 0),
        want("the_first_look_says_that_both_were_written", order(Written, 4), 0b11),
        want("none_was_written", order(Written, 4), 0),
        want("store_to_the_second_tracked_frame", Poke { ram: 0x5000, width: B1, value: 0x77 }, 0),
        want("load_of_a_tracked_frame", Peek { ram: 0x5000, width: B1 }, 0x77),
        want("the_second_was_written", order(Written, 4), 0b10),
        want("that_is_told_once", order(Written, 4), 0),
        want("loads_of_both", Peek { ram: 0x4ffc, width: B8 }, 0x9897_9677_9493_9291),
        want("loads_do_not_count", order(Written, 4), 0),
        want("store_across_the_boundary_of_both", Poke { ram: 0x4ffe, width: B4, value: 0x1122_3344 }, 0),
        want("both_were_written", order(Written, 4), 0b11),
        want("rep_insd_to_a_tracked_frame", RepIn { port: PORT + 8, width: B4, ram: 0x4100, count: 2, way: Up }, 0),
        row("what_the_server_writes_by_its_mapping", order(Written, 4)),
        want("tracking_ends", order(Untrack, 4), 0),
        want("store_to_a_frame_that_was_tracked", Poke { ram: 0x4000, width: B4, value: 0x7878_7878 }, 0),
        want("load_of_a_frame_that_was_tracked", Peek { ram: 0x4000, width: B4 }, 0x7878_7878),
    ]
};

/// Frames given back and taken in, each row one hypercall: for who counts notices and frames meanwhile.
#[rustfmt::skip]
pub const GIVE: &[Row] = {
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

/// The tables that a server can ask for.
pub const TABLES: &[&[Row]] = &[ROWS, GIVE];

/// Runs the tables that are asked for at [`NEXT`], as [`run`] does, until the platform says stop or `done`, which is told
/// after each, says so. Asks again after a moment where nothing is asked for. `None`: as [`run`].
pub fn serve(
    platform: &mut impl Platform,
    seen: &mut dyn FnMut(&Row, u64),
    done: &mut dyn FnMut() -> bool,
) -> Option<()> {
    while !platform.stop_requested() {
        let number = platform.pio_read(NEXT, Width::B4);
        let table = (number as usize).checked_sub(1).and_then(|n| TABLES.get(n));
        match table {
            Some(rows) => {
                run(platform, rows, seen)?;
                if done() {
                    break;
                }
            }
            None => platform.wait(),
        }
    }
    Some(())
}

/// Performs every row of `rows`, hands each answer to `seen` and writes it to [`RESULT`]; at the end writes [`END`].
/// `None`: the platform has no [`SCRATCH_FRAMES`] adjacent frames.
pub fn run(platform: &mut impl Platform, rows: &[Row], seen: &mut dyn FnMut(&Row, u64)) -> Option<()> {
    let scratch = platform.ram().iter().find(|r| r.frames >= SCRATCH_FRAMES as u64)?.first;
    for row in rows {
        let answer = perform(platform, scratch, row.access);
        seen(row, answer);
        platform.pio_write(RESULT, Width::B4, lo32(answer));
        platform.pio_write(RESULT, Width::B4, hi32(answer));
    }
    platform.pio_write(END, Width::B4, END_VALUE);
    Some(())
}

/// Performs one access; `scratch` is the first of [`SCRATCH_FRAMES`] frames.
pub fn perform(platform: &mut impl Platform, scratch: Gfn, access: Access) -> u64 {
    let base = scratch.addr();
    match access {
        Access::In { port, width } => return platform.pio_read(port, width).into(),
        Access::Out { port, width, value } => platform.pio_write(port, width, value),
        Access::RepIn { port, width, ram, count, way } => {
            platform.rep_ins(port, width, base + ram, count, way)
        }
        Access::RepOut { port, width, ram, count, way } => {
            platform.rep_outs(port, width, base + ram, count, way)
        }
        Access::Load { gpa, width } => return platform.mmio_read(gpa, width),
        Access::Store { gpa, width, value } => platform.mmio_write(gpa, width, value),
        Access::RepLoad { gpa, width, ram, count, way } => {
            platform.rep_movs(gpa, base + ram, width, count, way)
        }
        Access::RepStore { gpa, width, ram, count, way } => {
            platform.rep_movs(base + ram, gpa, width, count, way)
        }
        Access::ConfigRead { device, reg, width } => {
            return crate::pci::Function { device, function: 0 }.read(platform, reg, width).into();
        }
        Access::ConfigWrite { device, reg, width, value } => {
            crate::pci::Function { device, function: 0 }.write(platform, reg, width, value);
        }
        Access::Fill { ram, bytes, first } => {
            for (at, n) in (base + ram..).zip(0..bytes) {
                // holes are part of the game: a store there is dropped
                let _dropped = platform.ram_write(at, &[first.wrapping_add(crate::words::lo8(n.into()))]);
            }
        }
        // an access of the CPU, not a copy: what is not RAM at the moment still answers
        Access::Peek { ram, width } => return platform.mmio_read(base + ram, width),
        Access::Poke { ram, width, value } => platform.mmio_write(base + ram, width, value),
        Access::Order { order, frame } => {
            platform.pio_write(ORDER, Width::B4, lo32(scratch.0 + frame) << 4 | order as u32);
            return platform.pio_read(ORDER, Width::B4).into();
        }
        Access::Digest { ram, bytes } => {
            return (base + ram..).zip(0..bytes).fold(crate::FNV_START, |hash, (at, _)| {
                let mut byte = [0xff];
                let _hole_reads_as_ones = platform.ram_read(at, &mut byte);
                crate::fnv1a(hash, byte[0])
            });
        }
        Access::AskForMsi => match platform.msi() {
            Some(message) => platform.pio_write(MSI, Width::B4, message.data),
            None => return u64::MAX,
        },
        Access::Interrupts { moments } => {
            let mut came = platform.take_interrupts();
            for _ in 0..moments {
                if came > 0 {
                    break;
                }
                platform.wait();
                came = platform.take_interrupts();
            }
            return came.into();
        }
        Access::Scratch => return base,
        Access::BalloonOut { frame, frames } => {
            return balloon(scratch, frame, frames, |l| platform.decrease_reservation(l));
        }
        Access::BalloonIn { frame, frames } => {
            return balloon(scratch, frame, frames, |l| platform.populate_physmap(l));
        }
    }
    0
}

fn balloon(scratch: Gfn, frame: u64, frames: u32, mut f: impl FnMut(&[Gfn]) -> usize) -> u64 {
    let mut list = [Gfn(0); SCRATCH_FRAMES];
    let count = (frames as usize).min(list.len());
    for (n, gfn) in (0..).zip(list.iter_mut()) {
        *gfn = Gfn(scratch.0 + frame + n);
    }
    f(&list[..count]) as u64
}
