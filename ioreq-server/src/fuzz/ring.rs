//! Any bytes in the buffered ring's page: what is drained is what the naive reader reads, and carrying it out harms
//! nobody.

use xen_ioreq::PAGE_SIZE;
use xen_ioreq::abi::ioreq::Bits;

use super::Input;
use crate::guest::OnError;
use crate::ring::Ring;
use crate::testing::toy::{Mood, rig};
use crate::testing::{Pages, naive};

/// A byte that says in which mode the ring is, then the page, over and over from the beginning if it is short.
pub fn ring(data: &[u8]) {
    let mut input = Input(data);
    let atomic = input.u8() & 1 == 1;
    let pages = Pages::new(1);
    // The pointers, and slots that repeat what is there.
    pages.write(0, &input.take::<8>());
    let rest = input.0;
    if !rest.is_empty() {
        let slots: Vec<u8> = rest.iter().copied().cycle().take(PAGE_SIZE - 8).collect();
        pages.write(8, &slots);
    }
    let before = pages.read::<PAGE_SIZE>(0);
    let (want, good, end) = naive::ring(&before);
    let Some(ring) = Ring::new(pages.mapping(), atomic) else { unreachable!("there is a page") };
    let mut out = Vec::new();
    let result = ring.drain(&mut out);
    let got: Vec<_> =
        out.iter().map(|r| (r.r#type, Bits::unpack(r.bits).read, r.size, r.addr, r.data)).collect();
    assert_eq!(got, want);
    assert_eq!(result.is_ok(), good);
    let after = pages.read::<PAGE_SIZE>(0);
    // Only the read pointer moves, and to where the write pointer was.
    assert_eq!(after[..4], end.to_le_bytes());
    assert_eq!((&after[..4], &after[4..]), (&before[4..8], &before[4..]));
    assert!(out.len() <= 511 && out.iter().all(|r| r.count == 1));

    let rig = rig(Mood::Prompt, OnError::AllOnes);
    out.retain(|r| r.data != 666);
    rig.buffered(&out);
    // Nobody waits for the answer of what is buffered.
    assert!(rig.sent.0.lock().is_empty());
}
