//! What a guest is to be told: status entries and interrupts, in their order, and which of them may wait for others.
//!
//! An engine that begins, or has come to its end, may be told of late ([`moderation`](super::moderation)), and so may one that was
//! given more of what runs, until it is done with something; all else is told at once, and what was held is told before it. An engine's
//! reset makes what was held of it void, as it makes what comes late.

use std::collections::VecDeque;
use std::time::Instant;

use super::moderation::Moderation;
use super::{State, interrupts};
use crate::gen8::context::{
    CSB_ACTIVE_TO_IDLE, CSB_COMPLETE, CSB_ENTRIES, CSB_IDLE_TO_ACTIVE, CSB_LITE_RESTORE, CSB_PREEMPTED,
};
use crate::gen8::regs::{GT_CONTEXT_SWITCH_INTERRUPT, engine, gt};
use crate::physical::Engine;

/// Status entries of an engine's that are held at most: its buffer has few more places.
const HELD: usize = CSB_ENTRIES as usize - 2;

/// Events that are held at most: a guest whose contexts end without an entry makes as many as it likes.
const MOST: usize = 64;

/// Something that a guest is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A status entry: `CSB_*` bits, the guest's context id.
    Status { status: u32, id: u32 },
    /// `GT_*` bits for the identity registers.
    Raise(u32),
}

/// When it is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Now, after what was held.
    Now,
    /// At this time.
    At(Instant),
    /// When that is told that has been held before.
    WithOthers,
}

/// What is held.
#[derive(Debug, Default)]
pub(super) struct Events {
    moderation: Moderation,
    held: Held,
    /// The time was told at which the held is to be.
    timed: bool,
}

impl Events {
    /// An MSI is sent.
    pub(super) fn sent(&mut self) {
        self.moderation.sent(Instant::now());
    }

    /// The guest lets the next one out.
    pub(super) fn handled(&mut self) {
        self.moderation.handled(Instant::now());
    }

    /// The guest asks for what it is to be told.
    fn asked(&mut self) {
        if !self.held.is_empty() {
            self.moderation.was_useless();
        }
    }

    /// An engine is reset.
    pub(super) fn reset(&mut self, e: Engine) {
        self.moderation.reset(e);
    }
}

/// By engine and epoch.
type Held = VecDeque<(Engine, u64, Event)>;

/// No more entries of an engine's fit, or there is a great deal of other things.
fn crowded(held: &Held, e: Engine) -> bool {
    let of_engine =
        |(of, _, event): &&(Engine, u64, Event)| *of == e && matches!(event, Event::Status { .. });
    held.len() > MOST || held.iter().filter(of_engine).count() > HELD
}

/// An engine was given more of what runs.
fn is_more(event: Event) -> bool {
    matches!(event, Event::Status { status, .. } if status == CSB_LITE_RESTORE | CSB_PREEMPTED)
}

/// How long something may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// An engine goes on with something else, or somebody waits for what it has done.
    None,
    /// It has more of the same, which a driver that has still more to give has to know.
    More,
    /// It has begun, or has nothing more to do.
    Moderate,
}

impl State {
    /// Something happens on an engine that the guest is to be told. It is held until it is [taken](Self::next_event).
    pub(crate) fn happened(&mut self, e: Engine, epoch: u64, event: Event) -> Telling {
        let now = Instant::now();
        let patience = self.patience(e, event);
        let Events { moderation, held, timed } = &mut self.events;
        held.push_back((e, epoch, event));
        match event {
            Event::Status { status, .. } if status & CSB_ACTIVE_TO_IDLE != 0 => moderation.idle(e, now),
            Event::Status { .. } => {}
            Event::Raise(_) => {
                moderation.goes_on(e, now);
                if patience == Patience::None {
                    moderation.awaited(e);
                }
                if held.iter().any(|(of, _, event)| *of == e && is_more(*event)) {
                    return Telling::Now;
                }
            }
        }
        let until = match patience {
            Patience::None => None,
            Patience::More => {
                moderation.appended(e);
                moderation.holds_more(e, now)
            }
            Patience::Moderate => moderation.holds(e, now),
        };
        let Some(until) = until else { return Telling::Now };
        if patience == Patience::More {
            // Who has kept something back does not look by itself.
            held.push_back((e, epoch, Event::Raise(GT_CONTEXT_SWITCH_INTERRUPT)));
        }
        if crowded(held, e) {
            return Telling::Now;
        }
        if std::mem::replace(timed, true) { Telling::WithOthers } else { Telling::At(until) }
    }

