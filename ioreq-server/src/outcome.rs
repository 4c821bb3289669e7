//! What became of an access: a value, a reason why not, or a promise to answer later.
//!
//! A promise is a pair: the device keeps the [`Deferred`] and returns the [`Defer`]. Whichever of "answered" and
//! "returned" happens last completes the request, on its own thread; a [`Deferred`] that is dropped answers with
//! [`IoError::Abandoned`]. So no order of events, and no forgotten value, leaves a vCPU waiting. One that is leaked is
//! answered at the server's end, and keeps none of the guest's frames.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::memory::MemoryError;

/// Why an access has no answer of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// Nothing of ours is at that address, or the access leaves its range.
    #[error("no device at this address")]
    NoDevice,
    /// The device has no register there.
    #[error("no such register")]
    NoRegister,
    /// The device does not know accesses of this width or alignment there.
    #[error("access of a width or alignment that the register does not have")]
    BadAccess,
    /// Guest memory on the other side of the access could not be reached.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The device is broken and says why.
    #[error("device failure: {0}")]
    Broken(&'static str),
    /// The device panicked.
    #[error("the device panicked")]
    Panicked,
    /// The device promised an answer and dropped the promise.
    #[error("a deferred access was dropped without an answer")]
    Abandoned,
}

impl IoError {
    /// Whether the device itself is at fault, so that the guest's [`OnError`](crate::OnError) decides. What a guest
    /// can bring about by accessing what is not there always reads as all-ones.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Panicked | Self::Abandoned)
    }
}

/// A device's answer to an access.
#[derive(Debug)]
#[must_use = "an access must be answered"]
pub enum Outcome<T> {
    /// Done.
    Ok(T),
    /// Not done, and why.
    Err(IoError),
    /// Will be answered through the [`Deferred`] that belongs to this value.
    Defer(Defer),
}

impl<T> From<Result<T, IoError>> for Outcome<T> {
    fn from(r: Result<T, IoError>) -> Self {
        match r {
            Ok(v) => Self::Ok(v),
            Err(e) => Self::Err(e),
        }
    }
}

/// What completes the request once the answer is known.
type Continuation = Box<dyn FnOnce(Result<u64, IoError>) + Send>;

enum Stage {
    /// Neither side has come yet.
    Open,
    /// The device answered before the bus was told of the deferral.
    Answered(Result<u64, IoError>),
    /// The bus waits for the device.
    Waiting(Continuation),
    /// Nothing is left to do, or nobody wants the answer.
    Closed,
}

type Shared = Arc<Mutex<Stage>>;

/// The device's half of a deferred access: the obligation to answer it, from any thread.
#[must_use = "dropping it answers the guest with an error"]
pub struct Deferred {
    shared: Shared,
    answered: bool,
}

/// The bus's half of a deferred access, to be returned as [`Outcome::Defer`].
#[must_use = "return it as Outcome::Defer"]
pub struct Defer {
    shared: Shared,
}

impl Deferred {
    /// A new pair.
    pub fn new() -> (Self, Defer) {
        let shared = Arc::new(Mutex::new(Stage::Open));
        (Self { shared: shared.clone(), answered: false }, Defer { shared })
    }

    /// Answers the access: the value read (ignored for a write), or why there is none. The guest's request is completed
    /// on this thread; for a string instruction the repetitions that remain are carried out here too, so hold no
    /// lock that the device's own accesses take.
    pub fn answer(mut self, result: Result<u64, IoError>) {
        self.settle(result);
    }

    fn settle(&mut self, result: Result<u64, IoError>) {
        if std::mem::replace(&mut self.answered, true) {
            return;
        }
        let mut stage = self.shared.lock();
        match std::mem::replace(&mut *stage, Stage::Closed) {
            Stage::Open => *stage = Stage::Answered(result),
            Stage::Waiting(go_on) => {
                drop(stage);
                go_on(result);
            }
            Stage::Answered(_) | Stage::Closed => {}
        }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.settle(Err(IoError::Abandoned));
    }
}

impl Defer {
    /// Leaves `state` to be given to `go_on` with the answer, or hands both back if the answer is already there: the
    /// caller goes on in a loop then, since a long string instruction would otherwise recurse as deep as it is long.
    pub(crate) fn then<T: Send + 'static>(
        self,
        state: T,
        go_on: fn(T, Result<u64, IoError>),
    ) -> Option<(T, Result<u64, IoError>)> {
        let mut stage = self.shared.lock();
        match std::mem::replace(&mut *stage, Stage::Closed) {
            Stage::Open => {
                *stage = Stage::Waiting(Box::new(move |result| go_on(state, result)));
                None
            }
            Stage::Answered(result) => Some((state, result)),
            // A pair has one `Defer` and one `Deferred`, and this consumes the former: nobody else waits.
            Stage::Waiting(_) | Stage::Closed => Some((state, Err(IoError::Abandoned))),
        }
    }
}

impl Drop for Defer {
    fn drop(&mut self) {
        let mut stage = self.shared.lock();
        if matches!(*stage, Stage::Open) {
            *stage = Stage::Closed;
        }
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("answered", &self.answered).finish()
    }
}

impl fmt::Debug for Defer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Defer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = Arc<Mutex<Vec<Result<u64, IoError>>>>;

    fn record(into: Seen, result: Result<u64, IoError>) {
        into.lock().push(result);
    }

    #[test]
    fn answer_after_return_completes_on_answer() {
        let (token, defer) = Deferred::new();
        let seen = Seen::default();
        assert!(defer.then(seen.clone(), record).is_none());
        assert!(seen.lock().is_empty());
        token.answer(Ok(7));
        assert_eq!(*seen.lock(), [Ok(7)]);
    }

    #[test]
    fn answer_before_return_comes_back_on_return() {
        let (token, defer) = Deferred::new();
        token.answer(Ok(8));
        assert_eq!(defer.then((), |(), _| unreachable!("it came back")), Some(((), Ok(8))));
    }

    #[test]
    fn dropped_token_is_abandoned_in_either_order() {
        let (token, defer) = Deferred::new();
        drop(token);
        assert_eq!(defer.then((), |(), _| unreachable!("it came back")), Some(((), Err(IoError::Abandoned))));

        let (token, defer) = Deferred::new();
        let seen = Seen::default();
        assert!(defer.then(seen.clone(), record).is_none());
        drop(token);
        assert_eq!(*seen.lock(), [Err(IoError::Abandoned)]);
    }

    #[test]
    fn answer_to_a_defer_that_was_not_returned_goes_nowhere() {
        let (token, defer) = Deferred::new();
        drop(defer);
        token.answer(Ok(1));
    }
}
