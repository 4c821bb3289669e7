use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use tempfile::TempDir;

use super::*;
use crate::event_loop::GuestLoop;

struct Rig {
    dir: TempDir,
    handle: LoopHandle,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    fn path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn connect(&self) -> StdStream {
        StdStream::connect(self.path()).unwrap()
    }

    /// The lines of the answer, its last one included.
    fn ask(&self, command: &str) -> Vec<String> {
        let mut peer = self.connect();
        peer.write_all(format!("{command}\n").as_bytes()).unwrap();
        read_answer(&mut BufReader::new(peer))
    }
}

fn read_answer(peer: &mut BufReader<StdStream>) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert!(peer.read_line(&mut line).unwrap() > 0, "an answer has an end");
        lines.push(line.trim_end().to_owned());
        let last = &lines[lines.len() - 1];
        if last == "ok" || last.starts_with("error: ") {
            return lines;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::bind(dir.path().join("socket"))
        .unwrap()
        .command("long", "N: so many lines", |words, _| {
            let n: usize = words.first().and_then(|w| w.parse().ok()).ok_or("a number")?;
            Ok("all work and no play\n".repeat(n))
        })
        .command("panic", "panics", |_, _| panic!("as told"));
    let mut l = GuestLoop::new().unwrap();
    l.add_source(Box::new(control)).unwrap();
    let handle = l.handle();
    Rig { dir, handle, thread: Some(std::thread::spawn(move || l.run().unwrap())) }
}

#[test]
fn a_command_a_line_each_with_its_answer() {
    let rig = rig();
    assert_eq!(rig.ask("guests"), ["ok"]);
    assert_eq!(rig.ask("stats"), ["ok"]);
    assert_eq!(rig.ask(""), ["ok"]);
    assert_eq!(rig.ask("stats 7"), ["error: there is no guest 7 here"]);
    assert_eq!(rig.ask("stats x"), ["error: x is not a domain's number"]);
    assert_eq!(rig.ask("fly \u{7}"), ["error: no such command: fly; try help"]);
    assert_eq!(rig.ask("long x"), ["error: a number"]);
    let help = rig.ask("help");
    for name in ["guests", "help", "long", "panic", "stats", "stop"] {
        assert_eq!(help.iter().filter(|l| l.starts_with(&format!("{name} "))).count(), 1, "{name}");
    }
    assert_eq!(rig.ask("long 3").len(), 4);
}

#[test]
fn a_command_that_panics_says_so_and_the_others_still_work() {
    let rig = rig();
    assert_eq!(rig.ask("panic"), ["error: panic panicked"]);
    assert_eq!(rig.ask("guests"), ["ok"]);
}

#[test]
fn many_commands_at_once_are_answered_in_order_also_without_a_last_newline() {
    let rig = rig();
    let mut peer = rig.connect();
    let commands: String = (0..200).map(|i| format!("long {}\n", i % 3)).collect();
    peer.write_all(format!("{commands}long 5").as_bytes()).unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = BufReader::new(peer);
    for i in (0..200).map(|i| i % 3).chain([5]) {
        assert_eq!(read_answer(&mut answers).len(), i + 1);
    }
    let mut rest = Vec::new();
    assert_eq!(answers.read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn a_peer_that_does_not_read_is_asked_for_no_more_and_others_are_served() {
    let rig = rig();
    let mut lazy = rig.connect();
    lazy.set_nonblocking(true).unwrap();
    // Far more than the socket's buffers hold: it blocks sooner or later, and the loop holds one answer for it at most.
    let mut sent = 0;
    loop {
        match lazy.write(b"long 1000\n") {
            Ok(n) => sent += n,
            Err(e) => break assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(sent < 64 << 20);
    }
    assert_eq!(rig.ask("guests"), ["ok"]);
    // When it reads at last it gets everything.
    lazy.set_nonblocking(false).unwrap();
    let whole = sent / 10;
    let mut answers = BufReader::new(lazy);
    for _ in 0..whole {
        assert_eq!(read_answer(&mut answers).len(), 1001);
    }
}

#[test]
fn a_line_without_end_and_bytes_that_are_no_text_are_refused() {
    let rig = rig();
    let mut peer = rig.connect();
    // The other side hangs up before it has taken all of it.
    let _ = peer.write_all(&vec![b'x'; 1 << 20]);
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    assert!(rest.is_empty());
    let mut peer = rig.connect();
    peer.write_all(b"\xff\xfe\n").unwrap();
    assert_eq!(read_answer(&mut BufReader::new(peer)), ["error: not UTF-8"]);
}

#[test]
fn peers_beyond_the_limit_are_turned_away_until_others_leave() {
    let rig = rig();
    let mut peers: Vec<_> = (0..MAX_PEERS)
        .map(|_| {
            let mut peer = BufReader::new(rig.connect());
            peer.get_mut().write_all(b"guests\n").unwrap();
            assert_eq!(read_answer(&mut peer), ["ok"]);
            peer
        })
        .collect();
    let mut one_more = rig.connect();
    let mut rest = Vec::new();
    // Closed, perhaps before it has said anything.
    let _ = one_more.read_to_end(&mut rest);
    assert!(rest.is_empty());
    drop(peers.pop());
    loop {
        let mut peer = BufReader::new(rig.connect());
        let _ = peer.get_mut().write_all(b"guests\n");
        let mut line = String::new();
        if peer.read_line(&mut line).is_ok_and(|n| n > 0) {
            break assert_eq!(line, "ok\n");
        }
    }
}

#[test]
fn only_its_owner_may_connect_and_the_file_goes_with_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let control = Control::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(control);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_somebody_listens_to_and_a_plain_file_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let first = Control::bind(&path).unwrap();
    assert_eq!(Control::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    // A file that another has put in our place is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(first);
    assert_eq!(Control::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_that_nobody_listens_to_any_more_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Control::bind(&path).unwrap();
}
