//! What threads of each kind keep when they have narrowed themselves.

use libc::{EACCES, ENOTTY, EPERM, SIGSYS};

use super::Out::{self, Errno, Signal, Works};
use super::{Place, who_can};

/// What is let through gets to a device that knows no ioctl.
const YES: Out = Errno(ENOTTY);
/// What is not.
const NO: Out = Signal(SIGSYS);

const KINDS: [&str; 5] = ["event-loop", "engine", "device", "maintenance", "main"];

/// In the order of `KINDS`.
const TABLE: &[(&str, [Out; 5])] = &[
    ("dm-op", [YES, NO, YES, NO, YES]),
    ("map-frames", [YES, NO, YES, YES, YES]),
    ("notify", [YES, NO, NO, NO, YES]),
    ("unbind", [YES, NO, NO, NO, NO]),
    ("map-resource", [NO; 5]),
    ("hypercall", [NO; 5]),
    ("dm-op-of-other", [NO; 5]),
    ("bind-virq", [NO; 5]),
    ("socket", [NO; 5]),
    ("execve", [NO; 5]),
    ("fork", [NO; 5]),
    // No thread starts another any more.
    ("thread", [NO; 5]),
    ("executable-memory", [NO; 5]),
    ("open-outside", [Errno(EACCES); 5]),
    ("create-inside", [Errno(EACCES), Errno(EACCES), Errno(EACCES), Errno(EACCES), Works]),
];

#[test]
fn a_thread_keeps_what_its_kind_needs_and_no_more() {
    let place = Place::new();
    let mut wrong = Vec::new();
    for who in who_can() {
        for (attempt, outs) in TABLE {
            for (kind, wanted) in KINDS.iter().zip(outs) {
                for (layer, wanted) in
                    [("kill", *wanted), ("refuse", if *wanted == NO { Errno(EPERM) } else { *wanted })]
                {
                    let found = place.outcome(*who, layer, kind, attempt);
                    if found != Ok(wanted) {
                        wrong
                            .push(format!("{who:?} {layer}: {attempt} in {kind}: {found:?}, not {wanted:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}
