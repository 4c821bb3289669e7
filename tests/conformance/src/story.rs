//! A row that tells a story: what it sees, in order, against what it must see.

use std::fmt;

use crate::Row;

/// Why a row came to its end early.
pub(crate) type Failed = Box<dyn std::error::Error>;

/// What a row sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// After this was done, the host had so many free frames more than when the row began.
    Frames(&'static str, i64),
    /// This was counted or read.
    Is(&'static str, u64),
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(after, n) => write!(f, "{after} {n:+} frames"),
            Self::Is(what, n) if *n < 0x1_0000 => write!(f, "{what} {n}"),
            Self::Is(what, n) => write!(f, "{what} {n:#x}"),
        }
    }
}

/// In one line.
pub(crate) fn text(facts: &[Fact]) -> String {
    facts.iter().map(Fact::to_string).collect::<Vec<_>>().join(", ")
}

/// A row on a stage `S`.
pub(crate) struct Story<S> {
    /// Situation and outcome in words.
    pub(crate) name: &'static str,
    /// Who says so.
    pub(crate) source: &'static str,
    /// What must be seen.
    pub(crate) want: &'static [Fact],
    pub(crate) tell: fn(&mut S) -> Result<(), Failed>,
}

// Not derived: that would ask the same of `S`, which is only named here.
impl<S> Clone for Story<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Story<S> {}

impl<S> Story<S> {
    /// Its verdict, from what was seen and from why it came to its end early, if it did.
    pub(crate) fn judge(&self, area: &str, seen: &[Fact], failed: Option<Failed>) -> Row {
        let source = self.source;
        let (ok, detail) = match failed {
            Some(e) => (false, format!("{e}; seen before: {}", text(seen))),
            None if seen == self.want => (true, format!("{} [{source}]", text(seen))),
            None => (false, format!("{}, wanted {} [{source}]", text(seen), text(self.want))),
        };
        Row { name: format!("{area}: {}", self.name), ok, detail }
    }
}

/// A table: `name ["source"] => [facts], |stage| { … }`.
macro_rules! stories {
    ($(#[$m:meta])* $table:ident: $stage:ty; $($name:ident [$source:literal] => [$($fact:expr),* $(,)?], |$s:ident| $body:block)*) => {
        $(#[$m])*
        pub(super) const $table: &[$crate::story::Story<$stage>] = &[$(
            $crate::story::Story::<$stage> {
                name: stringify!($name),
                source: $source,
                want: &[$($fact),*],
                tell: |$s: &mut $stage| { $body Ok(()) },
            },
        )*];
    };
}
pub(crate) use stories;
