//! The two 8259s of an HVM guest (Xen's `vpic.c`): input 0 has the highest priority, an interrupt in service holds off its own
//! and all lower ones.

use super::CASCADE;

/// Command port of the first; the next one is its data port.
const FIRST: u16 = 0x20;
const SECOND: u16 = 0xa0;
/// Edge or level, a port for each.
const TRIGGER: u16 = 0x4d0;

/// Commands, by bits of what is written to a command port.
const ICW1: u8 = 0x10;
const ICW1_SINGLE: u8 = 0x02;
const ICW1_WITH_ICW4: u8 = 0x01;
const ICW4_AUTO_EOI: u8 = 0x02;
const OCW3: u8 = 0x08;
const OCW3_CHOOSES: u8 = 0x02;
const OCW3_IN_SERVICE: u8 = 0x01;
/// OCW2's upper three bits.
const END: u8 = 1;
const END_OF: u8 = 3;

/// Inputs that can be level-triggered.
const MAY_BE_LEVEL: [u8; 2] = [0xf8, 0xde];

/// What the data port takes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expects {
    /// The mask.
    #[default]
    Mask,
    /// The first vector; then, if they are to come, how they are cascaded and the mode.
    Base {
        cascade: bool,
        mode: bool,
    },
    Cascade {
        mode: bool,
    },
    Mode,
}

#[derive(Debug, Default)]
struct Pic {
    requested: u8,
    in_service: u8,
    masked: u8,
    base: u8,
    level: u8,
    auto_end: bool,
    reads_in_service: bool,
    expects: Expects,
}

impl Pic {
    /// The input that wants to interrupt; `from_below`: inputs that others hold up.
    fn wants(&self, from_below: u8) -> Option<u8> {
        let first = |mask: u8| mask.trailing_zeros();
        let open = (self.requested | from_below) & !self.masked;
        let wants = self.expects == Expects::Mask && first(open) < first(self.in_service);
        u8::try_from(first(open)).ok().filter(|_| wants)
    }

    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.level & bit == 0 {
            self.requested &= !bit;
        }
        if !self.auto_end {
            self.in_service |= bit;
        }
    }

    fn command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.requested &= self.level;
            (self.masked, self.in_service, self.reads_in_service) = (0, 0, false);
            let mode = value & ICW1_WITH_ICW4 != 0;
            self.auto_end &= mode;
            self.expects = Expects::Base { cascade: value & ICW1_SINGLE == 0, mode };
        } else if value & OCW3 != 0 {
            if value & OCW3_CHOOSES != 0 {
                self.reads_in_service = value & OCW3_IN_SERVICE != 0;
            }
        } else {
            match value >> 5 {
                END => self.in_service &= self.in_service.wrapping_sub(1),
                END_OF => self.in_service &= !(1 << (value & 7)),
                _ => {}
            }
        }
    }

    fn data(&mut self, value: u8) {
        let after = |mode| if mode { Expects::Mode } else { Expects::Mask };
        self.expects = match self.expects {
            Expects::Mask => {
                self.masked = value;
                Expects::Mask
            }
            Expects::Base { cascade, mode } => {
                self.base = value & 0xf8;
                if cascade { Expects::Cascade { mode } } else { after(mode) }
            }
            Expects::Cascade { mode } => after(mode),
            Expects::Mode => {
                self.auto_end = value & ICW4_AUTO_EOI != 0;
                Expects::Mask
            }
        };
    }
}

/// Both.
#[derive(Debug)]
pub(super) struct Pics {
    first: Pic,
    second: Pic,
}

impl Default for Pics {
    fn default() -> Self {
        // Where the second one sits is level-triggered for ever.
        Self { first: Pic { level: 1 << CASCADE, ..Pic::default() }, second: Pic::default() }
    }
}

impl Pics {
    fn of(&mut self, input: u8) -> (&mut Pic, u8) {
        if input < 8 { (&mut self.first, input) } else { (&mut self.second, input & 7) }
    }

    /// A line, 0 to 15, has gone up.
    pub(super) fn rise(&mut self, line: u8) {
        if line != CASCADE {
            let (pic, input) = self.of(line);
            pic.requested |= 1 << input;
        }
    }

    /// A line has gone down: nobody has requested anything there any more, edge or level.
    pub(super) fn fall(&mut self, line: u8) {
        if line != CASCADE {
            let (pic, input) = self.of(line);
            pic.requested &= !(1 << input);
        }
    }

    /// The vector of what wants to interrupt; from here on it is in service.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let second = self.second.wants(0);
        let input = self.first.wants(self.cascaded())?;
        self.first.acknowledge(input);
        match second.filter(|_| input == CASCADE) {
            Some(input) => {
                self.second.acknowledge(input);
                Some(self.second.base + input)
            }
            None => Some(self.first.base + input),
        }
    }

    fn cascaded(&self) -> u8 {
        u8::from(self.second.wants(0).is_some()) << CASCADE
    }

    /// An access to the ports from `port` to `last`, a write if there is a value; what a read gives. `None`: not to ours.
    pub(super) fn access(&mut self, port: u16, last: u16, written: Option<u8>) -> Option<u32> {
        let below_first = self.cascaded();
        let wide = port != last;
        let (pic, data, below) = match (port, last) {
            (FIRST..=0x21, FIRST..=0x21) => (&mut self.first, port != FIRST, below_first),
            (SECOND..=0xa1, SECOND..=0xa1) => (&mut self.second, port != SECOND, 0),
            (TRIGGER..=0x4d1, _) if !wide => return Some(self.trigger(port != TRIGGER, written).into()),
            _ => return None,
        };
        let read = match written {
            // Xen takes single bytes there.
            _ if wide => return Some(u32::MAX),
            Some(value) if data => {
                pic.data(value);
                0
            }
            Some(value) => {
                pic.command(value);
                0
            }
            None if data => pic.masked,
            None if pic.reads_in_service => pic.in_service,
            None => pic.requested | below,
        };
        Some(read.into())
    }

    fn trigger(&mut self, second: bool, written: Option<u8>) -> u8 {
        let [first_may, second_may] = MAY_BE_LEVEL;
        let (pic, may, always) = if second {
            (&mut self.second, second_may, 0)
        } else {
            (&mut self.first, first_may, 1 << CASCADE)
        };
        match written {
            Some(value) => {
                pic.level = value & may | always;
                0
            }
            None => pic.level & may,
        }
    }
}
