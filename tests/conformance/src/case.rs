//! A row of a table of calls: the state is made, one call is judged.
//!
//! A state that could not be made fails the row whatever the row expects, so that an error on the way is never taken
//! for the answer.

use xen_ioreq::Errno;

use crate::Row;

/// What a call gives: a number that it returns (0 where it returns none), or its error.
pub type Answer = Result<u64, Errno>;

/// A state that could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmade(pub Errno);

impl From<Errno> for Unmade {
    fn from(e: Errno) -> Self {
        Self(e)
    }
}

/// A row that runs on a stage `S`.
pub struct Case<S> {
    /// Situation and outcome in words.
    pub name: &'static str,
    /// Who says so.
    pub source: &'static str,
    /// What must come out.
    pub want: Answer,
    /// Makes the state (errors there by `?`) and gives the answer of the call in question.
    pub call: fn(&mut S) -> Result<Answer, Unmade>,
}

// Not derived: that would ask the same of `S`, which is only named here.
impl<S> Clone for Case<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S> Copy for Case<S> {}

impl<S> std::fmt::Debug for Case<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("want", &self.want).finish_non_exhaustive()
    }
}

impl<S> Case<S> {
    /// Runs it.
    pub fn run(&self, area: &str, stage: &mut S) -> Row {
        let (ok, detail) = match (self.call)(stage) {
            Ok(got) if got == self.want => (true, format!("{} [{}]", show(got), self.source)),
            Ok(got) => (false, format!("{}, wanted {} [{}]", show(got), show(self.want), self.source)),
            Err(Unmade(e)) => (false, format!("the state could not be made: {e}")),
        };
        Row { name: format!("{area}: {}", self.name), ok, detail }
    }
}

/// An answer in words.
pub(crate) fn show(answer: Answer) -> String {
    match answer {
        Ok(n) => format!("{n:#x}"),
        Err(e) => e.to_string(),
    }
}

/// A table: `"name" ["source"] => answer, |stage| call;`
macro_rules! cases {
    ($stage:ty; $($name:literal [$source:literal] => $want:expr, |$s:ident| $call:expr;)*) => {
        &[$($crate::case::Case::<$stage> {
            name: $name,
            source: $source,
            want: $want,
            call: |$s: &mut $stage| Ok($call),
        },)*]
    };
}
pub(crate) use cases;
