use xen_ioreq::abi::memory::XENMEM_decrease_reservation;

use super::lab::ram;
use super::*;
use crate::bench::model_guest;
use crate::ioreq::stock_machine;
use crate::story::{Fact, Failed};

fn bench() -> Rc<Bench> {
    let machine = stock_machine().expect("a machine");
    let guest = model_guest(&machine, GUEST_FRAMES, 1).expect("a guest");
    Rc::new(Bench::on_model(&machine, guest).expect("a bench"))
}

#[test]
fn a_row_that_sees_less_more_or_something_else_than_it_should_fails() {
    let bench = bench();
    for rows in tables() {
        for row in rows {
            let less = Story { want: &[], ..*row };
            let more = [row.want, &[Fact::Is("and this", 1)]].concat().leak();
            let more = Story { want: more, ..*row };
            let mut other = row.want.to_vec();
            if let Some(Fact::Frames(_, n)) = other.iter_mut().rfind(|f| matches!(f, Fact::Frames(..))) {
                *n += 1;
            } else if let Some(Fact::Is(_, n)) = other.last_mut() {
                *n += 1;
            }
            let other = Story { want: other.leak(), ..*row };
            for wrong in [less, more, other] {
                let judged = lab::run(&wrong, &bench);
                assert!(!judged.ok && judged.detail.contains(", wanted "), "{judged:?}");
            }
        }
    }
}

#[test]
fn a_row_after_which_the_books_do_not_add_up_fails() {
    let row = |tell: fn(&mut Lab) -> Result<(), Failed>| Story { name: "row", source: "", want: &[], tell };
    let cases = [
        (row(|_| Ok(())), None),
        (row(|_| Err("stopped half-way".into())), Some("stopped half-way")),
        // A frame that the toolstack took and nobody knows of.
        (
            row(|l| {
                l.stage.reserve(XENMEM_decrease_reservation, l.stage.guest(), &[ram(9)])?;
                Ok(())
            }),
            Some("at the end: Books"),
        ),
        // A mapping that nobody can release.
        (
            row(|l| {
                std::mem::forget(l.guest.map_one(ram(10))?);
                Ok(())
            }),
            Some("of what drains is held"),
        ),
    ];
    for (row, says) in cases {
        let judged = lab::run(&row, &bench());
        assert_eq!(judged.ok, says.is_none(), "{judged:?}");
        assert!(judged.detail.contains(says.unwrap_or_default()), "{judged:?}");
    }
}
