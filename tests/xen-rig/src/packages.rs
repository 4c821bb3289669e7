//! Fetching Debian packages without installing any: resolve, download, unpack; cached by name and version.
//!
//! The closure of a package's libraries is what apt would install on a machine that has nothing, so the result does
//! not depend on what this host happens to have. Only the C library is the host's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At as _, Error, Result};
use crate::host;

/// Brought by every host, and it must be the host's own since our programs are linked to it.
const FROM_THE_HOST: &[&str] = &["libc6", "libc-bin", "libcrypt1"];

/// The Xen that the rig is for; facts about its behaviour hold for no other.
const XEN: &str = "4.17";
/// The QEMU that runs PVH guests under it; 10.0 does not.
const QEMU: &str = "1:7.2";

/// Changes when the rules below change by which packages are chosen.
const PLAN: &str = "plan 2";

/// Package lists for hosts that have none, below the rig's directory.
const OWN_LISTS: &str = "apt/lists";

/// A package in one version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version, with the epoch.
    pub(crate) version: String,
}

impl Package {
    fn new(name: &str, version: &str) -> Self {
        Self { name: name.to_owned(), version: version.to_owned() }
    }

    fn wanted(&self) -> String {
        format!("{}={}", self.name, self.version)
    }

    /// How apt names the file, up to the architecture.
    fn file_prefix(&self) -> String {
        format!("{}_{}_", self.name, self.version.replace(':', "%3a"))
    }
}

/// Unpacked packages.
#[derive(Clone, Debug)]
pub(crate) struct Unpacked {
    /// Xen, its tools and libraries, Linux, busybox.
    pub(crate) xen: PathBuf,
    /// QEMU with its libraries.
    pub(crate) qemu: PathBuf,
    /// The Linux version, as in `lib/modules`.
    pub(crate) linux: String,
}

/// Resolves, downloads what is not yet there, and unpacks.
///
/// # Errors
/// A package that apt does not offer, a failed download, a full disk.
pub(crate) fn fetch(work: &Path, say: &dyn Fn(&str)) -> Result<Unpacked> {
    let system = Apt::of_the_system(work)?;
    let first = match fetch_with(&system, work, say) {
        Err(error) if error.is_of_apt() => error,
        other => return other,
    };
    // No lists, or lists older than the archive, which then name files that are gone.
    let own = Apt::of_our_own(work)?;
    if own.has_lists() {
        match fetch_with(&own, work, say) {
            Err(error) if error.is_of_apt() => {}
            other => return other,
        }
    }
    say(&format!("fetching package lists into the rig's own directory ({first})"));
    own.update()?;
    fetch_with(&own, work, say)
}

fn fetch_with(apt: &Apt, work: &Path, say: &dyn Fn(&str)) -> Result<Unpacked> {
    let plan = Plan::of(apt, work)?;
    Ok(Unpacked {
        xen: unpack(apt, work, "xen", &plan.xen, say)?,
        qemu: unpack(apt, work, "qemu", &plan.qemu, say)?,
        linux: plan.linux,
    })
}

/// What is to be unpacked. Asking apt takes seconds, so the answer is kept for as long as its lists stay the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    xen: Vec<Package>,
    qemu: Vec<Package>,
    linux: String,
}

impl Plan {
    fn of(apt: &Apt, work: &Path) -> Result<Self> {
        let kept = work.join("plan");
        let lists = apt.state_of_lists()?;
        let head = format!("{PLAN}\n{lists}");
        if let Some(plan) =
            fs::read_to_string(&kept).ok().and_then(|text| Self::parse(text.strip_prefix(&head)?))
        {
            return Ok(plan);
        }
        let linux = apt.newest_linux()?;
        let plan = Self {
            xen: apt.xen_set(&linux)?,
            qemu: apt.qemu_set()?,
            linux: linux.name.trim_start_matches("linux-image-").to_owned(),
        };
        fs::write(&kept, head + &plan.render()).at(&kept)?;
        Ok(plan)
    }