    fn patience(&self, e: Engine, event: Event) -> Patience {
        match event {
            Event::Status { status, .. }
                if status & !(CSB_IDLE_TO_ACTIVE | CSB_ACTIVE_TO_IDLE | CSB_COMPLETE) == 0 =>
            {
                Patience::Moderate
            }
            _ if is_more(event) => Patience::More,
            Event::Raise(bits) if !interrupts::awaited(&self.file, e, bits) => Patience::Moderate,
            _ => Patience::None,
        }
    }

    /// An engine is given a submission in which the driver had gathered so many requests.
    pub(crate) fn gathered(&mut self, e: Engine, requests: u32) {
        self.events.moderation.gathered(e, requests, Instant::now());
    }

    /// The guest asks what happens: it is told all that is held next.
    pub(crate) fn is_asked(&mut self) {
        self.events.asked();
    }

    /// Its time has come: a driver that has not been told that its submission was taken keeps what it has besides, and looks when
    /// it is interrupted.
    pub(crate) fn time_has_come(&mut self) {
        self.events.moderation.tried(!self.events.held.is_empty());
        let mut engines: Vec<_> = self.events.held.iter().map(|(e, epoch, _)| (*e, *epoch)).collect();
        engines.dedup();
        for (e, epoch) in engines {
            self.events.held.push_back((e, epoch, Event::Raise(GT_CONTEXT_SWITCH_INTERRUPT)));
        }
    }

    /// Takes the first of what is held.
    pub(crate) fn next_event(&mut self) -> Option<(Engine, u64, Event)> {
        let next = self.events.held.pop_front();
        self.events.timed &= next.is_some();
        next
    }

    /// Whether who accesses the register asks how an engine is doing, is about to reset it, or changes what it is to be told, as a
    /// driver does when somebody begins to wait: then all is told before.
    pub(crate) fn asks(offset: u32) -> bool {
        let of_engine = |rel| {
            matches!(
                rel,
                engine::RING_MI_MODE
                    | engine::RING_RESET_CTL
                    | engine::RING_IMR
                    | engine::RING_EXECLIST_STATUS_LO
                    | engine::RING_EXECLIST_STATUS_HI
            )
        };
        offset & !3 == gt::GDRST || Engine::of_mmio(offset & !3).is_some_and(|(_, rel)| of_engine(rel))
    }
}

#[cfg(test)]
impl State {
    /// As if it had been interrupted just now, and would be busy with that for an hour.
    pub(crate) fn hold_what_may_wait(&mut self) {
        let later = Instant::now() + std::time::Duration::from_secs(3600);
        self.events.moderation = Moderation::of_probed();
        self.events.moderation.sent(later);
        self.events.moderation.handled(later + std::time::Duration::from_millis(1));
    }

