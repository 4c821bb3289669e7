//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use mediated_gpu::mediator::{Config as MediatorConfig, Policy, Share, TRACK_AFTER};
use mediated_gpu::vfio::{Address as PciAddress, VfioError};
use mediated_gpu::vgpu::slice::{MIB, SliceSize, VgpuType};
use mediated_gpu::vnc::Address;

/// Several Xen guests share one GPU, with ballooning on.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Guests draw on the model hypervisor while their pages are ballooned out and in.
    #[cfg(feature = "embedded")]
    Demo(Demo),
    /// Give a guest of this Xen a vGPU, until the guest is gone or SIGTERM comes.
    Serve(Box<Serve>),
    /// In the `--viewer` of an `mgpu serve`: write what its guest shows.
    View(View),
    /// Send a command to the control socket of a running `mgpu serve`, and print the answer.
    Ask(Ask),
    /// List the types of vGPUs, and how many there can be.
    Types(Types),
    /// Say what this host offers, and whether mgpu can serve here.
    Probe(Probe),
    /// Draw a contact sheet of the software GPU's blits.
    Blits(Blits),
    /// Render the picture that a guest of the demo ends with, without a GPU.
    #[cfg(feature = "embedded")]
    Picture(Picture),
}

/// `mgpu demo`
#[cfg(feature = "embedded")]
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// How many guests share the GPU.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=15))]
    pub(crate) guests: u16,
    /// How long they draw.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub(crate) seconds: u32,
    /// Decides the pictures, and which pages are ballooned. The same seed gives the same pictures.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where the pictures go.
    #[arg(long, default_value = "out", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Pages ballooned out and in again during each frame.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) balloon: u16,
    /// This many of the guests are hostile: they program garbage, and must harm nobody but themselves.
    #[arg(long, default_value_t = 0)]
    pub(crate) hostile: u16,
    /// Things go wrong below the program: PLACE:FAULT:1/N, with commas between them. Without a plan, a bit of everything.
    /// Places: map, unmap, call, flush, notice, foreign. Faults: an errno (EIO), late (flush), full (notice), delay=5ms.
    #[arg(long, value_name = "PLAN", num_args = 0..=1, require_equals = true, default_missing_value = crate::demo::USUAL_FAULTS)]
    pub(crate) faults: Option<crate::demo::Faults>,
    /// What the modelled hypervisor offers.
    #[arg(long, value_enum, default_value_t = Hypervisor::Draft)]
    pub(crate) hypervisor: Hypervisor,
    #[command(flatten)]
    pub(crate) schedule: Schedule,
    /// The guests' weights, with commas between them; the last one is for all that come after. By default 1.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_WEIGHT)))]
    pub(crate) weights: Vec<u32>,
    /// The guests' caps in percent of each engine, as the weights. By default 100.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) caps: Vec<u32>,
}

/// How engines are shared.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(next_help_heading = "Scheduling")]
pub(crate) struct Schedule {
    /// Who may have how much of each engine.
    #[arg(long, value_enum, default_value_t = PolicyName::BestEffort)]
    pub(crate) policy: PolicyName,
    /// Milliseconds that a guest keeps an engine while others wait for it.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) slice_ms: u64,
    /// Milliseconds that a guest's work may run before its engine is reset.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) deadline_ms: u64,
}

impl Schedule {
    /// With this schedule, and the rest as it is.
    pub(crate) fn config(self) -> MediatorConfig {
        MediatorConfig {
            policy: self.policy.into(),
            slice: Duration::from_millis(self.slice_ms),
            deadline: Duration::from_millis(self.deadline_ms),
            ..MediatorConfig::default()
        }
    }
}

/// Policies, by the names that operators of vGPUs know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyName {
    /// By turns, by weight; what an idle guest leaves is for the others.
    BestEffort,
    /// Each of N guests may have one Nth, and no more.
    EqualShare,
    /// Each guest may have its weight in 16, and no more, whoever else there is.
    FixedShare,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::BestEffort => Self::BestEffort,
            PolicyName::EqualShare => Self::EqualShare,
            PolicyName::FixedShare => Self::FixedShare,
        }
    }
}

/// The largest weight: more than a whole engine's says nothing more.
pub(crate) const MOST_WEIGHT: u32 = 1024;

