//! What this crate's threads keep of the process's privileges; the program decides, the threads only say what they are.

pub(crate) use ioreq_server::privilege::ThreadKind;

/// Gives up what a thread of this kind does not need, if the program has [filters](ioreq_server::privilege) for it.
pub(crate) fn narrow(kind: ThreadKind) {
    if let Err(e) = ioreq_server::privilege::narrow(kind) {
        // The kernel was out of memory. What holds for the process holds for the thread.
        log::error!("a thread keeps what the whole process may do: {e}");
    }
}
