//! Grants as lines of a sheet, for the conformance programme: a guest performs those that it can alone, and reports each.
//!
//! Whoever serves the ports from [`NEXT`] on is asked when to begin and is told each [`Seen`], in order. The same lines run on a
//! model and inside a real guest, where every operation is open; what the answers must be stands in the lines.

pub mod lines;
#[allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]
pub mod sheet;
#[allow(non_upper_case_globals, reason = "as above")]
mod stage;

use core::fmt;

use xen_ioreq::Errno;

use self::sheet::{By, Line, Sheet, Want};
use self::stage::Stage;
pub use self::stage::{Mapping, Workspace};
use crate::platform::{Platform, Width};
use crate::rows::{END_VALUE, PORT};

/// Number of the ports; the first is that of [`rows`](crate::rows).
pub const PORTS: u16 = 0x10;
/// A four-byte read here asks whether to begin: 1.
pub const NEXT: u16 = PORT;
/// Two four-byte writes a line go here: [`Seen::words`].
pub const RESULT: u16 = PORT + 4;
/// A four-byte write here says that all lines are done.
pub const END: u16 = PORT + 8;

/// What grants need of a platform beyond what every guest needs.
pub trait Hypercalls: Platform {
    /// `grant_table_op`: `count` structs in `args`; without any, an address at which nothing is.
    ///
    /// # Errors
    /// Those of the hypercall.
    fn grant_table_op(&mut self, cmd: u32, args: &mut [u8], count: u32) -> Result<(), Errno>;
    /// An operation with a list of frames, to which the struct's handle leads; without room, to where nothing is.
    ///
    /// # Errors
    /// Those of the hypercall.
    fn grant_table_frames(&mut self, cmd: u32, arg: &mut [u8], list: &mut [u64]) -> Result<(), Errno>;
    /// `memory_op` on one struct.
    ///
    /// # Errors
    /// Those of the hypercall.
    fn memory_op(&mut self, cmd: u32, arg: &mut [u8]) -> Result<(), Errno>;
}

/// What came of a line: the answer, and the hypervisor's marks in its entry after it. `Err`: the state could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(pub Result<(Want, u16), Errno>);

impl Seen {
    /// Whether this is what the line says.
    pub fn is_of(&self, line: &Line) -> bool {
        self.0 == Ok((line.want, line.marks))
    }

    /// As it goes over the port: a kind and a number, and the marks.
    pub fn words(&self) -> [u32; 2] {
        match self.0 {
            Ok((Want::Status(n), marks)) => [u32::from(n.unsigned_abs()), marks.into()],
            Ok((Want::Rc(e), marks)) => [1 << 16 | e.0.unsigned_abs(), marks.into()],
            Ok((Want::Byte(b), marks)) => [2 << 16 | u32::from(b), marks.into()],
            Err(e) => [3 << 16 | e.0.unsigned_abs(), 0],
        }
    }

    /// The inverse of [`words`](Self::words). `None`: no such answer.
    pub fn of_words([answer, marks]: [u32; 2]) -> Option<Self> {
        let number = i16::try_from(answer & 0xffff).ok()?;
        let marks = u16::try_from(marks).ok()?;
        let error = Errno(number.into());
        Some(Self(match answer >> 16 {
            0 => Ok((Want::Status(-number), marks)),
            1 => Ok((Want::Rc(error), marks)),
            2 => Ok((Want::Byte(u8::try_from(number).ok()?), marks)),
            3 => Err(error),
            _ => return None,
        }))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok((want, marks)) => write!(f, "{want}, marks {marks:#x}"),
            Err(e) => write!(f, "the state could not be made: {e}"),
        }
    }
}

/// The lines that a guest of released Xen performs, each with its sheet, in order.
pub fn alone() -> impl Iterator<Item = (&'static Sheet, &'static Line)> {
    let released = lines::SHEETS.iter().filter(|s| s.by != By::Draft);
    released.flat_map(|s| s.lines.iter().map(move |l| (s, l)))
}

/// Performs every line of [`alone`] when a server asks for it, and tells it; `seen` hears of each, too. `Err`: the guest's table
/// could not be made, or too little RAM is there.
///
/// # Errors
/// Those of the hypercalls.
pub fn serve(
    platform: &mut impl Hypercalls,
    workspace: &mut Workspace,
    seen: &mut dyn FnMut(&Line, Seen),
) -> Result<(), Errno> {
    while platform.pio_read(NEXT, Width::B4) != 1 {
        if platform.stop_requested() {
            return Ok(());
        }
        platform.wait();
    }
    let mut stage = Stage::new(platform, workspace)?;
    for (_, line) in alone() {
        let answer = stage.run(line);
        seen(line, answer);
        for word in answer.words() {
            stage.platform().pio_write(RESULT, Width::B4, word);
        }
    }
    platform.pio_write(END, Width::B4, END_VALUE);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_goes_over_the_port_and_comes_back() {
        for seen in [
            Ok((Want::Status(0), 0)),
            Ok((Want::Status(-13), 0x18)),
            Ok((Want::Rc(Errno::ENOSYS), 8)),
            Ok((Want::Byte(0xff), 0)),
            Err(Errno::ENOMEM),
        ] {
            assert_eq!(Seen::of_words(Seen(seen).words()), Some(Seen(seen)));
        }
        for words in [[4 << 16, 0], [0xffff, 0], [0, 1 << 16], [2 << 16 | 0x100, 0]] {
            assert_eq!(Seen::of_words(words), None, "{words:x?}");
        }
    }
}
