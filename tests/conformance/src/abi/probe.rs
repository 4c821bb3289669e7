//! The C probe: questions (C expressions) in, 64-bit answers out.
//!
//! A question that does not compile is answered by the compiler's own message, and the others still get theirs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

/// The value of a question, or the compiler's message about it.
pub type Answer = Result<u64, String>;

/// Why there are no answers at all.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The compiler or the headers are not there.
    #[error("no C compiler or no Xen headers ({0}): apt-get install gcc libc6-dev libxen-dev")]
    NotInstalled(String),
    /// The compiler failed for another reason.
    #[error("the C compiler failed: {0}")]
    Compiler(String),
    /// The probe did not run, or what it printed makes no sense.
    #[error("the C probe failed: {0}")]
    Run(String),
    /// Files or processes.
    #[error("running the C compiler: {0}")]
    Io(#[from] io::Error),
}

/// Compiled as it stands in front of the questions; no stock header has these.
const EXTENSIONS: &str = include_str!("extensions.h");

/// Asks `questions` of the C compiler with `headers` included.
pub(super) fn ask(headers: &BTreeSet<&str>, questions: &[String]) -> Result<Vec<Answer>, ProbeError> {
    let mut answers: Vec<Option<Answer>> = vec![None; questions.len()];
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("probe");
    // A round that fails takes out at least one question, so this ends.
    loop {
        let source = source(headers, questions, &answers);
        let out = compiler(&["-O0", "-w", "-o"], Some(&program), &source)?;
        if out.status.success() {
            break;
        }
        if !note_errors(&String::from_utf8_lossy(&out.stderr), &mut answers) {
            return Err(failure(&out));
        }
    }
    let out = Command::new(&program).output()?;
    if !out.status.success() {
        return Err(ProbeError::Run(out.status.to_string()));
    }
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let (index, value) =
            line.split_once(' ').ok_or_else(|| ProbeError::Run(format!("printed {line:?}")))?;
        let index: usize = index.parse().map_err(|_| ProbeError::Run(format!("printed {line:?}")))?;
        let value = value.parse().map_err(|_| ProbeError::Run(format!("printed {line:?}")))?;
        *answers.get_mut(index).ok_or_else(|| ProbeError::Run(format!("printed {line:?}")))? =
            Some(Ok(value));
    }
    Ok(answers.into_iter().map(|a| a.unwrap_or_else(|| Err("not answered".to_owned()))).collect())
}

/// The macros that `header` defines and the text that it expands to.
pub(super) fn preprocess(header: &str, macros: bool) -> Result<String, ProbeError> {
    let flag = if macros { "-dM" } else { "-P" };
    let out = compiler(&["-E", flag], None, &prelude(&BTreeSet::from([header])))?;
    if !out.status.success() {
        return Err(failure(&out));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn prelude(headers: &BTreeSet<&str>) -> String {
    // The tools' half of the headers is hidden without the macro. The ioctl headers expect xen.h to be there.
    let mut s = String::from("#define __XEN_TOOLS__ 1\n");
    for h in ["stddef.h", "stdint.h", "stdio.h", "string.h", "sys/ioctl.h", "xen/xen.h"] {
        let _ = writeln!(s, "#include <{h}>");
    }
    for h in headers {
        let _ = writeln!(s, "#include <{h}>");
    }
    s
}

fn source(headers: &BTreeSet<&str>, questions: &[String], answers: &[Option<Answer>]) -> String {
    let mut s = prelude(headers);
    s.push_str(EXTENSIONS);
    s.push_str("int main(void) {\n");
    for (i, (question, answer)) in questions.iter().zip(answers).enumerate() {
        if answer.is_none() {
            // The compiler names this "file" in its messages: that is how a message finds its question.
            let _ = writeln!(
                s,
                "#line 1 \"question-{i}\"\nprintf(\"{i} %llu\\n\", (unsigned long long)({question}));"
            );
        }
    }
    s.push_str("#line 1 \"end\"\nreturn 0;\n}\n");
    s
}

/// Gives the compiler's errors to the questions that they are about; whether there was any.
fn note_errors(stderr: &str, answers: &mut [Option<Answer>]) -> bool {
    let mut any = false;
    for line in stderr.lines() {
        let Some((place, message)) = line.split_once(": error: ") else { continue };
        let index =
            place.strip_prefix("question-").and_then(|p| p.split(':').next()).and_then(|n| n.parse().ok());
        let Some(slot) = index.and_then(|i: usize| answers.get_mut(i)) else { continue };
        slot.get_or_insert_with(|| Err(format!("not in the C headers: {message}")));
        any = true;
    }
    any
}

fn compiler(args: &[&str], output: Option<&std::path::Path>, source: &str) -> Result<Output, ProbeError> {
    let cc = std::env::var_os("CC").unwrap_or_else(|| "gcc".into());
    let mut command = Command::new(&cc);
    command.env("LC_ALL", "C").args(["-std=gnu11"]).args(args);
    if let Some(path) = output {
        command.arg(path);
    }
    command.args(["-x", "c", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => ProbeError::NotInstalled(format!("{} not found", cc.display())),
        _ => ProbeError::Io(e),
    })?;
    let mut stdin = child.stdin.take().ok_or_else(|| ProbeError::Run("no pipe".to_owned()))?;
    std::thread::scope(|scope| {
        // Written beside the reading, so that neither side can fill its pipe and wait for the other. A compiler that
        // gives up early closes it: its message is what counts, not our EPIPE.
        scope.spawn(move || drop(stdin.write_all(source.as_bytes())));
        Ok(child.wait_with_output()?)
    })
}

fn failure(out: &Output) -> ProbeError {
    let stderr = String::from_utf8_lossy(&out.stderr);
    let line = stderr
        .lines()
        .find(|l| l.contains("error"))
        .or_else(|| stderr.lines().next())
        .unwrap_or("no message");
    if line.contains("No such file or directory") {
        ProbeError::NotInstalled(line.rsplit("error: ").next().unwrap_or(line).to_owned())
    } else {
        ProbeError::Compiler(line.to_owned())
    }
}
