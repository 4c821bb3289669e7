//! The options on the kernel's command line: words `key=value`, unknown ones ignored.

use guest::run::Config;

/// The options, each with its default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cmdline<'a> {
    pub(crate) mode: &'a str,
    pub(crate) seed: u64,
    pub(crate) frames: u32,
    pub(crate) balloon: usize,
    pub(crate) number: Option<u16>,
    pub(crate) check: u32,
    pub(crate) patience: u32,
    pub(crate) clear: u64,
    pub(crate) rounds: u32,
    pub(crate) n: u32,
    pub(crate) give: usize,
    pub(crate) poweroff: bool,
}

impl<'a> Cmdline<'a> {
    /// Reads them; a value that is no number leaves the default.
    pub(crate) fn parse(line: &'a str) -> Self {
        let d = Config::default();
        let mut o = Self {
            mode: "draw",
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
