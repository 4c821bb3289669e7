//! The sheets and rows as a document. What it says is what the rows check: both come from the same tables.

use std::fmt::Write;

use super::call::By;
use super::disagreements;
use super::effects;
use super::sheet::{self, Entry, Line, Out, Sheet};
use crate::case::show;

const HEAD: &str = "\
# PV-IOMMU, as the model answers

This file is written by `cargo run --release -p conformance -- iommu --render docs/pv-iommu.md`, from the tables whose rows
`conformance iommu` runs; a test holds the two together.

The model hypervisor has two profiles with PV-IOMMU. `draft` is draft B of June 2015, whole. `xs` is what XenServer shipped
(hypercall 56, seen on XenServer 8's Xen 4.17.6), where of the foreign operations only the lookup and its undoing work; calls
that end a real host are refused there, and the model's oracle reports them.

## Words

| word | meaning |
|---|---|
| G, G+1 … | guest frames of the guest, RAM, their machine frames in a row from a multiple of 8 on |
| own0, own1 | frames of dom0's own |
| B, B+1 … | bus frames that nobody uses |
| R, S | bus frames inside the RMRR of a device of dom0's, of the stub domain's |
| 1:1(G) | where the frame behind G is looked up: its MFN, in `xs` with control plus the offset of the 1:1 map |
| server 0, 1, 2 | the guest's IOREQ servers: two of dom0's, one of the stub domain's |
| references | of the frame behind the guest frame that the call names, its allocation's included (own frames are mapped by dom0's CPU, too) |

Calls are dom0's unless another caller is named, for server 0, with readable and writeable set where that means something.
A line is: in this state, this call, gives this status, and then the frame has these M2B entries and references.
";

/// The whole document.
pub fn document() -> String {
    let mut out = HEAD.to_owned();
    for (name, sheets) in [("draft", sheet::draft::SHEETS), ("xs", sheet::xs::SHEETS)] {
        let _ = writeln!(out, "\n## Statuses: profile `{name}`");
        let mut last = String::new();
        for sheet in sheets {
            let title = sheet::machine(sheet.iommu).to_owned();
            if title != last {
                let _ = writeln!(out, "\n### {title}");
                last = title;
            }
            table(&mut out, sheet);
        }
    }
    disagreements(&mut out);
    out.push_str("\n## Effects\n\nWho reaches what, who is told, when a frame is free; each row a situation and its outcome.\n");
    for table in effects::TABLES {
        let _ = writeln!(out, "\n### {}\n\n| situation | outcome | source |\n|---|---|---|", table.title);
        for case in table.cases {
            let name = case.name.replace('_', " ");
            let _ = writeln!(out, "| {name} | {} | {} |", show(case.want), case.source);
        }
    }
    out
}

fn table(out: &mut String, sheet: &Sheet) {
    let _ = writeln!(out, "\n#### {}", sheet.section);
    out.push_str("\n| state | call | status | gives | M2B after | references | source |\n|---|---|---|---|---|---|---|\n");
    for line in sheet.lines {
        let state: Vec<String> = line.state.iter().map(ToString::to_string).collect();
        let m2b: Vec<String> = line.m2b.iter().map(entry).collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            state.join("; "),
            line.call,
            line.want,
            gives(line),
            m2b.join(", "),
            line.refs,
            line.source
        );
    }
}

fn entry((bus, by, server): &Entry) -> String {
    match by {
        By::Dom0 => format!("({bus}, dom0, {server})"),
        By::Stub => format!("({bus}, stub, {server})"),
    }
}

fn gives(line: &Line) -> String {
    match line.out {
        Out::Unchanged => String::new(),
        Out::Bfn(bus) => format!("bfn {bus}"),
        Out::Caps(flags, None) => format!("flags {flags:#x}"),
        Out::Caps(flags, Some(offset)) => format!("flags {flags:#x}, offset {offset:#x}"),
    }
}

fn disagreements(out: &mut String) {
    out.push_str(
        "\n## Where draft and shipped code disagree\n\nLines above that show it are marked A4-N in both profiles.\n\n\
         | A4- | disagreement | profile `draft` | lines in draft | lines in xs |\n|---|---|---|---|---|\n",
    );
    for d in disagreements::ALL {
        let count = |sheets: &[Sheet]| marked(sheets, d.number).count();
        let (draft, xs) = (count(sheet::draft::SHEETS), count(sheet::xs::SHEETS));
        let _ = writeln!(out, "| {} | {} | {} | {draft} | {xs} |", d.number, d.about, d.decision);
    }
}

/// Lines that show a disagreement.
fn marked(sheets: &[Sheet], number: u32) -> impl Iterator<Item = &Line> {
    let mark = format!("A4-{number}");
    let is = move |line: &&Line| line.source.split([';', ',', ':', ' ']).any(|word| word == mark);
    sheets.iter().flat_map(|s| s.lines).filter(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_disagreement_has_a_line_under_both_profiles() {
        for d in disagreements::ALL {
            for sheets in [sheet::draft::SHEETS, sheet::xs::SHEETS] {
                assert!(marked(sheets, d.number).count() > 0, "A4-{}: {}", d.number, d.about);
            }
        }
    }

    #[test]
    fn the_document_in_docs_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pv-iommu.md");
        let written = std::fs::read_to_string(path).expect("docs/pv-iommu.md");
        let right = written == document();
        assert!(right, "run: cargo run --release -p conformance -- iommu --render docs/pv-iommu.md");
    }
}
