//! A log that nobody can fill: who causes the same line over and over has the first ones written, then one in a while, which tells how
//! many were left out.
//!
//! A guest, a peer or a client may provoke most lines as often as it likes. What is limited is each place in the source, for each
//! guest by itself where the line begins with one (`domain:` or `vgpu:` and its number): so that a flood of one line hides
//! no other, and one guest's none of another's. Lines of level debug and trace are not limited: whoever asks for them wants them all.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{Level, Log, Metadata, Record};
use parking_lot::Mutex;

/// Lines of one kind that are written one after another.
pub const BURST: u32 = 10;
/// After these, one in so long.
pub const EVERY: Duration = Duration::from_secs(30);
/// Kinds of lines that are told apart; those beyond share one allowance.
const KINDS: usize = 1024;
/// Bytes of the name that a line begins with, and of what is kept of a line.
const NAME: usize = 16;
const KEPT: usize = 256;

type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Passes lines on to another log, but for those that come too often.
pub struct Quiet<L> {
    inner: L,
    /// Since whenever.
    clock: Clock,
    kinds: Mutex<HashMap<Kind, Allowance>>,
    left_out: AtomicU64,
}

/// Where a line comes from, and of whom it is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Kind {
    file: Option<&'static str>,
    line: Option<u32>,
    name: Text<NAME>,
}

#[derive(Clone)]
struct Allowance {
    /// Lines that may be written at once.
    tokens: u32,
    /// When the last of `tokens` was added.
    since: Duration,
    /// Lines that have been left out since the last one that was written.
    left_out: u64,
    /// That one.
    last: Text<KEPT>,
    level: Level,
    target: Text<64>,
}

impl Allowance {
    fn new(now: Duration, level: Level) -> Self {
        let (last, target) = (Text::default(), Text::default());
        Self { tokens: BURST, since: now, left_out: 0, last, level, target }
    }

    /// Whether a line may be written now.
    fn take(&mut self, now: Duration) -> bool {
        let past = now.saturating_sub(self.since);
        let more = past.as_nanos() / EVERY.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(more).min(BURST);
        self.since = if self.tokens == BURST { now } else { self.since + EVERY * more };
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

/// The beginning of a text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Text<N> {
    fn of(args: fmt::Arguments<'_>) -> Self {
        let mut text = Self::default();
        // An error: it is full.
        let _ = text.write_fmt(args);
        text
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            let room = self.bytes.get_mut(self.len..self.len + c.len_utf8()).ok_or(fmt::Error)?;
            c.encode_utf8(room);
            self.len += c.len_utf8();
        }
        Ok(())
    }
}

/// The name of a guest that a line begins with: letters, then a number, then a colon.
fn name_of(line: &str) -> Text<NAME> {
    let name = line.split_once(':').map_or("", |(name, _)| name);
    let number = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let is_name = name.len() <= NAME
        && number.len() < name.len()
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit());
    if is_name { Text::of(format_args!("{name}")) } else { Text::default() }
}

impl<L: Log> Quiet<L> {
    /// Passes lines on to `inner`.
    pub fn new(inner: L) -> Self {
        let start = Instant::now();
        Self::with_clock(inner, move || start.elapsed())
    }

    /// The same by another clock, which does not go back.
    pub fn with_clock(inner: L, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { inner, clock: Box::new(clock), kinds: Mutex::default(), left_out: AtomicU64::new(0) }
    }

    /// Lines that were left out.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Tells of lines that were left out, as far as it is time for that: to be called now and then. A flood that is over is told of
    /// though no line like it comes any more.
    pub fn tell(&self) {
        self.tell_if(|allowance, now| allowance.take(now));
    }

    /// Tells of all that were left out, at the end.
    pub fn tell_all(&self) {
        self.tell_if(|_, _| true);
    }

    fn tell_if(&self, may: impl Fn(&mut Allowance, Duration) -> bool) {
        let now = (self.clock)();
        let mut due = Vec::new();
        for allowance in self.kinds.lock().values_mut().filter(|a| a.left_out > 0) {
            if may(allowance, now) {
                due.push(allowance.clone());
                allowance.left_out = 0;
            }
        }
        for Allowance { left_out, last, level, target, .. } in due {
            let mut record = Record::builder();
            record.level(level).target(target.as_str());
            self.write(&record.args(format_args!("{}", last.as_str())).build(), left_out);
        }
    }

    /// How many were left out before it, if it is to be written.
    fn admit(&self, record: &Record<'_>) -> Option<u64> {
        let now = (self.clock)();
        // Not under the lock: what formats may log, or panic, which is logged as well.
        let (last, target) = (Text::of(*record.args()), Text::of(format_args!("{}", record.target())));
        let kind = Kind { file: record.file_static(), line: record.line(), name: name_of(last.as_str()) };
        let mut kinds = self.kinds.lock();
        let full = kinds.len() >= KINDS && !kinds.contains_key(&kind);
        let kind = if full { Kind::default() } else { kind };
        let allowance = kinds.entry(kind).or_insert_with(|| Allowance::new(now, record.level()));
        if !allowance.take(now) {
            allowance.left_out += 1;
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        (allowance.last, allowance.target, allowance.level) = (last, target, record.level());
        Some(std::mem::take(&mut allowance.left_out))
    }

    fn write(&self, record: &Record<'_>, left_out: u64) {
        match left_out {
            0 => self.inner.log(record),
            n => {
                let mut told = Record::builder();
                told.metadata(record.metadata().clone()).module_path(record.module_path());
                told.file(record.file()).line(record.line());
                let text = format!("{} (left out before: {n} like this)", record.args());
                self.inner.log(&told.args(format_args!("{text}")).build());
            }
        }
    }
}

impl<L: Log> Log for Quiet<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.level() > Level::Info {
            self.inner.log(record);
        } else if let Some(left_out) = self.admit(record) {
            self.write(record, left_out);
        }
    }

    fn flush(&self) {
        self.inner.flush();
    }
}

impl<L> fmt::Debug for Quiet<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quiet").field("left_out", &self.left_out).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