/// What a modelled hypervisor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hypervisor {
    /// PV-IOMMU as in draft B: invalidations name a bus frame.
    Draft,
    /// Xen as released: no iommu_op, invalidations say that something changed.
    Stock,
}

/// `mgpu blits`
#[derive(Debug, clap::Args)]
pub(crate) struct Blits {
    /// The PNG file.
    #[arg(long, default_value = "blits.png", value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// `mgpu picture`
#[cfg(feature = "embedded")]
#[derive(Debug, clap::Args)]
pub(crate) struct Picture {
    /// The guest's domain number.
    #[arg(long)]
    pub(crate) domid: u16,
    /// The seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The PNG file.
    pub(crate) file: PathBuf,
}

/// `mgpu serve`
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The guest.
    #[arg(long)]
    pub(crate) domid: u16,
    /// The vGPU's type: V4_1, V4_2, V4_4, V4_8; or a size, as MiB in the aperture and beyond it: 32+64.
    #[arg(long = "type", value_name = "TYPE", default_value = "V4_8")]
    pub(crate) kind: Type,
    /// Go on with the vGPU that `mgpu ask PATH save` wrote down, for a guest that `xl restore -p` has made anew. It has its own type
    /// and share.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "weight", "cap"])]
    pub(crate) restore: Option<PathBuf>,
    /// At the end, and at SIGUSR1, the picture that the guest shows is written here as `dom<N>.png`.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The physical GPU: `soft`, or `vfio:0000:00:02.0`.
    #[arg(long, default_value = "soft")]
    pub(crate) gpu: Gpu,
    /// MiB of dom0's own memory that a physical GPU's rings, contexts and tables are in, all taken at the start.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=4096))]
    pub(crate) own_memory: u32,
    #[command(flatten)]
    pub(crate) schedule: Schedule,
    /// The guest's weight. By default its type's: 16, 8, 4, 2 for V4_1 to V4_8.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_WEIGHT)))]
    pub(crate) weight: Option<u32>,
    /// The most that the guest may have of each engine, in percent.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) cap: u32,
    /// Also answer CF8, and be the host bridge that a PVH guest's PCI scan looks for. Not for a guest that has QEMU.
    #[arg(long)]
    pub(crate) pci_root: bool,
    /// A socket at which root, or who starts mgpu, asks for `status`, `picture`, `reset`, `stop` and `help`: see `mgpu ask`.
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Show what the guest shows to VNC viewers: at a port of this host's own (127.0.0.1:5900), or at a socket's file.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) vnc: Option<Address>,
    /// This domain may see what the guest shows, as it is twice a second: see `mgpu view`. A viewer that keeps the pages keeps
    /// them until it is gone.
    #[arg(long, value_name = "DOMID")]
    pub(crate) viewer: Option<u16>,
    /// Where a record of what is in Xen of each guest is kept, by which the next mgpu takes the place of one that was killed.
    #[arg(long, value_name = "DIR", default_value = "/run/mediated-gpu")]
    pub(crate) state: PathBuf,
    /// Keep no such record: if mgpu is killed, the guest waits until it is destroyed.
    #[arg(long, conflicts_with = "state")]
    pub(crate) no_state: bool,
    /// Have each of the guest's writes to its translation table trap, instead of giving it 8 MiB of memory for that.
    #[arg(long)]
    pub(crate) trap_table: bool,
    /// Compare the page tables of the guest's contexts with their shadows before each use, instead of trapping writes to those that are
    /// quiet (docs/page-tracking.md).
    #[arg(long)]
    pub(crate) no_track_tables: bool,
    /// Trap writes to a page table that has not changed for so many uses. A trap costs as much as some fifty comparisons.
    #[arg(long, value_name = "USES", default_value_t = TRACK_AFTER, value_parser = clap::value_parser!(u32).range(1..=4096))]
    #[arg(conflicts_with = "no_track_tables")]
    pub(crate) track_after: u32,
    /// Have each read of a register trap, too, instead of showing those that a driver reads while it works in the table's memory.
    #[arg(long)]
    pub(crate) trap_registers: bool,
    /// Also give the guest a display (bochs-display, 0000:00:10.0) with 16 MiB of memory, for its console: a stock Linux guest
    /// draws that on it. Its picture goes to `--out`, too, as `dom<N>-console.png`. A successor would not find it again,
    /// and it is not saved.
    #[arg(long, requires = "no_state", conflicts_with = "restore")]
    pub(crate) console: bool,
    #[command(flatten)]
    pub(crate) sandbox: Sandbox,
}

