//! Single accesses as tables, for the conformance programme: a row does one thing and has one answer.
//!
//! Whoever serves port [`PORT`] ff., memory [`MMIO`] ff. and PCI function [`PCI_DEVICE`] sees every access; [`run`] writes
//! each answer to [`RESULT`], so the server has the whole log. The same tables run on a model and inside a real guest.
//! What the device answers is the server's affair; `expect` says what must hold whoever serves.

mod access;
mod accesses;
mod give;
mod lines;
mod moves;
mod together;

pub use access::{Access, perform};
pub use lines::Line;
pub use together::{BEGUN, COUNT, GO, HOLD, MEET, PERFORMERS, RINGED, VGA, VGA_BYTES};

use crate::platform::{Platform, Width};
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
/// A four-byte read here asks for the number of the [`Table`] that comes next; whatever is no such number is none.
pub const NEXT: u16 = END;
/// A four-byte write here asks the server for one MSI to the CPU that writes, with the value as its data.
pub const MSI: u16 = 0x1014;
/// A four-byte write here has the server do something with a frame: an [`Order`], above it the frame's number times 16. A
/// four-byte read tells what came of the last one: a number, or 0x80000000 and the error's number.
pub const ORDER: u16 = 0x1010;
/// A four-byte write here has the server change an interrupt line: [`Line::word`]. A four-byte read tells what came of the last
/// one, as at [`ORDER`].
pub const LINE: u16 = 0x100c;
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

/// The tables that a server can ask for, with their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Accesses of every kind.
    Accesses = 1,
    /// Frames given back and taken in.
    Give = 2,
    /// String moves that meet write-protected frames.
    Moves = 3,
    /// Interrupt lines of an HVM guest.
    Lines = 4,
    /// What several CPUs do at once: each of them performs it.
    Together = 5,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Accesses, Self::Give, Self::Moves, Self::Lines, Self::Together];

    /// Its rows.
    pub const fn rows(self) -> &'static [Row] {
        match self {
            Self::Accesses => accesses::ROWS,
            Self::Give => give::ROWS,
            Self::Moves => moves::ROWS,
            Self::Lines => lines::ROWS,
            Self::Together => together::ROWS,
        }
    }

    /// The one of that number.
    fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| u32::from(*t as u8) == number)
    }
}

/// Runs the tables that are asked for at [`NEXT`], as [`run`] does, until the platform says stop or `done`, which is told
/// after each, says so. Asks again after a moment where nothing is asked for. `None`: as [`run`].
pub fn serve(
    platform: &mut impl Platform,
    seen: &mut dyn FnMut(&Row, u64),
    done: &mut dyn FnMut() -> bool,
) -> Option<()> {
    while !platform.stop_requested() {
        match Table::of_number(platform.pio_read(NEXT, Width::B4)) {
            Some(table) => {
                run(platform, table.rows(), seen)?;
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
