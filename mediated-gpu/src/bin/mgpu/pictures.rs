//! The directory that a served guest's pictures, and its saved vGPU, go to, held open: the path may be out of reach when they
//! are written.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use ioreq_server::devices::Picture;
use ioreq_server::privilege::Identity;
use mediated_gpu::vgpu::display::Surface;
use rustix::fs::{Mode, OFlags};
use xen_ioreq::DomId;

use crate::{Error, picture};

/// Where a guest's picture goes.
#[derive(Debug)]
pub(crate) struct Pictures {
    dir: OwnedFd,
    path: PathBuf,
    name: String,
    surface: String,
    console: String,
}

impl Pictures {
    /// Opens the directory, and makes it if it is not there: such a one is writable for the group of `writer`, so that
    /// servers of several guests can share it, and sticky, so that none can remove another's files.
    pub(crate) fn open(path: &Path, domid: DomId, writer: Option<Identity>) -> Result<Self, Error> {
        let say = |e: &dyn std::fmt::Display| format!("--out {}: {e}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| say(&e))?;
        }
        match (fs::create_dir(path), writer) {
            (Ok(()), Some(writer)) => {
                chown(path, None, Some(writer.gid)).map_err(|e| say(&e))?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o1775)).map_err(|e| say(&e))?;
            }
            (Err(e), _) if !path.is_dir() => return Err(say(&e).into()),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| say(&e))?;
        let [name, surface, console] =
            ["", "-surface", "-console"].map(|what| format!("dom{}{what}.png", domid.0));
        Ok(Self { dir, path: path.to_owned(), name, surface, console })
    }

    /// The directory, as it was written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes sure that the picture can be written by us, rather than find out when the guest is gone.
    pub(crate) fn check(&self, us: Identity) -> Result<(), Error> {
        self.create(&self.name, OFlags::empty()).map(drop).map_err(|e| {
            format!(
                "--out {}: {} cannot be written by {us}: {e}: give the directory to that group \
                 (chgrp {} and chmod g+w), or choose another --user",
                self.path.display(),
                self.name,
                us.gid
            )
            .into()
        })
    }

    /// Writes what the guest shows; the file.
    pub(crate) fn write(&self, surface: &Surface) -> Result<PathBuf, Error> {
        self.write_to(&self.name, surface.width, surface.height, &picture::pixels(surface))
    }

    /// Writes a picture that an operator has asked for; the file.
    pub(crate) fn write_surface(&self, surface: &Surface) -> Result<PathBuf, Error> {
        self.write_to(&self.surface, surface.width, surface.height, &picture::pixels(surface))
    }

    /// Writes what the guest's console shows; the file.
    pub(crate) fn write_console(&self, shown: &Picture) -> Result<PathBuf, Error> {
        let (pixels, _) = shown.rgb.as_chunks();
        let pixels: Vec<u32> = pixels.iter().map(|[r, g, b]| u32::from_le_bytes([*b, *g, *r, 0])).collect();
        self.write_to(&self.console, shown.width, shown.height, &pixels)
    }

    fn write_to(&self, name: &str, width: u32, height: u32, pixels: &[u32]) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        let say = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let file = self.create(name, OFlags::TRUNC).map_err(|e| say(&e))?;
        picture::encode(file, width, height, pixels).map_err(|e| say(&e))?;
        Ok(path)
    }

    /// Writes a vGPU that was saved, as `dom<N>.vgpu`; the file.
    pub(crate) fn write_saved(&self, saved: &[u8]) -> Result<PathBuf, Error> {
        let name = self.name.replace(".png", ".vgpu");
        let path = self.path.join(&name);
        let say = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let mut file = self.create(&name, OFlags::TRUNC).map_err(|e| say(&e))?;
        file.write_all(saved).map_err(|e| say(&e))?;
        Ok(path)
    }

    fn create(&self, name: &str, more: OFlags) -> std::io::Result<File> {
        // Others may write here: what they put in our file's place is not followed.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        Ok(rustix::fs::openat(&self.dir, name, flags, mode)?.into())
    }
}

impl AsFd for Pictures {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn surface() -> Surface {
        Surface { width: 1, height: 2, bgrx: vec![3, 2, 1, 0, 6, 5, 4, 0], missing_pages: 0 }
    }

    #[test]
    fn a_directory_that_was_not_there_is_made_for_the_writers_group() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let me = Identity::current();
        let pictures = Pictures::open(&path, DomId(7), Some(me)).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.mode() & 0o7777, made.gid()), (0o1775, me.gid));
        pictures.check(me).unwrap();
        assert_eq!(pictures.write(&surface()).unwrap(), path.join("dom7.png"));
        let first = fs::read(path.join("dom7.png")).unwrap();
        pictures.write(&surface()).unwrap();
        assert_eq!(fs::read(path.join("dom7.png")).unwrap(), first, "written over, not behind");
        let shown = Picture { width: 1, height: 2, rgb: vec![1, 2, 3, 4, 5, 6] };
        let console = pictures.write_console(&shown).unwrap();
        assert_eq!(console, path.join("dom7-console.png"));
        assert_eq!(fs::read(console).unwrap(), first, "the same picture");
    }

    #[test]
    fn a_directory_that_was_there_stays_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let before = fs::metadata(root.path()).unwrap().mode();
        Pictures::open(root.path(), DomId(7), Some(Identity { uid: 7, gid: 7 })).unwrap();
        assert_eq!(fs::metadata(root.path()).unwrap().mode(), before);
    }

    #[test]
    fn a_link_in_the_pictures_place_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, root.path().join("dom7.png")).unwrap();
        let pictures = Pictures::open(root.path(), DomId(7), None).unwrap();
        let error = pictures.check(Identity::current()).unwrap_err().to_string();
        assert!(error.contains("dom7.png") && error.lines().count() == 1, "{error}");
        assert!(pictures.write(&surface()).is_err());
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Pictures::open(&file, DomId(7), None).unwrap_err().to_string();
        assert!(error.starts_with("--out ") && error.lines().count() == 1, "{error}");
    }
}
