//! What must go on working under all of it, and how the kernel sees a process that serves.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Out, Place, Who, say, who_can};

/// Layers together, as far as this user can have them.
const fn layers(who: Who) -> &'static [&'static str] {
    match who {
        Who::Root => &["kill", "limits+root+landlock+identity+kill", "limits+root+landlock+identity+refuse"],
        Who::Plain => &["kill", "limits+landlock+kill"],
    }
}

#[test]
fn the_run_time_works_in_threads_of_every_kind() {
    everywhere("run-time");
}

#[test]
fn a_loop_has_its_timers_and_its_control_socket() {
    everywhere("sources");
}

#[test]
fn a_panic_is_caught_and_does_not_end_the_process() {
    everywhere("panic");
}

#[test]
fn a_service_on_the_model_draws_the_right_pictures() {
    everywhere("service-draft");
    everywhere("service-stock");
}

fn everywhere(attempt: &str) {
    let place = Place::new();
    for who in who_can() {
        for layers in layers(*who) {
            assert_eq!(place.outcome(*who, layers, "process", attempt), Ok(Out::Works), "{who:?} {layers}");
        }
    }
}

/// `NAME: value` lines of a status file.
fn status(path: &std::path::Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).expect("a status");
    text.lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

#[test]
fn the_kernel_shows_every_thread_of_a_service_confined() {
    for who in who_can() {
        let place = Place::new();
        let layers = layers(*who).last().expect("a list").replace("refuse", "kill");
        let mut command = place.command(*who, &layers, "process", "hold");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "holding"), "it serves");

        let pid = child.id();
        // A thread narrows itself with its first steps, so that may still be going on.
        let begun = Instant::now();
        let threads = loop {
            let threads = threads_of(pid);
            let missing = missing_of(&threads);
            if missing.is_empty() {
                break threads;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{who:?}: {missing:?}");
            std::thread::sleep(Duration::from_millis(5));
        };
        let names: Vec<_> = threads.iter().map(|t| t["Name"].as_str()).collect();
        say(&format!("{who:?}: threads {}", names.join(", ")));
        for thread in &threads {
            let is = |name: &str, value: &str| {
                assert_eq!(thread.get(name).map(String::as_str), Some(value), "{name} of {}", thread["Name"]);
            };
            is("Seccomp", "2");
            is("NoNewPrivs", "1");
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                is(set, "0000000000000000");
            }
            if *who == Who::Root {
                is("CapBnd", "0000000000000000");
                is("Uid", "65543 65543 65543 65543");
                is("Gid", "65536 65536 65536 65536");
                is("Groups", "");
            }
        }
        let root = fs::read_link(format!("/proc/{pid}/root"));
        if *who == Who::Root {
            assert_eq!(root.expect("its root"), place.files);
        }
        drop(child.stdin.take());
        assert!(child.wait().expect("it ends").success());
    }
}

/// The threads of a process, as its status files show them.
fn threads_of(pid: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    tasks.map(|task| status(&task.expect("a thread").path().join("status"))).collect()
}

/// What is still to come: threads, and filters of threads' own.
fn missing_of(threads: &[BTreeMap<String, String>]) -> Vec<String> {
    let names = ["confined", "guest-3", "gpu-rcs", "gpu-bcs", "engine RCS", "vgpu1 frames"];
    let no = names.iter().filter(|name| !threads.iter().any(|t| t["Name"] == **name));
    // Three for the process, three more for each thread that has narrowed itself. The kernel counts since Linux 5.9.
    let count = |t: &BTreeMap<String, String>| t.get("Seccomp_filters").is_none_or(|count| count == "6");
    let wide = threads.iter().filter(|t| !count(t)).map(|t| format!("{}: its filters", t["Name"]));
    no.map(|name| format!("thread {name}")).chain(wide).collect()
}