    /// As if, besides, the engine worked on something long, and requests came without pause.
    pub(crate) fn hold_more(&mut self, e: Engine) {
        self.hold_what_may_wait();
        self.events.moderation.works_long(e);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gen8::context::CSB_ELEMENT_SWITCH;
    use crate::gen8::regs::{GT_RENDER_USER_INTERRUPT as USER, irq};
    use crate::vgpu::VgpuId;
    use crate::vgpu::slice::{GmRange, Slice};

    /// The blitter's bit.
    const SWITCHED: u32 = GT_CONTEXT_SWITCH_INTERRUPT << 16;
    const SWITCH: Event = Event::Raise(GT_CONTEXT_SWITCH_INTERRUPT);
    const BEGINS: u32 = CSB_IDLE_TO_ACTIVE;
    const ENDS: u32 = CSB_COMPLETE | CSB_ACTIVE_TO_IDLE;
    const MORE: u32 = CSB_LITE_RESTORE | CSB_PREEMPTED;

    /// Interrupts are set up as a stock i915 does: engines' user interrupts are masked until somebody waits.
    fn state() -> State {
        let none = GmRange { base: 0, size: 4096 };
        let mut s = State::new(VgpuId(1), Slice { low: none, high: none, fences: 0 });
        let set_up = [
            (irq::GEN8_GT_IMR0, 0xf6f6_f6f6),
            (irq::GEN8_GT_IER0, 0x0909_0909),
            (irq::GEN8_MASTER_IRQ, 1 << 31),
        ];
        let engines =
            [(0x2_20a8, !(GT_CONTEXT_SWITCH_INTERRUPT << 16)), (0x20a8, !GT_CONTEXT_SWITCH_INTERRUPT)];
        for (offset, value) in set_up.into_iter().chain(engines) {
            s.write(offset, 4, value.into(), &mut |_| {});
        }
        s
    }

    fn status(status: u32) -> Event {
        Event::Status { status, id: 6 }
    }

    fn happened(s: &mut State, event: Event) -> Telling {
        s.happened(Engine::Bcs, s.engines[1].epoch(), event)
    }

    /// Tells all that is held: the entries, and whether an MSI is due.
    fn tell(s: &mut State) -> (Vec<(u32, u32)>, bool) {
        let (mut entries, mut due) = (vec![], false);
        while let Some((e, epoch, event)) = s.next_event() {
            match event {
                Event::Raise(bits) => due |= s.raise(e, epoch, bits),
                Event::Status { status, id } => {
                    entries
                        .extend(s.push_status(e, epoch, status, id).map(|entry| (entry.slot, entry.status)));
                }
            }
        }
        (entries, due)
    }

    #[test]
    fn begin_and_end_wait_for_what_cannot_and_are_told_before_it() {
        let mut s = state();
        assert_eq!(happened(&mut s, status(BEGINS)), Telling::Now, "no interrupt has been handled yet");
        tell(&mut s);
        s.hold_what_may_wait();
        assert!(matches!(happened(&mut s, status(BEGINS)), Telling::At(_)));
        assert_eq!(happened(&mut s, status(ENDS)), Telling::WithOthers);
        assert_eq!(happened(&mut s, Event::Raise(USER | GT_CONTEXT_SWITCH_INTERRUPT)), Telling::WithOthers);
        // The engine's user interrupt is wanted from here on.
        s.write(0x2_20a8, 4, (!((GT_CONTEXT_SWITCH_INTERRUPT | USER) << 16)).into(), &mut |_| {});
        assert_eq!(happened(&mut s, Event::Raise(USER)), Telling::Now);
        // The first place was the one entry that was told at once.
        assert_eq!(tell(&mut s), (vec![(1, BEGINS), (2, ENDS)], true));
        assert_eq!(s.next_event(), None);
    }

    #[test]
    fn an_engine_that_goes_on_is_told_of_at_once() {
        for urgent in [CSB_LITE_RESTORE | CSB_PREEMPTED, CSB_COMPLETE | CSB_ELEMENT_SWITCH, CSB_PREEMPTED] {
            let mut s = state();
            s.hold_what_may_wait();
            assert_eq!(happened(&mut s, status(urgent)), Telling::Now);
        }
    }

    #[test]
    fn what_is_put_behind_work_that_takes_long_waits_for_more_and_interrupts() {
        let mut s = state();
        s.hold_more(Engine::Bcs);
        assert!(matches!(happened(&mut s, status(MORE)), Telling::At(_)));
        s.time_has_come();
        assert_eq!(tell(&mut s), (vec![(0, MORE)], true));
    }

    #[test]
    fn more_that_is_told_with_something_else_interrupts_too() {
        let mut s = state();
        s.hold_more(Engine::Bcs);
        happened(&mut s, status(MORE));
        assert_eq!(s.happened(Engine::Rcs, s.engines[0].epoch(), status(CSB_PREEMPTED)), Telling::Now);
        assert!(tell(&mut s).1);
    }

    #[test]
    fn when_an_engine_is_done_with_something_its_driver_is_told_of_more() {
        let mut s = state();
        s.hold_more(Engine::Bcs);
        assert!(matches!(happened(&mut s, Event::Raise(USER)), Telling::At(_)), "nothing is held of it");
        s.hold_more(Engine::Bcs);
        assert_eq!(happened(&mut s, status(MORE)), Telling::WithOthers);
        assert_eq!(happened(&mut s, Event::Raise(USER)), Telling::Now);
        assert_eq!(tell(&mut s), (vec![(0, MORE)], true));
    }

    #[test]
    fn more_entries_than_the_buffer_has_room_for_are_not_held() {
        let mut s = state();
        s.hold_what_may_wait();
        let telling: Vec<_> = (0..5).map(|_| happened(&mut s, status(BEGINS))).collect();
        assert_eq!(telling.iter().position(|t| *t == Telling::Now), Some(4));
        assert_eq!(tell(&mut s).0.len(), 5);
    }

    #[test]
    fn events_without_an_entry_are_not_held_without_end() {
        let mut s = state();
        s.hold_what_may_wait();
        let telling: Vec<_> = (0..100).map(|_| happened(&mut s, Event::Raise(USER))).collect();
        assert_eq!(telling.iter().position(|t| *t == Telling::Now), Some(MOST));
        tell(&mut s);
        assert_ne!(happened(&mut s, Event::Raise(USER)), Telling::Now);
    }

    #[test]
    fn a_begin_that_nothing_followed_interrupts_when_its_time_has_come() {
        let mut s = state();
        s.hold_what_may_wait();
        happened(&mut s, status(BEGINS));
        s.time_has_come();
        assert_eq!(tell(&mut s), (vec![(0, BEGINS)], true));
        s.time_has_come();
        assert_eq!(tell(&mut s), (vec![], false), "nothing is held");
    }

    #[test]
    fn what_is_held_of_an_engine_that_is_reset_is_void() {
        let mut s = state();
        s.hold_what_may_wait();
        happened(&mut s, status(BEGINS));
        assert!(State::asks(gt::GDRST));
        s.write(gt::GDRST, 4, Engine::Bcs.reset_bit().into(), &mut |_| {});
        assert_eq!(tell(&mut s), (vec![], false));
    }

    proptest! {
        /// Whatever is held, and whenever it is told: the same entries come in the same order as without, and the same bits show.
        #[test]
        fn a_guest_that_is_told_late_is_told_the_same(
            events in prop::collection::vec((0u32..8, any::<bool>()), 0..40),
        ) {
            let (mut late, mut at_once) = (state(), state());
            let (mut entries, mut expected) = (vec![], vec![]);
            for (event, time) in events {
                let event = match event {
                    0 | 1 => status(BEGINS),
                    2 | 3 => status(ENDS),
                    4 => status(MORE),
                    5 => Event::Raise(USER),
                    _ => SWITCH,
                };
                happened(&mut at_once, event);
                expected.extend(tell(&mut at_once).0);
                late.hold_more(Engine::Bcs);
                if happened(&mut late, event) == Telling::Now || time {
                    entries.extend(tell(&mut late).0);
                }
            }
            entries.extend(tell(&mut late).0);
            prop_assert_eq!(entries, expected);
            // What was held of more shows in the switches' bit.
            let shown = |s: &State| {
                (s.file.get(irq::GEN8_GT_IIR0) & !SWITCHED, s.file.engine(Engine::Bcs, engine::RING_CONTEXT_STATUS_PTR))
            };
            prop_assert_eq!(shown(&late), shown(&at_once));
            let switched = |s: &State| s.file.get(irq::GEN8_GT_IIR0) & SWITCHED;
            prop_assert!(switched(&late) >= switched(&at_once));
        }
    }
}
