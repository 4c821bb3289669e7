//! An initramfs in memory, and the "newc" archive that Linux unpacks it from.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Archives may be concatenated, so a
//! scenario's files are a second archive behind the base image. Everything belongs to root, times are 0: the same
//! content gives the same bytes.

use std::collections::BTreeMap;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const TRAILER: &str = "TRAILER!!!";

/// One file, directory or link.
#[derive(Clone, Debug)]
struct Entry {
    mode: u32,
    data: Vec<u8>,
}

/// A tree of files, ordered by path so that a directory comes before what it holds.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// Nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty directory, and those above it.
    pub fn dir(&mut self, path: &str) -> &mut Self {
        let path = path.trim_matches('/');
        let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
        for end in ends {
            if let Some(dir) = path.get(..end).filter(|d| !d.is_empty()) {
                self.entries
                    .entry(dir.to_owned())
                    .or_insert_with(|| Entry { mode: S_IFDIR | 0o755, data: Vec::new() });
            }
        }
        self
    }

    /// A file with its permission bits; replaces one of that name.
    pub fn file(&mut self, path: &str, permissions: u32, data: impl Into<Vec<u8>>) -> &mut Self {
        self.put(path, S_IFREG | (permissions & 0o7777), data.into())
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.put(path, S_IFLNK | 0o777, target.as_bytes().to_vec())
    }

    /// Whether something of that name is there.
    pub fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path.trim_matches('/'))
    }

    fn put(&mut self, path: &str, mode: u32, data: Vec<u8>) -> &mut Self {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
        self.entries.insert(path.to_owned(), Entry { mode, data });
        self
    }

    /// The archive. Its length is a multiple of 512, so another may follow.
    ///
    /// # Errors
    /// The path of a file of 4 GiB or more, which the format cannot say.
    pub fn archive(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1u32..).zip(&self.entries) {
            append(&mut out, inode, path, entry.mode, &entry.data)?;
        }
        append(&mut out, 0, TRAILER, 0, &[])?;
        pad(&mut out, 512);
        Ok(out)
    }
}

fn append(out: &mut Vec<u8>, inode: u32, path: &str, mode: u32, data: &[u8]) -> Result<(), String> {
    let size = u32::try_from(data.len()).map_err(|_| path.to_owned())?;
    let name = u32::try_from(path.len() + 1).map_err(|_| path.to_owned())?;
    let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(data);
    pad(out, 4);
    Ok(())
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back as Linux's init/initramfs.c does: header, name, data, each on 4 bytes.
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut at = 0;
        let mut seen = Vec::new();
        loop {
            let field = |n: usize| {
                let start = at + 6 + n * 8;
                let text = std::str::from_utf8(&archive[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&archive[at..at + 6], b"070701");
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = &archive[at + 110..at + 110 + name_size - 1];
            let data = (at + 110 + name_size).next_multiple_of(4);
            let name = String::from_utf8(name.to_vec()).unwrap();
            if name == TRAILER {
                return seen;
            }
            seen.push((name, mode, archive[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
    }

    #[test]
    fn what_is_put_in_is_read_back() {
        let mut tree = Tree::new();
        tree.file("/bin/tool", 0o755, b"elf".as_slice()).link("bin/sh", "/bin/busybox").dir("/proc");
        let seen = read(&tree.archive().unwrap());
        let expected: Vec<(String, u32, Vec<u8>)> = vec![
            ("bin".into(), 0o040_755, vec![]),
            ("bin/sh".into(), 0o120_777, b"/bin/busybox".to_vec()),
            ("bin/tool".into(), 0o100_755, b"elf".to_vec()),
            ("proc".into(), 0o040_755, vec![]),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_directory_comes_before_what_it_holds() {
        let mut tree = Tree::new();
        tree.file("a/b/c/file", 0o644, b"x".as_slice());
        let names: Vec<String> = read(&tree.archive().unwrap()).into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/c/file"]);
    }

    #[test]
    fn an_archive_ends_on_512_bytes_so_that_another_can_follow() {
        let mut tree = Tree::new();
        tree.file("odd", 0o644, vec![7; 1021]);
        assert_eq!(tree.archive().unwrap().len() % 512, 0);
    }

    #[test]
    fn the_same_tree_gives_the_same_bytes() {
        let build = |order: [&str; 2]| {
            let mut tree = Tree::new();
            for name in order {
                tree.file(name, 0o600, name.as_bytes());
            }
            tree.archive().unwrap()
        };
        assert_eq!(build(["x", "y"]), build(["y", "x"]));
    }
}
