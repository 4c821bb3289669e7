#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use proptest::prelude::*;
use xen_ioreq::abi::ioreq::{Bits, SLOT_BITS_OFFSET, ioreq};
use zerocopy::IntoBytes;

use super::*;
use crate::testing::{Pages, Sent};

const STATE_NONE: u8 = abi::STATE_IOREQ_NONE;
const READY: u8 = abi::STATE_IOREQ_READY;
const INPROCESS: u8 = abi::STATE_IOREQ_INPROCESS;
const DONE: u8 = abi::STATE_IORESP_READY;

struct Rig {
    pages: Pages,
    slots: Arc<Slots>,
    sent: Arc<Sent>,
}

fn rig(vcpus: &[u32]) -> Rig {
    let pages = Pages::new(2);
    let sent = Arc::new(Sent::default());
    let vcpus = vcpus.iter().map(|v| VcpuPort { vcpu: VcpuId(*v), port: Port(100 + v) }).collect();
    let slots = Arc::new(Slots::new(pages.mapping(), vcpus, sent.clone()));
    Rig { pages, slots, sent }
}

impl Rig {
    fn request(&self, vcpu: usize, request: &ioreq) {
        self.pages.write(vcpu * 32, request.as_bytes());
    }

    fn state(&self, vcpu: usize) -> u8 {
        Bits::unpack(self.pages.read::<1>(vcpu * 32 + SLOT_BITS_OFFSET)[0]).state
    }

    fn data(&self, vcpu: usize) -> u64 {
        self.pages.u64(vcpu * 32 + 8)
    }

    fn sent(&self) -> Vec<u32> {
        self.sent.0.lock().iter().map(|p| p.0).collect()
    }
}

fn ready(data: u64) -> ioreq {
    let bits = Bits { state: READY, read: true, ..Bits::default() };
    ioreq { addr: 0x3f8, data, count: 1, size: 4, bits: bits.pack(), ..ioreq::default() }
}

#[test]
fn request_is_taken_once_and_answered() {
    let rig = rig(&[0, 1]);
    rig.request(1, &ready(0x55));
    assert!(rig.slots.take(0).is_none());
    let taken = rig.slots.take(1).unwrap();
    assert_eq!((taken.request().addr, taken.request().data, taken.vcpu()), (0x3f8, 0x55, VcpuId(1)));
    assert_eq!(rig.state(1), INPROCESS);
    assert!(rig.slots.take(1).is_none());
    taken.answer(0x1234);
    assert_eq!((rig.state(1), rig.data(1), rig.sent()), (DONE, 0x1234, vec![101]));
}

#[test]
fn dropped_request_reads_all_ones() {
    let rig = rig(&[0]);
    rig.request(0, &ready(0));
    drop(rig.slots.take(0));
    assert_eq!((rig.state(0), rig.data(0), rig.sent()), (DONE, u64::MAX, vec![100]));
}

#[test]
fn parked_request_is_answered_from_another_thread() {
    let rig = rig(&[0]);
    rig.request(0, &ready(0));
    let parked = rig.slots.take(0).unwrap().park();
    assert_eq!((rig.state(0), rig.sent()), (INPROCESS, vec![]));
    std::thread::spawn(move || parked.answer(9)).join().unwrap();
    assert_eq!((rig.state(0), rig.data(0), rig.sent()), (DONE, 9, vec![100]));
}

#[test]
fn dropped_parked_request_reads_all_ones() {
    let rig = rig(&[0]);
    rig.request(0, &ready(0));
    drop(rig.slots.take(0).unwrap().park());
    assert_eq!((rig.state(0), rig.data(0), rig.sent()), (DONE, u64::MAX, vec![100]));
}

#[test]
fn close_answers_who_waits_and_makes_parked_requests_harmless() {
    let rig = rig(&[0, 1, 2]);
    rig.request(0, &ready(0));
    rig.request(1, &ready(0));
    let parked = rig.slots.take(0).unwrap().park();
    rig.slots.close();
    assert_eq!([rig.state(0), rig.state(1), rig.state(2)], [DONE, DONE, STATE_NONE]);
    assert_eq!(rig.sent(), [100, 101]);
    // The slot belongs to somebody else by now.
    rig.request(0, &ready(77));
    parked.answer(1);
    assert_eq!((rig.state(0), rig.data(0), rig.sent()), (READY, 77, vec![100, 101]));
}

#[test]
fn slot_128_is_the_first_of_the_second_page() {
    let rig = rig(&[127, 128, 200]);
    rig.request(128, &ready(5));
    assert!(rig.slots.take(0).is_none());
    rig.slots.take(1).unwrap().answer(6);
    assert_eq!(rig.data(128), 6);
    assert!(rig.slots.take(2).is_none());
    assert!(rig.slots.take(3).is_none());
}

#[test]
fn ports_of_existing_vcpus_are_found_on_all_pages() {
    let pages = Pages::new(2);
    for (vcpu, port) in [(0usize, 7u32), (3, 8), (130, 9)] {
        pages.write(vcpu * 32 + 24, &port.to_le_bytes());
    }
    let found = remote_ports(&pages.mapping());
    assert_eq!(found, [(VcpuId(0), Port(7)), (VcpuId(3), Port(8)), (VcpuId(130), Port(9))]);
}

proptest! {
    /// Whatever is in the slot: it is taken exactly when READY, the copy is what was there, only state and data change.
    #[test]
    fn any_bytes_follow_the_state_machine(bytes: [u8; 32], answer: Option<u64>) {
        let rig = rig(&[0]);
        rig.pages.write(0, &bytes);
        let is_ready = bytes[30] & 0xf == 1;
        match rig.slots.take(0) {
            None => {
                prop_assert!(!is_ready);
                prop_assert_eq!(rig.pages.read::<32>(0), bytes);
                prop_assert_eq!(rig.sent().len(), 0);
            }
            Some(taken) => {
                prop_assert!(is_ready);
                let copy = *taken.request();
                prop_assert_eq!(&copy.as_bytes()[..24], &bytes[..24]);
                prop_assert_eq!((copy.bits, copy.r#type), (bytes[30], bytes[31]));
                match answer {
                    Some(data) => taken.answer(data),
                    None => drop(taken),
                }
                let mut want = bytes;
                want[8..16].copy_from_slice(&answer.unwrap_or(u64::MAX).to_le_bytes());
                want[30] = bytes[30] & 0x70 | 3;
                prop_assert_eq!(rig.pages.read::<32>(0), want);
                prop_assert_eq!(rig.sent(), vec![100]);
            }
        }
    }
}