    fn render(&self) -> String {
        let lines = |set: &str, packages: &[Package]| -> String {
            packages.iter().map(|p| format!("{set} {}\n", p.wanted())).collect()
        };
        lines("xen", &self.xen) + &lines("qemu", &self.qemu) + &format!("linux {}\n", self.linux)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut plan = Self { xen: Vec::new(), qemu: Vec::new(), linux: String::new() };
        for line in text.lines() {
            let (kind, value) = line.split_once(' ')?;
            let package = || value.split_once('=').map(|(name, version)| Package::new(name, version));
            match kind {
                "xen" => plan.xen.push(package()?),
                "qemu" => plan.qemu.push(package()?),
                "linux" => value.clone_into(&mut plan.linux),
                _ => return None,
            }
        }
        (!plan.linux.is_empty()).then_some(plan)
    }
}

/// Downloads and unpacks a set into `work/NAME`, unless that holds the very same set already.
fn unpack(apt: &Apt, work: &Path, name: &str, set: &[Package], say: &dyn Fn(&str)) -> Result<PathBuf> {
    let root = work.join(name);
    let stamp = work.join(format!("{name}.packages"));
    let list: String = set.iter().map(|p| p.wanted() + "\n").collect();
    if root.is_dir() && fs::read_to_string(&stamp).is_ok_and(|had| had == list) {
        return Ok(root);
    }
    let debs = work.join("debs");
    fs::create_dir_all(&debs).at(&debs)?;
    let missing: Vec<&Package> = set.iter().filter(|p| deb_of(&debs, p).is_none()).collect();
    if !missing.is_empty() {
        say(&format!("downloading {} packages for {name}", missing.len()));
        let wanted = missing.iter().map(|p| p.wanted());
        host::output(apt.get().arg("download").args(wanted).current_dir(&debs))?;
    }
    if stamp.exists() {
        fs::remove_file(&stamp).at(&stamp)?;
    }
    if root.exists() {
        fs::remove_dir_all(&root).at(&root)?;
    }
    fs::create_dir_all(&root).at(&root)?;
    for package in set {
        let deb = deb_of(&debs, package).ok_or_else(|| Error::NoPackage {
            package: package.name.clone(),
            wanted: package.version.clone(),
        })?;
        // A damaged file (an interrupted download) must not stay in the cache.
        host::output(Command::new("dpkg").arg("-x").arg(&deb).arg(&root))
            .inspect_err(|_| drop(fs::remove_file(&deb)))?;
    }
    fs::write(&stamp, list).at(&stamp)?;
    Ok(root)
}

fn deb_of(debs: &Path, package: &Package) -> Option<PathBuf> {
    let prefix = package.file_prefix();
    let named =
        |name: &str| name.strip_prefix(&prefix).is_some_and(|rest| matches!(rest, "amd64.deb" | "all.deb"));
    fs::read_dir(debs).ok()?.flatten().find(|e| e.file_name().to_str().is_some_and(named)).map(|e| e.path())
}

/// apt, with the system's package lists or with lists of the rig's own, which need no root.
struct Apt {
    options: Vec<String>,
    /// A package database in which nothing is installed.
    nothing: PathBuf,
    /// Package lists of our own; unused with the system's.
    lists: PathBuf,
}

impl Apt {
    fn of_the_system(work: &Path) -> Result<Self> {
        let nothing = work.join("nothing-installed");
        fs::write(&nothing, "").at(&nothing)?;
        // As root, apt would download as a user who may not write here.
        Ok(Self { options: vec!["APT::Sandbox::User=root".into()], nothing, lists: PathBuf::new() })
    }

    fn of_our_own(work: &Path) -> Result<Self> {
        let mut apt = Self::of_the_system(work)?;
        for (option, dir) in
            [("Dir::State::lists", work.join(OWN_LISTS)), ("Dir::Cache", work.join("apt/cache"))]
        {
            for part in ["partial", "archives/partial"] {
                let part = dir.join(part);
                fs::create_dir_all(&part).at(&part)?;
            }
            apt.options.push(format!("{option}={}", dir.display()));
        }
        apt.lists = work.join(OWN_LISTS);
        Ok(apt)
    }

