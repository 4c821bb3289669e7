//! The interfaces as tables of rows.

fn main() {}
