//! What each guest did, as a table.

use std::fmt::Write;
use std::time::Duration;

use super::guests::Done;

const HEAD: [&str; 12] = [
    "guest",
    "frames",
    "frames/s",
    "BCS %",
    "IOREQs",
    "PTE writes",
    "mappings",
    "ballooned",
    "invalidations",
    "median us",
    "p99 us",
    "resets",
];

/// The table, a line a guest.
pub(crate) fn table(guests: &[Done], drawn_for: Duration) -> String {
    let rows: Vec<[String; 12]> = guests.iter().map(|g| row(g, drawn_for)).collect();
    let widths: Vec<usize> = HEAD
        .iter()
        .enumerate()
        .map(|(i, h)| {
            rows.iter().filter_map(|r| r.get(i)).map(String::len).chain([h.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(out, "{cell:>width$}  ");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    };
    line(&mut HEAD.into_iter());
    for r in &rows {
        line(&mut r.iter().map(String::as_str));
    }
    out
}

fn row(g: &Done, drawn_for: Duration) -> [String; 12] {
    let requests = g.requests.pio + g.requests.mmio + g.requests.pci + g.requests.invalidate;
    let rate = f64::from(g.report.frames_drawn) / drawn_for.as_secs_f64().max(1e-3);
    let frames = if g.hostile { "hostile".into() } else { g.report.frames_drawn.to_string() };
    [
        g.domid.to_string(),
        frames,
        format!("{rate:.1}"),
        format!("{:.1}", 100.0 * g.part),
        requests.to_string(),
        g.vgpu.pte_writes.to_string(),
        g.vgpu.mappings.to_string(),
        g.report.ballooned_out.to_string(),
        g.vgpu.invalidations.to_string(),
        g.vgpu.invalidation_median_us.to_string(),
        g.vgpu.invalidation_p99_us.to_string(),
        g.vgpu.resets.to_string(),
    ]
}