    /// Which lists there are, of which size and age.
    fn state_of_lists(&self) -> Result<String> {
        let shell = host::output(self.command("apt-config").args(["shell", "LISTS", "Dir::State::lists/d"]))?;
        let dir = shell.split('\'').nth(1).unwrap_or_default();
        let mut state = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let (true, Ok(meta)) = (name.contains("_Packages"), entry.metadata()) {
                let modified = meta.modified().at(entry.path())?;
                state.push(format!("list {name} {} {modified:?}\n", meta.len()));
            }
        }
        state.sort();
        Ok(state.concat())
    }

    fn has_lists(&self) -> bool {
        fs::read_dir(&self.lists)
            .is_ok_and(|dir| dir.flatten().any(|e| e.file_name().to_string_lossy().contains("_Packages")))
    }

    fn update(&self) -> Result<()> {
        host::output(self.get().arg("update")).map(drop)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    fn get(&self) -> Command {
        let mut command = self.command("apt-get");
        command.arg("-q");
        command
    }

    /// The versions that apt offers, newest first.
    fn versions(&self, package: &str) -> Result<Vec<String>> {
        Ok(madison(&host::output(self.command("apt-cache").args(["madison", package]))?))
    }

    fn pin(&self, package: &str, prefix: &str) -> Result<Package> {
        let versions = self.versions(package)?;
        let version = versions.iter().find(|v| v.starts_with(prefix));
        version.map(|v| Package::new(package, v)).ok_or_else(|| Error::NoPackage {
            package: package.to_owned(),
            wanted: if prefix.is_empty() { "at all".to_owned() } else { format!("{prefix}*") },
        })
    }

    /// Not the cloud image: that lacks CONFIG_XEN_DOM0.
    fn newest_linux(&self) -> Result<Package> {
        let names = host::output(self.command("apt-cache").args(["pkgnames", "linux-image-6.1."]))?;
        let newest = newest_linux_of(&names).ok_or_else(|| Error::NoPackage {
            package: "linux-image-6.1*-amd64".to_owned(),
            wanted: "at all".to_owned(),
        })?;
        self.pin(&newest, "")
    }

    fn qemu_set(&self) -> Result<Vec<Package>> {
        // The last one is dom0's, for HVM guests.
        let roots = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-system-xen"];
        let roots = roots.iter().map(|p| self.pin(p, QEMU)).collect::<Result<Vec<_>>>()?;
        let closure = self.closure(&roots)?;
        let needed = |p: &Package| {
            p.name.starts_with("lib") || ["zlib1g", "seabios"].contains(&p.name.as_str()) || roots.contains(p)
        };
        Ok(closure.into_iter().filter(needed).collect())
    }

    fn xen_set(&self, linux: &Package) -> Result<Vec<Package>> {
        let tools = ["libxenmisc4.17", "xenstore-utils", "libxen-dev"];
        let mut roots = tools.iter().map(|p| self.pin(p, XEN)).collect::<Result<Vec<_>>>()?;
        roots.push(self.pin("busybox-static", "")?);
        let mut set = self.closure(&roots)?;
        // These by themselves: their dependencies (python, boot loaders) are for an installed dom0.
        set.push(self.pin("xen-hypervisor-4.17-amd64", XEN)?);
        set.push(self.pin("xen-utils-4.17", XEN)?);
        set.push(linux.clone());
        set.sort();
        Ok(set)
    }

    /// What apt would install for `roots` on a machine that has nothing.
    fn closure(&self, roots: &[Package]) -> Result<Vec<Package>> {
        let status = format!("Dir::State::status={}", self.nothing.display());
        let plan = host::output(
            self.get()
                .args(["-o", &status, "-o", "APT::Install-Recommends=false", "-o", "Debug::NoLocking=1"])
                .args(["-s", "install"])
                .args(roots.iter().map(Package::wanted)),
        )?;
        let mut set = installed_by(&plan);
        set.retain(|p| !FROM_THE_HOST.contains(&p.name.as_str()));
        set.sort();
        Ok(set)
    }
}

