//! Why the rig could not do its work. A scenario that fails is no error: it is a verdict.

use std::path::{Path, PathBuf};

/// One line that says what is wrong and, where there is something to do, what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Programs that the host lacks.
    #[error("missing on this host: {missing}; run: apt-get install {packages}")]
    Tools {
        /// The programs, separated by commas.
        missing: String,
        /// The Debian packages that bring them.
        packages: String,
    },
    /// A package that apt does not offer in a version that the rig knows to work.
    #[error("apt offers no {package} {wanted}: the rig needs the package sources of Debian 12 (bookworm)")]
    NoPackage {
        /// The package.
        package: String,
        /// What was looked for.
        wanted: String,
    },
    /// A program ended badly.
    #[error("{program} failed ({status}): {last}")]
    Failed {
        /// What was run.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of what it said.
        last: String,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A kernel image that is not what the package should hold.
    #[error("{path}: {what}")]
    Image {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A library that a program in dom0 needs and that neither the packages nor the host have.
    #[error("{program} needs {library}, which neither the unpacked packages nor this host have")]
    Library {
        /// The program.
        program: PathBuf,
        /// The library's soname.
        library: String,
    },
    /// A scenario that does not exist.
    #[error("no scenario is called {0:?}: xen-rig --list names them")]
    NoScenario(String),
}

impl Error {
    /// Whether other package lists may help.
    pub(crate) fn is_of_apt(&self) -> bool {
        match self {
            Self::NoPackage { .. } => true,
            Self::Failed { program, .. } => program.starts_with("apt-"),
            _ => false,
        }
    }
}

/// The rig's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the file in an I/O error.
pub(crate) trait At<T> {
    /// Turns the error into [`Error::File`].
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::File { path: path.as_ref().to_owned(), source })
    }
}
