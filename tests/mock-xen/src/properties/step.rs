//! What can happen next, drawn at random without a look at what there is: names are resolved when a step is taken.

use fastrand::Rng;

/// Guest frame numbers that are used, from 0 on.
pub(super) const GFNS: u64 = 12;
/// Pages that a guest may have at first.
pub(super) const MAX_PAGES: u64 = 24;
/// Bus frame numbers that are used, and how many.
pub(super) const WINDOW: (u64, u64) = (0x10, 16);
/// Emulators: two of dom0's for the first guest, one for the second, and the stub domain's.
pub(super) const ACTORS: u8 = 4;

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Iommu {
        who: u8,
        ops: Vec<Op>,
        end: End,
    },
    Memory {
        guest: u8,
        vcpu: Option<u8>,
        what: Memory,
        gfns: Vec<u64>,
        order: u32,
        hindrance: Hindrance,
    },
    Touch {
        guest: u8,
        vcpu: u8,
        gfn: u64,
        write: bool,
    },
    GuestCall {
        guest: u8,
    },
    HostMap {
        who: u8,
        guest: u8,
        gfns: Vec<u64>,
        write: bool,
    },
    HostEnd(u8),
    Own {
        who: u8,
        count: u8,
    },
    OwnEnd(u8),
    Dma {
        who: u8,
        at: At,
        write: bool,
    },
    SetMax {
        guest: u8,
        max: u64,
    },
    /// The end of a server, or one in this mode where there is none.
    Server {
        who: u8,
        mode: Option<u8>,
    },
    Enable {
        who: u8,
        on: bool,
    },
    Kill {
        who: u8,
    },
    GuestDies {
        guest: u8,
    },
    StubDies {
        target: u8,
        device: bool,
    },
}

/// One operation of an `iommu_op`.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Map { at: At, to: To, flags: u16 },
    Lookup { to: To, flags: u16 },
    Unmap { at: At, server: u8, flags: u16 },
    MapPage { at: At, own: u8, flags: u16 },
    UnmapPage { at: At, flags: u16 },
    Caps { flags: u16 },
    Unknown { subop: u16, flags: u16 },
}

/// A bus frame.
#[derive(Clone, Debug)]
pub(super) enum At {
    Window(u64),
    /// One that is mapped, or was looked up.
    Known(u8),
    /// The machine frame of a guest's page, where all RAM is mapped.
    Same {
        guest: u8,
        gfn: u64,
    },
    /// What the firmware uses, of dom0's device and of the stub domain's.
    Reserved(u64),
    Beyond,
}

/// A guest's frame, and on behalf of which server.
#[derive(Clone, Debug)]
pub(super) struct To {
    pub(super) whose: u8,
    pub(super) gfn: u64,
    pub(super) server: u8,
}

/// How a call ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Plain,
    /// The first flush is late.
    Late,
    /// This operation fails.
    Fails(u64),
    /// The process is killed after so many operations.
    Killed(u64),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Memory {
    Decrease,
    Populate,
    Remove,
    Share,
}

/// Why a notice does not go by the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hindrance {
    Nothing,
    Full,
    Fault,
}

fn one_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(0..n) == 0
}

fn order(rng: &mut Rng) -> u32 {
    if one_in(rng, 4) { rng.u32(1..=2) } else { 0 }
}

fn with_order(rng: &mut Rng, flags: u16, order: u32) -> u16 {
    // Now and then one that no unit takes.
    let order = if one_in(rng, 60) { rng.u32(3..64) } else { order };
    flags | u16::try_from(order << 10).unwrap()
}

/// A number below `n` that is a multiple of the order's frames, mostly.
fn number(rng: &mut Rng, n: u64, order: u32) -> u64 {
    let number = rng.u64(0..n);
    if one_in(rng, 20) { number } else { number & !((1 << order) - 1) }
}

fn at(rng: &mut Rng, order: u32) -> At {
    match rng.u32(0..40) {
        0..=17 => At::Window(number(rng, WINDOW.1, order)),
        18..=31 => At::Known(rng.u8(..)),
        32..=37 => At::Same { guest: rng.u8(0..2), gfn: number(rng, GFNS, order) },
        38 => At::Reserved(rng.u64(0..2)),
        _ => At::Beyond,
    }
}

fn to(rng: &mut Rng, order: u32) -> To {
    let odd = |rng: &mut Rng| if one_in(rng, 12) { rng.u8(1..8) } else { 0 };
    To { whose: odd(rng), gfn: number(rng, GFNS + 1, order), server: odd(rng) }
}

