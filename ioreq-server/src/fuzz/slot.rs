//! Any bytes in a sync slot, one request after another: each does what the naive interpreter says, and is answered.

use xen_ioreq::abi::ioreq::{STATE_IOREQ_READY, ioreq};
use zerocopy::FromBytes;

use super::Input;
use crate::guest::OnError;
use crate::testing::naive::Naive;
use crate::testing::toy::{Mood, rig};

/// Requests of one run.
const REQUESTS: usize = 64;

/// A byte that says how the device answers, then slots of 32 bytes.
pub fn slot(data: &[u8]) {
    let mut input = Input(data);
    let how = input.u8();
    let (mood, patience) = match how % 8 {
        0 => (Mood::DefersAnswered, u64::MAX),
        1 => (Mood::DefersQueued, u64::MAX),
        2 => (Mood::FailsAt(u64::from(how >> 3)), u64::from(how >> 3)),
        _ => (Mood::Prompt, u64::MAX),
    };
    let rig = rig(mood, OnError::AllOnes);
    let mut naive = Naive::of(&rig, patience);
    for n in 0..REQUESTS {
        if input.is_empty() {
            break;
        }
        let Ok(mut request) = ioreq::read_from_bytes(&input.take::<32>()) else { unreachable!("32 bytes") };
        // Xen says that it is there.
        request.bits = request.bits & 0xf0 | STATE_IOREQ_READY;
        // The toy's handler of clocks panics at this one, on purpose.
        if request.data != 666 {
            naive.check(&rig, &request, n % 8 == 0 || input.is_empty());
        }
    }
    naive.check_notices(&rig);
}