impl Serve {
    /// What the guest is to have of each engine.
    pub(crate) fn share(&self) -> Share {
        let usual = Share::of(self.kind.0);
        Share { weight: self.weight.unwrap_or(usual.weight), cap: self.cap, ..usual }
    }
}

#[cfg(feature = "embedded")]
impl Demo {
    /// What the guest of a number, from 1, is to have of each engine.
    pub(crate) fn share(&self, number: u16) -> Share {
        let of = |list: &[u32], usual| {
            list.get(usize::from(number).saturating_sub(1)).or(list.last()).copied().unwrap_or(usual)
        };
        Share { weight: of(&self.weights, 1), cap: of(&self.caps, 100), deadline: None }
    }
}

/// `mgpu types`
#[derive(Debug, clap::Args)]
pub(crate) struct Types {
    /// MiB of the aperture that all vGPUs share.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=2048))]
    pub(crate) aperture: u64,
}

/// `mgpu view`
#[derive(Debug, clap::Args)]
pub(crate) struct View {
    /// The guest.
    #[arg(long)]
    pub(crate) domid: u16,
    /// The domain in which `mgpu serve` runs.
    #[arg(long, default_value_t = 0)]
    pub(crate) server: u16,
    /// The PNG file.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// `mgpu ask`
#[derive(Debug, clap::Args)]
pub(crate) struct Ask {
    /// The `--control` of the `mgpu serve`.
    pub(crate) socket: PathBuf,
    /// The command, e.g. `status`; `help` says which there are.
    #[arg(required = true)]
    pub(crate) command: Vec<String>,
}

/// What `mgpu serve` gives up before the guest can reach it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct Sandbox {
    /// Give up nothing but the descriptors' rights over other guests.
    #[arg(long, conflicts_with_all = ["user", "chroot", "on_violation"])]
    pub(crate) no_sandbox: bool,
    /// Become this user (and group), by name or number. By default, as root: uid 65536 + N for guest N, gid 65536.
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Make this directory the root directory: one that is empty and root's alone.
    #[arg(long, value_name = "DIR")]
    pub(crate) chroot: Option<PathBuf>,
    /// What becomes of a system call that mgpu does not need.
    #[arg(long, value_enum, default_value_t = Violation::Kill)]
    pub(crate) on_violation: Violation,
}

/// What becomes of a system call that mgpu does not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Violation {
    /// mgpu is killed, and the kernel's log says by which call.
    Kill,
    /// The call fails, and the kernel's log says which it was.
    Refuse,
}

/// `mgpu probe`
#[derive(Debug, clap::Args)]
pub(crate) struct Probe {
    /// Look at this PCI device through VFIO (0000:00:02.0) instead: what it is, and what it may be used for.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) vfio: Option<PciAddress>,
    /// Tell that as JSON.
    #[arg(long, requires = "vfio")]
    pub(crate) json: bool,
    /// Then run work of this host's own on it, if that is allowed: a line for each piece, and whether it came out right.
    #[arg(long, requires = "vfio", conflicts_with = "json")]
    pub(crate) work: bool,
    /// Only the number of free host frames, for scripts.
    #[arg(long, conflicts_with = "vfio")]
    pub(crate) free_pages: bool,
}

/// A vGPU's type, by the names that operators know, or by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Type(pub(crate) VgpuType);

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            VgpuType::Custom(size) => write!(f, "{}+{}", size.low / MIB, size.high / MIB),
            named => write!(f, "{named:?}"),
        }
    }
}

