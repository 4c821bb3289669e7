//! The I/O APIC of an HVM guest: 48 pins, of which each has a redirection entry (Xen's `vioapic.c`).

use std::ops::Range;

use super::{InterruptLines, Message};

/// Where it is.
pub(super) const BYTES: Range<u64> = 0xfec0_0000..0xfec0_0100;
/// Its pins: as many global interrupts as there are.
pub(super) const PINS: u8 = 48;

/// Offset of the register that chooses one of those behind [`WINDOW`].
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const ID: u32 = 0;
const VERSION: u32 = 1;
const ARBITRATION: u32 = 2;
/// First of two registers for each pin, the lower half first.
const ENTRIES: u32 = 0x10;
/// Version 0x11, and above it the number of the last pin.
const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;
/// Where an entry has the destination's APIC, and a register the number of this one.
const DESTINATION: u32 = 56;
const NUMBER: u32 = 24;

const DELIVERY: u64 = 7 << 8;
const LOWEST_PRIORITY: u64 = 1 << 8;
const EXTINT: u64 = 7 << 8;
const LOGICAL: u64 = 1 << 11;
const STATUS: u64 = 1 << 12;
/// A level-triggered interrupt was sent and has not ended.
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;

/// The controller.
#[derive(Debug)]
pub(super) struct IoApic {
    select: u32,
    number: u32,
    pins: [u64; PINS as usize],
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, number: 0, pins: [MASKED; PINS as usize] }
    }
}

fn message(entry: u64) -> Option<Message> {
    let mode = entry & DELIVERY;
    let [vector, ..] = entry.to_le_bytes();
    let [.., destination] = entry.to_le_bytes();
    // Other modes, and destinations that are sets of APICs, are not modelled.
    (mode <= LOWEST_PRIORITY && entry & LOGICAL == 0).then_some(Message {
        vector,
        destination,
        lowest_priority: mode == LOWEST_PRIORITY,
        level: entry & LEVEL != 0,
    })
}

/// Sends a level-triggered interrupt whose line is up, unless one is on its way.
fn offer(entry: &mut u64) -> Option<Message> {
    if *entry & (MASKED | REMOTE_IRR) != 0 {
        return None;
    }
    *entry |= REMOTE_IRR;
    message(*entry)
}

impl IoApic {
    /// Pin and whether it is the entry's upper half.
    fn chosen(&self) -> Option<(usize, bool)> {
        let at = self.select.checked_sub(ENTRIES)?;
        let pin = usize::try_from(at / 2).ok().filter(|p| *p < self.pins.len())?;
        Some((pin, at % 2 == 1))
    }

    /// Reads the register at that offset.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match (offset, self.select) {
            (SELECT, _) => self.select,
            (WINDOW, VERSION) => VERSION_VALUE,
            (WINDOW, ID | ARBITRATION) => self.number << NUMBER,
            (WINDOW, _) => self.chosen().map_or(0, |(pin, upper)| {
                let [a, b, c, d, e, f, g, h] = self.pins.get(pin).copied().unwrap_or(0).to_le_bytes();
                u32::from_le_bytes(if upper { [e, f, g, h] } else { [a, b, c, d] })
            }),
            _ => 0,
        }
    }

    /// Writes it; the interrupt that this sets free.
    pub(super) fn write(&mut self, offset: u64, value: u32, lines: &InterruptLines) -> Option<Message> {
        match (offset, self.select) {
            (SELECT, _) => self.select = value,
            (WINDOW, ID) => self.number = value >> NUMBER & 0xf,
            (WINDOW, _) => {
                let (pin, upper) = self.chosen()?;
                let entry = self.pins.get_mut(pin)?;
                let value = u64::from(value);
                if upper {
                    *entry = *entry & 0xffff_ffff | value << 32;
                } else {
                    let kept = *entry & (0xffff_ffff << 32 | REMOTE_IRR);
                    *entry = kept | value & !(STATUS | REMOTE_IRR);
                }
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                } else if lines.asserted(u32::try_from(pin).ok()?) {
                    return offer(entry);
                }
            }
            _ => {}
        }
        None
    }

    /// A line has gone up.
    pub(super) fn rise(&mut self, pin: u8) -> Option<Message> {
        let entry = self.pins.get_mut(usize::from(pin))?;
        if *entry & LEVEL != 0 {
            return offer(entry);
        }
        // An edge that is masked is forgotten.
        if *entry & MASKED == 0 { message(*entry) } else { None }
    }

    /// An interrupt of that vector has ended: where its line is still up it comes again.
    pub(super) fn end(&mut self, vector: u8, lines: &InterruptLines) -> Vec<Message> {
        let mut sent = Vec::new();
        for (gsi, entry) in (0..).zip(&mut self.pins) {
            let [this, ..] = entry.to_le_bytes();
            if this == vector {
                *entry &= !REMOTE_IRR;
                if *entry & LEVEL != 0 && lines.asserted(gsi) {
                    sent.extend(offer(entry));
                }
            }
        }
        sent
    }

    /// Whether pin 0 hands what the 8259s have to the APIC of that number.
    pub(super) fn passes_legacy_to(&self, apic: u32) -> bool {
        let [entry, ..] = self.pins;
        entry & (DELIVERY | MASKED) == EXTINT && entry >> DESTINATION == u64::from(apic)
    }
}
