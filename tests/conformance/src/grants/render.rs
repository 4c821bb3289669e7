//! The sheets as a document. What it says is what the rows check: both come from the same tables.

use std::fmt::Write;

use xen_ioreq::abi::grant_table::{GTF_reading, GTF_writing};

use guest::grants::sheet::{By, Line, Parties, Sheet};

use super::{between, dom0, pages, pair, sheets};
use crate::case::{Case, show};

const HEAD: &str = "\
# Grant tables, as the model and Xen answer

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
| read | what the first byte of a page is: 0x30 and the number of the frame of that place at first; 0xff where nothing is |
| marks | `GTF_reading` (r) and `GTF_writing` (w), set by the hypervisor in entry 9 after the call |
| references | of the granter's frame 3 after the call, its allocation's included |

A table has at most 2 frames here and a domain 256 handles. `D` in the last column: seen in Xen's sources. Lines marked *stock*
are what released Xen answers as well, *draft* what only a hypervisor with revokable grants does, or where the model's devices
differ from Xen's: each mapping for devices has a bus frame of its own.

The last column says where the answer was seen: on the model, and by `xen-rig grant-rows` on Debian's Xen 4.17, where dom0 asks,
a PVH guest with a kernel of its own performs the lines of a translated domain that grants to itself, with the same limits, and two of
them and dom0 grant to each other.
Not on Xen: (1) no released one has it; (2) it takes two PV domains with kernels of their own, and dom0's keeps its page tables
and its table to itself; (3) the granter's entries would be those of dom0's kernel.

## What differs from Xen

- A PV domain of the model has no page tables: `GNTMAP_contains_pte` is refused, and `host_addr` is a page of a range that the
  domain has reserved. `unmap_grant_ref` insists on the address that was mapped; Xen looks only at what is mapped there.
- `GNTMAP_host_map` alone lets no device in. Xen enters such mappings of a PV domain into its IOMMU table, too.
- The first frame of a table is there from the first call that asks for one, as zeros before.
- Of the types of pages of a PV domain there is what grants notice: a page table is read by whom it is granted to, and never written
  by a grant. What else Xen knows (segment descriptors, pages that the domain itself may write) makes no difference to one.
- After `unmap_grant_ref` of a writable mapping at the place of a read-only one, a translated domain can still write at the
  place that is left, in the model as in Xen.
- Not modelled, since nothing here can lead to it: -11 (`address_too_big`), -8 by a security policy, I/O memory.
";

const BETWEEN: &str = "\
Here every domain does its part itself: dom0's kernel grants by gntalloc and maps by gntdev, the guests write their entries, map and
copy by hypercalls. A status is shown without its sign, a byte as it is read, marks and flags as they stand in the entry or the status
word, of many at once how many have the one status that is not that of the others. The guest that grants is the first one unless the row
says otherwise; it has 2 frames of a table and 256 handles, the second one what Xen gives by default. Of a thousand in one
hypercall the model interrupts it after every third.
";

const PAGES: &str = "\
dom0 writes the entries of a PV guest that has never run, whose page tables the domain builder has made, copies by hypercall and maps
by gntdev.
";

/// The whole document.
pub fn document() -> String {
    let mut s = HEAD.to_owned();
    let mut section = "";
    asked_by_dom0(&mut s);
    for sheet in sheets() {
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
    s.push_str(
        "| state | call | status | marks | references | source | seen |\n|---|---|---|---|---|---|---|\n",
    );
    for line in sheet.lines {
        row(s, line, seen(sheet));
    }
}

/// Where the answers of a sheet have been seen, and why not on Xen.
fn seen(sheet: &Sheet) -> &'static str {
    match (sheet.parties, sheet.by) {
        (Parties::Alone, By::All | By::Stock) => "model, Xen",
        (_, By::Draft) => "model (1)",
        (Parties::Pv | Parties::Untranslated, _) => "model (2)",
        (Parties::Translated, _) => "model (3)",
    }
}

fn asked_by_dom0(s: &mut String) {
    s.push_str("\n## What dom0 may ask through its kernel\n\n");
    s.push_str(
        "A status is shown without its sign.\n\n| row | answer | source | seen |\n|---|---|---|---|\n",
    );
    cases(s, dom0::ROWS);
    s.push_str("\n## Between dom0 and a guest that grants\n\n");
    s.push_str("dom0 writes the guest's entries, copies by hypercall and maps by gntdev, whose answer is no status. What is read is\n");
    s.push_str(
        "a flags word or the first byte of a page.\n\n| row | answer | source | seen |\n|---|---|---|---|\n",
    );
    cases(s, pair::ROWS);
    s.push_str("\n## Between dom0 and two guests\n\n");
    s.push_str(BETWEEN);
    for (title, table) in between::TABLES {
        let _ = write!(s, "\n### {title}\n\n| row | answer | source | seen |\n|---|---|---|---|\n");
        cases(s, table);
    }
    s.push_str("\n## What a PV guest's pages are\n\n");
    s.push_str(PAGES);
    s.push_str("\n| row | answer | source | seen |\n|---|---|---|---|\n");
    cases(s, pages::ROWS);
}

fn cases<S>(s: &mut String, cases: &[Case<S>]) {
    for case in cases {
        let _ = writeln!(s, "| {} | {} | {} | model, Xen |", case.name, show(case.want), case.source);
    }
}

fn row(s: &mut String, line: &Line, seen: &str) {
    let state = line.state.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let mark = |bit, name| if line.marks & bit != 0 { name } else { "" };
    let marks = format!("{}{}", mark(GTF_reading, "r"), mark(GTF_writing, "w"));
    let (call, want, refs, source) = (line.call, line.want, line.refs, line.source);
    let _ = writeln!(s, "| {state} | {call} | {want} | {marks} | {refs} | {source} | {seen} |");
}