impl std::str::FromStr for Type {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let kind = match s {
            "V4_1" => VgpuType::V4_1,
            "V4_2" => VgpuType::V4_2,
            "V4_4" => VgpuType::V4_4,
            "V4_8" => VgpuType::V4_8,
            _ => {
                let size = |part: &str| part.parse().ok().filter(|n| (1..=MOST_MIB).contains(n));
                let parts = s.split_once('+').and_then(|(low, high)| Some((size(low)?, size(high)?)));
                let (low, high) = parts.ok_or("write V4_1, V4_2, V4_4, V4_8, or LOW+HIGH in MiB")?;
                VgpuType::Custom(SliceSize { low: low * MIB, high: high * MIB, fences: 4 })
            }
        };
        Ok(Self(kind))
    }
}

/// MiB of either part of a vGPU at most: what the largest type has.
const MOST_MIB: u64 = 2048;

/// The physical GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gpu {
    /// The one in this program.
    Soft,
    /// A PCI device.
    Vfio(PciAddress),
}

impl std::str::FromStr for Gpu {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':') {
            None if s == "soft" => Ok(Self::Soft),
            Some(("vfio", address)) => address.parse().map(Self::Vfio).map_err(|e: VfioError| e.to_string()),
            _ => Err("write soft, or vfio:0000:00:02.0".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn a_gpu_is_soft_or_a_pci_address() {
        assert_eq!("soft".parse(), Ok(Gpu::Soft));
        assert_eq!("vfio:0000:00:02.0".parse(), Ok(Gpu::Vfio("0000:00:02.0".parse().unwrap())));
        assert!("vfio:00:02.0".parse::<Gpu>().is_err());
        assert!("i915".parse::<Gpu>().is_err());
    }

    #[test]
    fn a_type_is_a_name_or_a_size() {
        let size = |s: &str| s.parse::<Type>().map(|t| t.0.size()).ok();
        assert_eq!(size("V4_2"), Some(VgpuType::V4_2.size()));
        for name in ["V4_1", "32+64"] {
            assert_eq!(name.parse::<Type>().map(|t| t.to_string()), Ok(name.into()));
        }
        assert_eq!(size("32+64"), Some(SliceSize { low: 32 << 20, high: 64 << 20, fences: 4 }));
        for wrong in ["v4_8", "V4_3", "32", "0+64", "32+", "32+2049", "-1+64", ""] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_demo_gives_its_last_weight_to_all_who_come_after() {
        let args = Args::try_parse_from(["mgpu", "demo", "--weights", "1,3", "--caps", "50"]).unwrap();
        let Command::Demo(demo) = args.command else { panic!("it says demo") };
        let shares = [1, 2, 3].map(|n| (demo.share(n).weight, demo.share(n).cap));
        assert_eq!(shares, [(1, 50), (3, 50), (3, 50)]);
        for wrong in [["--weights", "1,0"], ["--caps", "101"], ["--policy", "fair"], ["--slice-ms", "0"]] {
            assert!(Args::try_parse_from([&["mgpu", "demo"][..], &wrong].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_guest_has_its_types_weight_unless_it_is_told_otherwise() {
        let share = |rest: &[&str]| {
            let args = Args::try_parse_from([&["mgpu", "serve", "--domid", "1"], rest].concat()).unwrap();
            let Command::Serve(serve) = args.command else { panic!("it says serve") };
            serve.share()
        };
        assert_eq!(share(&["--type", "V4_2"]), Share { weight: 8, cap: 100, deadline: None });
        assert_eq!(share(&["--weight", "3", "--cap", "20"]), Share { weight: 3, cap: 20, deadline: None });
    }

    #[test]
    fn a_demo_without_guests_is_refused() {
        assert!(Args::try_parse_from(["mgpu", "demo", "--guests", "0"]).is_err());
        assert!(Args::try_parse_from(["mgpu", "demo", "--guests", "16"]).is_err());
        assert!(Args::try_parse_from(["mgpu", "serve"]).is_err());
    }

    #[test]
    fn a_sandbox_is_chosen_or_switched_off_not_both() {
        let parse = |rest: &[&str]| Args::try_parse_from([&["mgpu", "serve", "--domid", "1"], rest].concat());
        assert!(
            parse(&["--user", "1000:1000", "--chroot", "/var/empty", "--on-violation", "refuse"]).is_ok()
        );
        assert!(parse(&["--no-sandbox"]).is_ok());
        assert!(parse(&["--no-sandbox", "--user", "nobody"]).is_err());
        assert!(parse(&["--no-sandbox", "--on-violation", "kill"]).is_err());
    }
}
