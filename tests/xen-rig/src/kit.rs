//! What scenarios are made from: the unpacked packages, dom0's base image, and the project's own programs, each
//! built when a scenario first asks for it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Tree;
use crate::dom0::Dom0;
use crate::error::{At as _, Result};
use crate::host::{self, Places};
use crate::images::Images;
use crate::packages::{self, Unpacked};

/// Xen's client libraries that the C programs are linked with, as static archives: leaves first would not link.
const DEVICE_MODEL_LIBRARIES: &[&str] =
    &["xendevicemodel", "xenforeignmemory", "xenevtchn", "xencall", "xentoolcore", "xentoollog"];
const VCHAN_LIBRARIES: &[&str] =
    &["xenvchan", "xenstore", "xengnttab", "xenevtchn", "xentoolcore", "xentoollog"];

/// Everything fetched and unpacked.
#[derive(Debug)]
pub struct Kit {
    /// Where things are on the host.
    pub places: Places,
    pub(crate) unpacked: Unpacked,
    pub(crate) images: Images,
    pub(crate) base: Tree,
}

impl Kit {
    /// Fetches and unpacks what is not there yet.
    ///
    /// # Errors
    /// See [`Error`](crate::Error): each variant is a way in which this fails.
    pub fn gather(say: &dyn Fn(&str)) -> Result<Self> {
        host::check_tools()?;
        let places = Places::find()?;
        let unpacked = packages::fetch(&places.work, say)?;
        let images = Images::extract(&unpacked, &places.work)?;
        let base = Dom0 { unpacked: &unpacked }.base()?;
        Ok(Self { places, unpacked, images, base })
    }

    /// Builds a program of the workspace as `cargo build --release` does.
    ///
    /// # Errors
    /// It does not build.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        self.build(&["--bin", name])?;
        Ok(self.places.target.join("release").join(name))
    }

    /// Builds an example of the workspace as `cargo build --release` does.
    ///
    /// # Errors
    /// It does not build.
    pub fn example(&self, name: &str) -> Result<PathBuf> {
        self.build(&["--example", name])?;
        Ok(self.places.target.join("release/examples").join(name))
    }

    /// The package is not named: with the features that one alone needs every library would be built once more for it.
    fn build(&self, what: &[&str]) -> Result<()> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--release", "--quiet", "--workspace"]).args(what);
        host::output(cargo.arg("--target-dir").arg(&self.places.target))?;
        Ok(())
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.places.workspace);
        cargo
    }

    /// Compiles the C peer for the speed ratio against the headers and libraries of the fetched Xen.
    ///
    /// # Errors
    /// It does not compile.
    pub fn c_baseline(&self) -> Result<PathBuf> {
        self.c_program("baseline", DEVICE_MODEL_LIBRARIES)
    }

    /// Compiles the C peer of the byte channel, likewise.
    ///
    /// # Errors
    /// It does not compile.
    pub fn c_vchan(&self) -> Result<PathBuf> {
        self.c_program("vchan-peer", VCHAN_LIBRARIES)
    }

    fn c_program(&self, name: &str, libraries: &[&str]) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/c/{name}.c"));
        let dir = self.places.work.join("bin");
        fs::create_dir_all(&dir).at(&dir)?;
        let program = dir.join(name);
        let usr = self.unpacked.xen.join("usr");
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"])
            .arg("-isystem")
            .arg(usr.join("include"));
        gcc.arg("-o").arg(&program).arg(&source);
        for library in libraries {
            gcc.arg(usr.join(format!("lib/x86_64-linux-gnu/lib{library}.a")));
        }
        host::output(&mut gcc)?;
        Ok(program)
    }

    /// Compiles a program for a guest's initramfs: it needs nothing but the kernel.
    ///
    /// # Errors
    /// It does not compile.
    pub fn static_program(&self, name: &str) -> Result<PathBuf> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/c/{name}.c"));
        let dir = self.places.work.join("bin");
        fs::create_dir_all(&dir).at(&dir)?;
        let program = dir.join(name);
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o"]);
        host::output(gcc.arg(&program).arg(&source))?;
        Ok(program)
    }

    /// Puts a program into dom0's `/rig/bin`, with the libraries that the base image lacks.
    ///
    /// # Errors
    /// A library that is nowhere.
    pub fn install(&self, files: &mut Tree, program: &Path) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let program = self.without_debug_info(program)?;
        Dom0 { unpacked: &self.unpacked }.program(files, &self.base, &format!("rig/bin/{name}"), &program)
    }

    /// The program with its symbols and without the rest of what is for a debugger, of which nobody makes use there: five sixths of
    /// it, which an emulated machine would have to unpack.
    ///
    /// # Errors
    /// It is no program.
    pub(crate) fn without_debug_info(&self, program: &Path) -> Result<PathBuf> {
        let dir = self.places.work.join("stripped");
        fs::create_dir_all(&dir).at(&dir)?;
        let stripped = dir.join(program.file_name().unwrap_or_default());
        host::output(Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(program))?;
        Ok(stripped)
    }

    /// Puts modules of the kernel's below `/rig/modules`, and their files in the order in which they can be loaded into
    /// `/rig/modules/order`.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub fn install_modules(&self, files: &mut Tree, modules: &[&str]) -> Result<()> {
        let kernel = self.unpacked.xen.join("lib/modules").join(&self.unpacked.linux).join("kernel");
        let mut order = String::new();
        for module in modules {
            let from = kernel.join(module).with_extension("ko");
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            files.file(&format!("rig/modules/{name}"), 0o644, host::module(&from)?);
            order += &format!("/rig/modules/{name}\n");
        }
        files.file("rig/modules/order", 0o644, order);
        Ok(())
    }

    /// Puts the project's PVH guest kernel where `guest` in dom0's script finds it.
    ///
    /// # Errors
    /// It does not build.
    pub fn install_guest(&self, files: &mut Tree) -> Result<()> {
        let kernel = self.guest_kernel()?;
        files.file("rig/guest", 0o644, fs::read(&kernel).at(&kernel)?);
        Ok(())
    }

    /// The guest crate's kernel; its profile gives it `panic = "abort"`, which it cannot do without.
    fn guest_kernel(&self) -> Result<PathBuf> {
        let mut cargo = self.cargo();
        cargo.args(["build", "--quiet", "-p", "guest", "--bin", "pvh", "--features", "kernel"]);
        host::output(cargo.args(["--profile", "kernel", "--target-dir"]).arg(&self.places.target))?;
        Ok(self.places.target.join("kernel/pvh"))
    }
}
