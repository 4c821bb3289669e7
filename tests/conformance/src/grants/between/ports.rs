//! The ports at which a guest asks for errands and answers them; a device, for whoever serves the guest.

use std::sync::{Mutex, MutexGuard, PoisonError};

use guest::grants::{ASK, ERRAND, Errand, NEXT, RESULT, WORDS};
use guest::rows::PORT;
use ioreq_server::{Access, Device, IoError, Outcome, PioDevice};

/// The ports.
#[derive(Default)]
pub(super) struct Ports(Mutex<Letter>);

/// An errand, how much of it the guest has, and its answer so far.
#[derive(Default)]
struct Letter {
    errand: Option<[u32; WORDS]>,
    asked: usize,
    answer: Vec<u32>,
}

impl Ports {
    /// Has an errand for the guest, and forgets what it had before.
    pub(super) fn put(&self, errand: &Errand) {
        *self.letter() = Letter { errand: Some(errand.words()), ..Letter::default() };
    }

    fn letter(&self) -> MutexGuard<'_, Letter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of it the guest has asked and answered.
    pub(super) fn steps(&self) -> usize {
        let letter = self.letter();
        letter.asked + letter.answer.len()
    }

    /// The answer, once it is there.
    pub(super) fn answer(&self) -> Option<u64> {
        match *self.letter().answer {
            [low, high] => Some(u64::from(low) | u64::from(high) << 32),
            _ => None,
        }
    }
}

impl PioDevice for Ports {
    fn pio_read(&self, a: &Access) -> Outcome<u64> {
        let mut letter = self.letter();
        match a.offset {
            o if o == u64::from(NEXT - PORT) => {
                let waits = letter.errand.is_some() && letter.asked == 0;
                Outcome::Ok(if waits { ERRAND.into() } else { 0 })
            }
            o if o == u64::from(ASK - PORT) => {
                let word = letter.errand.and_then(|e| e.get(letter.asked).copied());
                letter.asked += 1;
                word.map_or(Outcome::Err(IoError::NoRegister), |w| Outcome::Ok(w.into()))
            }
            _ => Outcome::Err(IoError::NoRegister),
        }
    }

    fn pio_write(&self, a: &Access, value: u64) -> Outcome<()> {
        let mut letter = self.letter();
        if a.offset != u64::from(RESULT - PORT) || letter.errand.is_none() || letter.answer.len() >= 2 {
            return Outcome::Err(IoError::NoRegister);
        }
        letter.answer.push(u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX));
        Outcome::Ok(())
    }
}

impl Device for Ports {
    fn name(&self) -> &'static str {
        "the errands' ports"
    }

    fn supports_pio(&self) -> Option<&dyn PioDevice> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use guest::grants::PORTS;
    use ioreq_server::device::{Region, Width};

    use super::*;

    fn at(port: u16) -> Access {
        Access { region: Region(0), offset: u64::from(port - PORT), width: Width::Dword, vcpu: None }
    }

    fn read(ports: &Ports, port: u16) -> Option<u64> {
        match ports.pio_read(&at(port)) {
            Outcome::Ok(value) => Some(value),
            _ => None,
        }
    }

    #[test]
    fn an_errand_is_told_once_and_its_answer_taken_once() {
        let ports = Ports::default();
        assert_eq!((read(&ports, NEXT), read(&ports, ASK)), (Some(0), None), "nothing to do");
        ports.put(&Errand::Ram);
        assert_eq!(read(&ports, NEXT), Some(ERRAND.into()));
        let words: Vec<_> = (0..WORDS).map_while(|_| read(&ports, ASK)).collect();
        assert_eq!(words, Errand::Ram.words().map(u64::from));
        assert_eq!((read(&ports, NEXT), read(&ports, ASK)), (Some(0), None), "no more of it");
        assert_eq!(ports.answer(), None);
        assert!(matches!(ports.pio_write(&at(RESULT), 0x1_0000_0005), Outcome::Ok(())));
        assert_eq!(ports.answer(), None, "half of an answer is none");
        assert!(matches!(ports.pio_write(&at(RESULT), 7), Outcome::Ok(())));
        assert!(matches!(ports.pio_write(&at(RESULT), 9), Outcome::Err(_)), "a third word is none");
        assert_eq!(ports.answer(), Some(7 << 32 | 5));
        ports.put(&Errand::Ram);
        assert_eq!(ports.answer(), None, "the next one has an answer of its own");
    }

    #[test]
    fn what_a_guest_says_unasked_or_elsewhere_is_not_heard() {
        let ports = Ports::default();
        assert!(matches!(ports.pio_write(&at(RESULT), 1), Outcome::Err(_)));
        ports.put(&Errand::Ram);
        for port in [NEXT, ASK, PORT + PORTS - 1] {
            assert!(matches!(ports.pio_write(&at(port), 1), Outcome::Err(_)));
        }
        assert_eq!((ports.answer(), read(&ports, RESULT)), (None, None));
    }
}
