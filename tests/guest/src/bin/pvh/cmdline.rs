//! The options on the kernel's command line: words `key=value`, unknown ones ignored.

use guest::run::Config;

/// The options, each with its default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cmdline<'a> {
    /// `draw` a picture (the default), `hostile`, `rows` or `grants` that a server asks for, `bench`, or `hello`: come up and
    /// no more.
    /// Without any command line, which libxl gives no firmware of an HVM guest: `rows`.
    pub(crate) mode: &'a str,
    /// Of pictures, ballooning and harm.
    pub(crate) seed: u64,
    /// Frames that `draw` draws.
    pub(crate) frames: u32,
    /// Pages ballooned during each of them.
    pub(crate) balloon: usize,
    /// The number to draw, the domain's own by default.
    pub(crate) number: Option<u16>,
    /// Every how many frames the pixels are checked.
    pub(crate) check: u32,
    /// Moments (5 ms) waited for a frame.
    pub(crate) patience: u32,
    /// GGTT entries cleared at the start beyond those in use.
    pub(crate) clear: u64,
    /// Rounds of `hostile`.
    pub(crate) rounds: u32,
    /// Accesses of each kind that `bench` makes.
    pub(crate) n: u32,
    /// Pages that `draw` gives away at its end, while the GPU can still reach them.
    pub(crate) give: usize,
    /// Pages that `draw` gives away before it is saved, and takes back when it was restored; 0: it is not.
    pub(crate) away: usize,
    /// `1`: the domain ends afterwards; else it stays, halted, and its picture with it. `rows` go on until then.
    pub(crate) poweroff: bool,
}

impl<'a> Cmdline<'a> {
    /// Reads them; a value that is no number leaves the default.
    pub(crate) fn parse(line: &'a str) -> Self {
        let d = Config::default();
        let mut o = Self {
            mode: if line.is_empty() { "rows" } else { "draw" },
            seed: d.seed,
            frames: d.frames.unwrap_or(1),
            balloon: d.balloon,
            number: None,
            check: d.check_every,
            patience: d.patience,
            clear: d.clear_entries,
            rounds: 200,
            n: 2000,
            give: 0,
            away: 0,
            poweroff: false,
        };
        for (key, value) in line.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
            match key {
                "mode" => o.mode = value,
                "seed" => set(&mut o.seed, value),
                "frames" => set(&mut o.frames, value),
                "balloon" => set(&mut o.balloon, value),
                "number" => o.number = value.parse().ok(),
                "check" => set(&mut o.check, value),
                "patience" => set(&mut o.patience, value),
                "clear" => set(&mut o.clear, value),
                "rounds" => set(&mut o.rounds, value),
                "n" => set(&mut o.n, value),
                "give" => set(&mut o.give, value),
                "away" => set(&mut o.away, value),
                "poweroff" => o.poweroff = value == "1",
                _ => {}
            }
        }
        o
    }
}

fn set<T: core::str::FromStr>(slot: &mut T, value: &str) {
    if let Ok(v) = value.parse() {
        *slot = v;
    }
}
