//! Holds every table of `xen_ioreq::abi` to Xen's own C headers.
//!
//! A C program is made from the tables, compiled against Debian's libxen-dev and run; what it prints is compared
//! entry by entry. Extensions that stock headers lack are compared with `extensions.h`, which declares them in C.

mod cases;
mod complete;
mod probe;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use xen_ioreq::abi::{self, Const, StructLayout};

use crate::Row;
pub use cases::Case;
pub use complete::Family;
pub use probe::{Answer, ProbeError};

/// What is to be compared. [`Tables::of_rust`] is the real thing; tests tamper with a copy.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Layouts.
    pub structs: Vec<StructLayout>,
    /// Constants.
    pub consts: Vec<Const>,
    /// Bit fields and macros with arguments.
    pub cases: Vec<Case>,
    /// Families of C names of which none may be missing in `structs` and `consts`.
    pub families: Vec<Family>,
}

impl Tables {
    /// All that `xen_ioreq::abi` declares.
    pub fn of_rust() -> Self {
        Self {
            structs: abi::STRUCTS.iter().copied().flatten().copied().collect(),
            consts: abi::CONSTS.iter().copied().flatten().copied().collect(),
            cases: cases::all(),
            families: complete::FAMILIES.to_vec(),
        }
    }

    fn headers(&self) -> BTreeSet<&'static str> {
        let structs = self.structs.iter().map(|s| s.header);
        structs.chain(self.consts.iter().map(|c| c.header)).filter(|h| !h.is_empty()).collect()
    }
}

/// Compares the Rust side with the C headers: one row a struct, a constant, a case, a family.
pub fn rows() -> Result<Vec<Row>, ProbeError> {
    rows_of(&Tables::of_rust())
}

/// Compares `tables` with the C headers.
pub fn rows_of(tables: &Tables) -> Result<Vec<Row>, ProbeError> {
    // One question is one C expression; the answers come back in the same order.
    let mut questions = Vec::new();
    for s in &tables.structs {
        questions.push(format!("sizeof({})", s.c_name));
        for f in s.fields.iter().filter(|f| !f.c_name.is_empty()) {
            questions.push(format!("offsetof({}, {})", s.c_name, f.c_name));
            questions.push(format!("sizeof((({} *)0)->{})", s.c_name, f.c_name));
        }
    }
    questions.extend(tables.consts.iter().map(|c| c.c_expr.to_owned()));
    questions.extend(tables.cases.iter().map(|c| c.c_expr.clone()));

    let answers = probe::ask(&tables.headers(), &questions)?;
    let mut next = answers.iter();
    let mut rows = Vec::new();
    for s in &tables.structs {
        rows.push(struct_row(s, &mut next));
    }
    for c in &tables.consts {
        rows.push(value_row(c.c_expr, c.name, c.value, next.next()));
    }
    for c in &tables.cases {
        rows.push(value_row(&c.name, &c.name, c.expected, next.next()));
    }
    for family in &tables.families {
        rows.push(complete::row(family, tables)?);
    }
    Ok(rows)
}

fn struct_row<'a>(s: &StructLayout, answers: &mut impl Iterator<Item = &'a Answer>) -> Row {
    let mut wrong = String::new();
    let mut check = |what: &str, rust: usize, c: Option<&Answer>| match c {
        Some(Ok(v)) if usize::try_from(*v) == Ok(rust) => {}
        Some(Ok(v)) => drop(write!(wrong, "; {what} is {rust}, in C {v}")),
        Some(Err(e)) => drop(write!(wrong, "; {what}: {e}")),
        None => drop(write!(wrong, "; {what}: no answer")),
    };
    check("size", s.size, answers.next());
    let mut fields = 0;
    for f in s.fields.iter().filter(|f| !f.c_name.is_empty()) {
        check(&format!("offset of {}", f.c_name), f.offset, answers.next());
        check(&format!("size of {}", f.c_name), f.size, answers.next());
        fields += 1;
    }
    let ok = wrong.is_empty();
    let detail = if ok {
        format!("{} bytes, {fields} fields", s.size)
    } else {
        wrong.trim_start_matches("; ").to_owned()
    };
    let name =
        if s.c_name.ends_with(s.name) { s.c_name.to_owned() } else { format!("{} ({})", s.c_name, s.name) };
    Row { name, ok, detail }
}

fn value_row(c_expr: &str, name: &str, rust: u64, c: Option<&Answer>) -> Row {
    let (ok, detail) = match c {
        Some(Ok(v)) if *v == rust => (true, format!("{rust:#x}")),
        Some(Ok(v)) => (false, format!("is {rust:#x}, in C {v:#x}")),
        Some(Err(e)) => (false, e.clone()),
        None => (false, "no answer".to_owned()),
    };
    let name = if c_expr == name { name.to_owned() } else { format!("{name} = {c_expr}") };
    Row { name, ok, detail }
}
