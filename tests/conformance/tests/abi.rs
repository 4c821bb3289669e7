//! The ABI tables against the C headers, and that the comparison can fail.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use conformance::Row;
use conformance::abi::{Tables, rows, rows_of};
use xen_ioreq::abi::{Const, FieldLayout, StructLayout};

fn failed(rows: &[Row]) -> Vec<&Row> {
    rows.iter().filter(|r| !r.ok).collect()
}

fn find<'a>(rows: &'a [Row], name: &str) -> &'a Row {
    rows.iter().find(|r| r.name == name).unwrap_or_else(|| panic!("no row {name}"))
}

fn tamper(tables: &mut Tables, name: &str, change: impl FnOnce(&mut StructLayout, &mut Vec<FieldLayout>)) {
    let s = tables.structs.iter_mut().find(|s| s.name == name).expect("the struct is in the table");
    let mut fields = s.fields.to_vec();
    change(s, &mut fields);
    s.fields = fields.leak();
}

#[test]
fn every_struct_constant_and_bit_field_agrees_with_the_c_headers() {
    let rows = rows().unwrap_or_else(|e| panic!("{e}"));
    assert!(failed(&rows).is_empty(), "{:#?}", failed(&rows));
    let tables = Tables::of_rust();
    let wanted = tables.structs.len() + tables.consts.len() + tables.cases.len() + tables.families.len();
    assert_eq!(rows.len(), wanted);
}

#[test]
fn each_kind_of_mistake_fails_the_row_of_that_name_and_no_other() {
    let mut t = Tables::of_rust();
    tamper(&mut t, "ioreq", |_, fields| fields[1].offset += 8);
    tamper(&mut t, "xen_dm_op_inject_msi", |_, fields| fields[0].size = 8);
    tamper(&mut t, "xen_memory_reservation", |s, _| s.size = 24);
    tamper(&mut t, "pv_iommu_op", |_, fields| {
        let bfn = fields.iter_mut().find(|f| f.c_name.ends_with("bfn")).expect("a bfn");
        bfn.offset = 16;
    });
    tamper(&mut t, "gnttab_copy", |_, fields| fields[2].c_name = "length");
    for c in &mut t.consts {
        match c.c_expr {
            "IOREQ_TYPE_INVALIDATE" | "IOMMUOP_lookup_foreign_page" | "XEN_ESRCH" => c.value += 1,
            "IOCTL_PRIVCMD_DM_OP" => c.value ^= 1 << 16,
            _ => {}
        }
    }
    t.consts.push(Const { name: "no_such", c_expr: "XEN_DMOP_no_such", header: "xen/hvm/dm_op.h", value: 1 });
    t.consts.retain(|c| c.c_expr != "XEN_DMOP_inject_msi");
    t.structs.retain(|s| s.name != "gnttab_transfer");
    let df = t.cases.iter_mut().find(|c| c.name.contains(".df = 1")).expect("a case for df");
    df.expected ^= 1 << 55;
    let df = df.name.clone();

    let rows = rows_of(&t).unwrap_or_else(|e| panic!("{e}"));
    let wanted = [
        ("struct ioreq", "offset of data is 16, in C 8"),
        ("struct xen_dm_op_inject_msi", "size of data is 8, in C 4"),
        ("struct xen_memory_reservation", "size is 24, in C 32"),
        ("struct pv_iommu_op", "offset of u.map_foreign_page.bfn is 16, in C 8"),
        ("struct gnttab_copy", "no member named 'length'"),
        ("IOREQ_TYPE_INVALIDATE", "is 0x9, in C 0x8"),
        ("IOMMUOP_lookup_foreign_page", "is 0x6, in C 0x5"),
        ("ESRCH = XEN_ESRCH", "is 0x4, in C 0x3"),
        ("IOCTL_PRIVCMD_DM_OP", "in C 0x105005"),
        ("no_such = XEN_DMOP_no_such", "undeclared"),
        ("all XEN_DMOP_* of xen/hvm/dm_op.h", "missing in Rust: XEN_DMOP_inject_msi"),
        ("all struct gnttab_* of xen/grant_table.h", "missing in Rust: struct gnttab_transfer"),
        (df.as_str(), "in C"),
    ];
    for (name, detail) in wanted {
        let row = find(&rows, name);
        assert!(!row.ok && row.detail.contains(detail), "{row:?} should say {detail:?}");
    }
    assert_eq!(failed(&rows).len(), wanted.len(), "{:#?}", failed(&rows));
}

#[test]
fn without_compiler_or_headers_one_line_says_what_to_install() {
    let dir = tempfile::tempdir().expect("a directory");
    let without_headers = dir.path().join("cc");
    std::fs::write(&without_headers, "#!/bin/sh\nexec gcc -nostdinc -isystem / \"$@\"\n").expect("written");
    std::fs::set_permissions(&without_headers, std::fs::Permissions::from_mode(0o755)).expect("executable");
    for cc in [dir.path().join("no-such-compiler"), without_headers] {
        let out =
            Command::new(env!("CARGO_BIN_EXE_conformance")).arg("abi").env("CC", &cc).output().expect("runs");
        let stdout = String::from_utf8_lossy(&out.stdout);
        let mut lines = stdout.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("FAILED abi: "), "{stdout}");
        assert!(first.ends_with("apt-get install gcc libc6-dev libxen-dev"), "{stdout}");
        assert_eq!(lines.next(), Some("0 passed, 1 failed"));
        assert_eq!(out.status.code(), Some(1));
    }
}
