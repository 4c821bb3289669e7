//! Grants for the conformance programme: a guest performs the lines that it can alone and reports each, and runs errands.
//!
//! Whoever serves the ports from [`NEXT`] on is asked what comes next: [`LINES`], of which it is told each [`Seen`], in order, or an
//! [`Errand`]. The same happens on a model and inside a real guest, where every operation is open; what the answers must be
//! stands in the lines and with the server.

mod errand;
pub mod lines;
#[allow(non_upper_case_globals, reason = "patterns use constants that have the names of Xen's headers")]
pub mod sheet;
#[allow(non_upper_case_globals, reason = "as above")]
mod stage;

use core::fmt;

use xen_ioreq::Errno;

pub use self::errand::{Args, Errand, WORDS};
use self::sheet::{By, Line, Sheet, Want};
use self::stage::Stage;
pub use self::stage::{Mapping, Workspace};
pub use self::stage::{PLACES, STATUS, TABLE};
use crate::platform::{Platform, Width};
use crate::rows::{END_VALUE, PORT};
use crate::words::{hi32, lo32};

/// Number of the ports; the first is that of [`rows`](crate::rows).
pub const PORTS: u16 = 0x10;
/// A four-byte read here asks what comes next: [`LINES`], [`ERRAND`], and whatever else is nothing for now.
pub const NEXT: u16 = PORT;
/// Two four-byte writes a line go here: [`Seen::words`]. Of an errand its answer, the lower half first.
pub const RESULT: u16 = PORT + 4;
/// A four-byte write here says that all lines are done.
pub const END: u16 = PORT + 8;
/// Four-byte reads here, [`WORDS`] of them in a row, tell what the errand is.
pub const ASK: u16 = PORT + 0xc;
/// All lines are to be performed.
pub const LINES: u32 = 1;
/// An errand is to be run.
pub const ERRAND: u32 = 2;

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

/// What a guest hears of its own lines.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A line has been performed.
    Line(&'a Line, Seen),
    /// All of them have.
    End,
}

/// The lines that a guest of released Xen performs, each with its sheet, in order.
pub fn alone() -> impl Iterator<Item = (&'static Sheet, &'static Line)> {
    let released = lines::SHEETS.iter().filter(|s| s.by != By::Draft);
    released.flat_map(|s| s.lines.iter().map(move |l| (s, l)))
}

/// Performs every line of [`alone`] when a server asks for them, and tells it; runs errands. `seen` hears of it, too.
/// Ends when the platform is to stop. `Err`: the guest's table could not be made, or there is no RAM.
///
/// # Errors
/// Those of the hypercalls.
pub fn serve(
    platform: &mut impl Hypercalls,
    workspace: &mut Workspace,
    seen: &mut dyn FnMut(News<'_>),
) -> Result<(), Errno> {
    let Some(mut next) = asked(platform) else { return Ok(()) };
    let mut stage = Stage::new(platform, workspace)?;
    loop {
        if next == LINES {
            perform(&mut stage, seen)
        } else {
            run(&mut stage)
        }
        match asked(stage.platform()) {
            Some(n) => next = n,
            None => return Ok(()),
        }
    }
}

/// What comes next, waited for. `None`: nothing any more.
fn asked(platform: &mut impl Hypercalls) -> Option<u32> {
    loop {
        match platform.pio_read(NEXT, Width::B4) {
            next @ (LINES | ERRAND) => return Some(next),
            _ if platform.stop_requested() => return None,
            _ => platform.wait(),
        }
    }
}

fn perform<P: Hypercalls>(stage: &mut Stage<'_, P>, seen: &mut dyn FnMut(News<'_>)) {
    for (_, line) in alone() {
        let answer = stage.run(line);
        seen(News::Line(line, answer));
        for word in answer.words() {
            stage.platform().pio_write(RESULT, Width::B4, word);
        }
    }
    stage.platform().pio_write(END, Width::B4, END_VALUE);
    seen(News::End);
}

/// Runs an errand; what is none is answered as if it were not there.
fn run<P: Hypercalls>(stage: &mut Stage<'_, P>) {
    let answer = stage.letter().map_or(u64::MAX, |errand| stage.errand(&errand));
    for word in [lo32(answer), hi32(answer)] {
        stage.platform().pio_write(RESULT, Width::B4, word);
    }
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
