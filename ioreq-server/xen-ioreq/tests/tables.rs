//! What the tables of `abi` cannot check about themselves: that no struct or constant stands beside them.

use std::fs;
use std::path::Path;

use xen_ioreq::abi::MODULES;

/// Lines of a module that declare a layout or a number outside `abi_structs!` and `abi_consts!`, where the
/// comparison with the C headers would not see it. Inside the macros neither `repr` nor `const` is written.
fn strays(source: &str) -> Vec<String> {
    source
        .lines()
        .map(str::trim)
        .filter(|l| !l.starts_with("//"))
        .filter(|l| {
            let item = l.strip_prefix("pub ").or_else(|| l.split_once(") ").map(|(_, r)| r)).unwrap_or(l);
            let constant =
                (item.starts_with("const ") && !item.starts_with("const fn")) || item.starts_with("static ");
            l.contains("repr(") || constant || l.starts_with("union ") || l.starts_with("pub union ")
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_module_declares_a_layout_or_a_number_outside_the_tables() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/abi");
    let mut files = 0;
    for entry in fs::read_dir(&dir).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("a name").to_owned();
        if stem == "mod" {
            continue;
        }
        assert!(MODULES.contains(&stem.as_str()), "{stem}.rs is not listed in abi_modules!");
        let found = strays(&fs::read_to_string(&path).expect("readable"));
        assert!(found.is_empty(), "{stem}.rs: {found:#?}");
        files += 1;
    }
    assert_eq!(files, MODULES.len());
}

#[test]
fn strays_are_found() {
    for line in [
        "#[repr(C)]",
        "    #[repr(transparent)]",
        "pub const IOREQ_TYPE_NEW: u8 = 9;",
        "const HIDDEN: u32 = 1;",
        "pub(crate) const HALF_HIDDEN: u32 = 1;",
        "static TABLE: [u8; 1] = [0];",
        "pub union u { a: u32 }",
    ] {
        assert_eq!(strays(&format!("//! Head.\n{line}\n")), [line.trim()], "{line}");
    }
    for line in [
        "pub const fn new() -> Self {",
        "// const X: u8 = 1;",
        "    IOREQ_READ: u8 = 1,",
        "/// `const` in a doc",
    ] {
        assert!(strays(line).is_empty(), "{line}");
    }
}
