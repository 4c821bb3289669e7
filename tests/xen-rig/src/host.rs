//! The host: where things are, which programs it must have, running them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{At as _, Error, Result};

/// What the rig calls on the host, and the Debian package that brings it.
const TOOLS: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("apt-config", "apt"),
    ("dpkg", "dpkg"),
    ("ldd", "libc-bin"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("strip", "binutils"),
];

/// A header that compiling C needs; gcc comes without it.
const C_HEADER: (&str, &str) = ("/usr/include/stdio.h", "libc6-dev");

/// Where the rig works.
#[derive(Clone, Debug)]
pub struct Places {
    /// The workspace's root.
    pub workspace: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
    /// The rig's own directory below it.
    pub work: PathBuf,
}

impl Places {
    /// Finds the target directory of the running program and makes the rig's directory in it.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub fn find() -> Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let workspace = workspace.canonicalize().at(&workspace)?;
        // Cargo marks the target directory with this file, wherever its configuration puts it.
        let marked = env::current_exe().ok().and_then(|exe| {
            exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_path_buf)
        });
        let target = marked
            .or_else(|| env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
            .unwrap_or_else(|| workspace.join("target"));
        let work = target.join("xen-rig");
        std::fs::create_dir_all(&work).at(&work)?;
        Ok(Self { workspace, target, work })
    }
}

/// Looks for every program that the rig calls.
///
/// # Errors
/// All that are missing, in one line with the command that brings them.
pub(crate) fn check_tools() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let present = |tool: &str| env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    missing_of(present, Path::new(C_HEADER.0).is_file())
}

/// What stands behind a module that is signed (`MODULE_SIG_STRING` of Linux), and before that the signature's description, which ends
/// with the signature's length.
const SIGNED: &[u8] = b"~Module signature appended~\n";
const DESCRIPTION: usize = 12;

/// A module of the kernel's without its signature: an emulated processor takes seconds to find it right.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn module(path: &Path) -> Result<Vec<u8>> {
    let mut module = std::fs::read(path).at(path)?;
    module.truncate(unsigned(&module));
    Ok(module)
}

/// How long a module is without its signature.
fn unsigned(module: &[u8]) -> usize {
    let signature = |signed: &[u8]| {
        let (_, length) = signed.split_last_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        signed.len().checked_sub(DESCRIPTION)?.checked_sub(length)
    };
    module.strip_suffix(SIGNED).and_then(signature).unwrap_or(module.len())
}

fn missing_of(present: impl Fn(&str) -> bool, header: bool) -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    let mut packages: Vec<&str> = Vec::new();
    let absent = TOOLS.iter().filter(|(tool, _)| !present(tool)).chain((!header).then_some(&C_HEADER));
    for (tool, package) in absent {
        missing.push(tool);
        if !packages.contains(package) {
            packages.push(package);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Tools { missing: missing.join(", "), packages: packages.join(" ") })
}

/// Runs a program to its end and gives what it wrote to its standard output.
///
/// # Errors
/// It could not be started, or ended with another status than 0.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.env("LC_ALL", "C").stdin(Stdio::null()).output().at(&program)?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let mut last: Vec<&str> = said.lines().rev().filter(|l| !l.trim().is_empty()).take(6).collect();
    last.reverse();
    let args: Vec<String> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let shown: String = format!("{program} {}", args.join(" ")).chars().take(160).collect();
    Err(Error::Failed { program: shown, status: out.status.to_string(), last: last.join(" | ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_in_one_line_with_the_command() {
        let error = missing_of(|tool| tool != "gcc" && tool != "apt-cache", false).unwrap_err();
        let line = error.to_string();
        assert_eq!(
            line,
            "missing on this host: apt-cache, gcc, /usr/include/stdio.h; run: apt-get install apt gcc libc6-dev"
        );
    }

    #[test]
    fn a_module_loses_its_signature_and_one_without_loses_nothing() {
        let signed = [b"\x7fELF".as_slice(), &[7; 300], &[0; 8], &300u32.to_be_bytes(), SIGNED].concat();
        assert_eq!(unsigned(&signed), 4);
        assert_eq!(unsigned(b"\x7fELF"), 4);
        let (too_long, lone) = ([&[0; 8], &300u32.to_be_bytes()[..], SIGNED].concat(), SIGNED);
        assert_eq!((unsigned(&too_long), unsigned(lone)), (too_long.len(), lone.len()));
    }

    #[test]
    fn nothing_missing_is_no_error() {
        missing_of(|_| true, true).unwrap();
    }

    #[test]
    fn a_failing_program_is_named_with_its_last_words() {
        let error = output(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err();
        let line = error.to_string();
        assert!(
            line.contains("sh -c") && line.contains("exit status: 3") && line.contains("reason"),
            "{line}"
        );
    }
}