/// Versions in the output of `apt-cache madison`: `name | version | source`. Sources are removed.
fn madison(output: &str) -> Vec<String> {
    output
        .lines()
        .filter(|line| line.trim_end().ends_with("Packages"))
        .filter_map(|line| line.split('|').nth(1))
        .map(|version| version.trim().to_owned())
        .collect()
}

/// The plan of `apt-get -s install`: `Inst name (version archive [arch])`.
fn installed_by(plan: &str) -> Vec<Package> {
    plan.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
            let (_, version) = rest.split_once('(')?;
            Some(Package::new(name, version.split([' ', ')']).next()?))
        })
        .collect()
}

/// The highest `linux-image-6.1.0-N-amd64`; not the cloud, rt, dbg or unsigned ones.
fn newest_linux_of(names: &str) -> Option<String> {
    names
        .lines()
        .filter_map(|name| {
            let version = name.trim().strip_prefix("linux-image-")?.strip_suffix("-amd64")?;
            let numbers: Option<Vec<u32>> = version.split(['.', '-']).map(|n| n.parse().ok()).collect();
            Some((numbers?, name.trim().to_owned()))
        })
        .max()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_lists_binary_packages_newest_first() {
        let output = "\
 seabios | 1.16.3-1~bpo12+1 | http://deb.debian.org/debian bookworm-backports/main amd64 Packages
 seabios | 1.16.2-1 | http://deb.debian.org/debian bookworm/main amd64 Packages
 seabios | 1.16.2-1 | http://deb.debian.org/debian bookworm/main Sources
";
        assert_eq!(madison(output), ["1.16.3-1~bpo12+1", "1.16.2-1"]);
    }

    #[test]
    fn a_plan_gives_names_and_versions() {
        let plan = "\
Reading package lists...
Inst libgcc-s1 (12.2.0-14+deb12u1 Debian:12.12/stable [amd64])
Inst qemu-system-x86 [1:7.0] (1:7.2+dfsg-7 Debian:12.12/stable, Debian-Security:12 [amd64])
Conf libgcc-s1 (12.2.0-14+deb12u1 Debian:12.12/stable [amd64])
";
        let expected =
            [Package::new("libgcc-s1", "12.2.0-14+deb12u1"), Package::new("qemu-system-x86", "1:7.2+dfsg-7")];
        assert_eq!(installed_by(plan), expected);
    }

    #[test]
    fn a_plan_is_read_back_as_it_was_written_and_garbage_is_not() {
        let plan = Plan {
            xen: vec![Package::new("xen-utils-4.17", "4.17.7+13-0+deb12u1")],
            qemu: vec![Package::new("qemu-system-x86", "1:7.2+dfsg-7")],
            linux: "6.1.0-56-amd64".to_owned(),
        };
        assert_eq!(Plan::parse(&plan.render()), Some(plan));
        assert_eq!(Plan::parse("xen a=1\n"), None);
        assert_eq!(Plan::parse("linux 6.1\nxen a\n"), None);
    }

    #[test]
    fn the_newest_kernel_is_by_number_and_never_the_cloud_image() {
        let names = "\
linux-image-6.1.0-9-amd64
linux-image-6.1.0-56-amd64
linux-image-6.1.0-57-cloud-amd64
linux-image-6.1.0-58-amd64-unsigned
linux-image-6.1.0-57-rt-amd64
linux-image-6.1.0-10-amd64
";
        assert_eq!(newest_linux_of(names).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest_linux_of("linux-image-6.1.0-57-cloud-amd64\n"), None);
    }

    #[test]
    fn a_package_file_is_found_by_name_version_and_architecture() {
        let dir = tempfile::tempdir().unwrap();
        let package = Package::new("qemu-system-x86", "1:7.2+dfsg-7");
        assert_eq!(deb_of(dir.path(), &package), None);
        fs::write(dir.path().join("qemu-system-x86_1%3a7.2+dfsg-7+b1_amd64.deb"), "").unwrap();
        assert_eq!(deb_of(dir.path(), &package), None);
        let file = dir.path().join("qemu-system-x86_1%3a7.2+dfsg-7_amd64.deb");
        fs::write(&file, "").unwrap();
        assert_eq!(deb_of(dir.path(), &package), Some(file));
    }
}
