//! The serial log of a run: when each line came, what Xen and dom0 said, whether anything crashed.
//!
//! With `-no-reboot` QEMU ends with status 0 even when Xen panics, so the log decides.

use std::fmt::Write as _;
use std::time::Duration;

/// One of these in any line means that the machine is done for.
const FATAL: &[&str] = &[
    "Panic on CPU",
    "FATAL TRAP",
    "FATAL PAGE FAULT",
    "Xen BUG at",
    "Hardware Dom0 crashed",
    "Hardware Dom0 halted",
    "crashed: rebooting",
    "Kernel panic",
];

/// One of these means that something died that should not have, though the machine goes on.
const CRASHES: &[&str] = &[
    "Xen call trace:",
    "Assertion '",
    "kernel BUG at",
    "BUG: unable to handle",
    "BUG: kernel NULL pointer",
    "general protection fault",
    "traps: ",
    "Oops:",
    "segfault at",
    "Out of memory: Killed",
];

/// A guest's own death; a scenario that provokes one says so.
const GUEST_CRASHES: &[&str] = &["domain_crash called", "Triple fault", "crashed on cpu#", "reported crash"];

/// A line and when it came, from the start of QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Since the start of QEMU.
    pub at: Duration,
    /// Without the line's end.
    pub text: String,
}

impl Line {
    /// Whether nothing will come after it but last words.
    pub(crate) fn is_fatal(&self) -> bool {
        FATAL.iter().any(|sign| self.text.contains(sign))
    }
}

/// Everything that came over the serial line.
#[derive(Clone, Debug, Default)]
pub struct Log {
    lines: Vec<Line>,
}

impl Log {
    /// Adds a line as it came, of which bytes that are no text are replaced.
    pub fn push(&mut self, at: Duration, raw: &[u8]) -> &Line {
        let text = String::from_utf8_lossy(raw);
        let text = text.trim_end_matches(['\n', '\r']).replace(['\r', '\0'], "");
        self.lines.push(Line { at, text });
        // just pushed
        &self.lines[self.lines.len() - 1]
    }

    /// All lines.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The first line that holds `needle`.
    pub fn find(&self, needle: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.text.contains(needle))
    }

    /// What a domain wrote to Xen's debug console (port 0xe9), line by line.
    pub fn of_domain(&self, domid: u16) -> impl Iterator<Item = &str> {
        let tag = format!("(d{domid}) ");
        self.lines.iter().filter_map(move |line| line.text.split_once(&tag).map(|(_, said)| said))
    }

    /// The first sign that Xen, dom0 or one of its programs died; a guest's too, unless its death is expected.
    pub fn crash(&self, guests_may_die: bool) -> Option<&Line> {
        let guest: &[&str] = if guests_may_die { &[] } else { GUEST_CRASHES };
        let crash =
            |line: &&Line| FATAL.iter().chain(CRASHES).chain(guest).any(|sign| line.text.contains(sign));
        self.lines.iter().find(crash)
    }

    /// As it is kept on disk: seconds, then the line.
    pub fn render(&self) -> String {
        self.lines.iter().fold(String::new(), |mut out, line| {
            // writing to a String cannot fail
            let _ = writeln!(out, "{}", render(line));
            out
        })
    }
}

/// A line with its time.
pub(crate) fn render(line: &Line) -> String {
    format!("{:>8.3} {}", line.at.as_secs_f64(), line.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> Log {
        let mut log = Log::default();
        for (second, line) in (0..).zip(lines) {
            log.push(Duration::from_secs(second), line.as_bytes());
        }
        log
    }

    #[test]
    fn a_panic_of_xen_or_dom0_is_a_crash() {
        for death in [
            "(XEN) Panic on CPU 0:",
            "(XEN) Hardware Dom0 crashed: rebooting machine in 5 seconds.",
            "[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
            "mgpu[77]: segfault at 0 ip 00007f sp 00007f error 4",
        ] {
            let log = log(&["(XEN) Xen version 4.17", death, "more"]);
            assert_eq!(log.crash(true).map(|l| l.text.as_str()), Some(death));
        }
    }

    #[test]
    fn a_programs_crash_is_not_the_end_of_the_machine() {
        let log = log(&["xl[169]: segfault at 338 ip 00007f18 sp 00007fff error 4", "(XEN) Panic on CPU 0:"]);
        assert!(log.crash(false).is_some_and(|line| !line.is_fatal()));
        assert!(log.lines()[1].is_fatal());
    }

    #[test]
    fn a_guests_death_is_a_crash_unless_expected() {
        let log = log(&["(XEN) domain_crash called from io.c:166"]);
        assert!(log.crash(false).is_some());
        assert!(log.crash(true).is_none());
    }

    #[test]
    fn an_ordinary_log_is_no_crash() {
        let log = log(&["(XEN) Brought up 1 CPUs", "WARNING: CPU: 0 PID: 0 at fpu/xstate.c", "RIG: end"]);
        assert!(log.crash(false).is_none());
    }

    #[test]
    fn a_domains_lines_are_told_from_others() {
        let log = log(&["(d1) hello", "(d12) other", "(XEN) (d1) again", "hello"]);
        assert_eq!(log.of_domain(1).collect::<Vec<_>>(), ["hello", "again"]);
    }

    #[test]
    fn carriage_returns_and_bytes_that_are_no_text_do_no_harm() {
        let mut log = Log::default();
        assert_eq!(log.push(Duration::ZERO, b"a\xffb\r\r\n").text, "a\u{fffd}b");
    }

    #[test]
    fn lines_are_kept_with_their_time() {
        let mut log = Log::default();
        log.push(Duration::from_millis(7031), b"RIG: up");
        assert_eq!(log.render(), "   7.031 RIG: up\n");
    }
}
