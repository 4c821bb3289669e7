//! Lines to Xen's debug console (port 0xe9): it prefixes them with the domain and breaks them at 80 characters.

use core::fmt::{self, Write};

use crate::cpu;

struct Console;

impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        s.bytes().for_each(|b| cpu::out8(0xe9, b));
        Ok(())
    }
}

/// Writes one line.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    // writing to a port cannot fail
    let _infallible = writeln!(Console, "{text}");
}

/// Writes one line.
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::line(format_args!($($arg)*)) };
}
pub(crate) use println;
