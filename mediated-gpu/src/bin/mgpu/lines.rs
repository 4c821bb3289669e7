//! The program's log: stderr, by RUST_LOG (warnings and errors without it), and never more of one kind than a guest, or a viewer, may
//! cause ([`ioreq_server::quiet`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use env_logger::{Builder, Env, Logger};
use ioreq_server::quiet::Quiet;

static LOG: OnceLock<Quiet<Logger>> = OnceLock::new();

/// Before the first line. Does nothing the second time.
pub(crate) fn begin() {
    let logger = Builder::from_env(Env::default().default_filter_or("warn")).build();
    let most = logger.filter();
    if log::set_logger(LOG.get_or_init(|| Quiet::new(logger))).is_ok() {
        log::set_max_level(most);
        std::panic::set_hook(Box::new(panicked));
    }
}

/// A panic is a line, too: those of devices are caught, and what a guest could cause once it could again.
fn panicked(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (name, trace) = (thread.name().unwrap_or("?"), Backtrace::capture());
    match trace.status() {
        BacktraceStatus::Captured => log::error!("thread '{name}' {panic}\n{trace}"),
        _ => log::error!("thread '{name}' {panic}"),
    }
}

/// Tells of lines that were left out, if it is time for that.
pub(crate) fn tell() {
    if let Some(log) = LOG.get() {
        log.tell();
    }
}

/// Tells of all that were left out.
pub(crate) fn end() {
    if let Some(log) = LOG.get() {
        log.tell_all();
    }
}

/// Lines that were left out.
pub(crate) fn left_out() -> u64 {
    LOG.get().map_or(0, Quiet::left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_line_is_left_out_and_counted() {
        begin();
        let before = left_out();
        // At whatever level RUST_LOG leaves on.
        (0..1000).for_each(|_| log::error!("a fault that a test makes a thousand times"));
        assert!(log::max_level() == log::LevelFilter::Off || left_out() > before);
    }
}
