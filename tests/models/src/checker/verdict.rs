//! What comes of a model that is run in many orders: `tests/models` and `tests/schedules` are built with it.
//!
//! A panic is told to who runs the model before it unwinds, and what unwinds then comes no further.

use std::cell::RefCell;
use std::sync::Once;
use std::sync::mpsc::{Sender, channel};

thread_local! {
    /// To whom a failure is told.
    static VERDICT: RefCell<Option<Sender<Result<(), String>>>> = const { RefCell::new(None) };
}

/// Has a thread of its own run all orders. What the first panic in one of them said is the error.
pub(crate) fn of(all_orders: impl FnOnce() + Send + 'static) -> Result<(), String> {
    install_hook();
    let (tell, verdict) = channel();
    std::thread::spawn(move || {
        VERDICT.set(Some(tell.clone()));
        all_orders();
        let _ = tell.send(Ok(()));
    });
    verdict.recv().unwrap_or_else(|_| panic!("the checker ended without a verdict"))
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match VERDICT.take() {
            Some(tell) => {
                let _ = tell.send(Err(info.to_string()));
            }
            None => usual(info),
        }));
    });
}

/// Called where an order goes on: not while a panic unwinds, when what is dropped on the way would have other threads run once
/// more. The verdict has been told, and this thread of the test is left behind.
pub(crate) fn go_on() {
    while std::thread::panicking() {
        std::thread::park();
    }
}
