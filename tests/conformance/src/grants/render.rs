//! The sheets as a document. What it says is what the rows check: both come from the same tables.

use std::fmt::Write;

use xen_ioreq::abi::grant_table::{GTF_reading, GTF_writing};

use super::sheet::{By, Line, Sheet};
use super::{lines, revokable};

const HEAD: &str = "\
# Grant tables, as the model answers

This file is written by `cargo run --release -p conformance -- grants --render docs/grant-tables.md`, from the tables whose
rows `conformance grants` runs; a test holds the two together. Why revokable grants answer as they do stands in
[revokable-grants.md](revokable-grants.md).

## Words

| word | meaning |
|---|---|
| granter, mapper | who grants, and who calls; other: a third domain; nobody: a number that no domain has |
| entry | of the granter's table: reference, for whom, `GTF_*` flags, frame of the granter's; version 1 unless it says v2 |
| P0, P1 … | places in the mapper's address space; elsewhere: an address that it cannot use |
| lgfn | the frame of the mapper's own that comes in the place of a revoked one |
| marks | `GTF_reading` (r) and `GTF_writing` (w), set by the hypervisor in entry 9 after the call |
| references | of the granter's frame 3 after the call, its allocation's included |

A table has at most 2 frames here and a domain 256 handles. `D` in the last column: seen in Xen's sources. Lines marked *stock*
are what released Xen answers as well, *draft* what only a hypervisor with revokable grants does, or where the model's devices
differ from Xen's: each mapping for devices has a bus frame of its own.

## What differs from Xen

- A PV domain of the model has no page tables: `GNTMAP_contains_pte` is refused, and `host_addr` is a page of a range that the
  domain has reserved. `unmap_grant_ref` insists on the address that was mapped; Xen looks only at what is mapped there.
- `GNTMAP_host_map` alone lets no device in. Xen enters such mappings of a PV domain into its IOMMU table, too.
- The first frame of a table is there from the first call that asks for one, as zeros before.
- Of the types of pages there is what grants notice: a page table of the granter's is never written by one.
- Not modelled, since nothing here can lead to it: -11 (`address_too_big`), -8 by a security policy, I/O memory.
";

/// The whole document.
pub fn document() -> String {
    let mut s = HEAD.to_owned();
    let all = lines::SHEETS.iter().chain(revokable::SHEETS);
    let mut section = "";
    for sheet in all {
        if sheet.section != section {
            section = sheet.section;
            let _ = write!(s, "\n## {section}\n");
        }
        table(&mut s, sheet);
    }
    s
}

fn table(s: &mut String, sheet: &Sheet) {
    let by = match sheet.by {
        By::All => "stock and draft",
        By::Stock => "stock",
        By::Draft => "draft",
    };
    let _ = write!(s, "\n### {} ({by})\n\n", sheet.parties.words());
    s.push_str("| state | call | status | marks | references | source |\n|---|---|---|---|---|---|\n");
    for line in sheet.lines {
        row(s, line);
    }
}

fn row(s: &mut String, line: &Line) {
    let state = line.state.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let mark = |bit, name| if line.marks & bit != 0 { name } else { "" };
    let marks = format!("{}{}", mark(GTF_reading, "r"), mark(GTF_writing, "w"));
    let (call, want, refs, source) = (line.call, line.want, line.refs, line.source);
    let _ = writeln!(s, "| {state} | {call} | {want} | {marks} | {refs} | {source} |");
}