fn op(rng: &mut Rng) -> Op {
    let order = order(rng);
    let access = if one_in(rng, 4) { rng.u16(0..4) } else { 3 };
    let swap = if one_in(rng, 3) { 4 } else { 0 };
    let flags = with_order(rng, 0, order);
    match rng.u32(0..100) {
        0..=33 => Op::Map { at: at(rng, order), to: to(rng, order), flags: flags | access | swap },
        34..=54 => Op::Lookup { to: to(rng, order), flags },
        55..=79 => {
            // What is mapped is found by its number as often as by chance.
            let at = if rng.bool() { At::Known(rng.u8(..)) } else { at(rng, order) };
            Op::Unmap { at, server: if one_in(rng, 8) { rng.u8(..) } else { 0 }, flags }
        }
        80..=87 => {
            let swap = if one_in(rng, 20) { 4 } else { 0 };
            Op::MapPage { at: at(rng, order), own: rng.u8(..), flags: flags | access | swap }
        }
        88..=95 => Op::UnmapPage { at: at(rng, order), flags },
        96..=97 => Op::Caps { flags },
        _ => Op::Unknown { subop: if rng.bool() { 0 } else { rng.u16(7..) }, flags },
    }
}

fn iommu(rng: &mut Rng) -> Step {
    let count = if one_in(rng, 3) { rng.u64(2..10) } else { 1 };
    let end = match rng.u32(0..200) {
        0..=3 => End::Late,
        4..=6 => End::Fails(rng.u64(0..count)),
        7 => End::Killed(rng.u64(0..=count)),
        _ => End::Plain,
    };
    Step::Iommu { who: rng.u8(0..ACTORS), ops: (0..count).map(|_| op(rng)).collect(), end }
}

fn memory(rng: &mut Rng, tight: bool) -> Step {
    let what = match rng.u32(0..40) {
        0..=15 => Memory::Decrease,
        16..=37 => Memory::Populate,
        38 => Memory::Remove,
        _ => Memory::Share,
    };
    let order = if tight { 0 } else { order(rng) };
    let count = if one_in(rng, 4) { rng.usize(2..8) } else { 1 };
    let mut gfns: Vec<u64> = (0..count).map(|_| rng.u64(0..GFNS) & !((1 << order) - 1)).collect();
    gfns.sort_unstable();
    gfns.dedup();
    rng.shuffle(&mut gfns);
    let hindrance = match rng.u32(0..20) {
        0 => Hindrance::Full,
        1 => Hindrance::Fault,
        _ => Hindrance::Nothing,
    };
    let vcpu = if one_in(rng, 3) { None } else { Some(rng.u8(0..2)) };
    Step::Memory { guest: rng.u8(0..2), vcpu, what, gfns, order, hindrance }
}

/// The next step. With little memory (`tight`) there may be no frames in a row for a large extent.
pub(super) fn step(rng: &mut Rng, tight: bool) -> Step {
    let (who, guest) = (rng.u8(0..ACTORS), rng.u8(0..2));
    match rng.u32(0..1000) {
        0..=469 => iommu(rng),
        470..=699 => memory(rng, tight),
        700..=759 => Step::Touch { guest, vcpu: rng.u8(0..2), gfn: rng.u64(0..GFNS), write: rng.bool() },
        760..=761 => Step::GuestCall { guest },
        762..=799 => {
            let gfns = (0..rng.usize(1..4)).map(|_| rng.u64(0..GFNS)).collect();
            Step::HostMap {
                who,
                guest: if one_in(rng, 20) { rng.u8(0..8) } else { guest },
                gfns,
                write: rng.bool(),
            }
        }
        800..=839 => Step::HostEnd(rng.u8(..)),
        840..=854 => Step::Own { who, count: rng.u8(1..5) },
        855..=869 => Step::OwnEnd(rng.u8(..)),
        870..=949 => Step::Dma { who, at: at(rng, 0), write: rng.bool() },
        950..=956 => Step::SetMax { guest, max: if rng.bool() { MAX_PAGES } else { rng.u64(0..40) } },
        957..=979 => {
            let mode = if one_in(rng, 4) { 0 } else { rng.u8(1..3) };
            Step::Server { who, mode: (rng.u32(0..5) > 1).then_some(mode) }
        }
        980..=987 => Step::Enable { who, on: !one_in(rng, 3) },
        988..=991 => Step::Kill { who },
        992..=995 => Step::GuestDies { guest },
        _ => Step::StubDies { target: rng.u8(0..2), device: !one_in(rng, 4) },
    }
}
